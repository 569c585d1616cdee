"""One recommendation in words, the line of code to paste, and what would change it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from projlab import tolerance
from projlab.engine.select import MANY
from projlab.engine.variants import REGISTRY, Variant, get
from projlab.numerics import memory
from projlab_validation.describe import SystemDescription
from projlab_validation.lines import TIE, Line
from projlab_validation.problems.problem import Dtype, rank_is_clear

FORWARD = "forward error"


@dataclass(frozen=True)
class Recommendation:
    """What to do about one system.

    Attributes
    ----------
    text
        In words.
    code
        The line to paste.
    changes
        What would change it, a sentence each.
    variant
        The one recommended; None where there is none to recommend.
    reached
        Whether the forward error that was asked for is measured and promised; True where none was.
    """

    text: str
    code: str
    changes: tuple[str, ...] = ()
    variant: str | None = None
    reached: bool = True


class Judged(Protocol):
    """A line of a comparison: what one variant or peer did."""

    @property
    def kind(self) -> str:
        """Either "variant" or "peer"."""

    @property
    def verdict(self) -> str:
        """What theory says of it."""


class Compared:
    """A file that was compared: whether what projlab did there is in order."""

    lines: Sequence[Judged]
    recommendation: Recommendation

    @property
    def failed(self) -> bool:
        """Whether projlab broke what theory promises, or nothing is as near as was asked."""
        broken = (line.kind == "variant" and line.verdict == "fail" for line in self.lines)
        return any(broken) or not self.recommendation.reached

    @property
    def checked(self) -> bool:
        """Whether anything of projlab's was held against theory."""
        return any(line.kind == "variant" and line.verdict != "skip" for line in self.lines)


@dataclass(frozen=True)
class Question:
    """What was asked: the system, in which dtype, on which device, how near to x*."""

    system: SystemDescription
    dtype: Dtype
    device: str
    accuracy: float | None
    time_limit: float
    b_error: str = ""
    """What the projector is to take as such; "" for none."""

    @property
    def other_dtype(self) -> Dtype:
        """The precision that was not asked for."""
        return "float32" if self.dtype == "float64" else "float64"

    def kappa_u(self, dtype: Dtype) -> float:
        """κu in a dtype."""
        return self.system.condition * tolerance.unit_roundoff(dtype)

    def predicted(self, variant: Variant, dtype: Dtype) -> float:
        """Forward error that theory promises of a variant; inf where it expects a refusal."""
        system = self.system
        if variant.needs_disjoint_rows and system.rows_overlap:
            return math.inf
        shape = {"m": system.rank or system.m, "n": system.n}
        u = tolerance.unit_roundoff(dtype)
        if variant.limitation(condition=system.condition, u=u, **shape):
            return math.inf
        return tolerance.predicted_accuracy(variant.error_growth(system.condition, u), **shape)

    def promised(self, name: str) -> float:
        """Forward error that theory promises of a variant by name, as `projector` has it."""
        return self.predicted(get(name), self.dtype)


def recommend(question: Question, lines: Sequence[Line]) -> Recommendation:
    """Recommend a variant for many projections, from what was measured."""
    advice = _advice(question, lines)
    if question.accuracy is None:
        return advice
    able = [
        line
        for line in lines
        if line.kind == "variant" and line.verdict != "fail" and _reaches(question, line)
    ]
    return replace(advice, reached=bool(able))


def _reaches(question: Question, line: Line) -> bool:
    """Whether a variant comes as near as was asked, here and by what theory promises of it.

    `projector(A, b, accuracy=...)` goes by the promise: what it refuses is not recommended.
    """
    if question.accuracy is None:
        return True
    return line.nearness <= question.accuracy and question.promised(line.name) <= question.accuracy


def _advice(question: Question, lines: Sequence[Line]) -> Recommendation:
    system = question.system
    variants = [line for line in lines if line.kind == "variant"]
    answered = [line for line in variants if line.status == "ok"]
    if system.rank is None:
        return _not_analysed(question)
    if not answered:
        return _nothing_answered(question, variants)
    if system.ambiguous:
        return _ambiguous(question, answered)
    if not system.consistent:
        return _inconsistent(question, answered)
    advice = _projection(question, answered)
    return replace(advice, changes=(*advice.changes, *_faster_peer(advice, lines)))


