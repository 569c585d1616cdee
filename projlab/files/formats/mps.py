"""Linear programs in MPS, fixed and free: the rows that are equations.

Source: IBM, "Mathematical Programming System/360, Linear and Separable Programming: User's Manual"
(1969), for the sections; the conventions for ranges and free format are those of HiGHS, whose
reader the tests hold this one against. Solvers' readers are not used here: they take "1,5" for 1,
leave out entries below 1e-12, refuse those above 1e15, and of an entry given twice keep the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import scipy.sparse as sp

from projlab.files.contents import Contents, Format, listed
from projlab.files.refusal import place, shown, wrong
from projlab.files.text import unpacked
from projlab.files.tokens import number, why_not

WHAT = "MPS"
WANTED = "a whole MPS file with rows of type E"
FIXED = ((1, 3), (4, 12), (14, 22), (24, 36), (39, 47), (49, 61))
"""The six fields of the fixed format, as slices of a line."""

VALUED = frozenset({"UP", "LO", "FX", "UI", "LI", "SC", "SI"})
UNVALUED = frozenset({"FR", "MI", "PL", "BV"})
OBJECTIVE = frozenset(
    {"OBJSENSE", "OBJSENSEMAX", "OBJSENSEMIN", "OBJSENS", "OBJNAME", "QUADOBJ", "QMATRIX", "PWLOBJ"}
)
"""Sections about the objective, which is left out anyway."""

DISCRETE = frozenset({"SOS", "SOS1", "SOS2", "SETS", "BRANCH", "PRIORITY", "CSECTION"})
"""Sections that narrow the set further: left out, and said."""


@dataclass(frozen=True)
class _Word:
    text: str
    column: int


@dataclass
class _Program:
    """What was read so far."""

    path: Path
    line: int = 0
    types: dict[str, str] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)
    entries: dict[tuple[str, str], float] = field(default_factory=dict)
    right: dict[str, float] = field(default_factory=dict)
    ranges: dict[str, float] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, set[str]] = field(default_factory=dict)
    integers: set[str] = field(default_factory=set)
    in_integers: bool = False
    left_out: list[str] = field(default_factory=list)

    def refuse(self, holds: str, word: _Word | None = None, wanted: str = WANTED) -> NoReturn:
        where = f"in line {self.line}" if word is None else place(self.line, word.column)
        raise wrong(self.path, f"{holds} {where}", wanted)


def read(path: Path) -> Contents:
    """Read the equations of a linear program by their names."""
    program = _Program(path)
    section = ""
    lines = unpacked(path, WHAT, WANTED).decode("utf-8", errors="surrogateescape").split("\n")
    fixed = _is_fixed(lines)
    for program.line, line in enumerate(lines, 1):
        content = line.rstrip()
        if not content or content.startswith("*"):
            continue
        if section == "ENDATA":
            program.left_out.append(
                f"what follows ENDATA, from line {program.line} on, is left out"
            )
            break
        if not content[0].isspace():
            section = _section(program, content)
        elif section in READERS:
            words = _fields(program, content) if fixed else _split(content)
            READERS[section](program, words)
        elif not section:
            program.refuse(f"holds {shown(content.strip())} before any section")
    if section != "ENDATA":
        raise wrong(path, "has no ENDATA at its end", WANTED)
    return _equations(program)


def _section(program: _Program, content: str) -> str:
    name = content.split()[0].upper()
    if name in DISCRETE:
        program.left_out.append(f"the section {name} is left out")
    elif name in {"QSECTION", "QCMATRIX"}:
        _quadratic(program, content.split()[1:])
    elif name not in OBJECTIVE | {*READERS, "NAME", "ENDATA"}:
        program.refuse(f"has a section {shown(content.split()[0])}, unknown here,")
    return name


def _quadratic(program: _Program, names: Sequence[str]) -> None:
    """A quadratic part of a row: of no concern to the equations unless it is one's."""
    for name in names:
        if program.types.get(name) == "E":
            program.refuse(f"makes the row {shown(name)} quadratic", wanted="linear equations")


