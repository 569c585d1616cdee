"""Oracles through sparse factors, against the dense ones and against planted faults."""

import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from projlab_validation.oracles import (
    ball,
    exact,
    rank_at_float64,
    reference,
    sparse_ball,
    sparse_exact,
    sparse_sigma_min,
    sparse_system,
)
from projlab_validation.oracles.sparse_factor import factorised
from projlab_validation.oracles.sparse_system import Undecided
from projlab_validation.oracles.system import equations, factor
from tests.validation.oracles.cases import EPS, distance, enclosed, make, named, system_of


def decide(problem):
    E, f = equations(problem, equilibrate=True)
    return sparse_ball.decide(E, f, problem.x0, float(np.finfo(problem.dtype).eps), np.inf)


def enclose(problem):
    return sparse_ball.enclose(decide(problem), np.inf)


def incidence(nodes, edges, seed=0):
    """A flow in a random graph, every node with its equation: rank nodes less components."""
    rng = np.random.default_rng(seed)
    ends = np.stack([rng.integers(0, nodes, edges), rng.integers(1, nodes, edges)])
    ends[1] = (ends[0] + ends[1]) % nodes
    which = np.tile(np.arange(edges), 2)
    data = np.repeat([1.0, -1.0], edges)
    A = sp.csr_array((data, (ends.ravel(), which)), shape=(nodes, edges))
    return made(A, A @ rng.integers(-3, 4, edges).astype(float), seed)


def made(A, b, seed=0):
    x0 = np.random.default_rng(seed).standard_normal(A.shape[1])
    return replace(make(np.zeros((1, A.shape[1])), 0, x0), A=sp.csr_array(A), b=np.asarray(b))


def thirds(seed=0):
    """Rows of which one is a third of the sum of three others, up to a rounding."""
    rng = np.random.default_rng(seed)
    A = sp.random_array((60, 150), density=0.05, rng=rng).toarray() + np.eye(60, 150)
    A[59] = (A[0] + A[1] + A[2]) / 3
    x = rng.standard_normal(150)
    b = A @ x
    b[59] = (b[0] + b[1] + b[2]) / 3
    return made(A, b, seed)


def contradicting():
    problem = incidence(40, 120)
    return replace(problem, b=problem.b + np.eye(40)[3])


def chain(m):
    """σ_min is 2 sin(π/2/(m + 1)): the path's Laplacian without its zero."""
    return sp.csr_array(sp.diags_array([np.ones(m), -np.ones(m)], offsets=[0, 1], shape=(m, m + 1)))


class TestSigmaMin:
    @given(st.integers(0, 10**6), st.floats(-5, 0))
    def test_is_below_sigma_min_and_close(self, seed, weakest):
        rng = np.random.default_rng(seed)
        B = sp.csr_array(sp.random_array((30, 50), density=0.1, rng=rng) + sp.eye_array(30, 50))
        B = sp.csr_array(sp.diags_array(np.geomspace(1, 10**weakest, 30)) @ B)
        smallest = np.linalg.svd(B.toarray(), compute_uv=False)[-1]
        bound = sparse_sigma_min.lower_bound(B, smallest**2)
        accuracy = 1 - 30 * 50 * EPS / smallest  # of numpy's own
        assert 0.9 * smallest * accuracy < bound <= smallest / accuracy

    @pytest.mark.parametrize("times", [1.01, 2.0, 9.0])
    def test_is_below_sigma_min_whatever_the_estimate(self, times):
        B = sp.csr_array(
            sp.diags_array([np.ones(40), -np.ones(40)], offsets=[0, 1], shape=(40, 41))
        )
        smallest = 2 * np.sin(np.pi / 2 / 41)
        assert 0 < sparse_sigma_min.lower_bound(B, times * smallest**2) <= smallest
        assert sparse_sigma_min.lower_bound(B, 1e3 * smallest**2) == 0

    def test_covers_a_factor_that_is_off(self, monkeypatch):
        """The bound is about what was factored: entries of L that are off take it away."""
        B = sp.csr_array(
            sp.diags_array([np.ones(40), -np.ones(40)], offsets=[0, 1], shape=(40, 41))
        )

        def off(A):
            found = factorised(A)
            found.__dict__["L"] = found.L + sp.csc_array(([1e-2], ([7], [3])), shape=(40, 40))
            return found

        assert sparse_sigma_min.lower_bound(B, 0.0058) > 0
        monkeypatch.setattr(sparse_sigma_min, "factorised", off)
        assert sparse_sigma_min.lower_bound(B, 0.0058) == 0

    def test_what_is_not_definite_has_no_factor(self):
        assert factorised(sp.csc_array(np.array([[1.0, 2.0], [2.0, 1.0]]))) is None
        assert factorised(sp.csc_array(np.array([[0.0, 1.0], [1.0, 0.0]]))) is None
        assert factorised(sp.csc_array(np.array([[0.0, 0.0], [0.0, 1.0]]))) is None


