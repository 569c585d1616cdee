"""Two of asv's result files side by side: what got slower, dearer or less exact, beyond the noise.

Every figure of the suite is better when it is smaller. One regressed where

    low(after) > high(before) * margin * drift,

low and high the ends of what the samples' quartiles and their 99 % confidence interval cover, so
that noise that was seen is no regression. The margin is for the noise that one run cannot see. The
drift, for times only, is how much slower the machine itself became, from benchmarks in which no
line of projlab runs. Times and peak memory are compared on equal processors and thread counts only;
ratios, errors and sizes always.
"""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projlab.errors import InputError

FORMAT = 2
"""Of asv's result files."""

MARGIN = 1.15
"""Placement of code and data alone moves times by some ten per cent between processes (Mytkowicz
et al., "Producing wrong data without doing anything obviously wrong!", ASPLOS 2009)."""

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

YARDSTICK = "yardstick.Machine."
THREADS = YARDSTICK + "track_threads"


@dataclass(frozen=True)
class Figure:
    """One benchmark at one choice of parameters; the value is None where it failed."""

    value: float | None
    low: float
    high: float
    version: str

    @property
    def measured(self) -> bool:
        """Whether there is a number."""
        return self.value is not None


@dataclass(frozen=True)
class Result:
    """What one result file holds; benchmarks that do not apply are not in it."""

    path: Path
    commit: str
    machine: dict[str, str]
    figures: dict[str, Figure]

    @property
    def threads(self) -> float | None:
        """Of torch, where it was recorded."""
        return self.figures[THREADS].value if THREADS in self.figures else None


@dataclass(frozen=True)
class Change:
    """A figure before and after."""

    name: str
    before: float
    after: float | None
    allowed: float
    """What `after` may be, at its lower end."""


@dataclass(frozen=True)
class Comparison:
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

    @property
    def exit_code(self) -> int:
        """0 nothing regressed, 1 something did, 3 nothing could be compared."""
        return 1 if self.regressions else 0 if self.compared else 3


def read(path: Path) -> Result:
    """Read a result file of asv's, or the one that a folder holds.

    Raises
    ------
    InputError
        There is none, there are several, or it is no result of asv's.
    """
    file = _only_result(path) if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{file} is no JSON, or is cut off: {error}") from error
    try:
        if content["version"] != FORMAT:
            raise InputError(f"{file} is in format {content['version']!r} of asv's, want {FORMAT}")
        columns = content["result_columns"]
        figures = {
            name: figure
            for benchmark, row in content["results"].items()
            # asv leaves out what is None at the end of a row
            for name, figure in _figures(benchmark, dict(zip(columns, row, strict=False)))
        }
        machine = {str(k): str(v) for k, v in content["params"].items()}
        return Result(file, str(content["commit_hash"]), machine, figures)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} is no result file of asv's: {error!r}") from error


def _only_result(folder: Path) -> Path:
    found = [
        p
        for p in sorted(folder.rglob("*.json"))
        if p.name not in ("machine.json", "benchmarks.json")
    ]
    found = [p for p in found if p.parent.joinpath("machine.json").is_file()]
    if len(found) != 1:
        listed = "; ".join(str(p) for p in found) or "none"
        raise InputError(
            f"{folder} must hold one result of asv's, or name the file; found: {listed}"
        )
    return found[0]


