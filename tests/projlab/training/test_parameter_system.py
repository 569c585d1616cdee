"""Equations over parameters as one system: it projects, corrects, and says what holds."""

from dataclasses import replace

import pytest
import torch

import projlab
from projlab import constrain, expr
from projlab.training.blocks.sums import SumsBlock
from tests.projlab.training.helpers import F64, U, parameter


def test_the_projection_of_a_system_is_the_nearest_point():
    W, p = parameter(3, 4), parameter(4)
    A = torch.randn(2, 4, dtype=F64)
    equations = [expr(W).sum(0) == expr(p), A @ expr(p) == 1, expr(W)[1, 1:].sum() == 2]
    x0 = torch.cat([W.detach().flatten(), p.detach()])
    rows = torch.zeros(7, 16, dtype=F64)
    for j in range(4):
        rows[j, [j, 4 + j, 8 + j]] = 1
        rows[j, 12 + j] = -1
    rows[4:6, 12:] = A
    rows[6, 5:8] = 1
    b = torch.tensor([0, 0, 0, 0, 1, 1, 2], dtype=F64)
    constrain(torch.optim.SGD([W, p], lr=0.1), *equations)
    wanted = projlab.projector(rows, b, "pinv")(x0)
    torch.testing.assert_close(torch.cat([W.detach().flatten(), p.detach()]), wanted)


def test_the_same_equation_twice_is_stated_once():
    W = torch.nn.Parameter(torch.randn(6, 5))
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(1) == 1, expr(W).sum(1) == 1)
    assert handle.blocks == ("6 blocks of 1 row in 5 entries: single_row",)
    assert handle.residual().shape == (12,)


@pytest.mark.parametrize(("dtype", "off"), [(F64, 2.0**-40), (torch.float32, 2.0**-18)])
def test_sums_stated_twice_agree_up_to_the_rounding_of_their_data(dtype, off):
    W = torch.nn.Parameter(torch.randn(6, 5))
    b = torch.full((6,), 0.1, dtype=dtype)
    near = b * (1 + 2 * U[dtype])
    with constrain(torch.optim.SGD([W], lr=0.1), expr(W).sum(1) == b, expr(W).sum(1) == near):
        pass
    for far in (b + off, b - off):
        with pytest.raises(projlab.InconsistentError, match="contradict each other"):
            constrain(torch.optim.SGD([W], lr=0.1), expr(W).sum(1) == b, expr(W).sum(1) == far)


def test_rows_that_repeat_others_hold_to_rounding_too():
    for seed in range(8):
        torch.manual_seed(seed)
        W = torch.nn.Parameter(torch.rand(16, 16, dtype=F64))
        optimizer = torch.optim.SGD([W], lr=0.1)
        handle = constrain(optimizer, expr(W).sum(0) == 1, expr(W).sum(1) == 1)
        size = torch.cat([W.detach().abs().sum(0), W.detach().abs().sum(1)]) + 1
        assert bool((handle.residual().abs() <= 8 * U[F64] * size).all())


def test_a_parameter_may_move_to_other_memory():
    W = torch.nn.Parameter(torch.randn(4, 5))
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(1) == 1)
    for _ in range(2):
        left = W.data
        W.data = torch.randn(4, 5)
        before = left.clone()
        W.grad = torch.randn(4, 5)
        optimizer.step()
        assert handle.residual().abs().max() < 1e-6
        assert torch.equal(left, before)


# ---- one correction, or two


def far_and_near(dtype, equations):
    """A large parameter, its optimizer and handle, and how many corrections a step made."""
    torch.manual_seed(0)
    W = torch.nn.Parameter(1e-3 * torch.randn(1024, 1030, dtype=dtype))
    optimizer = torch.optim.SGD([W], lr=1.0)
    handle = constrain(optimizer, *equations(W), mode="post")
    (block,) = handle._hooks.system.blocks
    made = []
    subtract = block.subtract

    def counted(r):
        made.append(1)
        subtract(r)

    block.subtract = counted
    return W, optimizer, handle, made


LARGE = {
    "column sums of a thousandth": lambda W: [expr(W).sum(0) == 1e-3],
    "column sums": lambda W: [expr(W).sum(0) == 0],
    "row and column sums of a thousandth": lambda W: [
        expr(W).sum(0) == 1.024e-3,
        expr(W).sum(1) == 1.03e-3,
    ],
    "row and column sums": lambda W: [expr(W).sum(0) == 0, expr(W).sum(1) == 0],
    "one total": lambda W: [expr(W).sum() == 0],
    "dense rows": lambda W: [torch.randn(3, W.numel(), dtype=W.dtype) @ expr(W).reshape(-1) == 0],
}


@pytest.mark.parametrize("native", ["on", "off"])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("name", LARGE)
def test_a_second_correction_is_made_where_one_is_not_enough(dtype, name, native, monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", native)
    W, optimizer, handle, made = far_and_near(dtype, LARGE[name])
    (block,) = handle._hooks.system.blocks
    counted = not isinstance(block, SumsBlock) or block._native is None
    rows = [term for equation in handle.equations for term in equation.difference.terms]
    if name == "dense rows":
        rows = [replace(rows[0], entries=rows[0].entries.abs())]

    def worst():
        # sum_i |a_i x_i|, row by row
        terms = torch.cat([term.evaluate(W.detach().abs(), F64) for term in rows])
        return float((handle.residual().abs() / (U[dtype] * terms)).max())

    W.grad = 1e-5 * torch.randn_like(W)
    optimizer.step()
    assert len(made) == counted, "a kernel counts for itself"
    assert worst() <= 8
    made.clear()
    # in a step this long, the rounding of what is subtracted is larger than what is left
    W.grad = 10 + torch.randn_like(W)
    if name == "dense rows":
        W.grad = handle.equations[0].difference.terms[0].entries.sum(0).reshape(W.shape)
    optimizer.step()
    assert len(made) == 2 * counted
    assert worst() <= 8


@pytest.mark.parametrize("name", LARGE)
def test_large_parameters_that_hold_are_left_alone(name):
    W, _, handle, made = far_and_near(torch.float32, LARGE[name])
    before = W.detach().clone()
    handle.apply()
    assert not made
    assert torch.equal(W.detach(), before)
    W.detach()[0, 0] += 1.0
    handle.apply()
    assert len(made) == 1
    assert not torch.equal(W.detach(), before)
