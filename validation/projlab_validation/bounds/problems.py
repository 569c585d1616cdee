"""Projections onto {x : A x = b, G x ≤ h, lb ≤ x ≤ ub}, family by family.

Entries are small integers or dyadic numbers wherever ties, vertices and empty sets have to be
exact; real systems are those of `problems.real` with x ≥ 0 or a box, b from a feasible point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from projlab_validation.problems import real
from projlab_validation.problems.problem import seed_of

Vector = NDArray[np.float64]
Rng = np.random.Generator


@dataclass(frozen=True, eq=False)
class BoundedProblem:
    """One point and one set; the parts that a set has not are None.

    Attributes
    ----------
    empty
        Whether no x is in the set, so that an answer is a refusal.
    """

    name: str
    x0: Vector
    A: Vector | None = None
    b: Vector | None = None
    G: Vector | None = None
    h: Vector | None = None
    lb: Vector | None = None
    ub: Vector | None = None
    empty: bool = False

    @property
    def n(self) -> int:
        """Number of variables."""
        return len(self.x0)

    @property
    def m(self) -> int:
        """Number of rows, equations and inequalities."""
        return sum(len(part) for part in (self.A, self.G) if part is not None)

    @property
    def box(self) -> tuple[Vector, Vector]:
        """Both bounds, infinite where there is none."""
        lower = np.full(self.n, -np.inf) if self.lb is None else self.lb
        return lower, np.full(self.n, np.inf) if self.ub is None else self.ub


Parts = dict[str, object]
Builder = Callable[[Rng], Parts]


def _simplex(n: int) -> Builder:
    """The simplex, standard normal points (Held, Wolfe and Crowder, Math. Program. 6, 1974)."""
    return lambda rng: {
        "x0": rng.standard_normal(n),
        "A": np.ones((1, n)),
        "b": np.ones(1),
        "lb": np.zeros(n),
    }


def _ties(rng: Rng) -> Parts:
    """Few different entries, so that breakpoints coincide."""
    return {**_simplex(60)(rng), "x0": rng.integers(-2, 3, 60) / 8.0}


def _all_tied(rng: Rng) -> Parts:
    """All entries equal: every one is free, or on the verge of it."""
    return {**_simplex(64)(rng), "x0": np.full(64, 0.25)}


def _inside(rng: Rng) -> Parts:
    """A point of the simplex, which is its own projection."""
    weights = rng.integers(1, 9, 32).astype(float)
    return {**_simplex(32)(rng), "x0": np.append(weights, 512 - weights.sum())[:33] / 512} | {
        "A": np.ones((1, 33)),
        "lb": np.zeros(33),
    }


def _one_point(rng: Rng) -> Parts:
    """Lower bounds that add up to the right side: one point."""
    lower = rng.integers(0, 5, 12) / 4.0
    return {
        "x0": rng.standard_normal(12),
        "A": np.ones((1, 12)),
        "b": np.array([lower.sum()]),
        "lb": lower,
    }


def _nearly_empty(rng: Rng) -> Parts:
    """As `one_point`, with 2⁻⁴⁰ to share out."""
    parts = _one_point(rng)
    return {**parts, "b": np.asarray(parts["b"]) + 2.0**-40}


def _capped(rng: Rng) -> Parts:
    """Weights of a sum within two bounds (the continuous quadratic knapsack)."""
    return {
        "x0": rng.standard_normal(200),
        "A": rng.integers(1, 9, (1, 200)) / 4.0,
        "b": np.array([64.0]),
        "lb": np.zeros(200),
        "ub": rng.integers(1, 9, 200) / 8.0,
    }


def _l1_ball(rng: Rng) -> Parts:
    """Sizes of entries, of a sum within a bound: the l1 ball (Duchi et al., ICML 2008)."""
    return {
        "x0": np.abs(rng.standard_normal(100)),
        "G": rng.integers(1, 9, (1, 100)) / 4.0,
        "h": np.array([16.0]),
        "lb": np.zeros(100),
    }


def _birkhoff(n: int, *, ties: bool = False) -> Builder:
    """Doubly stochastic matrices; one row of sums follows from the others."""

    def build(rng: Rng) -> Parts:
        own = np.kron(np.eye(n), np.ones((1, n))), np.kron(np.ones((1, n)), np.eye(n))
        x0 = rng.integers(-2, 3, n * n) / 8.0 if ties else rng.standard_normal(n * n)
        return {
            "x0": x0,
            "A": np.concatenate(own),
            "b": np.ones(2 * n),
            "lb": np.zeros(n * n),
        }

    return build


def _box(rng: Rng) -> Parts:
    """Bounds alone, some of them infinite, some equal."""
    lower = rng.integers(-4, 1, 50) / 4.0
    upper = lower + rng.integers(0, 5, 50) / 4.0
    upper[::7] = np.inf
    lower[::5] = -np.inf
    return {"x0": rng.standard_normal(50), "lb": lower, "ub": upper}


def _half_space(rng: Rng) -> Parts:
    """One inequality and no bound."""
    return {
        "x0": rng.standard_normal(20),
        "G": rng.integers(-3, 4, (1, 20)) * 1.0,
        "h": -np.ones(1),
    }


def _vertex(_: Rng) -> Parts:
    """A vertex in which twelve faces of three dimensions meet."""
    turn = np.arange(12)
    G = np.stack([np.round(np.cos(turn) * 8), np.round(np.sin(turn) * 8), np.full(12, 4.0)], 1)
    return {"x0": np.array([0.125, -0.25, 3.0]), "G": G, "h": np.zeros(12)}


def _redundant(rng: Rng) -> Parts:
    """Inequalities twice, scaled, implied and parallel, beside a redundant equation."""
    A = rng.integers(-2, 3, (2, 9)) * 1.0
    G = rng.integers(-2, 3, (3, 9)) * 1.0
    inside = rng.integers(0, 3, 9) * 1.0
    return {
        "x0": 3 * rng.standard_normal(9),
        "A": np.concatenate([A, A[:1] + A[1:]]),
        "b": np.concatenate([A, A[:1] + A[1:]]) @ inside,
        "G": np.concatenate([G, 2 * G, G[:1], G[:1] + G[1:2]]),
        "h": np.concatenate([G, 2 * G, G[:1], G[:1] + G[1:2]]) @ inside
        + np.array([0, 1, 2, 0, 2, 4, 5, 1.0]),
        "lb": np.zeros(9),
    }


def _polyhedron(m: int, p: int, n: int) -> Builder:
    """Integer equations, inequalities and bounds around a point of the set."""

    def build(rng: Rng) -> Parts:
        A, G = rng.integers(-3, 4, (m, n)) * 1.0, rng.integers(-3, 4, (p, n)) * 1.0
        inside = rng.integers(0, 4, n) * 0.5
        return {
            "x0": 2 * rng.standard_normal(n),
            "A": A,
            "b": A @ inside,
            "G": G,
            "h": G @ inside + rng.integers(0, 3, p),
            "lb": np.zeros(n),
            "ub": np.full(n, 2.0),
        }

    return build


def _portfolio(rng: Rng) -> Parts:
    """Weights with a cap, a limit on two groups, and no exposure to three factors."""
    n = 40
    exposure = rng.integers(-8, 9, (3, n)) / 8.0
    exposure[:, 0::2] = -exposure[:, 1::2]  # even weights are feasible
    groups = np.zeros((2, n))
    groups[0, :10], groups[1, 15:30] = 1, 1
    return {
        "x0": rng.standard_normal(n) / 4,
        "A": np.concatenate([np.ones((1, n)), exposure]),
        "b": np.array([1.0, 0, 0, 0]),
        "G": groups,
        "h": np.array([0.375, 0.5]),
        "lb": np.zeros(n),
        "ub": np.full(n, 0.125),
    }


def _empty_sum(rng: Rng) -> Parts:
    """Upper bounds that do not add up to the right side: by 2⁻³⁰."""
    return {
        "x0": rng.standard_normal(8),
        "A": np.ones((1, 8)),
        "b": np.array([2.0 + 2.0**-30]),
        "lb": np.zeros(8),
        "ub": np.full(8, 0.25),
        "empty": True,
    }


def _empty_rows(rng: Rng) -> Parts:
    """Three inequalities whose sum says 0 ≤ −1."""
    rows = rng.integers(-3, 4, (2, 6)) * 1.0
    G = np.concatenate([rows, -rows.sum(0, keepdims=True)])
    return {"x0": rng.standard_normal(6), "G": G, "h": np.array([1.0, 1.0, -3.0]), "empty": True}


BUILDERS: dict[str, Builder] = {
    **{f"simplex_{n}": _simplex(n) for n in (1, 2, 3, 10, 100, 1000, 10_000)},
    "simplex_ties": _ties,
    "simplex_all_tied": _all_tied,
    "simplex_inside": _inside,
    "simplex_one_point": _one_point,
    "simplex_nearly_empty": _nearly_empty,
    "simplex_capped": _capped,
    "l1_ball": _l1_ball,
    "birkhoff_4": _birkhoff(4),
    "birkhoff_12": _birkhoff(12),
    "birkhoff_ties": _birkhoff(8, ties=True),
    "box": _box,
    "half_space": _half_space,
    "vertex": _vertex,
    "redundant": _redundant,
    **{
        f"polyhedron_{m}_{p}_{n}": _polyhedron(m, p, n)
        for m, p, n in ((1, 2, 4), (2, 4, 8), (5, 10, 20), (10, 20, 40), (0, 12, 6))
    },
    "portfolio": _portfolio,
    "empty_sum": _empty_sum,
    "empty_rows": _empty_rows,
}
LARGE = {f"simplex_{n}": _simplex(n) for n in (100_000, 1_000_000)}
"""Beyond the quick profile."""

QUICK_ENTRIES, MOST_ENTRIES = 20_000, 2_000_000
"""Entries of a real system, as a dense matrix, up to which a profile offers it."""


def names(*, quick: bool) -> tuple[str, ...]:
    """The problems of a profile."""
    systems = tuple(
        f"{kind}_{name}" for name in _systems(quick=quick) for kind in ("nonneg", "box")
    )
    made = BUILDERS if quick else {**BUILDERS, **LARGE}
    return tuple(f"bounds_{name}" for name in (*made, *systems))


def _systems(*, quick: bool) -> Iterator[str]:
    most = QUICK_ENTRIES if quick else MOST_ENTRIES
    for name, row in real.index().items():
        if int(row["m"]) * int(row["n"]) <= most and row["consistent"] == "yes":
            yield name


@cache
def build(name: str) -> BoundedProblem:
    """The problem of a name; its seed depends on nothing else."""
    rng = np.random.default_rng(seed_of(name))
    short = name.removeprefix("bounds_")
    kind, _, system = short.partition("_")
    made = {**BUILDERS, **LARGE}
    parts = made[short](rng) if short in made else _real(system, kind, rng)
    return BoundedProblem(name, **{key: value for key, value in parts.items() if _is_there(value)})  # type: ignore[arg-type]  # by name


def _is_there(value: object) -> bool:
    return not isinstance(value, np.ndarray) or value.size > 0


def _real(name: str, kind: str, rng: Rng) -> Parts:
    """A x = A x̂ for a sparse x̂ ≥ 0, half of whose entries are zero; in a box of twice its size."""
    A, _, x0 = real.load(name)
    point = np.where(rng.random(A.shape[1]) < 0.5, 0.0, np.abs(x0))
    parts: Parts = {
        "x0": rng.standard_normal(A.shape[1]) * max(1.0, float(np.abs(x0).mean())),
        "A": A.toarray(),
        "b": A @ point,
        "lb": np.zeros(A.shape[1]),
    }
    return {**parts, "ub": 2 * np.abs(x0)} if kind == "box" else parts


NAMES = names(quick=False)
"""What can be asked for."""
