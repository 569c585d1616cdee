"""Entries that are equal up to signs and offsets, and rows that only look like it."""

import pytest
import torch

import projlab
from projlab import cat, constrain, expr
from projlab.training.blocks.ties import TiesBlock
from tests.projlab.training.helpers import F64, U, blocks_of, parameter

N = 24


def coefficients(equations, *parameters):
    """A and b over the parameters one after the other."""
    starts = dict(zip(map(id, parameters), [0, *(p.numel() for p in parameters)], strict=False))
    rows, right = [], []
    for e in equations:
        A = torch.zeros(e.rows, sum(p.numel() for p in parameters), dtype=F64)
        for term in e.difference.terms:
            i, j, values = term.triplets()
            A.index_put_((i, j + starts[id(term.parameter)]), values, accumulate=True)
        rows.append(A)
        right.append(e.right_side())
    return torch.cat(rows), torch.cat(right)


def circulant(W):
    e = expr(W)
    return [e[:-1, :-1] == e[1:, 1:], e[:-1, -1] == e[1:, 0]]


TIES = {
    "symmetric": lambda W, p: [expr(W) == expr(W).T],
    "skew-symmetric": lambda W, p: [expr(W) == -expr(W).T],
    "circulant": lambda W, p: circulant(W),
    "Toeplitz": lambda W, p: [expr(W)[:-1, :-1] == expr(W)[1:, 1:]],
    "a chain with steps": lambda W, p: [expr(p)[1:] - expr(p)[:-1] == torch.arange(23.0)],
    "a chain of sums": lambda W, p: [expr(p)[1:] + expr(p)[:-1] == 1],
    "a star": lambda W, p: [3 * expr(p)[1:] - 3 * expr(p)[0] == 0.5],
    "a cycle": lambda W, p: [expr(p) == expr(p)[[*range(1, N), 0]]],
    "a cycle with steps": lambda W, p: [
        expr(p)[1:] - expr(p)[:-1] == 1,
        expr(p)[-1] - expr(p)[0] == N - 1,
    ],
    "two parameters": lambda W, p: [
        expr(W)[0] == expr(p)[:5],
        expr(p)[:5] == -expr(p)[5:10] + torch.arange(5.0),
    ],
    "a symmetric matrix that differs by a constant": lambda W, p: [
        expr(W) - expr(W).T == torch.arange(5.0) - torch.arange(5.0).unsqueeze(1)
    ],
}
OTHERS = {
    "coefficients of two sizes": lambda W, p: [expr(p)[1:] == 2 * expr(p)[:-1]],
    "a cycle of odd signs": lambda W, p: [
        expr(p)[1:3] == expr(p)[:2],
        expr(p)[2] == -expr(p)[0],
    ],
    "one entry is given": lambda W, p: [expr(p)[1:4] == expr(p)[:3], expr(p)[0] == 1],
    "three entries": lambda W, p: [expr(p)[1:4] == expr(p)[:3], expr(p)[:3].sum() == 3],
}


@pytest.mark.parametrize("name", [*TIES, *OTHERS])
def test_the_answer_is_the_projection_whatever_way_it_is_found(name):
    W, p = parameter(5, 5), parameter(N)
    equations = {**TIES, **OTHERS}[name](W, p)
    A, b = coefficients(equations, W, p)
    P, x0 = projlab.projector(A, b, "pinv"), torch.cat([W.detach().flatten(), p.detach()])
    optimizer = torch.optim.SGD([W, p], lr=0.1, weight_decay=0.5)
    handle = constrain(optimizer, *equations)
    tied = [b for b in handle._hooks.system.blocks if isinstance(b, TiesBlock)]
    assert bool(tied) == (name in TIES)
    x = torch.cat([W.detach().flatten(), p.detach()])
    torch.testing.assert_close(x, P(x0), rtol=1e-12, atol=1e-12)
    g = torch.randn_like(x)
    W.grad, p.grad = g[:25].reshape(5, 5).clone(), g[25:].clone()
    optimizer.step()
    # T(g + lambda x) - lambda x, to which the optimizer adds lambda x
    projected = torch.cat([W.grad.flatten(), p.grad])
    wanted = P.tangent(g + 0.5 * x) - 0.5 * x
    torch.testing.assert_close(projected, wanted, rtol=1e-12, atol=1e-12)
    x = torch.cat([W.detach().flatten(), p.detach()])
    size = A.abs() @ x.abs() + b.abs() + 1e-30  # entries that are zero may be tiny
    assert bool((handle.residual().abs() <= 8 * U[F64] * size).all())


