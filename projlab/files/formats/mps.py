"""Linear programs in MPS, fixed and free: equations, inequalities and bounds.

Source: IBM, "Mathematical Programming System/360, Linear and Separable Programming: User's Manual"
(1969), for the sections; the conventions for ranges, bounds, infinity and free format are those of
HiGHS, whose reader the tests hold this one against. Solvers' readers are not used here: they take
"1,5" for 1, leave out entries below 1e-12, refuse those above 1e15, and of an entry given twice
keep the first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import scipy.sparse as sp

from projlab.files.arrays import Vector
from projlab.files.contents import Contents, Format, counted, listed
from projlab.files.refusal import place, shown, wrong
from projlab.files.text import unpacked
from projlab.files.tokens import number, why_not

WHAT = "MPS"
WANTED = "a whole MPS file with rows of type E, L or G"
FIXED = ((1, 3), (4, 12), (14, 22), (24, 36), (39, 47), (49, 61))
"""The six fields of the fixed format, as slices of a line."""

INFINITE = 1e20
"""Sides of rows and bounds of this size or more are infinite: HiGHS's `infinite_bound`."""

VALUED = frozenset({"UP", "LO", "FX", "UI", "LI", "SC", "SI"})
UNVALUED = frozenset({"FR", "MI", "PL", "BV"})
OBJECTIVE = frozenset(
    {"OBJSENSE", "OBJSENSEMAX", "OBJSENSEMIN", "OBJSENS", "OBJNAME", "QUADOBJ", "QMATRIX", "PWLOBJ"}
)
"""Sections about the objective, which is left out anyway."""

DISCRETE = frozenset({"SOS", "SOS1", "SOS2", "SETS", "BRANCH", "PRIORITY", "CSECTION"})
"""Sections that narrow the set further: left out, and said."""

QUADRATIC = frozenset({"QSECTION", "QCMATRIX"})
"""Sections of one row's quadratic part; the row is named behind them."""

SENSES = frozenset({"MAX", "MIN", "MAXIMIZE", "MINIMIZE"})


@dataclass
class _Program:
    """What was read so far."""

    path: Path
    line: int = 0
    content: str = ""
    fixed: bool = False
    types: dict[str, str] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)
    entries: dict[tuple[str, str], float] = field(default_factory=dict)
    right: dict[str, float] = field(default_factory=dict)
    ranges: dict[str, float] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, set[str]] = field(default_factory=dict)
    lower: dict[str, float] = field(default_factory=dict)
    upper: dict[str, float] = field(default_factory=dict)
    infinite: dict[str, None] = field(default_factory=dict)
    integers: set[str] = field(default_factory=set)
    in_integers: bool = False
    left_out: list[str] = field(default_factory=list)

    def refuse(self, holds: str, word: int | None = None, wanted: str = WANTED) -> NoReturn:
        """Raise the refusal of the line, or of one of its words, counted as `words` gives them."""
        where = (
            f"in line {self.line}" if word is None else place(self.line, self.columns_of()[word])
        )
        raise wrong(self.path, f"{holds} {where}", wanted)

    def words(self) -> list[str]:
        """The words of the line; in the fixed format the fields that are not blank."""
        if not self.fixed:
            return self.content.split()
        return [text for start, end in FIXED if (text := self.content[start:end].strip())]

    def columns_of(self) -> list[int]:
        """Where the words start, counted from one."""
        if not self.fixed:
            return [word.start() + 1 for word in re.finditer(r"\S+", self.content)]
        return [start + 1 for start, end in FIXED if self.content[start:end].strip()]


def read(path: Path) -> Contents:
    """Read the rows of a linear program by their names, and the bounds of its variables."""
    text = unpacked(path, WHAT, WANTED).decode("utf-8", errors="surrogateescape")
    lines = text.split("\n")
    program = _Program(path, fixed=_is_fixed(lines))
    section = ""
    for number_, line in enumerate(lines, 1):
        content = line.rstrip()
        if not content or content[0] == "*":
            continue
        program.line, program.content = number_, content
        if section == "ENDATA":
            program.left_out.append(f"what follows ENDATA, from line {number_} on, is left out")
            break
        if _is_header(section, content):
            section = _section(program, content.split())
        elif section in READERS:
            if program.fixed:
                _require_fields(program)
            READERS[section](program, program.words())
        elif not section:
            program.refuse(f"holds {shown(content.strip())} before any section")
    if section != "ENDATA":
        raise wrong(path, "has no ENDATA at its end", WANTED)
    return _contents(program)


