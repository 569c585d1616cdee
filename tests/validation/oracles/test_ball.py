"""Enclosures in ball arithmetic, against rational arithmetic and against planted faults."""

import time
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import scipy.sparse as sp
from flint import arb

from projlab_validation.oracles import ball, exact, reference, sigma_min
from projlab_validation.oracles.arrays import SparseBalls, middle, nearest, norm
from projlab_validation.oracles.arrays import ball as ball_of
from projlab_validation.oracles.system import factor
from tests.validation.oracles.cases import (
    EPS,
    distance,
    enclosed,
    make,
    mp_projection,
    named,
    nearly_redundant,
    random_rows,
    system_of,
    with_duplicates,
)


class TestBallAgainstExact:
    """Two computations that share nothing but the choice of independent rows."""

    def check(self, problem):
        rational, enclosure = exact.solve(system_of(problem)), enclosed(problem)
        assert rational is not None
        assert (rational.kind, enclosure.kind) == ("exact", "ball")
        assert distance(enclosure, rational) <= enclosure.radius + rational.radius
        assert enclosure.radius < 1e-28
        assert (enclosure.rank, enclosure.ambiguous) == (rational.rank, False)

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


class TestRadius:
    """The radius covers whatever is wrong with W and t."""

    dependent = nearly_redundant(seed=2)
    full = named("spectra_1e6_30x60")

    @pytest.mark.parametrize("problem", [dependent, full], ids=["redundant", "full rank"])
    @pytest.mark.parametrize("target", [1e-3, 1e-8, 1e-13, 1e-20])
    def test_covers_refinement_that_ends_early(self, monkeypatch, problem, target):
        truth = enclosed(problem)
        monkeypatch.setattr(ball, "TARGET", target)
        enclosure = enclosed(problem)
        assert distance(enclosure, truth) <= enclosure.radius + truth.radius
        assert enclosure.radius < 2 * target

    @pytest.mark.parametrize("size", [1e-6, 1e-9, 1e-12])
    def test_covers_a_wrong_blend_of_rows(self, monkeypatch, size):
        truth, separate = enclosed(self.dependent), ball.separate

        def off_by_size(system, E, f, s, deadline):
            W, _ = separate(system, E, f, s, deadline)
            noise = size * np.random.default_rng(0).standard_normal(W.shape)
            W = middle(W + ball_of(noise))
            N = E.adjoint(np.vstack([-W, ball_of(np.eye(W.shape[1]))]))
            Zf = f[system.rank :] - W.T @ f[: system.rank]
            parts = (N, ball.blend(W, E @ N), Zf)
            return W, ball.Dependence(*map(norm, parts))

        monkeypatch.setattr(ball, "separate", off_by_size)
        enclosure = enclosed(self.dependent)
        assert truth.radius < distance(enclosure, truth) <= enclosure.radius < size

    def test_covers_a_wrong_blend_that_turns_the_row_space(self):
        """Nothing is left of x₀, and the error lies along the row that W = 0 leaves out."""
        problem = make([[1, 0], [1e-9, 1e-3]], [0, 0], [1, 0])
        E, f = sp.csr_array(problem.A), problem.b
        system = factor(E, f, problem.x0, EPS, rank=1)
        zero = ball_of(np.zeros((1, 1)))
        N, FN = ball_of(np.array([1e-9, 1e-3])), ball_of(np.array([1e-9]))
        dependence = ball.Dependence(norm(N), norm(FN), arb(0))
        x, _ = ball.project(
            system, SparseBalls(E), zero, *map(ball_of, (problem.x0, f)), 1.0, np.inf
        )
        truth, _ = mp_projection(problem, 1, equilibrate=False)
        error = mpmath.norm(mpmath.matrix(nearest(x).tolist()) - truth)
        assert 1e-13 < error <= float(dependence.error(1.0, norm(x), arb(1)))

    @pytest.mark.parametrize("problem", [dependent, full], ids=["redundant", "full rank"])
    @pytest.mark.parametrize("size", [1e-6, 1e-12, 1e-18, 1e-24])
    def test_covers_wrong_multipliers(self, monkeypatch, problem, size):
        """Off in the direction that the residual shows least."""
        truth, project = enclosed(problem), ball.project

        def off_by_size(system, E, W, x0, f, s, deadline):
            x, _ = project(system, E, W, x0, f, s, deadline)
            weakest = np.linalg.svd(system.E[: system.rank].toarray())[0][:, -1]
            t = ball_of(size / s * weakest)
            x = x + E.adjoint(np.concatenate([t, W.T @ t]))
            return x, norm(ball.blend(W, E @ x - f))

        monkeypatch.setattr(ball, "project", off_by_size)
        enclosure = enclosed(problem)
        error = distance(enclosure, truth)
        assert truth.radius < error <= enclosure.radius
        # s is below σ_min by √r at most; F and E_K differ by ‖I + W Wᵀ‖, a few.
        assert enclosure.radius <= 20 * np.sqrt(truth.rank) * error

    def test_is_small_enough_to_catch_a_reference_that_is_off(self):
        rational = reference(self.full)
        off = replace(rational, x_low=rational.x_low * (1 + 2.0**-40))
        enclosure = enclosed(self.full)
        assert distance(enclosure, rational) <= enclosure.radius + rational.radius
        assert distance(enclosure, off) > enclosure.radius + rational.radius

    def test_is_an_estimate_where_sigma_min_cannot_be_bounded(self, monkeypatch):
        truth = enclosed(self.dependent)
        monkeypatch.setattr(sigma_min, "lower_bound", lambda B, R: 0.0)
        enclosure = enclosed(self.dependent)
        assert enclosure.kind == "high precision"
        assert distance(enclosure, truth) <= truth.radius + enclosure.radius
        assert enclosure.radius < 1e-26

    def test_is_not_given_where_refinement_fails(self, monkeypatch):
        problem = replace(self.dependent, A=np.tile(self.dependent.A, (20, 1)))
        problem = replace(problem, b=np.tile(problem.b, 20))
        assert reference(problem).kind == "ball"
        monkeypatch.setattr(ball.FactoredSystem, "gram_inverse", lambda self, v: 0 * v + 1)
        x_star = reference(problem)
        assert x_star.kind == "unavailable"
        assert x_star.reason == "refinement could not separate singular values r and r + 1"


def test_refinement_is_given_up():
    system = system_of(named("netlib_bore3d"))
    with pytest.raises(TimeoutError, match="within the time limit"):
        ball.enclose(system, deadline=time.monotonic())
