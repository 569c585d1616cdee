"""How figures are written, the same in the terminal and in Markdown, and the unit u of some."""

from __future__ import annotations

import math

MISSING = "–"

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24}
"""u of each dtype that is measured: `projlab.tolerance`, which has it too, imports torch."""


def figure(value: float) -> str:
    """Write a dimensionless figure with two digits."""
    if math.isnan(value):
        return MISSING
    return f"{value:.2g}"


def error(value: float) -> str:
    """Write a forward error or a condition number with one digit and its exponent."""
    return MISSING if math.isnan(value) else f"{value:.0e}"


def digits(value: float) -> str:
    """Write a forward error as decimal digits right, −log₁₀ of it."""
    if math.isnan(value):
        return MISSING
    return "all" if value == 0 else f"{max(0.0, -math.log10(value)):.1f}"


def integer(value: float) -> str:
    """Write a whole number that a frame may hold as a float."""
    return MISSING if math.isnan(value) else f"{value:.0f}"


def duration(seconds: float) -> str:
    """Write seconds in the unit that fits."""
    if math.isnan(seconds):
        return MISSING
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def size(count: float) -> str:
    """Write bytes in the unit that fits."""
    if math.isnan(count):
        return MISSING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"
