"""x* of a projection onto a polyhedron: an active set, verified in rational arithmetic.

A candidate says which variables sit on a bound and which inequalities are active; where it comes
from does not matter, because everything that makes it right is checked in rationals: the projection
onto its face, every row and bound of the set (primal feasibility), and the multipliers' signs on
active rows alone (dual feasibility and complementarity). Of one row with bounds nothing is guessed:
the multiplier is found among the sorted breakpoints, in integers.

Floats are taken as exact. Candidates come from the answers that are there, rounded to a face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from flint import fmpq, fmpq_mat
from numpy.typing import NDArray
from scipy.optimize import linprog

from projlab_validation.bounds.problems import BoundedProblem
from projlab_validation.norms import norm

Vector = NDArray[np.float64]

MAX_ROWS, MAX_ENTRIES = 40, 6000
"""Active rows and entries of a system that is solved in rationals: m⁴ operations and more."""

NEAR = (0.0, 1e-12, 1e-9, 1e-7, 1e-5)
"""How near a bound a candidate's entry may be to count as on it, relative to its largest one."""


ZERO = 1e-12
"""Of ‖x₀‖: an x that is no larger is judged on the scale of x₀."""

FEW = 16
"""Generators of a normal cone beyond which membership is not decided in rationals."""


@dataclass(frozen=True)
class Exact:
    """x*, rounded once, and what its face is.

    Attributes
    ----------
    condition
        κ₂ of the active rows on the free variables.
    how
        "sorted" or "active set"; "certificate" for an answer that is proven to be this near.
    radius
        What x may be off by, relative to its size.
    """

    x: Vector
    condition: float
    how: str
    radius: float = 0.0


def exact(problem: BoundedProblem, candidates: Sequence[Vector]) -> Exact | None:
    """x*, or None where no candidate's face is verified."""
    if problem.empty:
        return None
    if problem.m == 0:
        return Exact(np.clip(problem.x0, *problem.box), 1.0, "sorted")
    single = problem.G is None and problem.A is not None and len(problem.A) == 1
    if single and np.all(problem.A == 1):
        found = _sorted(problem)
        if found is not None:
            return Exact(found, 1.0, "sorted")
    if problem.m > MAX_ROWS or problem.m * problem.n > MAX_ENTRIES:
        return None
    for candidate in candidates:
        if candidate.shape != problem.x0.shape or not np.isfinite(candidate).all():
            continue
        for near in NEAR:
            found_face = _verified(problem, candidate, near)
            if found_face is not None:
                return found_face
    return None


def certified(problem: BoundedProblem, x: Vector, radius: float) -> Exact:
    """An answer that a duality gap proves to be within a radius, where no face is verified."""
    lb, ub = problem.box
    free = (x > lb) & (x < ub)
    rows = [np.zeros((0, problem.n))] if problem.A is None else [problem.A]
    if problem.G is not None and problem.h is not None:
        size = np.linalg.norm(problem.G, axis=1) * norm(x) + np.abs(problem.h)
        rows.append(problem.G[problem.h - problem.G @ x <= ZERO * size])
    M = np.concatenate(rows)[:, free]
    values = np.linalg.svd(M, compute_uv=False) if M.size else np.ones(1)
    kept = values[values > max(M.shape) * np.finfo(float).eps * values[0]] if values[0] else values
    condition = float(kept[0] / kept[-1]) if len(kept) and kept[-1] else 1.0
    return Exact(x, condition, "certificate", radius)


def _sorted(problem: BoundedProblem) -> Vector | None:
    """One sum and lower bounds that are one number: Held, Wolfe and Crowder, in integers."""
    lb, ub = problem.box
    if np.isfinite(ub).any() or not np.all(lb == lb[0]) or not np.isfinite(lb[0]):
        return None
    assert problem.b is not None
    floor = Fraction(float(lb[0]))
    scale = 2 ** max(_bits(v) for v in (*problem.x0.tolist(), float(lb[0]), float(problem.b[0])))
    entries = sorted((int(Fraction(v) * scale) for v in problem.x0.tolist()), reverse=True)
    least = int(floor * scale)
    spare = int(Fraction(float(problem.b[0])) * scale) - least * problem.n
    if spare < 0:
        return None
    total, best = 0, Fraction(entries[0] - least)
    for count, value in enumerate(entries, 1):
        total += value - least
        t = Fraction(total - spare, count)
        if value - least - t <= 0:
            break
        best = t
    shift = float(best / scale), float(best / scale - Fraction(float(best / scale)))
    # x - t in two words: t is rounded to 106 bits, x once
    moved = problem.x0 - shift[0] if problem.n > 1000 else None
    if moved is None:
        t = best / scale
        return np.array([float(max(Fraction(v) - t, floor)) for v in problem.x0.tolist()])
    wide = problem.x0.astype(np.longdouble) - np.longdouble(shift[0]) - np.longdouble(shift[1])
    return np.asarray(np.maximum(wide, np.longdouble(float(lb[0]))), dtype=np.float64)