def _is_header(section: str, content: str) -> bool:
    """Whether a line ends the section that is being read.

    Where it begins decides, but for what HiGHS reads otherwise: a section's name is a header
    wherever it stands alone; a line of data may begin in column 1, also with the name of its own
    section, as sets are often called.
    """
    words, indented = content.split(), content[0].isspace()
    name = words[0].upper()
    if len(words) == 1:
        return name in SECTIONS or not indented
    return not indented and (section not in READERS or name in SECTIONS - {section})


def _section(program: _Program, words: Sequence[str]) -> str:
    """The name of the section that a line begins."""
    name, behind = words[0].upper(), words[1:]
    if name not in SECTIONS:
        program.refuse(f"has a section {shown(words[0])}, unknown here,")
    if name == "NAME" and program.types:
        program.refuse("has NAME after its rows", wanted="NAME first, and lines of data indented")
    if not _may_follow(name, behind):
        said = f"holds {shown(' '.join(behind))} behind the name of the section {name}"
        program.refuse(said, wanted="the name alone in its line, and lines of data indented")
    if name in DISCRETE:
        program.left_out.append(f"the section {name} is left out")
    elif name in QUADRATIC:
        _quadratic(program, behind)
    return name


def _may_follow(name: str, behind: Sequence[str]) -> bool:
    """Whether these words may stand behind a section's name, in its line."""
    if name in {"NAME", "CSECTION"}:
        return True
    if name in {"OBJSENSE", "OBJSENS"} and len(behind) == 1:
        return behind[0].upper() in SENSES
    return not behind or (len(behind) == 1 and name in QUADRATIC | {"OBJNAME"})


def _quadratic(program: _Program, names: Sequence[str]) -> None:
    """A quadratic part of a row: of no concern unless it is a constraint's."""
    for name in names:
        if name not in program.types:
            program.refuse(f"names the row {shown(name)}, which is none,")
        if program.types[name] != "N":
            program.refuse(f"makes the row {shown(name)} quadratic", wanted="linear rows")


def _is_fixed(lines: Sequence[str]) -> bool:
    """Whether names of rows or columns hold spaces, which the fixed format alone allows."""
    section, rows = "", set()
    for line in lines:
        words = line.split()
        if not words or line.startswith("*"):
            continue
        if _is_header(section, line):
            section = words[0].upper()
        elif section == "ROWS":
            if len(words) > 2:
                return True
            rows.add(words[-1])
        elif section == "COLUMNS" and len(words) in (4, 6) and words[1] not in rows:
            return True
    return False


def _require_fields(program: _Program) -> None:
    """Refuse a line of the fixed format in which something stands outside its field."""
    if "\t" in program.content:
        program.refuse("holds a tab among fixed columns")
    inside = {i for start, end in FIXED for i in range(start, end)}
    for i, mark in enumerate(program.content):
        if not mark.isspace() and i not in inside:
            where = place(program.line, i + 1)
            raise wrong(
                program.path, f"holds {shown(mark)} between the fixed columns {where}", WANTED
            )


def _row(program: _Program, words: Sequence[str]) -> None:
    if len(words) != 2 or words[0].upper() not in {"N", "E", "L", "G"}:
        program.refuse(f"holds {shown(' '.join(words))}", 0, "N, E, L or G and a name")
    if words[1] in program.types:
        program.refuse(f"names the row {shown(words[1])} again", 1, "one row of each name")
    program.types[words[1]] = words[0].upper()


