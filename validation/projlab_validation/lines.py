"""One line a variant or peer of a comparison, from its judged record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from projlab_validation.judge import judge
from projlab_validation.outcome import Outcome
from projlab_validation.record import NAN, Record, table
from projlab_validation.subjects import is_subject

Kind = Literal["variant", "peer"]

TIE = 1.2
"""Times that differ by less than this factor are the same: timings repeat no better than that."""


@dataclass(frozen=True)
class Extra:
    """What a comparison shows and a record does not hold."""

    stack: int = 0
    stacked_s: float = NAN
    held_bytes: int | None = None
    stationarity: float = NAN

    @staticmethod
    def of(outcome: Outcome, stack: int) -> Extra:
        """From what a variant was asked, with `stack` points at a time."""
        if not outcome.stacked:
            return Extra(held_bytes=outcome.held)
        return Extra(stack, min(outcome.stacked) / stack, outcome.held)


@dataclass(frozen=True)
class Line:
    """What one variant or peer did on one system.

    Attributes
    ----------
    name, kind, check
        Who was asked for what: "projection", or "least_squares" where the system is inconsistent.
    status, verdict, why, reason
        What it did, and what the judge says of it.
    forward_error, at_most, judged_by
        Against x*, where an oracle knows it ("exact", "ball" or "high precision"); the
        certificate's upper bound; which of them judged ("certificate"), or "nothing".
    bound, stable_bound
        What theory allows the variant, and a backward-stable method.
    feasibility, stationarity
        Scaled residuals, see `Record`.
    setup_s, project_s, stack, stacked_s
        Seconds to factor once the rank is decided, for one projection, and for one point of a
        stack. The fastest of the repeats. A peer sets up anew in every call.
    held_bytes
        What the factors take.
    exception
        By what name it was refused.
    pays_from
        Projections from which it costs less in total than whoever is cheapest for one; None where
        that never happens.
    """

    name: str
    kind: Kind
    check: str
    status: str
    verdict: str
    why: str
    reason: str
    forward_error: float
    at_most: float
    judged_by: str
    bound: float
    stable_bound: float
    feasibility: float
    stationarity: float
    setup_s: float
    project_s: float
    stack: int
    stacked_s: float
    held_bytes: int | None
    pays_from: int | None = field(default=None)
    exception: str = ""

    @property
    def nearness(self) -> float:
        """The forward error, or the least that is proven of it; NaN where nothing is."""
        return self.at_most if self.judged_by == "certificate" else self.forward_error


def lines(records: Sequence[Record], extras: Mapping[tuple[str, str], Extra]) -> list[Line]:
    """Judge the records; `extras` are by variant and check."""
    if not records:
        return []
    judged = judge(table(records).to_pandas())
    rows = cast("list[dict[str, Any]]", judged.to_dict("records"))
    all_lines = [_line(row, extras.get((row["variant"], row["check"]), Extra())) for row in rows]
    return _with_break_even(all_lines)


def _line(row: Mapping[str, Any], extra: Extra) -> Line:
    peer = is_subject(row["variant"])
    judged_by, doubtful = _judge_of(row), bool(row["reference_ambiguous"])
    stationarity = row["stationarity"]
    return Line(
        name=peer_name(row["variant"]),
        kind="peer" if peer else "variant",
        check=row["check"],
        status=row["status"],
        verdict=row["verdict"],
        why=row["why"],
        reason=row["reason"],
        forward_error=NAN if doubtful else row["forward_error"],
        at_most=row["proven_at_most"] if row["proof"] == "certified" else NAN,
        judged_by=judged_by,
        bound=row["bound"],
        stable_bound=_stable_bound(row),
        feasibility=row["feasibility"],
        stationarity=extra.stationarity if math.isnan(stationarity) else stationarity,
        setup_s=0.0 if peer and row["status"] == "ok" else row["setup_s_min"],
        project_s=row["project_s_min"],
        stack=extra.stack,
        stacked_s=extra.stacked_s,
        held_bytes=extra.held_bytes,
        exception=row["exception"],
    )


def _stable_bound(row: Mapping[str, Any]) -> float:
    """c·κ·u from the judge, or from the certificate where no oracle knows x*."""
    bound, proven = row["stable_bound"], row["proven_accuracy"]
    return float(proven if math.isnan(bound) else bound)


def _judge_of(row: Mapping[str, Any]) -> str:
    if row["status"] != "ok" or row["reference_ambiguous"]:
        return "nothing"
    if row["reference_kind"] not in (None, "unavailable"):
        return str(row["reference_kind"])
    return "certificate" if row["proof"] == "certified" else "nothing"


def peer_name(variant: str) -> str:
    """The module of an adapter of ours; the whole spec of anybody else's."""
    module = variant.partition(":")[0]
    ours = "projlab_validation.subjects."
    return module.removeprefix(ours) if module.startswith(ours) else variant


def _with_break_even(judged: Sequence[Line]) -> list[Line]:
    answered = [line for line in judged if line.status == "ok"]
    if not answered:
        return list(judged)
    first = min(answered, key=lambda line: line.setup_s + line.project_s)
    return [
        replace(line, pays_from=_pays_from(line, first)) if line.status == "ok" else line
        for line in judged
    ]


def _pays_from(line: Line, first: Line) -> int | None:
    if line is first:
        return 1
    saved = first.project_s - line.project_s
    if not TIE * line.project_s < first.project_s:
        return None
    return max(1, math.ceil((line.setup_s - first.setup_s) / saved))
