"""`projlab compare` on a file with inequalities or bounds: projlab's answer, solvers beside it.

A file is measured in a process of its own, which reports after every step: projlab's answer and
what its certificate proves, x* by an active set verified in rational arithmetic where the set is
small enough, then each solver, asked as the group `bounds` of the suite asks it. Where x* is not
known, projlab's answer stands in for it once the certificate proves that to `PROVEN`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from projlab.errors import InputError
from projlab.files.load import LoadedSystem
from projlab_validation.bounds import judge, oracle, section, solvers
from projlab_validation.bounds.problems import BoundedProblem
from projlab_validation.bounds.section import NAN, NO_TIMES, PROVEN, BoundsRecord, Times
from projlab_validation.formats import SEED, StoredSystem
from projlab_validation.judge import Verdict
from projlab_validation.process import reports
from projlab_validation.recommend import Compared, Recommendation

Vector = NDArray[np.float64]

MOST_ENTRIES = 2**25
"""Entries of A and G, zeros included: the oracle and the feasibility go by the dense matrices."""

REPEATED = 5.0
"""Seconds up to which a solver is asked twice, for its time alone."""


@dataclass(frozen=True)
class BoundedLine:
    """What projlab or a solver did on one file with inequalities or bounds.

    Attributes
    ----------
    name, kind
        projlab's way or the solver; "variant" or "peer".
    status, claimed
        What came back, and the answer's own status: "polished", or what a solver calls it.
    verdict, why
        What theory says of projlab's answer; peers are shown, not judged.
    forward_error, at_most, judged_by
        Against x*, where that is known ("exact", or the "certificate" of projlab's answer); what
        projlab's own certificate proves; which of them judged, or "nothing".
    feasibility
        The largest miss of a row or bound, scaled.
    setup_s, project_s, again_s
        Seconds to set up, for the first projection, and for one more from the same active set. A
        peer has its whole call, with cvxpy's, as `project_s`.
    """

    name: str
    kind: Literal["variant", "peer"]
    status: str
    claimed: str
    verdict: Verdict
    why: str
    forward_error: float = NAN
    at_most: float = NAN
    judged_by: str = "nothing"
    feasibility: float = NAN
    setup_s: float = NAN
    project_s: float = NAN
    again_s: float = NAN


@dataclass(frozen=True)
class BoundedComparison(Compared):
    """One file with inequalities or bounds, compared.

    Attributes
    ----------
    equations, inequalities, variables, bounded, fixed
        Counts: rows of A and of G; variables, those with a finite bound, and with lb = ub.
    """

    file: str
    dtype: str
    note: str
    x0: str
    equations: int
    inequalities: int
    variables: int
    bounded: int
    fixed: int
    lines: tuple[BoundedLine, ...]
    recommendation: Recommendation
    seconds: float


Measured = list[tuple[BoundsRecord, Times]]


def problem_of(stored: StoredSystem) -> BoundedProblem:
    """The problem of projecting x₀ onto the file's set.

    Raises
    ------
    InputError
        There is no b, or the set is too large to be held dense.
    """
    loaded = stored.loaded
    stored.right_side()
    p = 0 if loaded.h is None else len(loaded.h)
    m, n = loaded.A.shape
    if (m + p) * n > MOST_ENTRIES:
        raise InputError(
            f"{stored.path} holds inequalities or bounds on {m + p} × {n} entries, and compare "
            f"takes {MOST_ENTRIES:,} of these; --equations compares its equations alone"
        )
    point = np.random.default_rng(SEED).standard_normal(n) if loaded.x0 is None else loaded.x0
    lb, ub = _wide(loaded.lb), _wide(loaded.ub)
    return BoundedProblem(
        stored.path.name,
        np.asarray(point, dtype=np.float64),
        _wide(loaded.A) if m else None,
        _wide(loaded.b) if m else None,
        _wide(loaded.G),
        _wide(loaded.h),
        lb,
        ub,
    )


def _wide(part: Any) -> Any:
    if part is None:
        return None
    dense = part if isinstance(part, np.ndarray) else part.toarray()
    return np.asarray(dense, dtype=np.float64)


def compare(
    stored: StoredSystem,
    *,
    peers: bool,
    accuracy: float | None,
    threads: int | None,
    time_limit: float,
) -> BoundedComparison:
    """Project x₀ onto the file's set by projlab, and by the solvers that are installed."""
    start = time.perf_counter()
    problem = problem_of(stored)
    asked = solvers.installed() if peers else ()
    blank = BoundsRecord(
        problem.name,
        section.PROJLAB,
        "answer",
        "",
        problem.m,
        problem.n,
        empty=False,
        status="skip",
    )
    measured: Measured = [(replace(blank, status="error", reason="no answer"), NO_TIMES)]
    arguments = (problem, stored.loaded, asked, blank)
    for report, why in reports(
        _measure, arguments, measured, time_limit=time_limit, threads=threads
    ):
        measured = report
        if why:
            measured = _ended(report, asked, blank, why)
    lines = tuple(_line(record, times) for record, times in measured)
    lb, ub = problem.box
    return BoundedComparison(
        file=str(stored.path),
        dtype="float64",
        note=stored.note,
        x0=stored.point,
        equations=0 if problem.A is None else len(problem.A),
        inequalities=0 if problem.G is None else len(problem.G),
        variables=problem.n,
        bounded=int((np.isfinite(lb) | np.isfinite(ub)).sum()),
        fixed=int((lb == ub).sum()),
        lines=lines,
        recommendation=_recommend(stored, lines, accuracy),
        seconds=time.perf_counter() - start,
    )


def _ended(measured: Measured, asked: Sequence[str], blank: BoundsRecord, why: str) -> Measured:
    """What was measured until the end, and why the rest was not."""
    first, times = measured[0]
    if first.status == "error" and first.reason == "no answer":
        return [(replace(first, reason=why), times)]
    there = {record.variant for record, _ in measured}
    rest = [
        replace(blank, variant=name, role="solver", status="skip", reason=why)
        for name in asked
        if name not in there
    ]
    return [*measured, *((record, NO_TIMES) for record in rest)]


def _measure(
    report: Callable[[Measured], None],
    problem: BoundedProblem,
    loaded: LoadedSystem,
    asked: Sequence[str],
    blank: BoundsRecord,
) -> None:
    """Measure one file step by step."""
    from projlab import projector

    def made() -> Any:
        """On the rows as the file has them, sparse or dense."""
        return projector(loaded.polyhedron)

    own, x, times = section.own(problem, made, blank, again=True)
    report([(own, times)])
    if x is None:
        return
    found = oracle.exact(problem, [x])
    report([(section.compared(problem, own, x, found), times)])
    # Imports and compiled kernels are no part of what a call takes.
    times = section.own(problem, made, blank, proof=False, again=True)[2]
    answers: list[tuple[BoundsRecord, Vector | None]] = []
    for name in asked:
        if problem.n > solvers.MOST:
            why = f"{problem.n} variables, and solvers are asked up to {solvers.MOST}"
            answers.append((replace(blank, variant=name, role="solver", reason=why), None))
        else:
            record, answer = section.of_solver(problem, name, blank)
            if record.seconds < REPEATED:  # the first call imports what the solver needs
                again = section.of_solver(problem, name, blank)[0]
                record = replace(record, seconds=min(record.seconds, again.seconds))
            answers.append((record, answer))
        report(_against(problem, own, x, times, answers, found))
    if found is None:
        found = oracle.exact(problem, [answer for _, answer in answers if answer is not None])
    report(_against(problem, own, x, times, answers, found))


def _against(
    problem: BoundedProblem,
    own: BoundsRecord,
    x: Vector,
    times: Times,
    answers: Sequence[tuple[BoundsRecord, Vector | None]],
    found: oracle.Exact | None,
) -> Measured:
    """Every answer against x*, or against projlab's own where that is proven to be near."""
    first = section.compared(problem, own, x, found)
    if found is None and own.bound <= PROVEN:
        found = oracle.Exact(x, NAN, "certificate", own.bound)
    others = [
        (section.compared(problem, record, answer, found), (NAN, record.seconds, NAN))
        for record, answer in answers
    ]
    return [(first, times), *others]


def _line(record: BoundsRecord, times: Times) -> BoundedLine:
    row = dataclasses.asdict(record)
    verdict, why = judge.verdict_of(row, judge.allowed(row))
    if record.role == "solver":
        why = record.reason or (record.claimed if record.status == "error" else why)
    elif record.status == "refused":
        verdict, why = "skip", record.reason
    exact = record.reference in ("sorted", "active set")
    judged_by = "exact" if exact else "nothing"
    if not exact and not (math.isnan(record.distance) and math.isnan(record.bound)):
        judged_by = "certificate"
    setup_s, project_s, again_s = times
    return BoundedLine(
        record.variant,
        "variant" if record.role == "answer" else "peer",
        record.status,
        record.claimed,
        verdict,
        why,
        record.distance,
        record.bound if record.role == "answer" else record.distance + record.radius,
        judged_by,
        record.feasibility,
        setup_s,
        project_s,
        again_s,
    )


def nearness(line: BoundedLine) -> float:
    """The forward error, or what is proven of it."""
    return line.at_most if line.judged_by == "certificate" else line.forward_error


def _recommend(
    stored: StoredSystem, lines: Sequence[BoundedLine], accuracy: float | None
) -> Recommendation:
    own = lines[0]
    if own.status == "refused":
        return Recommendation("The set is empty: nothing is projected onto it.", "")
    if own.status != "ok":
        return Recommendation(f"No answer: {own.why}", "", reached=accuracy is None)
    at_most = "at most " if own.judged_by == "certificate" else ""
    text = f"{own.name}, {own.claimed}: forward error {at_most}{nearness(own):.2g}"
    reached = accuracy is None or nearness(own) <= accuracy
    if accuracy is not None:
        text += f", {'within' if reached else 'beyond'} the {accuracy:g} asked for"
    code = "\n".join(
        (
            "from projlab import load, projector",
            f"system = {stored.load_call('float64')}",
            "P = projector(system.polyhedron)",
        )
    )
    known = [line for line in lines if line.kind == "peer" and not math.isnan(line.forward_error)]
    changes = []
    if known:
        best = min(known, key=lambda line: line.forward_error)
        changes.append(
            f"The nearest of the peers is {best.name}: forward error {best.forward_error:.2g}, "
            f'"{best.claimed}".'
        )
    return Recommendation(f"{text}.", code, tuple(changes), own.name, reached)
