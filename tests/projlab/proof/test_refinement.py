"""The one loop of iterative refinement: when it goes on, when it stops, what it returns."""

import math

import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics.double_double import Pair, add, exact, negative, take
from projlab.proof.refinement import Refined, refine

F64 = torch.float64


def solve(b, gain, **keywords):
    """x = b by corrections that leave `gain` (k,) of the residual b - x each.

    With how many solutions each step went on.
    """
    right, steps = exact(torch.tensor(b, dtype=F64)), []
    left = torch.as_tensor(gain, dtype=F64).unsqueeze(-1)

    def residual(x: Pair, which: Tensor) -> Pair:
        steps.append(len(which))
        return add(take(right, which), negative(x))

    def size(r: Pair) -> Tensor:
        return r.high.abs().amax(-1)

    start = Refined(exact(torch.zeros_like(right.high)), right, size(right))
    refined = refine(
        start,
        correction=lambda r, which: (1 - left[which]) * r,
        residual=residual,
        size=size,
        **keywords,
    )
    return refined, steps


def test_it_goes_on_until_the_residual_is_gone():
    refined, _ = solve([[1 / 3, 2.0], [1e-3, -5.0]], [1e-6, 1e-3])
    # to the square of u, in which a pair is added
    assert torch.all(refined.size <= 4 * 2.0**-106 * torch.tensor([2.0, 5.0]))
    assert torch.equal(refined.solution.high, torch.tensor([[1 / 3, 2.0], [1e-3, -5.0]], dtype=F64))


def test_what_gains_less_than_a_half_is_not_gone_on_with():
    refined, steps = solve([[1.0]], [0.6])
    assert len(steps) == 1
    assert refined.solution.high.item() == 0.0
    assert refined.size.item() == 1.0


def test_nan_gains_nothing():
    refined, steps = solve([[1.0]], [math.nan])
    assert len(steps) == 1
    assert refined.solution.high.item() == 0.0


def test_slow_steps_are_counted():
    refined, steps = solve([[1.0]], [0.49])
    assert len(steps) == tolerance.REFINEMENT_STEPS
    assert refined.size.item() <= 0.5 ** len(steps)


def test_each_keeps_its_best():
    """The second moves away from its solution, while the first goes on."""
    refined, steps = solve([[1.0], [1.0]], [1e-3, 2.0])
    assert len(steps) > 3
    assert steps[0] == 2
    assert set(steps[1:]) == {1}, "the second is left alone"
    assert refined.solution.high.flatten().tolist() == [1.0, 0.0]
    assert refined.size[1] == 1.0


def test_it_stops_where_all_are_good_enough():
    refined, steps = solve([[1.0], [2.0]], [1e-3, 1e-2], enough=lambda best: best.size <= 1e-3)
    assert len(steps) == 2, "the second needs two"
    assert torch.all(refined.size <= 1e-3)
