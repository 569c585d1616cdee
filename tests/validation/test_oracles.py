import time
from dataclasses import replace
from fractions import Fraction

import cvxpy as cp
import mpmath
import numpy as np
import pytest
import scipy.sparse as sp
from flint import arb
from hypothesis import given
from hypothesis import strategies as st

from projlab_validation.oracles import ball, cvx, exact, lstsq, reference, sigma_min
from projlab_validation.oracles.answer import TWO_WORDS, two_words
from projlab_validation.oracles.arrays import SparseBalls, middle, nearest, nonzero, norm, product
from projlab_validation.oracles.arrays import ball as ball_of
from projlab_validation.oracles.system import equations, factor
from projlab_validation.problems import catalogue, real
from projlab_validation.problems.problem import Problem

EPS = 2.0**-52
INDEX_RANK = {name: int(row["exact_rank"] or row["rank"]) for name, row in real._index().items()}


def make(A, b, x0=None, *, dtype="float64", seed=0):
    A = np.atleast_2d(np.array(A, dtype=float))
    if x0 is None:
        x0 = np.random.default_rng(seed).standard_normal(A.shape[1])
    b = np.atleast_1d(np.array(b, dtype=float))
    return Problem("made", "test", A, b, np.array(x0, dtype=float), dtype, seed, "")


def named(name, dtype="float64"):
    (found,) = catalogue(names=[name], dtypes=[dtype])
    return found


def system_of(problem):
    E, f = equations(problem, equilibrate=True)
    return factor(E, f, problem.x0, float(np.finfo(problem.dtype).eps))


def enclosed(problem):
    return ball.enclose(system_of(problem), np.inf)


def distance(one, other):
    """‖x* − x*‖ of two references, relative; exact to two words."""
    difference = (one.x_high - other.x_high) + (one.x_low - other.x_low)
    return np.linalg.norm(difference) / np.linalg.norm(other.x_high)


def mp_vector(reference):
    return mpmath.matrix(reference.x_high.tolist()) + mpmath.matrix(reference.x_low.tolist())


def mp_projection(problem, rank, *, equilibrate=True):
    """x₀ − E_r⁺ (E x₀ − f) by mpmath's SVD with sixty digits, and all singular values."""
    A, b = mpmath.matrix(problem.A.tolist()), mpmath.matrix(problem.b.tolist())
    x0 = mpmath.matrix(problem.x0.tolist())
    if equilibrate:
        for i in range(A.rows):
            scale = mpmath.mpf(2) ** -mpmath.nint(mpmath.log(mpmath.norm(A[i, :]), 2))
            A[i, :] *= scale
            b[i] *= scale
    U, S, V = mpmath.svd_r(A)
    coordinates = (U.T * (A * x0 - b))[:rank]
    return x0 - V[:rank, :].T * mpmath.matrix(
        [c / s for c, s in zip(coordinates, S, strict=False)]
    ), S


@pytest.fixture(autouse=True)
def sixty_digits():
    with mpmath.workdps(60):
        yield


def backward_stable(problem, truth):
    """Forward error of a backward-stable least-squares method, c(m, n) = 4 √(m n).

    κu (‖x₀‖ + ‖x₀ − x*‖ + κ‖A x* − b‖/‖A‖)/‖x*‖: Wedin's theorem, ASNA section 20.1.
    """
    A, norm = problem.dense(), np.linalg.norm
    scale = norm(problem.x0) + norm(problem.x0 - truth.x_high)
    if not truth.consistent:
        scale += truth.condition * norm(A @ truth.x_high - problem.b) / norm(A, 2)
    factor = 4 * np.sqrt(problem.m * problem.n) * EPS / 2
    return factor * truth.condition * scale / norm(truth.x_high)


def random_rows(m, n, seed, condition=1.0):
    rng = np.random.default_rng(seed)
    U, _ = np.linalg.qr(rng.standard_normal((m, m)))
    V, _ = np.linalg.qr(rng.standard_normal((n, m)))
    return (U * np.geomspace(1, 1 / condition, m)) @ V.T


