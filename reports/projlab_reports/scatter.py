"""A scatter plot as inline SVG that takes the page's own colours and holds no reference outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

from projlab_reports import inline
from projlab_reports.figures import MARKERS, PALETTE
from projlab_reports.inline import INK
from projlab_reports.units import UNIT_ROUNDOFF


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
    with mpl.rc_context(inline.PAGE_STYLE):
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
        return inline.svg(figure, prefix)
