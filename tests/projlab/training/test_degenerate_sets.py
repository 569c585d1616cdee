"""Sets on the edge: rows without a right side, vertices, empty by little, ascent beside descent."""

import copy
import warnings

import numpy as np
import pytest
import torch

import projlab
from projlab import constrain, expr, nn, projector, tolerance
from projlab.engine.polyhedra.interior import Interior
from projlab.engine.polyhedra.systems import system_of

F64 = torch.float64
INF = float("inf")
U = tolerance.unit_roundoff(F64)


def parameter(values):
    return torch.nn.Parameter(torch.as_tensor(values, dtype=F64).clone())


def integers(generator, low, high, *shape):
    return torch.randint(low, high, shape, generator=generator).to(F64)


# ---- rows without a right side


def test_an_infinite_side_of_a_row_is_none():
    p = parameter([0, 0])
    H = constrain(torch.optim.SGD([p]), expr(p).sum() >= 3, expr(p).sum() <= INF)
    assert p.tolist() == [1.5, 1.5]
    assert H.residual().tolist() == [0, 0]
    P = projector(G=[[1.0, 1], [0.0, 1], [-1, 0]], h=[INF, 0.0, 0.0])
    assert torch.allclose(P(torch.tensor([-1.0, 2.0], dtype=F64)), torch.zeros(2, dtype=F64))


