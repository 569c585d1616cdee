"""Sparse rows in training: what the dense block would give, without a dense matrix."""

import copy

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import projlab
from projlab import cat, constrain, expr
from projlab.numerics import tuning
from projlab.training.blocks.matrix import MatrixBlock
from projlab.training.blocks.sparse import SparseBlock
from tests.projlab.training.helpers import F64, SETTINGS, Example, Fresh, U, train

ROUNDINGS = 64
"""Of agreement between two ways to the same tangent or point, in units of u and of the largest
entry, or of the gradient's: both are sums of some dozens of terms, and conditions are small."""


def grid_flow(k, turned=False):
    """(k k, edges): what leaves each node of a grid less what enters it; rows add up to zero."""
    nodes = np.arange(k * k).reshape(k, k)
    pairs = [(nodes[:, :-1], nodes[:, 1:]), (nodes[:-1], nodes[1:])]
    tails, heads = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    edges = np.arange(len(tails))
    values = np.repeat([1.0, -1.0], len(edges)) * (2.0 if turned else 1.0)
    where = (np.concatenate([tails, heads]), np.tile(edges, 2))
    return sp.csr_array((values, where), shape=(k * k, len(edges)))


def supplies(S, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.from_numpy(S @ torch.randn(S.shape[1], generator=draw, dtype=F64).numpy())


@pytest.fixture
def sparse(monkeypatch):
    """Sparse factors for "auto" whatever they cost beside dense ones."""
    for name in ("SET_UP", "ROW", "PREPARED", "FILL", "FACTORED", "STEP", "ENTRY"):
        monkeypatch.setattr(tuning, f"SPARSE_{name}", 0)
    for name in ("SMALL_SET_UP", "APART"):
        monkeypatch.setattr(tuning, name, 0)


def weights(*shapes, dtype=F64, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=draw, dtype=dtype)) for s in shapes]


def blocks_of(handle):
    return handle._hooks.system.blocks


def flows(dtype=F64):
    """A flow whose edges lie in a vector, a transposed matrix and every second entry of one.

    Without the edges of the first the graph is still connected.
    """
    S = grid_flow(4)
    v, W, z = weights(9, (3, 3), 12, dtype=dtype)
    W = torch.nn.Parameter(W.detach().T.contiguous().T)
    edges = cat(expr(v), expr(W).reshape(9), expr(z)[::2])
    return [v, W, z], S @ edges == supplies(S)


def stepped(make, variant, steps=3, held=(), frozen=(), dtype=F64, **settings):
    """Parameters and gradients after a few steps, one way or the other."""
    parameters, equation = make(dtype)
    optimizer = torch.optim.SGD(parameters, lr=0.1, **settings)
    handle = constrain(optimizer, equation, variant=variant)
    for i in frozen:
        parameters[i].requires_grad_(False)
    draw = torch.Generator().manual_seed(2)
    for _ in range(steps):
        for i, p in enumerate(parameters):
            g = torch.randn(p.shape, generator=draw, dtype=dtype)
            p.grad = None if i in held or i in frozen else torch.empty_like(p).copy_(g)
        optimizer.step()
    values = [p.detach() for p in parameters]
    return values, [p.grad for p in parameters if p.grad is not None], handle


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "settings",
    [{}, {"weight_decay": 0.1}, {"held": (1,)}, {"frozen": (0,)}, {"held": (0, 2), "steps": 1}],
)
def test_as_the_dense_block_gives(dtype, settings, sparse):
    given = stepped(flows, "auto", dtype=dtype, **settings)
    wanted = stepped(flows, "pinv", dtype=dtype, **settings)
    (block,) = blocks_of(given[2])
    assert isinstance(block, SparseBlock)
    assert block.shape == (1, 16, 24 - (9 if settings.get("frozen") else 0))
    assert isinstance(blocks_of(wanted[2])[0], MatrixBlock)
    for found, exact in zip(given[0] + given[1], wanted[0] + wanted[1], strict=True):
        allowed = ROUNDINGS * U[dtype] * max(float(exact.abs().max()), 1.0)
        torch.testing.assert_close(found, exact, rtol=0, atol=allowed)
    rows = 8 * U[dtype] * max(float(p.detach().abs().sum()) for p in given[0])
    assert given[2].residual().abs().max() <= rows + 8 * U[dtype] * supplies(grid_flow(4)).max()


