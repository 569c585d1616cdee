"""A run's table and verdict at the terminal."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from projlab_reports import terminal
from tests.reports.runs import BASE, summary_of


def shown(summary, width=80):
    console = Console(file=io.StringIO(), width=width)
    terminal.show(summary, Path("runs/quick/report.md"), console)
    return console.file.getvalue()


def test_the_table_names_every_variant_and_count_on_eighty_columns(summary):
    text = shown(summary)
    assert "…" not in text.split("fail pinv")[0]
    (qr,) = [line.split() for line in text.splitlines() if line.strip().startswith("qr")]
    assert qr[:5] == ["qr", "2", "1", "1", "0"]


@pytest.mark.parametrize("width", [80, 40])
def test_no_figure_is_cut_off(width):
    """With the longest name and figures that there are; on eighty columns each row is a line."""
    records = [
        replace(BASE, variant=v, computed_by=v, setup_s_median=1.23e-3, project_s_median=4.56e-6,
                problem=f"p{i}", content_hash=f"h{i}", forward_error=123e-14)
        for v in ("sparse_cholesky", "iterative") for i in range(10)
    ]  # fmt: skip
    summary = summary_of(*records)
    text = shown(summary, width)
    assert "…" not in text
    table = text.split("Every check held")[0].splitlines()
    assert max(map(len, table)) <= 78  # and two digits more of what passed
    (row,) = [line.split() for line in text.splitlines() if "sparse_cholesky" in line]
    assert row[-4:] == ["1.23", "ms", "4.56", "µs"]


def test_the_end_is_the_verdict_and_the_way_to_the_report(summary):
    lines = shown(summary).splitlines()
    assert lines[-2] == summary.headline
    assert lines[-1] == "Report: runs/quick/report.md"


def test_a_command_stays_on_one_line_to_be_copied(summary):
    assert summary.failures["reproduce"].iloc[0] in shown(summary, width=60)
