"""Measures one problem: x* and the oracles' answers once, then every variant against them.

Every figure is computed from the original A, b and x₀ and from the reference, with numpy and scipy;
nothing of the engine's own analysis enters, except in the two columns that record it (rank,
condition).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from projlab_validation.norms import norm
from projlab_validation.profiles import Profile, over_budget
from projlab_validation.record import NAN, Check, OracleFigures, Record, Status
from projlab_validation.subjects import is_subject
from projlab_validation.watch import Answered, Asked, Tell, nobody

if TYPE_CHECKING:
    from projlab import AffineConstraint, Projector
    from projlab.system.options import OnInconsistent
    from projlab_validation.oracles import Answer, Reference
    from projlab_validation.problems import Problem

T = TypeVar("T")
Array = np.ndarray[Any, np.dtype[Any]]

BASIS_FLOPS = 1e9
"""Stationarity is measured where a basis of the row space takes at most this (m² n)."""

STRUCTURAL = ("InputError", "MemoryLimitError")
"""Refusals that need no x* to be judged: the variant does not take this structure or size."""


@dataclass(frozen=True)
class Outcome:
    """What a variant did when it was asked: answered with x, refused, or failed."""

    status: Status
    x: Array | None = None
    reason: str = ""
    exception: str = ""
    computed_by: str = ""
    rank: int | None = None
    condition: float = NAN
    setup: tuple[float, ...] = ()
    project: tuple[float, ...] = ()
    stacked: tuple[float, ...] = ()
    """Seconds of projecting a stack of points, where one was asked for."""
    held: int | None = None
    """Bytes of what the projector keeps besides the constraint, where a stack was asked for."""


def measure(
    problem: Problem,
    variants: Sequence[str],
    profile: Profile,
    *,
    device: str = "cpu",
    environment: str = "",
    tell: Tell = nobody,
) -> list[Record]:
    """Measure every variant, or examine subjects, on one problem, in its dtype, on this device.

    What goes wrong outside them (a reference, an oracle) makes every record an "error" that says
    so: they were not measured, and nobody should take that for a skip.
    """
    from projlab_validation.examine import examine

    blank = blank_record(problem, device, environment)
    work = examine if is_subject(variants[0]) else _measure
    try:
        return work(problem, variants, profile, blank, tell)
    except Exception as fault:  # a worker serves many problems: none may lose the others
        return faulty(blank, variants, fault)


def faulty(blank: Record, variants: Iterable[str], fault: BaseException) -> list[Record]:
    """Return one record a variant of a problem that could not be measured."""
    reason = f"the problem could not be measured: {_describe(fault)}"
    kind = type(fault).__name__
    return [
        replace(blank, variant=v, status="error", reason=reason, exception=kind) for v in variants
    ]


def _measure(
    problem: Problem, variants: Sequence[str], profile: Profile, blank: Record, tell: Tell
) -> list[Record]:
    from projlab_validation.examine import examine_variant
    from projlab_validation.oracles import cvx, lstsq, reference

    asked, records = [], []
    m, n, overlap = problem.m, problem.n, blank.rows_overlap
    for variant in variants:
        if reason := over_budget(profile, variant, m, n, overlap=overlap):
            records.append(replace(blank, variant=variant, status="skip", reason=reason))
        else:
            asked.append(variant)
    if not asked:
        return records

    constraint = _constraint(problem)
    outcomes: dict[str, Outcome] = {}
    for v in asked:
        tell(Asked(v, "projection"))
        outcomes[v] = ask(
            constraint, problem, v, "raise", profile, blank.device, decided=bool(outcomes)
        )
        tell(Answered())
    if all(o.status == "refused" and o.exception in STRUCTURAL for o in outcomes.values()):
        return records + [_unjudged(blank, v, o) for v, o in outcomes.items()]

    seconds = profile.reference_seconds
    answers = lstsq.answers(problem)
    if problem.dtype in profile.cvxpy_dtypes:
        answers += cvx.answers(problem, time_limit=profile.cvxpy_seconds)
    x_star = reference(problem, time_limit=seconds)
    truth = Truth(problem, "projection" if x_star.consistent else "refusal", x_star, answers)
    found = {v: truth.record(blank, v, o) for v, o in outcomes.items()}
    if not x_star.consistent:
        records += found.values()
        tell(Answered(tuple(records)))
        x_star = reference(problem, least_squares=True, time_limit=seconds)
        truth = Truth(problem, "least_squares", x_star, answers)
        outcomes = {}
        for v in asked:
            tell(Asked(v, "least_squares"))
            outcomes[v] = ask(
                constraint,
                problem,
                v,
                "least_squares",
                profile,
                blank.device,
                decided=bool(outcomes),
            )
            found[v] = truth.record(blank, v, outcomes[v])
            tell(Answered((found[v],)))
    answered = {v: o.x for v, o in outcomes.items() if o.x is not None}
    certified = certificates(truth, constraint, answered, found)
    answers_for_x0 = [*(found | certified[0]).values(), *certified[1]]
    records += answers_for_x0
    if truth.check == "projection" and truth.known and not x_star.ambiguous:
        tell(Answered(tuple(answers_for_x0)))
        for v, x in answered.items():
            if problem.m**2 * problem.n <= profile.check_flops:
                records += examine_variant(truth, found[v], x, profile, tell)
            if problem.group == "drift":
                tell(Asked(v, "drift"))
                records += drift(truth, found[v], profile)
                tell(Answered())
    return records


def certificates(
    truth: Truth,
    constraint: AffineConstraint,
    answered: Mapping[str, Array],
    found: Mapping[str, Record],
) -> tuple[dict[str, Record], list[Record]]:
    """Certify the answers for x₀: return their records with the proof, and a record a proof.

    Where the reference knows x*, it judges the answer and the certificate; where it does not, the
    certificate judges the answer.
    """
    import torch

    from projlab import ProjlabError
    from projlab_validation.proof import prove

    if not answered:
        return {}, []
    problem, device = truth.problem, constraint.device
    answers = torch.stack([torch.from_numpy(x) for x in answered.values()]).to(device)
    x0 = torch.from_numpy(problem.x0).to(answers).expand_as(answers)
    rule: OnInconsistent = "least_squares" if truth.check == "least_squares" else "raise"
    nothing: dict[str, Any] = {"oracles": {}, "feasibility": NAN, "stationarity": NAN}
    blank = [replace(found[v], check="certificate", **nothing) for v in answered]
    try:
        proofs = prove(x0, answers, constraint, on_inconsistent=rule)
    except ProjlabError as refusal:
        reason, kind = str(refusal), type(refusal).__name__
        refused = [replace(r, status="refused", reason=reason, exception=kind) for r in blank]
        return {}, refused
    columns = [proof.columns() for proof in proofs]
    return (
        {v: replace(found[v], **figures) for v, figures in zip(answered, columns, strict=True)},
        [replace(record, **figures) for record, figures in zip(blank, columns, strict=True)],
    )


def drift(truth: Truth, base: Record, profile: Profile) -> Iterator[Record]:
    """Yield a record a power of ten of perturbed projections, see `projlab_validation.drift`."""
    from projlab_validation.drift import trajectory
    from projlab_validation.oracles import reference

    problem = truth.problem
    for steps, moved, there, x in trajectory(problem, base.variant, profile, base.device):
        here = Truth(there, "projection", reference(there), ())
        answer = x.cpu().numpy()
        yield replace(
            base,
            check="drift",
            steps=steps,
            oracles={},
            x0_norm=here.x0_norm,
            xstar_norm=here.xstar_norm,
            reference_radius=here.reference.radius,
            perturbation_scale=truth.perturbation_scale + here.xstar_norm + moved,
            x_norm=float(np.linalg.norm(answer)),
            forward_error=here.forward_error(answer),
            feasibility=here.feasibility(answer),
            stationarity=NAN,
        )


def ask(
    constraint: AffineConstraint,
    problem: Problem,
    variant: str,
    on_inconsistent: Literal["raise", "least_squares"],
    profile: Profile,
    device: str,
    *,
    stack: int = 0,
    decided: bool = False,
) -> Outcome:
    """Ask one variant to project x₀; set-up and projection are timed apart.

    With `stack`, that many points stacked as (stack, n) are timed besides. `decided`: the
    constraint has been asked before, and holds its rank.
    """
    import torch

    from projlab import ProjlabError, projector

    x0 = torch.from_numpy(problem.x0).to(device=device, dtype=getattr(torch, problem.dtype))
    synchronise = torch.get_device_module(device).synchronize
    try:
        P, setup = timed(
            lambda: projector(constraint, variant=variant, on_inconsistent=on_inconsistent).to(
                device
            ),
            synchronise,
            profile,
            lasting=decided,
        )
        with torch.no_grad():
            x, project = timed(lambda: P(x0), synchronise, profile)
            stacked: list[float] = []
            if stack:
                points = x0.repeat(stack, 1)
                stacked = timed(lambda: P(points), synchronise, profile)[1]
    except ProjlabError as refusal:
        return Outcome("refused", reason=str(refusal), exception=type(refusal).__name__)
    except Exception as fault:  # whatever a variant raises is a finding about that variant
        return Outcome("error", reason=_describe(fault), exception=type(fault).__name__)
    return Outcome(
        "ok",
        x=x.cpu().numpy(),
        computed_by=P.variant,
        rank=int(P.rank),
        condition=float(P.condition),
        setup=tuple(setup),
        project=tuple(project),
        stacked=tuple(stacked),
        held=held_bytes(P) if stack else None,
    )


def held_bytes(P: Projector) -> int:
    """Bytes of the tensors that a projector keeps, without its constraint: its factors."""
    import torch

    sizes: dict[int, int] = {}
    seen = {id(P.constraint), id(P.A), id(P.b)}
    waiting: list[object] = [P]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, Mapping):
            waiting += thing.values()
        elif isinstance(thing, (list, tuple)):
            waiting += thing
        elif type(thing).__module__.startswith("projlab"):
            waiting += vars(thing).values()
    return sum(sizes.values())


def timed(
    work: Callable[[], T],
    synchronise: Callable[[], None],
    profile: Profile,
    *,
    lasting: bool = False,
) -> tuple[T, list[float]]:
    """Do the work once untimed, to warm up, then repeatedly: what it returned, and the seconds.

    `lasting`: what the work leaves behind for the next call is there already. A warm-up that took
    as long as all repeats may is then the measurement.
    """
    start = time.perf_counter()
    result = work()
    synchronise()
    first = time.perf_counter() - start
    seconds = [first] if lasting and first >= profile.repeat_seconds else []
    while not seconds or (len(seconds) < profile.repeats and sum(seconds) < profile.repeat_seconds):
        start = time.perf_counter()
        result = work()
        synchronise()
        seconds.append(time.perf_counter() - start)
    return result, seconds


class Truth:
    """What is known about the answer to one check of one problem, independently of projlab."""

    def __init__(
        self, problem: Problem, check: Check, reference: Reference, answers: Sequence[Answer]
    ) -> None:
        self.problem = problem
        self.check = check
        self.reference = reference
        self.answers = answers
        self.known = reference.kind != "unavailable"
        self.x0_norm = norm(problem.x0)
        self.xstar_norm = norm(reference.x_high) if self.known else NAN
        # ‖x*‖; ‖x₀‖ where x* = 0; absolute where both are 0, and nothing else is right.
        self.scale = self.xstar_norm or self.x0_norm or 1.0
        self.oracle_errors = [self.forward_error(answer.x) for answer in answers]

    def distance(self, x: Array) -> float:
        """‖x − x*‖, with x* in two words; NaN where x* is not known."""
        if not self.known:
            return NAN
        return norm((x - self.reference.x_high) - self.reference.x_low)

    def forward_error(self, x: Array | None) -> float:
        """‖x − x*‖ relative to the scale; NaN without an answer."""
        return NAN if x is None else self.distance(x) / self.scale

    def record(self, blank: Record, variant: str, outcome: Outcome) -> Record:
        """Return the figures of one outcome."""
        reference, x = self.reference, outcome.x
        record = replace(
            _unjudged(blank, variant, outcome),
            check=self.check,
            reference_kind=reference.kind,
            reference_reason=reference.reason,
            reference_radius=reference.radius,
            reference_rank=reference.rank,
            reference_condition=reference.condition,
            reference_ambiguous=reference.ambiguous,
            reference_consistent=reference.consistent,
            x0_norm=self.x0_norm,
            xstar_norm=self.xstar_norm,
            correction_norm=self.distance(self.problem.x0),
            perturbation_scale=self.perturbation_scale,
            oracles={
                answer.oracle: OracleFigures(
                    answer.status, error, answer.seconds, self.difference(x, answer.x)
                )
                for answer, error in zip(self.answers, self.oracle_errors, strict=True)
            },
        )
        if x is None:
            return record
        stationarity, reason = self.stationarity(x)
        return replace(
            record,
            x_norm=norm(x),
            forward_error=self.forward_error(x),
            feasibility=self.feasibility(x),
            stationarity=stationarity,
            stationarity_reason=reason,
        )

    def difference(self, x: Array | None, other: Array | None) -> float:
        """How far two answers are from each other, relative to the scale."""
        if x is None or other is None or not self.known:
            return NAN
        return norm(x.astype(np.float64) - other) / self.scale

    @cached_property
    def perturbation_scale(self) -> float:
        """What perturbation theory multiplies u·κ with.

        ‖x₀‖ + ‖x₀ − x*‖; in least squares the residual adds κ‖A x* − b‖/‖A‖₂ (Wedin; ASNA section
        20.1).
        """
        scale = self.x0_norm + self.distance(self.problem.x0)
        if self.check != "least_squares" or not self.known:
            return scale
        A = self.problem.dense()
        residual = norm(A @ self.reference.x_high - self.problem.b)
        return scale + self.reference.condition * residual / float(np.linalg.norm(A, 2))

    def feasibility(self, x: Array) -> float:
        """The largest scaled row residual of x, see `Record`, in the longest float there is."""
        wide = np.longdouble
        A, x_wide = self.problem.A.astype(wide), x.astype(wide)
        b = self.problem.b.astype(wide)
        if self.check == "least_squares":
            if not self.known:
                return NAN
            b = A @ (self.reference.x_high.astype(wide) + self.reference.x_low)
        size = self.row_norms * (norm(x) + self.x0_norm) + np.abs(b)
        residual = np.abs(A @ x_wide - b)
        # A row whose scale is 0 holds 0 = 0 and is met exactly.
        return float(np.max(residual / np.where(size > 0, size, 1), initial=0.0))

    def stationarity(self, x: Array) -> tuple[float, str]:
        """The scaled distance of x − x₀ from the row space, or NaN and why there is none."""
        if not self.known:
            return NAN, "the rank is not known"
        m, n = self.problem.m, self.problem.n
        if m * m * n > BASIS_FLOPS:
            return NAN, (
                f"an orthonormal basis of the row space needs {m * m * n / 1e9:.3g} GFlop, "
                f"more than {BASIS_FLOPS / 1e9:.3g}"
            )
        step = x - self.problem.x0
        outside = step - self.row_basis @ (self.row_basis.T @ step)
        size = norm(x) + self.x0_norm
        return norm(outside) / (size or 1.0), ""

    @cached_property
    def row_norms(self) -> Array:
        """‖aᵢ‖₂ of the original rows."""
        return np.asarray(scipy.sparse.linalg.norm(self.problem.csr(), axis=1))

    @cached_property
    def row_basis(self) -> Array:
        """(n, r): an orthonormal basis of the row space, by pivoted QR of equilibrated rows."""
        A = self.problem.dense()
        norms = np.where(self.row_norms > 0, self.row_norms, 1.0)
        E = A * np.exp2(-np.round(np.log2(norms)))[:, None]
        Q = scipy.linalg.qr(E.T, mode="economic", pivoting=True)[0]
        return np.asarray(Q[:, : self.reference.rank])


def rows_overlap(problem: Problem) -> bool:
    """Whether some column has nonzeros in two rows or more."""
    columns = problem.csr().tocoo()
    counts = np.bincount(columns.col[columns.data != 0], minlength=problem.n)
    return bool(np.max(counts, initial=0) > 1)


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
        rows_overlap=rows_overlap(problem),
        dtype=problem.dtype,
        device=device,
        variant="",
        check="projection",
        environment=environment,
        status="skip",
    )


def _unjudged(blank: Record, variant: str, outcome: Outcome) -> Record:
    """Return an outcome's record without anything that needs x*."""
    return replace(
        blank,
        variant=variant,
        status=outcome.status,
        reason=outcome.reason,
        exception=outcome.exception,
        computed_by=outcome.computed_by,
        rank=outcome.rank,
        condition=outcome.condition,
        setup_s_median=median(outcome.setup) if outcome.setup else NAN,
        setup_s_min=min(outcome.setup, default=NAN),
        project_s_median=median(outcome.project) if outcome.project else NAN,
        project_s_min=min(outcome.project, default=NAN),
        repeats=len(outcome.project),
    )


def _constraint(problem: Problem) -> AffineConstraint:
    """Hand A and b to the engine in the problem's dtype; variants share its analysis."""
    from projlab import AffineConstraint

    dtype = np.dtype(problem.dtype)
    return AffineConstraint(problem.A.astype(dtype), problem.b.astype(dtype))


def _describe(fault: BaseException) -> str:
    """Return type, text and place of an exception, in one line."""
    frames = traceback.extract_tb(fault.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(fault).__name__}: {fault}{where}"
