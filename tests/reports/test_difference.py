"""What changed between two runs, what counts against the later one, and what is only shown."""

from dataclasses import replace

import pandas as pd
import pytest

from projlab_reports import difference
from projlab_reports.difference import Difference, Side
from projlab_reports.summary import Summary
from tests.reports.browser import needs_browser, use
from tests.reports.parsed import whole, words
from tests.reports.runs import BASE, TRAINED, summary_of

U = 2.0**-53
OTHER = replace(BASE, problem="other", content_hash="other")


def between(before, after):
    sides = (summary_of(*records) for records in (before, after))
    return Difference(*map(Side, ("before", "after"), sides))


def kinds(compared):
    return dict(zip(compared.changes["problem"], compared.changes["change"], strict=True))


def test_the_same_run_twice_is_no_change():
    compared = between([BASE, OTHER], [BASE, OTHER])
    assert compared.changes.empty
    assert (compared.compared, compared.exit_code) == (2, 0)
    assert compared.headline.startswith("No regression in 2 records compared")


@pytest.mark.parametrize(
    ("before", "after", "kind", "code"),
    [
        (1e-14, 1e-3, "newly failing", 1),
        (1e-3, 1e-14, "newly passing", 0),
        (11 * U, 111 * U, "worse", 1),
        (111 * U, 11 * U, "better", 0),
        (11 * U, 109 * U, None, 0),  # within the noise
        (0.1 * U, 9 * U, None, 0),  # within rounding
        (0.0, 11 * U, "worse", 1),
    ],
)
def test_a_forward_error_that_changed_is_told_from_noise(before, after, kind, code):
    compared = between(
        [OTHER, replace(BASE, forward_error=before)], [OTHER, replace(BASE, forward_error=after)]
    )
    assert kinds(compared) == ({BASE.problem: kind} if kind else {})
    assert compared.exit_code == code


def test_a_worse_verdict_is_a_regression_and_a_better_one_is_not():
    refused = replace(BASE, status="skip", reason="needs 32 GFlop", forward_error=float("nan"))
    assert kinds(between([BASE], [refused])) == {BASE.problem: "worse"}
    assert between([BASE], [refused]).exit_code == 1
    assert kinds(between([refused], [BASE])) == {BASE.problem: "better"}
    assert between([refused], [BASE]).exit_code == 0


def test_missing_and_new_records_are_shown_and_count_for_nothing():
    compared = between([BASE, OTHER], [BASE, replace(OTHER, problem="third")])
    assert kinds(compared) == {"other": "missing", "third": "new"}
    assert compared.exit_code == 0


def test_a_new_record_that_fails_is_newly_failing():
    compared = between([BASE], [BASE, replace(OTHER, forward_error=1e-3)])
    assert kinds(compared) == {"other": "newly failing"}
    assert compared.exit_code == 1


def test_another_problem_under_the_same_name_has_another_forward_error():
    compared = between([BASE], [replace(BASE, content_hash="changed", forward_error=111 * U)])
    assert compared.changes.empty


def test_times_are_shown_and_count_for_nothing():
    compared = between([BASE], [replace(BASE, project_s_median=3.0)])
    assert compared.exit_code == 0
    assert compared.times["projection, ratio"].tolist() == pytest.approx([1e5])
    assert compared.times_shown["projection, ratio"].tolist() == ["100000.00"]
    assert compared.times_shown["projection after"].tolist() == ["3 s"]


def test_training_runs_are_records_too():
    after = TRAINED | {"verdict": "fail", "why": "too far", "distance": 0.5}
    sides = [
        Side(name, Summary(s.verdicts, s.header, s.environment, training=pd.DataFrame([run])))
        for name, run, s in (
            ("before", TRAINED, summary_of(BASE)),
            ("after", after, summary_of(BASE)),
        )
    ]
    compared = Difference(*sides)
    assert kinds(compared) == {"simplex": "newly failing"}
    assert compared.compared == 2


def test_nothing_in_common_is_nothing_to_compare():
    compared = between([BASE], [OTHER])
    assert compared.exit_code == 3
    assert compared.headline.startswith("Nothing to compare")


def test_a_regression_among_several_differences_is_one():
    same, worse, foreign = (
        between([BASE], [after]) for after in (BASE, replace(BASE, forward_error=1e-3), OTHER)
    )
    assert difference.exit_code([same, worse, foreign]) == 1
    assert difference.exit_code([same, foreign]) == 0
    assert difference.exit_code([foreign]) == 3


def test_the_page_is_whole_states_its_rule_and_reads_without_scripts():
    bad = replace(BASE, problem="<script>alert(1)</script>")
    compared = between([bad, OTHER], [replace(bad, forward_error=1e-3)])
    text = difference.render([compared])
    parsed = whole(text)
    assert text.count("<script>") == 1  # the page's own, which sorts and filters
    assert "alert(1)" not in text[text.index("<script>") :]
    shown = words(parsed)
    assert difference.RULE in shown
    for word in ("Newly failing (1)", "Missing (1)", "alert(1)", "0.001", compared.headline):
        assert word in shown
    twin = difference.render_markdown([compared])
    assert difference.RULE in twin
    assert "### Newly failing" in twin
    assert "### Better" not in twin


@needs_browser
def test_the_page_is_sorted_and_filtered_in_a_browser(tmp_path):
    problems = [replace(BASE, problem=f"netlib_{i}", content_hash=str(i)) for i in range(3)]
    # By number and not by letter: 0.001, 2 and 10.
    after = [
        replace(problem, forward_error=worse)
        for problem, worse in zip(problems, (10.0, 0.001, 2.0), strict=True)
    ]
    seen = use(
        difference.render([between(problems, after)]),
        """sort("error after"); sort("error after"); filter("NETLIB_1 qr"); filter("");""",
        tmp_path,
    )
    ascending = ["netlib_1", "netlib_2", "netlib_0"]
    assert seen == [ascending, ascending[::-1], ["netlib_1"], ascending[::-1]]


def subject_side(*records, spec="mine.layers:project"):
    summary = summary_of(*(replace(r, variant=spec, computed_by=spec) for r in records))
    return Side("subject", replace(summary, header=summary.header | {"subject": spec}))


def test_a_subject_is_held_against_the_variant_of_its_law():
    pinv = replace(BASE, variant="pinv", computed_by="pinv")
    ours = Side("ours", summary_of(BASE, pinv, OTHER))
    worse = replace(BASE, forward_error=1e-3)
    compared = Difference(ours, subject_side(worse, OTHER))
    assert compared.stands_for == ("qr", "mine.layers:project")
    assert kinds(compared) == {BASE.problem: "newly failing"}
    assert compared.changes["variant"].tolist() == ["qr → mine.layers:project"]
    assert compared.compared == 2
    assert "mine.layers:project is held against qr" in compared.headline
    assert compared.times["problems"].tolist() == [2]
    assert "mine.layers:project" in difference.render([compared])


def test_two_subjects_are_compared_and_one_subject_with_itself_as_ever():
    one, other = subject_side(BASE), subject_side(BASE, spec="yours:project")
    assert Difference(one, other).stands_for == ("mine.layers:project", "yours:project")
    assert Difference(one, other).exit_code == 0
    assert Difference(one, one).stands_for is None
    assert Difference(one, one).compared == 1


def test_a_program_reads_numbers():
    compared = between([BASE], [replace(BASE, forward_error=1e-3)])
    (told,) = difference.outcome([compared])["differences"]
    assert told["changes"][0]["error after"] == 1e-3
    assert isinstance(told["times"][0]["projection before, s"], float)