def flow_example():
    """Flow on a 3 x 3 grid, as a matrix of 3 x 4 edges; one row follows from the others."""
    S = grid_flow(3)
    (W,) = weights((3, 4))
    target = torch.linspace(-1, 2, 12, dtype=F64)
    b = supplies(S)
    optimum = projlab.projector(torch.from_numpy(S.toarray()), b, "pinv")(target)
    return Example([W], target, [S @ expr(W).reshape(12) == b], optimum)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_optimizer_ends_at_the_constrained_optimum(name, sparse):
    problem = flow_example()
    handle = train(problem, SETTINGS[name], "tangent")
    assert isinstance(blocks_of(handle)[0], SparseBlock)
    assert problem.distance() <= SETTINGS[name].reach
    assert handle.largest_residual <= 1e-14
    assert handle.certify(accuracy=1e-14).verdict == "certified"


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.post])
def test_post_ends_there_too(name, sparse):
    problem = flow_example()
    train(problem, SETTINGS[name], "post")
    assert problem.distance() <= SETTINGS[name].reach


def test_metric_is_refused_for_rows_that_share_entries(sparse):
    problem = flow_example()
    with pytest.raises(projlab.InputError, match='mode="metric" takes rows that share no'):
        constrain(torch.optim.Adam(problem.parameters), *problem.equations, mode="metric")


def test_freezing_and_thawing(sparse):
    (v, W, z), equation = flows()
    optimizer = torch.optim.SGD([v, W, z], lr=0.1, momentum=0.9)
    handle = constrain(optimizer, equation)

    def ramp(p):
        # not ones, which are the differences of a potential: none of that is in the null space
        return torch.arange(p.numel(), dtype=F64, device="cpu").square().reshape(p.shape) / 10

    def step():
        for p in (v, W, z):
            p.grad = ramp(p) if p.requires_grad else None
        optimizer.step()
        assert handle.residual().abs().max() <= 1e-13

    step()
    v.requires_grad_(False)
    before = v.detach().clone()
    step()
    step()
    assert torch.equal(v, before)
    assert blocks_of(handle)[0].shape[2] == 15
    v.requires_grad_(True)
    step()
    assert not torch.equal(v, before)
    assert isinstance(blocks_of(handle)[0], SparseBlock)


def test_resuming_and_copies(sparse):
    problem, twin = flow_example(), flow_example()
    optimizer, other = (torch.optim.Adam(p.parameters, lr=0.1) for p in (problem, twin))
    handle = constrain(optimizer, *problem.equations)

    def steps(example, optimizer):
        for _ in range(5):
            optimizer.zero_grad()
            example.loss().backward()
            optimizer.step()

    steps(problem, optimizer)
    with torch.no_grad():
        twin.parameters[0].copy_(problem.parameters[0])
    constrain(other, *twin.equations)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    memo = {}
    copied = copy.deepcopy(optimizer, memo)
    p = memo[id(problem.parameters[0])]
    third = Example([p], problem.target, [], problem.optimum)
    for pair in ((problem, optimizer), (twin, other), (third, copied)):
        steps(*pair)
    assert torch.equal(problem.parameters[0], twin.parameters[0])
    assert torch.equal(problem.parameters[0], p)
    assert handle.residual().abs().max() <= 1e-14


def test_redundant_and_contradicting_rows(sparse):
    S = grid_flow(4)
    twice, b = sp.vstack([S, 3 * S]).tocsr(), supplies(S)
    (x,) = weights(24)
    before = x.detach().clone()
    handle = constrain(torch.optim.SGD([x], lr=0.1), twice @ expr(x) == torch.cat([b, 3 * b]))
    P = projlab.projector(torch.from_numpy(S.toarray()), b, "pinv")
    torch.testing.assert_close(x.detach(), P(before), rtol=0, atol=1e-14)
    assert isinstance(blocks_of(handle)[0], SparseBlock)
    off = b.clone()
    off[5] += 1.0
    moved = x.detach().clone()
    with pytest.raises(projlab.InconsistentError, match=r"contradict each other.*A @ p0\)\[5\]"):
        constrain(torch.optim.SGD([x], lr=0.1), S @ expr(x) == off)
    assert torch.equal(x, moved)


def test_a_contradiction_among_too_many_rows_to_decide_is_named(sparse, monkeypatch):
    monkeypatch.setattr(tuning, "DECIDABLE", 0)
    monkeypatch.setattr(projlab.numerics.memory, "factorisation_bytes", lambda *_: 10**18)
    S = grid_flow(4)
    (x,) = weights(24)
    off = supplies(S)
    off[5] += 1.0
    with pytest.raises(projlab.InconsistentError, match=r"\(A @ p0\)\[\d+\].* is off at"):
        constrain(torch.optim.SGD([x], lr=0.1), S @ expr(x) == off)


