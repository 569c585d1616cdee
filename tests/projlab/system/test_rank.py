"""What counts as redundant, what as inconsistent, and what the user may ask for instead."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st

import projlab
from projlab import tolerance
from projlab.engine.variants import forward_error_bound
from tests.projlab import exact
from tests.projlab.systems import CHOICES, DISJOINT_VARIANTS, OVERLAPPING_VARIANTS, condition_number

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
    assert cutoff == n * torch.finfo(dtype).eps
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
    assert P.rank == measured.rank == 40
    assert not measured.ambiguous
    bound = P._solver.conditions[0]
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


def test_a_batch_is_decided_as_its_elements_are():
    A = torch.stack([spectrum([1.0] * 4, 9), spectrum([1.0, 1.0, 1.0, 0.0], 9)])
    A[1, 3] = A[1, 2] + A[1, 0]
    P = projlab.projector(A, 0.0)
    assert P.rank.tolist() == [projlab.projector(E, 0.0).rank for E in A] == [4, 3]
    each = [projlab.projector(E, 0.0).condition for E in A]
    assert P.condition.tolist() == pytest.approx(each, rel=1e-12)


@pytest.mark.parametrize("variant", ["qr", "pinv"])
def test_long_float32_rows_are_orthonormal_to_rounding(variant):
    """A float32 Householder QR of 1e6 columns is off by 1e-4."""
    A = torch.ones(2, 1_000_000)
    A[1] = torch.arange(1_000_000) / 1_000_000
    W = projlab.projector(A, 0.0, variant)._solver.factor.W.double()
    u = tolerance.unit_roundoff(torch.float32)
    # each entry is rounded once: (W + D)(W + D)' is off by at most 2 u to first order
    assert float((W @ W.mT - torch.eye(2)).abs().max()) <= 2.1 * u


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
    with pytest.raises(projlab.RankDeficientError) as caught:
        projlab.projector(constraint, variant=variant, on_redundant="raise")
    message = str(caught.value)
    assert "rank is 2" in message
    assert "mix = 2 * supply - 3 * demand" in message
    assert 'on_redundant="drop"' in message
    with pytest.raises(projlab.RankDeficientError, match="mix = 2"):
        projlab.project(zeros(3), constraint, variant=variant, on_redundant="raise")
    independent = projlab.projector(A[:2], [1.0, 1.0], variant, on_redundant="raise")
    assert independent.rank == 2


def test_of_two_duplicates_the_later_one_is_redundant():
    A = torch.tensor([[0.0, 1.0, 1.0], [2.0, 0.0, 0.0], [0.0, 4.0, 4.0], [1.0, 0.0, 0.0]])
    assert [c.row for c in projlab.diagnose(A, [1.0, 2.0, 4.0, 1.0]).redundant] == [2, 3]


# --- inconsistent systems ----------------------------------------------------------------------


@pytest.mark.parametrize("variant", CHOICES)
def test_zero_equals_one(variant):
    for A, b in ((torch.zeros(1, 3), [1.0]), (torch.eye(3)[[0, 0]] * 0, [0.0, 5.0])):
        with pytest.raises(projlab.InconsistentError, match=rf"row {len(b) - 1} reads 0 = [15]"):
            projlab.projector(A, b, variant)
        with pytest.raises(projlab.InconsistentError, match="reads 0 ="):
            projlab.project(torch.zeros(3), A, b, variant)


def test_a_contradiction_is_named_with_the_combination_that_proves_it():
    A = [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, -1.0], [0.0, 0.0, 1.0]]
    names = ["heat", "power", "cost", "level"]
    constraint = projlab.AffineConstraint(A, [1.0, 2.0, 1.0, 0.0], names=names)
    with pytest.raises(projlab.InconsistentError) as caught:
        projlab.projector(constraint)
    message = str(caught.value)
    # on the right, 1 - 2 is not 1
    assert "cost = heat - power on the left, but its b is 1 and the combination's is -1" in message
    assert "level" not in message
    assert 'on_inconsistent="least_squares"' in message
    found = projlab.diagnose(constraint).conflicting
    assert [c.name for c in found] == ["cost"]
    assert dict(found[0].terms) == {"heat": 1.0, "power": -1.0}


def test_many_contradictions_are_counted_not_listed():
    with pytest.raises(projlab.InconsistentError, match="and 14 more rows"):
        projlab.projector(torch.ones(20, 3), torch.arange(20.0))


@draw(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(-30, 30), min_size=6, max_size=6),
    st.sampled_from(["float32", "float64"]),
)
def test_missing_by_a_rounding_is_accepted_and_by_more_is_not(seed, exponents, dtype):
    """Combinations and their b computed in floating point, in rows of any units.

    Positive combinations of positive rows round without cancellation: a few roundings a row.
    """
    dtype = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(seed)
    units = torch.tensor([10.0**e for e in exponents], dtype=F64)
    rows = torch.rand(4, 9, dtype=dtype, generator=generator) + 0.1
    solution = torch.rand(9, dtype=dtype, generator=generator) + 0.1
    C = torch.rand(2, 4, dtype=dtype, generator=generator) + 0.1
    A = torch.cat([rows, C @ rows]).double()
    b = torch.cat([rows @ solution, C @ (rows @ solution)]).double()
    A, b = (A * units[:, None]).to(dtype), (b * units).to(dtype)
    P = projlab.projector(A, b)
    assert P.rank == 4
    off = b.clone()
    off[5] *= 1 + (1e-9 if dtype is F64 else 1e-3)
    with pytest.raises(projlab.InconsistentError):
        projlab.projector(A, off)
    assert projlab.projector(A, off, on_inconsistent="least_squares").rank == 4


@pytest.mark.parametrize("scale", [1e-200, 1e-10, 1.0, 1e10, 1e200])
def test_the_threshold_is_independent_of_row_scaling(scale):
    A = torch.tensor([[1.0, 2.0], [2.0 * scale, 4.0 * scale]], dtype=F64)
    accepted = torch.tensor([0.3, 0.6 * scale], dtype=F64)
    assert projlab.projector(A, accepted).rank == 1
    with pytest.raises(projlab.InconsistentError, match="row 1"):
        projlab.projector(A, [0.3, 0.6 * scale * (1 + 1e-9)])


# --- least squares -----------------------------------------------------------------------------

INCONSISTENT = {
    "two readings of one sum": ([[1, 1], [1, 1]], [1, 3]),
    "a zero row": ([[1, 2, 0], [0, 0, 0]], [1, 5]),
    "only a zero row": ([[0, 0, 0]], [5]),
    "a line through three points": ([[1, 0], [1, 1], [1, 2]], [0, 1, 3]),
    "rows in different units": (
        [[1, 1, 0], [1000, 1000, 0], [0, 1, 1], [1, 2, 1]],
        [1, 1100, 4, 4],
    ),
    "a tiny row first": ([[1e-9], [1]], [1, 1]),
    "one column": ([[1 / 32], [-32], [-1 / 64], [-1 / 8]], [-3, 9, 4, -3]),
    "rank two of five": ([[1, 2, 3], [2, 4, 6], [1, 0, 1], [0, 2, 2], [0, 0, 0]], [1, 1, 1, 1, 1]),
}


def check_least_squares(A, b, x0, variant, built_with=None):
    """Against the point of {x : A'A x = A'b} nearest to x0, with the rows as they were given.

    Returns whether the system is inconsistent. The projector is built with another b on request.
    """
    own = b if built_with is None else built_with
    P = projlab.projector(A, own, variant, on_inconsistent="least_squares")
    M, right, point = exact.matrix(A), exact.vector(b), exact.vector(x0)
    solution = exact.projection(M, right, point)
    # the reference itself: A'(A x - b) = 0
    residual = exact.subtract(exact.times(M, solution), right)
    assert not any(exact.times(M.transpose(), residual))
    rank = exact.rank(M)
    assert P.rank == rank
    # the range is found from equilibrated rows, and used in the rows as given: kappa of both
    # enter; and kappa squared times the residual (Wedin's theorem, ASNA 20.1)
    sigma = torch.linalg.svdvals(A)
    unscaled = float(sigma[0] / sigma[rank - 1]) if rank else 1.0
    kappa = unscaled * condition_number(A.numpy(), rank)
    size = exact.norm(point) + exact.norm(exact.subtract(point, solution))
    if rank:
        size += (unscaled + 1) * exact.norm(residual) / float(sigma[0])
    allowed = size * forward_error_bound(
        P.variant, u=EPS / 2, m=len(A), n=A.shape[1], condition=kappa, amplification=1.0
    )
    results = [P(x0, b), projlab.project(x0, A, b, variant, on_inconsistent="least_squares")]
    if built_with is None:
        results += [P(x0), P.project_(x0.clone())]
    for x in results:
        assert exact.distance(x, solution) <= allowed
    # x0 - A'y is the projection
    y = exact.times(M.transpose(), exact.vector(P.multipliers(x0, b)))
    assert exact.norm(exact.subtract(exact.subtract(point, y), solution)) <= allowed
    return any(residual)


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
@pytest.mark.parametrize("name", INCONSISTENT)
def test_least_squares_against_the_exact_normal_equations(name, variant):
    A, b = (torch.tensor(t, dtype=F64) for t in INCONSISTENT[name])
    with pytest.raises(projlab.InconsistentError):
        projlab.projector(A, b, variant)
    assert check_least_squares(A, b, torch.randn(A.shape[1], dtype=F64), variant)


@draw(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_least_squares_of_random_systems(seed):
    """Rows that are redundant in any mixture, in units that differ by 2^-20 to 2^20."""
    rng = np.random.default_rng(seed)
    r, extra, n = rng.integers(1, 5), rng.integers(1, 5), rng.integers(1, 8)
    rows = rng.integers(-9, 10, (r, n)) * (rng.random((r, n)) < rng.choice([0.4, 1.0]))
    A = rng.permutation(np.concatenate([rows, rng.integers(-2, 3, (extra, r)) @ rows])).astype(
        float
    )
    A = torch.tensor(A * 2.0 ** rng.integers(-20, 21, len(A))[:, None])
    b = torch.tensor(rng.integers(-9, 10, len(A)).astype(float))
    x0 = torch.tensor(rng.standard_normal(n))
    inconsistent = check_least_squares(A, b, x0, "qr")
    try:
        projlab.projector(A, b)
    except projlab.InconsistentError:
        assert inconsistent
    else:
        assert not inconsistent


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_least_squares_of_another_b(variant):
    """Consistent with the b it was built with, not so with the next: to the same digits."""
    A = torch.tensor([[1e-9, 0.0], [1.0, 0.0], [3.0, 1.0]], dtype=F64)
    b = torch.tensor([1.0, 1.0, 0.5], dtype=F64)
    assert check_least_squares(A, b, zeros(2), variant, built_with=A.sum(1))
    assert not check_least_squares(A, A.sum(1), zeros(2), variant, built_with=b)


def test_least_squares_depends_on_the_scaling_of_rows():
    """x = 1 and x = 3 meet at 2; with the second row ten times as heavy, at 301/101."""
    P = projlab.projector([[1.0], [1.0]], [1.0, 3.0], on_inconsistent="least_squares")
    assert P(zeros(1)).item() == pytest.approx(2.0, rel=8 * EPS)
    P = projlab.projector([[1.0], [10.0]], [1.0, 30.0], on_inconsistent="least_squares")
    assert P(zeros(1)).item() == pytest.approx(301 / 101, rel=8 * EPS)


@pytest.mark.parametrize("variant", CHOICES)
def test_least_squares_of_a_consistent_system_is_the_projection(variant):
    A = torch.tensor([[1.0, 2.0, 0.0, 0.0], [2.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]], dtype=F64)
    b, x0 = torch.tensor([1.0, 2.0, 3.0], dtype=F64), torch.randn(4, dtype=F64)
    plain = projlab.projector(A, b, variant)
    least = projlab.projector(A, b, variant, on_inconsistent="least_squares")
    size = float(x0.norm() + (x0 - plain(x0)).norm())
    kappa = max(float(plain.condition), condition_number(A.numpy(), 2)) * 5  # unscaled rows
    allowed = (
        2
        * size
        * forward_error_bound(
            plain.variant, u=EPS / 2, m=3, n=4, condition=kappa, amplification=1.0
        )
    )
    assert (plain(x0) - least(x0)).norm() <= allowed
    assert least.rank == 2


@pytest.mark.parametrize("variant", DISJOINT_VARIANTS)
def test_least_squares_by_rows_without_a_matrix(variant):
    """Redundant rows of one kind, and disjoint rows: nothing here needs a Gram matrix."""
    P = projlab.projector(
        [[1.0, 1.0], [1.0, 1.0]], [1.0, 3.0], variant, on_inconsistent="least_squares"
    )
    assert P(zeros(2)).tolist() == pytest.approx([1.0, 1.0], rel=8 * EPS)
    assert math.isclose(P.condition, 1.0)
