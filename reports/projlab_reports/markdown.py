"""The report of a run as Markdown, with its figures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from projlab_reports import bounded, charts, figures, pareto, profiles, rendering, tables, units
from projlab_reports.summary import Summary

FIGURES = "figures"

SECTIONS = (charts.pareto, charts.drift, charts.bounds, charts.training)
"""What is drawn beside the forward errors."""

NAME = "report.md"


def write(summary: Summary, folder: Path, name: str = NAME) -> Path:
    """Write the report and its figures into a folder; return the report's path."""
    drawn = figures.draw(summary, folder / FIGURES)
    for section in SECTIONS:
        drawn += [chart.save(folder / FIGURES) for chart in section(summary)]
    report = folder / name
    report.write_text(render(summary, [p.name for p in drawn]), encoding="utf-8")
    return report


def render(summary: Summary, drawn: list[str]) -> str:
    """Return the report's text; `drawn` are the names of PNGs in the folder of figures."""
    template = environment().get_template("report.md.j2")
    return template.render(
        s=summary,
        drawn=[f"{FIGURES}/{name}" for name in drawn],
        pareto=pareto.numbers(summary),
        groups=tables.groups(summary.verdicts),
        means=profiles.means(summary.verdicts),
        bounds_numbers=bounded.shown(summary),
        shift=profiles.SHIFT,
    )


def environment() -> jinja2.Environment:
    """Return what every text is rendered in."""
    return rendering.environment(html=False, table=table, plain=_cell)


def table(frame: pd.DataFrame) -> str:
    """Write a frame as a Markdown table; numbers to the right."""
    columns = list(frame.columns)
    right = [pd.api.types.is_numeric_dtype(frame[column]) for column in columns]
    lines = [_line(columns), _line("---:" if r else "---" for r in right)]
    lines += [_line(row) for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def _line(cells: Any) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: object) -> str:
    text = units.figure(value) if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
