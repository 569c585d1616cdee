"""Records on disk: one parquet part a finished problem, each written whole or not at all.

A run's folder holds `run.json` (what was asked), `environment.json` (what it ran on, by environment
id) and `records/`, a parquet data set. A kill loses the problems in work and nothing else. One
process at a time writes there, see :mod:`projlab_validation.lock`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from projlab import InputError
from projlab_validation import lock
from projlab_validation.record import COLUMNS, Record, table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FORMAT = 1
"""Raised whenever old folders can no longer be read or resumed."""

COMPARISON_FORMAT = 1
"""Of what `projlab compare --json` prints; raised when a program that reads it could break."""

FORMAT_KEY = "projlab.format"
"""Where a parquet file's metadata says its format."""

HEADER, ENVIRONMENTS, RECORDS, TRAINING = "run.json", "environment.json", "records", "training"
BOUNDS = "bounds"
VERDICTS, TRAINING_VERDICTS = "verdicts.parquet", "training.parquet"
BOUNDS_VERDICTS = "bounds.parquet"
TEMPORARY = ".projlab-"
UNREADABLE = ".unreadable"
"""The suffix of a part that a resumed run could not read, and measures again."""

STOPPED = "stopped"
"""The key of `run.json` under which a run that is not complete says why."""

INTERRUPTED = "interrupted before its end"

UNFINISHED = ("TimeoutError", "WorkerDied")
"""Exceptions of records that were not measured: a resumed run asks for them again."""

TIME_LIMIT = "time_limit"
"""The key of `run.json` for the seconds that a record may take; a resumed run may change it."""


class Key(NamedTuple):
    """What tells one measurement from another; its checks are always written together."""

    content_hash: str
    dtype: str
    variant: str
    environment: str


