"""Equations one below the other, as one list of numbered rows."""

import bisect
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from projlab import tolerance
from projlab.training.expressions.expression import Equation
from projlab.training.expressions.labels import ParameterNames
from projlab.training.expressions.maps import largest_entries

USUAL = 20
"""Coefficients are left as they are up to two to this, and from two to minus this on."""


class StackedEquations:
    """Several equations, whose rows are numbered on from one to the next.

    Parameters
    ----------
    equations
        In this order.
    names
        Names chosen for parameters, by identity; the others get one.
    """

    def __init__(self, equations: Sequence[Equation], names: dict[int, str]) -> None:
        self.equations = tuple(equations)
        self.chosen_names = names
        self.parameters = list({id(p): p for e in equations for p in e.parameters}.values())
        """Each once, in order of appearance."""
        self.parameter_names = ParameterNames(names, self.parameters)
        self._starts = [0]
        for e in equations:
            self._starts.append(self._starts[-1] + e.rows)

    def numbered(self) -> Iterator[tuple[int, Equation]]:
        """The number of its first row, and the equation."""
        return zip(self._starts, self.equations, strict=False)

    def row_name(self, row: int) -> str:
        """As in "W0[3].sum() == 1"."""
        i = bisect.bisect_right(self._starts, row) - 1
        return self.equations[i].row_name(row - self._starts[i], self.parameter_names)

    def row_names(self, rows: Tensor) -> list[str]:
        """Names of the rows with these numbers."""
        return [self.row_name(int(row)) for row in rows.flatten()]

    def right_side(self) -> Tensor:
        """b, (rows,), float64 on the CPU."""
        return torch.cat([e.right_side() for e in self.equations])

    @cached_property
    def exponents(self) -> Tensor | None:
        """Two to these divides coefficients, (rows,), for squares to stay in range of float32.

        Zero for rows of ordinary size; None where all are. They depend on coefficients alone.
        """
        parts = [torch.zeros(0, dtype=torch.int32, device="cpu")]
        for e in self.equations:
            largest = torch.zeros(e.rows, dtype=torch.float64, device="cpu")
            for term in e.difference.terms:
                largest = torch.maximum(largest, largest_entries(term))
            exponent = torch.frexp(largest).exponent
            usual = (largest == 0) | (exponent.abs() <= USUAL) | ~torch.isfinite(largest)
            parts.append(torch.where(usual, 0, exponent))
        found = torch.cat(parts)
        return found if bool(found.any()) else None

    def b_error(self) -> Tensor | None:
        """By how much each b may be off, (rows,), float64 on the CPU; None where none may."""
        stated, rounding = self._of_each([e.b_error for e in self.equations]), self.rounding()
        if rounding is None:
            return stated
        known = tolerance.RESIDUAL_ROUNDINGS * rounding
        return known if stated is None else stated + known

    def rounding(self) -> Tensor | None:
        """What b rounds to where it is made of several constants, (rows,), as `b_error`."""
        return self._of_each([e.rounding for e in self.equations])

    def _of_each(self, parts: Sequence[Tensor | None]) -> Tensor | None:
        if all(part is None for part in parts):
            return None
        none = torch.zeros((), dtype=torch.float64, device="cpu")
        return torch.cat(
            [
                (none if part is None else part).expand(e.rows)
                for part, e in zip(parts, self.equations, strict=True)
            ]
        )
