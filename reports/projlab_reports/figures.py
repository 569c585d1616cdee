"""Forward error against condition number: variants and oracles as points, theory as lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from projlab_reports.summary import ANSWERS, ERROR, Summary, family
from projlab_reports.tables import peer_name
from projlab_reports.units import UNIT_ROUNDOFF

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

# Okabe and Ito's palette, told apart with the usual colour blindnesses; markers do without colour.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SETTINGS = ("default", "tight")
"""Tolerances that a solver was asked with: default ones are drawn open, any other filled."""

Y_LABEL = "forward error ‖x − x*‖ / (‖x₀‖ + ‖x₀ − x*‖), dimensionless"

Panel = Callable[[Axes, Summary, pd.DataFrame, str], None]

WIDE = 1e3
"""A logarithmic axis that spans more has ticks at powers of ten alone."""

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

TOP = 1e2
"""An answer further off than this is drawn here: it has nothing to do with x*."""


def draw(summary: Summary, folder: Path) -> list[Path]:
    """Write one figure a dtype as PNG; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for dtype in UNIT_ROUNDOFF:
        frame = points(summary, dtype)
        if frame.empty:
            continue
        with mpl.rc_context(STYLE):
            figure = forward_error_figure(summary, frame, dtype)
            path = folder / f"forward-error-{dtype}.png"
            figure.savefig(path, dpi=150)
        drawn.append(path)
    return drawn


def points(summary: Summary, dtype: str) -> pd.DataFrame:
    """Return the records that stand in the picture."""
    frame = summary.verdicts
    frame = frame[(frame["dtype"] == dtype) & frame["forward_error"].notna()]
    return frame[frame["check"].isin(ANSWERS)]


def forward_error_figure(summary: Summary, frame: pd.DataFrame, dtype: str) -> Figure:
    """Draw the variants and, for float64 problems, the oracles beside them on the same axes.

    Oracles work in float64: on float32 problems they would only show how few digits those need.
    """
    panels: list[Panel] = [variants_panel]
    if dtype == "float64" and summary.oracles:
        panels.append(oracles_panel)
    figure = Figure(figsize=(5.5 * len(panels), 5.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for panel, on in zip(panels, axes, strict=True):
        panel(on, summary, frame, dtype)
    axes[0].set_ylabel(Y_LABEL)
    laid_out(figure)
    return figure


def laid_out(figure: Figure) -> None:
    """Find the layout now and keep it: matplotlib would do so twice each time it saves."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                axis.set_major_formatter(power)
                low, high = axis.get_view_interval()
                if high > WIDE * low:
                    axis.set_minor_locator(NullLocator())
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def power(value: float, _position: float) -> str:
    """Write a power of ten as plain text: matplotlib sets each as a formula, for most of its time.

    Logarithmic axes have their larger ticks there; a number that is none is written as it is.
    """
    exponent = round(math.log10(value)) if value > 0 else 0
    if not math.isclose(value, 10.0**exponent):
        return f"{value:g}"
    return "10" + str(exponent).translate(RAISED)


def variants_panel(axes: Axes, summary: Summary, frame: pd.DataFrame, dtype: str) -> None:
    """Draw the variants' own forward errors."""
    u = UNIT_ROUNDOFF[dtype]
    for i, variant in enumerate(summary.variants):
        rows = frame[frame["variant"] == variant]
        _points(axes, rows, rows["forward_error"], variant, i, u, filled=True)
    whose = summary.subject or "projlab's variants"
    axes.set_title(f"{whose}, {dtype}")
    _explain(axes, frame, u)


def oracles_panel(axes: Axes, summary: Summary, frame: pd.DataFrame, dtype: str) -> None:
    """Draw every oracle's own error: a colour a solver, open points at its default tolerances."""
    u = UNIT_ROUNDOFF[dtype]
    problems = frame.drop_duplicates(["content_hash", "check"])
    families = list(dict.fromkeys(family(o) for o in summary.oracles))
    for oracle in summary.oracles:
        setting = oracle.split("_")[1]
        label = f"{family(oracle)} {setting}" if setting in SETTINGS else family(oracle)
        i, filled = families.index(family(oracle)), setting != "default"
        _points(axes, problems, problems[ERROR + oracle], label, i, u, filled=filled)
    axes.set_title("oracles")
    _explain(axes, frame, u)


def peers_panel(axes: Axes, summary: Summary, frame: pd.DataFrame, dtype: str) -> None:
    """Draw the peers' forward errors on the problems that they were given."""
    u = UNIT_ROUNDOFF[dtype]
    peers = summary.peer_verdicts
    peers = peers[(peers["dtype"] == dtype) & peers["check"].isin(ANSWERS)]
    for i, (name, rows) in enumerate(peers.groupby("variant", sort=False)):
        _points(axes, rows, rows["forward_error"], peer_name(str(name)), i, u, filled=True)
    axes.set_title(f"peers, {dtype}")
    _explain(axes, frame, u)


def _explain(axes: Axes, frame: pd.DataFrame, u: float) -> None:
    """Draw the theory over the frame's condition numbers, and say what is what."""
    _theory(axes, frame["reference_condition"].max(), u)
    axes.set_xlabel("condition number κ₂ of the equilibrated rows, dimensionless")
    legend(axes)


def categories(axes: Axes, names: Sequence[str]) -> None:
    """Give each name a line of its own, from below to above."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", color="0.55", alpha=0.25)


def legend(axes: Axes, columns: int = 4) -> None:
    """Explain each kind of point once, below the axes, where it hides none."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(
        handles.values(),
        handles.keys(),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=columns,
        frameon=False,
        fontsize=8,
    )


def _theory(axes: Axes, widest: float, u: float) -> None:
    """Draw u, κu and κ²u, and label each where it leaves the picture."""
    kappa = np.geomspace(1, max(widest, 10.0) * 3, 100)
    lines: Sequence[tuple[str, Any]] = (
        ("u", u + 0 * kappa),
        ("κu", kappa * u),
        ("κ²u", kappa**2 * u),
    )
    for (label, values), style in zip(lines, ("-", "--", ":"), strict=True):
        inside = values <= TOP
        axes.plot(kappa[inside], values[inside], style, color="0.55", linewidth=1, zorder=1)
        axes.annotate(
            label,
            (kappa[inside][-1], values[inside][-1]),
            xytext=(2, 2),
            textcoords="offset points",
            color="0.35",
        )


def _points(
    axes: Axes,
    rows: pd.DataFrame,
    errors: pd.Series[float],
    label: str,
    index: int,
    u: float,
    *,
    filled: bool,
) -> None:
    colour = PALETTE[index % len(PALETTE)]
    # An answer that is x* to the last bit has no logarithm: it is drawn at u/100.
    heights = (errors / rows["amplification"]).clip(u / 100, TOP)
    axes.loglog(
        rows["reference_condition"],
        heights,
        MARKERS[index % len(MARKERS)],
        color=colour,
        markerfacecolor=colour if filled else "none",
        markersize=4,
        markeredgewidth=0.8,
        alpha=0.8,
        zorder=20 - index,
        label=label,
    )
