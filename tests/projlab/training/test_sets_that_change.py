"""Steps on sets whose right sides are infinite, change, cross or empty, and steps of any length."""

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
