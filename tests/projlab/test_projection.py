"""P(x0) is the projection: against exact rational arithmetic, with the bounds of `tolerance.py`."""

import sys

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import projlab
from projlab import tolerance
from projlab.engine.variants import forward_error_bound
from tests.projlab import exact
from tests.projlab.systems import (
    CASES,
    CHOICES,
    DISJOINT_VARIANTS,
    OVERLAPPING_VARIANTS,
    RUNS,
    build,
    case,
    make_case,
)

# torch announces its compressed sparse layouts as beta whenever one is made
SPARSE_BETA = pytest.mark.filterwarnings("ignore:Sparse CS[RC] tensor support is in beta")


@pytest.mark.parametrize(("name", "dtype", "variant"), RUNS)
def test_forward_error(name, dtype, variant):
    given = case(name, dtype)
    P = build(given, variant)
    if P is None:
        return
    allowed = given.allowed(P.variant)
    assert P.rank == given.rank
    assert exact.distance(P(given.x0), given.solution) <= allowed
    assert exact.distance(P.project_(given.x0.clone()), given.solution) <= allowed


@pytest.mark.parametrize(("name", "dtype", "variant"), RUNS)
def test_one_off_forward_error(name, dtype, variant):
    given = case(name, dtype)
    P = build(given, variant)
    if P is None:
        with pytest.raises(projlab.RankDeficientError):
            projlab.project(given.x0, given.A, given.b, variant)
        return
    # one projection may be served best by another variant than many: hold it to the laxer bound
    allowed = max(given.allowed(v) for v in {P.variant, *OVERLAPPING_VARIANTS})
    x = projlab.project(given.x0, given.A, given.b, variant)
    assert exact.distance(x, given.solution) <= allowed


