"""Parameters of other strides than row-major: as fast, and the same, as their contiguous twins."""

import copy

import pytest
import torch

import projlab
from projlab import constrain, expr
from projlab.training.blocks.margins import MarginsBlock
from projlab.training.blocks.matrix import MatrixBlock
from projlab.training.blocks.sums import SumsBlock
from projlab.training.blocks.ties import TiesBlock
from projlab.training.memory_order import flat, in_memory_order, is_dense, laid_out
from tests.projlab.training.helpers import F64, Fresh

LAYOUTS = {
    "channels_last": lambda: torch.randn(4, 3, 2, 5, dtype=F64).to(
        memory_format=torch.channels_last
    ),
    "channels_last, 1 x 1": lambda: torch.randn(4, 3, 1, 1, dtype=F64).to(
        memory_format=torch.channels_last
    ),
    "transposed": lambda: torch.randn(6, 6, dtype=F64).T,
    "permuted": lambda: torch.randn(3, 4, 6, dtype=F64).permute(2, 0, 1),
    "with an offset": lambda: torch.randn(7, 6, dtype=F64)[1:].T,
    "with gaps": lambda: torch.randn(6, 12, dtype=F64)[:, ::2],
}
EQUATIONS = {
    "sums over the last dimensions": lambda e: [e.sum(tuple(range(1, e.ndim))) == 1],
    "sums over the first dimension": lambda e: [e.mean(0) == 1],
    "the total": lambda e: [e.sum() == 1],
    "flattened rows": lambda e: [e.reshape(e.shape[0], -1).sum(1) == 1],
    "a part of the rows": lambda e: [e[1:3].sum() == 1, e[0] == 0],
    "every other entry": lambda e: [e[::2, 1:].sum(0) == 1],
    "dense rows": lambda e: [rows(2, e) @ e.flatten() == 1],
    "one entry": lambda e: [e.flatten()[5] == 1],
    "entries by number": lambda e: [e.flatten()[[3, 1, 7]] == torch.arange(3.0)],
    "weighted": lambda e: [(rows(1, e).reshape(e.shape) * e).sum(0) == 1],
    "over different dimensions": lambda e: [
        e.mean(0) == 1,
        e.mean(tuple(range(1, e.ndim))) == 1,
    ],
    "ties": lambda e: [e.flatten()[1:] - e.flatten()[:-1] == 0.1],
    "products": lambda e: [rows(2, e[0].flatten()) @ e.reshape(e.shape[0], -1).T == 1],
}
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "SGD, foreach": lambda p: torch.optim.SGD(p, lr=0.1, foreach=True),
    "SGD, fused": lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    "Adam, foreach": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1, foreach=True),
    "Adam, fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
}


def rows(m, e):
    draw = torch.Generator().manual_seed(1)
    n = torch.empty(e.shape, device="meta").numel()
    return torch.randn(m, n, dtype=F64, generator=draw)


