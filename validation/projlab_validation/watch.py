"""What a measurement tells of itself as it goes, to whoever watches over it.

Time counts from `Asked` to `Answered` and at no other time: references and oracles have limits of
their own, and what they take is nobody's fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from projlab_validation.record import Check, Record


@dataclass(frozen=True)
class Asked:
    """A variant or subject is being asked, for this check."""

    variant: str
    check: Check


@dataclass(frozen=True)
class Answered:
    """It answered, or failed; these records stand, whatever becomes of the rest."""

    records: tuple[Record, ...] = ()


Tell = Callable[[Asked | Answered], None]


def nobody(_: Asked | Answered) -> None:
    """Nobody watches."""
