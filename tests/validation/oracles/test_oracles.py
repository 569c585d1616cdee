"""`reference`: x* by whatever oracle can prove it, and why there is none where there is none."""

import time
from dataclasses import replace
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.sparse as sp

from projlab_validation.oracles import ball, lstsq, reference, sparse_ball
from projlab_validation.problems import catalogue, real
from tests.validation.oracles.cases import (
    EPS,
    backward_stable,
    distance,
    enclosed,
    make,
    mp_projection,
    mp_vector,
    named,
    nearly_redundant,
    random_rows,
    with_duplicates,
)

INDEX_RANK = {name: int(row["exact_rank"] or row["rank"]) for name, row in real.index().items()}


class TestClosedForms:
    """Answers that a pencil finds."""

    def check(self, problem, answer, kind="exact"):
        x_star = reference(problem)
        assert x_star.kind == kind
        assert x_star.consistent
        assert not x_star.ambiguous
        for value, h, e in zip(answer, x_star.x_high, x_star.x_low, strict=True):
            error = abs(Fraction(float(h)) + Fraction(float(e)) - value)
            assert error <= Fraction(x_star.radius) * max(map(abs, answer))
        return x_star

    def test_one_row(self):
        a, x0, b = [3, -4, 12], [1, 10, -1], 5
        step = Fraction(sum(p * q for p, q in zip(a, x0, strict=True)) - b, 169)
        self.check(make(a, b, x0), [v - step * p for p, v in zip(a, x0, strict=True)])

    def test_column_sum(self):
        self.check(make(np.ones(7), 1, np.arange(7.0)), [v - Fraction(20, 7) for v in range(7)])

    def test_a_point(self):
        self.check(make([[2, 1], [1, 3]], [1, 1]), [Fraction(2, 5), Fraction(1, 5)])

    def test_redundant_rows(self):
        A = [[1, 1, 0], [2, 2, 0], [0, 0, 1], [1, 1, 1]]
        x_star = self.check(
            make(A, [1, 2, 1, 2], [1, 2, 3]), [Fraction(0), Fraction(1), Fraction(1)]
        )
        assert x_star.rank == 2

    def test_rows_of_zeros_are_nothing(self):
        x_star = self.check(make([[0, 0], [1, 1]], [0, 1], [1, 1]), [Fraction(1, 2)] * 2)
        assert x_star.rank == 1

    def test_nothing_but_zeros(self):
        problem = make([[0, 0]], [0], [1, 2])
        assert self.check(problem, [Fraction(1), Fraction(2)]).rank == 0

    def test_sparse_storage_changes_nothing(self):
        problem = named("article_3")
        stored = replace(problem, A=sp.csr_array(problem.A))
        assert distance(reference(stored), reference(problem)) == 0

    def test_powers_of_two_on_rows_change_no_bit(self):
        problem = named("spectra_1e9_10x20")
        scale = 2.0 ** np.arange(-200, 200, 40)
        scaled = replace(problem, A=problem.A * scale[:, None], b=problem.b * scale)
        assert distance(reference(scaled), reference(problem)) == 0
        assert distance(enclosed(scaled), enclosed(problem)) == 0


class TestZero:
    """x* = 0 has no relative error: ‖x₀‖ is the scale."""

    problem = make([[1, 2], [3, 5]], [0, 0], [3, 4])

    @pytest.mark.parametrize("find", [reference, enclosed])
    def test_is_found_and_judged_on_the_scale_of_x0(self, find):
        x_star = find(self.problem)
        assert not x_star.x_high.any()
        assert not x_star.x_low.any()
        assert x_star.radius < 1e-28
        assert x_star.forward_error(np.array([1e-3, 0])) == pytest.approx(2e-4, rel=1e-12)

    def test_is_judged_absolutely_where_x0_is_zero_too(self):
        x_star = reference(replace(self.problem, x0=np.zeros(2)))
        assert x_star.forward_error(np.array([0.0, 0.5])) == 0.5


