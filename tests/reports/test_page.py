"""The page of a run: whole in itself, and everything that was found is on it."""

import copy
import re
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from projlab_reports import charts, page
from tests.reports.parsed import Page, whole, words
from tests.reports.payloads import SCRIPT
from tests.reports.runs import BASE, DRIFT, summary_of

ORDER = [
    "Which variant for which need",
    "What it ran on",
    "Forward error against condition number",
    "Pass, expected, fail",
    "Every check by variant",
    "Times, indicative",
    "Forward error against time",
    "Drift",
    "Training",
    "Peers",
    "What the answers were judged by",
    "The oracles' own errors",
    "Real systems",
    "Failures",
    "Known limitations",
]


def headings(text):
    return [words(Page(h)) for h in re.findall(r"<h2[^>]*>(.*?)</h2>", text, flags=re.DOTALL)]


def test_the_page_of_everything_is_whole_and_in_order(everything):
    text = page.render(everything)
    parsed = whole(text)
    assert headings(text) == ORDER
    assert "script" not in parsed.tags
    shown = words(parsed)
    assert shown.index(everything.headline) < shown.index("What it ran on")
    assert "GPU not measured".replace(" ", "") in shown.replace(" ", "")
    assert len(text) < 400_000


def test_every_failure_is_carried_with_its_command(everything):
    shown = words(Page(page.render(everything)))
    assert len(everything.failures) >= 2
    assert "training" in set(everything.failures["check"])
    for failure in everything.failures.to_dict("records"):
        assert failure["why"] in shown
        assert failure["reproduce"] in shown


def test_pictures_take_the_colour_of_the_page_and_say_what_they_are(everything):
    text = page.render(everything)
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    names = re.findall(r'role="img" aria-label="([^"]+)"', text)
    assert len(pictures) == len(names) == len(set(names))
    for what in ("variants, float64", "oracles", "peers", "float32", "profile", "Drift"):
        assert any(what in name for name in names), what
    for picture in pictures:
        assert "currentColor" in picture
        assert not re.search("#000000|#123456", picture)


def test_numbers_stand_behind_the_pictures(everything):
    shown = words(Page(page.render(everything)))
    assert "The numbers, float64" in shown
    for number in ("1e-14", "3e-14", "2e-04", "1e+03"):
        assert number in shown


def test_a_run_without_drift_training_and_peers_has_no_such_headings(held):
    text = page.render(held)
    whole(text)
    assert not {"Drift", "Training", "Peers"} & set(headings(text))
    assert "None." in words(Page(text))


def test_a_run_of_nothing_is_still_a_page(nothing):
    text = page.render(nothing)
    whole(text)
    assert "Nothing was checked" in text
    assert "<svg" not in text


def test_a_run_of_training_alone_is_a_page(everything):
    text = page.render(replace(everything, verdicts=everything.verdicts.iloc[:0]))
    whole(text)
    assert "Training" in headings(text)


@pytest.mark.parametrize("where", ["problem", "group", "reason", "header", "environment"])
def test_what_looks_like_a_script_is_shown_and_not_run(where):
    broken = replace(BASE, status="error", reason="broken", forward_error=float("nan"))
    summary = summary_of(BASE, broken if where != "reason" else replace(broken, reason=SCRIPT))
    match where:
        case "problem" | "group":
            summary.verdicts[where] = SCRIPT
        case "header":
            summary = replace(summary, header={"profile": SCRIPT, "device": "cpu"})
        case "environment":
            summary = replace(summary, environment={"cpu": SCRIPT, SCRIPT: "x"})
    parsed = Page(page.render(copy.copy(summary)))
    assert "script" not in parsed.tags
    assert "alert(1)" in "".join(parsed.text)


def test_each_curve_of_drift_is_labelled_with_its_problem(everything):
    other = [replace(r, problem="drift_other", content_hash="other") for r in DRIFT]
    (chart,) = charts.drift(summary_of(BASE, *DRIFT, *other))
    figure = Figure()
    chart.draw(figure.add_subplot())
    said = [text.get_text() for text in figure.axes[0].texts]
    assert {"netlib_good", "other", "√k·u", "k·u"} == set(said)
    heights = sorted(t.xyann[1] for t in figure.axes[0].texts if t.get_text() in said[-2:])
    assert heights[1] > heights[0]
