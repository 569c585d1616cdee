"""asv's results as one self-contained page and its Markdown twin, and two of them compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from projlab_reports import markdown, page, speed_charts
from projlab_reports.inline import Chart
from projlab_reports.regressions import MARGIN, ROUNDING_MARGIN, BenchmarkComparison, Change, plain
from projlab_reports.speed import PROJECTION, SHORT_COMMIT, Speed, written

NAME, DIFFERENCE = "benchmarks.html", "benchmarks-difference.html"

BRIEF = (
    "machine",
    "cpu",
    "num_cpu",
    "threads",
    "devices",
    "GPU",
    "torch",
    "commit",
    "committed on",
)
"""What of the environment is shown unfolded."""

QUALITY = (
    "projection.Quality.track_forward_error",
    "projection.Drift.track_drift",
    "projection.Quality.track_feasibility",
    "projection.Drift.track_drift_feasibility",
)
"""Benchmarks of errors, in the order of the page; the later ones are folded."""

RULE = (
    "Smaller is better. A figure regressed where its lowest plausible value (of the samples' "
    "quartiles and 99 % interval) is above the highest plausible one before by more than a factor "
    f"{MARGIN:g}, for errors in units of u {ROUNDING_MARGIN:g}, and for times by more than the "
    "machine itself became slower; or where it failed and did not before. Times and peak memory "
    "are compared on equal processors and thread counts only."
)


def render(speed: Speed) -> str:
    """Return the page."""
    template = page.environment().get_template("benchmarks.html.j2")
    return template.render(**_content(speed), brief=BRIEF)


def render_markdown(speed: Speed, drawn: Sequence[str]) -> str:
    """Return the same as Markdown; `drawn` are the paths of pictures beside it."""
    template = markdown.environment().get_template("benchmarks.md.j2")
    return template.render(**_content(speed), drawn=drawn)


def pictures(speed: Speed) -> list[Chart]:
    """The pictures that stand beside the Markdown."""
    times = speed_charts.against_size(speed, PROJECTION) if PROJECTION in speed.against_size else []
    return [*times, *speed_charts.peers(speed), *speed_charts.history(speed)]


def _content(speed: Speed) -> dict[str, Any]:
    sized = speed.against_size
    others = [b.name for b in speed.latest.benchmarks if b.name not in sized]
    return {
        "s": speed,
        "commit": speed.latest.commit[:SHORT_COMMIT],
        "main": [name for name in sized if name == PROJECTION],
        "quality": [name for name in QUALITY if name in sized],
        "sized": [name for name in sized if name not in (PROJECTION, *QUALITY)],
        "others": [name for name in others if len(speed.numbers(name))],
        "against_size": speed_charts.against_size,
        "peer_charts": speed_charts.peers(speed),
        "history_charts": speed_charts.history(speed),
        "since": changes(speed.since) if speed.since else {},
        "rule": RULE,
    }


def headline(comparison: BenchmarkComparison) -> str:
    """Say in a sentence what two results say about each other."""
    counted = f"{comparison.compared} figures compared"
    if not comparison.compared and not comparison.regressions:
        return "Nothing to compare: the two results share no figure that means the same in both."
    if comparison.regressions:
        begin = f"{len(comparison.regressions)} regressed, of {counted}"
    else:
        begin = f"No regression, {counted}"
    better = f"{len(comparison.improvements)} improved"
    gone = f"{len(comparison.gone)} not measured any more, {len(comparison.new)} new"
    sentence = f"{begin}: {better}, {gone}, {len(comparison.rewritten)} rewritten."
    if comparison.too_noisy:
        return f"Too noisy to tell: {comparison.too_noisy}. {sentence}"
    if comparison.not_comparable:
        return f"{sentence} Times and peak memory are not compared: {comparison.not_comparable}."
    if comparison.drift != 1.0:
        return f"{sentence} The machine itself took {comparison.drift:.2f} times as long after."
    return sentence


def changes(comparison: BenchmarkComparison) -> dict[str, pd.DataFrame]:
    """What changed, by kind; kinds of which there are none are left out."""
    units = {b.name: b.unit for r in (comparison.before, comparison.after) for b in r.benchmarks}
    tables = {
        "Regressed": _changes(comparison.regressions, units),
        "Improved": _changes(comparison.improvements, units),
        "Measured before, not any more": _counted(comparison.gone),
        "The benchmark itself was rewritten": _counted(comparison.rewritten),
        "New": _counted(comparison.new),
    }
    return {kind: table for kind, table in tables.items() if len(table)}


def _changes(changed: Sequence[Change], units: dict[str, str]) -> pd.DataFrame:
    table = []
    for change in changed:
        benchmark, _, choice = change.name.partition("(")
        unit = units.get(benchmark, "")
        ratio = f"{change.after / change.before:.2f}" if change.after and change.before else "–"
        after = "failed" if change.after is None else written(change.after, unit)
        table.append(
            {
                "benchmark": benchmark,
                "parameters": choice.removesuffix(")").replace("'", ""),
                "before": written(change.before, unit),
                "after": after,
                "ratio": ratio,
                "allowed": written(change.allowed, unit),
            }
        )
    return pd.DataFrame(table)


def _counted(names: Sequence[str]) -> pd.DataFrame:
    counts = pd.Series([name.partition("(")[0] for name in names], dtype=object).value_counts()
    return pd.DataFrame({"benchmark": counts.index, "figures": counts.to_numpy()})


def _sides(comparison: BenchmarkComparison) -> pd.DataFrame:
    """The two results, and where their machines and versions differ."""
    sides = [comparison.before, comparison.after]
    facts = [
        {
            "commit": side.commit,
            "result": str(side.path),
            "threads": "–" if side.threads is None else f"{side.threads:.0f}",
            **side.machine,
            **side.versions,
        }
        for side in sides
    ]
    names = dict.fromkeys((*facts[0], *facts[1]))
    rows = [
        {"what": name, "before": facts[0].get(name, "–"), "after": facts[1].get(name, "–")}
        for name in names
    ]
    return pd.DataFrame(
        [r for r in rows if r["before"] != r["after"] or r["what"] in ("commit", "result")]
    )


def _compared(comparisons: Sequence[BenchmarkComparison]) -> list[dict[str, Any]]:
    return [
        {
            "before": comparison.before.commit[:SHORT_COMMIT],
            "after": comparison.after.commit[:SHORT_COMMIT],
            "headline": headline(comparison),
            "exit_code": comparison.exit_code,
            "changes": changes(comparison),
            "ran_on": _sides(comparison),
        }
        for comparison in comparisons
    ]


def render_difference(comparisons: Sequence[BenchmarkComparison]) -> str:
    """Return the page of what changed since the first result."""
    template = page.environment().get_template("benchmarks-difference.html.j2")
    return template.render(differences=_compared(comparisons), rule=RULE)


def render_difference_markdown(comparisons: Sequence[BenchmarkComparison]) -> str:
    """Return the same as Markdown."""
    template = markdown.environment().get_template("benchmarks-difference.md.j2")
    return template.render(differences=_compared(comparisons), rule=RULE)


def outcome(comparisons: Sequence[BenchmarkComparison]) -> dict[str, Any]:
    """Return what a program reads of it."""
    return {"rule": RULE, "differences": [plain(comparison) for comparison in comparisons]}


def save(speed: Speed, folder: Path) -> list[str]:
    """Draw the pictures of the Markdown into a folder; return their paths relative to it."""
    drawn = [chart.save(folder / markdown.FIGURES) for chart in pictures(speed)]
    return [f"{markdown.FIGURES}/{path.name}" for path in drawn]
