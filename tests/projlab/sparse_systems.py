"""Sparse rows of a kind that real systems have, as scipy CSR."""

import numpy as np
import scipy.sparse as sp


def incidence(tails, heads, nodes):
    """Rows are nodes, columns edges: one row follows from the others in each component."""
    k = len(tails)
    ones = np.ones(k)
    ij = np.r_[tails, heads], np.r_[np.arange(k), np.arange(k)]
    return sp.coo_array((np.r_[ones, -ones], ij), shape=(nodes, k)).tocsr()


def grid(side):
    """Flow conservation on a square grid."""
    node = np.arange(side * side).reshape(side, side)
    tails = np.r_[node[:, :-1].ravel(), node[:-1].ravel()]
    heads = np.r_[node[:, 1:].ravel(), node[1:].ravel()]
    return incidence(tails, heads, side * side)


def tree(nodes, seed=0):
    """A random tree: every node but the first hangs on an earlier one."""
    below = np.arange(1, nodes)
    above = (np.random.default_rng(seed).random(nodes - 1) * below).astype(np.int64)
    return incidence(above, below, nodes)


def redundant(rows, more, seed=0):
    """`more` combinations of two or three of the sparse rows among them, and a permutation.

    The matrix, and which of its rows are combinations.
    """
    rng = np.random.default_rng(seed)
    m = rows.shape[0]
    chosen = np.array([rng.choice(m, 3, replace=False) for _ in range(more)]).reshape(more, 3)
    weights = rng.integers(-2, 3, (more, 3)).astype(float)
    weights[:, 0] = 1.0
    numbers = np.repeat(np.arange(more), 3)
    C = sp.coo_array((weights.ravel(), (numbers, chosen.ravel())), shape=(more, m)).tocsr()
    order = rng.permutation(m + more)
    return sp.vstack([rows, C @ rows]).tocsr()[order], np.flatnonzero(order >= m)


def scattered(m, n, each, seed=0):
    """Integer rows with `each` entries in random columns, and a diagonal: independent."""
    rng = np.random.default_rng(seed)
    cols = rng.integers(0, n, (m, each)).ravel()
    values = rng.integers(-3, 4, m * each).astype(float)
    A = sp.coo_array((values, (np.repeat(np.arange(m), each), cols)), shape=(m, n)).tocsr()
    return (A + sp.eye_array(m, n) * 4 * each).tocsr()
