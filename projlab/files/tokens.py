"""Numbers as text, taken whole or not at all.

C's `strtod`, under many readers, takes "1,5" for 1, "abc" for 0 and Fortran's "1.5D+03" for 1.5;
Python's `float` takes "1_000". Here a token is a decimal number from its first character to its
last, Fortran's exponents D and d among them, and is rounded to the nearest float64; one that would
vanish there is none.
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
        The token is neither, or float64 has nothing as small but zero.
    """
    if "_" in token or not token.isascii():  # Python takes more than decimal numbers
        raise ValueError(token)
    try:
        value = float(token)
    except ValueError:
        if not _NUMBER.fullmatch(token):
            raise
        value = float(token.translate(_FORTRAN))
    if value == 0 and vanishes(token):
        raise ValueError(token)
    return value


def vanishes(token: str) -> bool:
    """Whether float64 rounds a decimal number to zero that is none."""
    digits = re.split("[eEdD]", token)[0]
    return re.search("[1-9]", digits) is not None and float(token.translate(_FORTRAN)) == 0


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
    if _NUMBER.fullmatch(token) and vanishes(token):
        return " (in float64 it would be 0)"
    return ""
