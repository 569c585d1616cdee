import io
from pathlib import Path

import pytest
from rich.console import Console

from projlab_reports import terminal, units


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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.34, "12.3 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 µs"), (float("nan"), "–")],
)
def test_durations_are_written_in_the_unit_that_fits(seconds, text):
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("error", "text"), [(0.0, "all"), (1e-14, "14.0"), (3.0, "0.0"), (float("nan"), "–")]
)
def test_digits_right_are_those_of_the_forward_error(error, text):
    assert units.digits(error) == text
