"""The 49 real systems of `projlab_validation.data`: sources and licences are in its README.md.

x₀ is the source's own point where it has one, else standard normal from a seed that depends on the
name alone. What is known to be difficult about a system is in INDEX.csv.

All are offered in float64. In float32 A, b and x₀ are rounded, which makes another system near the
first. It is offered where every entry survives (none overflows, vanishes or turns subnormal) and
where the rank stays clear at float32's cutoff, judged by INDEX.csv's ``cond_rowscaled``. Elsewhere,
as for ``netlib_fffff800`` with κ = 7e5, the rounding of the data decides the rank, and no method
could be called right or wrong.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import numpy as np
import scipy.sparse as sp

from projlab_validation.problems.problem import (
    Dtype,
    Family,
    Problem,
    Vector,
    rank_is_clear,
    rounded,
    seed_of,
)

_DATA = files("projlab_validation.data")


@cache
def index() -> dict[str, dict[str, str]]:
    """What INDEX.csv says of each system, by name."""
    lines = _DATA.joinpath("INDEX.csv").read_text(encoding="utf-8").splitlines()
    return {row["name"]: row for row in csv.DictReader(lines)}


def load(name: str) -> tuple[sp.csr_array, Vector, Vector]:
    """A, b and x0 in float64; x0 standard normal where the source gives none."""
    with (
        _DATA.joinpath(f"{name}.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        A = sp.csr_array(
            (arrays["data"], arrays["indices"], arrays["indptr"]), shape=tuple(arrays["shape"])
        )
        if "x0" in arrays:
            return A, arrays["b"], arrays["x0"]
        x0 = np.random.default_rng(seed_of(name)).standard_normal(A.shape[1])
        return A, arrays["b"], x0


def survives_float32(name: str) -> bool:
    """Whether every nonzero entry stays a normal number in float32."""
    A, b, x0 = load(name)
    size = np.abs(np.concatenate([A.data, b, x0]))
    limits = np.finfo(np.float32)
    return bool(np.all((size == 0) | ((size >= limits.tiny) & (size <= limits.max))))


def names(dtype: Dtype) -> tuple[str, ...]:
    """The systems that are offered in a dtype."""
    if dtype == "float64":
        return tuple(index())
    return tuple(
        name
        for name, row in index().items()
        if row["cond_rowscaled"]
        and rank_is_clear(float(row["cond_rowscaled"]), int(row["m"]), int(row["n"]), dtype)
        and survives_float32(name)
    )


def _build(name: str, dtype: Dtype) -> Problem:
    A, b, x0 = load(name)
    row = index()[name]
    return Problem(
        name=name,
        group="real",
        A=sp.csr_array((rounded(A.data, dtype), A.indices, A.indptr), shape=A.shape),
        b=rounded(b, dtype),
        x0=rounded(x0, dtype),
        dtype=dtype,
        seed=seed_of(name),
        reference=row["source"],
        consistent=row["consistent"] == "yes",
    )


FAMILY = Family("real", cache(names), _build)
