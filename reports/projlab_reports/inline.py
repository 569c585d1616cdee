"""Figures as SVG inside a page: they take the page's own colours and refer to nothing outside."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from projlab_reports.figures import STYLE, laid_out

INK = "#123456"
"""Stands for the page's text colour, light or dark, in what matplotlib writes."""

PAGE_STYLE: Any = {
    **STYLE,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
    "svg.fonttype": "none",
    "svg.hashsalt": "projlab",  # ids depend on data alone
}

DARK = ("#000000", "#595959")
"""Inks of the figures for paper that a dark page would hide."""


SIZE = (4.9, 4.6)
"""Inches: a picture of this width is readable on a phone, and two stand side by side elsewhere."""


@dataclass(frozen=True)
class Chart:
    """One picture, for a page and for the folder of figures.

    Attributes
    ----------
    name
        What it shows, in a few words, for those who do not see it.
    key
        Makes its ids the only ones of the page, and its file the only one of the folder.
    draw
        Draws it.
    """

    name: str
    key: str
    draw: Callable[[Axes], None]

    @property
    def svg(self) -> Markup:
        """The picture inside a page."""
        with mpl.rc_context(PAGE_STYLE):
            drawn = svg(self._figure(), f"{self.key}-")
        return Markup(drawn)  # noqa: S704  matplotlib's own, its texts escaped by matplotlib

    def save(self, folder: Path) -> Path:
        """Write it as PNG into a folder; return the file's path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.key}.png"
        with mpl.rc_context(STYLE):
            self._figure().savefig(path, dpi=150)
        return path

    def _figure(self) -> Figure:
        figure = Figure(figsize=SIZE, layout="constrained")
        self.draw(figure.subplots())
        laid_out(figure)
        return figure


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
