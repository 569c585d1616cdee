"""A scatter plot as inline SVG that takes the page's own colours and holds no reference outside."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from projlab_reports.figures import MARKERS, PALETTE, STYLE, UNIT_ROUNDOFF

INK = "#123456"
"""Stands for the page's text colour, light or dark, in what matplotlib writes."""


@dataclass(frozen=True)
class Point:
    """One method: seconds a projection, and its forward error, or an upper bound of it."""

    name: str
    seconds: float
    error: float
    peer: bool = False
    at_most: bool = False


def svg(points: Sequence[Point], dtype: str, accuracy: float | None, *, prefix: str) -> str:
    """Draw forward error against time; `prefix` makes its ids the only ones of the page."""
    u = UNIT_ROUNDOFF[dtype]
    inks: Any = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    )
    with mpl.rc_context({**STYLE, **inks, "svg.fonttype": "none"}):
        figure = Figure(figsize=(4.8, 3.2), layout="constrained")
        axes = figure.subplots()
        for i, point in enumerate(points):
            # An answer that is x* to the last bit has no logarithm: it is drawn at u/100.
            height = max(point.error, u / 100)
            colour = PALETTE[i % (len(PALETTE) - 1)]  # the last is black, which a dark page hides
            axes.loglog(
                [point.seconds],
                [height],
                MARKERS[i % len(MARKERS)],
                color=colour,
                markerfacecolor="none" if point.peer else colour,
                markersize=7,
            )
            axes.annotate(
                f"{point.name} (at most)" if point.at_most else point.name,
                (point.seconds, height),
                xytext=(7, 5 if i % 2 else -10),
                textcoords="offset points",
                fontsize=8,
                parse_math=False,
            )
        axes.axhline(u, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate("u", (0.995, u), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        if accuracy is not None:
            axes.axhline(accuracy, color=PALETTE[1], linewidth=1, linestyle="--")
            place = (0.995, accuracy)
            axes.annotate(
                "asked for", place, xycoords=("axes fraction", "data"), ha="right", va="bottom"
            )
        axes.margins(0.25, 0.2)
        axes.set_xlabel("one projection, seconds")
        axes.set_ylabel("forward error ‖x − x*‖/‖x*‖")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), prefix)


def _inline(drawn: str, prefix: str) -> str:
    """Take from a file of SVG what stands in a page: no prolog, no names of the outside."""
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r' xmlns(:\w+)?="[^"]*"', "", drawn).replace("xlink:href", "href")
    drawn = re.sub(r'\bid="', f'id="{prefix}', drawn)
    drawn = re.sub(r'(url\(|href=")#', rf"\1#{prefix}", drawn)
    return drawn.replace(INK, "currentColor")
