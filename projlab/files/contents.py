"""What a reader hands over, and how a named part of it is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projlab.files.refusal import shown, wrong

Parts = Mapping[str, Any]

SEARCHED = 4
"""Levels of a checkpoint in which a matrix is looked for, to say what `key` could be."""


@dataclass(frozen=True)
class Contents:
    """What a file holds by name; a lone matrix is "A".

    Attributes
    ----------
    parts
        Arrays, tensors, sparse matrices or lists; a format that nests has mappings among them.
    notes
        What was taken as what, and what was left out.
    """

    parts: Parts
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes
    ----------
    suffixes
        Each with its point, in lower case.
    what
        What such a file is read as.
    wanted
        What it should hold.
    read
        The reader.
    keyed
        Whether its parts have names that nest, so that `key` can name one.
    """

    suffixes: tuple[str, ...]
    what: str
    wanted: str
    read: Callable[[Path], Contents]
    keyed: bool = False


@dataclass(frozen=True)
class Unread:
    """A part that is there and not read, and why: refused only if it is asked for."""

    why: str


def repeated(names: Iterable[str]) -> str | None:
    """The first name that occurs more than once."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


MATRICES = ("A", "Aeq", "A_eq")
RIGHT_SIDES = {"A": "b", "Aeq": "beq", "A_eq": "b_eq"}
BOUNDS = ("G", "h", "lb", "ub", "inequality_names")
"""Inequalities and bounds by the names that qpsolvers gives them; the last is the MPS reader's."""

SPARSE_KEYS = "data, indices, indptr, shape"
KEYS = (
    "the keys A (or Aeq, A_eq), b (or beq, b_eq) and optionally x0 (or x), names, G with h, lb and "
    f"ub; or those of a sparse matrix A, {SPARSE_KEYS} and format, with b and optionally the others"
)


def under(path: Path, parts: Parts, key: str) -> tuple[Parts, str | None]:
    """The mapping that `key` names, or the one that holds what it names, and that one's name.

    A point in `key` goes down one mapping, or is part of a name, as in a `state_dict`.
    """
    found = _under(parts, key)
    if found is None:
        raise wrong(path, f"holds no {shown(key)}, but {held_by(parts)}", "a key that it holds")
    return found


def _under(parts: Parts, key: str) -> tuple[Parts, str | None] | None:
    if isinstance(parts.get(key), Mapping):
        return parts[key], None
    below = _below(parts, key)
    if below:
        return below, None
    head, _, last = key.rpartition(".")
    if head and last in (beside := _below(parts, head)):
        return beside, last
    if key in parts:
        return parts, key
    for name, part in parts.items():
        if key.startswith(f"{name}.") and isinstance(part, Mapping):
            return _under(part, key[len(name) + 1 :])
    return None


def _below(parts: Parts, head: str) -> Parts:
    """The parts whose flat names start with `head` and a point, without these."""
    start = f"{head}."
    return {name[len(start) :]: part for name, part in parts.items() if name.startswith(start)}


def keys_with_matrices(parts: Parts) -> list[str]:
    """The keys below which a matrix stands under a name that is known."""
    return list(dict.fromkeys(_matrices(parts, "", SEARCHED)))


def _matrices(parts: Parts, prefix: str, depth: int) -> Iterator[str]:
    for name, part in parts.items():
        head, _, last = f"{prefix}{name}".rpartition(".")
        if head and last in (*MATRICES, "indptr"):
            yield head
        if isinstance(part, Mapping) and depth:
            yield from _matrices(part, f"{prefix}{name}.", depth - 1)


def counted(count: int, one: str, many: str = "") -> str:
    """A number of things, in the singular where it is one."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def held_by(parts: Parts) -> str:
    """What there is, by name; of a part that holds others, what is in it."""
    names = []
    for name, part in parts.items():
        inside = f" ({listed(list(part), 4)})" if isinstance(part, Mapping) else ""
        names.append(f"{printable(name)}{inside}")
    return listed(names)


def printable(name: str) -> str:
    """A name as it is, or quoted where it would disturb a sentence."""
    return name if name.isprintable() and len(name) <= 60 else shown(name)


def listed(names: list[str], most: int = 8) -> str:
    """Names for a sentence: the first few, and how many more there are."""
    if not names:
        return "nothing"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
