"""Delimited text: a line a row of A, with a header line or without."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from projlab.files.contents import Contents, Format, counted, listed, printable
from projlab.files.refusal import place, reading, shown, wrong
from projlab.files.text import unpacked
from projlab.files.tokens import is_number, number, why_not

WHAT = "comma-separated numbers"
WANTED = "numbers, a line a row; with a header line, a column b, and a column name if wanted"
TITLES = (
    "numbers alone, or a header line whose titles are no numbers: one a variable, b for the "
    "right-hand side, name for names"
)
RIGHT = frozenset({"b", "beq", "b_eq", "rhs"})
NAMES = frozenset({"name", "names"})
INDEX = re.compile(r"|#|index|level_[0-9]+|unnamed: [0-9]+(?:[._]\w+)*", re.IGNORECASE)
"""Titles under which pandas and others write a frame's index, once for each time it is written."""


MARKED = re.compile(r"[+-]?[0-9][0-9.,'_\s]*(?:[eEdD][+-]?[0-9]+)?\s*%?")
"""A number with a decimal comma, marks between thousands, or per cent: no title."""


@dataclass(frozen=True)
class _Line:
    number: int
    cells: list[str]


def read(path: Path) -> Contents:
    """Read numbers between commas, semicolons, tabs or spaces."""
    lines, comments = _lines(path, _decoded(path))
    notes = [f"{counted(len(comments), 'comment line')}, by #"] if comments else []
    if not lines:
        raise wrong(path, "is empty", WANTED)
    titles = _titles(path, lines[0])
    body = lines[1:] if titles is not None else lines
    width = len(lines[0].cells)
    for line in body:
        if len(line.cells) != width:
            said = f"has {len(line.cells)} cells in line {line.number}, not {width}"
            raise wrong(path, said, "as many in every line")
    if titles is None:
        _refuse_index(path, body)
        if width > 1:
            _refuse_titles_in_comments(path, comments, width)
        notes.append("no header line" + ": every column is a variable" * (width > 1))
        return Contents({"A": _block(path, body, range(width))}, tuple(notes))
    return _with_header(path, titles, body, notes)


def _decoded(path: Path) -> str:
    raw = unpacked(path, WHAT, WANTED)
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as fault:
        line = raw.count(b"\n", 0, fault.start) + 1
        column = fault.start - raw.rfind(b"\n", 0, fault.start)
        said = f"cannot be read as {WHAT} (byte {raw[fault.start : fault.start + 1]!r} "
        said += f"{place(line, column)} is not UTF-8)"
        raise wrong(path, said, "text in UTF-8") from None


def _lines(path: Path, text: str) -> tuple[list[_Line], list[_Line]]:
    """The cells of every line that is neither empty nor a comment, and those of the comments."""
    numbered = list(enumerate(io.StringIO(text, newline=None), 1))
    remarks = {i: line[1:] for i, line in numbered if re.match(r"#\s", line)}
    kept = {i: line for i, line in numbered if line.strip() and not re.match(r"#\s", line)}
    first = next(iter(kept.values()), "")
    tabs = re.search(r"\.tsv(?:\.\w+)?$", path.name.lower())
    delimiter = _delimiter(first, "\t;" if tabs else ";\t,")
    if said := re.fullmatch(r'"?sep=(.)"?\s*', first):
        delimiter = said[1]
        del kept[next(iter(kept))]
    split = None if delimiter == " " else delimiter
    comments = [
        _Line(i, [cell.strip() for cell in line.strip().split(split)])
        for i, line in remarks.items()
    ]
    if delimiter == " ":
        return [_Line(i, line.split()) for i, line in kept.items()], comments
    return _quoted(path, kept, delimiter), comments


def _delimiter(line: str, marks: str) -> str:
    unquoted = re.sub(r'"[^"]*"', "", line).strip()
    return next((mark for mark in marks if mark in unquoted), " ")


def _quoted(path: Path, kept: dict[int, str], delimiter: str) -> list[_Line]:
    """The cells, which may be quoted and then hold line ends."""
    numbers = list(kept)
    rows = csv.reader(
        io.StringIO("".join(kept.values()), newline=""), "excel", delimiter=delimiter, strict=True
    )
    lines, before = [], 0
    with reading(path, WHAT, WANTED):
        for cells in rows:
            lines.append(_Line(numbers[min(before, len(numbers) - 1)], [c.strip() for c in cells]))
            before = rows.line_num
    return lines


def _titles(path: Path, first: _Line) -> list[str] | None:
    """The titles of a header line; None where the first line is a row of numbers.

    A line of both is a header only where the numbers count the variables beside a title that is
    known, as pandas writes them; any other cell that differs from the rest is a slip of the pen,
    and to take the line for a header would lose an equation.
    """
    cells = first.cells
    numeric = [is_number(cell) for cell in cells]
    known = [cell.lower() in RIGHT | NAMES or _is_index(cell) for cell in cells]
    if all(numeric):
        if _counts(cells, 0) and len(cells) > 1:
            said = f"starts with {shown(','.join(cells))} in line {first.number}, which may be "
            raise wrong(path, f"{said}titles or an equation", TITLES)
        return None
    if not any(numeric):
        for column, cell in enumerate(cells):
            if MARKED.fullmatch(cell) or (len(cells) == 1 and re.match(r"[+-]?\.?[0-9]", cell)):
                _refuse_cell(path, first, column)
        return cells
    others = [cell for cell, is_known in zip(cells, known, strict=True) if not is_known]
    if any(known) and (_counts(others, 0) or _counts(others, 1)):
        return cells
    odd = numeric.index(False) if 2 * sum(numeric) >= len(cells) else numeric.index(True)
    said = f"mixes numbers and titles in line {first.number}: column {odd + 1} is "
    raise wrong(path, f"{said}{shown(cells[odd])}{why_not(cells[odd])}", TITLES)