class TestAgainstDense:
    """Computations that share neither factor nor choice of rows."""

    @pytest.mark.parametrize(
        "problem",
        [
            incidence(60, 150),
            incidence(300, 320),
            thirds(),
            *(
                named(name, dtype)
                for name in (
                    "netlib_bore3d",
                    "hier_tourism_parentchild",
                    "rob_weld",
                    "netlib_capri",
                )
                for dtype in ("float64", "float32")
            ),
            named("pg_dcopf_300_ieee"),
        ],
        ids=lambda p: f"{p.name}-{p.dtype}-{p.m}",
    )
    def test_balls_meet(self, problem):
        through_sparse, dense = enclose(problem), enclosed(problem)
        assert (through_sparse.kind, dense.kind) == ("ball", "ball")
        assert distance(through_sparse, dense) <= through_sparse.radius + dense.radius
        assert through_sparse.radius < 1e-28
        for name in ("rank", "ambiguous", "consistent"):
            assert getattr(through_sparse, name) == getattr(dense, name)
        assert through_sparse.condition == pytest.approx(dense.condition, rel=1e-2)

    @pytest.mark.parametrize(
        "problem",
        [
            incidence(60, 150),
            incidence(150, 140),
            named("graph_karate"),
            named("chem_elem_gri30"),
            named("water_net3", "float32"),
        ],
        ids=lambda p: f"{p.name}-{p.m}",
    )
    def test_rationals_are_those_of_elimination(self, problem):
        lifted = sparse_exact.solve(decide(problem))
        eliminated = exact.solve(system_of(problem))
        assert lifted.kind == eliminated.kind == "exact"
        assert lifted.rank == eliminated.rank
        assert np.array_equal(lifted.x_high, eliminated.x_high)
        assert np.array_equal(lifted.x_low, eliminated.x_low)

    @pytest.mark.parametrize("problem", [contradicting(), named("pg_btheta_57_ieee")])
    def test_a_compromise_is_met(self, problem):
        decided = decide(problem)
        assert not decided.system.consistent
        A, b = equations(problem, equilibrate=False)
        there = sparse_ball.enclose_as_given(decided, A, b, np.inf)
        here = ball.enclose(factor(A, b, problem.x0, EPS, rank=decided.system.rank), np.inf)
        assert distance(there, here) <= there.radius + here.radius
        assert there.radius < 1e-26


