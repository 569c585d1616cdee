"""What counts as redundant, and what the user may ask for instead."""

import numpy as np
import pytest
import torch
from hypothesis import given as draw
from hypothesis import strategies as st

import projlab
from projlab import tolerance
from projlab.engine.variants import forward_error_bound
from projlab.system.rank import decide
from projlab.system.rows import DenseRows
from tests.projlab import exact
from tests.projlab.systems import CHOICES, OVERLAPPING_VARIANTS, condition_number
from tests.projlab.ways import solver_of

F64 = torch.float64
EPS = 2.0**-52


def angle(s, m=2, n=2, dtype=F64):
    """Rows (1, 0, ...) and (1, s, 0, ...): sigma_2 / sigma_1 = s / 2 up to s^2; then zeros."""
    A = torch.zeros(m, n, dtype=dtype)
    A[:2, 0] = 1.0
    A[1, 1] = s
    return A


def zeros(n):
    return torch.zeros(n, dtype=F64)


# --- the numerical rank ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 10, 60])
def test_singular_values_above_the_cutoff_count(n, dtype):
    cutoff = tolerance.rank_cutoff(2, n, tolerance.unit_roundoff(dtype))
    rounding = 5 * 2**0.5  # of float32 data: ten times u ||E||_F
    of_shape = n if dtype is F64 else min(n, rounding)
    assert cutoff == pytest.approx(of_shape * torch.finfo(dtype).eps)
    for factor, rank in ((1.5, 2), (0.7, 1)):
        A = angle(2 * factor * cutoff, n=n, dtype=dtype)
        b = torch.zeros(2, dtype=dtype)
        assert projlab.projector(A, b, "pinv").rank == rank
        assert projlab.diagnose(A, b).rank == rank


def spectrum(sigma, n, dtype=F64):
    """Rows with these singular values but for what equilibration changes."""
    U = torch.linalg.qr(torch.randn(len(sigma), len(sigma), dtype=F64)).Q
    V = torch.linalg.qr(torch.randn(n, len(sigma), dtype=F64)).Q
    return ((U * torch.as_tensor(sigma, dtype=F64)) @ V.mT).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_rank_proven_by_a_bound_needs_no_singular_values(dtype, monkeypatch):
    A = spectrum(torch.linspace(1, 0.1, 40), 60, dtype)
    measured = projlab.diagnose(A, 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "svdvals", None)
        P = projlab.projector(A, 0.0)
        (bound,) = solver_of(P).facts.bounds
    assert P.rank == measured.rank == 40
    assert not measured.ambiguous
    assert measured.condition <= bound <= 40 * measured.condition
    assert "condition<=" in repr(P)
    assert P.condition == measured.condition
    assert "condition=" in repr(P)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [0.05, 0.5, 2, 20])
def test_near_the_cutoff_singular_values_decide(factor, dtype):
    cutoff = tolerance.rank_cutoff(40, 60, tolerance.unit_roundoff(dtype))
    A = spectrum([1.0] * 39 + [factor * cutoff], 60, F64)
    A = A / A.norm(dim=1, keepdim=True)
    sigma = torch.linalg.svdvals(A.to(dtype).double())
    found = projlab.diagnose(A.to(dtype), 0.0)
    ratio = float(sigma[-1] / sigma[0]) / cutoff
    assert found.rank == projlab.projector(A.to(dtype), 0.0).rank == (40 if ratio > 1 else 39)
    assert found.ambiguous == (0.1 < ratio < 10)


@pytest.mark.skipif(
    np.finfo(np.longdouble).eps * tolerance.LONGER >= EPS, reason="long double is no longer here"
)
@pytest.mark.parametrize(
    ("factor", "ambiguous"), [(0.05, False), (0.2, True), (0.45, True), (5, True), (20, False)]
)
def test_in_small_systems_more_than_float64_tells_what_is_ambiguous(factor, ambiguous):
    """A tenth of the cutoff of two columns, 0.4 u, is below what an SVD in float64 rounds."""
    A = angle(2 * factor * tolerance.rank_cutoff(2, 2, EPS / 2))
    assert projlab.diagnose(A, 0.0).ambiguous is ambiguous