def _counts(cells: Sequence[str], start: int) -> bool:
    """Whether the cells are the integers from `start` on, and at least one."""
    return bool(cells) and list(cells) == [str(start + i) for i in range(len(cells))]


def _is_index(title: str) -> bool:
    return INDEX.fullmatch(title) is not None


def _refuse_titles_in_comments(path: Path, comments: Sequence[_Line], width: int) -> None:
    """Refuse numbers alone below a comment that titles one of their columns b or name."""
    for line in comments:
        known = [cell for cell in line.cells if cell.lower() in RIGHT | NAMES]
        if known and len(line.cells) == width:
            said = f"has the title {shown(known[0])} in a comment, in line {line.number}, and no "
            raise wrong(
                path, f"{said}header line", "the titles without their #, or no such comment"
            )


def _refuse_index(path: Path, body: Sequence[_Line]) -> None:
    """Refuse a first column that looks like a frame's index: it counts, all else has a point."""
    first = [line.cells[0] for line in body]
    rest = [cell for line in body for cell in line.cells[1:]]
    pointed = bool(rest) and all(re.search(r"[.eE]", cell) for cell in rest)
    if pointed and len(first) > 1 and _counts(first, 0):
        raise wrong(
            path,
            "counts 0, 1, … in column 1, which may be an index or a variable",
            "a header line that says which, or no index column (to_csv(index=False))",
        )


def _with_header(
    path: Path, titles: list[str], body: Sequence[_Line], notes: list[str]
) -> Contents:
    rights = _titled(path, titles, RIGHT, "right-hand side")
    names = _titled(path, titles, NAMES, "names of the rows")
    taken = {*rights, *names}
    parts = {}
    for column in itertools.takewhile(lambda i: _is_index(titles[i]), range(len(titles) - 1)):
        taken.add(column)
        index = [line.cells[column] for line in body]
        if _counts(index, 0) or _counts(index, 1):
            notes.append(f"column {column + 1} counts the rows: taken as an index and left out")
        elif not names and not any(map(is_number, index)):
            names = [column]
        else:
            said = f"has column {column + 1} without a title of its own ({shown(titles[column])})"
            raise wrong(path, said, "the title name over names, or another over a variable")
    variables = [i for i in range(len(titles)) if i not in taken]
    _require_titles(path, titles, variables)
    parts["A"] = _block(path, body, variables)
    shown_titles = listed([printable(titles[i]) for i in variables], 4)
    found = [f"{counted(len(variables), 'variable')} ({shown_titles})"] if variables else []
    if rights:
        parts["b"] = _block(path, body, rights, "b")[:, 0]
        found.append(f"b in column {rights[0] + 1} ({shown(titles[rights[0]])})")
    if names:
        parts["names"] = np.array([line.cells[names[0]] for line in body], dtype=str)
        found.append(f"names in column {names[0] + 1}")
    return Contents(parts, (f"the first line is a header: {', '.join(found)}", *notes))


def _titled(path: Path, titles: list[str], known: frozenset[str], what: str) -> list[int]:
    """The column with one of the titles, in a list; pandas renames a second b to b.1."""
    plain = [re.sub(r"\.[0-9]+$", "", title.lower()) for title in titles]
    found = [i for i, title in enumerate(plain) if title in known]
    if len(found) > 1 or (found and titles[found[0]].lower() not in known):
        columns = ", ".join(f"{shown(titles[i])} in column {i + 1}" for i in found)
        raise wrong(path, f"has {columns}", f"one column for the {what}")
    return found


def _require_titles(path: Path, titles: list[str], variables: list[int]) -> None:
    seen: dict[str, int] = {}
    for i in variables:
        if not titles[i] or titles[i].lower().startswith("unnamed: "):
            said = f"has no title over column {i + 1}" + f" ({shown(titles[i])})" * bool(titles[i])
            raise wrong(path, said, "a title over each variable")
        if titles[i] in seen:
            said = f"has the title {shown(titles[i])} over columns {seen[titles[i]] + 1} and "
            raise wrong(path, f"{said}{i + 1}", "another title for each variable")
        seen[titles[i]] = i


def _block(
    path: Path, body: Sequence[_Line], columns: Sequence[int], name: str = "A"
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The numbers of some columns."""
    block = np.empty((len(body), len(columns)))
    for i, line in enumerate(body):
        for j, column in enumerate(columns):
            try:
                block[i, j] = number(line.cells[column])
            except ValueError:
                _refuse_cell(path, line, column)
    if not np.isfinite(block).all():
        i, j = np.argwhere(~np.isfinite(block))[0]
        index = f"[{i}, {j}]" if name == "A" else f"[{i}]"
        where = place(body[i].number, columns[j] + 1)
        raise wrong(path, f"holds {name}{index} = {block[i, j]} {where}", "finite numbers")
    return block


def _refuse_cell(path: Path, line: _Line, column: int) -> NoReturn:
    cell = line.cells[column]
    said = f"holds {shown(cell)} where a number belongs, {place(line.number, column + 1)}"
    raise wrong(path, said + why_not(cell), WANTED)


def _suffixes(*ends: str) -> tuple[str, ...]:
    return tuple(f"{end}{packed}" for end in ends for packed in ("", ".gz", ".bz2"))


FORMAT = Format(_suffixes(".csv", ".tsv"), WHAT, WANTED, read)
