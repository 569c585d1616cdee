"""Rows that are combinations of others, in the caller's names and units."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from projlab import tolerance
from projlab.system.constraint import AffineConstraint
from projlab.system.rank import Rank

_TERMS = 10
"""Of a combination, shown in a message."""
_SIMPLE = 100
"""Largest denominator of a coefficient that is taken for a simple fraction."""
_LARGE = 1e6
"""A coefficient from which on most fractions are near."""


@dataclass(frozen=True)
class Combination:
    """A row of A that is a linear combination of others."""

    name: str
    row: int
    """Index of the dependent row."""
    terms: tuple[tuple[str, float], ...]
    """(name, coefficient) in the caller's units; empty for a row of zeros."""
    left: float
    """b of the dependent row."""
    right: float
    """The same combination of the other rows' b."""

    @property
    def expression(self) -> str:
        """The combination, as in "2 * row 0 - row 1"; "0" for a row of zeros."""
        if not self.terms:
            return "0"
        parts = []
        for i, (name, c) in enumerate(self.terms):
            sign = "-" if c < 0 else "+" if i else ""
            size = f"{abs(c):.6g}"
            factor = "" if size == "1" else f"{size} * "
            if i == 0:
                parts.append(f"{sign}{factor}{name}")
            elif i < _TERMS:
                parts.append(f" {sign} {factor}{name}")
        hidden = len(self.terms) - _TERMS
        return "".join(parts) + (f" + {hidden} more terms" if hidden > 0 else "")

    def __str__(self) -> str:
        return f"{self.name} = {self.expression}"

    def contradiction(self) -> str:
        """The combination read with both right-hand sides."""
        if not self.terms:
            return f"{self.name} reads 0 = {self.left:.6g}"
        return (
            f"{self.name} = {self.expression} on the left, but its b is {self.left:.17g} and "
            f"the combination's is {self.right:.17g}"
        )


def combinations_of(
    constraint: AffineConstraint,
    decision: Rank,
    exponents: Tensor,
    element: int,
    positions: Iterable[int],
) -> tuple[Combination, ...]:
    """How the dropped rows at `positions` in the decision follow from the kept ones.

    Of one element of the batch, whose rows were equilibrated by `exponents` (m,).
    """
    names, e = constraint.names, exponents.tolist()
    b = (constraint.b if constraint.batch is None else constraint.b[element]).tolist()
    dropped, kept = decision.dropped.tolist(), decision.kept.tolist()
    asked = list(positions)
    which, others, weights = _loud(decision, asked)
    rows = [dropped[position] for position in asked]
    others = [kept[k] for k in others]
    terms: list[list[tuple[str, float]]] = [[] for _ in rows]
    right = [0.0] * len(rows)
    coefficients = _simplified(
        [
            _ldexp(weight, e[other] - e[rows[i]])
            for i, other, weight in zip(which, others, weights, strict=True)
        ]
    )
    for i, other, coefficient in zip(which, others, coefficients, strict=True):
        terms[i].append((names[other], coefficient))
        right[i] += coefficient * b[other]
    return tuple(
        Combination(names[row], row, tuple(terms[i]), b[row], right[i])
        for i, row in enumerate(rows)
    )


def _loud(decision: Rank, positions: Sequence[int]) -> tuple[list[int], list[int], list[float]]:
    """Of each dropped row the kept ones, with coefficients that are more than rounding.

    Which of the positions, which of the kept rows, and the coefficient.
    """
    if decision.coefficients is None:
        return [], [], []
    chosen = torch.tensor(positions, dtype=torch.long, device=decision.coefficients.device)
    C = decision.coefficients.select(chosen)
    i, k, weight = C.triplets()
    loud = weight.abs() > tolerance.COMBINATION_NOISE * C.row_max()[i]
    return i[loud].tolist(), k[loud].tolist(), weight[loud].tolist()


def _simplified(coefficients: list[float]) -> list[float]:
    """Without their rounding: most real combinations have coefficients as 1, -2 or 1/3."""
    c = np.array(coefficients)
    # to find the nearest fraction is slow: it is looked for where there is one this near at all
    near = ~(np.abs(c) < _LARGE)
    for denominator in range(1, _SIMPLE + 1):
        scaled = np.where(near, 0.5, c * denominator)
        off = np.abs(scaled - np.rint(scaled))
        near |= off <= 2 * tolerance.COMBINATION_NOISE * np.abs(scaled)
    return [
        _fraction(value) if maybe else value
        for value, maybe in zip(coefficients, near.tolist(), strict=True)
    ]


def _fraction(coefficient: float) -> float:
    """The nearest simple fraction, where it is as near as rounding; else the number itself."""
    if not math.isfinite(coefficient):
        return coefficient
    simple = float(Fraction(coefficient).limit_denominator(_SIMPLE))
    rounding = abs(coefficient - simple) < tolerance.COMBINATION_NOISE * abs(simple)
    return simple if rounding else coefficient


def _ldexp(value: float, exponent: int) -> float:
    """value * 2**exponent; infinite where no float is that large."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)
