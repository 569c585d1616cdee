"""One row, and rows that share no column: to the digits and the memory of their own size."""

import numpy as np
import pytest
import scipy.sparse
import torch

import projlab
from projlab import tolerance
from projlab.engine.variants import forward_error_bound
from projlab.numerics import tuning
from tests.projlab import exact
from tests.projlab.systems import DISJOINT_VARIANTS, FORMS, SPARSE_BETA
from tests.projlab.watching import LargestTensor
from tests.projlab.ways import difference_allowed, solver_of, textbook

F64 = torch.float64


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
@pytest.mark.parametrize("m", [4, 300])
def test_few_and_hundreds_of_ragged_disjoint_rows(m, form, dtype, variant):
    """Each row is a problem of its own, and is held to the bound of its own size."""
    A = _ragged(m, dtype)
    b = torch.randn(m, dtype=getattr(torch, dtype))
    x0 = torch.randn(A.shape[1], dtype=b.dtype)
    P = projlab.projector(FORMS[form](torch.from_numpy(A.toarray())), b, variant)
    assert P.variant in DISJOINT_VARIANTS
    # a few short ones as dense rows, whose projections are fewer calls
    assert (solver_of(P).factor.unit is not None) == (m == 4)
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


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("value", [1.0, -0.3])
def test_a_row_of_equal_entries_is_not_read(value, lead, monkeypatch):
    monkeypatch.setattr(tuning, "SMALL", 0)
    solver = solver_of(projlab.projector([value] * 9, 2.0))
    factor, c, x = solver.factor, solver.c, torch.randn(*lead, 9, dtype=F64)
    allowed = difference_allowed(factor, x, c)
    expected = textbook(factor, x, c)
    factor.W.fill_(torch.nan)
    in_place = x.clone()
    factor.project_(in_place, c)
    for found in (factor.project(x, c), in_place):
        assert torch.linalg.vector_norm(found - expected, dim=-1).max() <= allowed


@pytest.mark.parametrize("in_place", [False, True])
def test_one_long_row_of_one_sign_loses_no_digits_to_its_length(in_place):
    """A running sum of 3e6 float32 terms of one sign is off by some 1e-5, a norm of them more."""
    draw = torch.Generator().manual_seed(0)
    a, x = torch.rand(2, 3_000_000, generator=draw)
    P = projlab.projector(a, 1.0, "single_row")
    y = P.project_(x.clone()) if in_place else P(x)
    wide, point = a.double(), x.double()
    exact = point - wide * ((wide @ point - 1) / (wide @ wide))
    assert (y.double() - exact).norm() <= 20 * 2.0**-24 * (point.norm() + (point - exact).norm())
