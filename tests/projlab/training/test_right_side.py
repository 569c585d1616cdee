"""`handle.set_right_side`, and right sides that are read at each step."""

import pytest
import torch

import projlab
from projlab import constrain, expr
from projlab.training import parameter_system
from tests.projlab.training.helpers import F64, parameter, vector


def test_the_next_step_ends_on_the_new_set_with_the_same_factors(monkeypatch):
    W, p = parameter(3, 4), parameter(6)
    A = torch.randn(2, 6, dtype=F64)
    optimizer = torch.optim.Adam([W, p], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(1) == 1, A @ expr(p) == 0)
    other = constrain(optimizer, expr(W)[0, 0] - expr(p)[0] + expr(p)[1] == 0)

    monkeypatch.setattr(parameter_system, "make_block", None)  # nothing is factored again
    for total in (2.0, 0.0, 3.5):
        b = torch.tensor([total, -total], dtype=F64)
        handle.set_right_side(total, b)
        torch.testing.assert_close(W.detach().sum(1), torch.full((3,), total, dtype=F64))
        W.grad, p.grad = torch.randn_like(W), torch.randn_like(p)
        optimizer.step()
        torch.testing.assert_close(W.detach().sum(1), torch.full((3,), total, dtype=F64))
        torch.testing.assert_close(A @ p.detach(), b)
        assert handle.residual().abs().max() < 1e-14
        assert other.residual().abs().max() < 1e-14
    handle.set_right_side(None, 1)
    torch.testing.assert_close(W.detach().sum(1), torch.full((3,), 3.5, dtype=F64))
    assert "(A @ p1)[0] == 1" in repr(handle)
    monkeypatch.undo()
    other.remove()
    assert handle.residual().abs().max() < 1e-14


def test_gradientless_parameters_meet_the_new_right_side():
    p, q = vector(1.0, 2.0), vector(3.0)
    optimizer = torch.optim.SGD([p, q], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() + expr(q).sum() == 6)
    p.grad = torch.ones(2, dtype=F64)
    optimizer.step()
    handle.set_right_side(9)
    p.grad = torch.tensor([1.0, 0.0], dtype=F64)
    optimizer.step()
    assert q.tolist() == [4.0]
    assert abs(float(handle.residual())) < 1e-14


def test_rows_that_depend_on_each_other_are_judged_again():
    W = parameter(3, 4)
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(0) == 0, expr(W).sum(1) == 0)
    rows = torch.full((3,), 4.0)
    handle.set_right_side(3, rows)
    assert handle.residual().abs().max() < 1e-14
    before, equations = W.detach().clone(), handle.equations
    with pytest.raises(projlab.InconsistentError, match="add up to"):
        handle.set_right_side(None, 5)
    assert torch.equal(W.detach(), before)
    assert handle.equations is equations
    W.grad = torch.randn_like(W)
    optimizer.step()
    assert handle.residual().abs().max() < 1e-14


def test_right_sides_that_do_not_fit_are_refused():
    W, c = parameter(3, 4), vector(1.0)
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(1) == 1, expr(W)[0, 0] == expr(c).sum())
    before = W.detach().clone()
    for right, message in (
        ((1,), "1 right sides are given for 2 equations"),
        ((torch.ones(2), None), "broadcast"),
        ((torch.nan, None), "right side|finite|NaN"),
        ((None, 2.0), "parameters on its right"),
        ((expr(c), None), "is an expression"),
    ):
        with pytest.raises(projlab.InputError, match=message):
            handle.set_right_side(*right)
        assert torch.equal(W.detach(), before)


def test_a_buffer_on_either_side_is_read_at_each_step():
    module = torch.nn.Linear(4, 3, dtype=F64)
    module.register_buffer("total", torch.tensor([1.0], dtype=F64))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    handle = constrain(optimizer, expr(module.weight).sum(1) == expr(module.total), module=module)
    assert "== total" in repr(handle)
    for k in range(4):
        module.total.fill_(1.0 + k)
        module.weight.grad = torch.randn(3, 4, dtype=F64)
        optimizer.step()
        torch.testing.assert_close(
            module.weight.detach().sum(1), module.total.expand(3), rtol=0, atol=1e-14
        )
