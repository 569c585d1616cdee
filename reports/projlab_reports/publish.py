"""`projlab report`: reads what it is given, renders everything, and then writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projlab.errors import InputError
from projlab_reports import asv, benchmarks, comparison, difference, files, markdown, page, runs
from projlab_reports.regressions import compare, plain
from projlab_reports.runs import Benchmarks, Run
from projlab_reports.speed import Speed
from projlab_reports.summary import Summary

FORMAT = 1
"""Of what `projlab report --json` prints; raised when a program that reads it could break."""


@dataclass(frozen=True)
class Published:
    """What was written, and what it says.

    Attributes
    ----------
    headline
        The page in a sentence.
    exit_code
        As the command's.
    pages
        What was written, the page of HTML first.
    outcome
        The same for a program.
    """

    headline: str
    exit_code: int
    pages: tuple[Path, ...]
    outcome: Mapping[str, Any]


def publish(paths: Sequence[Path], out: Path | None = None) -> Published:
    """Write the page of one run, comparison or result of asv's, or the difference between several.

    Raises
    ------
    InputError
        Something given cannot be read, or several are given that are not alike, or `out` is neither
        a folder nor the name of a page. Nothing was written then.
    """
    contents = [runs.read(path) for path in paths]
    where = paths[-1] if paths[-1].is_dir() else paths[-1].parent
    if all(isinstance(content, Benchmarks) for content in contents):
        if len(contents) == 1:
            return _publish_benchmarks(paths[0], *_target(out, where, benchmarks.NAME))
        return _publish_changes(paths, *_target(out, where, benchmarks.DIFFERENCE))
    if len(contents) == 1:
        (content,) = contents
        if isinstance(content, Run):
            return _publish_run(content, *_target(out, where, page.NAME))
        assert isinstance(content, Mapping)
        return _publish_comparison(content, _target(out, where, comparison.PAGE), paths[0])
    compared = [content for content in contents if isinstance(content, Run)]
    if len(compared) < len(contents):
        raise InputError(
            "a difference is between runs of `projlab validate`, or between results of asv's"
        )
    return _publish_difference(compared, *_target(out, where, difference.NAME))


def write_run(summary: Summary, folder: Path) -> tuple[Path, Path]:
    """Write a run's page and its twin into the run's folder; return their paths."""
    written = _publish_run(Run(folder, summary), folder, page.NAME).pages
    return written[0], written[1]


def _publish_run(run: Run, folder: Path, name: str) -> Published:
    summary = run.summary
    text = page.render(summary)
    folder.mkdir(parents=True, exist_ok=True)
    twin = markdown.write(summary, folder, _twin(name))
    written = files.write(folder, {name: text})
    outcome = {
        **summary.asked,
        "totals": summary.totals,
        "decision": summary.decision.to_dict("records"),
        "failures": summary.failures.to_dict("records"),
    }
    return _published(summary.headline, summary.exit_code, (*written, twin), outcome)


def _publish_comparison(
    payload: Mapping[str, Any], target: tuple[Path, str], path: Path
) -> Published:
    folder, name = target
    try:
        text, headline = comparison.render(payload), comparison.verdict(payload)
        code = int(payload["exit_code"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        # Its parts are not checked one by one: what the page cannot show is no comparison.
        raise InputError(
            f"{path} is not what this version's `projlab compare` writes"
            f"{runs.written_by(payload)}: {error!r}"
        ) from error
    return _published(headline, code, files.write(folder, {name: text}), {})


def _publish_difference(compared: Sequence[Run], folder: Path, name: str) -> Published:
    sides = [difference.Side(str(run.folder), run.summary) for run in compared]
    differences = [difference.Difference(sides[0], after) for after in sides[1:]]
    contents = {
        name: difference.render(differences),
        _twin(name): difference.render_markdown(differences),
    }
    headline = " ".join(
        f"{d.after.name}: {d.headline}" if len(differences) > 1 else d.headline for d in differences
    )
    written = files.write(folder, contents)
    return _published(
        headline, difference.exit_code(differences), written, difference.outcome(differences)
    )


def _publish_benchmarks(path: Path, folder: Path, name: str) -> Published:
    speed = Speed(asv.read_all(path))
    text = benchmarks.render(speed)
    folder.mkdir(parents=True, exist_ok=True)
    twin = benchmarks.render_markdown(speed, benchmarks.save(speed, folder))
    outcome = {
        "commit": speed.latest.commit,
        "result": str(speed.latest.path),
        "counts": speed.counts,
        "failures": speed.failures.to_dict("records"),
        "history": speed.relative.to_dict("records"),
        "since": plain(speed.since) if speed.since else None,
    }
    written = files.write(folder, {name: text, _twin(name): twin})
    return _published(speed.headline, speed.exit_code, written, outcome)


def _publish_changes(paths: Sequence[Path], folder: Path, name: str) -> Published:
    before, *after = map(asv.read, paths)
    comparisons = [compare(before, each) for each in after]
    contents = {
        name: benchmarks.render_difference(comparisons),
        _twin(name): benchmarks.render_difference_markdown(comparisons),
    }
    headline = " ".join(benchmarks.headline(each) for each in comparisons)
    code = difference.worst_code(each.exit_code for each in comparisons)
    return _published(
        headline, code, files.write(folder, contents), benchmarks.outcome(comparisons)
    )


def _published(
    headline: str, code: int, pages: tuple[Path, ...], outcome: Mapping[str, Any]
) -> Published:
    names = {"pages": [str(path) for path in pages]}
    return Published(
        headline,
        code,
        pages,
        {
            "format": FORMAT,
            "kind": "report",
            "headline": headline,
            "exit_code": code,
            **outcome,
            **names,
        },
    )


def _target(out: Path | None, folder: Path, name: str) -> tuple[Path, str]:
    """Return the folder to write into and the page's name."""
    if out is None:
        return folder, name
    if out.suffix == ".html" and not out.is_dir():
        folder, name = out.parent, out.name
    else:
        folder = out
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {out} is a file; it takes a folder, or the name of a page, X.html")
    return folder, name


def _twin(name: str) -> str:
    return str(Path(name).with_suffix(".md"))
