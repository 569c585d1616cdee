"""What `diagnose` says of a system, and that row scaling by powers of two changes none of it.

Which systems are inconsistent, and how that is said.
"""

import math

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import example, settings
from hypothesis import given as draw
from hypothesis import strategies as st

import projlab
from projlab import tolerance
from tests.projlab import exact
from tests.projlab.systems import CASES, CHOICES, SYSTEMS, case

F64 = torch.float64


# --- rank, condition, ambiguity ----------------------------------------------------------------


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_rank_condition_and_verdict(name, dtype):
    given = case(name, dtype)
    found = projlab.diagnose(given.A, given.b)
    assert found.shape == (given.m, given.n)
    assert found.rank == given.rank
    assert found.consistent
    assert not found.conflicting
    assert not found.ambiguous
    # equilibration by powers of two leaves row norms within a factor of two, and so kappa
    assert 1 <= found.condition <= 2 * given.condition
    P = projlab.projector(given.A, given.b, "pinv")
    assert (P.rank, P.condition) == (found.rank, found.condition)
    assert found.gap[0] > found.cutoff >= found.gap[1] or given.rank == 0


def test_condition_number_by_hand():
    """Rows (1, 0) and (1, s) of norm one: the condition number is that of their angle."""
    s = 1e-6
    found = projlab.diagnose([[1.0, 0.0], [1.0, s]], 0.0)
    assert found.condition == pytest.approx(2 / s, rel=1e-6)
    assert projlab.diagnose(np.diag([1.0, 1e9]), 0.0).condition <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 10, 60])
def test_ambiguous_within_a_factor_ten_of_the_cutoff(n, dtype):
    """sigma_2 / sigma_1 of rows (1, 0) and (1, s) is s / 2, placed around the cutoff."""
    cutoff = tolerance.rank_cutoff(2, n, tolerance.unit_roundoff(dtype))
    for factor, rank, ambiguous in (
        (100.0, 2, False),
        (12.0, 2, False),
        (8.0, 2, True),
        (1.3, 2, True),
        (0.8, 1, True),
        (0.15, 1, True),
        (0.07, 1, False),
        (0.0, 1, False),
    ):
        A = torch.zeros(2, n, dtype=dtype)
        A[:, 0] = 1.0
        A[1, 1] = 2 * factor * cutoff
        found = projlab.diagnose(A, torch.zeros(2, dtype=dtype))
        assert found.rank == rank, factor
        assert found.ambiguous is ambiguous, factor
        assert ("ambiguous" in str(found)) is ambiguous


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", range(2, 61))
def test_exact_duplicates_are_never_ambiguous(m, dtype):
    """Wide, square and tall; duplicated, negated, doubled: no rounding is to be seen in them."""
    half = (m + 1) // 2
    for n in {half, m, m - 1, 2 * m}:
        if n < half:
            continue
        rows = torch.randn(half, n, dtype=dtype)
        copies = rows[: m - half] * torch.tensor([1.0, -1.0, 2.0, 0.25])[
            torch.arange(m - half) % 4, None
        ].to(dtype)
        b = torch.zeros(m, dtype=dtype)
        found = projlab.diagnose(torch.cat([rows, copies]), b)
        assert (found.rank, found.ambiguous) == (half, False), (m, n)


@draw(st.integers(0, 2**32 - 1))
@example(692)  # tall systems, in which an SVD of their own precision leaves 3e-16
@example(936)
@example(2552)
@example(3244)
@example(552966194)
@settings(max_examples=60)
def test_exact_combinations_are_never_ambiguous(seed):
    generator = torch.Generator().manual_seed(seed)
    r, extra, n = (int(v) for v in torch.randint(1, 13, (3,), generator=generator))
    rows = torch.randint(-9, 10, (r, n), generator=generator)
    A = torch.cat([rows, torch.randint(-9, 10, (extra, r), generator=generator) @ rows])
    rank = exact.rank(exact.matrix(A))
    found = projlab.diagnose(A, 0.0)
    assert found.rank == rank
    assert not found.ambiguous


# --- redundant and conflicting rows ------------------------------------------------------------


def combination(found, A, names):
    """The combination's rows, summed up: exact in the coefficients that are reported."""
    total = [exact.rational(0.0)] * A.shape[1]
    for name, c in found.terms:
        row = exact.vector(A[names.index(name)])
        total = [t + exact.rational(c) * a for t, a in zip(total, row, strict=True)]
    return total


REDUNDANT = [name for name, dtype in CASES if dtype == "float64" and case(name).rank < case(name).m]


