"""Sums of one grid over different axes: projections that commute, and others that do not."""

import math
import tracemalloc

import pytest
import torch

import projlab
from benchmarks.memory import held_bytes
from projlab import constrain, expr
from projlab.engine.kernels import margins as kernels
from projlab.numerics import tuning
from projlab.training.blocks.margins import MarginsBlock
from tests.projlab.training.helpers import F64, Fresh, U, blocks_of, parameter
from tests.projlab.ways import needs_numba

COMMUTING = {
    "rows and columns": ((5, 7), lambda e: [e.sum(0), e.sum(1)]),
    "scaled, means, kept dimensions": (
        (5, 7),
        lambda e: [-3 * e.sum(0, keepdim=True), e.mean(1, keepdim=True)],
    ),
    "the total too": ((5, 7), lambda e: [e.sum(), e.sum(0), 2 * e.sum(1)]),
    "the same sums in two scales": ((5, 7), lambda e: [e.sum(0), 2 * e.sum(0), e.sum(1)]),
    "one axis each": ((3, 4, 5), lambda e: [e.sum(0), e.sum(1), e.sum(2)]),
    "two axes each": ((3, 4, 5), lambda e: [e.sum((0, 1)), e.sum((1, 2)), e.sum((0, 2))]),
    "one axis and two others": ((3, 4, 5), lambda e: [e.sum(0), e.sum((1, 2))]),
    "four axes": ((2, 3, 2, 3), lambda e: [e.sum((0, 3)), e.sum((1, 3)), e.sum((0, 2)), e.mean(2)]),
    "a block of every other column": (
        (6, 8),
        lambda e: [e[1:5, ::2].sum(0), e[1:5, ::2].T.sum(0)],
    ),
    "axes in parts": ((4, 6), lambda e: [e.reshape(2, 2, 6).sum((0, 2)), e.sum(0)]),
    "parts of rows": ((4, 6), lambda e: [e.reshape(8, 3).sum(1), e.sum(0)]),
    "every entry": ((3, 4), lambda e: [e.sum(0), e + 0, e.sum(1)]),
}
OTHERS = {
    "columns, and sums of some rows": ((4, 6), lambda e: [e.sum(0), e[:3].sum(1)]),
    "overlapping blocks": ((4, 6), lambda e: [e[:3].sum(0), e[1:].sum(1)]),
    "axes that cross": ((4, 6), lambda e: [e.reshape(3, 8).sum(1), e.sum(0)]),
    "weighted sums": (
        (3, 3),
        lambda e: [(torch.arange(1.0, 10).reshape(3, 3) * e).sum(0), e.sum(1)],
    ),
    "signs": ((4, 4), lambda e: [(torch.tensor([1.0, 1, 1, -1]) * e).sum(1), e.sum(0)]),
    "a diagonal": ((4, 4), lambda e: [e.sum(0), e.reshape(16)[::5].sum(), e.sum(1)]),
    "shifted windows": ((12,), lambda e: [e[:8].reshape(2, 4).sum(0), e[4:].reshape(2, 4).sum(1)]),
    "twice the same entries": ((3, 4), lambda e: [e.sum(0) + e.sum(), e.sum(1)]),
}


@pytest.fixture(params=["operators", pytest.param("kernel", marks=needs_numba)])
def way(request, monkeypatch):
    """Whether torch's operators or the kernel add up; either way whatever the size."""
    monkeypatch.setattr(tuning, "MARGINS", 0 if request.param == "kernel" else math.inf)
    return request.param


def dense(equations, n):
    """A and b of equations over one parameter of n entries."""
    rows, right = [], []
    for e in equations:
        A = torch.zeros(e.rows, n, dtype=F64)
        for term in e.difference.terms:
            i, j, values = term.triplets()
            A.index_put_((i, j), values, accumulate=True)
        rows.append(A)
        right.append(e.right_side())
    return torch.cat(rows), torch.cat(right)


def equal_to(values, sums):
    """Equations that these values satisfy."""
    satisfied = []
    for e in sums:
        A, _ = dense([e == 0], values.numel())
        satisfied.append(e == (A @ values.flatten()).reshape(e.shape))
    return satisfied


@pytest.mark.parametrize("name", [*COMMUTING, *OTHERS])
def test_the_answer_is_the_projection_whatever_way_it_is_found(name, way):
    shape, sums = {**COMMUTING, **OTHERS}[name]
    W = parameter(*shape)
    equations = equal_to(torch.randn(*shape, dtype=F64), sums(expr(W)))
    A, b = dense(equations, W.numel())
    P, x0 = projlab.projector(A, b, "pinv"), W.detach().clone().flatten()
    optimizer = torch.optim.SGD([W], lr=0.1, weight_decay=0.5)
    handle = constrain(optimizer, *equations)
    blocks = handle._hooks.system.blocks
    assert any(isinstance(block, MarginsBlock) for block in blocks) == (name in COMMUTING)
    torch.testing.assert_close(W.detach().flatten(), P(x0), rtol=1e-12, atol=1e-12)
    x, g = W.detach().clone().flatten(), torch.randn_like(W)
    W.grad = g.clone()
    optimizer.step()
    # T(g + lambda x) - lambda x, to which the optimizer adds lambda x
    wanted = P.tangent(g.flatten() + 0.5 * x) - 0.5 * x
    torch.testing.assert_close(W.grad.flatten(), wanted, rtol=1e-12, atol=1e-12)
    size = A.abs() @ W.detach().flatten().abs() + b.abs()
    assert bool((handle.residual().abs() <= 8 * U[F64] * size).all())