def test_an_interior_point_holds_no_row_without_a_right_side():
    G = torch.tensor([[1.0, 1], [0, 1], [-1, 0]], dtype=F64)
    system = system_of(projlab.Polyhedron(G=G, h=[1.0, 0, 0]))
    x, free = torch.tensor([[-1.0, 2]], dtype=F64), torch.full((1, 2), INF, dtype=F64)
    problem = Interior(system, x, torch.tensor([[INF, 0, 0]], dtype=F64), -free, free)
    for _ in range(30):
        problem.step()
        assert not problem.face().active[0, 0]
    assert torch.allclose(problem.x, torch.zeros(1, 2, dtype=F64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("lb", [-INF, 0.0])
@pytest.mark.parametrize("seed", range(40))
def test_rows_without_a_right_side_are_as_if_they_were_not_there(seed, lb):
    generator = torch.Generator().manual_seed(seed)
    n, p = 1 + seed % 5, 2 + seed % 6
    G = integers(generator, -2, 3, p, n)
    h = torch.rand(p, generator=generator, dtype=F64).round(decimals=1)
    there = torch.rand(p, generator=generator) < 0.6
    there[0] = True
    x = 3 * torch.randn(n, generator=generator, dtype=F64)
    sides = torch.where(there, h, INF)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", projlab.NotPolishedWarning)  # by less than is asked below
        expected = projector(G=G[there], h=h[there], lb=lb)(x)
        found = projector(G=G, h=sides, lb=lb)(x)
    size = 100 * n * U * float(x.abs().max())
    assert torch.allclose(found, expected, rtol=0, atol=size)
    q = parameter(x)
    constrain(torch.optim.SGD([q]), G @ expr(q) <= sides, expr(q) >= lb)
    assert torch.allclose(q, expected, rtol=0, atol=size)


# ---- one row with bounds


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_vectors_that_lie_by_columns(dtype):
    draw = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    P = projector(torch.ones(3, dtype=dtype), 1.0, lb=0.0)
    assert torch.equal(P(draw.T), P(draw.T.contiguous()))
    layer = nn.Projection(torch.ones(3, dtype=dtype), 1.0, lb=0.0, dim=0)
    assert torch.equal(layer(draw), P(draw.T).T)
    W = torch.nn.Parameter(torch.full((3, 2), 1 / 3, dtype=dtype))
    optimizer = torch.optim.Adam([W], lr=0.1)
    H = constrain(optimizer, expr(W).sum(dim=0) == 1, expr(W) >= 0)
    W.grad = torch.tensor([[1.0, 0], [0, 2], [0, 0]], dtype=dtype)
    optimizer.step()
    assert H.steps == 1
    assert float(H.residual().abs().max()) <= 4 * tolerance.unit_roundoff(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_right_side_below_the_rounding_of_x(dtype):
    u = tolerance.unit_roundoff(dtype)
    x = torch.tensor([0.9, 0.4, -0.2], dtype=dtype)
    for right, point in ((1.0, x / u), (u / 16, x)):
        P = projector(torch.ones(3, dtype=dtype), right, lb=0.0)
        assert torch.allclose(P(point), torch.tensor([right, 0, 0], dtype=dtype))
        Q = projector(G=torch.ones(1, 3, dtype=dtype), h=right, lb=0.0)
        assert torch.allclose(Q(point), torch.tensor([right, 0, 0], dtype=dtype))
    two = projector(torch.ones(2, dtype=dtype), u / 16, lb=0.0)(torch.ones(2, dtype=dtype))
    assert two.tolist() == [u / 32, u / 32]


# ---- size


@pytest.mark.parametrize("size", [1e-300, 1e-162, 1e-99, 1e101, 1e150])
def test_everything_scales_together(size):
    x = torch.tensor([0.9, 0.4, -0.2], dtype=F64)
    G, ones = torch.tensor([[1.0, -1, 0]], dtype=F64), torch.ones(3, dtype=F64)
    P = projector(ones, size, G=G, h=0.0, lb=0.0, ub=0.6 * size)
    for _ in range(2):
        y = P(x * size)
        assert torch.allclose(y / size, torch.tensor([0.5, 0.5, 0], dtype=F64), rtol=0, atol=8 * U)
        assert P.certify(x * size, y).verdict == "certified"
    if size < 1:
        with pytest.raises(projlab.InconsistentError, match="1 \\* row 0"):
            projector(ones, 2 * size, G=G, h=0.0, lb=0.0, ub=0.6 * size)


@pytest.mark.parametrize("before", [1e-8, 1e10, 1e16, 1e50])
@pytest.mark.parametrize("seed", range(12))
def test_a_search_does_not_remember_another_size(seed, before):
    generator = torch.Generator().manual_seed(seed)
    G = integers(generator, -1, 2, 3, 4)
    G[:, 0] = 1
    h, x = torch.rand(3, generator=generator, dtype=F64), torch.randn(4, generator=generator)
    P, x = projector(G=G, h=h, lb=0.0), x.double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", projlab.NotPolishedWarning)
        P(x, h=h * before)
        P(x * before, h=h * before)
        expected = projector(G=G, h=h, lb=0.0)(x)
        assert torch.allclose(P(x), expected, rtol=0, atol=1e3 * U)


# ---- memory


def test_parameters_that_overlap_are_refused():
    base = torch.ones(8)
    a, b = torch.nn.Parameter(base[:2]), torch.nn.Parameter(base[1:3])
    with pytest.raises(projlab.InputError, match="p0 and p1 overlap in memory"):
        constrain(torch.optim.SGD([a, b]), expr(a).sum() + expr(b).sum() == 1)
    assert base.tolist() == [1.0] * 8
    for shape, strides in (((3,), (0,)), ((3, 3), (1, 1)), ((2, 3), (4, 2))):
        one = torch.nn.Parameter(torch.ones(9).as_strided(shape, strides))
        with pytest.raises(projlab.InputError, match="one number of memory at several places"):
            constrain(torch.optim.SGD([one]), expr(one).sum() == 1)
    even, odd = torch.nn.Parameter(base[::2]), torch.nn.Parameter(base[1::2])
    constrain(torch.optim.SGD([even, odd]), expr(even).sum() + expr(odd).sum() == 1)
    assert abs(float(base.sum()) - 1) <= 8 * tolerance.unit_roundoff("float32")


def test_parameters_that_overlap_in_the_memory_of_an_array_are_refused():
    array = np.ones(8)
    a, b = (torch.nn.Parameter(torch.from_numpy(part)) for part in (array[:5], array[4:]))
    with pytest.raises(projlab.InputError, match="p0 and p1 overlap in memory"):
        constrain(torch.optim.SGD([a, b]), expr(a).sum() + expr(b).sum() == 1)
    a, b = (torch.nn.Parameter(torch.from_numpy(part)) for part in (array[:4], array[4:]))
    constrain(torch.optim.SGD([a, b]), expr(a).sum() + expr(b).sum() == 1)
    assert abs(float(array.sum()) - 1) <= 8 * U


def test_the_mean_of_nothing_is_refused():
    with pytest.raises(projlab.InputError, match="mean of no entries"):
        expr(parameter([1.0, 2.0]))[:0].mean()


# ---- prices


@pytest.mark.parametrize(
    ("rows", "start", "end"),
    [
        ([[-1, -1], [-1, 1]], [-2, 2], [0, 0]),
        ([[-1, -1, 1], [-1, 0, -1], [1, 1, -1]], [3, 1, -1], [1, 0, 1]),
    ],
)
def test_prices_where_a_search_ends_beside_a_vertex(rows, start, end):
    M, start = torch.tensor(rows, dtype=F64), torch.tensor(start, dtype=F64)
    p = parameter(start)
    optimizer = torch.optim.SGD([p])
    H = constrain(optimizer, M @ expr(p) <= 0, expr(p) >= 0)
    assert p.tolist() == end
    p.grad = p.detach() - start
    y, bounds = H.multipliers()
    assert float((p.grad + M.T @ y - bounds).abs().max()) <= 100 * U * float(start.abs().max())


@pytest.mark.parametrize("seed", range(60))
def test_prices_at_degenerate_points_balance_the_gradient(seed):
    """g + M'y - l = 0, y and l at least 0, and zero where there is room."""
    generator = torch.Generator().manual_seed(seed)
    M = integers(generator, -1, 2, 1 + seed % 4, 1 + seed // 4 % 4)
    M[:, 0] = torch.where((M != 0).any(1), M[:, 0], 1)
    start = integers(generator, -3, 4, M.shape[1])
    p = parameter(start)
    optimizer = torch.optim.SGD([p])
    H = constrain(optimizer, M @ expr(p) <= 0, expr(p) >= 0)
    p.grad = p.detach() - start
    y, bounds = H.multipliers()
    allowed = 100 * U * max(1.0, float(start.abs().max()))
    assert float((p.grad + M.T @ y - bounds).abs().max()) <= allowed
    assert min(y.tolist() + bounds.tolist()) >= 0
    assert float((y * (M @ p.detach())).abs().max()) <= allowed
    assert float((bounds * p.detach()).abs().max()) <= allowed


# ---- empty sets


@pytest.mark.parametrize("apart", [1e-5, 1e-8, 1e-12])
def test_sets_that_are_empty_by_little_are_refused_with_the_proof(apart):
    p = parameter([0, 0])
    with pytest.raises(projlab.InconsistentError, match="asks for a sum"):
        constrain(torch.optim.SGD([p]), expr(p).sum() <= 1, expr(p).sum() >= 1 + apart)
    assert p.tolist() == [0, 0]
    ones = torch.ones(1, 2, dtype=F64)
    with pytest.raises(projlab.InconsistentError, match="1 \\* row 0 \\+ 1 \\* inequality 0"):
        projector(ones, [1.0], G=-ones, h=[-1 - apart])(torch.zeros(2, dtype=F64))


def test_rounding_of_the_data_makes_no_set_empty():
    ones = torch.ones(1, 2, dtype=F64)
    projector(ones, [1.0], G=-ones, h=[-1 - 2 * U])(torch.zeros(2, dtype=F64))
    narrow = ones.float()
    near = projector(narrow, [1.0], G=-narrow, h=torch.tensor([-1 - 2.0**-23]))
    with pytest.warns(projlab.NotPolishedWarning):  # and said
        near(torch.zeros(2))


# ---- equations


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.NAdam])
def test_ascent_beside_descent_ends_at_the_saddle(make, decay):
    """Ascent of -(p - 1)^2 and descent of (q - 1)^2: the least of both with p + 2 q = 1."""
    p, q = parameter([0.0]), parameter([0.0])
    groups = [{"params": [p], "maximize": True}, {"params": [q]}]
    optimizer = make(groups, lr=0.05, weight_decay=decay)
    constrain(optimizer, expr(p) + 2 * expr(q) == 1)
    for _ in range(3000):
        optimizer.zero_grad()
        (-(p - 1).square() + (q - 1).square()).sum().backward()
        optimizer.step()
    # 2 (p - 1) + decay p = -y and 2 (q - 1) + decay q = -2 y
    y = (6 - (2 + decay)) / 5
    wanted = (2 - y) / (2 + decay), (2 - 2 * y) / (2 + decay)
    for found, value in zip((p, q), wanted, strict=True):
        assert abs(found.item() - value) <= 1e-6
    assert p.grad.sign() == -q.grad.sign() or p.grad.abs() < 1e-6


def test_rows_of_zeros_read_as_numbers():
    A = torch.tensor([[1.0, 2, 3], [0, 0, 0]], dtype=F64)
    for left in (lambda e: (A @ e)[1], lambda e: 0 * (A[:1] @ e)):
        p = parameter([3, 0, 1])
        optimizer = torch.optim.SGD([p], lr=0.1)
        with pytest.raises(projlab.InconsistentError, match="reads 0 = 1"):
            constrain(optimizer, left(expr(p)) == 1)
        assert p.tolist() == [3, 0, 1]
        H = constrain(optimizer, left(expr(p)) == 0)
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert torch.allclose(p, torch.tensor([2.9, -0.1, 0.9], dtype=F64))
        assert H.residual().tolist() == [0]
        with pytest.raises(projlab.InconsistentError, match="reads 0 = 2"):
            H.set_right_side(2.0)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_the_same_equation_twice_of_one_entry(shape):
    p = torch.nn.Parameter(torch.full(shape, 2.0))
    optimizer = torch.optim.SGD([p], lr=0.1)
    H = constrain(optimizer, expr(p) == 1, 2 * expr(p) == 2)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert p.item() == 1
    assert all(r.abs().max() == 0 for r in H.residual().split(1))
    q = torch.nn.Parameter(torch.full(shape, 2.0))
    with pytest.raises(projlab.InconsistentError, match="add up to"):
        constrain(torch.optim.SGD([q]), expr(q) == 1, 2 * expr(q) == 3)


# ---- resuming


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.RMSprop(p, lr=0.05, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.05),
        lambda p: torch.optim.Adamax(p, lr=0.05),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_a_simplex_resumes_to_the_bit(make, seed):
    def made(start):
        p = parameter(start)
        optimizer = make([p])
        constrain(optimizer, expr(p).sum() == 1, expr(p) >= 0)
        return p, optimizer

    def go(p, optimizer, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(6):
            optimizer.zero_grad()
            (p - torch.randn(5, generator=generator)).square().sum().backward()
            optimizer.step()

    p, optimizer = made(torch.randn(5, generator=torch.Generator().manual_seed(seed)))
    go(p, optimizer, seed)
    q, other = made(p.detach())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    go(p, optimizer, seed + 50)
    go(q, other, seed + 50)
    assert torch.equal(p, q)