def _is_fixed(lines: Sequence[str]) -> bool:
    """Whether names hold spaces, which the fixed format alone allows."""
    section = ""
    for line in lines:
        words = line.split()
        if not words or line.startswith("*"):
            continue
        if not line[0].isspace():
            section = words[0].upper()
        elif (section == "ROWS" and len(words) > 2) or (
            section == "COLUMNS" and "'MARKER'" not in words and len(words) in (4, 6)
        ):
            return True
    return False


def _split(content: str) -> list[_Word]:
    words, at = [], 0
    for text in content.split():
        at = content.index(text, at)
        words.append(_Word(text, at + 1))
        at += len(text)
    return words


def _fields(program: _Program, content: str) -> list[_Word]:
    """The words of a line in the fixed format; none may stand outside its field."""
    if "\t" in content:
        program.refuse("holds a tab among fixed columns", _Word("", content.index("\t") + 1))
    inside = {i for start, end in FIXED for i in range(start, end)}
    for i, mark in enumerate(content):
        if not mark.isspace() and i not in inside:
            program.refuse(f"holds {shown(mark)} between the fixed columns", _Word(mark, i + 1))
    parts = [(content[start:end].strip(), start + 1) for start, end in FIXED]
    return [_Word(text, at) for text, at in parts if text]


def _row(program: _Program, words: Sequence[_Word]) -> None:
    if len(words) != 2 or words[0].text.upper() not in {"N", "E", "L", "G"}:
        program.refuse(f"holds {shown(' '.join(w.text for w in words))}", words[0], "N|E|L|G NAME")
    kind, name = words[0].text.upper(), words[1].text
    if name in program.types:
        program.refuse(f"names the row {shown(name)} again", words[1], "one row of each name")
    program.types[name] = kind


def _column(program: _Program, words: Sequence[_Word]) -> None:
    if any(word.text == "'MARKER'" for word in words):
        program.in_integers = words[-1].text == "'INTORG'"
        return
    name, pairs = words[0], words[1:]
    program.columns.setdefault(name.text, len(program.columns))
    if program.in_integers:
        program.integers.add(name.text)
    for row, value in _pairs(program, pairs):
        if (row.text, name.text) in program.entries:
            program.refuse(
                f"gives {shown(name.text)} in {shown(row.text)} again", row, "each entry once"
            )
        program.entries[row.text, name.text] = _value(program, value)


def _pairs(program: _Program, words: Sequence[_Word]) -> Iterator[tuple[_Word, _Word]]:
    """Names of rows, each with the number after it."""
    if len(words) not in (2, 4):
        program.refuse("has no number at the end of one or two pairs", words[-1] if words else None)
    for row, value in zip(words[::2], words[1::2], strict=True):
        if row.text not in program.types:
            program.refuse(f"names the row {shown(row.text)}, which is none,", row)
        yield row, value


def _value(program: _Program, word: _Word, *, infinite: bool = False) -> float:
    try:
        value = number(word.text)
    except ValueError:
        said = f"holds {shown(word.text)}{why_not(word.text)} where a number belongs,"
        program.refuse(said, word)
    if math.isnan(value) or (math.isinf(value) and not infinite):
        program.refuse(f"holds {shown(word.text)}", word, "finite numbers")
    return value


def _by_row(section: str) -> Callable[[_Program, Sequence[_Word]], None]:
    """A reader of RHS or RANGES: a set's name, which may be missing, and pairs."""

    def read_line(program: _Program, words: Sequence[_Word]) -> None:
        named = len(words) % 2 == 1
        _one_set(program, section, words[0] if named else None)
        held = program.right if section == "RHS" else program.ranges
        for row, value in _pairs(program, words[named:]):
            if row.text in held:
                program.refuse(f"gives {section} of {shown(row.text)} again", row, "each once")
            equation = section == "RHS" and program.types[row.text] == "E"
            held[row.text] = _value(program, value, infinite=not equation)

    return read_line


def _one_set(program: _Program, section: str, word: _Word | None) -> None:
    name = word.text if word else ""
    if program.sets.setdefault(section, name) != name:
        said = f"has a second set {shown(name)} in {section}, after {shown(program.sets[section])},"
        program.refuse(said, word, "one set: others are other problems")


