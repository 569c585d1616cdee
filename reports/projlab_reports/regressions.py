"""Two of asv's result files side by side: what got slower, dearer or less exact, beyond the noise.

Every figure of the suite is better when it is smaller. One regressed where

    low(after) > high(before) * margin * drift,

low and high the ends of what the samples' quartiles and their 99 % confidence interval cover, so
that noise that was seen is no regression. The margin is for the noise that one run cannot see. The
drift, for times only, is how much slower the machine itself became, from benchmarks in which no
line of projlab runs. How far those lie from their middle is noise that both runs could not see: it
widens the margin of times, and where it exceeds `TOO_NOISY`, times say nothing. Between two results
of one commit every difference is noise, and none is a regression. Times and peak memory are
compared on equal processors and thread counts only; ratios, errors and sizes always.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from projlab_reports.asv import YARDSTICK, Result

FORMAT = 1
"""Of what `projlab bench --json` prints; raised when a program that reads it could break."""

MARGIN = 1.15
"""Placement of code and data alone moves times by some ten per cent between processes (Mytkowicz
et al., "Producing wrong data without doing anything obviously wrong!", ASPLOS 2009)."""

TOO_NOISY = 1.5
"""Where the machine's own benchmarks, in which nothing changed, are apart by more than this factor,
a regression of the same size cannot be told from noise."""

ROUNDING_MARGIN = 4.0
"""For errors in units of u: another order of the same sums changes them by a small factor, while a
method that loses digits loses at least one."""

IN_ROUNDOFFS = frozenset(
    {
        "track_forward_error",
        "track_feasibility",
        "track_drift",
        "track_drift_feasibility",
        "track_bound",
    }
)
"""The benchmarks whose unit is u."""


@dataclass(frozen=True)
class Change:
    """A figure before and after."""

    name: str
    before: float
    after: float | None
    allowed: float
    """What `after` may be, at its lower end."""


@dataclass(frozen=True)
class BenchmarkComparison:
    """What two results say about each other; names are `module.Class.method(parameters)`."""

    before: Result
    after: Result
    compared: int
    regressions: tuple[Change, ...]
    improvements: tuple[Change, ...]
    gone: tuple[str, ...]
    """Measured before, not applicable or absent after."""
    new: tuple[str, ...]
    rewritten: tuple[str, ...]
    """The benchmark's own code differs: its figures are not the same quantity."""
    not_comparable: str | None
    """Why times were not compared, where they were not."""
    drift: float
    noise: float = 1.0
    """How far the machine's own benchmarks are from their middle, as a factor."""
    same_code: bool = False
    """Whether both results are of one commit, and of the same uncommitted changes to it."""

    @property
    def too_noisy(self) -> str | None:
        """Why regressions and noise cannot be told apart, where they cannot."""
        measured = all(change.after is not None for change in self.regressions)
        if self.same_code and self.regressions and measured:
            return (
                f"{len(self.regressions)} figures of the same commit differ by more than noise and "
                "margin allow: the machine was busier than a run can see"
            )
        if self.noise > TOO_NOISY and not self.not_comparable:
            return (
                "the machine's own benchmarks, in which nothing changed, differ by "
                f"{self.noise:.2f} times (limit {TOO_NOISY:g})"
            )
        return None

    @property
    def exit_code(self) -> int:
        """0 nothing regressed, 1 something did, 3 nothing could be compared, or too noisy."""
        if self.too_noisy:
            return 3
        return 1 if self.regressions else 0 if self.compared else 3


def compare(before: Result, after: Result, margin: float = MARGIN) -> BenchmarkComparison:
    """Compare every figure that both results hold and that means the same in both."""
    reason = incomparable(before, after)
    drift = 1.0 if reason else machine_drift(before, after)
    noise = 1.0 if reason else machine_noise(before, after)
    regressions, improvements, gone, rewritten = [], [], [], []
    compared = 0
    for name, old in before.figures.items():
        if name.startswith(YARDSTICK) or not old.measured:
            continue
        new = after.figures.get(name)
        if new is None:
            gone.append(name)
            continue
        method = name.partition("(")[0].rpartition(".")[2]
        timed = method.startswith("time_")
        if reason and (timed or method.startswith("peakmem_")):
            continue
        if new.version != old.version:
            rewritten.append(name)
            continue
        compared += 1
        factor = ROUNDING_MARGIN if method in IN_ROUNDOFFS else margin
        factor = max(factor, noise) if timed else factor
        slower, faster = (max(drift, 1.0), min(drift, 1.0)) if timed else (1.0, 1.0)
        assert old.value is not None
        allowed = old.high * factor * slower
        if new.value is None or new.low > allowed:
            regressions.append(Change(name, old.value, new.value, allowed))
        elif new.high * factor < old.low * faster:
            improvements.append(Change(name, old.value, new.value, allowed))
    return BenchmarkComparison(
        before,
        after,
        compared,
        tuple(sorted(regressions, key=_severity, reverse=True)),
        tuple(sorted(improvements, key=_severity)),
        tuple(gone),
        tuple(n for n, f in after.figures.items() if f.measured and not _had(before, n)),
        tuple(rewritten),
        reason,
        drift,
        noise,
        before.same_code(after),
    )