def _column(program: _Program, words: Sequence[str]) -> None:
    if "'MARKER'" in words:
        program.in_integers = words[-1] == "'INTORG'"
        return
    name = words[0]
    program.columns.setdefault(name, len(program.columns))
    if program.in_integers:
        program.integers.add(name)
    for at in _pairs(program, words, 1):
        row = words[at]
        if (row, name) in program.entries:
            program.refuse(f"gives {shown(name)} in {shown(row)} again", at, "each entry once")
        program.entries[row, name] = _value(program, words, at + 1)


def _pairs(program: _Program, words: Sequence[str], start: int) -> range:
    """Where the names of rows are, each with a number after it."""
    if len(words) - start not in (2, 4):
        program.refuse("has no number at the end of one or two pairs")
    places = range(start, len(words), 2)
    for at in places:
        if words[at] not in program.types:
            program.refuse(f"names the row {shown(words[at])}, which is none,", at)
    return places


def _value(program: _Program, words: Sequence[str], at: int, *, infinite: bool = False) -> float:
    try:
        value = number(words[at])
    except ValueError:
        said = f"holds {shown(words[at])}{why_not(words[at])} where a number belongs,"
        program.refuse(said, at)
    if not math.isfinite(value) and (math.isnan(value) or not infinite):
        program.refuse(f"holds {shown(words[at])}", at, "finite numbers")
    return value


def _by_row(section: str) -> Callable[[_Program, Sequence[str]], None]:
    """A reader of RHS or RANGES: a set's name, which may be missing, and pairs."""

    def read_line(program: _Program, words: Sequence[str]) -> None:
        named = len(words) % 2
        _one_set(program, section, words[0] if named else "")
        held = program.right if section == "RHS" else program.ranges
        for at in _pairs(program, words, named):
            row = words[at]
            if row in held:
                program.refuse(f"gives {section} of {shown(row)} again", at, "each once")
            held[row] = _value(program, words, at + 1, infinite=True)
            _require_satisfiable(program, row, at)

    return read_line


def _require_satisfiable(program: _Program, row: str, at: int) -> None:
    """Refuse an infinite right side that no number satisfies, or that a range leads away from."""
    kind, right = program.types[row], _open(program.right.get(row, 0.0))
    if kind == "N" or math.isfinite(right):
        return
    wanted = f"right sides within ±{INFINITE:g}, which is infinite"
    if kind == "E" or (kind == "L") == (right < 0):
        program.refuse(f"asks the row {shown(row)} to be {right}", at, wanted)
    if row in program.ranges:
        program.refuse(f"gives the row {shown(row)} a range from {right}", at, wanted)


def _open(value: float) -> float:
    """A side or a bound, infinite where it is as good as that."""
    return math.copysign(math.inf, value) if abs(value) >= INFINITE else value


def _one_set(program: _Program, section: str, name: str) -> None:
    if program.sets.setdefault(section, name) != name:
        said = f"has a second set {shown(name)} in {section}, after {shown(program.sets[section])},"
        program.refuse(said, wanted="one set: others are other problems")


def _bound(program: _Program, words: Sequence[str]) -> None:
    kind = words[0].upper()
    if kind not in VALUED | UNVALUED:
        program.refuse(f"holds {shown(words[0])}, no type of bound,", 0)
    count = len(words)
    valued = kind in VALUED or count == 4 or (count == 3 and words[2] not in program.columns)
    value = math.nan
    if valued:
        count -= 1
        if count not in (2, 3):
            program.refuse("has no number at the end of a bound")
        value = _value(program, words, count, infinite=True)
    if count not in (2, 3) or words[count - 1] not in program.columns:
        program.refuse(f"names the variable {shown(words[count - 1])}, which is none,", count - 1)
    _one_set(program, "BOUNDS", words[1] if count == 3 else "")
    name = words[count - 1]
    program.bounds.setdefault(kind, set()).add(name)
    _set_bound(program, kind, name, value)