def _bound(program: _Program, words: Sequence[_Word]) -> None:
    kind = words[0].text.upper()
    if kind not in VALUED | UNVALUED:
        program.refuse(f"holds {shown(words[0].text)}, no type of bound,", words[0])
    rest = list(words[1:])
    if kind in VALUED:
        if len(rest) not in (2, 3):
            program.refuse("has no number at the end of a bound", words[-1])
        _value(program, rest.pop(), infinite=True)
    elif len(rest) == 3 or (len(rest) == 2 and rest[1].text not in program.columns):
        _value(program, rest.pop(), infinite=True)
    if not rest or rest[-1].text not in program.columns:
        said = f"names the variable {shown(rest[-1].text if rest else '')}, which is none,"
        program.refuse(said, words[-1])
    _one_set(program, "BOUNDS", rest[0] if len(rest) == 2 else None)
    program.bounds.setdefault(kind, set()).add(rest[-1].text)


def _ignored(program: _Program, words: Sequence[_Word]) -> None:
    """A line of a section that is left out."""


READERS: Mapping[str, Callable[[_Program, Sequence[_Word]], None]] = {
    "ROWS": _row,
    "COLUMNS": _column,
    "RHS": _by_row("RHS"),
    "RANGES": _by_row("RANGES"),
    "BOUNDS": _bound,
}
"""By section: how one line of it is read."""


def _equations(program: _Program) -> Contents:
    """A, b and names of the rows whose two sides are one number; all else goes into the notes."""
    rows = [name for name, kind in program.types.items() if kind != "N"]
    equal = [
        name
        for name in rows
        if (program.ranges[name] == 0 if name in program.ranges else program.types[name] == "E")
        and math.isfinite(program.right.get(name, 0.0))
    ]
    if not equal:
        holds = f"holds {len(rows)} rows, none an equation"
        raise wrong(program.path, holds, "at least one row of type E")
    at = {name: i for i, name in enumerate(equal)}
    kept = [(at[r], program.columns[c], v) for (r, c), v in program.entries.items() if r in at]
    table = np.array(kept, dtype=np.float64).reshape(-1, 3)
    places = table[:, :2].T.astype(np.int64)
    A = sp.csr_array((table[:, 2], tuple(places)), shape=(len(equal), len(program.columns)))
    parts = {
        "A": A,
        "b": np.array([program.right.get(name, 0.0) for name in equal]),
        "names": [_printable(name) for name in equal],
    }
    return Contents(parts, tuple(_notes(program, rows, equal)))


def _printable(name: str) -> str:
    """A name whose bytes are no UTF-8 as its escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _notes(program: _Program, rows: Sequence[str], equal: Sequence[str]) -> Iterator[str]:
    chosen = set(equal)
    left = [_printable(name) for name in rows if name not in chosen]
    if left:
        verb = "are inequalities" if len(left) > 1 else "is an inequality"
        yield f"{len(left)} of {len(rows)} rows {verb} and left out ({listed(left, 3)})"
    ranged = [name for name in left if program.types.get(name) == "E"]
    if ranged:
        yield f"{len(ranged)} of them by RANGES ({listed(ranged, 3)})"
    turned = [name for name in equal if program.types[name] != "E"]
    if turned:
        yield f"{len(turned)} rows are equations by a range of 0 ({listed(turned, 3)})"
    fixed = sorted(map(_printable, program.bounds.get("FX", ())))
    if fixed:
        yield f"{len(fixed)} variables that FX fixes are not fixed here ({listed(fixed, 3)})"
    free = program.bounds.get("FR", set()) - set().union(
        *(names for kind, names in program.bounds.items() if kind != "FR")
    )
    if bounded := len(program.columns) - len(free):
        variables = f"{len(program.columns)} variables"
        yield f"bounds are left out, of {bounded} of {variables} (x ≥ 0 where none is given)"
    if program.integers:
        yield f"{len(program.integers)} variables are integers, which is left out"
    yield from program.left_out


FORMAT = Format((".mps", ".mps.gz", ".mps.bz2"), WHAT, WANTED, read)
