"""Reads what a run or a comparison left on disk, and says in one line what cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from projlab.errors import InputError
from projlab_reports import asv
from projlab_reports.summary import Summary
from projlab_validation.record import COLUMNS
from projlab_validation.store import (
    BOUNDS_VERDICTS,
    COMPARISON_FORMAT,
    ENVIRONMENTS,
    FORMAT,
    HEADER,
    TRAINING_VERDICTS,
    VERDICTS,
)

JUDGED = ("verdict", "why", "bound", "stable_bound", "ratio", "amplification", "units_of_kappa_u")
TRAINED = ("problem", "optimizer", "mode", "weight_decay", "dtype", "distance", "verdict", "why")
BOUNDED = ("problem", "variant", "role", "status", "distance", "feasibility", "verdict", "why")

COMPARISON = "compare.json"
COMPARED = ("exit_code", "asked", "environment", "systems")


@dataclass(frozen=True)
class Run:
    """A run's folder and what it says."""

    folder: Path
    summary: Summary


@dataclass(frozen=True)
class Benchmarks:
    """Where asv's results are: a file, or a folder of them."""

    path: Path


def read(path: Path) -> Run | Benchmarks | Mapping[str, Any]:
    """Read a run's folder, or the JSON that `projlab compare` wrote, or find results of asv's.

    Raises
    ------
    InputError
        It is none of these, or cannot be read, or is of another format.
    """
    if (path / HEADER).is_file():
        return Run(path, _run(path))
    if (path / COMPARISON).is_file():
        return _comparison(path / COMPARISON)
    if path.is_file():
        return Benchmarks(path) if asv.is_result(asv.load(path)) else _comparison(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if asv.holds_results(path):
        return Benchmarks(path)
    raise InputError(
        f"{path} holds no projlab run ({HEADER} is missing), no {COMPARISON} and no result of asv's"
    )


def _run(folder: Path) -> Summary:
    header = _json(folder / HEADER)
    if header.pop("format", None) != FORMAT or not {"profile", "device"} <= set(header):
        raise InputError(f"{folder / HEADER} is of another format than {FORMAT}")
    if not (folder / VERDICTS).is_file():
        raise InputError(
            f"{folder} holds no verdicts: the run did not end; `projlab validate --resume` ends it"
        )
    verdicts = _frame(folder / VERDICTS, (*COLUMNS, *JUDGED))
    training = pd.DataFrame()
    if (folder / TRAINING_VERDICTS).is_file():
        training = _frame(folder / TRAINING_VERDICTS, TRAINED)
    bounds = pd.DataFrame()
    if (folder / BOUNDS_VERDICTS).is_file():
        bounds = _frame(folder / BOUNDS_VERDICTS, BOUNDED)
    # Only a run of the variants has peers beside them; a variant's name has no colon.
    theirs = verdicts["variant"].astype(str).str.contains(":") & ("subject" not in header)
    return Summary(
        verdicts[~theirs],
        header,
        _environment(folder, verdicts if len(verdicts) else training),
        verdicts[theirs],
        training,
        bounds,
    )


def _environment(folder: Path, frame: pd.DataFrame) -> Mapping[str, str]:
    """Return what the records were measured on."""
    known = _json(folder / ENVIRONMENTS)
    identity = frame["environment"].iloc[0] if len(frame) else next(iter(known), "")
    described = known.get(identity, {"environment": f"{identity}, which is not described"})
    if not isinstance(described, dict):
        raise InputError(f"{folder / ENVIRONMENTS} does not describe environments")
    return described


def _frame(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} cannot be read: {reason}") from error
    if missing := [column for column in columns if column not in frame]:
        raise InputError(
            f"{path} was written by another version of projlab: it lacks {', '.join(missing)}"
        )
    return frame


def _comparison(path: Path) -> Mapping[str, Any]:
    payload = _json(path)
    if payload.get("kind") != "comparison":
        raise InputError(
            f"{path} is neither a run, nor what `projlab compare --out` writes, nor asv's result"
        )
    if payload.get("format") != COMPARISON_FORMAT:
        raise InputError(
            f"{path} is a comparison in format {payload.get('format')!r}{written_by(payload)}; "
            f"this projlab reads format {COMPARISON_FORMAT}: compare again"
        )
    if missing := [name for name in COMPARED if name not in payload]:
        raise InputError(f"{path} lacks {', '.join(missing)}{written_by(payload)}")
    return payload


def written_by(payload: Mapping[str, Any]) -> str:
    """Which projlab wrote a comparison, where it says so: ", written by projlab 0.1"."""
    environment = payload.get("environment")
    version = environment.get("projlab") if isinstance(environment, Mapping) else None
    return f", written by projlab {version}" if version else ""


def _json(path: Path) -> dict[str, Any]:
    content = asv.load(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content
