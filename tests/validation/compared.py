"""A small system, its records and lines, for the tests of what `projlab compare` says."""

import math
from pathlib import Path

import numpy as np
import torch

import projlab
from projlab.files.load import LoadedSystem
from projlab_validation import formats
from projlab_validation.lines import Line
from projlab_validation.record import Record

A = np.array([[1.0, 2.0, 0.0, 1.0], [0.0, 1.0, -1.0, 3.0], [1.0, 3.0, -1.0, 4.0]])
B = np.array([1.0, 2.0, 3.0])  # the third row is the sum of the first two
NAMES = ("in", "out", "total")


def stored(A, b, names=None, dtype="float64"):
    loaded = LoadedSystem(A.astype(dtype), b, None, names, ())
    return formats.StoredSystem(Path("system.npz"), loaded)


def run_code(code, A, b):
    """Run the line after those that load, and return what it projects the origin to."""
    names = {"projector": projlab.projector, "A": A, "b": b}
    exec(code.splitlines()[-1], names)  # noqa: S102  what users are told to paste
    return names["P"](torch.zeros(A.shape[1], dtype=torch.float64)).numpy()


RECORD = Record(
    problem="system.npz", group="compare", content_hash="", seed=0, m=3, n=4, nnz=10, density=0.8,
    rows_overlap=True, dtype="float64", device="cpu", variant="qr", check="projection",
    environment="", status="ok", computed_by="qr", rank=2, condition=3.0, x_norm=1.0,
    reference_kind="unavailable", reference_reason="no time", reference_ambiguous=False,
    feasibility=1e-17, setup_s_min=1e-3, project_s_min=1e-5, proven_at_least=0.0,
    proven_at_most=3e-16, proven_accuracy=1e-14, proof="certified",
)  # fmt: skip


def line(name, setup, project, error, **other):
    return Line(
        name=name,
        kind=other.pop("kind", "variant"),
        check="projection",
        status=other.pop("status", "ok"),
        verdict=other.pop("verdict", "pass"),
        why=other.pop("why", ""),
        reason="",
        forward_error=error,
        at_most=math.nan,
        judged_by="exact",
        bound=other.pop("bound", 1e-10),
        stable_bound=1e-12,
        feasibility=0.0,
        stationarity=0.0,
        setup_s=setup,
        project_s=project,
        stack=64,
        stacked_s=project,
        held_bytes=0,
    )
