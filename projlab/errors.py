"""The errors projlab raises. Each message names what is wrong, where, and what to do."""

from collections.abc import Sequence

SHOWN = 5
"""Rows that a message or a report lists before it counts the rest."""


class ProjlabError(Exception):
    """Base class of every error that projlab raises on purpose."""


class InputError(ProjlabError, ValueError):
    """An argument has the wrong type, shape, dtype, device or value."""


class InconsistentError(ProjlabError):
    """No x satisfies A x = b, so the projection does not exist."""


class RankDeficientError(ProjlabError):
    """Rows are linearly dependent where the operation asked for needs them independent."""


class AccuracyError(ProjlabError):
    """No variant, or not the one asked for, is predicted to reach the accuracy asked for."""


class MemoryLimitError(ProjlabError):
    """A dense matrix that the computation needs does not fit into memory."""


def few(lines: Sequence[str], rest: str = "") -> list[str]:
    """The first few lines, and how many more there are: "and 3 more", and what `rest` says."""
    more = [f"and {len(lines) - SHOWN} more{rest}"] if len(lines) > SHOWN else []
    return [*lines[:SHOWN], *more]


def first_few(rows: Sequence[str]) -> str:
    """What is said of each row, for a message."""
    return "; ".join(few(rows, " rows"))
