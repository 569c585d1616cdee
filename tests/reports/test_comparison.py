"""The page of a comparison: whole in itself, nothing in it runs, nothing that was found is lost."""

import copy
import io
import json
import re

import pytest
from rich.console import Console

from projlab_reports import comparison
from tests.reports.parsed import Page, whole, words
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


ROW = "2.1e-16 exact 1.5e-17 2.5e-17 250 µs 17 µs 0.33 µs 2.75 kB 12"


def shown(content, width=120):
    console = Console(file=io.StringIO(), width=width)
    comparison.show(content, console)
    return console.file.getvalue()


def test_at_the_terminal_there_is_a_row_a_variant_and_the_line_to_paste():
    text = shown(payload(SYSTEM))
    (qr,) = [row.split() for row in text.splitlines() if row.startswith(" qr")]
    assert " ".join(qr) == f"qr {ROW}"
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


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_on_any_width_no_number_is_cut_or_broken(width):
    text = shown(EVERYTHING, width)
    assert "…" not in text
    (qr, *_), figures = shown(payload(SYSTEM), width).split(ADVICE["text"][:6]), ROW
    rows = [line for line in qr.splitlines() if line.startswith(" qr ")]
    assert " ".join(" ".join(row.split()[1:]) for row in rows) == figures
    assert all(len(line) <= width for line in qr.splitlines() if line.startswith((" qr", " pinv")))


def test_words_of_the_table_are_explained_where_they_stand_and_no_others_are():
    plain = " ".join(shown(payload(SYSTEM)).split())
    assert "pays from: from so many projections on" in plain
    assert "exact: x* in rational arithmetic" in plain
    assert "cert.: a bound that is proven without x*" in plain
    assert "ball:" not in plain
    assert "κu: condition number" not in plain
    said = ADVICE | {"text": "No variant reaches 1e-17 here: κu is 1e-15."}
    ball = SYSTEM | {"lines": [QR | {"judged_by": "ball"}], "recommendation": said}
    enclosed = " ".join(shown(payload(ball)).split())
    assert "ball: a ball that is proven to hold x*" in enclosed
    assert "κu: condition number times unit roundoff" in enclosed
    page = words(Page(comparison.render(payload(ball))))
    assert "ball: a ball that is proven to hold x*" in page
    assert "κu: condition number times unit roundoff" in page


def test_a_long_combination_is_cut_after_a_term_and_not_dropped():
    long = "row 9 = " + " + ".join(f"{i} row {i}" for i in range(30))
    cut = comparison.shortened(long)
    assert len(cut) < 100
    assert cut.startswith("row 9 = 0 row 0 + 1 row 1 + ")
    kept = cut.partition(" and ")[0].count(" + ") + 1
    assert cut.endswith(f" and {30 - kept} more terms")
    assert comparison.shortened("total = in + out") == "total = in + out"
    one_name = "x" * 200
    assert comparison.shortened(f"{one_name} = in") == f"{one_name} = in"
    system = SYSTEM | {"system": SYSTEM["system"] | {"redundant": [long], "redundant_count": 1}}
    assert "row 9 = 0 row 0 + 1 row 1" in " ".join(shown(payload(system)).split())
    assert long in words(Page(comparison.render(payload(system))))


def test_a_square_system_of_full_rank_says_that_the_set_is_one_point():
    square = SYSTEM["system"] | {"m": 32, "n": 32, "rank": 32, "redundant_count": 0}
    assert "the set is one point" in shown(payload(SYSTEM | {"system": square}))
    assert "the set is one point" not in shown(payload(SYSTEM))


def test_where_there_is_no_line_to_paste_none_is_shown():
    without = UNKNOWN | {"recommendation": ADVICE | {"text": "No variant was run.", "code": ""}}
    assert "<pre>" not in comparison.render(payload(without, exit_code=3))
    assert "\n    \n" not in shown(payload(without, exit_code=3))


def test_an_accuracy_that_none_reaches_is_the_verdict():
    unreached = SYSTEM | {"recommendation": ADVICE | {"reached": False}}
    said = comparison.verdict(payload(unreached, exit_code=1))
    assert said == "One system: no variant reaches 1e-10 on afiro.npz, float64."
