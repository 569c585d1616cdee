"""Figures as SVG inside a page: they take the page's own colours and refer to nothing outside."""

from __future__ import annotations

import io
import re
from typing import Any

from matplotlib.figure import Figure

from projlab_reports.figures import STYLE

INK = "#123456"
"""Stands for the page's text colour, light or dark, in what matplotlib writes."""

PAGE_STYLE: Any = {
    **STYLE,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
    "svg.fonttype": "none",
}

DARK = ("#000000", "#595959")
"""Inks of the figures for paper that a dark page would hide."""


def svg(figure: Figure, prefix: str) -> str:
    """Return a figure drawn in `PAGE_STYLE`; `prefix` makes its ids the only ones of the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawn).replace("xlink:href", "href")
    drawn = re.sub(r'\bid="', f'id="{prefix}', drawn)
    drawn = re.sub(r'(url\(|href=")#', rf"\1#{prefix}", drawn)
    for ink in (INK, *DARK):
        drawn = drawn.replace(ink, "currentColor")
    return _shortened(drawn)


def _shortened(drawn: str) -> str:
    """Write a hundredth of a point where matplotlib writes a millionth, and a style once."""
    drawn = re.sub(r'="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), drawn)
    return re.sub(r"(<g clip-path=[^>]*)>\s*((?:<use [^>]*/>\s*){2,})</g>", _style_once, drawn)


def _style_once(group: re.Match[str]) -> str:
    styles = set(re.findall(r' style="[^"]*"', group[2]))
    if len(styles) != 1 or " style=" in group[1]:
        return group[0]
    (style,) = styles
    points = re.sub(r"\s*\n\s*", "\n", group[2].replace(style, ""))
    return f"{group[1]}{style}>\n{points}</g>"