def _had(result: Result, name: str) -> bool:
    return name in result.figures and result.figures[name].measured


def _severity(change: Change) -> float:
    if change.after is None:
        return math.inf
    return change.after / change.before if change.before else math.inf


def incomparable(before: Result, after: Result) -> str | None:
    """Why the times of two results say nothing about each other, if so."""
    for key in ("cpu", "num_cpu", "arch"):
        one, other = before.machine.get(key), after.machine.get(key)
        if one != other:
            return f"{key} {one!r} before, {other!r} after"
    if before.threads is None or before.threads != after.threads:
        return f"{before.threads or 'unknown'} threads before, {after.threads or 'unknown'} after"
    return None


def machine_drift(before: Result, after: Result) -> float:
    """How many times slower the machine itself was after: the middle of its own benchmarks."""
    ratios = _machine_ratios(before, after)
    return math.sqrt(ratios[(len(ratios) - 1) // 2] * ratios[len(ratios) // 2]) if ratios else 1.0


def machine_noise(before: Result, after: Result) -> float:
    """How far the machine's own benchmarks are from their middle at most, as a factor."""
    middle = machine_drift(before, after)
    return max((max(r / middle, middle / r) for r in _machine_ratios(before, after)), default=1.0)


def _machine_ratios(before: Result, after: Result) -> list[float]:
    """After over before, of every time in which no line of projlab runs, the least first."""
    return sorted(
        new.value / old.value
        for name, old in before.figures.items()
        if name.startswith(YARDSTICK + "time_") and old.value
        for new in [after.figures.get(name)]
        if new is not None and new.value
    )


def text(comparison: BenchmarkComparison) -> str:
    """The comparison for people: regressions first, each with what was allowed."""
    lines = [
        f"before  {comparison.before.commit[:12]}  {comparison.before.path}",
        f"after   {comparison.after.commit[:12]}  {comparison.after.path}",
        "",
    ]
    if comparison.not_comparable:
        lines.append(f"Times and peak memory are not compared: {comparison.not_comparable}.")
    elif comparison.drift != 1.0:
        lines.append(
            f"The machine itself took {comparison.drift:.2f} times as long after as before."
        )
    counted = f"{comparison.compared} figures compared"
    if comparison.too_noisy:
        lines.append(
            f"Too noisy: {comparison.too_noisy}. Measure both again, one after the other, on a "
            f"quiet machine. {counted}; beyond the margin:"
        )
    elif not comparison.compared and not comparison.regressions:
        lines.append("Nothing could be compared.")
    elif comparison.regressions:
        lines.append(f"{len(comparison.regressions)} REGRESSED, of {counted}:")
    else:
        lines.append(f"No regression; {counted}.")
    lines += [f"  {_line(change)}" for change in comparison.regressions]
    if comparison.improvements:
        lines += ["", f"Improved ({len(comparison.improvements)}):"]
        lines += [f"  {_line(change)}" for change in comparison.improvements]
    for title, names in (
        ("Measured before, not any more", comparison.gone),
        ("The benchmark itself was rewritten", comparison.rewritten),
        ("New", comparison.new),
    ):
        if names:
            lines += ["", f"{title} ({len(names)}):", *(f"  {n}" for n in _by_benchmark(names))]
    return "\n".join(lines)


def _by_benchmark(names: tuple[str, ...]) -> list[str]:
    counts: dict[str, int] = {}
    for name in names:
        benchmark = name.partition("(")[0]
        counts[benchmark] = counts.get(benchmark, 0) + 1
    return [f"{benchmark}: {count}" for benchmark, count in counts.items()]


def _line(change: Change) -> str:
    if change.after is None:
        return f"{change.name}: {change.before:.4g} -> failed"
    ratio = f"{change.after / change.before:.2f}x" if change.before else "from zero"
    return (
        f"{change.name}: {change.before:.4g} -> {change.after:.4g} "
        f"({ratio}; allowed up to {change.allowed:.4g})"
    )


def plain(comparison: BenchmarkComparison) -> dict[str, Any]:
    """The comparison for programs."""
    return {
        "format": FORMAT,
        "exit_code": comparison.exit_code,
        "before": {"commit": comparison.before.commit, "file": str(comparison.before.path)},
        "after": {"commit": comparison.after.commit, "file": str(comparison.after.path)},
        "compared": comparison.compared,
        "drift": comparison.drift,
        "noise": comparison.noise,
        "too_noisy": comparison.too_noisy,
        "times_not_compared_because": comparison.not_comparable,
        "regressions": [vars(change) for change in comparison.regressions],
        "improvements": [vars(change) for change in comparison.improvements],
        "gone": list(comparison.gone),
        "rewritten": list(comparison.rewritten),
        "new": list(comparison.new),
    }
