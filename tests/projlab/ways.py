"""The ways to compute one projection onto orthonormal rows, and the textbook form of it.

Which way is taken depends on size alone (`projlab.numerics.tuning`) and on PROJLAB_NATIVE: the
sizes are moved by the fixture `take`, so that the small systems of the table take every way.
"""

import importlib.util

import pytest
import torch

from projlab import tolerance

NUMBA = importlib.util.find_spec("numba") is not None


needs_numba = pytest.mark.skipif(not NUMBA, reason="numba, the extra `native`, is not installed")


WAYS = {
    "small": {},
    "two passes": {"SMALL": 0},
    "blocks": {"SMALL": 0, "CACHE": 0, "BLOCK": 0, "LEAST_ROWS": 2},
    "columns": {"COLUMNS": 1},
    "R in parts": {"IN_PARTS": 2},
    "native": {},
}


every_way = pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[needs_numba] if way == "native" else []) for way in WAYS]
)


def factor_of(P):
    return P._solver.factor


def way_of(factor):
    if factor._native is not None:
        return "native"
    if factor._negated is not None:
        return "small"
    return "two passes" if len(factor._blocks) == 1 else "blocks"


def textbook(factor, x, c):
    """x - W' (W x + c), in two plain passes."""
    W = factor.W
    return x - (x @ W.mT + c) @ W


def difference_allowed(factor, x, c):
    """Two evaluations, each within the first-order bound of its two passes.

    The rows are orthonormal, so that no condition number enters: the coordinates err by
    dimension_factor u (||x|| + ||c||), and so does what is subtracted.
    """
    m, n = factor.W.shape[-2:]
    size = torch.linalg.vector_norm(x, dim=-1).amax() + torch.linalg.vector_norm(c, dim=-1).amax()
    u = tolerance.unit_roundoff(x.dtype)
    return float(2 * tolerance.dimension_factor(m, n) * u * size)
