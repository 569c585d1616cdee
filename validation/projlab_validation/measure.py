"""Measures one problem: x* and the oracles' answers once, then every variant against them.

Variants are timed and certified, and examined further where x* is known (`examine`); a subject is
examined alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from projlab_validation import subjects
from projlab_validation.examine import examine_subject, examine_variant
from projlab_validation.outcome import Array, Outcome, Rule, ask, described, load_libraries
from projlab_validation.profiles import Profile, over_budget, within
from projlab_validation.record import NAN, Check, Record, blank_record
from projlab_validation.truth import Truth
from projlab_validation.watch import Answered, Asked, Tell, nobody

if TYPE_CHECKING:
    from projlab import AffineConstraint
    from projlab.system.options import OnInconsistent
    from projlab_validation.oracles import Answer
    from projlab_validation.problems import Problem

STRUCTURAL = ("InputError", "MemoryLimitError")
"""Refusals that need no x* to be judged: the variant does not take this structure or size."""


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
    blank = blank_record(problem, device, environment)
    work = _measure_subjects if subjects.is_subject(variants[0]) else _measure_variants
    try:
        return work(problem, variants, profile, blank, tell)
    except Exception as fault:  # a worker serves many problems: none may lose the others
        return faulty(blank, variants, fault)


def faulty(blank: Record, variants: Iterable[str], fault: BaseException) -> list[Record]:
    """Return one record a variant of a problem that could not be measured."""
    reason = f"the problem could not be measured: {described(fault)}"
    kind = type(fault).__name__
    return [
        replace(blank, variant=v, status="error", reason=reason, exception=kind) for v in variants
    ]


def _measure_variants(
    problem: Problem, variants: Sequence[str], profile: Profile, blank: Record, tell: Tell
) -> list[Record]:
    from projlab_validation.oracles import reference

    records, asked = _within_budget(problem, variants, profile, blank)
    if not asked:
        return records
    constraint = _constraint(problem)
    outcomes: dict[str, Outcome] = {}
    for v, outcome in _ask(constraint, problem, asked, "projection", profile, blank, tell):
        outcomes[v] = outcome
        tell(Answered())
    if all(o.status == "refused" and o.exception in STRUCTURAL for o in outcomes.values()):
        return records + [o.record(blank, v) for v, o in outcomes.items()]

    answers = _oracle_answers(problem, profile)
    x_star = reference(problem, time_limit=profile.reference_seconds)
    truth = Truth(problem, "projection" if x_star.consistent else "refusal", x_star, answers)
    by_variant = {v: truth.record(blank, v, o) for v, o in outcomes.items()}
    if not x_star.consistent:
        records += by_variant.values()
        tell(Answered(tuple(records)))
        x_star = reference(problem, least_squares=True, time_limit=profile.reference_seconds)
        truth = Truth(problem, "least_squares", x_star, answers)
        for v, outcome in _ask(constraint, problem, asked, "least_squares", profile, blank, tell):
            outcomes[v], by_variant[v] = outcome, truth.record(blank, v, outcome)
            tell(Answered((by_variant[v],)))
    answered = {v: o.x for v, o in outcomes.items() if o.x is not None}
    proven, certificates = _certified(truth, constraint, answered, by_variant)
    for_x0 = [*(by_variant | proven).values(), *certificates]
    records += for_x0
    if truth.check == "projection" and truth.known and not x_star.ambiguous:
        tell(Answered(tuple(for_x0)))
        for v, x in answered.items():
            records += _further(truth, by_variant[v], x, profile, tell)
    return records


def _within_budget(
    problem: Problem, variants: Sequence[str], profile: Profile, blank: Record
) -> tuple[list[Record], list[str]]:
    """Return the records of variants that the profile skips, and the other variants."""
    skipped, asked = [], []
    for v in variants:
        if reason := over_budget(profile, v, problem):
            skipped.append(replace(blank, variant=v, status="skip", reason=reason))
        else:
            asked.append(v)
    return skipped, asked


def _ask(
    constraint: AffineConstraint,
    problem: Problem,
    variants: Iterable[str],
    check: Check,
    profile: Profile,
    blank: Record,
    tell: Tell,
) -> Iterator[tuple[str, Outcome]]:
    """Ask variant after variant, saying whom; the first decides the rank for all."""
    load_libraries(problem.dtype)  # no variant's time: on a fresh machine its limit would not do
    rule: Rule = "least_squares" if check == "least_squares" else "raise"
    for i, v in enumerate(variants):
        tell(Asked(v, check))
        yield v, ask(constraint, problem, v, rule, profile, blank.device, decided=i > 0)


def _oracle_answers(problem: Problem, profile: Profile) -> list[Answer]:
    from projlab_validation.oracles import cvx, lstsq

    if problem.stays_sparse:  # the solvers are asked about the same systems in their own groups
        return []
    dense = problem.m * problem.m * problem.n
    answers = lstsq.answers(problem) if dense <= profile.flops else []
    if problem.dtype in profile.cvxpy_dtypes:
        answers += cvx.answers(problem, time_limit=profile.cvxpy_seconds)
    return answers


def _certified(
    truth: Truth,
    constraint: AffineConstraint,
    answered: Mapping[str, Array],
    records: Mapping[str, Record],
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
    blank = [replace(records[v], check="certificate", **nothing) for v in answered]
    try:
        proofs = prove(x0, answers, constraint, on_inconsistent=rule)
    except ProjlabError as refusal:
        reason, kind = str(refusal), type(refusal).__name__
        refused = [replace(r, status="refused", reason=reason, exception=kind) for r in blank]
        return {}, refused
    columns = [proof.columns() for proof in proofs]
    return (
        {v: replace(records[v], **figures) for v, figures in zip(answered, columns, strict=True)},
        [replace(record, **figures) for record, figures in zip(blank, columns, strict=True)],
    )


def _further(
    truth: Truth, base: Record, x: Array, profile: Profile, tell: Tell
) -> Iterator[Record]:
    """Yield what a variant is asked beyond x₀, where its answer was x with the record `base`."""
    from projlab_validation.drift import drift_records

    problem = truth.problem
    if within(problem, profile.check_flops):
        yield from examine_variant(truth, base, x, profile, tell)
    if problem.group == "drift":
        tell(Asked(base.variant, "drift"))
        yield from drift_records(truth, base, profile)
        tell(Answered())


def _measure_subjects(
    problem: Problem, specs: Sequence[str], profile: Profile, blank: Record, tell: Tell
) -> list[Record]:
    from projlab_validation.oracles import rank_at_float64, reference

    def skipped(reason: str) -> list[Record]:
        return [replace(blank, variant=s, status="skip", reason=reason) for s in specs]

    if reason := over_budget(profile, specs[0], problem):
        return skipped(reason)
    x_star = reference(problem, time_limit=profile.reference_seconds)
    if not x_star.consistent:
        return skipped("inconsistent: a subject gets consistent systems only")
    if x_star.ambiguous:
        return skipped("the rank is ambiguous: a subject gets systems of unambiguous rank only")
    if x_star.kind == "unavailable":
        return skipped(f"x* is not known ({x_star.reason})")
    if problem.dtype == "float32" and rank_at_float64(problem) != x_star.rank:
        return skipped("rows are redundant in float32 only, and a subject may work in float64")
    truth = Truth(problem, "projection", x_star, _oracle_answers(problem, profile))
    all_checks = within(problem, profile.subject_flops)
    records: list[Record] = []
    for spec in specs:
        subject = subjects.load(spec)
        records += examine_subject(spec, subject, truth, blank, tell, all_checks=all_checks)
    return records


def _constraint(problem: Problem) -> AffineConstraint:
    """Hand A and b to the engine in the problem's dtype; variants share its analysis."""
    from projlab import AffineConstraint

    dtype = np.dtype(problem.dtype)
    return AffineConstraint(problem.given().astype(dtype), problem.b.astype(dtype))
