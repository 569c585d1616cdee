"""Numbers as text, taken whole or not at all.

C's `strtod`, under many readers, takes "1,5" for 1, "abc" for 0 and Fortran's "1.5D+03" for 1.5;
Python's `float` takes "1_000". Here a token is a decimal number from its first character to its
last, Fortran's exponents D and d among them, and is rounded to the nearest float64.
"""

from __future__ import annotations

import re

PATTERN = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eEdD][+-]?[0-9]+)?"
_NUMBER = re.compile(PATTERN)
_FORTRAN = str.maketrans("dD", "ee")


def number(token: str) -> float:
    """The value of a decimal number, or of one of the words for NaN and infinity.

    Raises
    ------
    ValueError
        The token is neither.
    """
    if "_" not in token and token.isascii():  # else Python takes more than decimal numbers
        try:
            return float(token)
        except ValueError:
            if _NUMBER.fullmatch(token):
                return float(token.translate(_FORTRAN))
    raise ValueError(token)


def is_number(token: str) -> bool:
    """Whether `number` takes it."""
    try:
        number(token)
    except ValueError:
        return False
    return True


def why_not(token: str) -> str:
    """A remedy for a token that is no number, "" where none is known."""
    if re.fullmatch(r"[+-]?[0-9]+,[0-9]+(?:[eEdD][+-]?[0-9]+)?", token):
        return " (a decimal point, no comma)"
    return ""
