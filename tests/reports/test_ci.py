"""A run for CI: JUnit XML that says what the run says, and annotations that a runner reads."""

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from projlab_reports import ci
from tests.reports.runs import BASE, DRIFT, RECORDS, TRAINING, summary_of


def written(summary, tmp_path):
    return ET.parse(ci.write_junit(summary, tmp_path / "results.xml")).getroot()  # noqa: S314  ours


def test_each_record_is_a_case_and_each_verdict_is_told(summary, tmp_path):
    root = written(summary, tmp_path)
    assert [suite.get("name") for suite in root] == [*summary.variants, "run"]
    counted = {
        kind: sum(int(suite.get(kind)) for suite in root)
        for kind in ("tests", "failures", "skipped", "errors")
    }
    assert counted == {
        "tests": len(RECORDS) + 1,
        "failures": summary.totals["fail"],
        "skipped": summary.totals["skip"],
        "errors": 0,
    }
    (failed,) = root.findall(".//testcase[failure]")
    assert failed.get("classname") == "pinv"
    assert failed.get("name") == "netlib_good float64 projection"
    assert failed.find("failure").get("message") == summary.failures["why"].iloc[0]
    assert float(failed.get("time")) == pytest.approx(2.03e-3)
    limited = [out.text for out in root.findall(".//system-out")]
    assert len(limited) == summary.totals["expected"]
    assert all(text.startswith("expected limitation: ") for text in limited)


def test_names_tell_drift_records_apart_and_training_is_a_suite(tmp_path):
    summary = replace(summary_of(BASE, *DRIFT), training=TRAINING)
    root = written(summary, tmp_path)
    names = [(c.get("classname"), c.get("name")) for c in root.iter("testcase")]
    assert len(set(names)) == len(names)
    assert ("qr", "netlib_good float64 drift after 10 steps") in names
    (training,) = root.findall("testsuite[@name='training']")
    assert (training.get("tests"), training.get("failures")) == ("3", "1")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"header": {"stopped": "interrupted before its end"}}, "interrupted before its end"),
        ({"least": 100}, "1 records were checked, and 100 are demanded"),
    ],
)
def test_a_run_that_is_not_whole_is_a_failure_of_its_own(changes, says, tmp_path):
    summary = summary_of(BASE)
    header = {**summary.header, **changes.pop("header", {})}
    summary = replace(summary, header=header, **changes)
    assert summary.exit_code == 1
    assert "Every check held" not in summary.headline
    (failed,) = written(summary, tmp_path).findall(".//testcase[failure]")
    assert (failed.get("name"), failed.find("failure").get("message")) == ("complete", says)
    assert says in ci.annotation_lines(summary)


def test_text_that_xml_cannot_hold_does_not_break_the_file(tmp_path):
    wild = replace(BASE, status="error", reason="\x00\x1b[31m <&> \ud800 κ", variant="qr")
    (failed,) = written(summary_of(wild), tmp_path).findall(".//testcase[failure]")
    assert failed.find("failure").text == "��[31m <&> \\ud800 κ"


def test_annotations_are_escaped_as_the_runner_reads_them(summary):
    text = ci.annotation_lines(summary)
    assert text.count("::error ") == summary.totals["fail"] == text.count("\n")
    assert text.startswith("::error title=pinv on netlib_good in float64::")
    wild = replace(BASE, status="error", reason="50 %\r\nof: a, b")
    assert "50 %25%0D%0Aof: a, b" in ci.annotation_lines(summary_of(wild))
    assert ci.annotation_lines(summary_of(BASE)) == ""


def test_no_more_annotations_than_are_shown_and_the_rest_is_counted():
    many = [
        replace(BASE, problem=f"p{i}", content_hash=f"{i}", forward_error=1.0) for i in range(15)
    ]
    lines = ci.annotation_lines(summary_of(*many)).splitlines()
    assert len(lines) == ci.MOST_ANNOTATIONS
    assert lines[-1].endswith("::and 6 more checks failed; the report has them")


def test_a_step_of_a_workflow_is_known_by_its_environment(monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert ci.annotated()
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert not ci.annotated()
