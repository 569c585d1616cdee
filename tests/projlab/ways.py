"""The ways to compute one projection onto orthonormal rows, and the textbook form of it.

Which way is taken depends on size alone (`projlab.numerics.tuning`) and on PROJLAB_NATIVE: the
sizes are moved by the fixture `take`, so that the small systems of the table take every way.
"""

import importlib.util

import pytest
import torch

import projlab
from projlab import tolerance
from projlab.engine.select import MANY, asked
from projlab.engine.setup import build
from projlab.system.inputs import working_dtype

NUMBA = importlib.util.find_spec("numba") is not None


needs_numba = pytest.mark.skipif(not NUMBA, reason="numba, the extra `native`, is not installed")


WAYS = {
    "small": {},
    "two passes": {"SMALL": 0},
    "blocks": {"SMALL": 0, "CACHE": 0, "BLOCK": 0, "LEAST_ROWS": 2},
    "columns": {"COLUMNS": 1, "COORDINATES": 1},
    "R in parts": {"IN_PARTS": 2},
    "native": {},
}


every_way = pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[needs_numba] if way == "native" else []) for way in WAYS]
)


def solver_of(P):
    """What P was set up with, set up again from its equations: the same factors to the bit."""
    constraint, dtype = projlab.AffineConstraint(P.A, P.b), working_dtype(P.dtype)
    options = asked(constraint.n, P.variant, {}, applications=MANY)
    return build(constraint, dtype, options, dtype)


def way_of(P):
    """Which way P takes onto several rows for one vector, told by the operators that it calls.

    None for a kernel; two products alone where a negated copy of W' is kept; and with W alone a
    transpose beside them, once or for every block of rows.
    """
    x = torch.zeros(P.A.shape[-1], dtype=P.dtype)
    with torch.autograd.profiler.profile(use_kineto=False) as seen:
        P.project_(x)
    names = [event.name for event in seen.function_events]
    if not names:
        return "native"
    if "aten::transpose" not in names:
        return "small"
    return "two passes" if names.count("aten::addmv_") == 1 else "blocks"


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
