"""Sums of views: nothing stored, nothing copied."""

import tracemalloc

import pytest
import torch

import projlab
from projlab import constrain, expr
from projlab.numerics import tuning
from projlab.training.blocks.sums import SumsBlock
from tests.projlab.training.helpers import F64, Fresh, U


def test_row_sums_of_a_large_matrix_cost_what_a_sum_costs():
    W = torch.nn.Parameter(torch.randn(1024, 2048))
    optimizer = torch.optim.SGD([W], lr=0.1)
    small = torch.nn.Parameter(torch.randn(2, 2))
    constrain(torch.optim.SGD([small], lr=0.1), expr(small).sum(dim=1) == 1)  # for its imports
    tracemalloc.start()
    handle = constrain(optimizer, expr(W).sum(dim=1) == 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (block,) = handle._hooks.system.blocks
    assert isinstance(block, SumsBlock)
    held = sum(t.numel() for t in vars(block).values() if torch.is_tensor(t))
    # the row numbers, the sums as a term and as a residual, a scale, the largest residual
    assert held == 3 * 1024 + 2
    assert peak < 1e6
    W.grad = torch.randn_like(W)
    hooks = handle._hooks
    with Fresh() as fresh:
        hooks._before(optimizer, (optimizer,), {})
        hooks._after(optimizer)
    assert fresh.sizes
    assert max(fresh.sizes) <= tuning.GROUPS * 1024


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
def test_column_sums_at_distances_of_pages(dtype):
    W = torch.nn.Parameter(torch.rand(512, 2048).to(dtype))
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, 2 * expr(W).sum(0) == 1)
    (block,) = handle._hooks.system.blocks
    assert [v.by_product for v in block._views] == [dtype is not torch.bfloat16]
    W.grad = torch.randn(512, 2048).to(dtype)
    exact = W.grad.double() - W.grad.double().mean(0)
    handle._hooks._project_gradients(optimizer)
    assert (W.grad.double() - exact).abs().max() <= 8 * U[dtype] * exact.abs().max()
    optimizer.step()
    size = 2 * W.detach().double().abs().sum(0) + 1
    assert bool((handle.residual().abs() <= 8 * U[dtype] * size).all())


ALIKE = {
    "columns": lambda e: e.sum(0) == 0.5,
    "rows, scaled": lambda e: -2 * e.sum(1) == torch.arange(4.0, dtype=F64),
    "columns of two": None,
    "parts of rows": lambda e: e[:, 1:4].sum(1) == 1,
    "totals": lambda e: e.sum() == 2,
}


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("name", ALIKE)
def test_equal_sums_of_several_parameters_are_one_block(name, decay):
    weights = [torch.nn.Parameter(torch.randn(4, 6, dtype=F64)) for _ in range(6)]
    if name == "columns of two":
        pairs = zip(weights[::2], weights[1::2], strict=True)
        equations = [expr(V).sum(0) - 3 * expr(W).sum(0) == 1 for V, W in pairs]
    else:
        equations = [ALIKE[name](expr(W)) for W in weights]
    optimizer = torch.optim.SGD(weights, lr=0.1, weight_decay=decay)
    handle = constrain(optimizer, *equations)
    (block,) = handle._hooks.system.blocks
    assert isinstance(block, SumsBlock)
    twins = [torch.nn.Parameter(W.detach().clone()) for W in weights]
    for W, V in zip(weights, twins, strict=True):
        W.grad = torch.randn_like(W)
        V.grad = W.grad.clone()
    A, b = dense(equations, weights)
    x = torch.cat([V.detach().flatten() for V in twins])
    g = torch.cat([V.grad.flatten() for V in twins])
    P = projlab.projector(A, b, "pinv")
    optimizer.step()
    found = torch.cat([W.grad.flatten() for W in weights])
    torch.testing.assert_close(found, P.tangent(g + decay * x) - decay * x, rtol=1e-12, atol=1e-12)
    moved = x - 0.1 * (found + decay * x)
    now = torch.cat([W.detach().flatten() for W in weights])
    torch.testing.assert_close(now, P(moved), rtol=1e-12, atol=1e-12)
    assert handle.largest_residual <= 1e-13


def dense(equations, weights):
    """A and b of equations over all of these parameters, one after the other."""
    rows = []
    for e in equations:
        parts = {id(W): torch.zeros(e.rows, W.numel(), dtype=F64) for W in weights}
        for term in e.difference.terms:
            i, j, values = term.triplets()
            parts[id(term.parameter)].index_put_((i, j), values, accumulate=True)
        rows.append(torch.cat(list(parts.values()), 1))
    return torch.cat(rows), torch.cat([e.right_side() for e in equations])


def test_a_row_that_is_off_among_equal_matrices_is_the_only_one_that_moves():
    weights = [torch.nn.Parameter(torch.rand(4, 6, dtype=F64)) for _ in range(3)]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    handle = constrain(optimizer, *[expr(W).sum(1) == 3 for W in weights])
    before = [W.detach().clone() for W in weights]
    weights[1].detach()[2, 0] += 1.0
    handle.apply()
    assert float(handle.residual().abs().max()) <= 1e-14
    for i, (W, stood) in enumerate(zip(weights, before, strict=True)):
        moved = (W.detach() != stood).any(1)
        assert moved.tolist() == [i == 1 and row == 2 for row in range(4)]


def test_a_matrix_without_a_gradient_stays_among_equal_ones():
    weights = [torch.nn.Parameter(torch.rand(4, 6)) for _ in range(3)]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    handle = constrain(optimizer, *[expr(W).sum(0) == 1 for W in weights])
    stood = weights[1].detach().clone()
    for W in (weights[0], weights[2]):
        W.grad = torch.randn_like(W)
    optimizer.step()
    assert torch.equal(weights[1].detach(), stood)
    assert float(handle.residual().abs().max()) <= 8 * U[torch.float32] * 4


def test_many_long_totals_stay_views_and_many_short_ones_are_gathered():
    for n, as_views in ((2048, True), (8, False)):
        vectors = [torch.nn.Parameter(torch.randn(n)) for _ in range(20)]
        optimizer = torch.optim.SGD(vectors, lr=0.1)
        handle = constrain(optimizer, *[expr(v).sum() == 1 for v in vectors])
        (block,) = handle._hooks.system.blocks
        assert isinstance(block, SumsBlock) is as_views