def _set_bound(program: _Program, kind: str, name: str, value: float) -> None:
    """What one bound says of either side, each of which may be said once."""
    said: dict[str, float] = {}
    if kind in {"LO", "LI", "FX", "FR", "MI", "BV"}:
        said["lower"] = {"FR": -math.inf, "MI": -math.inf, "BV": 0.0}.get(kind, value)
    if kind in {"UP", "UI", "FX", "FR", "PL", "BV", "SC", "SI"}:
        said["upper"] = {"FR": math.inf, "PL": math.inf, "BV": 1.0}.get(kind, value)
    said = {side: _open(number_) for side, number_ in said.items()}
    if said.get("lower") == math.inf or said.get("upper") == -math.inf:
        refused = f"bounds {shown(name)} by {_open(value)}, which no number satisfies,"
        program.refuse(refused, wanted=f"bounds within ±{INFINITE:g}, which is infinite")
    if kind in VALUED and _open(value) != value:
        program.infinite[name] = None
    for side, number_ in said.items():
        held = program.lower if side == "lower" else program.upper
        if name in held:
            program.refuse(f"gives the {side} bound of {shown(name)} again", None, "each once")
        held[name] = number_


READERS: Mapping[str, Callable[[_Program, Sequence[str]], None]] = {
    "ROWS": _row,
    "COLUMNS": _column,
    "RHS": _by_row("RHS"),
    "RANGES": _by_row("RANGES"),
    "BOUNDS": _bound,
}
"""By section: how one line of it is read."""

SECTIONS = OBJECTIVE | DISCRETE | QUADRATIC | {*READERS, "NAME", "ENDATA"}


def _contents(program: _Program) -> Contents:
    """A, b of the rows whose two sides are one number, G, h of the others, bounds, and names."""
    rows = [name for name, kind in program.types.items() if kind != "N"]
    if not rows or not program.columns:
        holds = f"holds {counted(len(rows), 'row')} and {counted(len(program.columns), 'variable')}"
        raise wrong(program.path, holds, "at least one row of type E, L or G and one variable")
    sides = {name: _sides(program, name) for name in rows}
    equal = [name for name, (least, most) in sides.items() if least == most]
    chosen = set(equal)
    ranged = [n for n in rows if n not in chosen and sides[n] != (-math.inf, math.inf)]
    above = [(name, 1.0, sides[name][1]) for name in ranged if sides[name][1] < math.inf]
    below = [(name, -1.0, -sides[name][0]) for name in ranged if sides[name][0] > -math.inf]
    both = {name for name, _, _ in above} & {name for name, _, _ in below}
    parts: dict[str, Any] = {
        "A": _matrix(program, [(name, 1.0) for name in equal]),
        "b": np.array([sides[name][0] for name in equal], dtype=np.float64),
    }
    if equal:
        parts["names"] = [_printable(name) for name in equal]
    if above or below:
        parts["G"] = _matrix(program, [(name, sign) for name, sign, _ in (*above, *below)])
        parts["h"] = np.array([side for _, _, side in (*above, *below)], dtype=np.float64)
        parts["inequality_names"] = [
            _printable(name) + (" (most)" if sign > 0 else " (least)") * (name in both)
            for name, sign, _ in (*above, *below)
        ]
    lower, upper = _bounds(program)
    if np.isfinite(lower).any():
        parts["lb"] = lower
    if np.isfinite(upper).any():
        parts["ub"] = upper
    return Contents(parts, tuple(_notes(program, ranged, equal, (lower, upper))))


def _sides(program: _Program, name: str) -> tuple[float, float]:
    """What the row is at least and at most."""
    kind, right = program.types[name], program.right.get(name, 0.0)
    least = right if kind in "EG" else -math.inf
    most = right if kind in "EL" else math.inf
    if name in program.ranges:
        wide = program.ranges[name]
        if kind == "L" or (kind == "E" and wide < 0):
            least = right - abs(wide)
        else:
            most = right + abs(wide)
    sides = _open(least), _open(most)
    if sides != (least, most):
        program.infinite[name] = None
    return sides