def with_duplicates(A, b):
    """Three rows more: a copy, a scaled copy and a sum, exactly."""
    grid = 2.0**20
    A, b = np.round(A * grid) / grid, np.round(b * grid) / grid
    return np.vstack([A, A[0], -4 * A[1], A[0] + 2 * A[1]]), np.append(
        b, [b[0], -4 * b[1], b[0] + 2 * b[1]]
    )


class TestTwoWords:
    @given(st.lists(st.fractions(min_value=-(10**6), max_value=10**6), min_size=1))
    def test_are_the_value_to_106_bits(self, values):
        high, low = two_words((v.numerator, v.denominator) for v in values)
        for value, h, e in zip(values, high.tolist(), low.tolist(), strict=True):
            assert h == float(value)
            assert h + e == h
            assert abs(Fraction(h) + Fraction(e) - value) <= Fraction(TWO_WORDS) * abs(value)

    def test_take_integers_of_any_size(self):
        high, low = two_words([(7**2000 * 2, 7**2000 * 3)])
        assert high[0] == 2 / 3
        assert low[0] == float(Fraction(2, 3) - Fraction(2 / 3))


class TestClosedForms:
    """Answers that a pencil finds."""

    def check(self, problem, answer, kind="exact"):
        found = reference(problem)
        assert found.kind == kind
        assert found.consistent
        assert not found.ambiguous
        for value, h, e in zip(answer, found.x_high, found.x_low, strict=True):
            error = abs(Fraction(float(h)) + Fraction(float(e)) - value)
            assert error <= Fraction(found.radius) * max(map(abs, answer))
        return found

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
        found = self.check(
            make(A, [1, 2, 1, 2], [1, 2, 3]), [Fraction(0), Fraction(1), Fraction(1)]
        )
        assert found.rank == 2

    def test_rows_of_zeros_are_nothing(self):
        found = self.check(make([[0, 0], [1, 1]], [0, 1], [1, 1]), [Fraction(1, 2)] * 2)
        assert found.rank == 1

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
        found = find(self.problem)
        assert not found.x_high.any()
        assert not found.x_low.any()
        assert found.radius < 1e-28
        assert found.forward_error(np.array([1e-3, 0])) == pytest.approx(2e-4, rel=1e-12)

    def test_is_judged_absolutely_where_x0_is_zero_too(self):
        found = reference(replace(self.problem, x0=np.zeros(2)))
        assert found.forward_error(np.array([0.0, 0.5])) == 0.5


class TestForwardError:
    def test_sees_below_the_rounding_of_x(self):
        """x = fl(x*) is wrong by low alone, which a single word could not tell from 0."""
        found = reference(make([3, 1], 1, [0, 0]))
        expected = np.linalg.norm(found.x_low) / np.linalg.norm(found.x_high)
        assert 0 < found.forward_error(found.x_high) == expected < 2.0**-53

    def test_is_nan_or_infinite_for_what_is(self):
        found = reference(named("article_1"))
        assert np.isnan(found.forward_error(np.array([np.nan, 0])))
        assert np.isinf(found.forward_error(np.array([np.inf, 0])))

    def test_takes_float32(self):
        found = reference(make([1, 1], 1, [0.1, 0.2]))
        assert found.forward_error(found.x_high.astype(np.float32)) < 2.0**-24