def test_of_small_systems_exact_duplicates_are_not_ambiguous():
    for seed in range(50):
        A = torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(seed))
        found = projlab.diagnose(A[[0, 1, 0]], 0.0)
        assert (found.rank, found.ambiguous) == (2, False)


@pytest.mark.parametrize("m", [40, 90])
def test_more_rows_than_columns_are_not_proven_to_be_independent(m):
    """Their triangle of full rank is that of the columns."""
    A = spectrum(torch.linspace(1, 0.5, 35), m).mT
    assert decide(DenseRows(A), EPS / 2, "numerical").rank == 35
    assert projlab.diagnose(A, 0.0).rank == projlab.projector(A, 0.0).rank == 35


@pytest.mark.parametrize("margin", [1e8, 5])
def test_a_wide_system_far_from_the_cutoff_is_decided_without_singular_values(margin, monkeypatch):
    """Of the bounds on its condition number the first, off by m at worst, does for most; the
    second, off by sqrt(m), for the others."""
    m, n = 200, 300
    cutoff = tolerance.rank_cutoff(m, n, EPS / 2)
    A = spectrum([1.0] * (m - 1) + [margin * tolerance.PROVEN * cutoff], n)
    A = A / A.norm(dim=1, keepdim=True)
    kappa = float(torch.linalg.cond(A))
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "svdvals", None)
        decision = decide(DenseRows(A), EPS / 2, "numerical")
    assert (decision.rank, decision.measured) == (m, False)
    assert kappa <= decision.condition <= m * kappa
    measured = decision.measure()
    assert measured.condition == pytest.approx(kappa, rel=kappa * m * EPS)
    assert measured.gap == (1 / measured.condition, 0.0)


def test_a_batch_is_decided_as_its_elements_are():
    A = torch.stack([spectrum([1.0] * 4, 9), spectrum([1.0, 1.0, 1.0, 0.0], 9)])
    A[1, 3] = A[1, 2] + A[1, 0]
    P = projlab.projector(A, 0.0)
    assert P.rank.tolist() == [projlab.projector(E, 0.0).rank for E in A] == [4, 3]
    each = [projlab.projector(E, 0.0).condition for E in A]
    assert P.condition.tolist() == pytest.approx(each, rel=1e-12)


def test_the_cutoff_is_relative_to_equilibrated_rows():
    """A tiny row is as independent as a large one."""
    A = torch.tensor([[1e-150, 0.0], [0.0, 1e150]], dtype=F64)
    P = projlab.projector(A, [1e-150, 1e150])
    assert P.rank == 2
    assert P.condition < 2
    assert P(zeros(2)).tolist() == pytest.approx([1.0, 1.0], rel=4 * EPS)


def test_a_relative_tolerance_of_ones_own():
    A = angle(2e-6)
    b = [1.0, 1.0]
    assert projlab.projector(A, b).rank == 2
    assert projlab.projector(A, b, rank=1e-7).rank == 2
    P = projlab.projector(A, b, rank=1e-5)
    assert P.rank == 1
    assert P.condition == pytest.approx(1.0)
    assert projlab.diagnose(A, b, rank=1e-5).rank == 1
    assert projlab.project(zeros(2), A, b, rank=1e-5).tolist() == pytest.approx(
        [1.0, 0.0], abs=1e-5
    )


@pytest.mark.parametrize("number", [np.float32(1e-5), np.float64(1e-5), 1e-5])
def test_a_tolerance_may_be_any_real_number(number):
    assert projlab.projector(angle(2e-6), [1.0, 1.0], rank=number).rank == 1
    assert projlab.projector(angle(1.0), [1.0, 1.0], accuracy=number).rank == 2


