"""Compares every variant, and peers, on somebody's own system, and recommends one.

A system is measured in a process of its own, which reports after every step and is ended at the
time limit: what it reported until then is the comparison. In this order:

1. what the system is (`describe`): structure, then the rank decision; rows that contradict the
   others within the stated error of b get the right side that these imply;
2. every variant, as the validation suite asks it (`outcome.ask`);
3. the certificate of each answer (`proof.prove`), the largest systems' only judge;
4. x* by the oracles (`oracles.reference`), as exact as the time left allows;
5. peers, each in a further process with a time limit of its own.

The judge of the suite then holds every answer against its own theory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from projlab import AffineConstraint, ProjlabError, tolerance
from projlab.engine.variants import get
from projlab.numerics import memory
from projlab.system.options import OnInconsistent
from projlab_validation import subjects
from projlab_validation.compare_bounds import BoundedComparison
from projlab_validation.describe import (
    SystemDescription,
    analysed,
    is_sparse,
    meant,
    predicted_seconds,
    set_up_share,
    structure,
    with_clear_cutoff,
    with_condition_as_given,
)
from projlab_validation.formats import StoredSystem
from projlab_validation.lines import Extra, Line, lines, peer_name
from projlab_validation.oracles import FLOPS_PER_SECOND, Reference, reference
from projlab_validation.outcome import Outcome, Rule, ask, described, timed
from projlab_validation.problems import Problem
from projlab_validation.problems.problem import DTYPES, Dtype, Vector
from projlab_validation.process import STOPPED, reports
from projlab_validation.profiles import Profile
from projlab_validation.proof import prove
from projlab_validation.recommend import Compared, Question, Recommendation, recommend
from projlab_validation.record import Check, Record, blank_record
from projlab_validation.store import COMPARISON_FORMAT
from projlab_validation.truth import Truth

TIME_LIMIT = 120.0
STACK = 64
STACK_ENTRIES = 2**22
"""Points stacked for the batched timing: this many, or fewer with these entries in all."""

ANSWER_SHARE = 0.5
"""Of the time left a variant may be predicted to take: certificate and oracle come after it."""

DENSE_SECONDS = 3.0
"""What a variant may be predicted to take that makes a sparse system dense, where another answered
without; to name it by --variants is to ask it all the same."""

STEP_SECONDS, STEP_ENTRY_SECONDS = 2e-4, 5e-9
"""What a step of an iteration takes on a slow core: its calls, and each number that it reads."""

REFERENCE_SECONDS = 15.0
"""What x* may take: the certificate has judged by then."""

PROFILE = Profile("compare", DTYPES, math.inf, None, None, (), None, repeats=50, repeat_seconds=0.2)


@dataclass(frozen=True)
class ComparisonOptions:
    """What was asked for on the command line."""

    variants: tuple[str, ...]
    peers: tuple[str, ...] = ()
    device: str = "cpu"
    accuracy: float | None = None
    threads: int | None = None
    time_limit: float = TIME_LIMIT


@dataclass(frozen=True)
class Snapshot:
    """What is known so far of one system."""

    system: SystemDescription
    check: Check = "projection"
    records: tuple[Record, ...] = ()
    extras: Mapping[tuple[str, str], Extra] = field(default_factory=dict)
    reference: Reference | None = None
    meant: tuple[tuple[int, float], ...] = ()
    done: bool = False

    def stopped(self, problem: Problem, options: ComparisonOptions, why: str) -> Snapshot:
        """Return the same with a record for every variant that has none yet, which says why."""
        asked = {record.variant for record in self.records}
        blank = blank_record(problem, options.device, "")
        missing = [
            replace(blank, variant=v, status="skip", reason=why)
            for v in options.variants
            if v not in asked
        ]
        unknown = "" if self.system.rank is not None else f"the rank decision did not end, {why}"
        system = replace(self.system, unknown=unknown)
        return replace(self, system=system, records=(*self.records, *missing))


@dataclass(frozen=True)
class Comparison(Compared):
    """One file in one dtype, compared."""

    file: str
    dtype: Dtype
    note: str
    x0: str
    system: SystemDescription
    check: str
    lines: tuple[Line, ...]
    recommendation: Recommendation
    seconds: float


def compare(stored: StoredSystem, dtype: Dtype, options: ComparisonOptions) -> Comparison:
    """Compare the variants, and peers, on one system in one dtype."""
    start = time.perf_counter()
    problem = stored.problem(dtype)
    snapshot = _measured(problem, stored.errors, options)
    problem = problem.meaning(snapshot.meant)
    records, extras = list(snapshot.records), dict(snapshot.extras)
    for spec in options.peers:
        record, extra = _peer(spec, problem, snapshot, options)
        records.append(record)
        extras[spec, record.check] = extra
    # A refusal that is right only repeats that the system is inconsistent.
    shown = [
        line for line in lines(records, extras) if line.check != "refusal" or line.verdict == "fail"
    ]
    question = Question(
        snapshot.system,
        dtype,
        options.device,
        options.accuracy,
        options.time_limit,
        stored.b_error_code,
    )
    advice = recommend(question, shown)
    loaded = ("from projlab import load, projector", stored.code(dtype), advice.code)
    code = "\n".join(loaded) if advice.code else ""  # no line is given that would fail
    return Comparison(
        file=str(stored.path),
        dtype=dtype,
        note=stored.note,
        x0=stored.point,
        system=snapshot.system,
        check=snapshot.check,
        lines=tuple(shown),
        recommendation=replace(advice, code=code),
        seconds=time.perf_counter() - start,
    )


def payload(
    comparisons: Sequence[Comparison],
    options: ComparisonOptions,
    environment: Mapping[str, str],
    exit_code: int,
    unread: Sequence[str] = (),
    bounded: Sequence[BoundedComparison] = (),
) -> dict[str, Any]:
    """What programs and pages read: plain values, None where a figure is missing or infinite."""
    shown = {key: value for key, value in asdict(options).items() if key != "threads"}
    content = {
        "format": COMPARISON_FORMAT,
        "kind": "comparison",
        "exit_code": exit_code,
        "asked": {**shown, "peers": [peer_name(spec) for spec in options.peers]},
        "environment": dict(environment),
        "unread": list(unread),
        "systems": [asdict(comparison) for comparison in comparisons],
        "bounded": [asdict(comparison) for comparison in bounded],
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case float() if not math.isfinite(value):
            return None
    return value


def _measured(problem: Problem, errors: Vector | None, options: ComparisonOptions) -> Snapshot:
    """Measure in a process of its own; return its last snapshot, with why it is not the end."""
    known = Snapshot(structure(problem))
    needed = predicted_seconds(problem)
    if needed > options.time_limit and not is_sparse(known.system):
        unknown = (
            f"the rank decision alone is predicted to take {needed:.3g} s on a slow core, the time "
            f"limit is {options.time_limit:g} s"
        )
        return _skipped(problem, options, replace(known.system, unknown=unknown))
    ended = ""
    for report, why in _reports(_measure, (problem, errors, options), known, options):
        known, ended = report, why
    return known if known.done else known.stopped(problem, options, ended)


def _reports(
    work: Callable[..., None], arguments: tuple[Any, ...], first: Any, options: ComparisonOptions
) -> Iterator[tuple[Any, str]]:
    return reports(work, arguments, first, time_limit=options.time_limit, threads=options.threads)


def _measure(
    report: Callable[[Snapshot], None],
    problem: Problem,
    errors: Vector | None,
    options: ComparisonOptions,
) -> None:
    """Measure one system step by step."""
    deadline = time.monotonic() + options.time_limit
    system = structure(problem)
    constraint = _constraint(problem, options.device, errors)
    try:
        system = analysed(system, constraint)
    except ProjlabError as refusal:
        report(_skipped(problem, options, replace(system, unknown=str(refusal))))
        return
    report(Snapshot(system))
    if right := meant(constraint):
        problem = problem.meaning(right)
        constraint = _constraint(problem, options.device)
    # It takes half as long as the rank decision.
    if system.analysis_s < ANSWER_SHARE * (deadline - time.monotonic()):
        system = with_condition_as_given(system, problem)
    if system.ambiguous:
        system = with_clear_cutoff(system, constraint, deadline)
    _Measurement(report, problem, options, deadline, system, constraint, right).run()


def _skipped(problem: Problem, options: ComparisonOptions, system: SystemDescription) -> Snapshot:
    """Return the end of a system whose rank cannot be known: no variant is asked."""
    blank = blank_record(problem, options.device, "")
    skipped = [
        replace(blank, variant=v, status="skip", reason=system.unknown) for v in options.variants
    ]
    return Snapshot(system, records=tuple(skipped), done=True)


def _constraint(problem: Problem, device: str, errors: Vector | None = None) -> AffineConstraint:
    """A and b in the problem's dtype, with the names of the rows, on the device."""
    from projlab.engine.projector import moved

    dtype = np.dtype(problem.dtype)
    constraint = AffineConstraint(
        problem.A.astype(dtype),
        problem.b.astype(dtype),
        problem.row_names,
        b_error=0.0 if errors is None else errors,
    )
    return constraint if device == "cpu" else moved(constraint, torch.device(device))


