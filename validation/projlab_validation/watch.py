"""Messages of a measurement to its runner: whom it is asking for what, and what was answered.

The time limit of a record counts from `Asked` to `Answered`: references and oracles have limits of
their own, and their time is not charged to a variant.
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
    """It answered, or failed; these records are kept even if the process dies afterwards."""

    records: tuple[Record, ...] = ()


Tell = Callable[[Asked | Answered], None]


def nobody(_: Asked | Answered) -> None:
    """Send the message nowhere."""