def test_exact_rank_takes_entries_literally():
    tenth = torch.tensor([[0.1, 0.2, 0.3]], dtype=F64)
    A = torch.cat([tenth, 3 * tenth])  # 3 * 0.1 is not 0.3 in binary: independent by a rounding
    assert exact.rank(exact.matrix(A)) == 2
    assert projlab.projector(A, [0.0, 0.0], "pinv", rank="exact").rank == 2
    assert projlab.projector(A, [0.0, 0.0]).rank == 1
    # what is redundant exactly, is so by every rule
    duplicate = torch.cat([tenth, tenth, 4 * tenth])
    for rule in ("exact", "numerical", 1e-9):
        assert projlab.projector(duplicate, [1.0, 1.0, 4.0], rank=rule).rank == 1


@draw(st.integers(0, 2**32 - 1))
def test_exact_rank_of_random_integer_matrices(seed):
    generator = torch.Generator().manual_seed(seed)
    m, r, n = (int(v) for v in torch.randint(1, 7, (3,), generator=generator))
    A = torch.randint(-3, 4, (m, r), generator=generator) @ torch.randint(
        -3, 4, (r, n), generator=generator
    )
    expected = exact.rank(exact.matrix(A.double()))
    for rule in ("exact", "numerical"):
        assert projlab.diagnose(A, 0.0, rank=rule).rank == expected


def test_exact_rank_judges_b_literally():
    A = [[1.0, 1.0], [1.0, 1.0]]
    b = [0.3, 0.1 + 0.2]  # differ by a rounding
    assert projlab.projector(A, b).rank == 1
    with pytest.raises(projlab.InconsistentError, match="row 1 = row 0"):
        projlab.projector(A, b, rank="exact")
    assert projlab.projector(A, [0.3, 0.3], rank="exact").rank == 1


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_redundant_in_decimals_is_harmless(variant):
    """Taken literally, this has a condition number of 1e16 or no solution at all."""
    A = torch.tensor([[0.1, 0.7, 0.3], [0.2, 0.4, -0.9], [0.3, 1.1, -0.6]], dtype=F64)
    b = torch.tensor([1.3, 0.4, 1.7], dtype=F64)
    P = projlab.projector(A, b, variant)
    assert P.rank == 2
    M, right = exact.matrix(A[:2]), exact.vector(b[:2])
    solution = exact.projection(M, right, exact.vector(zeros(3)))
    size = exact.norm(solution)
    kappa = condition_number(A.numpy(), 2)
    # of which two rows carry the rank is free: they differ by a rounding, magnified by kappa
    bound = forward_error_bound(variant, u=EPS / 2, m=3, n=3, condition=kappa, amplification=1.0)
    assert exact.distance(P(zeros(3)), solution) <= 2 * bound * size


# --- redundant rows ----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", CHOICES)
def test_redundant_rows_can_be_refused(variant):
    A = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0], [2.0, 4.0, -3.0]], dtype=F64)
    constraint = projlab.AffineConstraint(A, [1.0, 1.0, -1.0], names=["supply", "demand", "mix"])
    assert projlab.projector(constraint, variant=variant).rank == 2
    with pytest.raises(projlab.RankDeficientError, match="rank is 2") as caught:
        projlab.projector(constraint, variant=variant, on_redundant="raise")
    message = str(caught.value)
    assert "mix = 2 * supply - 3 * demand" in message
    assert 'on_redundant="drop"' in message
    with pytest.raises(projlab.RankDeficientError, match="mix = 2"):
        projlab.project(zeros(3), constraint, variant=variant, on_redundant="raise")
    independent = projlab.projector(A[:2], [1.0, 1.0], variant, on_redundant="raise")
    assert independent.rank == 2


def test_of_two_duplicates_the_later_one_is_redundant():
    A = torch.tensor([[0.0, 1.0, 1.0], [2.0, 0.0, 0.0], [0.0, 4.0, 4.0], [1.0, 0.0, 0.0]])
    assert [c.row for c in projlab.diagnose(A, [1.0, 2.0, 4.0, 1.0]).redundant] == [2, 3]