@pytest.mark.parametrize("name", COMMUTING)
def test_sizes_that_residuals_are_judged_on(name):
    shape, sums = COMMUTING[name]
    W = parameter(*shape)
    equations = equal_to(torch.randn(*shape, dtype=F64), sums(expr(W)))
    A, b = dense(equations, W.numel())
    block = next(x for x in blocks_of([W], *equations) if isinstance(x, MarginsBlock))
    right = b[block.rows]
    with torch.no_grad():
        size = (A.abs() @ W.flatten().abs() + b.abs())[block.rows]
        torch.testing.assert_close(block.magnitude(right), size)
        assert bool((block.magnitude_at_least(right) <= size * (1 + 1e-12)).all())
        assert bool((block.magnitude_at_most(right) >= size * (1 - 1e-12)).all())
        W += torch.randn_like(W)
        r = block.residual(right)
        torch.testing.assert_close(r, (A @ W.flatten() - b)[block.rows])
        most = float(block._moved_by_rounding(r).max())
        assert most <= block._spreading * float(r.abs().max()) * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_the_kernel_is_called_for_matrices_that_lie_row_by_row(dtype, way, monkeypatch):
    """And not within what records or traces operators, which would miss it."""
    called = []
    compiled = kernels.kernel(dtype) if way == "kernel" else None
    monkeypatch.setattr(
        kernels, "kernel", lambda _: lambda *a: called.append(a[-1]) or compiled(*a)
    )

    def step(W):
        optimizer = torch.optim.SGD([W], lr=0.1)
        handle = constrain(optimizer, expr(W).sum(0) == 0.3, expr(W).sum(1) == 0.5)
        called.clear()
        W.grad = torch.randn_like(W)
        optimizer.step()
        return handle, list(called)

    W = torch.nn.Parameter(torch.randn(6, 10, dtype=dtype))
    handle, calls = step(W)
    # sums and differences, of the gradient, then of the parameter
    assert calls[:4] == ([True, False] * 2 if way == "kernel" else [])
    handle.remove()
    with Fresh():
        assert step(W)[1] == []
    for other in (torch.randn(10, 6, dtype=dtype).T, torch.randn(6, 20, dtype=dtype)[:, ::2]):
        assert step(torch.nn.Parameter(other))[1] == []
    monkeypatch.setenv("PROJLAB_NATIVE", "0")
    assert step(torch.nn.Parameter(torch.randn(6, 10, dtype=dtype)))[1] == []


def test_autograd_sees_that_the_kernel_changed_a_parameter(way):
    W = parameter(6, 10)
    optimizer = torch.optim.SGD([W], lr=0.0)
    constrain(optimizer, expr(W).sum(0) == 0.3, expr(W).sum(1) == 0.5)
    loss = (W * W).sum()
    before = W._version
    W.grad = torch.zeros_like(W)
    optimizer.step()
    assert W._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_another_variant_by_name_takes_the_rows_as_they_are():
    W = parameter(4, 5)
    (block,) = blocks_of([W], expr(W).sum(0) == 4, expr(W).sum(1) == 5, variant="qr")
    assert block.variant == "qr"
    optimizer = torch.optim.SGD([W], lr=0.1)
    with pytest.raises(projlab.InputError, match="are in one block"):
        constrain(optimizer, expr(W).sum(0) == 4, expr(W).sum(1) == 5, mode="metric")


@pytest.mark.parametrize("mode", ["tangent", "post"])
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16, torch.float16])
def test_steps_end_on_the_set_in_every_precision(dtype, mode, way):
    W = torch.nn.Parameter(torch.randn(6, 10).to(dtype))
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(0) == 0.3, expr(W).sum(1) == 0.5, mode=mode)
    for _ in range(3):
        W.grad = torch.randn(6, 10).to(dtype)
        optimizer.step()
        x = W.detach().double().abs()
        size = torch.cat([x.sum(0) + 0.3, x.sum(1) + 0.5])
        assert bool((handle.residual().abs() <= 8 * U[dtype] * size).all())


def test_a_column_that_a_gradient_scaler_skips_stays():
    W = torch.nn.Parameter(torch.rand(4, 5))
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(0) == 4, expr(W).sum(1) == 5)
    system = handle._hooks.system
    with torch.no_grad():
        W.fill_(3.0)
        system.project_(torch.tensor(True))
        assert bool((W == 3).all())
        system.project_(torch.tensor(False))
        assert not bool((W == 3).any())


