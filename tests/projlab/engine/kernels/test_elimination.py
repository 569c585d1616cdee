"""The kernels of sparse elimination against scipy's products and SuperLU, their plain twins."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import projlab
from projlab import tolerance
from projlab.engine import corrections
from projlab.engine.kernels import components, elimination
from projlab.numerics import fill
from projlab.numerics.sparse_factor import SuperLU, prepared
from projlab.numerics.sparse_gram import SparseGram
from projlab.system.rows import SparseRows, as_rows
from projlab.system.structure import connected_rows
from tests.projlab.ways import needs_numba

pytestmark = needs_numba

U = tolerance.unit_roundoff("float64")


def rows(m, n, kind):
    rng = np.random.default_rng(m)
    if kind == "random":
        A = sp.random_array((m, n), density=4 / n, rng=rng) + sp.eye_array(m, n)
    else:  # a flow: its Gram matrix has columns that are eliminated four at a time
        side = int(m**0.5)
        nodes = np.arange(side * side).reshape(side, side)
        tails = np.concatenate([nodes[:, :-1].ravel(), nodes[:-1].ravel()])
        heads = np.concatenate([nodes[:, 1:].ravel(), nodes[1:].ravel()])
        where = np.concatenate([tails, heads]), np.tile(np.arange(len(tails)), 2)
        values = np.repeat([1.0, -1.0], len(tails))
        A = sp.csr_array((values, where), shape=(side * side, len(tails)))
    coo = sp.csr_array(A).tocoo()
    i, j = (torch.from_numpy(t.astype(np.int64)) for t in (coo.row, coo.col))
    return i, j, torch.from_numpy(coo.data), (A.shape[0], A.shape[1])


CASES = [(1, 5, "random"), (7, 9, "random"), (300, 700, "random"), (400, 0, "flow")]


def both(m, n, kind, shift=1e-3):
    """The Gram matrix made by kernels, and without."""
    given = rows(m, n, kind)
    native = SparseGram(*given, shift, elimination=elimination.Elimination())
    return native, SparseGram(*given, shift, native.elimination)


@pytest.mark.parametrize("size", CASES)
def test_the_gram_matrix_is_scipys(size):
    native, plain = both(*size)
    assert native.fill == plain.fill
    G, H = native.ready.matrix.toarray(), plain.ready.matrix.toarray()
    # sums in another order, of at most as many terms as a row has entries
    terms = int(np.diff(native.E.forward.indptr).max())
    E = abs(native.E.forward.toarray())
    assert (abs(G - H) <= 2 * terms * U * (E @ E.T + 1e-3)).all()
    for one, other in ((native.E.forward, plain.E.forward), (native.E.back, plain.E.back)):
        assert (one != other).nnz == 0


@pytest.mark.parametrize("size", CASES)
@pytest.mark.parametrize("vectors", [(), (3,), (9,), (2, 3)])
def test_solves_are_those_of_superlu(size, vectors):
    native, _ = both(*size)
    native.factor()
    assert isinstance(native.made, elimination.NativeFactor)
    m = native.shape[0]
    r = torch.randn(*vectors, m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = r.clone()
    y = native.solve(r)
    assert torch.equal(r, kept)
    G = torch.from_numpy(native.ready.matrix.toarray())
    # backward error of Cholesky (ASNA, theorem 10.4), u of the vector beside it
    allowed = 4 * (3 * m + 1) * U * float(torch.linalg.matrix_norm(G, 2)) * y.norm(dim=-1)
    assert ((y @ G - r).norm(dim=-1) <= allowed).all()
    plain = SuperLU(native.ready).solve_ordered(r)
    kappa = float(torch.linalg.cond(G))
    assert ((y - plain).norm(dim=-1) <= 8 * (3 * m + 1) * U * kappa * plain.norm(dim=-1)).all()


def test_columns_are_taken_four_two_and_one_at_a_time():
    native, _ = both(400, 0, "flow")
    native.factor()
    assert set(native.made.width.tolist()) == {1, 2, 4}


@pytest.mark.parametrize("k", [None, 1, 2, 5])
def test_a_projection_is_the_corrections_one_by_one(k):
    i, j, values, shape = rows(400, 0, "flow")
    A = sp.csr_array((values.numpy(), (i.numpy(), j.numpy())), shape=shape)
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(*(() if k is None else (k,)), shape[1], generator=draw, dtype=torch.float64)
    P = projlab.projector(A, A @ np.ones(shape[1]), "sparse_cholesky")
    factor, c = P._solver.factor, P._solver.c
    assert factor._fused is not None
    work, total = x, 0.0
    for _ in range(factor.passes):
        moved, y = factor._step(work, c)
        work, total = work - moved, total + y
    # kappa u, kappa of the Gram matrix of this grid at most its size
    allowed = tolerance.dimension_factor(*shape) * 400 * U * float(x.norm())
    for found in (P(x), P.project_(x.clone()), factor.project(x, c)):
        assert (found - work).abs().max() <= allowed
    found = factor.multipliers(x, c)[..., factor.gram.order]
    # the balances add up to zero, and so do not tell a constant in y
    apart = factor.gram.transposed_times(found - total)
    assert apart.abs().max() <= allowed


@pytest.mark.parametrize("size", CASES)
def test_corrections_come_to_what_they_do_with_operators(size):
    gram, _ = both(*size)
    gram.factor()
    f = torch.randn(gram.shape[0], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kernel = elimination.Probes.of(gram, f)
    ordered = SparseRows(*gram.E.entries(), gram.shape)
    plain = corrections.Probes(
        ordered, f, corrections.Products(gram.times, gram.transposed_times, gram.solve)
    )
    G = torch.from_numpy(gram.ready.matrix.toarray())
    # each solve errs by kappa u, whatever is left of the residual
    allowed = 16 * (3 * gram.shape[0] + 1) * U * float(torch.linalg.cond(G))
    for _ in range(3):
        ours, theirs = kernel.measured(), plain.measured()
        assert ours[:-1] == pytest.approx(theirs[:-1], rel=allowed, abs=allowed)
        if theirs.off > 10 * allowed:
            assert ours.worst == theirs.worst
        for vectors in (kernel, plain):
            vectors.correct()
        assert (kernel.ends - plain.ends).norm() <= allowed * plain.ends.norm() + allowed


def test_what_is_no_number_is_told_and_not_passed_over():
    gram, _ = both(300, 700, "random")
    gram.factor()
    for row in (0, 150, 299):
        f = torch.zeros(300, dtype=torch.float64)
        f[row] = torch.nan
        found = elimination.Probes.of(gram, f).measured()
        assert (found.worst, np.isnan(found.off), np.isnan(found.drift)) == (row, True, True)
        assert found.left < torch.inf
        assert not corrections.corrected(elimination.Probes.of(gram, f)).answered


def test_corrections_with_steps_of_their_own_are_no_kernels():
    """Columns kept apart, and factors that SuperLU makes."""
    gram, plain = both(300, 700, "random")
    zero = torch.zeros(300, dtype=torch.float64)
    assert elimination.Probes.of(gram, zero) is not None
    assert elimination.Probes.of(plain, zero) is None
    gram.apart = 1
    assert elimination.Probes.of(gram, zero) is None


@pytest.mark.parametrize("seed", range(20))
def test_components_are_those_of_scipy(seed):
    rng = np.random.default_rng(seed)
    m, n = rng.integers(1, 30, 2)
    A = sp.random_array((m, n), density=float(rng.uniform(0.0, 0.1)), rng=rng, format="csr")
    found = as_rows(A)
    count, of_row, of_column = components.of_rows(found)
    wanted = connected_rows(found)
    assert count == wanted[0]
    assert torch.equal(of_row, wanted[1])
    assert torch.equal(of_column, wanted[2])


def patterns():
    rng = np.random.default_rng(0)
    arrow = sp.lil_array(sp.eye_array(900))
    arrow[0, :], arrow[:, 0] = 1.0, 1.0
    scattered = sp.random_array((400, 400), density=0.01, rng=rng)
    clique = sp.csc_array(np.ones((30, 30)))
    grid = abs(sp.csr_array(_matrix(rows(900, 0, "flow"))))
    bridge = sp.lil_array(sp.block_diag([clique, clique, grid @ grid.T]))
    bridge[0, 30] = bridge[30, 0] = 1.0
    return {
        "nothing": sp.csc_array((0, 0)),
        "one": sp.eye_array(1),
        "diagonal": sp.eye_array(5),
        "arrow": arrow,
        "scattered": scattered + scattered.T,
        "grid": grid @ grid.T,
        "cliques": bridge,
        "dense": np.ones((40, 40)),
    }


def _matrix(given):
    i, j, values, shape = given
    return sp.csr_array((values.numpy(), (i.numpy(), j.numpy())), shape=shape)


@pytest.mark.parametrize("name", patterns())
def test_an_order_of_minimum_degree_fills_in_as_superlus(name):
    pattern = sp.csc_array(patterns()[name])
    pattern.data[:] = 1.0
    narrow = pattern.indptr.astype(np.int32), pattern.indices.astype(np.int32)
    pattern = sp.csc_array((pattern.data, narrow[1], narrow[0]), shape=pattern.shape)
    kept = pattern.copy()
    order = elimination.Elimination().order(pattern)
    assert np.array_equal(np.sort(order), np.arange(pattern.shape[0]))
    assert np.array_equal(pattern.indices, kept.indices)
    plain = fill.elimination_order(pattern)
    ours, theirs = (fill.count(sp.csc_array(pattern[p][:, p])).nonzeros for p in (order, plain))
    # ties are broken otherwise, and degrees are bounds
    assert ours <= 1.25 * theirs


def test_a_forest_is_ordered_without_fill():
    rng = np.random.default_rng(1)
    child = np.arange(1, 2000)
    parent = (rng.random(1999) * child).astype(int)
    where = np.concatenate([child, parent]), np.concatenate([parent, child])
    tree = sp.csc_array((np.ones(2 * 1999), where), shape=(2000, 2000)) + sp.eye_array(2000)
    tree = sp.csc_array(tree)
    order = elimination.Elimination().order(tree)
    assert fill.count(sp.csc_array(tree[order][:, order])).nonzeros == 2000 + 1999


def test_a_singular_matrix_is_refused():
    zero = prepared(sp.csc_array(np.array([[1.0, 1.0], [1.0, 1.0]])))
    with pytest.raises(np.linalg.LinAlgError, match="pivot 1 is 0"):
        elimination.NativeFactor(zero)


def test_fill_beyond_what_is_counted_one_by_one_is_counted_by_subtrees(monkeypatch):
    native, _ = both(400, 0, "flow")
    monkeypatch.setattr(elimination, "COUNTED", 10)
    assert elimination.Elimination().count(native.ready.matrix) is None
    assert both(400, 0, "flow")[0].fill == fill.count(native.ready.matrix)


def test_dense_fill_is_left_to_superlu(monkeypatch):
    native, _ = both(300, 700, "random")
    monkeypatch.setattr(elimination, "DENSER", 0)
    native.factor()
    assert isinstance(native.made, SuperLU)


def test_switched_off_there_are_no_kernels(monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", "0")
    assert elimination.available(torch.device("cpu")) is None
    i, j, values, shape = rows(300, 700, "random")
    A = sp.csr_array((values.numpy(), (i.numpy(), j.numpy())), shape=shape)
    P = projlab.projector(A, np.ones(shape[0]), "sparse_cholesky")
    assert P._solver.factor._fused is None
    monkeypatch.delenv("PROJLAB_NATIVE")
    Q = projlab.projector(A, np.ones(shape[0]), "sparse_cholesky")
    assert Q._solver.factor._fused is not None
    x = torch.randn(shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kappa = float(torch.linalg.cond(torch.from_numpy(A.toarray())))
    allowed = 2 * tolerance.dimension_factor(*shape) * kappa * U * float(x.norm())
    assert (P(x) - Q(x)).norm() <= allowed
