"""The target table as text and as a section of a Markdown file."""

import contextlib
import importlib.metadata
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from projlab.errors import InputError

BEGIN = "<!-- targets: written by `projlab bench --targets --write FILE` -->"
END = "<!-- end of targets -->"

PACKAGES = ("projlab", "torch", "numpy", "jax", "jaxopt", "cvxpy", "osqp", "clarabel", "piqp")
"""Whose versions a result depends on."""


def installed() -> dict[str, str]:
    """Versions of those of `PACKAGES` that are there."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


Found = Mapping[str, Any]


def verdict(row: Found) -> str:
    """Met, missed (in how many cells), wrong, or not measured, and why."""
    if row["wrong"]:
        return f"WRONG: {row['wrong']}"
    if row["worst"] is None:
        return f"not measured: {row['missing']}"
    cells = len(row["cells"])
    said = "met" if row["met"] else f"missed in {cells - row['cells_met']} of {cells}"
    return f"{said}; not measured: {row['missing']}" if row["missing"] else said


def measured(row: Found) -> str:
    """The worst figure and where it was."""
    if row["worst"] is None:
        return "–"
    where = row["worst_at"] if len(row["worst_at"]) < 60 else "all"
    return f"{number(row['worst'])} ({where})"


def number(value: float) -> str:
    """Three significant digits, plain."""
    if not math.isfinite(value) or value == 0:
        return str(value)
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(digits, 0)}f}"


def environment(found: Found) -> str:
    """What it was measured on, in one paragraph."""
    of = found["environment"]
    versions = ", ".join(f"{p} {of[p]}" for p in PACKAGES if of[p])
    caches = f" ({of['caches']})" if of["caches"] else ""
    return (
        f"Measured on {of['cpu']}{caches}, {of['cores']} cores, {of['system']}, {of['threads']} "
        f"thread(s) each, load {of['load_before']} before; Python {of['python']}, {versions}; "
        f"kernels: {', '.join(of['kernels'])}; commit {of['commit']}, {of['date']}."
    )


def text(found: Found) -> str:
    """The table for a terminal."""
    rows = [("target", "wanted", "measured (worst cell)", "verdict")]
    rows += [(r["id"], r["target"], measured(r), verdict(r)) for r in found["rows"]]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row[:3], widths, strict=True)), row[3]])
        for row in rows
    ]
    return "\n".join([*lines, "", environment(found)])


def markdown(found: Found) -> str:
    """The table for a file."""
    lines = [
        "| regime | target | figure | measured, worst cell | | command |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        _row(r["regime"], r["target"], r["figure"], measured(r), verdict(r), f"`{r['command']}`")
        for r in found["rows"]
    ]
    return "\n".join([*lines, "", environment(found)])


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"


def write(path: Path, found: Found) -> None:
    """Put the table between the markers of a file, in the place of what stood there."""
    put(path, markdown(found), BEGIN, END)


def put(path: Path, text: str, begin: str, end: str) -> None:
    """Put text between two markers of a file, in the place of what stood there."""
    before, after = split(path, begin, end)
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def split(path: Path, begin: str = BEGIN, end: str = END) -> tuple[str, str]:
    """What stands before and after the markers of a file.

    Raises
    ------
    InputError
        It cannot be read, or has no such markers.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--write {path}: {error}") from error
    before, opened, rest = content.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise InputError(f"--write {path}: it has no lines {begin!r} and {end!r} to write between")
    return before, after
