"""Refusals of a file: one sentence with the file, the place, what it holds and what is wanted."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from projlab.errors import InputError
from projlab.numerics import memory

SHOWN = 40
"""Characters of a file's own text that a sentence repeats."""

ROOM = 2**26
"""Bytes of row and column pointers that any file may ask for, and 64 times its own size beyond."""


def wrong(path: Path, holds: str, wanted: str) -> InputError:
    """The error that says what a file holds and what is wanted of it."""
    return InputError(f"{path}: {plain(holds)}; want {plain(wanted)}")


def plain(text: str) -> str:
    """The same without what a terminal might obey: a file's names are anybody's."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)


def shown(text: str | bytes) -> str:
    """Some text of a file, cut and quoted so that no control character reaches a terminal."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="replace")
    return ascii(text) if len(text) <= SHOWN else f"{text[:SHOWN]!a}…"


def place(line: int, column: int) -> str:
    """A place in a text, both counted from one."""
    return f"in line {line}, column {column}"


def line_of(fault: BaseException) -> str:
    """The first line of an exception's text, or its type where it has none."""
    text = str(fault).strip().splitlines()
    return text[0][:160] if text else type(fault).__name__


@contextmanager
def reading(path: Path, what: str, wanted: str) -> Iterator[list[str]]:
    """Around a call of somebody else's reader: its error becomes a refusal with its own reason.

    Yields the list that holds the reader's warnings afterwards. Only such calls stand inside, so
    that a fault of this package is not taken for one of the file.
    """
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield said
        except InputError:
            raise
        except Exception as fault:
            raise wrong(path, f"cannot be read as {what} ({line_of(fault)})", wanted) from fault
    said += [line_of(warning.message) for warning in caught if isinstance(warning.message, Warning)]


def believe(path: Path, size: int, what: str = "") -> None:
    """Refuse before memory is taken what claims to hold more bytes than half of the memory."""
    allowed = memory.limit(torch.device("cpu"))
    if size > allowed:
        raise wrong(
            path,
            f"claims to hold {what}{size:,} bytes",
            f"at most {allowed:,}, half of the memory here",
        )


def believe_shape(path: Path, m: int, n: int, held: int) -> None:
    """Refuse a sparse matrix whose pointers alone dwarf the `held` bytes that describe it."""
    size = 8 * (m + n)
    if size > max(ROOM, 64 * held):
        raise wrong(
            path,
            f"claims to hold {m:,} rows and {n:,} columns in {held:,} bytes",
            "a shape that fits what the file holds",
        )
    believe(path, size)
