"""Reads asv's own result files; needs nothing but the standard library.

A result is one file, `RESULTS/MACHINE/COMMIT-ENVIRONMENT.json`. What `RESULTS/benchmarks.json`
adds, names of parameters and units, is taken where it is there: a file by itself is a result too.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projlab.errors import InputError

FORMAT = 2
"""Of asv's result files, and of its list of benchmarks."""

MACHINE, BENCHMARKS = "machine.json", "benchmarks.json"
KEYS = ("version", "commit_hash", "params", "result_columns", "results")

YARDSTICK = "yardstick.Machine."
THREADS = YARDSTICK + "track_threads"

CHANGES, CLEAN = "uncommitted changes", "none"
"""What `projlab bench` notes beside the versions: a hash of what differed from the commit."""

SIZE = re.compile(r"(\d+)x(\d+)")
ROLES = {"dtype": {"float64", "float32"}, "device": {"cpu", "cuda"}}
"""A parameter is known by its values where its name is not."""

UNITS = {"time": "seconds", "peakmem": "bytes", "mem": "bytes"}
"""By the first word of a method's name, as asv has it."""


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
class Benchmark:
    """One benchmark of a result: the names and values of its parameters, and its unit."""

    name: str
    parameters: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    unit: str

    def figures(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Each choice of parameters: the figure's name, and the choice by parameter."""
        for choice in itertools.product(*self.values):
            named = f"{self.name}({', '.join(choice)})" if choice else self.name
            yield named, dict(zip(self.parameters, map(_unquoted, choice), strict=True))


@dataclass(frozen=True)
class Result:
    """What one result file holds; figures that do not apply are not in it."""

    path: Path
    commit: str
    date: int
    """Of the commit, in milliseconds since 1970; 0 where it is not known."""
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    figures: Mapping[str, Figure]
    benchmarks: tuple[Benchmark, ...]

    @property
    def threads(self) -> float | None:
        """Of torch, where it was recorded."""
        return self.figures[THREADS].value if THREADS in self.figures else None

    def same_code(self, other: Result) -> bool:
        """Whether both are of one commit, and of the same changes to it; False in doubt."""
        changes = self.versions.get(CHANGES)
        same_changes = changes is not None and changes == other.versions.get(CHANGES)
        return self.commit == other.commit and same_changes

    @property
    def failed(self) -> list[str]:
        """The names of the figures that failed."""
        return [name for name, figure in self.figures.items() if not figure.measured]


def holds_results(path: Path) -> bool:
    """Whether a folder is one that asv writes results into."""
    return next(_files(path), None) is not None or any(path.rglob(MACHINE))


def is_result(content: object) -> bool:
    """Whether something read from JSON means to be a result file."""
    return isinstance(content, dict) and {"result_columns", "results"} & set(content) != set()


def read(path: Path) -> Result:
    """Read a result file, or the one that a folder holds.

    Raises
    ------
    InputError
        There is none, there are several, or it is no result of asv's.
    """
    if not path.is_dir():
        return _read(path)
    files = list(_files(path))
    if len(files) != 1:
        listed = "; ".join(map(str, files)) or "none"
        raise InputError(f"{path} must hold one result of asv's, or name the file; found: {listed}")
    return _read(files[0])


def read_all(path: Path) -> tuple[Result, ...]:
    """Read a result file, or every result that a folder holds, the oldest commit first.

    Raises
    ------
    InputError
        There is none, one of them is no result of asv's, or they are of several machines.
    """
    files = list(_files(path)) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no result of asv's, a file beside {MACHINE}")
    if len(folders := {file.parent for file in files}) > 1:
        listed = "; ".join(map(str, sorted(folders)))
        raise InputError(f"{path} holds results of several machines, name one of them: {listed}")
    return tuple(sorted(map(_read, files), key=lambda result: (result.date, result.path.name)))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.json")):
        if path.name not in (MACHINE, BENCHMARKS) and (path.parent / MACHINE).is_file():
            yield path


def _read(file: Path) -> Result:
    content = load(file)
    if not isinstance(content, dict) or (missing := [key for key in KEYS if key not in content]):
        lacks = f": it lacks {', '.join(missing)}" if isinstance(content, dict) else ""
        raise InputError(f"{file} is no result file of asv's{lacks}")
    if content["version"] != FORMAT:
        raise InputError(f"{file} is in format {content['version']!r} of asv's, want {FORMAT}")
    known = _known(file.parent.parent / BENCHMARKS)
    try:
        figures: dict[str, Figure] = {}
        benchmarks = []
        for name, values in content["results"].items():
            # asv leaves out what is None at the end of a row
            row = dict(zip(content["result_columns"], values, strict=False))
            benchmarks.append(_benchmark(name, row, known.get(name)))
            figures.update(_figures(benchmarks[-1], row))
        return Result(
            file,
            str(content["commit_hash"]),
            int(content.get("date") or 0),
            {str(k): str(v) for k, v in content["params"].items()},
            {str(k): str(v) for k, v in (content.get("requirements") or {}).items()},
            figures,
            tuple(benchmarks),
        )
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(f"{file} is no result file of asv's: {error!r}") from error


def load(file: Path) -> Any:
    """Read JSON, or say in a line why it cannot be read.

    Raises
    ------
    InputError
        It cannot.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise InputError(f"{file} cannot be read: it is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{file} is no JSON, or is cut off: {error}") from error


def _known(path: Path) -> Mapping[str, Any]:
    """What asv's list of benchmarks says of each."""
    if not path.is_file():
        return {}
    content = load(path)
    if not isinstance(content, dict) or content.get("version") != FORMAT:
        raise InputError(f"{path} is no list of benchmarks in format {FORMAT} of asv's")
    return content


def _benchmark(name: str, row: Mapping[str, Any], known: object) -> Benchmark:
    values = tuple(tuple(str(value) for value in among) for among in row["params"])
    said = known if isinstance(known, dict) else {}
    names = said.get("param_names") or []
    if len(names) != len(values):  # the list may be of another commit
        names = [_role(among, i) for i, among in enumerate(values)]
    unit = said.get("unit") or UNITS.get(name.rpartition(".")[2].partition("_")[0], "")
    return Benchmark(name, tuple(map(str, names)), values, str(unit))


def _role(values: Sequence[str], i: int) -> str:
    plain = [_unquoted(value) for value in values]
    if all(SIZE.fullmatch(value) for value in plain):
        return "size"
    for role, known in ROLES.items():
        if plain and known >= set(plain):
            return role
    return f"parameter {i + 1}"


def _unquoted(value: str) -> str:
    """Return what asv wrote as Python's repr of a word."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == "'" else value


def _figures(benchmark: Benchmark, row: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    values = row["result"]
    if values is None:  # the whole benchmark failed
        values = [None] * math.prod(map(len, benchmark.values))
    names = [name for name, _ in benchmark.figures()]
    if len(values) != len(names):
        raise ValueError(f"{benchmark.name} has {len(values)} results for {len(names)} parameters")
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
