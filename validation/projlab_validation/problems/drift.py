"""Small systems whose drift over many perturbed projections is followed.

Spectra as in `projlab_validation.problems.spectra`, rows that share no column, and flow in a grid
that stays sparse. x₀ is rounded to
a multiple of 2⁻³⁰, so that sums of it and the perturbations are exact.
"""

from __future__ import annotations

import numpy as np

from projlab_validation.problems.problem import (
    Dtype,
    Family,
    Problem,
    rank_is_clear,
    rounded,
    seed_of,
)
from projlab_validation.problems.sparse import flow
from projlab_validation.problems.spectra import with_spectrum

GRID = 2.0**-30

_CONDITIONS = {"drift_1_10x20": 1.0, "drift_1e3_10x20": 1e3, "drift_1e9_10x20": 1e9}
_DISJOINT = "drift_disjoint_3x30"
_FLOW = "drift_flow_15x24"


_REFERENCES = {
    _DISJOINT: "rows that share no column",
    _FLOW: "Kirchhoff 1847: flow in a 4 × 4 grid, all balances but one",
}


def _names(dtype: Dtype) -> tuple[str, ...]:
    clear = (name for name, c in _CONDITIONS.items() if rank_is_clear(c, 10, 20, dtype))
    return (*clear, _DISJOINT, _FLOW)


def _build(name: str, dtype: Dtype) -> Problem:
    seed = seed_of(name)
    rng = np.random.default_rng(seed)
    if name == _FLOW:
        A = flow(rng, 4).A.toarray()[1:]  # one balance follows from the others
    elif name == _DISJOINT:
        A = np.kron(np.eye(3), np.ones(10)) * rng.standard_normal(30)
    else:
        A = with_spectrum(rng, np.geomspace(1.0, 1.0 / _CONDITIONS[name], 10), 20)
    A = rounded(A, dtype)
    n = A.shape[1]
    return Problem(
        name=name,
        group="drift",
        A=A,
        b=rounded(A @ rng.standard_normal(n), dtype),
        x0=rounded(GRID * np.rint(rng.standard_normal(n) / GRID), dtype),
        dtype=dtype,
        seed=seed,
        reference=_REFERENCES.get(name, "Higham 2002, section 28.3: randsvd, geometric spectrum"),
        stays_sparse=name == _FLOW,
    )


FAMILY = Family("drift", _names, _build)
