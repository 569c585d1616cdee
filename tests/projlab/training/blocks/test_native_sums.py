"""Sums of large parameters, by the kernel and by torch's operators."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import projlab
from projlab import tolerance
from projlab.training.blocks.sums import SumsBlock
from projlab.training.hooks import _ATTRIBUTE
from tests.projlab.ways import needs_numba

pytestmark = needs_numba
SHAPE = (300, 256)
expr = projlab.expr


@pytest.fixture(autouse=True)
def on(monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", "on")


def right(n):
    return torch.linspace(-1, 1, n)


BY_KERNEL = {
    "columns": (SHAPE, lambda W, V: expr(W).sum(dim=0) == right(256)),
    "rows": (SHAPE, lambda W, V: expr(W).sum(dim=1) == right(300)),
    "total": (SHAPE, lambda W, V: expr(W).sum() + expr(V).sum() == 1),
    "means, less twice those of others": (
        SHAPE,
        lambda W, V: expr(W).mean(dim=0) - 2 * expr(V).mean(dim=0) == right(256),
    ),
    "some rows": (SHAPE, lambda W, V: expr(W)[10:].sum(dim=1) == right(290)),
    "some rows added up": (SHAPE, lambda W, V: expr(W)[20:].sum(dim=0) == right(256)),
    "filters": ((64, 32, 6, 6), lambda W, V: expr(W).sum(dim=(1, 2, 3)) == right(64)),
    "channels": ((64, 32, 6, 6), lambda W, V: expr(W).sum(dim=0).sum() == 3),
    "one by one": ((90000,), lambda W, V: expr(W).sum() == 1),
}
BY_TORCH = {
    "a dimension in the middle": ((40, 30, 60), lambda W, V: expr(W).sum(dim=1) == 1),
    "some columns": (SHAPE, lambda W, V: expr(W)[:, 3:].sum(dim=1) == right(300)),
    "two dtypes": (SHAPE, lambda W, V: expr(W).sum(dim=0) == expr(V.double()).sum(dim=0)),
}


def trained(make, shape, monkeypatch, *, native, dtype=torch.float32, change=None, steps=3):
    monkeypatch.setenv("PROJLAB_NATIVE", "on" if native else "off")
    draw = torch.Generator().manual_seed(0)
    W, V = (torch.nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for _ in range(2))
    if change is not None:
        W, V = (torch.nn.Parameter(change(p.detach())) for p in (W, V))
    goal = torch.randn(shape, generator=draw).to(dtype)
    optimizer = torch.optim.Adam([W, V], lr=0.1)
    handle = projlab.constrain(optimizer, make(W, V))
    for _ in range(steps):
        optimizer.zero_grad()
        ((W - goal).square().sum() + (V + W * goal).square().sum()).backward()
        optimizer.step()
    return W.detach(), handle, optimizer.__dict__[_ATTRIBUTE].system.blocks


def kernels(blocks):
    return [block._native is not None for block in blocks if isinstance(block, SumsBlock)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BY_KERNEL)
def test_both_ways_train_alike(name, dtype, monkeypatch):
    shape, make = BY_KERNEL[name]
    W, handle, blocks = trained(make, shape, monkeypatch, native=True, dtype=dtype)
    assert kernels(blocks) == [True]
    X, other, blocks = trained(make, shape, monkeypatch, native=False, dtype=dtype)
    assert kernels(blocks) == [False]
    # Adam divides by |g|: what rounding moves of a gradient near zero moves a step by far more
    u, count = tolerance.unit_roundoff(dtype), W.numel()
    assert (W - X).abs().median() <= tolerance.dimension_factor(1, count) * u * W.abs().max()
    left, n = handle.residuals, blocks[0].shape[2]
    assert left.shape == other.residuals.shape == (3,)
    most = 2 * n * float(W.abs().max()) + 1
    assert left.max() <= tolerance.RESIDUAL_ROUNDINGS * u * most
    assert handle.largest_residual <= tolerance.RESIDUAL_ROUNDINGS * u * most


@pytest.mark.parametrize("name", BY_TORCH)
def test_what_has_gaps_or_two_precisions_is_left_to_torch(name, monkeypatch):
    shape, make = BY_TORCH[name]
    if name == "two dtypes":
        W = torch.nn.Parameter(torch.randn(shape))
        V = torch.nn.Parameter(torch.randn(shape, dtype=torch.float64))
        optimizer = torch.optim.SGD([W, V], lr=0.1)
        projlab.constrain(optimizer, expr(W).sum(dim=0) == expr(V).sum(dim=0))
        blocks = optimizer.__dict__[_ATTRIBUTE].system.blocks
    else:
        *_, blocks = trained(make, shape, monkeypatch, native=True)
    assert kernels(blocks) == [False]


def test_channels_last_keeps_its_rows(monkeypatch):
    shape, make = BY_KERNEL["filters"]
    last = lambda t: t.contiguous(memory_format=torch.channels_last)  # noqa: E731
    W, _, blocks = trained(make, shape, monkeypatch, native=True, change=last)
    assert kernels(blocks) == [True]
    X, *_ = trained(make, shape, monkeypatch, native=False, change=last)
    assert (W.sum(dim=(1, 2, 3)) - X.sum(dim=(1, 2, 3))).abs().max() <= 1e-3
    assert (W.sum(dim=(1, 2, 3)) - right(64)).abs().max() <= 1e-3
    across = lambda W, V: expr(W).sum(dim=0) == 0  # noqa: E731
    W, _, blocks = trained(across, shape, monkeypatch, native=True, change=last)
    assert kernels(blocks) == [False], "rows in another order than they lie in memory"
    assert W.sum(dim=0).abs().max() <= 1e-4


def test_equal_matrices_are_one_call_and_small_ones_go_along(monkeypatch):
    layers = [torch.nn.Linear(200, 120) for _ in range(4)] + [torch.nn.Linear(5, 3)]
    optimizer = torch.optim.SGD([p for layer in layers for p in layer.parameters()], lr=0.1)
    projlab.constrain(optimizer, *(expr(layer.weight).sum(dim=0) == 0 for layer in layers))
    blocks = optimizer.__dict__[_ATTRIBUTE].system.blocks
    assert kernels(blocks) == [True, True]
    assert len(blocks) == 2
    for layer in layers:
        assert layer.weight.sum(dim=0).abs().max() <= 1e-5
    monkeypatch.setenv("PROJLAB_NATIVE", "off")
    small = torch.nn.Linear(5, 3)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    projlab.constrain(optimizer, expr(small.weight).sum(dim=0) == 0)
    assert kernels(optimizer.__dict__[_ATTRIBUTE].system.blocks) == [False]


def test_modes_see_torchs_operators():
    class Seen(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.changed = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.changed += func is torch.ops.aten.sub_.Tensor
            return func(*args, **(kwargs or {}))

    W = torch.nn.Parameter(torch.randn(SHAPE))
    optimizer = torch.optim.SGD([W], lr=0.1)
    projlab.constrain(optimizer, expr(W).sum(dim=0) == 0)
    W.square().sum().backward()
    with Seen() as seen:
        optimizer.step()
    assert seen.changed >= 2


@pytest.mark.filterwarnings("ignore:constrained parameters were moved")
def test_a_step_that_a_scaler_skips_leaves_every_bit():
    W = torch.nn.Parameter(torch.randn(SHAPE))
    optimizer = torch.optim.SGD([W], lr=0.1, fused=True)
    projlab.constrain(optimizer, expr(W).sum(dim=0) == 0)
    W.detach()[0] += 1
    before = W.detach().clone()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(W.sum() * math.inf).backward()
    scaler.step(optimizer)
    assert torch.equal(W, before)
