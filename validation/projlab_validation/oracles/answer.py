"""What an oracle returns: the solvers an `Answer`, high-precision arithmetic a `Reference`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from projlab_validation.norms import norm

Vector = NDArray[np.float64]
Kind = Literal["exact", "ball", "high precision", "unavailable"]

TWO_WORDS = 2.0**-106
"""Relative error of `two_words`, u² for float64; underflow of the low word apart."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a solver said; `x` is None where it returned no point, `status` is its own word."""

    oracle: str
    status: str
    x: Vector | None
    seconds: float


@dataclass(frozen=True, eq=False)
class Reference:
    """x* to far more digits than any dtype holds, and what is known of the system on the way.

    Attributes
    ----------
    kind
        "exact": rational arithmetic; "ball": a proven enclosure; "high precision": the same with an
        estimate in place of the proof; "unavailable": no x*, and `reason` says why.
    x_high, x_low
        x* as an unevaluated sum of two float64 vectors (n,), |x_low| at most half an ulp of x_high;
        NaN where unavailable, 0 where x* = 0 or cannot be told from it.
    radius
        Bound on ‖x_high + x_low − x*‖ / ‖x*‖ (over ‖x₀‖ where x* = 0), an estimate of it for
        "high precision", inf where unavailable.
    rank, condition
        Numerical rank r and σ₁/σ_r of the equilibrated rows; of the rows as given where they are
        answered in the least-squares sense. −1 and NaN where not even they were computed.
    ambiguous
        Whether a cutoff ten times smaller or larger would change the rank.
    consistent
        Whether the system is consistent at that rank, to rounding.
    x0_norm
        ‖x₀‖, the scale on which an answer to x* = 0 is judged.
    """

    kind: Kind
    x_high: Vector
    x_low: Vector
    radius: float
    rank: int
    condition: float
    ambiguous: bool
    consistent: bool
    reason: str = ""
    x0_norm: float = 0.0

    def forward_error(self, x: NDArray[np.floating]) -> float:
        """‖x − x*‖ / ‖x*‖; relative to ‖x₀‖ where x* = 0, absolute where both are."""
        scale = norm(self.x_high) or self.x0_norm or 1.0
        return norm((x - self.x_high) - self.x_low) / scale


def two_words(fractions: Iterable[tuple[int, int]]) -> tuple[Vector, Vector]:
    """Numerators over positive denominators as high + low, both rounded to nearest.

    Python's division of integers is correctly rounded whatever their size.
    """
    high, low = [], []
    for numerator, denominator in fractions:
        head = numerator / denominator
        p, q = head.as_integer_ratio()
        high.append(head)
        low.append((numerator * q - p * denominator) / (denominator * q))
    return np.array(high), np.array(low)