@pytest.mark.parametrize("name", REDUNDANT)
def test_redundant_rows_are_the_combinations_that_are_named(name):
    given = case(name)
    names = [f"constraint {i}" for i in range(given.m)]
    found = projlab.diagnose(projlab.AffineConstraint(given.A, given.b, names))
    assert len(found.redundant) == given.m - given.rank
    dropped = [c.row for c in found.redundant]
    kept = [i for i in range(given.m) if i not in dropped]
    assert exact.rank(exact.matrix(given.A[kept])) == given.rank, "the others carry the rank"
    for c in found.redundant:
        assert c.name == names[c.row]
        used = [names.index(term) for term, _ in c.terms]
        assert set(used) <= set(kept)
        gap = exact.subtract(exact.vector(given.A[c.row]), combination(c, given.A, names))
        size = sum(abs(v) * exact.norm(exact.vector(given.A[names.index(t)])) for t, v in c.terms)
        assert exact.norm(gap) <= tolerance.COMBINATION_NOISE * size
        assert c.left == given.b[c.row]
        right = sum(v * float(given.b[names.index(t)]) for t, v in c.terms)
        assert c.right == pytest.approx(right, rel=1e-12)


def test_integer_coefficients_are_shown_as_integers():
    A = [[1, 0, 2], [0, 1, 1], [0, 0, 0], [1, -1, 1], [-3, 0, -6]]
    found = projlab.diagnose(projlab.AffineConstraint(A, [1, 2, 0, -1, -3], list("pqrst")))
    assert [str(c) for c in found.redundant] == ["r = 0", "s = p - q", "t = -3 * p"]
    assert found.consistent


def test_conflicting_rows_are_named_and_the_others_are_not():
    A = [[1, 0, 2], [0, 1, 1], [0, 0, 0], [1, -1, 1], [1, 0, 2]]
    found = projlab.diagnose(projlab.AffineConstraint(A, [1, 2, 5, -1, 7], list("pqrst")))
    assert not found.consistent
    assert {c.name for c in found.conflicting} == {"r", "t"}
    assert {c.name for c in found.redundant} == {"r", "s", "t"}
    contradictions = {c.name: c.contradiction() for c in found.conflicting}
    assert contradictions["r"] == "r reads 0 = 5"
    assert contradictions["t"] == "t = p on the left, but its b is 7 and the combination's is 1"


