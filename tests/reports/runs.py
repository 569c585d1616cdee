"""Records in which everything happens that a report has to show, and runs made of them."""

from dataclasses import replace

import pandas as pd

from projlab_reports.summary import Summary
from projlab_validation.judge import judge
from projlab_validation.record import OracleFigures, Record, table
from projlab_validation.store import TRAINING_VERDICTS, Store
from tests.validation.records import ANSWERED

BASE = replace(
    ANSWERED,
    problem="netlib_good",
    group="real",
    content_hash="good",
    setup_s_median=2e-3,
    project_s_median=3e-5,
    oracles={
        "lstsq_gelsd": OracleFigures("ok", 2e-14, 1e-4, 2e-14),
        "clarabel_default_distance": OracleFigures("optimal", 2e-4, 1e-2, 2e-4),
        "clarabel_tight_expanded": OracleFigures("optimal_inaccurate", 3e-14, 1e-2, 3e-14),
        "osqp_tight_distance": OracleFigures("infeasible", seconds=1e-2),
    },
)


REFUSED = replace(
    BASE,
    status="refused",
    computed_by="",
    rank=None,
    x_norm=float("nan"),
    forward_error=float("nan"),
    feasibility=float("nan"),
)


HARD = {"problem": "netlib_hard", "content_hash": "hard", "reference_condition": 1e9}
RECORDS = (
    BASE,
    replace(BASE, variant="pinv", computed_by="pinv", forward_error=1e-3),
    replace(
        REFUSED, variant="cholesky", exception="RankDeficientError", reason="not definite", **HARD
    ),
    replace(REFUSED, variant="single_row", exception="InputError", reason="rows 0 and 1 share …"),
    replace(
        REFUSED,
        problem="spectra_large",
        content_hash="large",
        group="spectra",
        status="skip",
        reason="needs 32 GFlop",
        reference_kind=None,
        oracles={},
    ),
    replace(
        BASE,
        problem="rob_open",
        content_hash="open",
        reference_kind="unavailable",
        reference_reason="no gap",
        reference_ambiguous=True,
        forward_error=float("nan"),
        oracles={},
    ),
    replace(BASE, dtype="float32", content_hash="good32", forward_error=1e-6),
)


HEADER = {"profile": "quick", "device": "cpu"}
ENVIRONMENT = {"python": "CPython 3.11", "cpu": "A | B"}


def summary_of(*records: Record) -> Summary:
    return Summary(judge(table(records).to_pandas()), HEADER, ENVIRONMENT)


TRAINED = {
    "problem": "simplex",
    "optimizer": "Adam",
    "mode": "tangent",
    "weight_decay": 0.0,
    "dtype": "float64",
    "environment": "here",
    "status": "ok",
    "distance": 1e-9,
    "kkt": 1e-8,
    "feasibility": 1e-16,
    "steps_to": 300,
    "verdict": "pass",
    "why": "distance 1e-9",
    "allowed": 1e-6,
}


TRAINING = pd.DataFrame(
    [
        TRAINED,
        TRAINED | {"mode": "post", "distance": 0.3, "verdict": "expected", "why": "elsewhere"},
        TRAINED | {"optimizer": "SGD", "distance": 0.1, "verdict": "fail", "why": "too far"},
    ]
)


DRIFT = [
    replace(BASE, check="drift", steps=10**k, forward_error=k * 1e-14, oracles={})
    for k in (1, 2, 3)
]


def write_run(folder, *records, training=None, **header):
    """Write what `projlab validate` leaves in a run's folder."""
    store = Store.create(folder, HEADER | header)
    store.describe_environment("here", ENVIRONMENT)
    store.write_verdicts(judge(table(records).to_pandas()))
    if training is not None:
        store.write_verdicts(training, TRAINING_VERDICTS)
    store.end()
    return folder


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