@pytest.mark.parametrize("alike", [True, False])
def test_several_flows(alike, sparse):
    """Equal ones are one block of several; others of one shape are blocks of their own."""
    S = grid_flow(4)
    T = S if alike else sp.csr_array(S.toarray()[:, ::-1])
    (W,) = weights((2, 24))
    before, b = W.detach().clone(), torch.stack([supplies(S), supplies(T, 3)])
    equations = [A @ expr(W)[i] == b[i] for i, A in enumerate((S, T))]
    handle = constrain(torch.optim.SGD([W], lr=0.1), *equations)
    shapes = [block.shape for block in blocks_of(handle)]
    assert shapes == ([(2, 16, 24)] if alike else [(1, 16, 24)] * 2)
    assert all(isinstance(block, SparseBlock) for block in blocks_of(handle))
    for i, A in enumerate((S, T)):
        wanted = projlab.projector(torch.from_numpy(A.toarray()), b[i], "pinv")(before[i])
        torch.testing.assert_close(W[i].detach(), wanted, rtol=0, atol=1e-14)
    moved, b[1, 3] = W.detach().clone(), 10.0
    equations = [A @ expr(W)[i] == b[i] for i, A in enumerate((S, T))]
    with pytest.raises(projlab.InconsistentError, match=r"A @ W0\[1\]\)\[3\]|\[1\].*contradict"):
        constrain(torch.optim.SGD([W], lr=0.1), *equations)
    assert torch.equal(W, moved)


def test_dense_rows_beside_a_flow_do_not_make_it_dense(sparse):
    S = grid_flow(6)
    (x,) = weights(60)
    before = x.detach().clone()
    a = torch.randn(1, 60, generator=torch.Generator().manual_seed(4), dtype=F64)
    b = supplies(S)
    handle = constrain(torch.optim.SGD([x], lr=0.1), S @ expr(x) == b, a @ expr(x) == 1.0)
    (block,) = blocks_of(handle)
    assert isinstance(block, SparseBlock)
    A = torch.cat([torch.from_numpy(S.toarray()), a])
    wanted = projlab.projector(A, torch.cat([b, torch.ones(1, dtype=F64)]), "pinv")(before)
    torch.testing.assert_close(x.detach(), wanted, rtol=0, atol=1e-13)


def test_nothing_of_the_size_of_the_matrix_is_made():
    """By what "auto" decides on its own: 900 x 1740 takes a fiftieth of the time sparse."""
    S = grid_flow(30)
    m, n = S.shape
    (x,) = weights(n, dtype=torch.float32)
    optimizer = torch.optim.Adam([x], lr=0.01)
    equation = S @ expr(x) == supplies(S)
    with Fresh() as seen:
        handle = constrain(optimizer, equation)
        for _ in range(2):
            x.grad = torch.randn(n)
            optimizer.step()
    assert isinstance(blocks_of(handle)[0], SparseBlock)
    assert max(seen.sizes) <= 8 * n  # probes, and triplets
    assert m * n > 100 * max(seen.sizes)
    assert handle.largest_residual <= 8 * U[torch.float32] * 16


def test_a_gradient_that_is_not_finite_does_not_hang(sparse):
    problem = flow_example()
    optimizer = torch.optim.SGD(problem.parameters, lr=0.1)
    constrain(optimizer, *problem.equations)
    problem.parameters[0].grad = torch.full((3, 4), torch.nan, dtype=F64)
    optimizer.step()
    assert bool(problem.parameters[0].isnan().any())


def test_constants_are_where_the_parameters_are():
    """So that no step copies coefficients from the host."""
    S = grid_flow(4)
    x, y = weights(24, 16)
    optimizer = torch.optim.SGD([x], lr=0.1)
    with torch.no_grad():
        y.copy_(supplies(S, 5))
    handle = constrain(optimizer, S @ expr(x) - expr(y)[torch.arange(16)] == 0)
    with torch.no_grad():
        y.copy_(supplies(S))
    handle.apply()
    torch.testing.assert_close(torch.from_numpy(S @ x.detach().numpy()), y.detach())
    for _, _, term in handle._hooks.system._constants:
        values = getattr(term, "values", None)
        assert values is None or values.device == y.device


def test_rows_are_judged_by_their_own_sizes():
    """Rows are kept in the order of their elimination; of unlike sizes, none takes another's."""
    scales = torch.logspace(0, 6, 30, dtype=torch.float64)
    D = torch.zeros(30, 35, dtype=torch.float64)
    for i in range(30):
        D[i, i : i + 3] = torch.tensor([-1.0, 1.0, 0.5], dtype=torch.float64) * scales[i]
    p = torch.nn.Parameter(torch.randn(35, dtype=torch.float64))
    handle = projlab.constrain(
        torch.optim.SGD([p], lr=0.1),
        D.to_sparse() @ projlab.expr(p) == scales,
        variant="sparse_cholesky",
    )
    (block,) = handle._hooks.system.blocks
    sizes = block.magnitude(block.right_side(scales))
    expected = D.abs() @ p.detach().abs() + scales
    torch.testing.assert_close(sizes, expected[block.rows])