def test_sums_of_parameters_that_are_not_trained_are_read_at_each_step():
    W, columns = parameter(4, 5), torch.nn.Parameter(torch.rand(5, dtype=F64), requires_grad=False)
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(
        optimizer, expr(W).sum(0) == expr(columns), expr(W).sum() == expr(columns).sum()
    )
    assert handle.blocks == ("6 rows in 20 entries: commuting means",)
    for _ in range(2):
        columns.data = torch.rand(5, dtype=F64)
        W.grad = torch.randn(4, 5, dtype=F64)
        optimizer.step()
        torch.testing.assert_close(W.detach().sum(0), columns.detach())


def test_a_large_grid_of_three_axes_in_a_matrix():
    W = torch.nn.Parameter(torch.randn(1024, 1024))
    e = expr(W)
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, e.reshape(2, 512, 1024).sum((0, 2)) == 0, e.sum(0) == 0)
    (block,) = handle._hooks.system.blocks
    assert isinstance(block, MarginsBlock)
    x = W.detach().double().abs()
    size = torch.cat([x.view(2, 512, 1024).sum((0, 2)), x.sum(0)])
    assert bool((handle.residual().abs() <= 8 * U[torch.float32] * size).all())


# ---- contradictions


def test_sums_that_do_not_agree_are_named():
    W = parameter(3, 4)
    before = W.detach().clone()
    optimizer = torch.optim.SGD([W], lr=0.1)
    message = (
        r"by \(W0\[:, 0\]\.sum\(\) == 1\) and 3 more rows the same entries add up to 4, "
        r"but by \(W0\[0\]\.sum\(\) == 1\) and 2 more rows the same entries add up to 3"
    )
    with pytest.raises(projlab.InconsistentError, match=message):
        constrain(optimizer, expr(W).sum(0) == 1, expr(W).sum(1) == 1)
    assert torch.equal(W.detach(), before)


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2)])
def test_any_two_of_three_are_compared(pair):
    W = parameter(3, 4, 5)
    sums = [expr(W).sum(0), 2 * expr(W).sum(1), expr(W).sum((1, 2))]
    equations = equal_to(torch.randn(3, 4, 5, dtype=F64), [sums[i] for i in pair])
    off = equations[1].right_side().reshape(equations[1].shape).clone()
    off.view(-1)[-1] += 0.1
    optimizer = torch.optim.SGD([W], lr=0.1)
    with pytest.raises(projlab.InconsistentError, match="add up to"):
        constrain(optimizer, equations[0], sums[pair[1]] == off)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("shape", [(3, 7), (40, 30)])
def test_what_counts_as_rounding_is_what_counts_everywhere(dtype, shape):
    """Contradictions are refused from the size on from which a projector refuses them."""
    torch.manual_seed(0)
    V = torch.rand(*shape, dtype=F64)
    W = torch.nn.Parameter(torch.randn(*shape, dtype=F64))
    refused = {}
    for who in ("constrain", "projector"):
        for exponent in range(-56, 0):
            rows = (V.sum(1) + 2.0**exponent).to(dtype)
            A, _ = dense([expr(W).sum(0) == 0, expr(W).sum(1) == 0], W.numel())
            try:
                if who == "constrain":
                    optimizer = torch.optim.SGD([W], lr=0.1)
                    constrain(
                        optimizer, expr(W).sum(0) == V.sum(0).to(dtype), expr(W).sum(1) == rows
                    )
                else:
                    b = torch.cat([V.sum(0).to(dtype), rows])
                    projlab.projector(A.to(dtype), b)
            except projlab.InconsistentError:
                refused[who] = exponent
                break
    assert refused["projector"] - 1 <= refused["constrain"] <= refused["projector"] + 2


# ---- cost


def test_a_large_matrix_costs_what_its_sums_cost():
    W = torch.nn.Parameter(torch.randn(1024, 2048))
    optimizer = torch.optim.SGD([W], lr=0.1)
    small = torch.nn.Parameter(torch.randn(2, 2))
    constrain(torch.optim.SGD([small], lr=0.1), expr(small).sum(0) == 1, expr(small).sum(1) == 1)
    tracemalloc.start()
    with Fresh() as fresh:
        handle = constrain(optimizer, expr(W).sum(0) == 1024, expr(W).sum(1) == 2048)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(fresh.sizes) <= W.numel() / 4
    assert peak < 1e6
    (block,) = handle._hooks.system.blocks
    held = held_bytes(vars(block), besides=[W])
    assert held <= 40 * 3072  # the numbers of rows, twice, and five numbers a row
    W.grad = torch.randn_like(W)
    hooks = handle._hooks
    with Fresh() as fresh:
        hooks._before(optimizer, (optimizer,), {})
        hooks._after(optimizer)
    assert fresh.sizes
    assert max(fresh.sizes) <= 16 * 2048
