"""The kernel that sets up a few dense rows, against the operators that say the same."""

import math

import pytest
import torch

import projlab
from projlab import tolerance
from projlab.engine.kernels import small_qr
from projlab.engine.variants.qr import QR, QRFactor
from projlab.numerics import tuning
from projlab.numerics.triangular import condition_bound, householder
from projlab.system.equilibration import equilibrate, safe_norms
from tests.projlab.systems import prescribed_spectrum
from tests.projlab.ways import needs_numba

pytestmark = needs_numba
F64, F32 = torch.float64, torch.float32
DTYPES = (F64, F32)
SHAPES = [(2, 2), (2, 9), (3, 10), (5, 5), (6, 40), (7, 7), (9, 31), (10, 100), (40, 150)]
EVERYTHING = math.inf


@pytest.fixture(autouse=True)
def on(monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", "on")


def system(m, n, dtype):
    """Rows of lengths from 1e-4 to 1e4, with a few zeros."""
    A = torch.randn(m, n, dtype=dtype) * torch.logspace(-4, 4, m, dtype=dtype).unsqueeze(-1)
    A[0, : n // 3] = 0
    return A, torch.randn(m, dtype=dtype)


def factored(A, b, most=EVERYTHING):
    return small_qr.factored(A, b, safe_norms(A.dtype), most)


def in_operators(A, b):
    """Equilibration, bound and factor as torch's operators have them."""
    equilibrated = equilibrate(projlab.AffineConstraint(A, b), A.dtype)
    reflectors = householder(equilibrated.rows.to_dense().double().mT)
    factor = QR().factor_from(reflectors, equilibrated.rows, tolerance.unit_roundoff(A.dtype))
    return equilibrated, float(condition_bound(reflectors.R)), factor


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_it_says_what_the_operators_say(m, n, dtype):
    A, b = system(m, n, dtype)
    made = factored(A, b)
    equilibrated, bound, factor = in_operators(A, b)
    assert made.W.dtype is made.R.dtype is made.c.dtype is made.D.dtype is dtype
    assert torch.equal(made.D, equilibrated.factor), "powers of two are the same to the bit"
    # rows equal to rounding, which either way errs by dimension_factor u kappa in each factor
    u, c = tolerance.unit_roundoff(dtype), tolerance.dimension_factor(m, n)
    wide = c * tolerance.unit_roundoff(F64) * bound
    assert made.bound == pytest.approx(bound, rel=2 * wide)
    allowed = 2 * c * u * bound
    assert torch.equal(made.R, made.R.triu())
    assert (made.R - factor.R).norm() <= allowed * factor.R.norm()
    assert (made.W - factor.W).norm() <= allowed * math.sqrt(m)
    y = torch.linalg.solve_triangular(
        factor.R.double().mT, -equilibrated.f.double()[:, None], upper=False
    )
    assert (made.c - y[:, 0]).norm() <= allowed * bound * y.norm()
    # whatever kappa is: orthonormal, and a product that is the rows, to rounding
    E = equilibrated.rows.to_dense().double()
    eye = torch.eye(m, dtype=F64)
    assert (made.W.double() @ made.W.double().mT - eye).norm() <= 2 * c * u * math.sqrt(m)
    assert (made.R.double().mT @ made.W.double() - E).norm() <= 2 * c * u * E.norm()


@pytest.mark.parametrize("kappa", [1.0, 1e3, 1e8, 1e14])
def test_the_bound_is_a_bound_and_decides_alike(kappa):
    A = torch.from_numpy(prescribed_spectrum(6, 20, kappa))
    b = torch.zeros(6, dtype=F64)
    made, (equilibrated, bound, _) = factored(A, b), in_operators(A, b)
    condition = float(torch.linalg.cond(equilibrated.rows.to_dense()))
    relative = 6 * tolerance.unit_roundoff(F64) * condition  # of a computed inverse, as `PROVEN`
    assert made.bound >= condition * (1 - 4 * relative)
    assert made.bound == pytest.approx(bound, rel=8 * relative)


def test_what_is_not_proven_is_told_and_decided_otherwise():
    A = torch.randn(5, 12, dtype=F64)
    A[4] = A[0] + A[1]
    b = A @ torch.ones(12, dtype=F64)
    limit = tolerance.proven_condition(5, 12, tolerance.unit_roundoff(F64))
    assert not factored(A, b, limit).bound <= limit
    P = projlab.projector(A, b)
    assert P.rank == 4
    A[4] = 0
    assert not factored(A, b, limit).bound <= limit, "NaN: a row of zeros has no direction"
    assert projlab.projector(A, torch.cat([b[:4], b.new_zeros(1)])).rank == 4
    same = torch.ones(2, 3, dtype=F64)
    assert not factored(same, same.new_ones(2), limit).bound <= limit
    with pytest.raises(projlab.InconsistentError):
        projlab.projector(same, [1.0, 2.0])


def redundant(m, n, rank):
    """Integers, so that rows follow from others exactly, after a row of zeros and one twice."""
    A = torch.randint(-2, 3, (rank, n), dtype=F64)
    A = torch.cat([A, torch.randint(-2, 3, (m - rank, rank), dtype=F64) @ A])
    A[-1], A[-2] = 0, -A[-3]
    return A.flip(0)


@pytest.mark.parametrize(("m", "n", "rank"), [(4, 9, 2), (12, 30, 9), (30, 12, 12), (40, 70, 31)])
def test_rows_that_carry_the_others_are_found_in_the_same_call(m, n, rank):
    A = redundant(m, n, rank)
    b = A @ torch.ones(n, dtype=F64)
    u = tolerance.unit_roundoff(F64)
    limit = tolerance.proven_condition(m, n, u)
    near = tolerance.gram_pivot_threshold(m, u)
    made = small_qr.factored(A, b, safe_norms(F64), limit, near)
    r = int(torch.linalg.matrix_rank(A))
    assert len(made.kept) == r == len(made.c) == len(made.W) == len(made.R)
    assert torch.equal(made.kept, made.kept.sort().values)
    some = A[made.kept]
    assert int(torch.linalg.matrix_rank(some)) == r
    E, allowed = some * made.D[made.kept, None], 2 * tolerance.dimension_factor(m, n) * u
    assert (made.R.T @ made.W - E).norm() <= allowed * E.norm()
    assert (made.W @ made.W.T - torch.eye(r, dtype=F64)).norm() <= allowed * math.sqrt(r)
    solved = -torch.linalg.solve_triangular(made.R.T, (b * made.D)[made.kept, None], upper=False)
    assert (made.c - solved[:, 0]).norm() <= allowed * made.bound * solved.norm()


@pytest.mark.parametrize(("m", "n", "rank"), [(4, 9, 2), (12, 30, 9), (30, 12, 12), (40, 70, 31)])
def test_redundant_rows_are_projected_onto_as_without_it(m, n, rank, monkeypatch):
    A = redundant(m, n, rank)
    b, x = A @ torch.ones(n, dtype=F64), torch.randn(n, dtype=F64)
    seen = []
    monkeypatch.setattr(
        small_qr, "factored", lambda *given: seen.append(made := factored_by(*given)) or made
    )
    P = projlab.projector(A, b)
    assert seen[0].kept is not None
    assert f"{len(seen[0].kept)} of {m} rows" in P.reason
    monkeypatch.setenv("PROJLAB_NATIVE", "off")
    plain = projlab.projector(A, b)
    assert P.variant == plain.variant == "qr"
    assert P.rank == plain.rank == len(seen[0].kept)
    allowed = 2 * tolerance.dimension_factor(m, n) * tolerance.unit_roundoff(F64) * seen[0].bound
    assert (P(x) - plain(x)).norm() <= allowed * x.norm()
    assert (P.multipliers(x) - plain.multipliers(x)).norm() <= allowed * seen[0].bound * x.norm()


def test_contradicting_redundant_rows_are_refused_as_without_it():
    A = redundant(12, 30, 9)
    b = A @ torch.ones(30, dtype=F64)
    with pytest.raises(projlab.InconsistentError, match="row 10"):
        projlab.projector(A, b + (torch.arange(12) == 10) * 1e-6)


def test_rows_that_are_almost_redundant_are_kept_where_that_is_proven():
    A = torch.from_numpy(prescribed_spectrum(6, 20, 1e10))
    b = torch.zeros(6, dtype=F64)
    u = tolerance.unit_roundoff(F64)
    near = tolerance.gram_pivot_threshold(6, u)
    made = small_qr.factored(A, b, safe_norms(F64), tolerance.proven_condition(6, 20, u), near)
    assert made.kept is None
    assert len(made.W) == 6


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_share_no_column_are_left_to_their_own_variant(dtype):
    A = torch.zeros(3, 9, dtype=dtype)
    A[0, :3], A[1, 3:5], A[2, 5:] = 1, 2, 3
    assert factored(A, A.new_ones(3)) is None
    assert projlab.projector(A, 1.0).variant == "single_row"
    A[2, 0] = 1
    assert factored(A, A.new_ones(3)) is not None


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_out_of_range_are_left_to_equilibration_in_two_steps(dtype):
    low, high = safe_norms(dtype)
    for size in (low / 4, high * 4):
        A = torch.randn(3, 7, dtype=dtype)
        A[1] *= size
        assert factored(A, A.new_ones(3)) is None
        x = torch.randn(7, dtype=dtype)
        b = A @ x
        E = A.clone()
        E[1] /= size
        P = projlab.projector(A, b)
        found, allowed = P(torch.zeros_like(x)), 200 * tolerance.unit_roundoff(dtype)
        assert (E @ (found - x)).norm() <= allowed * P.condition * E.norm() * x.norm()


def test_a_right_side_that_overflows_is_refused_by_name():
    A = torch.randn(3, 7, dtype=F64)
    A[1] *= 1e-100
    b = torch.tensor([1.0, 1e250, 1.0], dtype=F64)
    assert factored(A, b) is None
    with pytest.raises(projlab.InputError, match="row 1 divided by the norm of its row"):
        projlab.projector(A, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_of_two_in_rows_change_no_bit(dtype):
    A, b = system(6, 17, dtype)
    D = 2.0 ** torch.tensor([3, -5, 0, 9, -2, 4], dtype=dtype)
    made, other = factored(A, b), factored(A * D.unsqueeze(-1), b * D)
    assert made.bound == other.bound
    for name in ("W", "R", "c"):
        assert torch.equal(getattr(made, name), getattr(other, name))
    assert torch.equal(made.D, other.D * D)


def test_the_projector_takes_it_and_projects_as_without_it(monkeypatch):
    seen = []
    monkeypatch.setattr(
        small_qr, "factored", lambda *given: seen.append(made := factored_by(*given)) or made
    )
    A, b = system(10, 100, F64)
    x = torch.randn(100, dtype=F64)
    for variant in ("auto", "qr"):
        P = projlab.projector(A, b, variant)
        assert isinstance(P._solver.factor, QRFactor)
        assert seen.pop() is not None
        monkeypatch.setenv("PROJLAB_NATIVE", "off")
        Q = projlab.projector(A, b, variant)
        assert seen.pop() is None
        monkeypatch.setenv("PROJLAB_NATIVE", "on")
        assert P.variant == Q.variant
        assert P.rank == Q.rank == 10
        assert P.reason.split("at most")[0] == Q.reason.split("at most")[0]
        c, u = tolerance.dimension_factor(10, 100), tolerance.unit_roundoff(F64)
        allowed = 2 * 3 * c * u * P.condition * max(x.norm(), Q(x).norm())
        assert (P(x) - Q(x)).norm() <= allowed
        y, z = P.multipliers(x), Q.multipliers(x)
        assert ((y - z) / P._solver.units[0]).norm() <= allowed * P.condition
    projlab.projector(A, b, "cholesky")
    projlab.projector(A, b, metric=torch.ones(100, dtype=F64))
    projlab.projector(A, b, rank=1e-10)
    projlab.projector(torch.stack([A, A]), b)
    assert not any(seen)


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_right_side_is_solved_for_to_the_same_bits(dtype, monkeypatch):
    A, b = system(10, 100, dtype)
    x = torch.randn(100, dtype=dtype)
    P = projlab.projector(A, b)
    factor, D = P._solver.factor, P._solver.units[0]
    c = factor.right_side(D * b)
    assert torch.equal(c, P._solver.c)
    assert torch.equal(P(x, b), P(x))
    assert torch.equal(P(x, torch.stack([b, b]).T[:, 0]), P(x)), "whatever its strides"
    for seen in (False, True):  # by autograd and transforms, too, but for rounding
        given = b.clone().requires_grad_(seen)
        found = torch.vmap(P, in_dims=(None, 0))(x, given[None])[0] if not seen else P(x, given)
        allowed = tolerance.dimension_factor(10, 100) * tolerance.unit_roundoff(dtype)
        size = max(x.norm(), P(x).norm())
        assert (found.detach() - P(x)).norm() <= 4 * allowed * P.condition * size
    calls = []
    monkeypatch.setattr(small_qr, "_solving", lambda _: calls.append(1))
    assert factor.right_side(torch.stack([b, b])).shape == (2, 10)
    monkeypatch.setenv("PROJLAB_NATIVE", "off")
    factor.right_side(b)
    assert not calls, "many at once, and where kernels are off, by torch"
    monkeypatch.setenv("PROJLAB_NATIVE", "on")
    assert (factor.right_side(D * b) - c).norm() <= allowed * P.condition * c.norm()
    assert calls, "and where it cannot be had"


factored_by = small_qr.factored


def test_what_is_large_or_no_plain_memory_is_left_to_torch():
    m, n = 64, tuning.SMALL_SET_UP // 64**2
    A = torch.randn(m, n + 1, dtype=F64)
    assert factored(A, A.new_ones(m)) is None
    assert factored(A[:, :n].contiguous(), A.new_ones(m)) is not None
    A = torch.randn(3, 5, dtype=F64)
    assert factored(A, torch.ones(3)) is None, "b of another precision"
    assert factored(A.expand(2, 3, 5), A.new_ones(3)) is None
    found = []
    torch.func.vmap(lambda v: found.append(factored(v, A.new_ones(3))) or v)(A.expand(2, 3, 5))
    assert found == [None]
