"""What is known of the answer to one check of one problem, and how far an outcome is from it.

Every figure is computed from the original A, b and x₀ and from the reference, with numpy and scipy;
nothing of the engine's own analysis enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from projlab_validation.norms import norm, row_norms
from projlab_validation.outcome import Outcome
from projlab_validation.record import NAN, Check, OracleFigures, Record

if TYPE_CHECKING:
    from projlab_validation.oracles import Answer, Reference
    from projlab_validation.problems import Problem

Array = np.ndarray[Any, np.dtype[Any]]

BASIS_FLOPS = 1e9
"""Stationarity is measured where a basis of the row space takes at most this (m² n)."""


DENSE_ENTRIES = 2**22
"""Entries of A, zeros included, whose norm is found by a dense SVD."""


class Truth:
    """What is known about the answer to one check of one problem, independently of projlab."""

    def __init__(
        self, problem: Problem, check: Check, reference: Reference, answers: Sequence[Answer]
    ) -> None:
        self.problem = problem
        self.check = check
        self.reference = reference
        self.answers = answers
        self.known = reference.kind != "unavailable"
        self.x0_norm = norm(problem.x0)
        self.xstar_norm = norm(reference.x_high) if self.known else NAN
        # ‖x*‖; ‖x₀‖ where x* = 0; absolute where both are 0, and nothing else is right.
        self.scale = self.xstar_norm or self.x0_norm or 1.0
        self.oracle_errors = [self.forward_error(answer.x) for answer in answers]

    def distance(self, x: Array) -> float:
        """‖x − x*‖, with x* in two words; NaN where x* is not known."""
        if not self.known:
            return NAN
        return norm((x - self.reference.x_high) - self.reference.x_low)

    def forward_error(self, x: Array | None) -> float:
        """‖x − x*‖ relative to the scale; NaN without an answer."""
        return NAN if x is None else self.distance(x) / self.scale

    def record(self, blank: Record, variant: str, outcome: Outcome) -> Record:
        """Return the figures of one outcome."""
        reference, x = self.reference, outcome.x
        record = replace(
            outcome.record(blank, variant),
            check=self.check,
            reference_kind=reference.kind,
            reference_reason=reference.reason,
            reference_radius=reference.radius,
            reference_rank=reference.rank,
            reference_condition=reference.condition,
            reference_ambiguous=reference.ambiguous,
            reference_consistent=reference.consistent,
            x0_norm=self.x0_norm,
            xstar_norm=self.xstar_norm,
            correction_norm=self.distance(self.problem.x0),
            perturbation_scale=self.perturbation_scale,
            oracles={
                answer.oracle: OracleFigures(
                    answer.status, error, answer.seconds, self.difference(x, answer.x)
                )
                for answer, error in zip(self.answers, self.oracle_errors, strict=True)
            },
        )
        if x is None:
            return record
        stationarity, reason = self.stationarity(x)
        return replace(
            record,
            x_norm=norm(x),
            forward_error=self.forward_error(x),
            feasibility=self.feasibility(x),
            stationarity=stationarity,
            stationarity_reason=reason,
        )

    def difference(self, x: Array | None, other: Array | None) -> float:
        """How far two answers are from each other, relative to the scale."""
        if x is None or other is None or not self.known:
            return NAN
        return norm(x.astype(np.float64) - other) / self.scale

    @cached_property
    def perturbation_scale(self) -> float:
        """What perturbation theory multiplies u·κ with.

        ‖x₀‖ + ‖x₀ − x*‖; in least squares the residual adds κ‖A x* − b‖/‖A‖₂ (Wedin; ASNA section
        20.1).
        """
        scale = self.x0_norm + self.distance(self.problem.x0)
        if self.check != "least_squares" or not self.known:
            return scale
        A = self.problem.csr()
        residual = norm(A @ self.reference.x_high - self.problem.b)
        return scale + self.reference.condition * residual / self.spectral_norm

    @cached_property
    def spectral_norm(self) -> float:
        """‖A‖₂, by Lanczos where A is large."""
        A = self.problem.csr()
        if A.shape[0] * A.shape[1] <= DENSE_ENTRIES:
            return float(np.linalg.norm(A.toarray(), 2))
        start = np.random.default_rng(0).standard_normal(min(A.shape))
        return float(scipy.sparse.linalg.svds(A, k=1, v0=start, return_singular_vectors=False)[0])

    def feasibility(self, x: Array) -> float:
        """The largest scaled row residual of x, see `Record`, in the longest float there is."""
        wide = np.longdouble
        A, x_wide = self.problem.csr().astype(wide), x.astype(wide)
        b = self.problem.b.astype(wide)
        if self.check == "least_squares":
            if not self.known:
                return NAN
            b = A @ (self.reference.x_high.astype(wide) + self.reference.x_low)
        size = self.row_norms.astype(wide) * (wide(norm(x)) + self.x0_norm) + np.abs(b)
        residual = np.abs(A @ x_wide - b)
        # A row whose scale is 0 holds 0 = 0 and is met exactly.
        return float(np.max(residual / np.where(size > 0, size, 1), initial=0.0))

    def stationarity(self, x: Array) -> tuple[float, str]:
        """The scaled distance of x − x₀ from the row space, or NaN and why there is none."""
        if not self.known:
            return NAN, "the rank is not known"
        m, n = self.problem.m, self.problem.n
        if m * m * n > BASIS_FLOPS:
            return NAN, (
                f"an orthonormal basis of the row space needs {m * m * n / 1e9:.3g} GFlop, "
                f"more than {BASIS_FLOPS / 1e9:.3g}"
            )
        step = x - self.problem.x0
        outside = step - self.row_basis @ (self.row_basis.T @ step)
        size = norm(x) + self.x0_norm
        return norm(outside) / (size or 1.0), ""

    @cached_property
    def row_norms(self) -> Array:
        """‖aᵢ‖₂ of the original rows."""
        return row_norms(self.problem.csr())

    @cached_property
    def row_basis(self) -> Array:
        """(n, r): an orthonormal basis of the row space, by pivoted QR of equilibrated rows."""
        A = self.problem.dense()
        norms = np.where(self.row_norms > 0, self.row_norms, 1.0)
        E = np.ldexp(A, -np.rint(np.log2(norms)).astype(int)[:, None])
        Q = scipy.linalg.qr(E.T, mode="economic", pivoting=True)[0]
        return np.asarray(Q[:, : self.reference.rank])
