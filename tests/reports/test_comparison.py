"""The page of a comparison: whole in itself, nothing in it runs, nothing that was found is lost."""

import copy
import io
import json
import re

import pytest
from rich.console import Console

from projlab_reports import comparison

from .parsed import Page, whole

QR = {
    "name": "qr",
    "kind": "variant",
    "check": "projection",
    "status": "ok",
    "verdict": "pass",
    "why": "forward error 2.1e-16, bound 8.7e-15",
    "reason": "",
    "forward_error": 2.1e-16,
    "at_most": None,
    "judged_by": "exact",
    "bound": 8.7e-15,
    "stable_bound": 8.7e-15,
    "feasibility": 1.5e-17,
    "stationarity": 2.5e-17,
    "setup_s": 2.5e-4,
    "project_s": 1.7e-5,
    "stack": 64,
    "stacked_s": 3.3e-7,
    "held_bytes": 2752,
    "pays_from": 12,
}
PROVEN = QR | {
    "name": "pinv",
    "judged_by": "certificate",
    "forward_error": None,
    "at_most": 4.4e-13,
    "pays_from": None,
}
SKIPPED = QR | {"name": "single_row", "status": "refused", "verdict": "skip", "why": "rows overlap"}
FAILED = QR | {"name": "cholesky", "verdict": "fail", "why": "forward error 0.5, bound 1e-14"}
PEER = QR | {"name": "cvxpy", "kind": "peer", "setup_s": 0.0, "project_s": 3e-3, "held_bytes": None}
KNOWN = {
    "m": 27,
    "n": 32,
    "nnz": 83,
    "density": 0.096,
    "structure": ["sparse", "4 blocks that share no variable"],
    "rows_overlap": True,
    "row_norms": [1.0, 3.0],
    "rank": 25,
    "ambiguous": False,
    "gap": [0.1, 1e-17],
    "cutoff": 7e-15,
    "condition": 12.5,
    "condition_as_given": 99.0,
    "condition_is_least": False,
    "redundant": ["total = in + out", "sum = in"],
    "redundant_count": 2,
    "conflicting": [],
    "conflicting_count": 0,
    "off": None,
    "analysis_s": 3e-3,
    "clear_cutoff": None,
    "unknown": "",
}
ADVICE = {
    "text": "Use qr: forward error 2.1e-16.",
    "code": 'P = projector(A, b, variant="qr")',
    "changes": ["At float32 a forward error of 1e-5 is promised."],
    "variant": "qr",
}
SYSTEM = {
    "file": "data/afiro.npz",
    "dtype": "float64",
    "note": "",
    "x0": "x0 as given",
    "system": KNOWN,
    "check": "projection",
    "lines": [QR, PROVEN, SKIPPED, PEER],
    "recommendation": ADVICE,
    "seconds": 1.0,
}
CONFLICT = "total = in + out on the left, but its b is 3 and the combination's is 2"
INCONSISTENT = SYSTEM | {
    "file": "conflict.npz",
    "check": "least_squares",
    "system": KNOWN | {"conflicting": [CONFLICT], "conflicting_count": 1, "off": 1.0},
    "recommendation": ADVICE
    | {"code": 'P = projector(A, b, variant="qr", on_inconsistent="least_squares")'},
}
UNKNOWN = SYSTEM | {
    "file": "large.npz",
    "lines": [SKIPPED | {"why": "predicted to take 900 s"}],
    "system": KNOWN | {"rank": None, "condition": None, "unknown": "predicted to take 900 s"},
    "recommendation": ADVICE | {"text": "No variant was run.", "variant": None},
}
SCRIPT = "<script>alert(1)</script>"


def payload(*systems, exit_code=0, accuracy=1e-10):
    return {
        "format": 1,
        "kind": "comparison",
        "exit_code": exit_code,
        "asked": {"accuracy": accuracy, "peers": [], "device": "cpu"},
        "environment": {"cpu": "A & B", "torch": "2.13.0"},
        "systems": list(systems),
    }


EVERYTHING = payload(SYSTEM, INCONSISTENT, UNKNOWN, SYSTEM | {"lines": [FAILED, QR]}, exit_code=1)


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
