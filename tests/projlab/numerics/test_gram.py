"""Solves with the Gram matrix of sparse rows, and a bound that is never above the truth."""

import mpmath
import numpy as np
import pytest
import scipy.sparse as sp

from projlab import tolerance
from projlab.errors import MemoryLimitError
from projlab.numerics import gram, memory
from projlab.numerics.gram import GramFactor, IndefiniteError
from projlab.numerics.sparse_factor import SuperLU, prepared
from tests.projlab.sparse_systems import grid, scattered, tree

U = tolerance.unit_roundoff("float64")


def smallest(E):
    """The smallest eigenvalue of E E', to 40 digits."""
    with mpmath.workdps(40):
        sigma = min(mpmath.svd_r(mpmath.matrix(E.toarray().tolist()), compute_uv=False))
        return float(sigma**2)


def near(gap):
    """Three rows, of which one is `gap` away from another."""
    return sp.csr_array(np.array([[1.0, 0, 0, 0], [1.0, gap, 0, 0], [0, 0, 1, 1]]))


ROWS = {
    "grid": grid(5)[1:],
    "tree": tree(40)[1:],
    "scattered": scattered(25, 40, 3),
    "near": near(1e-3),
    "nearer": near(1e-6),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_proven_bound_is_below_the_smallest_eigenvalue_and_near_it(name):
    E, factor = ROWS[name], GramFactor.of(ROWS[name], "G")
    true, found = smallest(E), factor.smallest(tolerance.MEASURED)
    # corrected solves err by kappa^2 u
    assert abs(found.value / true - 1) <= 1e-5 + 100 * len(E.indptr) * U * 8 / true
    proven = factor.proven(found.value)
    assert proven <= true
    assert proven >= found.value / 2 * (1 - 2 * tolerance.PROOF_ROUNDING) - 1e-12


@pytest.mark.parametrize("estimate", [4.0, 2.2])
def test_nothing_is_proven_of_an_estimate_that_is_too_large(estimate):
    factor = GramFactor.of(sp.csr_array(np.eye(3)), "G")
    assert factor.proven(estimate) == 0.0
    assert factor.proven(np.inf) == 0.0
    assert factor.proven(1.0) == pytest.approx(0.5)


def test_nothing_is_proven_below_the_rounding():
    factor = GramFactor.of(near(3e-8), "G")
    assert factor.proven(smallest(near(3e-8))) <= smallest(near(3e-8))
    with pytest.raises(IndefiniteError):
        GramFactor.of(near(0.0), "G")


def test_the_misfit_holds_what_the_factor_is_off():
    G = gram.gram_matrix(scattered(60, 90, 4)).tocsc()
    factor = SuperLU(prepared(G))
    lu, order = factor._lu, factor.order.numpy()
    M = G.toarray()[np.ix_(order, order)]
    place = np.argsort(lu.perm_r)
    L, D = lu.L.toarray(), lu.U.diagonal()
    with mpmath.workdps(40):
        product = mpmath.matrix(L.tolist()) * mpmath.diag(D.tolist()) * mpmath.matrix(L.T.tolist())
        off = product - mpmath.matrix(M[np.ix_(place, place)].tolist())
        true = np.linalg.norm(np.array(off.tolist(), dtype=float), 2)
    assert true <= factor.misfit() <= 1e-11


def test_a_permutation_applied_twice_is_no_proof(monkeypatch):
    """Pivots of the wrong rows, or a factor of another matrix, show in solves and in pivots."""
    G = gram.gram_matrix(grid(5)[1:])
    factor = SuperLU(prepared(G))
    b = np.random.default_rng(0).standard_normal((1, G.shape[0]))
    held = GramFactor.of(grid(5)[1:], "G").solve(b)
    assert np.abs(G @ held[0] - b[0]).max() < 1e-12
    order = factor.order.numpy()
    assert not np.array_equal(order[order], order), "the order must be no involution's identity"
    diagonal = G.diagonal()
    shuffled = np.empty_like(factor.pivots())
    shuffled[order] = factor.pivots()
    # each pivot is at most the diagonal entry of its row; under a wrong order some exceed it
    assert (factor.pivots() <= diagonal * (1 + 1e-12)).all()
    assert not (shuffled <= diagonal * (1 + 1e-12)).all()


def test_rounding_of_the_gram_matrix_is_bounded():
    E = scattered(20, 30, 5)
    G = gram.gram_matrix(E)
    with mpmath.workdps(40):
        M = mpmath.matrix(E.toarray().tolist())
        off = np.array((M * M.T - mpmath.matrix(G.toarray().tolist())).tolist(), dtype=float)
    assert np.linalg.norm(off, 2) <= gram.rounding_of_gram(E, G)


def test_a_dense_column_is_refused_before_it_is_multiplied(monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda device: 2**20)
    column = sp.coo_array((np.ones(2000), (np.arange(2000), np.zeros(2000, dtype=int))))
    with pytest.raises(MemoryLimitError, match="Gram matrix"):
        gram.gram_matrix(column.tocsr())
