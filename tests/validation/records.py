"""A record of an answer that passes; tests change what they are about."""

from dataclasses import replace

from projlab_validation.record import OracleFigures, Record

ANSWERED = Record(
    problem="p",
    group="spectra",
    content_hash="hash",
    seed=1,
    m=3,
    n=10,
    nnz=30,
    density=1.0,
    rows_overlap=True,
    dtype="float64",
    device="cpu",
    variant="qr",
    check="projection",
    environment="here",
    status="ok",
    computed_by="qr",
    rank=3,
    condition=1e3,
    reference_kind="exact",
    reference_radius=1e-32,
    reference_rank=3,
    reference_condition=1e3,
    reference_ambiguous=False,
    reference_consistent=True,
    x0_norm=1.0,
    xstar_norm=1.0,
    correction_norm=0.5,
    perturbation_scale=1.5,
    x_norm=1.0,
    forward_error=1e-14,
    feasibility=1e-16,
    oracles={"lstsq_gelsd": OracleFigures("ok", 1e-14, 1e-4, 1.5e-14)},
)


def record(problem="p1", variant="qr", **changes):
    """The record of another problem by another variant."""
    names = {"problem": problem, "content_hash": f"hash-of-{problem}", "variant": variant}
    return replace(ANSWERED, **names, **changes)