class Store:
    """A run's folder, open for writing. Made by `create`.

    Attributes
    ----------
    folder
        Where the run lives.
    set_aside
        Parts that a resumed run could not read: what they held is measured again.
    """

    def __init__(
        self, folder: Path, held: lock.Lock | None = None, set_aside: tuple[Path, ...] = ()
    ) -> None:
        self.folder = folder
        self.set_aside = set_aside
        self._lock = held

    def close(self) -> None:
        """Let other processes write there."""
        if self._lock is not None:
            self._lock.release()

    @classmethod
    def create(
        cls,
        folder: Path,
        header: Mapping[str, str],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> Store:
        """Open a folder for a run with this header.

        A new or empty folder is taken as it is. One that holds a run is continued with `resume`,
        where the header agrees, or emptied of that run with `overwrite`.

        Raises
        ------
        InputError
            The folder holds something else than a run, or a run and neither is asked for, or a run
            with another header; or another process writes there.
        """
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; --out takes a folder")
        _require_run_or_nothing(folder)
        folder.mkdir(parents=True, exist_ok=True)
        held = lock.Lock.take(folder)
        try:
            return cls._opened(folder, header, held, resume=resume, overwrite=overwrite)
        except BaseException:
            held.release()
            raise

    @classmethod
    def _opened(
        cls,
        folder: Path,
        header: Mapping[str, str],
        held: lock.Lock,
        *,
        resume: bool,
        overwrite: bool,
    ) -> Store:
        """Open a folder that nobody else writes to."""
        entries = _require_run_or_nothing(folder)
        set_aside: tuple[Path, ...] = ()
        if entries and overwrite:
            _remove_run(folder)
        elif entries and not resume:
            raise InputError(
                f"{folder} already holds a run; --resume continues it, --overwrite replaces it, "
                "--out takes another folder"
            )
        elif entries:
            _require_same(folder, header)
            set_aside = tuple(_set_aside(folder))
        (folder / RECORDS).mkdir(parents=True, exist_ok=True)
        for left_over in folder.rglob(f"{TEMPORARY}*"):
            if left_over.is_dir():
                shutil.rmtree(left_over)
            elif left_over.name != lock.NAME:
                left_over.unlink(missing_ok=True)
        write_whole(folder / HEADER, _json({"format": FORMAT, **header, STOPPED: INTERRUPTED}))
        return cls(folder, held, set_aside)

    def end(self, stopped: str = "") -> None:
        """Say that the run is over: complete, or stopped before everything was measured, and why.

        A run that is killed before says by itself that it was interrupted.
        """
        header = {**read_header(self.folder), STOPPED: stopped}
        if not stopped:
            del header[STOPPED]
        write_whole(self.folder / HEADER, _json(header))

    def describe_environment(self, identity: str, description: Mapping[str, str]) -> None:
        """Keep what an environment id stands for."""
        path = self.folder / ENVIRONMENTS
        known = _object(path) if path.exists() else {}
        write_whole(path, _json({**known, identity: dict(description)}))

    def write(self, records: Sequence[Record]) -> Path:
        """Write the records of one problem, all of a variant together, as one part.

        They replace earlier ones of the same measurement, which was unfinished then.
        """
        first = records[0]
        keys = sorted({key(record) for record in records})
        self._forget(f"{first.problem}.{first.dtype}.", keys)
        digest = hashlib.sha256(repr(keys).encode()).hexdigest()[:12]
        path = self.folder / RECORDS / f"{first.problem}.{first.dtype}.{digest}.parquet"
        write_whole(path, _parquet(table(records)))
        return path

    def write_verdicts(self, verdicts: pd.DataFrame, name: str = VERDICTS) -> Path:
        """Write judged records as one file beside the parts."""
        path = self.folder / name
        write_whole(path, parquet(verdicts))
        return path

    def done(self) -> set[Key]:
        """Return what need not be measured again."""
        frame = read(self.folder)
        unfinished = frame["exception"].isin(UNFINISHED)
        return _keys(frame) - _keys(frame[unfinished])

    def _forget(self, prefix: str, keys: Sequence[Key]) -> None:
        """Take these measurements out of the parts of their problem."""
        import pyarrow.parquet as pq

        for path in sorted((self.folder / RECORDS).glob(f"{prefix}*.parquet")):
            part = pq.read_table(path)
            written = part.select(list(Key._fields)).to_pylist()
            stays = [Key(**row) not in keys for row in written]
            if not any(stays):
                path.unlink()
            elif not all(stays):
                write_whole(path, _parquet(part.filter(stays)))


def key(record: Record) -> Key:
    """Return the key of one record."""
    return Key(record.content_hash, record.dtype, record.variant, record.environment)


def _keys(frame: pd.DataFrame) -> set[Key]:
    return {Key(*row) for row in frame[list(Key._fields)].itertuples(index=False, name=None)}


def parquet(frame: pd.DataFrame) -> bytes:
    """Return a frame as parquet, without its index and with `FORMAT` in its metadata."""
    import pyarrow as pa

    return _parquet(pa.Table.from_pandas(frame, preserve_index=False))


def _parquet(part: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    versions = {FORMAT_KEY.encode(): str(FORMAT).encode()}
    buffer = pa.BufferOutputStream()
    pq.write_table(
        part.replace_schema_metadata({**(part.schema.metadata or {}), **versions}), buffer
    )
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def read(folder: Path) -> pd.DataFrame:
    """Read every record of a run: one row each, typed; oracles that a part lacks are null there.

    Raises
    ------
    InputError
        There is no run in the folder.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not (folder / HEADER).is_file():
        raise InputError(f"{folder} holds no projlab run ({HEADER} is missing)")
    parts = []
    for path in sorted((folder / RECORDS).glob("*.parquet")):
        try:
            parts.append(pq.read_table(path))
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{path} cannot be read: {reason}; `projlab validate --resume` measures it again"
            ) from error
        if missing := sorted(set(COLUMNS) - set(parts[-1].column_names)):
            raise InputError(
                f"{path} was written by another version of projlab: it lacks {', '.join(missing)}"
            )
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    return cast("pd.DataFrame", pa.concat_tables(parts, promote_options="default").to_pandas())


def read_header(folder: Path) -> dict[str, str]:
    """Return what a run was asked for."""
    return cast("dict[str, str]", _object(folder / HEADER))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary one beside it replaces it once on disk.

    Its mode is what the user's umask makes of a new file.
    """
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def readable(path: Path, columns: Iterable[str]) -> bool:
    """Whether a parquet file is whole, and has these columns."""
    import pyarrow.parquet as pq

    try:
        return set(columns) <= set(pq.read_table(path).column_names)
    except (OSError, ValueError):
        return False


def _set_aside(folder: Path) -> list[Path]:
    """Rename what cannot be read of the parts; return what they were called."""
    found = []
    for parts, columns in ((RECORDS, tuple(COLUMNS)), (TRAINING, ()), (BOUNDS, ())):
        for path in sorted((folder / parts).glob("*.parquet")):
            if not readable(path, columns):
                path.replace(path.with_name(path.name + UNREADABLE))
                found.append(path)
    return found


def _require_run_or_nothing(folder: Path) -> list[Path]:
    """Return what a folder holds; `InputError` where that is no run."""
    entries = [p for p in folder.glob("*") if not p.name.startswith(TEMPORARY)]
    if entries and not (folder / HEADER).is_file():
        raise InputError(
            f"{folder} holds something else than a projlab run ({entries[0].name}, …); "
            "give --out a new or empty folder"
        )
    return entries


def _object(path: Path) -> dict[str, object]:
    """Read a file that holds a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} cannot be read: it holds no JSON object")
    return content


def _require_same(folder: Path, header: Mapping[str, str]) -> None:
    wanted = {"format": FORMAT, **header}
    wanted.pop(TIME_LIMIT, None)
    stored = read_header(folder)
    for name, value in wanted.items():
        if stored.get(name) != value:
            raise InputError(
                f"{folder} holds a run with {name} {stored.get(name)!r}, not {value!r}; "
                "a run is resumed as it was begun: give another --out, or --overwrite"
            )


def _remove_run(folder: Path) -> None:
    """Remove what a run consists of, the header last, and leave anything else alone."""
    for parts in (RECORDS, TRAINING, BOUNDS):
        shutil.rmtree(folder / parts, ignore_errors=True)
    (folder / ENVIRONMENTS).unlink(missing_ok=True)
    (folder / HEADER).unlink()


def _json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