@pytest.mark.parametrize("name", TIES)
def test_residuals_and_what_they_are_judged_on(name):
    W, p = parameter(5, 5), parameter(N)
    equations = TIES[name](W, p)
    A, b = coefficients(equations, W, p)
    (block,) = (b for b in blocks_of([W, p], *equations) if isinstance(b, TiesBlock))
    with torch.no_grad():
        W += torch.randn_like(W)
        p += torch.randn_like(p)
        x, right = torch.cat([W.flatten(), p]), b[block.rows]
        torch.testing.assert_close(block.residual(right), (A @ x - b)[block.rows])
        torch.testing.assert_close(
            block.magnitude(right), (A.abs() @ x.abs() + b.abs())[block.rows]
        )


def test_entries_without_an_offset_are_equal_to_the_last_bit():
    W = torch.nn.Parameter(torch.randn(30, 30))
    optimizer = torch.optim.Adam([W], lr=0.1)
    handle = constrain(optimizer, *circulant(W))
    for _ in range(3):
        W.grad = torch.randn(30, 30)
        optimizer.step()
    assert handle.residual().abs().max() == 0
    assert handle.largest_residual == 0


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("step", [0.0, 0.1])
def test_long_chains_hold_in_every_precision(dtype, step):
    p = torch.nn.Parameter(torch.randn(3000).to(dtype))
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p)[1:] - expr(p)[:-1] == step)
    for _ in range(3):
        p.grad = torch.randn(3000).to(dtype)
        optimizer.step()
        x = p.detach().double().abs()
        size = x[1:] + x[:-1] + step
        assert bool((handle.residual().abs() <= 8 * U[dtype] * size).all())


def test_a_group_that_holds_stays_where_another_does_not():
    W = torch.nn.Parameter(torch.randn(4, 4))
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, expr(W) == expr(W).T)
    before = W.detach().clone()
    W.detach()[0, 1] += 1
    handle.apply()
    assert W[0, 1] == W[1, 0] != before[0, 1]
    before[0, 1] = before[1, 0] = W[0, 1].detach()
    assert torch.equal(W.detach(), before)
    with torch.no_grad():
        W[0, 1] += 1
        moved = W.detach().clone()
        handle._hooks.system.project_(torch.tensor(True))
        assert torch.equal(W.detach(), moved)


def test_offsets_that_are_parameters_are_read_at_each_step():
    p, steps = parameter(6), torch.nn.Parameter(torch.rand(5, dtype=F64), requires_grad=False)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p)[1:] - expr(p)[:-1] == expr(steps))
    assert handle.blocks == ("5 rows in 6 entries: means of tied entries",)
    for _ in range(2):
        steps.data = torch.rand(5, dtype=F64)
        p.grad = torch.randn(6, dtype=F64)
        optimizer.step()
        torch.testing.assert_close(p.detach().diff(), steps.detach())


def test_a_variant_by_name_and_a_metric_take_no_ties():
    W = parameter(4, 4)
    blocks = blocks_of([W], expr(W) == -expr(W).T, variant="qr")
    assert not any(isinstance(block, TiesBlock) for block in blocks)
    optimizer = torch.optim.SGD([W], lr=0.1)
    with pytest.raises(projlab.InputError, match="are in one block"):
        constrain(optimizer, expr(W) == -expr(W).T, mode="metric")


def test_a_cycle_that_does_not_close_is_named():
    p = parameter(N)
    e = expr(p)
    optimizer = torch.optim.SGD([p], lr=0.1)
    before = p.detach().clone()
    with pytest.raises(projlab.InconsistentError, match=r"p0\[23\] - p0\[0\] == 22\) = \(p0\[1\]"):
        constrain(optimizer, e[1:] - e[:-1] == 1, e[-1] - e[0] == 22)
    assert torch.equal(p.detach(), before)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_what_counts_as_rounding_is_what_counts_everywhere(dtype):
    p = parameter(N)
    e = expr(p)
    b = torch.arange(1.0, N, dtype=dtype) / 3
    refused = {}
    for who in ("constrain", "projector"):
        for exponent in range(-52, 4):
            last = (b.double().sum() + 2.0**exponent).to(dtype)
            equations = [e[1:] - e[:-1] == b, e[-1] - e[0] == last]
            try:
                if who == "constrain":
                    constrain(torch.optim.SGD([p], lr=0.1), *equations)
                else:
                    A, _ = coefficients(equations, p)
                    projlab.projector(A.to(dtype), torch.cat([b, last.reshape(1)]))
            except projlab.InconsistentError:
                refused[who] = exponent
                break
    assert refused["constrain"] == refused["projector"]


def test_ties_of_many_parameters_in_one_expression():
    ps = [parameter(3) for _ in range(3)]
    total = cat(*map(expr, ps))
    blocks = blocks_of(ps, total[:-1] == total[1:])
    assert [type(b) for b in blocks] == [TiesBlock]
    mean = ps[0][0].detach()
    assert all(bool((p == mean).all()) for p in ps)
