"""The page of a comparison: whole in itself, nothing in it runs, nothing that was found is lost."""

import copy
import io
import json
import re

import pytest
from rich.console import Console

from projlab_reports import comparison
from tests.reports.parsed import Page, whole
from tests.reports.payloads import (
    ADVICE,
    CONFLICT,
    EVERYTHING,
    INCONSISTENT,
    QR,
    SCRIPT,
    SKIPPED,
    SYSTEM,
    UNKNOWN,
    payload,
)


def test_the_page_is_whole_in_itself_and_valid():
    text = comparison.render(EVERYTHING)
    page = whole(text)
    assert page.links
    assert "script" not in page.tags
    assert "#123456" not in text


def test_it_begins_with_the_verdict_and_the_recommendation():
    shown = " ".join(Page(comparison.render(payload(SYSTEM))).text)
    order = [
        "One system: every answer of a variant is within what theory promises of it.",
        "Forward error asked for: 1e-10",
        ADVICE["text"],
        ADVICE["code"],
        ADVICE["changes"][0],
        "25 of 27 rows",
        "12 of equilibrated rows; 99 of the rows as given",
        "≤ 4.4e-13",
    ]
    places = [shown.index(text) for text in order]
    assert places == sorted(places)


def test_every_line_failure_and_conflict_is_carried():
    text = " ".join(" ".join(Page(comparison.render(EVERYTHING)).text).split())
    assert "4 systems: outside what theory promises: cholesky on afiro.npz, float64." in text
    assert "cholesky: forward error 0.5, bound 1e-14" in text
    assert CONFLICT in text
    assert "sum = in" in text
    assert "predicted to take 900 s" in text
    assert "on_inconsistent=" in text
    for number in (
        "2.1e-16",
        "1.5e-17",
        "2.5e-17",
        "250 µs",
        "17 µs",
        "0.33 µs",
        "2.75 kB",
        "3 ms",
    ):
        assert number in text


def test_the_chart_names_every_point_and_takes_the_colour_of_the_page():
    text = comparison.render(payload(SYSTEM))
    (chart,) = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    for name in ("qr", "pinv (at most)", "cvxpy", "asked for", "one projection, seconds"):
        assert name in chart
    assert "currentColor" in chart
    assert len(text) < 200_000


def test_a_chart_of_one_point_is_no_chart():
    assert "<svg" not in comparison.render(payload(SYSTEM | {"lines": [QR, SKIPPED]}))
    assert "<svg" not in comparison.render(payload(UNKNOWN, exit_code=3))


@pytest.mark.parametrize("where", ["file", "note", "row", "why", "code"])
def test_what_looks_like_a_script_is_shown_and_not_run(where):
    system = copy.deepcopy(INCONSISTENT)
    match where:
        case "file" | "note":
            system[where] = f"{SCRIPT}.npz"
        case "row":
            system["system"]["conflicting"] = [f"{SCRIPT} = 0"]
            system["system"]["redundant"] = [f"{SCRIPT} = 0"]
        case "why":
            system["lines"][2]["why"] = SCRIPT
            system["lines"][0]["name"] = f"{SCRIPT}$x^2$"
        case "code":
            system["recommendation"]["code"] = SCRIPT
    page = Page(comparison.render(payload(system)))
    assert "script" not in page.tags
    assert "alert(1)" in "".join(page.text)


def test_page_and_data_are_written_whole_and_replace_the_ones_before(tmp_path):
    for content in (EVERYTHING, payload(SYSTEM)):
        path = comparison.write(content, tmp_path / "out")
        assert sorted(p.name for p in path.parent.iterdir()) == ["compare.html", "compare.json"]
        assert path.read_text(encoding="utf-8") == comparison.render(content)
        assert json.loads((path.parent / "compare.json").read_text(encoding="utf-8")) == content


def test_nothing_is_written_of_a_page_that_cannot_be_drawn(tmp_path):
    with pytest.raises(KeyError):
        comparison.write(payload({"file": "x"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def shown(content, width=120):
    console = Console(file=io.StringIO(), width=width)
    comparison.show(content, console)
    return console.file.getvalue()


def test_at_the_terminal_there_is_a_row_a_variant_and_the_line_to_paste():
    text = shown(payload(SYSTEM))
    (qr,) = [row.split() for row in text.splitlines() if row.startswith(" qr")]
    figures = "2.1e-16 exact 1.5e-17 2.5e-17 250 µs 17 µs 0.33 µs 2.75 kB 12"
    assert " ".join(qr) == f"qr {figures}"
    (pinv,) = [row for row in text.splitlines() if row.startswith(" pinv")]
    assert "≤ 4.4e-13" in pinv
    assert "cert." in pinv
    assert "skip single_row: rows overlap" in text
    assert f"    {ADVICE['code']}\n" in text
    assert "redundant rows: 2: total = in + out; sum = in" in text


def test_at_the_terminal_conflicts_and_what_is_not_known_are_named():
    assert f"conflict {CONFLICT}" in shown(payload(INCONSISTENT))
    text = shown(payload(UNKNOWN))
    assert "not known: predicted to take 900 s" in text
    assert "numerical rank" not in text


def test_on_eighty_columns_nothing_is_cut():
    assert "…" not in shown(EVERYTHING, width=80)
