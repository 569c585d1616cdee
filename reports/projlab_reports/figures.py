"""Forward error against condition number: variants and oracles as points, theory as lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from projlab_reports.summary import ANSWERS, ERROR, Summary, family

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24}

# A text in an SVG keeps its shape where the font is missing, and its bytes depend on data alone.
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "projlab",
}

# Okabe and Ito's palette, told apart with the usual colour blindnesses; markers do without colour.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SETTINGS = ("default", "tight")
"""Tolerances that a solver was asked with: default ones are drawn open, any other filled."""

TOP = 1e2
"""An answer further off than this is drawn here: it has nothing to do with x*."""


def draw(summary: Summary, folder: Path) -> list[Path]:
    """Write one figure a dtype as SVG and PNG; return the PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for dtype in ("float64", "float32"):
        frame = summary.verdicts
        frame = frame[(frame["dtype"] == dtype) & frame["forward_error"].notna()]
        frame = frame[frame["check"].isin(ANSWERS)]
        if frame.empty:
            continue
        with mpl.rc_context(STYLE):
            figure = forward_error_figure(summary, frame, dtype)
            path = folder / f"forward-error-{dtype}.png"
            figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
            figure.savefig(path, dpi=150)
        drawn.append(path)
    return drawn


def forward_error_figure(summary: Summary, frame: pd.DataFrame, dtype: str) -> Figure:
    """Draw the variants and, for float64 problems, the oracles beside them on the same axes.

    Oracles work in float64: on float32 problems they would only show how few digits those need.
    """
    panels = 2 if dtype == "float64" and summary.oracles else 1
    figure = Figure(figsize=(5.5 * panels, 5.6), layout="constrained")
    axes = figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0]
    u = UNIT_ROUNDOFF[dtype]
    for i, variant in enumerate(summary.variants):
        rows = frame[frame["variant"] == variant]
        _points(axes[0], rows, rows["forward_error"], variant, i, u, filled=True)
    whose = summary.subject or "projlab's variants"
    axes[0].set_title(f"{whose}, {dtype}")
    axes[0].set_ylabel("forward error ‖x − x*‖ / (‖x₀‖ + ‖x₀ − x*‖), dimensionless")
    if panels == 2:
        _oracles(axes[1], summary, frame.drop_duplicates(["content_hash", "check"]), u)
    for panel in axes:
        _theory(panel, frame["reference_condition"].max(), u)
        panel.set_xlabel("condition number κ₂ of the equilibrated rows, dimensionless")
        _legend(panel)
    return figure


def _oracles(axes: Axes, summary: Summary, problems: pd.DataFrame, u: float) -> None:
    """Draw every oracle's own error: a colour a solver, open points at its default tolerances."""
    families = list(dict.fromkeys(family(o) for o in summary.oracles))
    for oracle in summary.oracles:
        setting = oracle.split("_")[1]
        label = f"{family(oracle)} {setting}" if setting in SETTINGS else family(oracle)
        i, filled = families.index(family(oracle)), setting != "default"
        _points(axes, problems, problems[ERROR + oracle], label, i, u, filled=filled)
    axes.set_title("oracles")


def _legend(axes: Axes) -> None:
    """Explain each kind of point once, below the axes, where it hides none."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(
        handles.values(),
        handles.keys(),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=4,
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
