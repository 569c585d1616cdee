"""One measurement as one flat row: what was asked, what came back, at what cost, how far off.

A record holds figures and no verdict: :mod:`projlab_validation.judge` holds them against theory
when they are read. A figure that is missing is NaN, or None where the column is no float; it is
never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

    from projlab_validation.problems import Problem

Check = Literal[
    "projection",
    "refusal",
    "least_squares",
    "idempotence",
    "feasible_point",
    "row_scaling",
    "row_permutation",
    "column_permutation",
    "further_points",
    "stacked_points",
    "strided_points",
    "surroundings",
    "same_bits",
    "inputs_kept",
    "answers_kept",
    "state_kept",
    "certificate",
    "non_expansiveness",
    "gradients",
    "batched",
    "drift",
]
Status = Literal["ok", "refused", "error", "skip"]
Value = str | int | float | bool | None

NAN = math.nan
ORACLE_COLUMNS = ("oracle_status_", "oracle_error_", "oracle_s_", "difference_")


@dataclass(frozen=True)
class OracleFigures:
    """What one oracle said about the problem, and how far the variant's answer is from it.

    Attributes
    ----------
    status
        The oracle's own word for how it ended.
    error
        The oracle's own forward error ‖x − x*‖/‖x*‖ against the reference.
    seconds
        What the oracle took, its set-up included.
    difference
        ‖x_variant − x_oracle‖/‖x*‖.
    """

    status: str
    error: float = NAN
    seconds: float = NAN
    difference: float = NAN


@dataclass(frozen=True)
class Record:
    """One (problem, dtype, variant, check), measured.

    The check is "projection" for a consistent system; an inconsistent one gets two records,
    "refusal" (asked as usual: the right answer is ``InconsistentError``) and "least_squares" (asked
    with ``on_inconsistent="least_squares"``). What is asked besides stands in
    :mod:`projlab_validation.examine` and :mod:`projlab_validation.drift`. The variant column of a
    subject carries its spec.

    ``proven_at_least``, ``proven_at_most`` and ``proven_accuracy`` are a certificate's bounds on a
    forward error and what it holds them against, for the worst of several points, and
    ``proof`` what it calls that one; ``changed`` counts entries that are not what they
    were; ``excess`` is what ‖P(x) − P(y)‖ exceeds ‖x − y‖ by; ``steps`` counts the perturbed
    projections behind a "drift" record, whose x* is that of the exact trajectory.

    ``x_norm`` is the norm of the answer, and NaN only where there is none or it holds a NaN.
    Every relative figure is relative to ‖x*‖, or to ‖x₀‖ where x* = 0. ``feasibility`` is max over
    the rows of |(A x − b)ᵢ| / (‖aᵢ‖(‖x‖ + ‖x₀‖) + |bᵢ|), with A x* in place of b in a
    "least_squares" check; ``stationarity`` is the distance of x − x₀ from the row space over ‖x‖ +
    ‖x₀‖. ``perturbation_scale`` is what u·κ is multiplied with in the perturbation theory of the
    problem: ‖x₀‖ + ‖x₀ − x*‖, and for least squares κ‖A x* − b‖/‖A‖₂ on top.
    """

    problem: str
    group: str
    content_hash: str
    seed: int
    m: int
    n: int
    nnz: int
    density: float
    rows_overlap: bool
    dtype: str
    device: str
    variant: str
    check: Check
    environment: str
    status: Status
    reason: str = ""
    exception: str = ""
    computed_by: str = ""
    setup_s_median: float = NAN
    setup_s_min: float = NAN
    project_s_median: float = NAN
    project_s_min: float = NAN
    repeats: int = 0
    rank: int | None = None
    condition: float = NAN
    reference_kind: str | None = None
    reference_reason: str = ""
    reference_radius: float = NAN
    reference_rank: int | None = None
    reference_condition: float = NAN
    reference_ambiguous: bool | None = None
    reference_consistent: bool | None = None
    x0_norm: float = NAN
    xstar_norm: float = NAN
    correction_norm: float = NAN
    perturbation_scale: float = NAN
    x_norm: float = NAN
    forward_error: float = NAN
    feasibility: float = NAN
    stationarity: float = NAN
    stationarity_reason: str = ""
    proven_at_least: float = NAN
    proven_at_most: float = NAN
    proven_accuracy: float = NAN
    proof: str | None = None
    proof_reason: str = ""
    changed: int | None = None
    excess: float = NAN
    steps: int | None = None
    oracles: Mapping[str, OracleFigures] = field(default_factory=dict)

    def row(self) -> dict[str, Value]:
        """Return the record as one flat row: column name to value."""
        flat: dict[str, Value] = {name: _storable(getattr(self, name)) for name in COLUMNS}
        for oracle, figures in self.oracles.items():
            values: tuple[Value, ...] = astuple(figures)
            flat |= {
                prefix + oracle: value for prefix, value in zip(ORACLE_COLUMNS, values, strict=True)
            }
        return flat


def _storable(value: Value) -> Value:
    """Return a value as UTF-8 can hold it: what a subject raises may say anything."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


COLUMNS: Mapping[str, str] = {f.name: str(f.type) for f in fields(Record) if f.name != "oracles"}
"""The columns that every row has, each with its Python type as written above."""


def blank_record(problem: Problem, device: str, environment: str) -> Record:
    """Return what every record of this problem has in common."""
    return Record(
        problem=problem.name,
        group=problem.group,
        content_hash=problem.content_hash,
        seed=problem.seed,
        m=problem.m,
        n=problem.n,
        nnz=problem.nnz,
        density=problem.nnz / max(problem.m * problem.n, 1),
        rows_overlap=problem.rows_overlap,
        dtype=problem.dtype,
        device=device,
        variant="",
        check="projection",
        environment=environment,
        status="skip",
    )


def schema(oracles: Iterable[str]) -> pa.Schema:
    """Return the typed schema of rows measured with these oracles."""
    import pyarrow as pa

    def of(kind: str) -> pa.DataType:
        name = kind.removesuffix(" | None")
        return {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}.get(name, pa.string())

    columns = [pa.field(name, of(kind)) for name, kind in COLUMNS.items()]
    for oracle in sorted(oracles):
        columns += [
            pa.field(prefix + oracle, pa.string() if prefix == "oracle_status_" else pa.float64())
            for prefix in ORACLE_COLUMNS
        ]
    return pa.schema(columns)


def table(records: Sequence[Record]) -> pa.Table:
    """Return the records as one typed table, null where an oracle was not asked."""
    import pyarrow as pa

    oracles = {oracle for record in records for oracle in record.oracles}
    return pa.Table.from_pylist([record.row() for record in records], schema=schema(oracles))