class TestBallAgainstExact:
    """Two computations that share nothing but the choice of independent rows."""

    def check(self, problem):
        rational, found = exact.solve(system_of(problem)), enclosed(problem)
        assert rational is not None
        assert (rational.kind, found.kind) == ("exact", "ball")
        assert distance(found, rational) <= found.radius + rational.radius
        assert found.radius < 1e-28
        assert (found.rank, found.ambiguous) == (rational.rank, False)

    @pytest.mark.parametrize("condition", [1.0, 1e3, 1e6, 1e9, 1e12])
    @pytest.mark.parametrize("shape", [(1, 3), (5, 5), (7, 30), (25, 60)])
    def test_full_rank(self, shape, condition):
        m, n = shape
        A = random_rows(m, n, seed=m, condition=condition if m > 1 else 1)
        self.check(make(A, A @ np.ones(n)))

    @pytest.mark.parametrize("m", [2, 8, 30])
    def test_duplicated_rows(self, m):
        A = random_rows(m, 2 * m, seed=m, condition=30)
        self.check(make(*with_duplicates(A, A.sum(axis=1))))

    def test_dependence_by_thirds_is_not_exact_in_binary(self):
        A = np.array([[3.0, 3, 0, 0, 3], [0, 3, 3, 3, 0], [1, 2, 1, 1, 1]])
        self.check(make(A, [3, 6, 3]))

    def test_more_rows_than_columns(self):
        A = random_rows(4, 4, seed=1)
        self.check(make(*with_duplicates(A, A.sum(axis=1))))

    def test_rows_of_very_different_size(self):
        A = random_rows(6, 12, seed=3)
        self.check(make(A * np.logspace(-8, 7, 6)[:, None], np.logspace(-8, 7, 6)))

    @pytest.mark.parametrize("name", ["netlib_adlittle", "graph_karate", "rob_weld"])
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_real(self, name, dtype):
        self.check(named(name, dtype))


class TestNearlyRedundantRows:
    """A row that depends on others but for a rounding counts as redundant, by definition."""

    def problem(self, seed, dtype="float64", noise=0.0):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((4, 12)).astype(dtype)
        weights = rng.standard_normal((2, 4)).astype(dtype)
        A = np.vstack([A, weights @ A]).astype(float)
        b = np.append(A[:4] @ np.ones(12), weights @ (A[:4] @ np.ones(12)))
        b = b.astype(dtype).astype(float)
        b[5] += noise
        return make(A, b, rng.standard_normal(12).astype(dtype), dtype=dtype)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize("seed", range(4))
    def test_are_judged_at_numerical_rank(self, seed, dtype):
        problem = self.problem(seed, dtype)
        found = reference(problem)
        truth, S = mp_projection(problem, 4)
        assert S[4] > 1e-3 * np.finfo(dtype).eps  # not exactly redundant: the case that is meant
        assert (found.kind, found.rank, found.consistent) == ("ball", 4, True)
        assert mpmath.norm(mp_vector(found) - truth) <= found.radius * mpmath.norm(truth)
        assert found.radius < 1e-26
        assert found.condition == pytest.approx(float(S[0] / S[3]), rel=1e-6)

    def test_differ_from_the_exact_projection(self):
        """The literal system has κ ~ 1/u: dropping the rows and taking them literally differ."""
        problem = self.problem(0)
        literal, _ = mp_projection(problem, 6)
        assert mpmath.norm(mp_vector(reference(problem)) - literal) > 1e-3

    def test_are_left_to_balls_even_where_they_hold_exactly(self):
        """The independent row's answer, (1, 0, 5), meets the other too, but is not x*."""
        problem = make([[1, 0, 0], [1, EPS, 0]], [1, 1], [3, 0, 5])
        found = reference(problem)
        truth, _ = mp_projection(problem, 1)
        assert (found.kind, found.rank) == ("ball", 1)
        assert found.x_high[1] == pytest.approx(-EPS, rel=1e-12)
        assert mpmath.norm(mp_vector(found) - truth) <= found.radius * mpmath.norm(truth)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_least_squares_keeps_the_rows_as_given(self, dtype):
        problem = self.problem(1, dtype, noise=0.1)
        problem = replace(problem, A=problem.A * [[1], [1], [8], [1], [1], [16]])
        problem = replace(problem, b=problem.b * [1, 1, 8, 1, 1, 16])
        assert reference(problem).reason == "inconsistent"
        found = reference(problem, least_squares=True)
        truth, S = mp_projection(problem, 4, equilibrate=False)
        assert (found.kind, found.rank, found.consistent) == ("ball", 4, False)
        assert mpmath.norm(mp_vector(found) - truth) <= found.radius * mpmath.norm(truth)
        assert found.radius < 1e-20
        assert found.condition == pytest.approx(float(S[0] / S[3]), rel=1e-6)
        scaled, _ = mp_projection(problem, 4)
        assert mpmath.norm(truth - scaled) > 1e-4  # scaling would have been another answer


