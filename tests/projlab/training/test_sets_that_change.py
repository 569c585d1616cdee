"""Steps on sets whose right sides are infinite, change, cross or empty, and steps of any length."""

import copy
import math

import pytest
import torch
from torch import tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam

import projlab
from projlab import constrain, expr, tolerance

U = tolerance.unit_roundoff("float32")
G = tensor([[1.0, 1, 0], [0, 1, 1]])
WANTED = tensor([0.9, 0.4, -0.2, 0.1])
"""Onto the simplex it goes to (0.75, 0.25, 0, 0)."""


@pytest.fixture(params=["1", "0"], ids=["native", "torch"])
def native(request, monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", request.param)


def towards(optimizer, w, wanted=WANTED, steps=30):
    for _ in range(steps):
        w.grad = 2 * (w.detach() - wanted)
        optimizer.step()


# ---- infinite right sides


@pytest.mark.parametrize(
    ("start", "constraints", "end"),
    [
        ([1.0, 2.0], lambda w: [expr(w).sum() <= math.inf], [1.3, 2.3]),
        ([1.0, 2.0], lambda w: [expr(w).sum() >= -math.inf], [1.3, 2.3]),
        ([0.1, 0.1, 0.1], lambda w: [G @ expr(w) <= tensor([math.inf, 9.0])], [0.4, 0.4, 0.4]),
        (
            [0.1, 0.1, 0.1],
            lambda w: [G @ expr(w) <= tensor([math.inf, 9.0]), expr(w) >= 0],
            [0.4, 0.4, 0.4],
        ),
    ],
)
def test_a_row_without_a_right_side_holds_nothing(start, constraints, end, native):
    w = Parameter(tensor(start))
    optimizer = SGD([w], lr=0.1)
    handle = constrain(optimizer, *constraints(w))
    for _ in range(3):
        w.grad = -torch.ones_like(w)
        optimizer.step()
    torch.testing.assert_close(w.detach(), tensor(end))
    w.grad = -torch.ones_like(w)
    assert all(not price.any() for price in handle.multipliers())


def test_rows_beside_one_without_a_right_side_end_at_their_optimum(native):
    W = Parameter(torch.full((2, 2), 0.2))
    optimizer = SGD([W], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(1) <= tensor([1.0, math.inf]))
    for _ in range(5):
        W.grad = -torch.ones(2, 2)
        optimizer.step()
    torch.testing.assert_close(W.detach(), tensor([[0.5, 0.5], [0.7, 0.7]]))
    handle.set_right_side(tensor([math.inf, math.inf]))
    W.grad = -torch.ones(2, 2)
    optimizer.step()
    torch.testing.assert_close(W.detach(), tensor([[0.6, 0.6], [0.8, 0.8]]))


# ---- right sides that change


def test_what_was_held_is_let_go_where_it_has_no_point(native):
    w, s = Parameter(torch.zeros(4)), tensor(0.0)
    optimizer = SGD([w], lr=0.1)
    handle = constrain(optimizer, expr(w).sum() == expr(s), expr(w) >= 0)
    s.fill_(1.0)
    towards(optimizer, w, steps=1)
    assert abs(float(w.detach().sum()) - 1) <= 8 * U
    towards(optimizer, w)
    torch.testing.assert_close(w.detach(), tensor([0.75, 0.25, 0, 0]), rtol=0, atol=1e-2)
    assert handle.largest_residual <= 8 * U


def test_upper_bounds_that_fall(native):
    w, c = Parameter(tensor([0.5, 0.5, 0, 0])), tensor(0.5)
    optimizer = SGD([w], lr=0.1)
    constrain(optimizer, expr(w).sum() == 1, expr(w) >= 0, expr(w) <= expr(c))
    towards(optimizer, w, steps=1)
    c.fill_(0.3)
    towards(optimizer, w)
    torch.testing.assert_close(w.detach(), tensor([0.3, 0.3, 0.1, 0.3]))


def test_coupled_rows_whose_right_sides_change():
    w, s = Parameter(torch.zeros(3)), tensor(0.0)
    optimizer = SGD([w], lr=0.1)
    constrain(optimizer, expr(w)[:2].sum() == expr(s), expr(w)[1:].sum() == expr(s), expr(w) >= 0)
    towards(optimizer, w, torch.zeros(3), steps=1)
    s.fill_(1.0)
    towards(optimizer, w, torch.zeros(3), steps=1)
    torch.testing.assert_close(G @ w.detach(), torch.ones(2), rtol=0, atol=32 * U)


def test_parameters_that_were_written_over_come_back(native):
    w = Parameter(torch.full((4,), 0.25))
    optimizer = SGD([w], lr=0.1)
    constrain(optimizer, expr(w).sum() == 1, expr(w) >= 0)
    towards(optimizer, w)
    with torch.no_grad():
        w.zero_()
    with pytest.warns(UserWarning, match="moved by something else"):
        towards(optimizer, w, steps=1)
    assert abs(float(w.detach().sum()) - 1) <= 8 * U


@pytest.mark.parametrize("rows", [1, 2])
def test_a_set_that_loses_its_points_is_said_once(rows):
    w, s = Parameter(torch.full((3,), 0.5)), tensor(1.0)
    given = [expr(w)[i : i + 2].sum() == expr(s) for i in range(rows)]
    optimizer = SGD([w], lr=0.1)
    handle = constrain(optimizer, *given, expr(w) >= 0)
    s.fill_(-1.0)
    with pytest.warns(UserWarning, match="no parameters satisfy the constraints as they are now"):
        towards(optimizer, w, torch.zeros(3), steps=1)
    assert handle.largest_residual >= 0.5
    towards(optimizer, w, torch.zeros(3), steps=1)


def test_bounds_that_cross_and_rows_that_part_are_in_the_log():
    w, low, high = Parameter(tensor([1.0, 2.0])), tensor(0.0), tensor(3.0)
    optimizer = SGD([w], lr=0.1)
    handle = constrain(optimizer, expr(w) >= expr(low), expr(w) <= expr(high))
    low.fill_(5.0)
    with pytest.warns(UserWarning, match="no parameters satisfy"):
        towards(optimizer, w, torch.zeros(2), steps=1)
    assert handle.largest_residual == 2
    v, s, r = Parameter(tensor([0.5, 0.5])), tensor(1.0), tensor(1.0)
    optimizer = SGD([v], lr=0.1)
    handle = constrain(optimizer, expr(v).sum() == expr(s), expr(v).sum() == expr(r))
    s.fill_(3.0)
    towards(optimizer, v, torch.zeros(2), steps=1)
    assert handle.largest_residual >= 0.5


# ---- steps of any length


@pytest.mark.parametrize("size", [1e4, 1e8, 1e10])
@pytest.mark.parametrize(
    "constraints",
    [
        lambda w: [expr(w).sum() == 1, expr(w) >= 0],
        lambda w: [expr(w).sum() == 1, expr(w) >= -0.1, expr(w) <= 0.7],
        lambda w: [expr(w).sum() >= 1, expr(w) >= 0, expr(w) <= 0.7],
    ],
)
def test_a_step_of_any_length_ends_on_the_set(constraints, size, native):
    w = Parameter(torch.full((4,), 0.25))
    optimizer = SGD([w], lr=0.1)
    handle = constrain(optimizer, *constraints(w))
    w.grad = size * tensor([1.0, -3, 1, 1])
    optimizer.step()
    assert float(handle.residual().abs().max()) <= 8 * U
    assert w.detach().argmax() == 1
    towards(optimizer, w, steps=100)
    assert float(handle.residual().abs().max()) <= 8 * U


@pytest.mark.parametrize("rate", [0.3, 3.0])
def test_what_a_rounded_multiplier_leaves_of_a_sum_is_shared_out(rate, native):
    """Half of the entries come back by the step, which float32 has to u of it, times n / 2."""
    n = 3000
    w = Parameter(torch.full((n,), 1 / n))
    constrain(optimizer := Adam([w], lr=rate), expr(w).sum() == 1, expr(w) >= 0)
    w.grad = torch.cat([torch.ones(n // 2), -torch.ones(n // 2)])
    optimizer.step()
    w = w.detach()
    assert abs(float(w.double().sum()) - 1) <= tolerance.HELD_ROUNDINGS * U
    assert not w[: n // 2].any()
    assert (w[n // 2 :] - 2 / n).abs().max() <= 2 * rate * U


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("rows", [1, 2])
def test_no_rounding_of_momenta_becomes_a_step(scale, rows, native):
    w = Parameter(torch.full((4,), 0.25))
    q = Parameter(w.detach().clone())
    ones = torch.stack([torch.ones(4), tensor([1.0, 1, 1, 1])])[:rows]
    optimizers = Adam([w], lr=0.001), Adam([q], lr=0.001)
    constrain(optimizers[0], ones @ expr(w) == torch.ones(rows), expr(w) >= 0)
    constrain(optimizers[1], expr(q).sum() == 1)
    for _ in range(100):
        for p, optimizer in zip((w, q), optimizers, strict=True):
            p.grad = scale * tensor([100.0, 50, 90, 80])
            optimizer.step()
    # no bound is met: the same training, but for rounding of a hundred steps
    torch.testing.assert_close(w.detach(), q.detach(), rtol=0, atol=1e-4)


# ---- precision


@pytest.mark.parametrize(
    "constraint",
    [
        lambda w: expr(w) >= 1e39,
        lambda w: expr(w) == 1e39,
        lambda w: expr(w).sum() == 1e39,
        lambda w: 1e-30 * expr(w) >= 1e10,
    ],
)
def test_right_sides_that_no_parameter_can_hold_are_refused(constraint):
    w = Parameter(tensor([1.0, 2.0]))
    with pytest.raises(projlab.InputError, match="is infinite in"):
        constrain(SGD([w], lr=0.1), constraint(w))
    assert w.tolist() == [1, 2]


def test_a_set_beyond_the_range_of_a_parameter_is_refused():
    w = Parameter(tensor([1.0, 2.0]).half())
    optimizer = SGD([w], lr=0.1)
    handle = constrain(optimizer, expr(w).sum() == 1)
    before = w.tolist()
    with pytest.raises(projlab.InputError, match="infinite in its dtype"):
        handle.set_right_side(2e5)
    assert w.tolist() == before
    assert float(handle.residual()[0]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bounds_that_meet_a_sum_to_rounding_are_no_empty_set(dtype):
    w = Parameter(torch.full((10,), 0.1, dtype=dtype))
    optimizer = SGD([w], lr=0.1)
    handle = constrain(optimizer, expr(w).sum() == 1, expr(w) >= 0.1)
    w.grad = torch.arange(10.0).to(dtype)
    optimizer.step()
    assert float(handle.residual().abs().max()) <= 8 * tolerance.unit_roundoff(dtype)
    with pytest.raises(projlab.InconsistentError, match="no parameters satisfy"):
        constrain(SGD([w], lr=0.1), expr(w).sum() == 1, expr(w) >= 0.11)


# ---- gradients and steps


def test_a_gradient_that_is_expanded_gets_memory_of_its_own():
    w = Parameter(torch.full((4,), 0.25))
    optimizer = SGD([w], lr=0.1)
    constrain(optimizer, expr(w).sum() == 1)
    w.grad = torch.ones(()).expand(4)
    optimizer.step()
    assert w.tolist() == [0.25] * 4


def test_parameters_of_inference_mode_are_refused():
    with torch.inference_mode():
        w = Parameter(torch.ones(4))
    with pytest.raises(projlab.InputError, match="inference_mode"):
        constrain(SGD([w], lr=0.1), expr(w).sum() == 1)


def test_prices_after_a_step_that_raised_are_of_the_next_one():
    w = Parameter(torch.full((4,), 0.25))
    optimizer = SGD([w], lr=0.1)
    handle = constrain(optimizer, expr(w).sum() == 1, multipliers=True)

    def step(scale):
        optimizer.zero_grad(set_to_none=False)
        (w * tensor([1.0, 2, 3, 4]) * scale).sum().backward()
        optimizer.step()

    step(1)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    step(10)
    torch.testing.assert_close(handle.multipliers()[0], tensor(-25.0))


# ---- what rows are judged by


SOFT = {
    "rmsprop": lambda p, rate: torch.optim.RMSprop(p, lr=rate),
    "adam": lambda p, rate: Adam(p, lr=rate),
    "rprop": lambda p, rate: torch.optim.Rprop(p, lr=rate),
    "sgd": lambda p, rate: SGD(p, lr=0.1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SOFT)
def test_rows_whose_entries_end_at_zero_are_met_like_others(name, dtype):
    """An l1 ball as |w| <= s and sum s <= r: both sides of w3 <= s3 end at rounding."""
    w, s = (Parameter(fill(3, dtype=dtype)) for fill in (torch.zeros, torch.ones))
    aim = tensor([0.9, 0.4, 0.05], dtype=dtype)
    optimizer = SOFT[name]([w, s], 0.02)
    handle = constrain(optimizer, expr(w) <= expr(s), expr(w) >= -expr(s), expr(s).sum() <= 0.8)

    def gradients():
        optimizer.zero_grad()
        ((w - aim).square().sum() + 0 * s.sum()).backward()

    for k in range(300):
        if name != "sgd":
            optimizer.param_groups[0]["lr"] = 0.02 * (1 - k / 301) ** 2
        gradients()
        optimizer.step()
    # soft thresholding at 0.25 (Duchi et al. 2008); the last steps are 0.02 / 301^2 long
    best = tensor([0.65, 0.15, 0.0], dtype=dtype)
    assert (w.detach() - best).abs().max() <= 1e-5
    gradients()
    above, below, total = handle.multipliers()
    assert (above - tensor([0.5, 0.5, 0.3])).abs().max() <= 1e-4
    assert (below - tensor([0.0, 0.0, 0.2])).abs().max() <= 1e-4
    assert abs(float(total) - 0.5) <= 1e-4


def part_of_a_sum(seed, constraints, stop):
    torch.manual_seed(seed)
    a, b = Parameter(torch.rand(3)), Parameter(torch.rand(7))
    optimizer = SGD([a, b], lr=0.1)
    handle = constrain(optimizer, *constraints(a, b))
    for k in range(40):
        if k == 30:
            stop(b)
        optimizer.zero_grad()
        loss = (a + 1).square().sum()
        if k < 30:
            loss = loss + (b - 2).square().sum()
        loss.backward()
        optimizer.step()
    return handle


SUMS = {
    "at most": lambda a, b: [expr(a).sum() + expr(b).sum() <= 0.6, expr(a) >= 0, expr(b) >= 0],
    "equal": lambda a, b: [expr(a).sum() + expr(b).sum() == 0.6, expr(a) >= 0, expr(b) >= 0],
    "coupled": lambda a, b: [
        expr(a).sum() + expr(b).sum() == 0.6,
        expr(a)[:2].sum() + expr(b)[0] <= 0.5,
        expr(a) >= 0,
        expr(b) >= 0,
    ],
}


@pytest.mark.parametrize("constraints", SUMS)
@pytest.mark.parametrize("way", ["frozen", "sleeping"])
def test_what_constants_leave_of_a_right_side_is_known_to_their_rounding(way, constraints):
    """b fills the sum, to rounding of float32: what is left for a is zero, or a little below."""
    for seed in range(10):
        handle = part_of_a_sum(
            seed,
            SUMS[constraints],
            (lambda b: b.requires_grad_(False)) if way == "frozen" else lambda b: None,
        )
        assert float(handle.residual().abs().max()) <= tolerance.HELD_ROUNDINGS * U


def test_constants_that_leave_nothing_are_refused_all_the_same():
    a, b = Parameter(torch.rand(3)), Parameter(torch.full((7,), 0.1), requires_grad=False)
    with pytest.raises(projlab.InconsistentError, match="at least 0"):
        constrain(SGD([a], lr=0.1), expr(a).sum() + expr(b).sum() <= 0.69, expr(a) >= 0)
    with pytest.raises(projlab.InconsistentError):
        constrain(
            SGD([a], lr=0.1),
            expr(a).sum() + expr(b).sum() <= 0.69,
            expr(a)[:2].sum() <= 1,
            expr(a) >= 0,
        )


@pytest.mark.parametrize("beside", [True, False])
def test_bounds_that_a_buffer_crosses_are_said_once(beside):
    w, cap = Parameter(torch.full((4,), 0.25)), torch.ones(4)
    optimizer = SGD([w], lr=0.05)
    total = [expr(w).sum() == 1] if beside else []
    constrain(optimizer, *total, expr(w) >= 0.2, expr(w) <= expr(cap))
    w.grad = torch.zeros(4)
    optimizer.step()
    cap[0] = 0.1
    with pytest.warns(UserWarning, match="no parameters satisfy the constraints as they are now"):
        optimizer.step()
    optimizer.step()  # where a second warning would be an error


@pytest.mark.parametrize("bounds", [True, False])
@pytest.mark.parametrize("maximize", [True, False])
def test_a_finite_gradient_stays_finite_in_float16(bounds, maximize):
    w = Parameter(torch.full((4,), 0.25, dtype=torch.float16))
    optimizer = SGD([w], lr=1e-5, maximize=maximize)
    constrain(optimizer, expr(w).sum() == 1, *([expr(w) >= 0] if bounds else []))
    w.grad = tensor([6e4, -6e4, 6e4, 6e4], dtype=torch.float16)
    optimizer.step()
    assert torch.isfinite(w.grad).all()
    assert torch.isfinite(w).all()
    assert abs(float(w.detach().double().sum()) - 1) <= 8 * 2.0**-11
    w.grad = tensor([math.inf, 1, 1, 1], dtype=torch.float16)
    optimizer.step()  # what was infinite is not hidden
    assert not torch.isfinite(w.grad).all()


def test_coupled_sets_resume_to_rounding():
    """The search starts where it ended last, which no state dict holds."""

    def setting(start):
        w = Parameter(start.clone())
        optimizer = Adam([w], lr=0.05)
        constrain(optimizer, expr(w).sum() == 1, expr(w) >= 0, expr(w)[2:].sum() <= 0.5)
        return w, optimizer

    def train(w, optimizer, seed):
        draw = torch.Generator().manual_seed(seed)
        for _ in range(20):
            w.grad = 2 * (w.detach() - torch.randn(8, generator=draw, dtype=torch.float64))
            optimizer.step()

    w, optimizer = setting(torch.full((8,), 0.125, dtype=torch.float64))
    train(w, optimizer, 0)
    other, resumed = setting(w.detach())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(w, optimizer, 1)
    train(other, resumed, 1)
    # roundings of 20 steps, each passed on by Adam as by its largest step
    torch.testing.assert_close(w, other, rtol=0, atol=1e3 * 2.0**-53)


@pytest.mark.parametrize("constraint", [lambda w: expr(w).sum() == 1, lambda w: expr(w) >= 0])
def test_parameters_on_meta_are_refused(constraint):
    w = Parameter(torch.zeros(4, device="meta"))
    with pytest.raises(projlab.InputError, match="p0 is on the device meta"):
        constrain(SGD([w], lr=0.1), constraint(w))
