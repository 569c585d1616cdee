"""A run for continuous integration: JUnit XML, and annotations as GitHub's runners read them.

JUnit has no schema of its own that all readers follow; what is written is what Jenkins, GitLab and
GitHub's actions for it read: testsuites > testsuite > testcase > failure | skipped. GitHub's
workflow commands: docs.github.com, "Workflow commands for GitHub Actions".
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from projlab_reports import files
from projlab_reports.summary import Summary, rows

MOST_ANNOTATIONS = 10
"""Errors that GitHub shows of one step."""

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped: an exception's text may have any."""


def write_junit(summary: Summary, path: Path) -> Path:
    """Write a run as JUnit XML: a suite a variant, a case a record; return the path."""
    root = ET.Element("testsuites", name="projlab validate")
    records = summary.verdicts.to_dict("records")
    for variant in summary.variants:
        own = [row for row in records if row["variant"] == variant]
        _suite(root, variant, (_case(row) for row in own))
    if len(summary.training):
        _suite(root, "training", map(_training_case, summary.training.to_dict("records")))
    if len(summary.bounded):
        _suite(root, "bounds", map(_bounds_case, summary.bounded.to_dict("records")))
    _suite(root, "run", [_run_case(summary)])
    ET.indent(root)
    text = '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
    return files.write(path.parent, {path.name: text})[0]


def _suite(root: ET.Element, name: str, cases: Any) -> None:
    suite = ET.SubElement(root, "testsuite", name=_legal(name))
    suite.extend(cases)
    for kind, inside in (("tests", None), ("failures", "failure"), ("skipped", "skipped")):
        counted = [case for case in suite if inside is None or case.find(inside) is not None]
        suite.set(kind, str(len(counted)))
    suite.set("errors", "0")
    suite.set("time", f"{sum(float(case.get('time', 0)) for case in suite):.6f}")


def _case(row: Mapping[Any, Any]) -> ET.Element:
    steps = "" if math.isnan(row["steps"]) else f" after {row['steps']:.0f} steps"
    taken = [row[name] for name in ("setup_s_median", "project_s_median")]
    return _element(
        row["variant"],
        f"{row['problem']} {row['dtype']} {row['check']}{steps}",
        row["verdict"],
        row["why"],
        sum(seconds for seconds in taken if not math.isnan(seconds)),
    )


def _bounds_case(row: Mapping[Any, Any]) -> ET.Element:
    seconds = 0.0 if math.isnan(row["seconds"]) else row["seconds"]
    return _element(row["variant"], row["problem"], row["verdict"], row["why"], seconds)


def _training_case(row: Mapping[Any, Any]) -> ET.Element:
    way = f"{row['optimizer']}, {row['mode']}, decay {row['weight_decay']:g}"
    name = f"{row['problem']} {row['dtype']} {way}"
    return _element("training", name, row["verdict"], row["why"], 0.0)


def _run_case(summary: Summary) -> ET.Element:
    """The run itself: a failure where it is incomplete, or too little was checked."""
    wrong = summary.incomplete or summary.too_few
    if not (wrong or summary.checked):
        wrong = "nothing was checked"
    return _element("run", "complete", "fail" if wrong else "pass", wrong, 0.0)


def _element(of: str, name: str, verdict: str, why: str, seconds: float) -> ET.Element:
    case = ET.Element("testcase", classname=_legal(of), name=_legal(name), time=f"{seconds:.6f}")
    if verdict == "fail":
        ET.SubElement(case, "failure", message=_legal(why), type="fail").text = _legal(why)
    elif verdict == "skip":
        ET.SubElement(case, "skipped", message=_legal(why))
    elif verdict == "expected":
        ET.SubElement(case, "system-out").text = _legal(f"expected limitation: {why}")
    return case


def _legal(text: str) -> str:
    return NOT_XML.sub("\ufffd", text)


def annotated() -> bool:
    """Whether this process is a step of a GitHub workflow."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotation_lines(summary: Summary) -> str:
    """Return what makes a workflow show the run's failures: nothing where there are none."""
    return "".join(f"{line}\n" for line in _annotations(summary))


def _annotations(summary: Summary) -> Iterator[str]:
    failures = rows(summary.failures)
    whole = summary.incomplete or summary.too_few
    room = MOST_ANNOTATIONS - bool(whole)
    if whole:
        yield _error("projlab validate", summary.headline)
    more = len(failures) - room
    shown = failures if more <= 0 else failures[: room - 1]
    for failure in shown:
        title = f"{failure['variant']} on {failure['problem']} in {failure['dtype']}"
        yield _error(title, f"{failure['why']}\n{failure['reproduce']}")
    if more > 0:
        yield _error("projlab validate", f"and {more + 1} more checks failed; the report has them")


def _error(title: str, message: str) -> str:
    return f"::error title={_escaped(title, ':,')}::{_escaped(message)}"


def _escaped(text: str, further: str = "") -> str:
    """Escape as the runner does: percent, line ends, and in a property colon and comma."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    for character in further:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