# --- data in float32 -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 100, 10_000])
@pytest.mark.parametrize("apart", [2e-4, 2e-5])
def test_long_float32_rows_that_differ_by_more_than_rounding_are_two_equations(n, apart):
    signs = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0).to(F64)
    A = torch.stack([torch.ones(n, dtype=F64), 1 + apart * signs]).float()
    b = torch.tensor([1.0, 2.0])
    found = projlab.diagnose(A, b)
    assert found.rank == 2
    assert not found.ambiguous
    x = projlab.projector(A, b)(torch.zeros(n)).double()
    A, b = A.double(), b.double()
    assert bool(((A @ x - b).abs() <= 8 * 2.0**-24 * (A.abs() @ x.abs())).all())
    nearest = torch.linalg.lstsq(A, b[:, None], driver="gelsd").solution[:, 0]
    assert float((x - nearest).norm() / nearest.norm()) <= 8 * 2.0**-24 * 2 / apart  # kappa


@pytest.mark.parametrize("n", [5, 60, 10_000])
def test_float32_rows_that_follow_up_to_their_rounding_are_redundant(n):
    draw = torch.Generator().manual_seed(n)
    A = torch.randn(6, n, generator=draw)
    A[4] = 3 * A[0]
    A[5] = A[1] - 0.3 * A[2]
    x = torch.randn(n, generator=draw, dtype=F64)
    b = (A.double() @ x).float()
    found = projlab.diagnose(A, b)
    assert found.rank == min(4, n)
    assert not found.ambiguous
    assert found.consistent


@pytest.mark.parametrize("n", [3, 1000, 10_000])
@pytest.mark.parametrize("off", [1e-2, 1e-4, 3e-6])
def test_equal_float32_rows_with_other_right_sides_contradict_each_other(n, off):
    A = torch.ones(2, n)
    b = torch.tensor([1.0, 1.0 + off])
    with pytest.raises(projlab.InconsistentError, match="row 1"):
        projlab.projector(A, b)
    projlab.projector(A, torch.tensor([1.0, 1.0 + 2.0**-23]))


def test_a_long_float32_combination_may_be_off_by_the_rounding_of_all_its_rows():
    m, n = 400, 500
    A = torch.rand(m, n, generator=torch.Generator().manual_seed(0))
    total = A.double().sum(0).float()
    x = torch.ones(n, dtype=F64)
    b = (A.double() @ x).float()
    whole = torch.cat([A, total[None]])
    right = torch.cat([b, b.double().sum().float()[None]])
    assert projlab.diagnose(whole, right).rank == m
    assert projlab.diagnose(whole, right).consistent
    right[-1] *= 1 + 1e-4
    assert not projlab.diagnose(whole, right).consistent


def test_rows_in_float16_are_taken_for_float32s_unless_their_rounding_is_said():
    A = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.6, 0.9]]).half()
    assert projlab.projector(A, [1.0, 3.0]).rank == projlab.projector(A, [1.0, 4.0]).rank == 2
    assert projlab.projector(A, [1.0, 3.0], rank=5e-3).rank == 1
    with pytest.raises(projlab.InconsistentError, match=r"row 1 = 2\.99"):
        projlab.projector(A, [1.0, 4.0], rank=5e-3)


def test_the_condition_number_of_two_rows_at_an_angle():
    """Rows of norm one whose cosine is 0.28: kappa^2 = 1.28 / 0.72."""
    A = torch.tensor([[1.0, 0.0], [0.28, 0.96]], dtype=torch.float64)
    assert projlab.diagnose(A, torch.zeros(2)).condition == pytest.approx(4 / 3, rel=1e-14)
    assert float(projlab.projector(A, torch.zeros(2)).condition) == pytest.approx(4 / 3, rel=1e-14)
