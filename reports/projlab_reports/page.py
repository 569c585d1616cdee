"""A run as one self-contained page of HTML."""

from __future__ import annotations

import re
from typing import NamedTuple

import jinja2
import pandas as pd

from projlab_reports import bounded, charts, pareto, profiles, rendering, tables, units
from projlab_reports.summary import VERDICTS, Summary

NAME = "report.html"

BRIEF = (
    "cpu",
    "device",
    "GPU",
    "cores",
    "threads per worker",
    "BLAS of numpy",
    "TF32",
    "torch",
    "commit",
)
"""What of the environment is shown unfolded."""

LONG_TEXT = 40
"""Characters from which a cell breaks into lines."""

COUNTS = re.compile(r"\d+ / (\d+) / (\d+)")


class TableCell(NamedTuple):
    """A cell's text and how it is shown."""

    text: str
    style: str


def render(summary: Summary) -> str:
    """Return the page."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            s=summary,
            brief=BRIEF,
            groups=tables.groups(summary.verdicts),
            errors=charts.forward_errors(summary),
            error_numbers={
                d: charts.forward_error_numbers(summary, d) for d in units.UNIT_ROUNDOFF
            },
            performance=charts.performance(summary),
            performance_numbers={
                what: profiles.shown(times)
                for what in profiles.TIMES
                if not (times := profiles.seconds(summary.verdicts, what)).empty
            },
            means=profiles.means(summary.verdicts),
            shift=profiles.SHIFT,
            pareto=charts.pareto(summary),
            pareto_numbers=pareto.numbers(summary),
            drift=charts.drift(summary),
            bounds=charts.bounds(summary),
            bounds_numbers=bounded.shown(summary),
            training=charts.training(summary),
        )
    )


def environment() -> jinja2.Environment:
    """Return what every page is rendered in: whatever was measured is shown, and never run."""
    return rendering.environment(html=True, cells=cells)


def cells(frame: pd.DataFrame) -> list[list[TableCell]]:
    """Return a frame's cells row by row."""
    names = [str(column) for column in frame.columns]
    return [
        [_cell(name, value) for name, value in zip(names, row, strict=True)]
        for row in frame.itertuples(index=False)
    ]


def _cell(column: str, value: object) -> TableCell:
    text = units.figure(value) if isinstance(value, float) else str(value)
    if column in VERDICTS:
        return TableCell(text, column if text != "0" else "none")
    if column == "verdict" and text in VERDICTS:
        return TableCell(text, text)
    if counts := COUNTS.fullmatch(text):
        expected, failed = (int(count) for count in counts.groups())
        return TableCell(text, "fail" if failed else "expected" if expected else "pass")
    if isinstance(value, str) and len(text) > LONG_TEXT:
        return TableCell(text, "text")
    return TableCell(text, "")
