"""Which files are systems, which stand beside one, and which format reads a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from projlab.errors import InputError
from projlab.files.contents import Format
from projlab.files.formats import ANY, SUFFIXES
from projlab.files.refusal import wrong


def find(paths: Sequence[Path]) -> list[Path]:
    """Return the files, and of folders every file in a format that `load` reads.

    Beside NAME.mtx, NAME_b.mtx and NAME_x0.mtx are its right-hand side and its point, whatever the
    format, and no systems.

    Raises
    ------
    InputError
        Something does not exist, or a folder holds no such file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [p for p in _inside(path) if _suffix(p) and not p.is_dir()]
            stems = {stem(p) for p in inside}
            systems = [p for p in inside if not _is_companion(p, stems)]
            if not systems:
                raise wrong(path, "is a folder without a system", f"a file {ANY}")
            files += systems
        elif not path.exists():
            raise InputError(f"{path}: there is no such file or folder")
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as fault:
        raise wrong(folder, f"cannot be listed ({fault.strerror})", "a folder to read") from fault


def format_of(path: Path) -> Format:
    """The format that the suffix says, of a file that is there.

    Raises
    ------
    InputError
        No format has the suffix, or there is no such file.
    """
    suffix = _suffix(path)
    if path.is_dir():
        raise wrong(path, "is a folder", f"a file {ANY}")
    if not suffix:
        raise wrong(path, f"is no format known here ({path.suffix or 'no suffix'})", ANY)
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    if not path.is_file():
        raise wrong(path, "is no regular file", f"a file {ANY}")
    return SUFFIXES[suffix]


def companions(path: Path, what: str) -> list[Path]:
    """The files beside `path` whose names say that they hold its b or x0."""
    named = (path.with_name(f"{stem(path)}_{what}{suffix}") for suffix in SUFFIXES)
    return [file for file in named if file.is_file()]


def stem(path: Path) -> str:
    """The name without the suffix that says its format."""
    return path.name[: -len(_suffix(path))]


def _suffix(path: Path) -> str:
    """The suffix that decides the format; "" where it is none that is known."""
    return next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")


def _is_companion(path: Path, stems: set[str]) -> bool:
    own = stem(path)
    return any(own.endswith(end) and own.removesuffix(end) in stems for end in ("_b", "_x0"))