def _faster_peer(advice: Recommendation, lines: Sequence[Line]) -> Iterator[str]:
    """Yield a sentence on the fastest peer that comes as near as what is recommended, if faster."""
    best = next(line for line in lines if line.name == advice.variant)
    as_near = [
        line
        for line in lines
        if line.kind == "peer" and line.verdict == "pass" and line.nearness <= 10 * best.nearness
    ]
    fastest = min(as_near, key=lambda line: line.project_s, default=best)
    if TIE * fastest.project_s < best.project_s:
        yield (
            f"Of the peers {fastest.name} is faster: {_seconds(fastest.project_s)} a projection, "
            f"{_nearness(fastest)}."
        )


def code(variant: str | None, device: str, **options: str) -> str:
    """Write the line that builds the projector."""
    arguments = ["A", "b"] + ([f'variant="{variant}"'] if variant else [])
    arguments += [f"{name}={value}" for name, value in options.items()]
    moved = "" if device == "cpu" else f'.to("{device}")'
    return f"P = projector({', '.join(arguments)}){moved}"


def _line(question: Question, variant: str | None, **options: str) -> str:
    """The line for what was asked."""
    if question.b_error:
        options = {"b_error": question.b_error, **options}
    return code(variant, question.device, **options)


def _projection(question: Question, answered: Sequence[Line]) -> Recommendation:
    sound = [line for line in answered if line.verdict != "fail"]
    judged = [line for line in sound if not math.isnan(line.nearness)]
    if not judged:
        best = _cheapest(sound or answered)
        return Recommendation(
            f"No {FORWARD} could be judged here ({best.why}). By cost alone, {best.name}: "
            f"{_cost(best)}.",
            _line(question, best.name),
            _changes(question, answered, best),
            best.name,
        )
    least = min(line.nearness for line in judged)
    wanted = question.accuracy
    if wanted is None:
        wanted = max(min(line.stable_bound for line in judged), least)
    reaching = [line for line in judged if line.nearness <= wanted and _reaches(question, line)]
    kappa_u = question.kappa_u(question.dtype)
    if not reaching:
        best = min(judged, key=lambda line: line.nearness)
        text = _unreached(question, best, wanted)
    else:
        best = _cheapest(reaching)
        asked = (
            f"within the {wanted:.2g} asked for"
            if question.accuracy is not None
            else "as near as a backward-stable method comes"
        )
        cost = f"{_cost(best)}{_among(reaching, best)}"
        text = f"Use {best.name}: {_nearness(best)}, {asked}; {cost}."
    if min(line.bound for line in judged) >= 1:
        text += (
            f" But theory promises no digit of it: at κu = {kappa_u:.2g} another x₀, or another "
            "rounding of the same data, may be answered worse."
        )
    return Recommendation(
        text, _line(question, best.name), _changes(question, answered, best), best.name
    )


def _unreached(question: Question, best: Line, wanted: float) -> str:
    """Say that no variant reaches what was asked for, and what the nearest does."""
    kappa_u = question.kappa_u(question.dtype)
    nearest = f"{_nearness(best)}; {_cost(best)}"
    if best.nearness > wanted:
        return (
            f"No variant reaches {wanted:.2g} here: κu is {kappa_u:.2g}. The nearest is "
            f"{best.name}, {nearest}."
        )
    promised = question.promised(best.name)
    promise = f"{promised:.2g} is" if math.isfinite(promised) else "nothing is"
    return (
        f"No variant promises {wanted:.2g} here, so projector(A, b, accuracy={wanted:.2g}) refuses "
        f"it: κu is {kappa_u:.2g}, and {promise} what theory promises of {best.name}, which came "
        f"nearer for this x₀ alone: {nearest}."
    )


def _among(reaching: Sequence[Line], best: Line) -> str:
    """Say what the choice was among, and whom noise alone tells from it."""
    if len(reaching) < 2:
        return ""
    tied = [line.name for line in _tied(reaching, MANY) if line is not best]
    if not tied:
        return f", the least for many projections of the {len(reaching)} variants that are"
    more = f" of the {len(reaching)} variants that are" if len(reaching) > len(tied) + 1 else ""
    return (
        f", for many projections the least{more}, with {' and '.join(tied)} as fast within a "
        f"factor of {TIE:g}, which is noise"
    )


def _nearness(line: Line) -> str:
    if line.judged_by == "certificate":
        return f"{FORWARD} at most {line.nearness:.2g} by certificate"
    return f"{FORWARD} {line.nearness:.2g}"


def _cost(line: Line) -> str:
    return f"set-up {_seconds(line.setup_s)}, then {_seconds(line.project_s)} a projection"


