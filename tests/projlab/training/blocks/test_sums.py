"""Sums of views: nothing stored, nothing copied."""

import tracemalloc

import pytest
import torch

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
    assert held == 3 * 1024 + 1  # the row numbers, the sums as a term and as a residual, a scale
    assert peak < 1e6
    W.grad = torch.randn_like(W)
    hooks = handle._hooks
    with Fresh() as fresh:
        hooks._project_gradients()
        hooks._after()
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
    handle._hooks._project_gradients()
    assert (W.grad.double() - exact).abs().max() <= 8 * U[dtype] * exact.abs().max()
    optimizer.step()
    size = 2 * W.detach().double().abs().sum(0) + 1
    assert bool((handle.residual().abs() <= 8 * U[dtype] * size).all())
