"""Tables of what is checked beyond the answer for x0, from records whose figures are known."""

import math
from dataclasses import asdict, replace

import pandas as pd
import pytest

from projlab_reports import markdown, page, tables
from projlab_reports.summary import rows
from projlab_reports.units import MISSING
from projlab_validation.bounds.section import BoundsRecord
from tests.reports.runs import BASE, TRAINED, summary_of

U = 2.0**-53
CERTIFICATE = replace(
    BASE,
    check="certificate",
    proof="certified",
    proven_at_least=9e-15,
    proven_at_most=3e-14,
    proven_accuracy=1e-12,
)
OPEN = replace(
    CERTIFICATE, problem="spectra_steep", proof="uncertifiable", proof_reason="κ too near 1/u"
)


def drifted(steps: int, distance: float):
    return replace(BASE, check="drift", steps=steps, forward_error=distance)


def verdicts(*records):
    return summary_of(*records).verdicts


def test_each_check_is_counted_by_variant():
    wrong = replace(BASE, variant="pinv", computed_by="pinv", check="batched", forward_error=1e-3)
    frame = verdicts(BASE, replace(BASE, check="batched"), wrong)
    by_check = {row["check"]: row for row in rows(tables.checks(frame))}
    assert by_check["projection"]["qr"] == "1 / 0 / 0"
    assert by_check["projection"]["pinv"] == "–"
    assert by_check["batched"]["pinv"] == "0 / 0 / 1"


def test_a_certificate_is_counted_and_its_bound_compared_with_the_truth():
    (row,) = rows(tables.certificates(verdicts(CERTIFICATE, OPEN)))
    assert (row["certified"], row["failed"], row["uncertifiable"]) == (1, 0, 1)
    assert row["bounds that held"] == row["x* known"] == 1
    assert row["worst bound / truth"] == pytest.approx((3e-14 - 10 * U) / 1e-14)
    assert row["on"] == "netlib_good by qr"
    missed = replace(CERTIFICATE, proven_at_most=9.5e-15)
    (row,) = rows(tables.certificates(verdicts(missed)))
    assert row["bounds that held"] == 0


def test_what_is_not_certifiable_is_named_with_its_reason():
    (row,) = rows(tables.uncertifiable(verdicts(CERTIFICATE, OPEN)))
    assert (row["problem"], row["why"]) == ("spectra_steep", "κ too near 1/u")


def test_answers_are_counted_by_what_judged_them():
    unknown = replace(BASE, content_hash="u", reference_kind="unavailable", problem="unknown")
    proven = replace(unknown, proof="certified", proven_at_most=1e-14, proven_accuracy=1e-12)
    frame = verdicts(BASE, BASE, proven, unknown)
    counts = {row["judged by"]: row["answers"] for row in rows(tables.judged_by(frame))}
    assert counts == {"exact": 2, "certificate": 1, "feasibility alone": 1}


def test_drift_is_shown_beside_the_single_shot():
    frame = verdicts(BASE, drifted(1, 1e-14), drifted(10000, 1e-14 + 300 * U))
    (row,) = rows(tables.drift(frame))
    assert row["single shot"] == row["10^0 steps"] == "1e-14"
    assert row["grown by, √k·u"] == "3.0"


def test_columns_of_drift_ascend_though_one_problem_goes_further():
    others = [
        replace(drifted(steps, 1e-14), problem=name)
        for name, steps in (("short", 1), ("long", 1), ("long", 100))
    ]
    shots = [replace(BASE, problem=name) for name in ("short", "long")]
    frame = verdicts(*shots, *others)
    table = tables.drift(frame)
    columns = list(table.columns)
    assert columns.index("10^2 steps") == columns.index("10^0 steps") + 1
    assert list(table.loc[table["problem"] == "short", "10^2 steps"]) == [MISSING]


def peer(name: str, forward_error: float, **changes):
    return replace(
        BASE, variant=f"package.subjects.{name}:project", forward_error=forward_error, **changes
    )


def test_peers_stand_beside_the_variants_on_the_same_problems():
    ours = verdicts(BASE, replace(BASE, content_hash="large", problem="large"))
    failed = {"status": "error", "reason": "no convergence", "exception": "ArithmeticError"}
    theirs = verdicts(
        peer("precise", 1e-15),
        peer("wild", 1e-3),
        peer("precise", 1e-15, content_hash="other"),
        peer("wild", float("nan"), content_hash="other", **failed),
        peer("precise", 1e-15, content_hash="alone"),
    )
    table = tables.peers(theirs, ours)
    plain = {row["method"]: row for row in rows(table)}
    assert plain["wild"]["largest forward error, float64"] == 1e-3
    assert (plain["precise"]["within"], plain["precise"]["asked"]) == (2, 2)
    by_method = {row["method"]: row for row in rows(tables.peers_shown(table))}
    assert list(by_method) == ["precise", "wild", "qr"]
    assert by_method["precise"]["within c·κ·u"] == "2 of 2"
    assert (by_method["wild"]["beyond"], by_method["wild"]["no answer"]) == (1, 1)
    assert by_method["qr"]["within c·κ·u"] == "1 of 2"  # the other was not given to it
    assert by_method["wild"]["fewest digits, float64"] == "3.0"


NETWORK = TRAINED | {
    "problem": "network_digits",
    "steps": 1000,
    "loss": 0.0316,
    "free_loss": 0.0353,
    "noise": 0.001,
    "distance": math.nan,
    "feasibility": 2 * U,
}


def test_networks_stand_apart_from_convex_problems():
    summary = replace(summary_of(BASE), training=pd.DataFrame([TRAINED, NETWORK]))
    assert summary.convex["problem"].tolist() == ["simplex"]
    (row,) = rows(summary.networks)
    assert (row["network"], row["constrained by"], row["loss"]) == ("digits", "tangent", "0.0316")
    assert row["unconstrained"] == "0.0353 ± 0.001"
    assert row["largest residual, u"] == "2"
    noise = {"problem": "network_noise", "loss": math.nan, "noise": math.nan}
    (row,) = rows(tables.networks(pd.DataFrame([NETWORK | noise])))
    assert row["loss"] == row["unconstrained"] == "–"


def test_a_run_of_networks_alone_has_a_training_section(tmp_path):
    summary = replace(summary_of(BASE), training=pd.DataFrame([NETWORK]))
    text = markdown.write(summary, tmp_path).read_text(encoding="utf-8")
    assert "\n## Training\n" in text
    assert "| digits | tangent | Adam |" in text
    assert "0.0353 ± 0.001" in page.render(summary)


def test_without_peers_there_is_no_table():
    assert summary_of(BASE).peers.empty


def test_the_report_has_a_section_for_each(tmp_path):
    summary = summary_of(BASE, CERTIFICATE, OPEN, drifted(1, 1e-14))
    text = markdown.write(summary, tmp_path).read_text(encoding="utf-8")
    for heading in ("Every check", "What the answers were judged by", "Drift"):
        assert f"\n## {heading}\n" in text
    assert "| spectra_steep | float64 | κ too near 1/u |" in text


def test_families_without_a_time_show_none():
    empty = BoundsRecord("bounds_empty_box", "auto", "answer", "", 1, 2, True, "refused", "none is")
    frame = pd.DataFrame([asdict(empty)]).assign(verdict="pass")
    (row,) = rows(tables.bounds(frame))
    assert row["median ms"] == row["worst distance"] == row["worst row or bound"] == "–"
    assert row["verdicts"] == "1 pass"