def _figures(benchmark: str, row: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    values = row["result"]
    if values is None:  # the whole benchmark failed
        values = [None] * math.prod(len(p) for p in row["params"])
    names = [
        f"{benchmark}({', '.join(str(p) for p in choice)})" if choice else benchmark
        for choice in itertools.product(*row["params"])
    ]
    if len(values) != len(names):
        raise ValueError(f"{benchmark} has {len(values)} results for {len(names)} parameters")
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        if value is None:
            yield name, Figure(None, math.nan, math.nan, str(row["version"]))
        elif not math.isnan(value):
            ends = [value]
            for column in ("stats_q_25", "stats_q_75", "stats_ci_99_a", "stats_ci_99_b"):
                end = (row.get(column) or [None] * len(names))[i]
                if end is not None and math.isfinite(end):
                    ends.append(end)
            yield name, Figure(float(value), min(ends), max(ends), str(row["version"]))


def compare(before: Result, after: Result, margin: float = MARGIN) -> Comparison:
    """Compare every figure that both results hold and that means the same in both."""
    reason = _incomparable(before, after)
    drift = 1.0 if reason else _drift(before, after)
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
        slower, faster = (max(drift, 1.0), min(drift, 1.0)) if timed else (1.0, 1.0)
        assert old.value is not None
        allowed = old.high * factor * slower
        if new.value is None or new.low > allowed:
            regressions.append(Change(name, old.value, new.value, allowed))
        elif new.high * factor < old.low * faster:
            improvements.append(Change(name, old.value, new.value, allowed))
    return Comparison(
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
    )


def _had(result: Result, name: str) -> bool:
    return name in result.figures and result.figures[name].measured


def _severity(change: Change) -> float:
    if change.after is None:
        return math.inf
    return change.after / change.before if change.before else math.inf


def _incomparable(before: Result, after: Result) -> str | None:
    for key in ("cpu", "num_cpu", "arch"):
        one, other = before.machine.get(key), after.machine.get(key)
        if one != other:
            return f"{key} {one!r} before, {other!r} after"
    if before.threads is None or before.threads != after.threads:
        return f"{before.threads or 'unknown'} threads before, {after.threads or 'unknown'} after"
    return None


def _drift(before: Result, after: Result) -> float:
    """How many times slower the machine itself was after: the middle of its own benchmarks."""
    ratios = sorted(
        new.value / old.value
        for name, old in before.figures.items()
        if name.startswith(YARDSTICK + "time_") and old.value
        for new in [after.figures.get(name)]
        if new is not None and new.value
    )
    return math.sqrt(ratios[(len(ratios) - 1) // 2] * ratios[len(ratios) // 2]) if ratios else 1.0


def text(found: Comparison) -> str:
    """The comparison for people: regressions first, each with what was allowed."""
    lines = [
        f"before  {found.before.commit[:12]}  {found.before.path}",
        f"after   {found.after.commit[:12]}  {found.after.path}",
        "",
    ]
    if found.not_comparable:
        lines.append(f"Times and peak memory are not compared: {found.not_comparable}.")
    elif found.drift != 1.0:
        lines.append(f"The machine itself took {found.drift:.2f} times as long after as before.")
    counted = f"{found.compared} figures compared"
    if not found.compared and not found.regressions:
        lines.append("Nothing could be compared.")
    elif found.regressions:
        lines.append(f"{len(found.regressions)} REGRESSED, of {counted}:")
    else:
        lines.append(f"No regression; {counted}.")
    lines += [f"  {_line(change)}" for change in found.regressions]
    if found.improvements:
        lines += ["", f"Improved ({len(found.improvements)}):"]
        lines += [f"  {_line(change)}" for change in found.improvements]
    for title, names in (
        ("Measured before, not any more", found.gone),
        ("The benchmark itself was rewritten", found.rewritten),
        ("New", found.new),
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


def plain(found: Comparison) -> dict[str, Any]:
    """The comparison for programs."""
    return {
        "exit_code": found.exit_code,
        "before": {"commit": found.before.commit, "file": str(found.before.path)},
        "after": {"commit": found.after.commit, "file": str(found.after.path)},
        "compared": found.compared,
        "drift": found.drift,
        "times_not_compared_because": found.not_comparable,
        "regressions": [vars(change) for change in found.regressions],
        "improvements": [vars(change) for change in found.improvements],
        "gone": list(found.gone),
        "rewritten": list(found.rewritten),
        "new": list(found.new),
    }