def test_a_combination_in_the_callers_units():
    A = torch.tensor([[1e-150, 0.0], [0.0, 1e100], [1.0, 1.0]], dtype=F64)
    (found,) = projlab.diagnose(A, [1e-150, 1e100, 2.0]).redundant
    terms = dict(found.terms)
    row = int(found.name.removeprefix("row "))
    total = sum(c * A[int(name.removeprefix("row "))] for name, c in terms.items())
    assert torch.allclose(total, A[row], rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_rows_so_far_apart_that_no_float_is_their_ratio(order):
    """The verdict stands, though the coefficient of one row on the other is no number."""
    A = torch.tensor([[1e-200, 1e-200], [1e200, 1e200]], dtype=F64)[order]
    b = torch.tensor([1e-200, 1e200], dtype=F64)[order]
    found = projlab.diagnose(A, b)
    assert (found.rank, found.consistent) == (1, True)
    assert [c.row for c in found.redundant] == [1]
    assert "1 redundant row\n" in str(found)
    b[1] *= 2
    assert [c.row for c in projlab.diagnose(A, b).conflicting] == [1]
    with pytest.raises(projlab.InconsistentError, match="row 1"):
        projlab.projector(A, b)


# --- what is printed ---------------------------------------------------------------------------


def test_it_prints_what_is_known():
    A = [[3.0, 4.0, 0.0], [0.0, 0.0, 10.0], [6.0, 8.0, 0.0], [3.0, 4.0, 0.0]]
    text = str(projlab.diagnose(projlab.AffineConstraint(A, [1.0, 1.0, 2.0, 9.0], list("abcd"))))
    for line in (
        "4 equations in 3 variables",
        "numerical rank 2",
        "row norms from 5 to 10",
        "2 redundant rows",
        "  c = 2 * a",
        "  d = a",
        "1 conflicting row",
        "  d = a on the left, but its b is 9 and the combination's is 1",
    ):
        assert line in text
    assert "no redundant rows" in str(projlab.diagnose(A[:2], 1.0))
    assert "and 15 more" in str(projlab.diagnose(torch.ones(21, 3), 1.0))


def test_scaling():
    found = projlab.diagnose([[3e-200, 4e-200], [0.0, 0.0], [0.0, 2e150]], 0.0)
    assert found.scaling.smallest == pytest.approx(5e-200, rel=1e-14)
    assert found.scaling.largest == pytest.approx(2e150, rel=1e-14)
    assert found.scaling.spread == math.inf or found.scaling.spread > 1e300
    assert projlab.diagnose(torch.zeros(2, 3), 0.0).scaling.spread == 1.0


@pytest.mark.parametrize("form", [scipy.sparse.csr_array, np.asarray, torch.from_numpy])
def test_every_form_of_A(form):
    A = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    found = projlab.diagnose(form(A), np.array([1.0, 1.0, 2.0, 0.0]))
    assert (found.rank, len(found.redundant), found.consistent) == (2, 2, True)


# --- invariance under row scaling by powers of two ---------------------------------------------

SCALED = [
    name
    for name in SYSTEMS
    if case(name).m and "1e200" not in name  # those are at the ends of the range already
]


@draw(st.data())
@settings(max_examples=120)
def test_powers_of_two_change_nothing_but_rounding(data):
    """2^-300 to 2^300 on every row and its b: rank, condition, variant and the rows named."""
    given = case(data.draw(st.sampled_from(SCALED)))
    exponents = data.draw(
        st.lists(st.integers(-300, 300), min_size=given.m, max_size=given.m), label="exponents"
    )
    D = torch.tensor([math.ldexp(1.0, e) for e in exponents], dtype=F64)
    A, b = given.A * D[:, None], given.b * D
    before, after = projlab.diagnose(given.A, given.b), projlab.diagnose(A, b)
    same(before, after)
    P, Q = projlab.projector(given.A, given.b), projlab.projector(A, b)
    assert (P.variant, P.rank, P.condition, P.reason) == (Q.variant, Q.rank, Q.condition, Q.reason)
    gap = torch.linalg.vector_norm(P(given.x0) - Q(given.x0))
    assert gap <= 2 * given.allowed(P.variant)
    # multipliers are in the inverse units
    y, z = P.multipliers(given.x0), Q.multipliers(given.x0) * D
    assert torch.allclose(y, z, rtol=1e-10, atol=0)


@draw(st.lists(st.integers(-300, 300), min_size=5, max_size=5))
@settings(max_examples=60)
def test_powers_of_two_do_not_change_which_rows_conflict(exponents):
    A = torch.tensor([[1, 0, 2], [0, 1, 1], [0, 0, 0], [1, -1, 1], [1, 0, 2]], dtype=F64)
    b = torch.tensor([0.1, 0.2, 5, -0.1, 7], dtype=F64)
    D = torch.tensor([math.ldexp(1.0, e) for e in exponents], dtype=F64)
    before, after = projlab.diagnose(A, b), projlab.diagnose(A * D[:, None], b * D)
    same(before, after)
    assert {c.row for c in after.conflicting} == {2, 4}
    with pytest.raises(projlab.InconsistentError, match="row 2 reads 0 ="):
        projlab.projector(A * D[:, None], b * D)


def same(before, after):
    assert before.rank == after.rank
    assert before.ambiguous is after.ambiguous
    assert before.condition == after.condition
    assert before.gap == after.gap
    assert [c.row for c in before.redundant] == [c.row for c in after.redundant]
    assert [c.row for c in before.conflicting] == [c.row for c in after.conflicting]
    for p, q in zip(before.redundant, after.redundant, strict=True):
        assert [name for name, _ in p.terms] == [name for name, _ in q.terms]


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
    # on the right, 1 - 2 is not 1
    proof = "cost = heat - power on the left, but its b is 1 and the combination's is -1"
    with pytest.raises(projlab.InconsistentError, match=proof) as caught:
        projlab.projector(constraint)
    message = str(caught.value)
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
    with pytest.raises(projlab.InconsistentError, match="has no solution"):
        projlab.projector(A, off)
    if max(exponents) - min(exponents) <= 12:  # beyond, no digit may be left: refused, or not yet
        assert projlab.projector(A, off, on_inconsistent="least_squares").rank == 4


@pytest.mark.parametrize("scale", [1e-200, 1e-10, 1.0, 1e10, 1e200])
def test_the_threshold_is_independent_of_row_scaling(scale):
    A = torch.tensor([[1.0, 2.0], [2.0 * scale, 4.0 * scale]], dtype=F64)
    accepted = torch.tensor([0.3, 0.6 * scale], dtype=F64)
    assert projlab.projector(A, accepted).rank == 1
    with pytest.raises(projlab.InconsistentError, match="row 1"):
        projlab.projector(A, [0.3, 0.6 * scale * (1 + 1e-9)])
