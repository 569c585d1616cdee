"""Measuring one problem: what a record holds, and that every planted fault turns red."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import projlab
from projlab_validation import oracles, outcome
from projlab_validation.judge import judge
from projlab_validation.measure import measure
from projlab_validation.profiles import PROFILES
from projlab_validation.record import table
from tests.validation.planted import frame_of, problem, sabotage, verdicts_of

QUICK = PROFILES["quick"]
VARIANTS = projlab.variants()


def test_a_record_holds_what_was_asked_and_what_is_known():
    frame = frame_of(measure(problem("article_3"), VARIANTS, QUICK, environment="here"))
    row = frame.loc[("qr", "projection")]
    assert (row["m"], row["n"], row["rank"], row["reference_rank"]) == (2, 3, 2, 2)
    assert row["computed_by"] == "qr"
    assert row["reference_kind"] == "exact"
    assert row["environment"] == "here"
    assert row["repeats"] >= 1
    assert 0 < row["project_s_min"] <= row["project_s_median"]
    assert 0 < row["setup_s_min"] <= row["setup_s_median"]


def test_nobody_is_being_asked_while_libraries_are_compiled(monkeypatch):
    """The clock of an answer runs; on a fresh machine compiling takes longer than its limit."""
    outcome.load_libraries.cache_clear()
    told, compiled = [], {}
    honest = projlab.projector

    def projector(constraint, variant, **options):
        compiled.setdefault(variant, list(told))
        return honest(constraint, variant=variant, **options)

    monkeypatch.setattr(projlab, "projector", projector)
    measure(problem("article_3"), ("qr",), QUICK, tell=told.append)
    assert told
    assert compiled == {variant: [] for variant in ("auto", *VARIANTS)}


def test_every_oracle_is_measured_and_compared():
    row = frame_of(measure(problem("article_3"), ("qr",), QUICK)).iloc[0]
    for oracle in ("lstsq_gelsd", "clarabel_tight_expanded"):
        assert row[f"oracle_error_{oracle}"] < 1e-9
        assert row[f"difference_{oracle}"] <= (
            row[f"oracle_error_{oracle}"] + row["forward_error"] + 1e-15
        )
        assert row[f"oracle_s_{oracle}"] > 0


def test_an_inconsistent_system_is_asked_twice():
    frame = frame_of(measure(problem("pg_btheta_57_ieee"), ("qr",), QUICK))
    refusal, answer = frame.loc[("qr", "refusal")], frame.loc[("qr", "least_squares")]
    assert (refusal["status"], refusal["exception"]) == ("refused", "InconsistentError")
    assert answer["status"] == "ok"
    assert answer["forward_error"] < 1e-9
    # There the residual that no x removes adds to what rounding is amplified by.
    assert answer["perturbation_scale"] > answer["x0_norm"] + answer["correction_norm"]


def test_overlapping_rows_are_refused_by_single_row_without_computing_x_star(monkeypatch):
    monkeypatch.setattr(oracles, "reference", None)
    row = frame_of(measure(problem("article_3"), ("single_row",), QUICK)).iloc[0]
    assert (row["status"], row["exception"]) == ("refused", "InputError")
    assert row["rows_overlap"]
    assert pd.isna(row["reference_kind"])


def test_what_exceeds_the_budget_is_skipped_with_its_reason():
    tight = replace(QUICK, flops=10.0)
    frame = frame_of(measure(problem("article_3"), VARIANTS, tight))
    assert set(frame["status"]) == {"skip"}
    assert frame["reason"].str.contains("projlab validate --profile").all()


def test_a_failing_oracle_is_an_error_that_says_so(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(oracles, "reference", broken)
    records = measure(problem("article_1"), VARIANTS, QUICK)
    assert {(r.variant, r.status) for r in records} == {(v, "error") for v in VARIANTS}
    assert "ZeroDivisionError: planted (test_measure.py:" in records[0].reason


def test_float32_problems_are_projected_in_float32():
    row = frame_of(measure(problem("spectra_1_30x60", "float32"), ("qr",), QUICK)).iloc[0]
    assert 1e-9 < row["forward_error"] < 1e-5


def off_the_row_space(P, x):
    """Feasible to the last bit and not the projection: what a residual alone never sees."""
    return P(x) + 1e-6 * P.tangent(torch.ones_like(x))


PLANTED = {
    "moved along the null space": off_the_row_space,
    "not finite": lambda P, x: P(x) * math.nan,
    "infeasible": lambda P, x: P(x) * (1 + 1e-9),
    "float32 inside float64": lambda P, x: P(x).to(torch.float32).to(x.dtype),
    "the point itself": lambda P, x: x.clone(),
}


def test_the_engine_as_it_is_passes():
    assert verdicts_of("spectra_1e3_10x20") == {"pass"}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_turns_every_variant_red(fault, monkeypatch):
    sabotage(monkeypatch, PLANTED[fault])
    assert verdicts_of("spectra_1e3_10x20") == {"fail"}


def test_a_wrong_rank_turns_every_variant_red(monkeypatch):
    sabotage(monkeypatch, rank=-1)
    assert verdicts_of("spectra_1e3_10x20") == {"fail"}


def test_an_inconsistent_system_answered_turns_red(monkeypatch):
    honest = projlab.projector

    def lenient(*arguments, **keywords):
        return honest(*arguments, **(keywords | {"on_inconsistent": "least_squares"}))

    monkeypatch.setattr(projlab, "projector", lenient)
    system = problem("pg_btheta_57_ieee")
    frame = judge(table(measure(system, ("qr",), PROFILES["quick"])).to_pandas())
    frame = frame[frame["check"] != "certificate"]
    assert dict(zip(frame["check"], frame["verdict"], strict=True)) == {
        "refusal": "fail",
        "least_squares": "pass",
    }
    assert np.isfinite(frame["feasibility"]).all()
