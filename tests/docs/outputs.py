"""What a page shows as an output, held against what came out.

Outputs are compared word by word, numbers to a thousandth, and "…" stands for anything. Times and
sizes are the machine's own: their figures do not count, and of a table's line that holds several
nothing but its first word does. So is which of several variants is recommended for its time.
"""

import math
import re

import pytest

NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*\.?\d*(?:e[+-]?\d+)?(?![\w])")
MEASURED = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)? (?:s|ms|µs|B|kB|MB|GB)\b")
RECOMMENDED = re.compile(r'(^Use |variant=")\w+')


def tokens(text: str) -> list[str]:
    """Words and numbers, without what is the machine's own."""
    lines = []
    for line in text.splitlines():
        several = len(MEASURED.findall(line)) >= 3
        own = RECOMMENDED.sub(r"\1RECOMMENDED", MEASURED.sub("MEASURED", line))
        lines.append(line.split()[0] if several else own)
    found: list[str] = []
    for word in re.sub("─+", "─", " ".join(lines)).split():
        found += [part for part in re.split(f"({NUMBER.pattern})", word) if part]
    return found


def _same(wanted: str, printed: str) -> bool:
    if wanted == printed:
        return True
    if not (NUMBER.fullmatch(wanted) and NUMBER.fullmatch(printed)):
        return False
    a, b = (float(number.replace(",", "")) for number in (wanted, printed))
    return math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-6)


def matches(wanted: list[str], printed: list[str]) -> bool:
    """Whether the one is the other, up to "…"; the first fit of each piece is as good as any."""
    pieces: list[list[str]] = [[]]
    for word in wanted:
        if word == "…":
            pieces.append([])
        else:
            pieces[-1].append(word)

    def fits(piece: list[str], start: int) -> bool:
        there = printed[start : start + len(piece)]
        return len(there) == len(piece) and all(map(_same, piece, there))

    position = len(pieces[0])
    if not fits(pieces[0], 0):
        return False
    if len(pieces) == 1:
        return position == len(printed)
    for piece in pieces[1:-1]:
        starts = range(position, len(printed) - len(piece) + 1)
        start = next((s for s in starts if fits(piece, s)), None)
        if start is None:
            return False
        position = start + len(piece)
    last = len(printed) - len(pieces[-1])
    return last >= position and fits(pieces[-1], last)


def holds(wanted: str, printed: str) -> None:
    """Fail, showing both, unless they are the same in this sense."""
    if not matches(tokens(wanted), tokens(printed)):
        pytest.fail(f"the page shows\n{wanted}\nand this came out:\n{printed}", pytrace=False)