class TestInconsistent:
    def test_has_no_projection(self):
        found = reference(make([[1, 1], [1, 1]], [1, 2]))
        assert (found.kind, found.reason, found.consistent) == (
            "unavailable",
            "inconsistent",
            False,
        )
        assert not found.ambiguous
        assert found.rank == 1
        assert np.isnan(found.x_high).all()

    def test_has_a_least_squares_projection(self):
        found = reference(make([[1, 1], [3, 3]], [0, 10], [0, 0]), least_squares=True)
        assert not found.consistent
        assert found.x_high == pytest.approx([1.5, 1.5], abs=1e-15)  # not 5/6: rows as given

    def test_zero_equals_one(self):
        problem = make([[0, 0], [1, 1]], [1, 1], [1, 1])
        assert reference(problem).reason == "inconsistent"
        assert reference(problem, least_squares=True).x_high == pytest.approx([0.5, 0.5])
        assert reference(make([0, 0], 1)).reason == "inconsistent"
        assert reference(make([0, 0], 1, [5, 6]), least_squares=True).x_high.tolist() == [5, 6]

    def test_by_a_rounding_is_consistent(self):
        found = reference(make([[1, 1, 1], [1, 1, 1]], [1, 1 + EPS], [0, 0, 0]))
        assert (found.kind, found.consistent) == ("ball", True)
        third = (Fraction(1) + Fraction(EPS) / 2) / 3  # the compromise
        assert abs(Fraction(found.x_high[0]) + Fraction(found.x_low[0]) - third) < 1e-30

    @pytest.mark.parametrize("over", [0.5, 2.0])
    def test_threshold_is_eight_roundings_a_column(self, over):
        """Two equal rows, b apart by t: residual t/2, 4 max(m, n) eps (‖a‖‖x̂‖ + 1) allowed."""
        n = 40
        row = np.zeros(n)
        row[0] = 1
        allowed = 4 * n * EPS * 2
        found = reference(make([row, row], [1, 1 + 2 * over * allowed]))
        assert found.consistent == (over < 1)

    @pytest.mark.parametrize("name", ["pg_btheta_57_ieee", "survey_nhanes2"])
    def test_real(self, name):
        assert reference(named(name)).reason == "inconsistent"
        found = reference(named(name), least_squares=True)
        assert (found.kind, found.ambiguous, found.consistent) == ("ball", False, False)
        assert found.radius < 1e-28
        error = {a.oracle: found.forward_error(a.x) for a in lstsq.answers(named(name))}
        assert error["lstsq_gelsd"] < backward_stable(named(name), found)
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
        found = reference(self.problem(distance * self.cutoff))
        assert (found.rank, found.ambiguous) == (rank, ambiguous)

    @pytest.mark.parametrize("m", [2, 3, 10, 60])
    def test_is_not_made_by_the_rounding_of_the_svd(self, m):
        A, b = with_duplicates(random_rows(m, 2 * m, m), np.zeros(m))
        found = reference(make(A, b))
        assert (found.rank, found.ambiguous) == (m, False)

    def test_is_not_made_by_the_rounding_of_one_entry(self):
        found = reference(make([[1, 1, 1], [1, 1, 1 + EPS]], [1, 1]))
        assert (found.rank, found.ambiguous) == (1, False)

    @pytest.mark.parametrize("name", ["rob_flex_flag", "ss_nnc1374"])
    def test_without_a_gap_there_is_no_reference(self, name):
        found = reference(named(name))
        assert (found.kind, found.ambiguous) == ("unavailable", True)
        assert found.reason.startswith("no honest rank: σ_r/σ_(r+1) = ")
        assert np.isinf(found.radius)