def _seconds(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def _cheapest(lines: Sequence[Line], projections: int = MANY) -> Line:
    """The least total time for that many projections; of a tie, the least set-up.

    Of a tie in that as well, one that is ten times nearer to x*, else the first in the order of the
    registry, which begins with the simplest: noise decides nothing.
    """
    tied = _tied(lines, projections)
    shortest = min(line.setup_s for line in tied)
    alike = [line for line in tied if line.setup_s <= SET_UP_TIE * shortest]
    nearest = min((line.nearness for line in alike if not math.isnan(line.nearness)), default=0.0)
    return next(
        (line for line in alike if line.nearness <= MUCH_NEARER * nearest or not nearest), alike[0]
    )


def _tied(lines: Sequence[Line], projections: int) -> list[Line]:
    """Those whose total time for that many projections is the least, as far as times repeat."""

    def total(line: Line) -> float:
        return line.setup_s + projections * line.project_s

    least = min(map(total, lines))
    return [line for line in lines if total(line) <= TIE * least]


def _changes(question: Question, answered: Sequence[Line], best: Line) -> tuple[str, ...]:
    """Say what would change the recommendation."""
    system = question.system
    changes = []
    if system.one_point:
        changes.append(
            "The equations have one solution: the set is one point, and whatever x₀ is, its "
            "projection is that point. torch.linalg.solve, or lstsq, gives it without a projector."
        )
    rivals = [
        line
        for line in answered
        if line.verdict != "fail"
        and (line.nearness <= max(10 * best.nearness, question.accuracy or 0.0))
    ]
    once = _cheapest([*rivals, best], 1)
    count = _break_even(once, best)
    if once.name != best.name and count > 1:
        changes.append(
            f"For fewer than {count:,} projections {once.name} costs less in total: set-up "
            f"{_seconds(once.setup_s)}, then {_seconds(once.project_s)} each."
        )
    faster = min(rivals, key=lambda line: line.project_s, default=best)
    if TIE * faster.project_s < best.project_s:
        count = _break_even(best, faster)
        changes.append(f"Beyond {count:,} projections {faster.name} costs less in total.")
    if best.stacked_s < best.project_s / 2:
        changes.append(
            f"Stacked, {best.stack} points at a time, {best.name} takes "
            f"{_seconds(best.stacked_s)} a point."
        )
    changes.append(_other_dtype(question))
    promised = min(question.predicted(v, question.dtype) for v in REGISTRY)
    if promised < 1:
        changes.append(
            f"If you need less than {promised:.2g} whatever x₀ is, no variant promises it here: "
            f"κu is {question.kappa_u(question.dtype):.2g}."
        )
    if count := system.redundant_count:
        rows = (
            "row follows from the others and is"
            if count == 1
            else "rows follow from the others and are"
        )
        changes.append(
            f"{count} {rows} left out before anything is factored; "
            'on_redundant="raise" refuses such a system instead.'
        )
    return tuple(changes)


def _break_even(low_setup: Line, low_cost: Line) -> int:
    """How many projections make up for the dearer set-up."""
    saved = low_setup.project_s - low_cost.project_s
    return max(1, math.ceil((low_cost.setup_s - low_setup.setup_s) / saved)) if saved > 0 else 1


def _other_dtype(question: Question) -> str:
    system, dtype = question.system, question.other_dtype
    if dtype == "float32" and not rank_is_clear(system.condition, system.m, system.n, dtype):
        return (
            f"At float32 the rank itself would be in doubt: its cutoff is near 1/κ = "
            f"{1 / system.condition:.2g}."
        )
    # of those that promise as much, one that cannot find out that it is unable
    best = min(REGISTRY, key=lambda v: (question.predicted(v, dtype), v.finds_out))
    reach = question.predicted(best, dtype)
    if reach >= 1:
        return f"At {dtype} no variant promises a digit: κu is {question.kappa_u(dtype):.2g}."
    wanted = question.accuracy
    kappa_u = f"κu is {question.kappa_u(dtype):.2g} there"
    if wanted is None:
        return f"At {dtype} a {FORWARD} of {reach:.2g} is promised ({best.name}); {kappa_u}."
    able = [v.name for v in REGISTRY if question.predicted(v, dtype) <= wanted]
    if able:
        return f"At {dtype} {', '.join(able)} would still be within {wanted:.2g}; {kappa_u}."
    return (
        f"At {dtype} no variant promises {wanted:.2g}: {best.name} is good for {reach:.2g}, "
        f"{kappa_u}."
    )


def _not_analysed(question: Question) -> Recommendation:
    system = question.system
    blocks = "Blocks of equations that share no variable can be given as constraints of their own."
    dtype = getattr(torch, question.dtype)
    needed = memory.factorisation_bytes(system.m, system.n, dtype)
    there = memory.limit(torch.device(question.device))
    if needed > there:
        sparse = [v.name for v in REGISTRY if v.keeps_sparse and not v.needs_disjoint_rows]
        return Recommendation(
            f"No variant was run: {system.unknown}.",
            _line(question, sparse[0]),
            (
                f"What makes the rows dense takes {needed / 1e9:.3g} GB here, of the "
                f"{there / 1e9:.3g} GB there are: no time limit is long enough. "
                f"{' and '.join(sparse)} never {'does' if len(sparse) == 1 else 'do'}, and would "
                "answer or say why not.",
                blocks,
            ),
        )
    return Recommendation(
        f"No variant was run: {system.unknown}. A rank that sparse factors do not decide needs a "
        "dense factorisation once, unless no two rows share a column.",
        _line(question, None),
        (
            blocks,
            "A longer --time-limit measures it; the line above does the same work, without a "
            "limit, and keeps the factors.",
        ),
    )


def _nothing_answered(question: Question, variants: Sequence[Line]) -> Recommendation:
    why = "; ".join(dict.fromkeys(f"{line.name}: {line.why or line.reason}" for line in variants))
    if all("MemoryLimitError" in line.exception for line in variants):
        return Recommendation(
            f"No variant answered ({why}).", "", ("A machine with more memory may take it.",)
        )
    return Recommendation(
        f"No variant answered ({why}).",
        _line(question, None),
        (f"A longer --time-limit than {question.time_limit:g} s may measure it.",),
    )


def _inconsistent(question: Question, answered: Sequence[Line]) -> Recommendation:
    system = question.system
    sound = [line for line in answered if line.verdict != "fail"] or list(answered)
    judged = [line for line in sound if not math.isnan(line.nearness)]
    nearest = min((line.nearness for line in judged), default=math.nan)
    best = _cheapest([line for line in judged if line.nearness <= 10 * nearest] or sound)
    rows = "row contradicts" if system.conflicting_count == 1 else "rows contradict"
    measured = f", {_nearness(best)}" if best in judged else ""
    return Recommendation(
        f"No x satisfies these equations: {system.conflicting_count} {rows} the others, by up to "
        f"{system.off:.3g} in b. Mend b in these rows, or project onto the least-squares "
        f"solutions: {best.name}{measured}; {_cost(best)}.",
        _line(question, best.name, on_inconsistent='"least_squares"'),
        (
            "Once b is mended the equations are projected onto as they stand, with another best "
            "variant perhaps: compare again.",
            "Least squares depends on the scaling of the rows: a row times 1000 counts 1000 times "
            "as much.",
        ),
        best.name,
    )


def _ambiguous(question: Question, answered: Sequence[Line]) -> Recommendation:
    system = question.system
    sound = [line for line in answered if line.verdict != "fail"] or list(answered)
    best = _cheapest(sound)
    clear = "" if math.isnan(system.clear_cutoff) else f"{system.clear_cutoff:.0e}"
    options = {"rank": clear} if clear else {}
    if not clear and not system.consistent:
        options = {"on_inconsistent": '"least_squares"'}
    also = "" if system.consistent else ", and so does whether rows contradict each other"
    return Recommendation(
        f"The numerical rank is ambiguous: {system.rank} at the cutoff {system.cutoff:.2g}, and "
        f"another with one ten times away (singular values {system.gap[0]:.2g} and "
        f"{system.gap[1]:.2g} of the largest on its two sides). Which x is nearest depends on it"
        f"{also}, so no {FORWARD} can be judged. Decide how exact the data is and say so by rank=; "
        f"{best.name} costs least here: {_cost(best)}.",
        _line(question, best.name, **options),
        (
            f"rank={clear} is the smallest power of ten times the cutoff at which the rank is not "
            "ambiguous and no row contradicts the others: entries are then taken as exact to that "
            "much of the largest singular value."
            if clear
            else "No larger cutoff was found in time that decides it: diagnose(A, b, rank=...).",
            _other_dtype(question),
        ),
        best.name,
    )


SET_UP_TIE = 1.5
"""Set-ups this near each other are as long: one set-up is timed a few times at most."""

MUCH_NEARER = 10.0
"""Forward errors that differ by less say nothing: another x₀ turns them round."""
