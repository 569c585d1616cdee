"""Runs and results as fixtures."""

import json
from dataclasses import replace

import pytest

from projlab_reports import asv, speed
from projlab_reports.summary import Summary
from projlab_validation.judge import judge
from projlab_validation.record import table
from tests.reports.asv_results import FORWARD, MACHINE, result, suite
from tests.reports.runs import BASE, DRIFT, RECORDS, TRAINING, summary_of


@pytest.fixture
def everything() -> Summary:
    """A run with drift, training and a peer beside what `summary` has."""
    records = summary_of(*RECORDS, *DRIFT)
    peer = replace(BASE, variant="mypeers.article:project", computed_by="")
    return replace(
        records, peer_verdicts=judge(table([peer]).to_pandas()), training=TRAINING.copy()
    )


@pytest.fixture
def summary() -> Summary:
    return summary_of(*RECORDS)


@pytest.fixture
def held() -> Summary:
    """A run in which nothing failed."""
    return summary_of(BASE)


@pytest.fixture
def nothing() -> Summary:
    """A run of skips."""
    return summary_of(RECORDS[4])


@pytest.fixture
def results(tmp_path):
    """A folder of two results, as asv lays them out."""
    machine = tmp_path / "results" / "here"
    machine.mkdir(parents=True)
    (machine / asv.MACHINE).write_text(json.dumps({**MACHINE, "version": 1}))
    known = {
        "version": 2,
        speed.PROJECTION: {
            "param_names": ["variant", "size", "dtype", "device"],
            "unit": "seconds",
        },
        FORWARD: {"param_names": ["size"], "unit": "u"},
    }
    (tmp_path / "results" / asv.BENCHMARKS).write_text(json.dumps(known))
    result(machine / "aaa-env.json", suite(2.0), commit_hash="a" * 40, date=1_000)
    requirements = {"torch": "9.9"}
    result(
        machine / "bbb-env.json",
        suite(),
        commit_hash="b" * 40,
        date=2_000,
        requirements=requirements,
    )
    return tmp_path