def _bits(value: float) -> int:
    return value.as_integer_ratio()[1].bit_length() - 1


def _q(value: float) -> fmpq:
    p, q = float(value).as_integer_ratio()
    return fmpq(p, q)


def _matrix(rows: Vector) -> fmpq_mat:
    m, n = rows.shape
    entries: Any = [_q(v) for v in rows.ravel().tolist()]
    made: fmpq_mat = fmpq_mat(m, n, entries)
    return made


def _column(values: Sequence[fmpq]) -> fmpq_mat:
    return fmpq_mat(len(values), 1, list(values))


def _verified(problem: BoundedProblem, candidate: Vector, near: float) -> Exact | None:
    lb, ub = problem.box
    scale = max(1.0, float(np.abs(candidate).max()))
    low = candidate - lb <= near * scale
    high = (ub - candidate <= near * scale) & ~low
    free = ~(low | high)
    A = np.zeros((0, problem.n)) if problem.A is None else problem.A
    b = np.zeros(0) if problem.b is None else problem.b
    G = np.zeros((0, problem.n)) if problem.G is None else problem.G
    h = np.zeros(0) if problem.h is None else problem.h
    active = h - G @ candidate <= near * (scale * np.abs(G).sum(1) + np.abs(h))
    M, right = np.concatenate([A, G[active]]), np.concatenate([b, h[active]])
    fixed = np.where(low, lb, np.where(high, ub, 0.0))
    x = [_q(v) for v in np.where(free, problem.x0, fixed)]
    multipliers = [fmpq(0)] * len(M)
    kept = _independent(_matrix(M[:, free])) if free.any() and len(M) else []
    if kept:
        part = _matrix(M[kept][:, free])
        rest = _matrix(M[kept]) * _column(x) - _column([_q(v) for v in right[kept]])
        try:
            y = (part * part.transpose()).solve(rest)
        except ZeroDivisionError:
            return None
        back = part.transpose() * y
        for k, j in enumerate(free.nonzero()[0].tolist()):
            x[j] = x[j] - back[k, 0]
        for k, i in enumerate(kept):
            multipliers[i] = y[k, 0]
    if not _feasible(x, (A, b), (G, h), (lb, ub)):
        return None
    face = _Face(problem.x0, x, M, len(A), free, low & (lb < ub), high)
    if not (
        face.holds(multipliers)
        or face.holds(face.inner_multipliers(kept))
        or _normal(problem, x, np.concatenate([A, -A, G[active]]), low, high)
    ):
        return None
    singular = np.linalg.svd(M[kept][:, free], compute_uv=False) if kept else np.ones(1)
    return Exact(_floats(x), float(singular[0] / singular[-1]), "active set")


@dataclass(frozen=True)
class _Face:
    """The rows M that hold with equality at x, the first of them equations, and bounds."""

    x0: Vector
    x: list[fmpq]
    M: Vector
    equations: int
    free: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any]

    def holds(self, y: list[fmpq] | None) -> bool:
        """Whether multipliers that keep x where it is free have the signs of a projection."""
        if y is None or any(v < 0 for v in y[self.equations :]):
            return False
        pull = _matrix(self.M).transpose() * _column(y) if len(y) else None
        for j in (self.low | self.high).nonzero()[0].tolist():
            w = _q(self.x0[j]) - (pull[j, 0] if pull is not None else fmpq(0))
            if (self.low[j] and w > self.x[j]) or (self.high[j] and w < self.x[j]):
                return False
        return True

    def inner_multipliers(self, kept: list[int]) -> list[fmpq] | None:
        """Of those that are not unique, ones as far from a wrong sign as they go; None for none.

        A linear program finds them in floating point; those of `kept`, independent rows, are then
        solved for exactly with the others given.
        """
        if len(kept) == len(self.M):  # they are unique
            return None
        d = self.x0 - _floats(self.x)
        unequal = np.eye(len(self.M))[self.equations :]
        rows = np.concatenate([-self.M.T[self.low], self.M.T[self.high], -unequal])
        right = np.concatenate([-d[self.low], d[self.high], np.zeros(len(unequal))])
        found = linprog(
            [0.0] * len(self.M) + [-1.0],
            np.hstack([rows, np.ones((len(rows), 1))]) if len(rows) else None,
            right if len(rows) else None,
            np.hstack([self.M.T[self.free], np.zeros((int(self.free.sum()), 1))]),
            d[self.free],
            [(None, None)] * len(self.M) + [(0.0, 1.0)],
        )
        if found.x is None:
            return None
        y = [_q(v) for v in found.x[:-1]]
        if kept:
            others = [i for i in range(len(y)) if i not in set(kept)]
            part = _matrix(self.M[kept][:, self.free])
            d_free = [_q(self.x0[j]) - self.x[j] for j in self.free.nonzero()[0].tolist()]
            left = _column(d_free)
            if others:
                given = _matrix(self.M[others][:, self.free]).transpose()
                left -= given * _column([y[i] for i in others])
            solved = (part * part.transpose()).solve(part * left)
            for k, i in enumerate(kept):
                y[i] = solved[k, 0]
        return y