class TestRadius:
    """The radius covers whatever is wrong with W and t."""

    dependent = TestNearlyRedundantRows().problem(seed=2)
    full = named("spectra_1e6_30x60")

    @pytest.mark.parametrize("problem", [dependent, full], ids=["redundant", "full rank"])
    @pytest.mark.parametrize("target", [1e-3, 1e-8, 1e-13, 1e-20])
    def test_covers_refinement_that_ends_early(self, monkeypatch, problem, target):
        truth = enclosed(problem)
        monkeypatch.setattr(ball, "TARGET", target)
        found = enclosed(problem)
        assert distance(found, truth) <= found.radius + truth.radius
        assert found.radius < 2 * target

    @pytest.mark.parametrize("size", [1e-6, 1e-9, 1e-12])
    def test_covers_a_wrong_blend_of_rows(self, monkeypatch, size):
        truth, separate = enclosed(self.dependent), ball._separate

        def off_by_size(system, E, f, s, deadline):
            W, _ = separate(system, E, f, s, deadline)
            noise = size * np.random.default_rng(0).standard_normal(W.shape)
            W = middle(W + ball_of(noise))
            N = E.adjoint(np.vstack([-W, ball_of(np.eye(W.shape[1]))]))
            Zf = f[system.rank :] - W.T @ f[: system.rank]
            parts = (N, ball._blend(W, E @ N), Zf)
            return W, ball._Dependence(*map(norm, parts))

        monkeypatch.setattr(ball, "_separate", off_by_size)
        found = enclosed(self.dependent)
        assert truth.radius < distance(found, truth) <= found.radius < size

    def test_covers_a_wrong_blend_that_turns_the_row_space(self):
        """Nothing is left of x₀, and the error lies along the row that W = 0 leaves out."""
        problem = make([[1, 0], [1e-9, 1e-3]], [0, 0], [1, 0])
        E, f = sp.csr_array(problem.A), problem.b
        system = factor(E, f, problem.x0, EPS, rank=1)
        zero = ball_of(np.zeros((1, 1)))
        N, FN = ball_of(np.array([1e-9, 1e-3])), ball_of(np.array([1e-9]))
        dependence = ball._Dependence(norm(N), norm(FN), arb(0))
        x, _ = ball._project(
            system, SparseBalls(E), zero, *map(ball_of, (problem.x0, f)), 1.0, np.inf
        )
        truth, _ = mp_projection(problem, 1, equilibrate=False)
        error = mpmath.norm(mpmath.matrix(nearest(x).tolist()) - truth)
        assert 1e-13 < error <= float(dependence.error(1.0, norm(x), arb(1)))

    @pytest.mark.parametrize("problem", [dependent, full], ids=["redundant", "full rank"])
    @pytest.mark.parametrize("size", [1e-6, 1e-12, 1e-18, 1e-24])
    def test_covers_wrong_multipliers(self, monkeypatch, problem, size):
        """Off in the direction that the residual shows least."""
        truth, project = enclosed(problem), ball._project

        def off_by_size(system, E, W, x0, f, s, deadline):
            x, _ = project(system, E, W, x0, f, s, deadline)
            weakest = np.linalg.svd(system.E[: system.rank].toarray())[0][:, -1]
            t = ball_of(size / s * weakest)
            x = x + E.adjoint(np.concatenate([t, W.T @ t]))
            return x, norm(ball._blend(W, E @ x - f))

        monkeypatch.setattr(ball, "_project", off_by_size)
        found = enclosed(problem)
        error = distance(found, truth)
        assert truth.radius < error <= found.radius
        # s is below σ_min by √r at most; F and E_K differ by ‖I + W Wᵀ‖, a few.
        assert found.radius <= 20 * np.sqrt(truth.rank) * error

    def test_is_small_enough_to_catch_a_reference_that_is_off(self):
        rational = reference(self.full)
        off = replace(rational, x_low=rational.x_low * (1 + 2.0**-40))
        found = enclosed(self.full)
        assert distance(found, rational) <= found.radius + rational.radius
        assert distance(found, off) > found.radius + rational.radius

    def test_is_an_estimate_where_sigma_min_cannot_be_bounded(self, monkeypatch):
        truth = enclosed(self.dependent)
        monkeypatch.setattr(sigma_min, "lower_bound", lambda B, R: 0.0)
        found = enclosed(self.dependent)
        assert found.kind == "high precision"
        assert distance(found, truth) <= truth.radius + found.radius
        assert found.radius < 1e-26

    def test_is_not_given_where_refinement_fails(self, monkeypatch):
        problem = replace(self.dependent, A=np.tile(self.dependent.A, (20, 1)))
        problem = replace(problem, b=np.tile(problem.b, 20))
        assert reference(problem).kind == "ball"
        monkeypatch.setattr(ball.System, "gram_inverse", lambda self, v: 0 * v + 1)
        found = reference(problem)
        assert found.kind == "unavailable"
        assert found.reason == "refinement could not separate singular values r and r + 1"