@pytest.fixture
def the_svd_gives_up(monkeypatch):
    """In `pinv`'s own decomposition, as LAPACK's does on a few matrices; counts."""
    svd, given_up = torch.linalg.svd, []

    def moody(E, full_matrices=True):
        if sys._getframe(1).f_code.co_name == "_left_vectors":
            given_up.append(E.shape)
            raise torch.linalg.LinAlgError("linalg.svd: the algorithm failed to converge")
        return svd(E, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", moody)
    return given_up


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_pinv_where_the_svd_gives_up(name, dtype, the_svd_gives_up):
    given = case(name, dtype)
    P = build(given, "pinv")
    assert the_svd_gives_up or P.rank == 0
    assert P.rank == given.rank
    assert exact.distance(P(given.x0), given.solution) <= given.allowed("pinv")


def test_pinv_of_a_batch_where_the_svd_gives_up(the_svd_gives_up):
    A = torch.tensor([[[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]], [[1.0, 0.0, 1.0], [2.0, 0.0, 2.0]]])
    b = torch.tensor([[9.0, 7.0], [2.0, 4.0]])
    x0 = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    x = projlab.projector(A, b, "pinv")(x0)
    assert the_svd_gives_up
    for i in range(2):
        given = make_case(f"system {i}", A[i], b[i], x0[i])
        assert exact.distance(x[i], given.solution) <= given.allowed("pinv")


@pytest.mark.parametrize(("name", "dtype", "variant"), RUNS)
def test_feasibility(name, dtype, variant):
    """Every row is satisfied to rounding, the redundant ones too, whatever the condition."""
    given = case(name, dtype)
    P = build(given, variant)
    if P is None:
        return
    bound = tolerance.feasibility_bound(u=given.u, m=given.m, n=given.n)
    x = P(given.x0)
    assert exact.feasibility(given.A, given.b, given.x0, x) <= bound
    twice = P(x)
    assert exact.feasibility(given.A, given.b, x, twice) <= bound


@pytest.mark.parametrize("variant", CHOICES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_feasible_point_stays(variant, dtype):
    given = case("disjoint rows" if variant in DISJOINT_VARIANTS else "a feasible point", dtype)
    P = projlab.projector(given.A, given.b, variant)
    x = P(given.x0)
    moved = torch.linalg.vector_norm(P(x) - x)
    bound = forward_error_bound(
        P.variant,
        u=given.u,
        m=given.m,
        n=given.n,
        condition=given.condition,
        amplification=1.0,
    )
    # x misses the set by the bound, and so does P(x)
    assert moved <= 2 * bound * given.size


@pytest.mark.parametrize("variant", CHOICES)
def test_many_points_at_once(variant):
    given = case("disjoint rows" if variant in DISJOINT_VARIANTS else "random 5 x 12")
    P = projlab.projector(given.A, given.b, variant)
    x = torch.randn(2, 3, given.n, dtype=torch.float64)
    M, b = exact.matrix(given.A), exact.vector(given.b)
    for x_k, P_k in zip(x.flatten(0, 1), P(x).flatten(0, 1), strict=True):
        x0 = exact.vector(x_k)
        solution = exact.projection(M, b, x0)
        size = exact.norm(x0) + exact.norm(exact.subtract(x0, solution))
        assert exact.distance(P_k, solution) <= given.allowed(P.variant) / given.size * size


@pytest.mark.parametrize("shape", [(0,), (1,), (0, 3), (2, 1, 3)])
@pytest.mark.parametrize("variant", CHOICES)
def test_shape_is_kept(variant, shape):
    given = case("disjoint rows" if variant in DISJOINT_VARIANTS else "random 5 x 12")
    P = projlab.projector(given.A, given.b, variant)
    x = torch.ones(*shape, given.n, dtype=torch.float64)
    assert P(x).shape == P.tangent(x).shape == P.project_(x.clone()).shape == x.shape
    assert P.multipliers(x).shape == (*shape, given.m)
    assert projlab.project(x, given.A, given.b, variant).shape == x.shape


def test_no_rows_or_rank_zero_is_the_identity():
    for name in ("no rows", "rank zero"):
        given = case(name)
        for variant in CHOICES:
            P = projlab.projector(given.A, given.b, variant)
            assert torch.equal(P(given.x0), given.x0)
            assert torch.equal(P.tangent(given.x0), given.x0)
            assert P.multipliers(given.x0).tolist() == [0.0] * given.m
            assert P.rank == 0


def test_the_result_is_new_memory():
    """Whoever writes into the result must not write into x, even where nothing is projected."""
    for name in ("no rows", "random 5 x 12"):
        given = case(name)
        x = given.x0.clone()
        projlab.projector(given.A, given.b)(x).zero_()
        projlab.project(x, given.A, given.b).zero_()
        assert torch.equal(x, given.x0)


# --- every form of A ---------------------------------------------------------------------------

FORMS = {
    "dense": lambda A: A,
    "nested lists": lambda A: A.tolist(),
    "numpy": lambda A: A.numpy(),
    "numpy, Fortran order": lambda A: np.asfortranarray(A.numpy()),
    "numpy, big-endian": lambda A: A.numpy().astype(">f8"),
    "torch, transposed": lambda A: A.mT.contiguous().mT,
    "scipy csr_array": lambda A: scipy.sparse.csr_array(A.numpy()),
    "scipy csc_matrix": lambda A: scipy.sparse.csc_matrix(A.numpy()),
    "scipy coo with duplicates": lambda A: _split(A.numpy()),
    "scipy dok": lambda A: scipy.sparse.dok_array(A.numpy()),
    "torch COO": lambda A: A.to_sparse_coo(),
    "torch CSR": lambda A: A.to_sparse_csr(),
    "torch CSC": lambda A: A.to_sparse_csc(),
}


def _split(A):
    """Every entry as the sum of two halves, and an explicit zero."""
    i, j = np.nonzero(A)
    v = A[i, j] / 2
    i, j, v = (np.concatenate(t) for t in ((i, i, [0]), (j, j, [0]), (v, v, [0.0])))
    return scipy.sparse.coo_array((v, (i, j)), shape=A.shape)


@SPARSE_BETA
@pytest.mark.parametrize("variant", CHOICES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_A(form, variant):
    names = ["disjoint rows", "rank zero", "one row three times"]
    if variant not in DISJOINT_VARIANTS:
        names += ["random 5 x 12", "every kind of redundant row", "random 1 x 1"]
    for name in names:
        given = case(name)
        A = FORMS[form](given.A)
        P = projlab.projector(A, given.b, variant)
        allowed = given.allowed(P.variant)
        assert exact.distance(P(given.x0), given.solution) <= allowed
        x = projlab.project(given.x0, A, given.b, variant)
        assert exact.distance(x, given.solution) <= max(map(given.allowed, OVERLAPPING_VARIANTS))


@pytest.mark.parametrize("variant", CHOICES)
def test_one_row_as_a_vector_and_a_scalar_b(variant):
    x = projlab.project(torch.tensor([0.0, 0.0], dtype=torch.float64), [1, 1], 1, variant)
    assert x.tolist() == pytest.approx([0.5, 0.5], rel=4 * 2**-53)
    P = projlab.projector(np.array([3, 4]), 25, variant)
    assert P.A.dtype == torch.float64
    assert P(torch.zeros(2, dtype=torch.float64)).tolist() == pytest.approx([3, 4], rel=8 * 2**-53)


def test_a_scalar_b_holds_for_every_row():
    A = torch.eye(3, 5, dtype=torch.float64)
    x = projlab.project(torch.zeros(5, dtype=torch.float64), A, 2.0)
    assert x.tolist() == [2.0, 2.0, 2.0, 0.0, 0.0]


# --- rows that share no column, at size --------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor) and t.layout == torch.strided:
                self.numel = max(self.numel, t.numel())
        return out


def _ragged(m, dtype, seed=0):
    """m rows of 1 to 40 entries on columns in random order, as scipy.sparse."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 41, m)
    n = int(lengths.sum()) + 17
    columns = rng.permutation(n)[: lengths.sum()]
    values = rng.standard_normal(len(columns)).astype(dtype)
    rows = np.repeat(np.arange(m), lengths)
    return scipy.sparse.csr_array((values, (rows, columns)), shape=(m, n))


@SPARSE_BETA
@pytest.mark.parametrize("variant", [*DISJOINT_VARIANTS, "auto"])
@pytest.mark.parametrize("form", ["scipy csr_array", "torch COO", "torch CSR", "dense"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hundreds_of_ragged_disjoint_rows(form, dtype, variant):
    """Each row is a problem of its own, and is held to the bound of its own size."""
    m = 300
    A = _ragged(m, dtype)
    b = torch.randn(m, dtype=getattr(torch, dtype))
    x0 = torch.randn(A.shape[1], dtype=b.dtype)
    P = projlab.projector(FORMS[form](torch.from_numpy(A.toarray())), b, variant)
    assert P.variant in DISJOINT_VARIANTS
    x, y = P(x0), P.multipliers(x0)
    u = tolerance.unit_roundoff(b.dtype)
    for i in range(m):
        columns = A.indices[A.indptr[i] : A.indptr[i + 1]]
        a = exact.vector(A.data[A.indptr[i] : A.indptr[i + 1]])
        point = exact.vector(x0[columns])
        square = sum(c * c for c in a)
        ax = sum(c * p for c, p in zip(a, point, strict=True))
        multiplier = (ax - exact.rational(b[i])) / square
        solution = [p - multiplier * c for c, p in zip(a, point, strict=True)]
        size = exact.norm(point) + exact.norm(exact.subtract(point, solution))
        allowed = size * forward_error_bound(
            P.variant, u=u, m=1, n=len(a), condition=1.0, amplification=1.0
        )
        assert exact.distance(x[columns], solution) <= allowed
        assert abs(float(exact.rational(y[i]) - multiplier)) * exact.root(square) <= allowed
    untouched = np.setdiff1d(np.arange(A.shape[1]), A.indices)
    assert torch.equal(x[untouched], x0[untouched])


def test_a_million_columns_in_memory_proportional_to_the_entries():
    m, n = 100_000, 1_000_000
    A = scipy.sparse.csr_array(
        (np.ones(n), (np.arange(n) % m, np.arange(n))), shape=(m, n), dtype=np.float64
    )
    x0 = torch.zeros(n, dtype=torch.float64)
    with LargestTensor() as seen:
        P = projlab.projector(A, 1.0)
        x = P(x0)
        P.project_(x0)
        y = P.multipliers(x)
    # ten ones a row: x = 1/10, to the rounding of a sum of ten, a quotient and a product
    assert torch.all((x - 0.1).abs() <= 13 * 2**-53 * 0.1)
    assert torch.equal(x, x0)
    assert y.abs().max() <= 13 * 2**-53
    assert seen.numel <= 4 * n


def test_many_empty_rows_take_no_memory_of_their_own():
    m = 400_000
    rows = np.arange(0, m, 2)
    A = scipy.sparse.csr_array((np.ones(m // 2), (rows, np.arange(m // 2))), shape=(m, m // 2))
    b = np.zeros(m)
    b[::2] = 3.0
    with LargestTensor() as seen:
        P = projlab.projector(A, b)
        x = P(torch.zeros(m // 2, dtype=torch.float64))
    assert P.rank == m // 2
    assert torch.equal(x, torch.full_like(x, 3.0))
    assert seen.numel <= 4 * m


def test_columns_of_a_weight_matrix_that_sum_to_one():
    """The flattened matrix under thousands of equations, one a column."""
    rows, columns = 20, 3000
    W = torch.rand(rows, columns, dtype=torch.float64)
    j = np.arange(rows * columns) % columns
    A = scipy.sparse.csr_array((np.ones(rows * columns), (j, np.arange(rows * columns))))
    P = projlab.projector(A, 1.0)
    assert P.variant in DISJOINT_VARIANTS
    sums = P(W.flatten()).reshape(rows, columns).sum(0)
    bound = tolerance.feasibility_bound(u=2**-53, m=1, n=rows)
    # ||a|| = sqrt(rows); ||x|| + ||x0|| <= 2 sqrt(rows); and this sum itself rounds `rows` times
    assert torch.all((sums - 1).abs() <= bound * (2 * rows + 1) + rows * 2**-53 * rows)


# --- random structure --------------------------------------------------------------------------


@draw(st.integers(0, 2**32 - 1), st.sampled_from(["float32", "float64"]))
@settings(max_examples=80)
def test_random_structure(seed, dtype):
    """Sparse, redundant, zero and rescaled rows in any mixture; entries exact in either dtype."""
    rng = np.random.default_rng(seed)
    r, extra, n = rng.integers(1, 7), rng.integers(0, 7), rng.integers(1, 12)
    rows = rng.integers(-9, 10, (r, n)) * (rng.random((r, n)) < rng.choice([0.3, 0.7, 1.0]))
    combine = rng.integers(-2, 3, (extra, r)) * (rng.random((extra, r)) < 0.6)
    A = rng.permutation(np.concatenate([rows, combine @ rows])).astype(float)
    b = A @ rng.integers(-4, 5, n)
    units = 2.0 ** rng.integers(-30, 31, len(A))
    x0 = rng.standard_normal(n) * 10.0 ** rng.integers(-3, 4)
    given = make_case(
        f"seed {seed}",
        *(
            torch.tensor(t, dtype=getattr(torch, dtype))
            for t in (A * units[:, None], b * units, x0)
        ),
    )
    found = projlab.diagnose(given.A, given.b)
    assert (found.rank, found.ambiguous, found.consistent) == (given.rank, False, True)
    for variant in CHOICES:
        try:
            P = projlab.projector(given.A, given.b, variant)
        except projlab.InputError:
            assert variant in DISJOINT_VARIANTS
            continue
        except projlab.RankDeficientError:
            assert given.may_refuse(variant)
            continue
        assert P.rank == given.rank
        assert exact.distance(P(given.x0), given.solution) <= given.allowed(P.variant)
        columns, y = exact.matrix(given.A).transpose(), exact.vector(P.multipliers(given.x0))
        lagrange = exact.subtract(exact.vector(given.x0), exact.times(columns, y))
        gap = exact.norm(exact.subtract(lagrange, given.solution))
        assert gap <= given.allowed(P.variant)
