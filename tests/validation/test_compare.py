"""Comparing every variant, and peers, on one system: what nothing keeps from ending."""

from dataclasses import replace

import numpy as np
import pytest

import projlab
from projlab_validation import compare, describe
from tests.validation.compared import NAMES, RECORD, A, B, run_code, stored

ALL = compare.ComparisonOptions(projlab.variants())


def test_rows_that_contradict_each_other_are_named_and_least_squares_is_offered():
    b = B + np.array([0, 0, 0.25])
    comparison = compare.compare(stored(A, b, NAMES), "float64", ALL)
    assert comparison.checked
    assert not comparison.failed
    assert comparison.check == "least_squares"
    (row,) = comparison.system.conflicting
    assert row.startswith("total = in + out on the left, but its b is 3.25")
    assert comparison.system.off == 0.25
    assert {line.check for line in comparison.lines} == {"least_squares"}
    advice = comparison.recommendation
    assert "No x satisfies these equations: 1 row contradicts the others, by up to 0.25" in (
        advice.text
    )
    x = run_code(advice.code, A, b)
    np.testing.assert_allclose(x, np.linalg.lstsq(A, b)[0], atol=1e-14)


@pytest.mark.slow
def test_peers_of_all_kinds_stand_beside_the_variants():
    names = ("right", "wrong", "raises", "dies", "sleeps", "stacks_badly", "missing")
    specs = tuple(f"peers_at_fault:{name}" for name in names)
    options = compare.ComparisonOptions(("qr",), specs, time_limit=8.0)
    comparison = compare.compare(stored(A, B), "float64", options)
    line = {name: one for name, one in zip(names, comparison.lines[1:], strict=True)}  # noqa: C416
    assert line["right"].verdict == "pass"
    assert line["right"].stacked_s > 0
    assert line["wrong"].verdict == "fail"
    assert line["wrong"].forward_error > 1e-4
    assert "no idea" in line["raises"].why
    assert "exit code 9" in line["dies"].why
    assert line["sleeps"].why == "stopped at the time limit of 8 s"
    assert "the answer has shape (1, 4)" in line["stacks_badly"].why
    assert "has no 'missing'" in line["missing"].why
    assert not comparison.failed, "a peer's failure is no fault of a variant"
    assert comparison.recommendation.variant == "qr"


def test_what_was_measured_before_a_stop_is_shown_and_the_rest_says_why():
    problem = stored(A, B).problem()
    known = compare.Snapshot(
        replace(describe.structure(problem), rank=2),
        records=(replace(RECORD, variant="qr", status="ok"),),
    )
    after = known.stopped(problem, ALL, "stopped at the time limit of 1 s")
    others = [v for v in projlab.variants() if v != "qr"]
    assert [r.variant for r in after.records] == ["qr", *others]
    assert {r.reason for r in after.records[1:]} == {"stopped at the time limit of 1 s"}
    assert after.system.unknown == ""