class TestSigmaMin:
    @pytest.mark.parametrize("condition", [1, 1e4, 1e8, 1e12])
    @pytest.mark.parametrize("shape", [(1, 5), (6, 6), (40, 90)])
    def test_is_below_sigma_min_and_close(self, shape, condition):
        m, n = shape
        A = random_rows(m, n, seed=n, condition=condition if m > 1 else 1)
        R = np.linalg.qr(A.T, mode="r")
        found = sigma_min.lower_bound(sp.csr_array(A), R)
        smallest = np.linalg.svd(A, compute_uv=False)[-1]
        accuracy = 1 - m * n * EPS * condition  # of numpy's own
        assert smallest * accuracy / (2 * np.sqrt(m)) < found <= smallest / accuracy

    @given(st.integers(0, 10**6), st.floats(-12, 1))
    def test_is_below_sigma_min_whatever_the_factor(self, seed, magnitude):
        """A factor that is off may cost the proof, never its truth."""
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((4, 7))
        R = np.triu(np.linalg.qr(A.T, mode="r") + 10**magnitude * rng.standard_normal((4, 4)))
        found = sigma_min.lower_bound(sp.csr_array(A), R)
        assert 0 <= found <= np.linalg.svd(A, compute_uv=False)[-1] * (1 + 1e-12)

    @pytest.mark.parametrize("condition", [1e13, 1e14, 1e15, 1e16, 1e17])
    @pytest.mark.parametrize("seed", range(5))
    def test_is_below_sigma_min_where_float64_is_at_its_end(self, seed, condition):
        """The computed YᵀY is close to I by luck here, and proves nothing without its own error."""
        A = random_rows(6, 12, seed, condition)
        found = sigma_min.lower_bound(sp.csr_array(A), np.linalg.qr(A.T, mode="r"))
        assert found <= min(mpmath.svd_r(mpmath.matrix(A.tolist()), compute_uv=False))

    @pytest.mark.parametrize("R", [np.zeros((2, 2)), np.full((2, 2), np.nan), np.eye(2) * 1e-30])
    def test_is_zero_without_a_proof(self, R):
        assert sigma_min.lower_bound(sp.csr_array(np.eye(2)), R) == 0


