"""Oracles: independent answers to a problem, and the reference that all are held against."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from projlab_validation.oracles import ball, exact, sparse_ball, sparse_exact
from projlab_validation.oracles.answer import Answer, Reference, Vector
from projlab_validation.oracles.sparse_system import Undecided
from projlab_validation.oracles.system import FactoredSystem, equations, factor
from projlab_validation.problems import Problem

__all__ = [
    "Answer",
    "Reference",
    "extreme_singular_values",
    "rank_at_float64",
    "reference",
]

MIN_GAP = 10.0
"""Below this σ_r/σ_{r+1}, nothing separates the singular values that count from the others."""

FLOPS = 6
"""Dense factorisations take this times m² n: QR 2, singular values up to 8/3, `sigma_min` 1."""

FLOPS_PER_SECOND = 5e9
"""Of those, on a slow core: what is predicted to exceed the time limit is not begun."""

DENSE_BYTES = 8e9
"""A dense factorisation of more is not begun, whatever the time limit."""

DENSITY = 0.25
SMALL = 2**22
"""Sparse factors are tried at this density or below, on systems of more entries, zeros included."""


def reference(
    problem: Problem, *, least_squares: bool = False, time_limit: float | None = None
) -> Reference:
    """x* to some thirty digits: exact where affordable, else enclosed, else unavailable and why.

    Parameters
    ----------
    problem
        A, b and x₀, taken as exact.
    least_squares
        Answer an inconsistent system by x₀ − A_r⁺ (A x₀ − b) with the rows as given; without this
        it has no answer. A consistent system is answered as such all the same.
    time_limit
        Seconds after which to give up; None for never.
    """
    deadline = np.inf if time_limit is None else time.monotonic() + time_limit
    eps = float(np.finfo(problem.dtype).eps)
    E, f = equations(problem, equilibrate=True)
    m, n = E.shape
    if m == 0:
        return _unconstrained(problem, least_squares)
    doubt, found = "", None
    if _is_sparse(E):
        try:
            found = _by_sparse_factors(problem, E, f, eps, least_squares, deadline)
        except (Undecided, ArithmeticError) as reason:
            doubt = f"; through sparse factors: {reason}"
        except TimeoutError as reason:
            return _unavailable(problem, str(reason))
    if found is not None and found.kind != "high precision":
        return found
    flops = FLOPS * m * m * n
    if max(8 * m * n, 8 * m * m) > DENSE_BYTES or (
        time_limit is not None and flops > (deadline - time.monotonic()) * FLOPS_PER_SECOND
    ):
        return found or _unavailable(
            problem,
            f"{m} x {n}: {flops:.1e} flops of dense factorisation"
            f"{'' if time_limit is None else f' for {time_limit:g} s'}{doubt}",
        )
    return _by_dense_factors(problem, E, f, eps, least_squares, deadline)


def _by_sparse_factors(
    problem: Problem,
    E: sp.csr_array,
    f: Vector,
    eps: float,
    least_squares: bool,
    deadline: float,
) -> Reference:
    """x* without anything dense; `Undecided` where that does not tell."""
    decided = sparse_ball.decide(E, f, problem.x0, eps, deadline)
    if decided.gap < MIN_GAP:
        raise Undecided(f"σ_r/σ_(r+1) may be {decided.gap:.1f} at r = {decided.system.rank}")
    system = decided.system
    ambiguous = system.ambiguous(float(decided.dependence.N))
    consistent = system.consistent and not _impossible_row(problem)

    def unavailable(reason: str) -> Reference:
        return replace(
            _unavailable(problem, reason),
            rank=system.rank,
            condition=system.condition,
            ambiguous=ambiguous,
            consistent=consistent,
        )

    if not (consistent or least_squares):
        return unavailable("inconsistent")
    try:
        if consistent:
            return sparse_exact.solve(decided) or sparse_ball.enclose(decided, deadline)
        A, b = equations(problem, equilibrate=False)
        compromise = sparse_ball.enclose_as_given(decided, A, b, deadline)
        return replace(compromise, ambiguous=ambiguous, consistent=False)
    except TimeoutError as reason:
        return unavailable(str(reason))


def _by_dense_factors(
    problem: Problem,
    E: sp.csr_array,
    f: Vector,
    eps: float,
    least_squares: bool,
    deadline: float,
) -> Reference:
    """x* by the singular values of E, and its QR factorisation."""
    system = factor(E, f, problem.x0, eps)
    if system.gap < MIN_GAP:
        return _unavailable(
            problem, f"no honest rank: σ_r/σ_(r+1) = {system.gap:.1f} at r = {system.rank}", system
        )
    consistent = system.consistent and not _impossible_row(problem)
    if not (consistent or least_squares):
        return _unavailable(problem, "inconsistent", system)
    try:
        if consistent:
            rational = exact.solve(system) if E.shape[0] <= exact.MAX_ROWS else None
            return rational or ball.enclose(system, deadline)
        A, b = equations(problem, equilibrate=False)
        compromise = ball.enclose(factor(A, b, problem.x0, eps, rank=system.rank), deadline)
        return replace(compromise, ambiguous=_ambiguous(system), consistent=False)
    except (TimeoutError, ArithmeticError) as reason:
        return _unavailable(problem, str(reason), system)


def _is_sparse(E: sp.csr_array) -> bool:
    """Whether sparse factors are tried first: the smallest are exact sooner when dense."""
    m, n = E.shape
    return bool((m > exact.MAX_ROWS or m * n > SMALL) and E.nnz <= DENSITY * m * n)


def rank_at_float64(problem: Problem) -> int:
    """Return the numerical rank that a problem of any dtype has for whoever works in float64."""
    E, f = equations(problem, equilibrate=True)
    eps = float(np.finfo(np.float64).eps)
    if not E.shape[0]:
        return 0
    if _is_sparse(E):
        with contextlib.suppress(Undecided):
            return sparse_ball.decide(E, f, problem.x0, eps, np.inf).system.rank
    return factor(E, f, problem.x0, eps).rank


def extreme_singular_values(problem: Problem, rank: int) -> tuple[float, float] | None:
    """σ_r and σ₁ of the rows as given, through sparse factors; None where these do not tell."""
    E, f = equations(problem, equilibrate=True)
    eps = float(np.finfo(problem.dtype).eps)
    try:
        system = sparse_ball.decide(E, f, problem.x0, eps, np.inf).system
        if system.rank != rank:
            return None
        system = system.rows_as_given(*equations(problem, equilibrate=False))
    except Undecided:
        return None
    return system.smallest, system.largest


def _impossible_row(problem: Problem) -> bool:
    """Whether some row reads 0 = b with b ≠ 0."""
    return bool(np.any(problem.b[np.diff(problem.csr().indptr) == 0]))


def _ambiguous(system: FactoredSystem) -> bool:
    """Whether the rank is ambiguous as far as float64's SVD can tell."""
    rest = system.singular_values[system.rank :]
    return system.ambiguous(float(np.max(rest, initial=0.0)))


def _unconstrained(problem: Problem, least_squares: bool) -> Reference:
    """Where every row of A is zero, x* = x₀, unless some row reads 0 = b with b ≠ 0."""
    consistent = not _impossible_row(problem)
    if not (consistent or least_squares):
        return replace(_unavailable(problem, "inconsistent"), rank=0, consistent=False)
    return Reference("exact", problem.x0, np.zeros(problem.n), 0.0, 0, 1.0, False, consistent)


def _unavailable(problem: Problem, reason: str, system: FactoredSystem | None = None) -> Reference:
    """No x*; the rest as float64 sees it, or the source where nothing was factored."""
    nothing = np.full(problem.n, np.nan)
    unknown = Reference(
        "unavailable", nothing, nothing, np.inf, -1, np.nan, False, problem.consistent, reason
    )
    if system is None:
        return unknown
    return replace(
        unknown,
        rank=system.rank,
        condition=system.condition,
        ambiguous=_ambiguous(system),
        consistent=system.consistent and not _impossible_row(problem),
    )
