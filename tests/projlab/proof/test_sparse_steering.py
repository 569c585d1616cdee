"""Steering by a sparse factor, how dropped sparse rows follow, and certificates through both."""

import math

import mpmath
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import projlab
from projlab.numerics import memory, tuning
from projlab.numerics.sparse_factor import SuperLU
from projlab.proof import redundancy
from projlab.proof.redundancy import sparse_redundancy
from projlab.proof.sparse_steering import SparseSteering
from projlab.proof.steering import Steering, steering_of
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import equilibrate
from projlab.system.rows import as_rows
from projlab.system.sparse_rank import decide_sparse
from tests.projlab import exact
from tests.projlab.sparse_systems import grid, redundant, scattered, tree

F64 = torch.float64
U = 2.0**-53

ROWS = {"grid": grid(5)[1:], "tree": tree(30)[1:], "scattered": scattered(20, 30, 3)}


@pytest.fixture(autouse=True)
def _always_sparse(monkeypatch):
    monkeypatch.setattr(tuning, "SPARSE_DECISION", 0.0)


def smallest(F):
    with mpmath.workdps(40):
        return min(mpmath.svd_r(mpmath.matrix(F.tolist()), compute_uv=False))


@pytest.mark.parametrize("scales", [0, 6])
@pytest.mark.parametrize("name", ROWS)
def test_it_steers_as_a_qr_does_and_proves_no_more_than_is_true(name, scales):
    rows = as_rows(sp.diags_array(10.0 ** np.linspace(0, scales, ROWS[name].shape[0])) @ ROWS[name])
    found, dense = SparseSteering.of(rows, 0.0), Steering.of(rows.to_dense(), 0.0)
    true = smallest(rows.to_dense())
    assert 0 < found.sigma_min <= true
    if scales == 0:  # half of an eigenvalue is proven, of rows whose norms are at most 1.42 apart
        assert found.sigma_min >= float(true) / (2 * 2**0.5)
    rng = np.random.default_rng(0)
    v, q = (torch.from_numpy(rng.standard_normal((3, k))) for k in rows.shape[::-1])
    loose = {"rtol": 1e-8, "atol": 1e-8}
    assert torch.allclose(found.into_rows(v), dense.into_rows(v), **loose)
    assert torch.allclose(found.shortest(q), dense.shortest(q), **loose)
    assert torch.allclose(found.row_part(v), dense.row_part(v), **loose)
    M = exact.matrix(rows.to_dense())
    true_image = [exact.norm(exact.times(M, exact.vector(one))) for one in v]
    assert (found.image(v) >= torch.tensor(true_image, dtype=F64) * (1 - 2e-16)).all()


def test_what_is_not_known_of_the_rows_is_subtracted():
    rows = as_rows(ROWS["scattered"])
    known = SparseSteering.of(rows, 0.0).sigma_min
    assert SparseSteering.of(rows, 0.25).sigma_min == pytest.approx(known - 0.25, abs=1e-9)
    assert SparseSteering.of(rows, 100.0).sigma_min == 0.0


def near(gap):
    return sp.csr_array(np.array([[1.0, 0, 0], [1.0, gap, 0], [0, 1, 1]]))


def test_beyond_its_reach_the_dense_way_is_taken_where_it_fits(monkeypatch):
    assert isinstance(steering_of(as_rows(ROWS["grid"]), 0.0), SparseSteering)
    dense = steering_of(as_rows(near(1e-9)), 0.0)
    assert isinstance(dense, Steering)
    assert dense.sigma_min > 0
    # nothing is proven of rows that are hardly known: the dense way is tried, and does not fit
    monkeypatch.setattr(memory, "limit", lambda device: 20_000)
    unproven = steering_of(as_rows(ROWS["scattered"]), 100.0)
    assert isinstance(unproven, SparseSteering)
    assert unproven.sigma_min == 0.0


# --- how dropped rows follow --------------------------------------------------------------------


def decided(A):
    constraint = AffineConstraint(A, torch.zeros(A.shape[0], dtype=F64))
    rows = equilibrate(constraint, F64).rows
    return rows, decide_sparse(rows, U, "numerical")