class TestArrays:
    def test_a_ball_around_zero_is_not_zero(self):
        v = np.array([arb(0), arb(0, 1e-9), arb(1)], dtype=object)
        assert nonzero(v).tolist() == [False, True, True]
        out = SparseBalls(sp.csr_array(np.ones((1, 3)))) @ v
        assert out[0].contains(1 + 1e-10)
        assert out[0].contains(1 - 1e-10)

    def test_norm_is_an_upper_bound(self):
        assert (
            norm(np.array([arb(3, 0.5), arb(4, 0.5)], dtype=object)) >= arb(3.5**2 + 4.5**2).sqrt()
        )
        assert norm(np.empty(0, dtype=object)) == 0

    @pytest.mark.parametrize("columns", [(), (2,), (0,)])
    def test_products_agree_with_float64(self, columns):
        rng = np.random.default_rng(0)
        A = sp.random_array((5, 7), density=0.5, rng=rng, format="csr")
        P, x = rng.standard_normal((5, 7)), rng.standard_normal((7, *columns))
        y = rng.standard_normal((5, *columns))
        stored = SparseBalls(A)
        for found, expected in (
            (stored @ ball_of(x), A @ x),
            (stored.adjoint(ball_of(y)), A.T @ y),
            (product(ball_of(P), ball_of(x)), P @ x),
        ):
            assert found.shape == expected.shape
            assert nearest(found) == pytest.approx(expected, abs=40 * EPS)


class TestReal:
    @pytest.mark.parametrize(
        "problem",
        [p for p in catalogue(groups=["real"]) if p.m**2 * p.n < 2e8 and p.name != "rob_flex_flag"],
        ids=lambda p: f"{p.name}-{p.dtype}",
    )
    def test_is_proven_with_the_index_s_rank(self, problem):
        found = reference(problem, least_squares=True)
        assert found.kind == ("exact" if found.kind == "exact" else "ball")
        assert found.rank == INDEX_RANK[problem.name]
        assert not found.ambiguous
        assert found.radius < 1e-23
        if problem.dtype == "float64":
            assert found.consistent == problem.consistent


class TestTimeLimit:
    def test_nothing_is_begun_that_would_take_longer(self):
        start = time.perf_counter()
        found = reference(named("netlib_greenbea"), time_limit=1)
        assert time.perf_counter() - start < 1
        assert (found.kind, found.rank) == ("unavailable", -1)
        assert found.reason == "2196 x 5405: 1.6e+11 flops of dense factorisation for 1 s"

    def test_refinement_is_given_up(self):
        system = system_of(named("netlib_bore3d"))
        with pytest.raises(TimeoutError, match="within the time limit"):
            ball.enclose(system, deadline=time.monotonic())

    def test_giving_up_is_no_error(self, monkeypatch):
        def late(system, deadline):
            raise TimeoutError("too late")

        monkeypatch.setattr(ball, "enclose", late)
        found = reference(named("netlib_bore3d"), time_limit=100)
        assert (found.kind, found.reason, found.rank) == ("unavailable", "too late", 212)


CVX_NAMES = [
    f"{solver}_{tolerance}_{formulation}"
    for formulation in ("distance", "expanded")
    for solver in ("clarabel", "osqp", "highs")
    for tolerance in ("default", "tight")
]


