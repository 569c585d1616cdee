"""Rows that are combinations of others, in the caller's names and units."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from projlab import tolerance
from projlab.system.constraint import AffineConstraint
from projlab.system.rank import Rank

_TERMS = 10
"""Of a combination, shown in a message."""
_SIMPLE = 100
"""Largest denominator of a coefficient that is taken for a simple fraction."""


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
    result = []
    for position in positions:
        row = dropped[position]
        terms, right = [], 0.0
        for k in _loud(decision, position):
            assert decision.coefficients is not None
            other, weight = kept[k], float(decision.coefficients[position, k])
            coefficient = _simplified(_ldexp(weight, e[other] - e[row]))
            terms.append((names[other], coefficient))
            right += coefficient * b[other]
        result.append(Combination(names[row], row, tuple(terms), b[row], right))
    return tuple(result)


def _loud(decision: Rank, position: int) -> list[int]:
    """Kept rows whose coefficients in a dropped one are more than rounding."""
    if decision.coefficients is None:
        return []
    size = decision.coefficients[position].abs()
    loud = (size > tolerance.COMBINATION_NOISE * size.max()).nonzero().flatten()
    return [int(k) for k in loud]


def _simplified(coefficient: float) -> float:
    """Without its rounding: most real combinations have coefficients as 1, -2 or 1/3."""
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