@pytest.mark.parametrize("third", [False, True])
def test_delta_is_what_some_coefficients_leave(third):
    A = redundant(scattered(15, 25, 2), 6)[0]
    if third:  # coefficients that no float is
        A = (sp.diags_array(1 / np.arange(3.0, 3 + A.shape[0])) @ A).tocsr()
    E, decision = decided(A)
    steers = SparseSteering.of(E.select(decision.kept), 0.0)
    f = torch.from_numpy(np.random.default_rng(0).standard_normal(E.shape[0]))
    found = sparse_redundancy(E, f, decision, steers)
    assert found.size >= float(torch.linalg.norm(found.delta.to_dense())) * (1 - 1e-12)
    # rows are rounded once, by a third of a unit or not at all
    assert found.size <= (1e-14 if third else 1e-28)
    with mpmath.workdps(50):
        K = mpmath.matrix(E.to_dense()[decision.kept].tolist())
        D = mpmath.matrix(E.to_dense()[decision.dropped].tolist())
        C = D * K.T * (K * K.T) ** -1
        least = mpmath.mnorm(D - C * K, "f")
        phi = [mpmath.mpf(f[d].item()) for d in decision.dropped.tolist()]
        kept = mpmath.matrix(f[decision.kept].tolist())
        phi = mpmath.matrix(phi) - C * kept
    assert found.size >= float(least) * (1 - 1e-9)
    assert np.abs(found.phi[0].numpy() - np.array(phi.tolist(), dtype=float)[:, 0]).max() < 1e-13


# --- certificates -------------------------------------------------------------------------------


SYSTEMS = {
    "grid": grid(6),
    "combinations": redundant(scattered(30, 45, 3), 8)[0],
    "full rank": scattered(30, 45, 3),
}


def answers(A):
    """x0, b, the exact projection, rounded."""
    rng = np.random.default_rng(0)
    x0 = rng.integers(-5, 6, A.shape[1]).astype(float)
    b = A @ rng.integers(-5, 6, A.shape[1]).astype(float)
    x = exact.projection(exact.matrix(A.toarray()), exact.vector(b), exact.vector(x0))
    rounded = [int(v.p) / int(v.q) for v in x]
    return torch.from_numpy(x0), b, torch.tensor(rounded, dtype=F64)


@pytest.mark.parametrize("weights", [None, "diagonal"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_bounds_hold_the_error(name, weights, monkeypatch):
    A = SYSTEMS[name]
    x0, b, x = answers(A)
    metric = None if weights is None else torch.linspace(1, 2, A.shape[1], dtype=F64)
    if metric is not None:
        x = projlab.project(x0, A.toarray(), b, metric=metric, accuracy=1e-12)
    found = projlab.certify(x0, x, A, b, metric=metric, accuracy=1e-11)
    assert found.verdict == "certified", found.reason
    assert found.forward_error_bound <= 1e-11
    off = x.clone()
    off[0] += 1e-3
    bad = projlab.certify(x0, off, A, b, metric=metric, accuracy=1e-6)
    assert bad.verdict == "failed"
    if metric is None:
        true = 1e-3 / float(x.norm())
        assert (
            bad.forward_error_at_least <= true * (1 + 1e-9) <= bad.forward_error_bound * (1 + 2e-9)
        )
    monkeypatch.setattr(tuning, "SPARSE_DECISION", math.inf)
    known = projlab.certify(x0, off, A, b, metric=metric, accuracy=1e-6)
    assert bad.forward_error_bound == pytest.approx(known.forward_error_bound, rel=1e-6)


def test_a_row_that_the_answer_misses_fails():
    """A solver that dropped a dense row is found out."""
    A = sp.vstack([scattered(20, 40, 2), np.ones((1, 40))]).tocsr()
    x0, b, x = answers(A)
    without = projlab.project(x0, A[:-1], b[:-1])
    assert projlab.certify(x0, x, A, b).verdict == "certified"
    assert projlab.certify(x0, without, A, b).verdict == "failed"


def test_a_permutation_applied_twice_certifies_nothing_wrong(monkeypatch):
    A = SYSTEMS["grid"]
    x0, b, x = answers(A)
    off = x + 1e-5
    honest = SuperLU.solve
    monkeypatch.setattr(SuperLU, "solve", lambda self, g: honest(self, g[..., self.order]))
    constraint = AffineConstraint(A, b)
    try:
        assert projlab.certify(x0, off, constraint, accuracy=1e-9).verdict != "certified"
        assert projlab.certify(x0, x, constraint, accuracy=1e-9).verdict != "failed"
    except projlab.ProjlabError:
        pass


def test_indices_past_32_bits_are_told_apart():
    """Places of delta are numbered row by row: d n may pass 2^31, and must not wrap."""
    n = 2**20
    kept = as_rows(sp.coo_array((np.ones(2), ([0, 1], [5, n - 1])), shape=(2, n)))
    numbers = torch.tensor([2047, 2048, 4095]), torch.tensor([0, 1, 1])
    dropped = as_rows(sp.coo_array((np.ones(1), ([4095], [n - 1])), shape=(4096, n)))
    combined = redundancy._Combined.of(kept, dropped, *numbers)
    assert combined.rows.tolist() == [2047, 2048, 4095]
    assert combined.cols.tolist() == [5, n - 1, n - 1]