class TestCvxpy:
    def answers(self, name, time_limit=10.0):
        return cvx.answers(named(name), time_limit=time_limit)

    @pytest.mark.parametrize("name", ["article_3", "spectra_1_10x20", "netlib_afiro"])
    def test_every_solver_is_right_where_it_is_easy(self, name):
        truth, answers = reference(named(name)), self.answers(name)
        assert [a.oracle for a in answers] == CVX_NAMES
        for answer in answers:
            assert answer.status == "optimal"
            assert answer.seconds > 0
            # cvxpy asks OSQP for 1e-5 by default, the least of all tolerances; others ask for more.
            assert truth.forward_error(answer.x) < 1e-4, answer.oracle

    @pytest.mark.parametrize(
        ("name", "solver"),
        [("lto_dc3_simple", "clarabel"), ("io_chile_ras", "osqp"), ("spectra_1_10x20", "highs")],
    )
    def test_tight_tolerances_reach_the_solver(self, name, solver):
        truth = reference(named(name))
        error = {a.oracle: truth.forward_error(a.x) for a in self.answers(name)}
        assert error[f"{solver}_tight_expanded"] < error[f"{solver}_default_expanded"] / 10

    @pytest.mark.parametrize(
        "name", ["spectra_1e6_10x100", "spectra_1e6_30x60", "spectra_1e6_30x100"]
    )
    def test_is_no_oracle_at_condition_1e6(self, name):
        """Default Clarabel says "optimal" and is off by more than 1e-6; OSQP is off by more than
        1e-3, or calls a consistent system infeasible. lstsq stays within c(m, n) κ u."""
        problem = named(name)
        truth = reference(problem)
        assert truth.kind == "exact"
        answer = {a.oracle: a for a in self.answers(name)}
        clarabel = answer["clarabel_default_distance"]
        assert clarabel.status == "optimal"
        assert truth.forward_error(clarabel.x) > 1e-6
        assert (
            answer["clarabel_tight_distance"].status == "optimal_inaccurate"
        )  # verbatim, no warning
        osqp = answer["osqp_default_distance"]
        assert osqp.status == "infeasible" or truth.forward_error(osqp.x) > 1e-3
        assert backward_stable(problem, truth) < 1e-7
        for found in lstsq.answers(problem):
            assert truth.forward_error(found.x) < backward_stable(problem, truth)

    def test_status_is_kept_where_there_is_no_point(self):
        answers = cvx.answers(make([[1, 1], [1, 1]], [1, 2]), time_limit=None)
        assert [a.oracle for a in answers] == CVX_NAMES
        assert {a.status for a in answers} <= {"infeasible", "infeasible_inaccurate"}
        assert all(a.x is None for a in answers)

    def test_an_exception_is_a_status(self, monkeypatch):
        def fail(self, **options):
            raise RuntimeError("out of order")

        monkeypatch.setattr(cp.Problem, "solve", fail)
        answers = self.answers("article_1")
        assert {(a.status, a.x) for a in answers} == {("RuntimeError: out of order", None)}

    def test_is_compiled_once_for_both_tolerances(self, monkeypatch):
        compiled = []
        original = cp.Problem.get_problem_data

        def count(self, solver, *rest, **options):
            fresh = self._cache.param_prog is None or self._cache.key[0] != solver
            compiled.append(solver) if fresh else None
            return original(self, solver, *rest, **options)

        monkeypatch.setattr(cp.Problem, "get_problem_data", count)
        self.answers("article_3")
        assert compiled == ["CLARABEL", "OSQP", "HIGHS"] * 2

    def test_time_limit_holds_roughly(self):
        """HiGHS by itself works ten seconds and more on each of its four before it looks up."""
        for answer in self.answers("netlib_wood1p", time_limit=1.0):
            assert answer.seconds < 5, answer.oracle

    def test_solvers_say_nothing(self, capfd):
        self.answers("spectra_1e12_30x60", time_limit=0.5)
        assert capfd.readouterr() == ("", "")


class TestLstsq:
    def test_is_the_minimum_norm_correction(self):
        for answer in lstsq.answers(make([[1, 1], [1, 1]], [2, 2], [3, -1])):
            assert answer.status == "ok"
            assert answer.x == pytest.approx([3, -1], abs=8 * EPS)

    def test_names(self):
        names = [a.oracle for a in lstsq.answers(named("article_1"))]
        assert names == ["lstsq_gelsd", "lstsq_gelsy", "lstsq_gelsd_scaled"]

    def test_scaling_rows_is_worth_digits(self):
        A = random_rows(6, 12, seed=3) * np.logspace(0, 9, 6)[:, None]
        problem = make(A, A @ np.ones(12))
        truth = reference(problem)
        error = {a.oracle: truth.forward_error(a.x) for a in lstsq.answers(problem)}
        assert error["lstsq_gelsd_scaled"] < 1e-14 < error["lstsq_gelsd"]

    def test_uses_the_cutoff_of_the_problem_s_dtype(self):
        problem = TestNearlyRedundantRows().problem(0, "float32")
        truth = reference(problem)
        for answer in lstsq.answers(problem):
            assert truth.forward_error(answer.x) < 1e-5
        for answer in lstsq.answers(replace(problem, dtype="float64")):
            assert truth.forward_error(answer.x) > 1e-3