class TestNearlyRedundantRows:
    """A row that depends on others but for a rounding counts as redundant, by definition."""

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize("seed", range(4))
    def test_are_judged_at_numerical_rank(self, seed, dtype):
        problem = nearly_redundant(seed, dtype)
        x_star = reference(problem)
        truth, S = mp_projection(problem, 4)
        assert S[4] > 1e-3 * np.finfo(dtype).eps  # not exactly redundant: the case that is meant
        assert (x_star.kind, x_star.rank, x_star.consistent) == ("ball", 4, True)
        assert mpmath.norm(mp_vector(x_star) - truth) <= x_star.radius * mpmath.norm(truth)
        assert x_star.radius < 1e-26
        assert x_star.condition == pytest.approx(float(S[0] / S[3]), rel=1e-6)

    def test_differ_from_the_exact_projection(self):
        """The literal system has κ ~ 1/u: dropping the rows and taking them literally differ."""
        problem = nearly_redundant(0)
        literal, _ = mp_projection(problem, 6)
        assert mpmath.norm(mp_vector(reference(problem)) - literal) > 1e-3

    def test_are_left_to_balls_even_where_they_hold_exactly(self):
        """The independent row's answer, (1, 0, 5), meets the other too, but is not x*."""
        problem = make([[1, 0, 0], [1, EPS, 0]], [1, 1], [3, 0, 5])
        x_star = reference(problem)
        truth, _ = mp_projection(problem, 1)
        assert (x_star.kind, x_star.rank) == ("ball", 1)
        assert x_star.x_high[1] == pytest.approx(-EPS, rel=1e-12)
        assert mpmath.norm(mp_vector(x_star) - truth) <= x_star.radius * mpmath.norm(truth)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_least_squares_keeps_the_rows_as_given(self, dtype):
        problem = nearly_redundant(1, dtype, noise=0.1)
        problem = replace(problem, A=problem.A * [[1], [1], [8], [1], [1], [16]])
        problem = replace(problem, b=problem.b * [1, 1, 8, 1, 1, 16])
        assert reference(problem).reason == "inconsistent"
        x_star = reference(problem, least_squares=True)
        truth, S = mp_projection(problem, 4, equilibrate=False)
        assert (x_star.kind, x_star.rank, x_star.consistent) == ("ball", 4, False)
        assert mpmath.norm(mp_vector(x_star) - truth) <= x_star.radius * mpmath.norm(truth)
        assert x_star.radius < 1e-20
        assert x_star.condition == pytest.approx(float(S[0] / S[3]), rel=1e-6)
        scaled, _ = mp_projection(problem, 4)
        assert mpmath.norm(truth - scaled) > 1e-4  # scaling would have been another answer


class TestInconsistent:
    def test_has_no_projection(self):
        x_star = reference(make([[1, 1], [1, 1]], [1, 2]))
        assert (x_star.kind, x_star.reason, x_star.consistent) == (
            "unavailable",
            "inconsistent",
            False,
        )
        assert not x_star.ambiguous
        assert x_star.rank == 1
        assert np.isnan(x_star.x_high).all()

    def test_has_a_least_squares_projection(self):
        x_star = reference(make([[1, 1], [3, 3]], [0, 10], [0, 0]), least_squares=True)
        assert not x_star.consistent
        assert x_star.x_high == pytest.approx([1.5, 1.5], abs=1e-15)  # not 5/6: rows as given

    def test_zero_equals_one(self):
        problem = make([[0, 0], [1, 1]], [1, 1], [1, 1])
        assert reference(problem).reason == "inconsistent"
        assert reference(problem, least_squares=True).x_high == pytest.approx([0.5, 0.5])
        assert reference(make([0, 0], 1)).reason == "inconsistent"
        assert reference(make([0, 0], 1, [5, 6]), least_squares=True).x_high.tolist() == [5, 6]

    def test_by_a_rounding_is_consistent(self):
        x_star = reference(make([[1, 1, 1], [1, 1, 1]], [1, 1 + EPS], [0, 0, 0]))
        assert (x_star.kind, x_star.consistent) == ("ball", True)
        third = (Fraction(1) + Fraction(EPS) / 2) / 3  # the compromise
        assert abs(Fraction(x_star.x_high[0]) + Fraction(x_star.x_low[0]) - third) < 1e-30

    @pytest.mark.parametrize("over", [0.5, 2.0])
    def test_threshold_is_eight_roundings_a_column(self, over):
        """Two equal rows, b apart by t: residual t/2, 4 max(m, n) eps (‖a‖‖x̂‖ + 1) allowed."""
        n = 40
        row = np.zeros(n)
        row[0] = 1
        allowed = 4 * n * EPS * 2
        x_star = reference(make([row, row], [1, 1 + 2 * over * allowed]))
        assert x_star.consistent == (over < 1)

    @pytest.mark.parametrize("name", ["pg_btheta_57_ieee", "survey_nhanes2"])
    def test_real(self, name):
        assert reference(named(name)).reason == "inconsistent"
        x_star = reference(named(name), least_squares=True)
        assert (x_star.kind, x_star.ambiguous, x_star.consistent) == ("ball", False, False)
        assert x_star.radius < 1e-28
        error = {a.oracle: x_star.forward_error(a.x) for a in lstsq.answers(named(name))}
        assert error["lstsq_gelsd"] < backward_stable(named(name), x_star)
        assert error["lstsq_gelsd_scaled"] > 1e-6


