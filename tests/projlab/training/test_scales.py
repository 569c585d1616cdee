"""Equations and inequalities whose coefficients are far from one, whose squares no dtype holds."""

import math

import pytest
import torch

from projlab import InputError, constrain, expr, tolerance

F32, F64 = torch.float32, torch.float64
COEFFICIENTS = [
    (F32, 6.022e23), (F32, 1.38e-23), (F32, 1e30), (F32, 1e38), (F32, 1e-40), (F32, 1e-46),
    (F32, 1e60), (F64, 1e155), (F64, 1e-170), (F64, 1e300), (F64, 1e-300),
]  # fmt: skip
scales = pytest.mark.parametrize(("dtype", "c"), COEFFICIENTS)

STATED = {
    "a sum": lambda w, c: [c * expr(w).sum() == c],
    "a sum that is at most": lambda w, c: [c * expr(w).sum() <= c],
    "a simplex": lambda w, c: [c * expr(w).sum() == c, expr(w) >= 0],
    "bounds of its own size": lambda w, c: [expr(w).sum() == 1, c * expr(w) >= 0],
    "a matrix": lambda w, c: [c * torch.ones(1, 4, dtype=F64) @ expr(w) == c],
    "row and total": lambda w, c: [c * expr(w)[:2].sum() == c / 2, 1e3 * expr(w).sum() <= 1e3],
    "ties": lambda w, c: [c * expr(w)[1:] == c * expr(w)[:-1], c * expr(w)[0] == c / 4],
}


def trained(stated, dtype, c, **keywords):
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=dtype))
    optimizer = torch.optim.SGD([w], lr=0.1)
    return w, optimizer, constrain(optimizer, *stated(w, c), **keywords)


@pytest.mark.parametrize("name", STATED)
@scales
def test_as_with_coefficients_of_one(name, dtype, c):
    """The parameters, and a step, are those of the same equations by one."""
    (w, step, handle), (plain, other, _) = (trained(STATED[name], dtype, k) for k in (c, 1.0))
    allowed = 16 * tolerance.unit_roundoff(dtype) * float(plain.detach().norm() + 10)
    for _ in range(3):
        torch.testing.assert_close(w.data, plain.data, rtol=0, atol=allowed)
        assert handle.certify().verdict != "failed"
        w.grad = torch.tensor([-1.0, 0.5, 0.25, 2.0], dtype=dtype)
        plain.grad = w.grad.clone()
        step.step()
        other.step()
    assert handle.largest_residual <= 64 * tolerance.unit_roundoff(dtype) * max(c, 1)


@pytest.mark.parametrize("name", ["a sum", "a matrix"])
@scales
def test_in_the_metric(name, dtype, c):
    W = torch.nn.Parameter(torch.ones(4, dtype=dtype))
    optimizer = torch.optim.Adam([W], lr=0.1)
    constrain(optimizer, *STATED[name](W, c), mode="metric")
    for _ in range(3):
        W.grad = torch.tensor([-1.0, 0.5, 0.25, 2.0], dtype=dtype)
        optimizer.step()
        assert abs(float(W.detach().sum()) - 1) <= 16 * tolerance.unit_roundoff(dtype)


@pytest.mark.parametrize("name", STATED)
@scales
def test_prices_are_those_of_one_over_the_coefficient(name, dtype, c):
    if name == "ties":  # whose prices follow from all of them together
        return
    found = []
    for k in (c, 1.0):
        w, _, handle = trained(STATED[name], dtype, k)
        w.grad = torch.tensor([-1.0, 0.5, 0.25, 2.0], dtype=dtype)
        found.append([y.double() for y in handle.multipliers()])
    for i, (mine, plain) in enumerate(zip(*found, strict=True)):
        own = 1.0 if (name, i) in PLAIN else c
        expected = (plain / own).to(dtype).double()
        size = (plain.abs().max() / own).to(dtype).double()
        if not math.isfinite(float(size)):
            assert not torch.isfinite(mine).all()
            continue
        tiny = torch.finfo(dtype).tiny
        allowed = 64 * tolerance.unit_roundoff(dtype) * float(size) + tiny
        assert float((mine - expected).abs().max()) <= allowed


PLAIN = {("a simplex", 1), ("bounds of its own size", 0), ("row and total", 1)}
"""Equations whose coefficients are not `c`."""


def test_one_coefficient_far_from_the_others():
    w = torch.nn.Parameter(torch.ones(4))
    A = torch.tensor([1e20, 1.0, 1.0, 1.0], dtype=F64)
    constrain(torch.optim.SGD([w], lr=0.1), A @ expr(w) <= 1)
    assert w.data.tolist() == [float(torch.tensor(-2e-20)), 1.0, 1.0, 1.0]


def test_rows_of_one_matrix_far_from_each_other():
    w = torch.nn.Parameter(torch.tensor([3.0, 5.0, 7.0]))
    A = torch.diag(torch.tensor([1e-30, 1.0, 1e30], dtype=F64))
    constrain(
        torch.optim.SGD([w], lr=0.1), A @ expr(w) == torch.tensor([1e-30, 2.0, 3e30], dtype=F64)
    )
    assert w.data.tolist() == [1.0, 2.0, 3.0]


def test_changed_right_sides_are_in_the_units_of_the_caller():
    w, optimizer, handle = trained(STATED["a sum"], F32, 1e30)
    handle.set_right_side(2e30)
    w.grad = torch.zeros(4)
    optimizer.step()
    torch.testing.assert_close(float(w.detach().sum()), 2.0)
    buffer = torch.tensor(3e30, dtype=F64)
    v = torch.nn.Parameter(torch.ones(4))
    step = torch.optim.SGD([v], lr=0.1)
    constrain(step, 1e30 * expr(v).sum() == expr(buffer))
    torch.testing.assert_close(float(v.detach().sum()), 3.0)
    buffer.fill_(5e30)
    v.grad = torch.zeros(4)
    step.step()
    torch.testing.assert_close(float(v.detach().sum()), 5.0)


def test_the_log_is_in_the_units_of_the_caller():
    w, optimizer, handle = trained(STATED["row and total"], F32, 1e30)
    with torch.no_grad():
        w.add_(1e-3)
    r = handle.residual()
    assert 1e26 < float(r[0]) < 1e28
    w, optimizer, handle = trained(STATED["a sum"], F32, 1e30)
    w.grad = torch.tensor([0.1, 0.3, -0.7, 0.9])
    optimizer.step()
    assert handle.largest_residual <= 1e24


def test_what_no_parameter_reaches_is_refused():
    w = torch.nn.Parameter(torch.ones(4))
    with pytest.raises(InputError, match=r"right side 1e\+10 of .*, over its coefficients, is inf"):
        constrain(torch.optim.SGD([w], lr=0.1), 1e-30 * expr(w).sum() == 1e10)
    assert w.data.tolist() == [1.0] * 4