@dataclass
class _Measurement:
    """Steps 2 to 4, on a system whose rank is known."""

    report: Callable[[Snapshot], None]
    problem: Problem
    options: ComparisonOptions
    deadline: float
    system: SystemDescription
    constraint: AffineConstraint
    meant: tuple[tuple[int, float], ...] = ()
    records: dict[tuple[str, str], Record] = field(default_factory=dict)
    extras: dict[tuple[str, str], Extra] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def run(self) -> None:
        """Measure, and report after every step."""
        self.problem = replace(self.problem, consistent=self.system.consistent)
        blank = blank_record(self.problem, self.options.device, "")
        unknown = self._unknown("no oracle answered within the time limit")
        if not self.system.consistent:
            truth = Truth(self.problem, "refusal", unknown, ())
            for variant in self.options.variants:
                outcome = self._ask(variant, "raise")
                self.records[variant, "refusal"] = truth.record(blank, variant, outcome)
        truth = Truth(self.problem, self.check, unknown, ())
        for variant in sorted(self.options.variants, key=lambda v: not get(v).keeps_sparse):
            self.outcomes[variant] = outcome = self._ask(
                variant, "raise" if self.system.consistent else "least_squares"
            )
            self.records[variant, self.check] = truth.record(blank, variant, outcome)
            self.extras[variant, self.check] = Extra.of(outcome, self._stack)
            self._send(unknown)
        self._certify()
        self._send(unknown)
        left = min(max(1.0, self.deadline - time.monotonic()), REFERENCE_SECONDS)
        x_star = reference(
            self.problem,
            least_squares=not self.system.consistent,
            time_limit=left,
        )
        if x_star.kind == "unavailable" and x_star.rank == -1:
            x_star = self._unknown(x_star.reason)
        self._judge_by(x_star, blank)
        self._send(x_star, done=True)

    @property
    def check(self) -> Check:
        """What is asked of the variants."""
        return "projection" if self.system.consistent else "least_squares"

    @property
    def _stack(self) -> int:
        return max(1, min(STACK, STACK_ENTRIES // self.problem.n))

    def _send(self, x_star: Reference, *, done: bool = False) -> None:
        self.report(
            Snapshot(
                self.system,
                self.check,
                tuple(self.records.values()),
                dict(self.extras),
                x_star,
                self.meant,
                done,
            )
        )

    def _unknown(self, reason: str) -> Reference:
        """No x*: what the diagnosis says of the rank stands in for the oracles."""
        nothing = np.full(self.problem.n, np.nan)
        return Reference(
            "unavailable",
            nothing,
            nothing,
            np.inf,
            self.system.rank if self.system.rank is not None else -1,
            self.system.condition,
            self.system.ambiguous,
            self.system.consistent,
            reason,
        )

    def _ask(self, variant: str, rule: Rule) -> Outcome:
        """Ask one variant, unless it is predicted to take what the judges need."""
        if reason := self._why_not(variant):
            return Outcome("skip", reason=reason)
        return ask(
            self.constraint,
            self.problem,
            variant,
            rule,
            PROFILE,
            self.options.device,
            stack=self._stack,
            decided=True,
        )

    def _why_not(self, variant: str) -> str:
        """Why a variant is not asked; "" where it is."""
        predicted = self._predicted(variant)
        if not predicted:
            return ""
        sparse = [v for v, o in self.outcomes.items() if o.x is not None and get(v).keeps_sparse]
        if get(variant).iterates:
            if predicted <= DENSE_SECONDS or not sparse:
                return self._too_long(predicted)
            return (
                f"may take {predicted:.0f} s of iterations, where {sparse[0]} answered without; "
                f"--variants {variant} runs it"
            )
        rank, n = self.system.rank or 0, self.problem.n
        dtype = getattr(torch, self.problem.dtype)
        needed = memory.factorisation_bytes(rank, n, dtype)
        there = memory.limit(torch.device(self.options.device))
        if needed > there:
            return (
                f"makes these rows dense, which takes {needed / 1e9:.3g} GB of the "
                f"{there / 1e9:.3g} GB there are"
            )
        if sparse and is_sparse(self.system) and predicted > DENSE_SECONDS:
            return (
                f"makes these rows dense and is predicted to take {predicted:.0f} s, where "
                f"{sparse[0]} answered without; --variants {variant} runs it"
            )
        return self._too_long(predicted)

    def _too_long(self, predicted: float) -> str:
        """Why a variant is not asked that takes so many seconds; "" where there is time for it."""
        left = self.deadline - time.monotonic()
        if predicted > ANSWER_SHARE * left:
            return (
                f"predicted to take {predicted:.0f} s, more than half of the {max(left, 0):.0f} s "
                "left for it and the judges; a longer --time-limit runs it"
            )
        return ""

    def _predicted(self, variant: str) -> float:
        """Seconds for a warm-up and one timed set-up of the kept rows.

        At the speed the rank decision went or that of a slow core: choosing rows, which no set-up
        repeats, may have taken most of that decision.
        """
        if not self.system.rows_overlap:
            return 0.0
        if get(variant).iterates:
            return self._iterating()
        if get(variant).keeps_sparse:
            return 0.0
        n, rank = self.problem.n, self.system.rank or 0
        speed = FLOPS_PER_SECOND
        if not is_sparse(self.system):
            speed *= predicted_seconds(self.problem) / self.system.analysis_s
        flops = get(variant).flops(rank, n)[0] * set_up_share(self.problem)
        return 2 * flops / max(speed, FLOPS_PER_SECOND)

    def _iterating(self) -> float:
        """Seconds of iterations: each set-up makes two, and each projection one, at least twice."""
        m, n = self.problem.m, self.problem.n
        u = tolerance.unit_roundoff(self.problem.dtype)
        steps = min(tolerance.iterated_steps(m, self.system.condition, u), tolerance.STEPS)
        entries: float = self.problem.csr().nnz + m + n
        if m <= tolerance.ORTHOGONAL:
            entries += m * steps
        return 6 * steps * (STEP_SECONDS + STEP_ENTRY_SECONDS * entries)

    def _certify(self) -> None:
        """Add each answer's certificate to its record."""
        answered = {v: o.x for v, o in self.outcomes.items() if o.x is not None}
        if not answered:
            return
        answers = torch.stack([torch.from_numpy(x) for x in answered.values()])
        answers = answers.to(self.constraint.device)
        x0 = torch.from_numpy(self.problem.x0).to(answers).expand_as(answers)
        rule: OnInconsistent = "raise" if self.system.consistent else "least_squares"
        try:
            proofs = prove(x0, answers, self.constraint, on_inconsistent=rule)
        except ProjlabError:  # too large to be certified: an oracle may know
            return
        for variant, proof in zip(answered, proofs, strict=True):
            key = variant, self.check
            self.records[key] = replace(self.records[key], **proof.columns())
            self.extras[key] = replace(self.extras[key], stationarity=proof.stationarity)

    def _judge_by(self, x_star: Reference, blank: Record) -> None:
        """Hold every outcome against x*, and keep what is proven of it."""
        proven = ("proven_at_least", "proven_at_most", "proven_accuracy", "proof", "proof_reason")
        for (variant, check), record in list(self.records.items()):
            refused = check == "refusal"
            outcome = _refusal(record) if refused else self.outcomes[variant]
            asked: Check = "refusal" if refused else self.check
            if x_star.consistent != self.system.consistent:  # then x* says what was right to ask
                asked = "projection" if x_star.consistent else "refusal"
            truth = Truth(self.problem, asked, x_star, ())
            kept = {name: getattr(record, name) for name in proven}
            self.records[variant, check] = replace(truth.record(blank, variant, outcome), **kept)


def _refusal(record: Record) -> Outcome:
    return Outcome(record.status, reason=record.reason, exception=record.exception)


def _peer(
    spec: str, problem: Problem, known: Snapshot, options: ComparisonOptions
) -> tuple[Record, Extra]:
    """Ask one peer, in a process of its own that is ended at the time limit."""
    blank = replace(blank_record(problem, options.device, ""), variant=spec)
    if reason := _why_not(known, options):
        return replace(blank, reason=reason), Extra()
    outcome = Outcome("error", reason="it ended without an answer")
    for report, why in _reports(_ask_peer, (spec, problem), None, options):
        if isinstance(report, Outcome):
            outcome = report
        elif why:
            outcome = Outcome("skip" if why.startswith(STOPPED) else "error", reason=why)
    assert known.reference is not None
    truth = Truth(problem, "projection", known.reference, ())
    return truth.record(blank, spec, outcome), Extra.of(outcome, STACK)


def _why_not(known: Snapshot, options: ComparisonOptions) -> str:
    """Why a peer is not asked; "" where it is."""
    if known.reference is None:
        return "a peer is asked where the rank is known only"
    if known.check != "projection":
        return "a peer is asked about consistent systems only"
    if known.system.ambiguous:
        return "a peer is asked about systems of unambiguous rank only"
    if options.device != "cpu":
        return "peers are compared on the CPU only"
    return ""


def _ask_peer(report: Callable[[Outcome], None], spec: str, problem: Problem) -> None:
    """Project x₀, and a stack of it, and report what came back at what cost."""
    subject = subjects.load(spec)
    dtype = getattr(torch, problem.dtype)

    def inputs(points: int = 0) -> tuple[Any, Any, Any]:
        x0 = torch.tensor(problem.x0, dtype=dtype)
        A, b = torch.tensor(problem.dense(), dtype=dtype), torch.tensor(problem.b, dtype=dtype)
        return (x0.repeat(points, 1) if points else x0), A, b

    def nothing() -> None:
        """There is no device to wait for."""

    try:
        x = torch.as_tensor(subject(*inputs())).detach().numpy().copy()
        if x.shape != (problem.n,):
            report(Outcome("error", reason=f"the answer has shape {x.shape}, x0 {(problem.n,)}"))
            return
        once = inputs()
        project = timed(lambda: subject(*once), nothing, PROFILE)[1]
        outcome = Outcome("ok", x=x, computed_by=spec, project=tuple(project))
        report(outcome)
        many = inputs(STACK)
        stacked = timed(lambda: subject(*many), nothing, PROFILE)[1]
        report(replace(outcome, stacked=tuple(stacked)))
    except Exception as fault:  # whatever a peer raises is a finding about that peer
        report(Outcome("error", reason=described(fault), exception=type(fault).__name__))
