"""What the commands share: what a command is, exit codes, types of options, JSON output."""

import argparse
import importlib.metadata
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from projlab.errors import InputError

HELD, FAILED, BAD_INPUT, NOTHING_CHECKED = range(4)

BROKE = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED, READER_LEFT = 130, 141  # what a shell reports of SIGINT and SIGPIPE

BROKE_CODE = f"{BROKE} projlab itself broke"
EXIT_CODES = (
    "exit codes: 0 all held; 1 a check failed; 2 bad usage or bad input; 3 nothing was checked;\n"
    + BROKE_CODE
)

FORMAT = 1
"""Of what `--json` prints; raised when a program that reads it could break."""


@dataclass(frozen=True)
class Command:
    """One command of `projlab`.

    Attributes
    ----------
    name
        The word after `projlab`.
    help
        Its line in `projlab --help`.
    description, epilog
        What its own `--help` says before the options and after them.
    add_arguments
        Adds its arguments to its parser.
    run
        Does what the parsed options ask for; returns the exit code.
    interrupted
        What is said after Ctrl-C: what of the work is kept.
    no_room
        What is said where nothing more can be written: what is kept, and how to go on.
    """

    name: str
    help: str
    description: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    interrupted: str = ""
    no_room: str = "ask again once there is room"


def named_path(text: str) -> Path:
    """A path; not the empty one, which means this folder to Python and a slip to who wrote it."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; a variable of the shell may not be set")
    return Path(text)


def positive_integer(text: str) -> int:
    """Return the value of an option that takes an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def positive_number(text: str) -> float:
    """Return the value of an option that takes a positive, finite number."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def require_writable(file: Path, option: str) -> None:
    """Raise `InputError` where a file cannot be written, before hours are spent on its content."""
    existing = _there(file.parent)
    if file.is_dir() or not existing.is_dir():
        raise InputError(f"{option} {file} takes the name of a file in a folder")
    if file.exists() and not file.is_file():  # a device would be replaced by a file
        raise InputError(f"{option} {file} is no regular file; give it the name of one")
    if not os.access(file if file.exists() else existing, os.W_OK):
        raise InputError(f"{option} {file} cannot be written there: permission denied")


def require_writable_folder(folder: Path, option: str) -> None:
    """The same of a folder that files are written into, there or to be made."""
    existing = _there(folder)
    if not existing.is_dir():
        which = "" if existing == folder else f" is in {existing}, which"
        raise InputError(f"{option} {folder}{which} is a file; it takes a folder")
    if not os.access(existing, os.W_OK):
        raise InputError(f"{option} {folder} cannot be written there: permission denied")


def _there(path: Path) -> Path:
    """The path, or else the nearest one above it that is there."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def require_suite(command: str) -> None:
    """Raise `InputError` that says what to install where the suite is not installed."""
    if missing := _missing_from_suite():
        raise InputError(
            f"{command} needs the suite ({', '.join(missing)} missing); "
            "install it by `pip install projlab[suite]`"
        )


def _missing_from_suite() -> list[str]:
    """Name what the suite extra lists and this environment lacks."""
    missing = []
    for requirement in importlib.metadata.requires("projlab") or ():
        name, _, marker = requirement.partition(";")
        if re.search(r"extra == ['\"]suite['\"]", marker):
            distribution = re.split(r"[^\w.-]", name.strip(), maxsplit=1)[0]
            try:
                importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                missing.append(distribution)
    return missing


def chosen_variants(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return these variants, or all where none are named; `InputError` for an unknown name."""
    from projlab.engine.variants import get, variants

    return tuple(get(name).name for name in names) if names else variants()


def usable_device(name: str) -> str:
    """Return the name of a torch device; `InputError` where nothing can be allocated on it."""
    import torch

    try:
        torch.empty(0, device=name, dtype=torch.float32)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise InputError(f"--device {name} cannot be used here: {error}") from error
    return name


def print_json(value: object) -> None:
    """Print what a program reads: JSON by the letter, in whatever encoding the output has."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    print(json.dumps(plain(value), indent=2, ensure_ascii=encoding != "utf8", allow_nan=False))


def plain(value: object) -> object:
    """Return a value as JSON can hold it: null for a figure that is missing or infinite."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
