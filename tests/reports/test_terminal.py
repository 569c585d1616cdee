"""A run's table and verdict at the terminal."""

import io
from pathlib import Path

from rich.console import Console

from projlab_reports import terminal


def shown(summary, width=80):
    console = Console(file=io.StringIO(), width=width)
    terminal.show(summary, Path("runs/quick/report.md"), console)
    return console.file.getvalue()


def test_the_table_names_every_variant_and_count_on_eighty_columns(summary):
    text = shown(summary)
    assert "…" not in text.split("fail pinv")[0]
    (qr,) = [line.split() for line in text.splitlines() if line.strip().startswith("qr")]
    assert qr[:5] == ["qr", "2", "1", "1", "0"]


def test_the_end_is_the_verdict_and_the_way_to_the_report(summary):
    lines = shown(summary).splitlines()
    assert lines[-2] == summary.headline
    assert lines[-1] == "Report: runs/quick/report.md"


def test_a_command_stays_on_one_line_to_be_copied(summary):
    assert summary.failures["reproduce"].iloc[0] in shown(summary, width=60)