class TestRadius:
    @pytest.mark.parametrize("size", [1e-6, 1e-12, 1e-18])
    def test_covers_wrong_multipliers(self, monkeypatch, size):
        problem = incidence(60, 150)
        truth, project = enclose(problem), sparse_ball.project

        def off_by_size(system, E, W, x0, f, s, deadline):
            x, _ = project(system, E, W, x0, f, s, deadline)
            t = ball_of(size * np.random.default_rng(0).standard_normal(system.rank))
            x = x + E.adjoint(np.concatenate([t, W.adjoint(t)]))
            residual = E @ x - f
            return x, norm(residual[: system.rank] + W @ residual[system.rank :])

        ball_of, norm = sparse_ball.ball, sparse_ball.norm
        monkeypatch.setattr(sparse_ball, "project", off_by_size)
        enclosure = enclose(problem)
        assert truth.radius < distance(enclosure, truth) <= enclosure.radius

    def test_covers_a_blend_that_is_not_refined(self, monkeypatch):
        problem = thirds()
        truth = enclose(problem)
        monkeypatch.setattr(sparse_ball.dense, "TARGET", 1e-3)
        enclosure = enclose(problem)
        assert distance(enclosure, truth) <= enclosure.radius + truth.radius

    def test_a_coefficient_that_is_off_is_not_called_exact(self, monkeypatch):
        problem, rounded = incidence(60, 150), sparse_system._rounded

        def off(W):
            return rounded(W) + sp.csc_array(([2.0**-20], ([4], [0])), shape=W.shape)

        assert not len(sparse_ball.unsettled(decide(problem).system))
        monkeypatch.setattr(sparse_system, "_rounded", off)
        assert len(sparse_ball.unsettled(decide(problem).system)) == 1
        assert distance(enclose(problem), enclosed(problem)) < 1e-28

    def test_is_an_estimate_where_sigma_min_cannot_be_bounded(self, monkeypatch):
        problem = incidence(60, 150)
        truth = enclosed(problem)
        monkeypatch.setattr(sparse_sigma_min, "lower_bound", lambda B, smallest: 0.0)
        enclosure = enclose(problem)
        assert enclosure.kind == "high precision"
        assert distance(enclosure, truth) <= truth.radius + enclosure.radius


class TestUndecided:
    def test_no_honest_rank_is_not_decided(self):
        with pytest.raises(Undecided):
            decide(named("rob_flex_flag"))

    def test_a_dense_column_is_left_to_dense_factors(self, monkeypatch):
        monkeypatch.setattr(sparse_system, "GRAM_ENTRIES", 1e3)
        problem = incidence(40, 120)
        dense = replace(problem, A=sp.csr_array(sp.hstack([problem.A, np.ones((40, 1))])))
        with pytest.raises(Undecided, match="products of entries"):
            decide(replace(dense, x0=np.append(dense.x0, 1.0)))

    def test_rows_that_are_not_met_exactly_are_left_to_balls(self):
        problem = thirds()
        assert sparse_exact.solve(decide(problem)) is None
        shifted = incidence(60, 150)
        shifted = replace(shifted, b=shifted.b * (1 + EPS * np.arange(60)))
        assert sparse_exact.solve(decide(shifted)) is None

    def test_digits_that_do_not_end_give_no_rational(self, monkeypatch):
        monkeypatch.setattr(sparse_exact, "DIGITS", 40)
        assert sparse_exact.solve(decide(incidence(60, 150))) is None


class TestReference:
    def test_thousands_of_rows_with_the_rank_of_the_components(self):
        problem = incidence(5000, 9000)
        components = sp.csgraph.connected_components(problem.A @ problem.A.T)[0]
        x_star = reference(problem, time_limit=60)
        assert x_star.kind in ("ball", "exact")
        assert x_star.rank == 5000 - components == rank_at_float64(problem)
        assert x_star.radius < 1e-28

    def test_nothing_is_made_dense(self, monkeypatch):
        toarray = sp.csr_array.toarray

        def narrow(self):
            assert min(self.shape) < 100
            return toarray(self)

        problem = incidence(2000, 4000)
        monkeypatch.setattr(sp.csr_array, "toarray", narrow)
        assert reference(problem).kind in ("ball", "exact")

    def test_refinement_is_given_up(self):
        with pytest.raises(TimeoutError, match="within the time limit"):
            sparse_ball.enclose(decide(named("netlib_bore3d")), time.monotonic())

    def test_the_largest_real_system_is_proven(self):
        x_star = reference(named("metab_human_gem"), time_limit=60)
        assert (x_star.kind, x_star.rank, x_star.ambiguous) == ("ball", 8129, False)
        assert x_star.radius < 1e-26