class TestAmbiguity:
    """Two rows a distance apart in many columns: σ₁ ≈ √2, σ₂ = distance/√2."""

    n = 200

    def problem(self, distance):
        A = np.zeros((2, self.n))
        A[:, 0] = 1
        A[1, 1] = distance
        return make(A, [1, 1])

    @property
    def cutoff(self):
        """As a distance between the rows."""
        return self.n * EPS * 2

    @pytest.mark.parametrize(
        ("distance", "rank", "ambiguous"),
        [(0, 1, False), (0.05, 1, False), (0.2, 1, True), (5, 2, True), (20, 2, False)],
    )
    def test_is_a_factor_of_ten_around_the_cutoff(self, distance, rank, ambiguous):
        x_star = reference(self.problem(distance * self.cutoff))
        assert (x_star.rank, x_star.ambiguous) == (rank, ambiguous)

    @pytest.mark.parametrize("m", [2, 3, 10, 60])
    def test_is_not_made_by_the_rounding_of_the_svd(self, m):
        A, b = with_duplicates(random_rows(m, 2 * m, m), np.zeros(m))
        x_star = reference(make(A, b))
        assert (x_star.rank, x_star.ambiguous) == (m, False)

    def test_is_not_made_by_the_rounding_of_one_entry(self):
        x_star = reference(make([[1, 1, 1], [1, 1, 1 + EPS]], [1, 1]))
        assert (x_star.rank, x_star.ambiguous) == (1, False)

    @pytest.mark.parametrize("name", ["rob_flex_flag", "ss_nnc1374"])
    def test_without_a_gap_there_is_no_reference(self, name):
        x_star = reference(named(name))
        assert (x_star.kind, x_star.ambiguous) == ("unavailable", True)
        assert x_star.reason.startswith("no honest rank: σ_r/σ_(r+1) = ")
        assert np.isinf(x_star.radius)


class TestReal:
    @pytest.mark.parametrize(
        "problem",
        [
            p
            for p in catalogue(groups=["real"])
            if p.name not in ("rob_flex_flag", "netlib_inf_gran", "ss_mbeacxc", "ss_nnc1374")
        ],
        ids=lambda p: f"{p.name}-{p.dtype}",
    )
    def test_is_proven_with_the_index_s_rank(self, problem):
        x_star = reference(problem, least_squares=True)
        assert x_star.kind == ("exact" if x_star.kind == "exact" else "ball")
        assert x_star.rank == INDEX_RANK[problem.name]
        assert not x_star.ambiguous
        assert x_star.radius < 1e-23
        if problem.dtype == "float64":
            assert x_star.consistent == problem.consistent


class TestTimeLimit:
    def test_nothing_is_begun_that_would_take_longer(self):
        start = time.perf_counter()
        x_star = reference(named("ss_nnc1374"), time_limit=2)
        assert time.perf_counter() - start < 2
        assert (x_star.kind, x_star.rank) == ("unavailable", -1)
        assert x_star.reason.startswith(
            "1374 x 1374: 1.6e+10 flops of dense factorisation for 2 s; through sparse factors: "
        )

    def test_giving_up_is_no_error(self, monkeypatch):
        def late(system, deadline):
            raise TimeoutError("too late")

        monkeypatch.setattr(ball, "enclose", late)
        monkeypatch.setattr(sparse_ball, "enclose", late)
        for name, rank in (("netlib_bore3d", 212), ("spectra_1_150x400", 150)):
            x_star = reference(named(name), time_limit=100)
            assert (x_star.kind, x_star.reason, x_star.rank) == ("unavailable", "too late", rank)