def _normal(
    problem: BoundedProblem, x: list[fmpq], rows: Vector, low: NDArray[Any], high: NDArray[Any]
) -> bool:
    """Whether x₀ − x is in the cone of active rows and bounds, where multipliers are not unique.

    Lawson and Hanson, "Solving least squares problems", chapter 23, which ends after finitely many
    steps in exact arithmetic.
    """
    unit = np.eye(problem.n)
    generators = np.concatenate([rows, -unit[low], unit[high]])
    if len(generators) > FEW:
        return False
    E = _matrix(generators)
    target = _column([_q(a) - v for a, v in zip(problem.x0.tolist(), x, strict=True)])
    passive: list[int] = []
    weights = [fmpq(0)] * len(generators)
    while True:
        rest = target - E.transpose() * _column(weights)
        if all(rest[j, 0] == 0 for j in range(problem.n)):
            return True
        gains = E * rest
        best = max(
            (i for i in range(len(weights)) if i not in passive),
            key=lambda i: gains[i, 0],
            default=None,
        )
        if best is None or gains[best, 0] <= 0:
            return False
        passive.append(best)
        while passive:
            part = _matrix(generators[passive])
            solved = (part * part.transpose()).solve(part * target)
            if all(solved[k, 0] > 0 for k in range(len(passive))):
                weights = [fmpq(0)] * len(weights)
                for k, i in enumerate(passive):
                    weights[i] = solved[k, 0]
                break
            step = min(
                weights[i] / (weights[i] - solved[k, 0])
                for k, i in enumerate(passive)
                if solved[k, 0] <= 0
            )
            for k, i in enumerate(passive):
                weights[i] += step * (solved[k, 0] - weights[i])
            passive = [i for i in passive if weights[i] > 0]


def _floats(x: list[fmpq]) -> Vector:
    return np.array([int(v.p) / int(v.q) for v in x])


def _independent(M: fmpq_mat) -> list[int]:
    """Numbers of rows that span all of them."""
    reduced, rank = M.transpose().rref()
    pivots, row = [], 0
    for j in range(reduced.ncols()):
        if row < rank and reduced[row, j] != 0:
            pivots.append(j)
            row += 1
    return pivots


def _feasible(
    x: list[fmpq],
    equations: tuple[Vector, Vector],
    inequalities: tuple[Vector, Vector],
    bounds: tuple[Vector, Vector],
) -> bool:
    """Every equation, inequality and bound, exactly."""
    point = _column(x)
    for (rows, right), equal in ((equations, True), (inequalities, False)):
        if len(rows) == 0:
            continue
        values = _matrix(rows) * point
        for i, side in enumerate(right.tolist()):
            off = values[i, 0] - _q(side) if np.isfinite(side) else fmpq(-1)
            if off > 0 or (equal and off != 0):
                return False
    for v, low, high in zip(x, *(t.tolist() for t in bounds), strict=True):
        if (np.isfinite(low) and v < _q(low)) or (np.isfinite(high) and v > _q(high)):
            return False
    return True


def scale(problem: BoundedProblem, x: Vector) -> float:
    """‖x‖, or ‖x₀‖ where x is zero to rounding."""
    size, start = norm(x), norm(problem.x0)
    return size if size > ZERO * start else start or 1.0