def _bounds(program: _Program) -> tuple[Vector, Vector]:
    """Of every variable: at least zero where nothing is said; integers then at most one.

    An upper bound below zero without a lower one is refused: some readers take the lower one away,
    and some keep zero, which leaves no x.
    """
    names = list(program.columns)
    plain = program.integers - set(program.lower) - set(program.upper)
    for name, most in program.upper.items():
        if most < 0 and name not in program.lower:
            said = f"gives {shown(name)} an upper bound below zero and no lower one"
            raise wrong(program.path, said, "LO or MI beside it, for readers differ")
    lower = [program.lower.get(name, 0.0) for name in names]
    upper = [program.upper.get(name, 1.0 if name in plain else math.inf) for name in names]
    return np.array(lower, dtype=np.float64), np.array(upper, dtype=np.float64)


def _matrix(program: _Program, rows: Sequence[tuple[str, float]]) -> sp.csr_array:
    """The rows of these names, each by its sign; a name may come twice."""
    m, n = len(rows), len(program.columns)
    order = {name: i for i, name in enumerate(program.types)}
    entries = [e for e in program.entries.items() if program.types[e[0][0]] != "N"]
    at = np.fromiter((order[row] for (row, _), _ in entries), np.int64, len(entries))
    columns = np.fromiter((program.columns[x] for (_, x), _ in entries), np.int64, len(entries))
    values = np.fromiter((value for _, value in entries), np.float64, len(entries))
    whole = sp.csr_array((values, (at, columns)), shape=(len(order), n))
    if not m:
        return sp.csr_array((0, n), dtype=np.float64)
    picked = sp.csr_array(whole[np.array([order[name] for name, _ in rows])])
    picked.data *= np.repeat([sign for _, sign in rows], np.diff(picked.indptr))
    return picked


def _printable(name: str) -> str:
    """A name whose bytes are no UTF-8 with these as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _notes(
    program: _Program,
    ranged: Sequence[str],
    equal: Sequence[str],
    bounds: tuple[Vector, Vector],
) -> Iterator[str]:
    total = sum(kind != "N" for kind in program.types.values())
    if ranged:
        verb = "are inequalities" if len(ranged) > 1 else "is an inequality"
        shown_names = listed([_printable(name) for name in ranged], 3)
        yield f"{len(ranged)} of {total} rows {verb}, read as G x ≤ h ({shown_names})"
    made = [_printable(name) for name in ranged if np.isfinite(_sides(program, name)).all()]
    if made:
        verb = "have" if len(made) > 1 else "has"
        yield f"{len(made)} of them {verb} two sides by RANGES ({listed(made, 3)})"
    turned = [_printable(name) for name in equal if program.types[name] != "E"]
    if turned:
        rows_are = counted(len(turned), "row is an equation", "rows are equations")
        yield f"{rows_are} by a range of 0 ({listed(turned, 3)})"
    free = total - len(ranged) - len(equal)
    if free:
        yield f"{counted(free, 'row without a side is', 'rows without a side are')} left out"
    lower, upper = bounds
    bounded = int((np.isfinite(lower) | np.isfinite(upper)).sum())
    if bounded:
        variables = counted(len(lower), "variable")
        yield f"{bounded} of {variables} have bounds (x ≥ 0 where none is given)"
    if program.infinite:
        names = listed([_printable(name) for name in program.infinite], 3)
        yield f"sides and bounds of ±{INFINITE:g} and beyond are infinite ({names})"
    fixed = sorted(map(_printable, program.bounds.get("FX", ())))
    if fixed:
        yield f"FX fixes {counted(len(fixed), 'variable')} ({listed(fixed, 3)})"
    plain = program.integers - set(program.lower) - set(program.upper)
    if plain:
        verb = "lie" if len(plain) > 1 else "lies"
        yield f"{counted(len(plain), 'integer')} without a bound {verb} in [0, 1]"
    whole = program.integers.union(*(program.bounds.get(k, ()) for k in ("BV", "LI", "UI")))
    if whole:
        said = counted(len(whole), "variable is an integer", "variables are integers")
        yield f"that {said} is left out"
    loose = program.bounds.get("SC", set()) | program.bounds.get("SI", set())
    if loose:
        said = counted(len(loose), "variable may", "variables may")
        yield f"that {said} be zero below its lower bound is left out"
    yield from program.left_out


FORMAT = Format((".mps", ".mps.gz", ".mps.bz2"), WHAT, WANTED, read)