def twins(layout, equations, optimizer="SGD", **keywords):
    """A parameter of this layout and its contiguous twin, constrained alike: (p, optimizer)."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(LAYOUTS[layout]())
    q = torch.nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format))
    assert q.is_contiguous()
    pairs = []
    for t in (p, q):
        stepper = OPTIMIZERS[optimizer]([t])
        handle = constrain(stepper, *EQUATIONS[equations](expr(t)), **keywords)
        pairs.append((t, stepper, handle))
    return pairs


def step(pairs, gradients):
    for (t, optimizer, _), g in zip(pairs, gradients, strict=True):
        t.grad = g
        optimizer.step()


def assert_alike(pairs):
    (p, _, one), (q, _, two) = pairs
    torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(one.residual(), two.residual(), rtol=0, atol=1e-13)
    assert float(one.residual().abs().max()) < 1e-13


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("equations", EQUATIONS)
def test_other_layouts_give_what_contiguous_twins_give(layout, equations):
    pairs = twins(layout, equations)
    assert_alike(pairs)
    p = pairs[0][0]
    strides = p.stride()
    for _ in range(2):
        g = torch.randn(p.shape, dtype=F64)
        as_parameter = torch.empty_like(p).copy_(g)
        step(pairs, [as_parameter, g.clone()])
        assert_alike(pairs)
        torch.testing.assert_close(p.grad, pairs[1][0].grad, rtol=1e-11, atol=1e-11)
    assert p.stride() == strides


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "permuted"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_implementation_of_an_optimizer_takes_other_layouts(layout, optimizer):
    for equations in ("sums over the last dimensions", "dense rows", "over different dimensions"):
        pairs = twins(layout, equations, optimizer)
        for _ in range(3):
            g = torch.randn(pairs[0][0].shape, dtype=F64)
            step(pairs, [torch.empty_like(pairs[0][0]).copy_(g), g.clone()])
        assert_alike(pairs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gradient_of_another_layout_is_projected_in_its_own(layout):
    pairs = twins(layout, "sums over the last dimensions", "SGD")
    for p, _, _ in pairs:
        assert p.grad is None
    g = torch.randn(pairs[0][0].shape, dtype=F64)
    other = g.mT.contiguous().mT if g.dim() > 1 else g
    step(pairs, [g.clone(), other])
    assert pairs[0][0].grad.is_contiguous()
    assert pairs[1][0].grad is other
    assert_alike(pairs)
    torch.testing.assert_close(pairs[0][0].grad, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layout", ["channels_last", "transposed"])
def test_a_metric_of_another_layout(layout):
    # not fused: torch's kernel takes gradient and parameter by their memory, whatever their strides
    pairs = twins(layout, "sums over the last dimensions", "Adam, foreach", mode="metric")
    for _ in range(2):
        g = torch.randn(pairs[0][0].shape, dtype=F64)
        step(pairs, [g.clone(), g.mT.contiguous().mT])
    assert_alike(pairs)
    # averages that a checkpoint brings lie as they were saved
    pairs[0][1].load_state_dict(copy.deepcopy(pairs[1][1].state_dict()))
    g = torch.randn(pairs[0][0].shape, dtype=F64)
    step(pairs, [g.clone(), g.clone()])
    assert_alike(pairs)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_parameter_may_change_its_layout(when):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 4, 3, dtype=F64, bias=False)
    equation = expr(conv.weight).sum((1, 2)) == torch.arange(3.0)
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    if when == "before":
        conv.to(memory_format=torch.channels_last)
    handle = constrain(optimizer, equation)
    conv.to(memory_format=torch.channels_last)
    assert not conv.weight.is_contiguous()
    conv.weight.grad = torch.randn(4, 3, 3, 3, dtype=F64)
    optimizer.step()
    assert float(handle.residual().abs().max()) < 1e-14
    wanted = torch.arange(3, dtype=F64).expand(4, 3)
    torch.testing.assert_close(conv.weight.detach().sum((1, 2)), wanted)


@pytest.mark.parametrize(
    ("equations", "kind"),
    [
        ("sums over the last dimensions", SumsBlock),
        ("sums over the first dimension", SumsBlock),
        ("flattened rows", SumsBlock),
        ("over different dimensions", MarginsBlock),
        ("dense rows", MatrixBlock),
        ("ties", TiesBlock),
    ],
)
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "permuted", "with an offset"])
def test_dense_layouts_take_the_ways_of_contiguous_ones(layout, equations, kind):
    (_, _, handle), (_, _, twin) = twins(layout, equations)
    (block,), (other,) = handle._hooks.system.blocks, twin._hooks.system.blocks
    assert type(block) is type(other) is kind
    assert str(block) == str(other)
    if kind is MatrixBlock:
        assert block.parts[0].entries.view is not None


def test_nothing_is_copied_for_channels_last():
    weight = torch.randn(256, 128, 3, 3).to(memory_format=torch.channels_last)
    p = torch.nn.Parameter(weight)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum((1, 2, 3)) == 0)
    p.grad = torch.randn_like(p)
    with Fresh() as fresh:
        handle._hooks._before(optimizer, (optimizer,), {})
        handle._hooks._after(optimizer)
    assert max(fresh.sizes) <= 16 * 256


# ---- maps


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("equations", EQUATIONS)
def test_maps_read_the_same_entries_in_either_order(layout, equations):
    p = torch.nn.Parameter(LAYOUTS[layout]())
    for equation in EQUATIONS[equations](expr(p)):
        for term in equation.difference.terms:
            with torch.no_grad():
                wanted = term.evaluate(p, F64)
                i, j, values = in_memory_order(term, p).triplets()
                entries = flat(p) if is_dense(p) else p.reshape(-1)
                got = torch.zeros_like(wanted).index_add(0, i, values * entries[j])
            torch.testing.assert_close(got, wanted)


def test_what_is_dense_in_memory():
    t = torch.empty(2, 3, 4)
    assert is_dense(t)
    assert is_dense(t.permute(2, 0, 1))
    assert is_dense(torch.empty(2, 1, 3).transpose(0, 1))
    assert is_dense(torch.empty(()))
    assert not is_dense(t[:, ::2])
    assert not is_dense(t[:, :2])
    assert not is_dense(torch.empty(3, 1).expand(3, 4))


def test_only_what_lies_otherwise_is_copied():
    p = torch.randn(3, 4).T
    assert laid_out(p, p) is p
    g = torch.randn(4, 3)
    copied = laid_out(g, p)
    assert copied.stride() == p.stride()
    assert torch.equal(copied, g)
    column = torch.randn(4, 1)
    assert laid_out(column, torch.empty(1, 4).T) is column


def test_sums_of_a_flat_view_that_is_none_in_memory_are_still_right():
    p = torch.nn.Parameter(LAYOUTS["channels_last"]())
    x0 = p.detach().clone()
    optimizer = torch.optim.SGD([p], lr=0.1)
    constrain(optimizer, expr(p).flatten()[:60].reshape(6, 10).sum(1) == 1)
    A = torch.zeros(6, 120, dtype=F64)
    for i in range(6):
        A[i, 10 * i : 10 * i + 10] = 1
    wanted = projlab.projector(A, 1.0)(x0.reshape(-1))
    torch.testing.assert_close(p.detach().reshape(-1), wanted)
