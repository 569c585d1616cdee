"""The end of a run, for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from projlab_reports.piped import PipedConsole
from projlab_reports.summary import VERDICTS, Summary, rows
from projlab_reports.units import duration, figure

UNBOUNDED = 10_000
"""Columns that no table needs."""

STYLES = {"pass": "green", "expected": "yellow", "skip": "dim", "fail": "bold red"}


def show(summary: Summary, report: Path, console: Console | None = None) -> None:
    """Print the table (a subject's is one of checks), failures, verdict and report's path."""
    console = console or PipedConsole()
    if len(summary.by_variant):
        _print(checks_table(summary) if summary.subject else variants_table(summary), console)
    if len(summary.trained):
        held = summary.convex["verdict"].value_counts()
        ends = f"{held.get('pass', 0)} runs end at the constrained optimum"
        misses = f"{held.get('expected', 0)} end elsewhere, as theory says of them"
        console.print(Text(f"Training: {ends}, {misses}."), soft_wrap=True)
    for failure in rows(summary.failures):
        what = f"{failure['variant']} on {failure['problem']} in {failure['dtype']}"
        console.print(Text.assemble(("fail ", STYLES["fail"]), f"{what}: {failure['why']}"))
        console.print(Text(f"     {failure['reproduce']}"), soft_wrap=True)
    console.print(Text(summary.headline, style="bold"), soft_wrap=True)
    console.print(Text(f"Report: {report}"), soft_wrap=True)


def _print(table: Table, console: Console) -> None:
    """Print a table in full: a narrow terminal wraps its lines rather than lose a figure."""
    unbounded = console.options.update(width=UNBOUNDED)
    width = console.width
    console.width = max(width, console.measure(table, options=unbounded).maximum)
    console.print(table)
    console.width = width


def checks_table(summary: Summary) -> Table:
    """Return one row a check of the subject."""
    title = f"projlab validate, {summary.header['profile']} profile, {summary.subject}"
    table = _table(title, "check", "of bound")
    for row in rows(summary.by_check):
        table.add_row(row["check"], *_counts(row), figure(row["worst of bound"]))
    return table


def variants_table(summary: Summary) -> Table:
    """Return one row a variant."""
    title = f"projlab validate, {summary.header['profile']} profile"
    table = _table(title, "variant", "worst,\nκu", "of\nbound", "set-up", "project")
    for row in rows(summary.by_variant):
        table.add_row(
            row["variant"],
            *_counts(row),
            figure(row["worst units of κu"]),
            figure(row["worst of bound"]),
            duration(row["median set-up, s"]),
            duration(row["median projection, s"]),
        )
    return table


def _table(title: str, first: str, *figures: str) -> Table:
    """Return a table without rows: what a row is about, its verdicts counted, its figures."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    table.add_column(first, no_wrap=True)
    for heading in (*VERDICTS, *figures):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _counts(row: Mapping[str, Any]) -> list[Text]:
    return [Text(str(row[v]), style=STYLES[v] if row[v] else "dim") for v in VERDICTS]
