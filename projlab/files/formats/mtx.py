"""Matrix Market's exchange formats, coordinate and array.

Source: R. F. Boisvert, R. Pozo, K. A. Remington, "The Matrix Market Exchange Formats: Initial
Design", NISTIR 5935 (1996). Every line is checked against the format before a number is taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from projlab.files.contents import Contents, Format, counted
from projlab.files.refusal import believe_shape, place, shown, wrong
from projlab.files.text import unpacked
from projlab.files.tokens import PATTERN, is_number, vanishes, why_not

WHAT = "Matrix Market"
WANTED = "a real matrix (m, n), and b by --b FILE"
FIELDS = ("real", "double", "integer", "unsigned-integer", "pattern")
SYMMETRIES = ("general", "symmetric", "skew-symmetric")
_INTEGER = r"[+-]?[0-9]+"
_FORTRAN = bytes.maketrans(b"dD", b"ee")


@dataclass(frozen=True)
class _Header:
    coordinate: bool
    field: str
    symmetry: str

    @property
    def tokens(self) -> tuple[str, ...]:
        """The regular expression of each token of a line."""
        value = _INTEGER if "integer" in self.field else PATTERN
        places = ("[0-9]+",) * 2 if self.coordinate else ()
        return places if self.field == "pattern" else (*places, value)


def read(path: Path) -> Contents:
    """Read a real matrix; a symmetric one is filled up, a pattern is ones."""
    text = unpacked(path, WHAT, WANTED)
    first, _, rest = text.partition(b"\n")
    header = _header(path, first)
    line, start = _first_line_of_sizes(text, len(text) - len(rest))
    end = text.find(b"\n", start)
    sizes, body = (text[start:], b"") if end < 0 else (text[start:end], text[end + 1 :])
    m, n, count = _sizes(path, header, sizes, line)
    _require_tokens(path, header, body, line + 1)
    body = body.translate(_FORTRAN)
    numbers = np.fromstring(body, sep=" ") if body.strip() else np.empty(0)
    table = numbers.reshape(-1, len(header.tokens))
    if len(table) != count:
        said = f"holds {counted(len(table), 'entry', 'entries')}, and says {count:,}"
        raise wrong(path, f"{said} {place(line, 1)}", "as many as it says")
    if header.coordinate:
        believe_shape(path, m, n, len(text))
    _require_float64(path, body, table[:, -1], line + 1)
    notes = [] if header.field != "pattern" else ["a pattern: every entry is 1"]
    if header.symmetry != "general":
        notes.append(f"{header.symmetry}: the other triangle is filled in")
    if header.coordinate:
        A: Any = _coordinate(path, header, table, (m, n), (body, line + 1), notes)
    else:
        A = _array(header, table[:, 0], (m, n))
    return Contents({"A": A}, tuple(notes))


def _header(path: Path, first: bytes) -> _Header:
    words = first.decode("latin-1").lower().split()
    if not words or words[0] != "%%matrixmarket":
        raise wrong(path, "has no %%MatrixMarket header", WANTED)
    if len(words) != 5:
        raise wrong(path, f"has {len(words)} words in line 1, {shown(first)}", "five")
    _, thing, layout, field, symmetry = words
    for column, (word, known) in enumerate(
        (
            (thing, ("matrix",)),
            (layout, ("coordinate", "array")),
            (field, FIELDS),
            (symmetry, SYMMETRIES),
        ),
        2,
    ):
        if word not in known:
            raise wrong(
                path, f"holds {shown(word)} as word {column} of line 1", f"{' or '.join(known)}"
            )
    if layout == "array" and field == "pattern":
        raise wrong(path, "holds an array that is a pattern", "coordinates of a pattern")
    return _Header(layout == "coordinate", field, symmetry)


def _first_line_of_sizes(text: bytes, start: int) -> tuple[int, int]:
    """The number and the start of the first line that is neither a comment nor empty."""
    line = 2
    while 0 <= start < len(text):
        end = text.find(b"\n", start)
        end = len(text) if end < 0 else end
        content = text[start:end].strip()
        if content and not content.startswith(b"%"):
            break
        line, start = line + 1, end + 1
    return line, start


def _sizes(path: Path, header: _Header, sizes: bytes, line: int) -> tuple[int, int, int]:
    words = sizes.split()
    wanted = 3 if header.coordinate else 2
    if len(words) != wanted or not all(re.fullmatch(rb"[0-9]{1,18}", w) for w in words):
        said = f"holds {shown(sizes.strip())} {place(line, 1)}"
        raise wrong(path, said, f"{wanted} sizes there: rows, columns{', entries' * (wanted == 3)}")
    m, n, *entries = map(int, words)
    if header.symmetry != "general" and m != n:
        raise wrong(path, f"is {header.symmetry} of shape {(m, n)}", "as many rows as columns")
    if entries:
        return m, n, entries[0]
    if header.symmetry == "general":
        return m, n, m * n
    return m, n, m * (m + 1) // 2 if header.symmetry == "symmetric" else m * (m - 1) // 2


def _require_tokens(path: Path, header: _Header, body: bytes, line: int) -> None:
    """Refuse the first line that is not of the tokens of the format, each from end to end."""
    blank, tokens = r"[ \t]*+", r"[ \t]++".join(f"{token}" for token in header.tokens)
    lines = re.compile(rf"(?:{blank}(?:{tokens})?+{blank}(?:\r?\n|\Z))*+".encode())
    match = lines.match(body)
    reached = match.end() if match else 0
    if reached == len(body):
        return
    end = body.find(b"\n", reached)
    content = body[reached : end if end >= 0 else len(body)]
    _refuse_line(path, header, content, line + body.count(b"\n", 0, reached))


def _refuse_line(path: Path, header: _Header, content: bytes, line: int) -> NoReturn:
    said = list(re.finditer(rb"[^ \t\r]+", content))
    for token, wanted in zip(said, header.tokens, strict=False):
        if not re.fullmatch(wanted.encode(), token[0]):
            text = token[0].decode("latin-1")
            what = "number" if wanted == PATTERN else "whole number"
            if what == "number" and is_number(text):
                raise wrong(
                    path, f"holds {text} {place(line, token.start() + 1)}", "finite numbers"
                )
            said_so = f"holds {shown(text)} {place(line, token.start() + 1)}"
            raise wrong(path, said_so + why_not(text), f"a {what}")
    many = f"holds {len(said)} tokens in line {line}, {shown(content.strip())}"
    raise wrong(path, many, f"{len(header.tokens)} in a line of entries")


def _line_of_entry(body: bytes, entry: int, line: int) -> int:
    """The number of the line in which an entry stands."""
    filled = (i for i, content in enumerate(body.split(b"\n"), line) if content.strip())
    return next(i for k, i in enumerate(filled) if k == entry)


def _require_float64(path: Path, body: bytes, values: NDArray[np.float64], line: int) -> None:
    """Refuse numbers that overflow in float64, or vanish there."""
    lost = np.flatnonzero(~np.isfinite(values))
    if len(lost):
        where = _line_of_entry(body, int(lost[0]), line)
        raise wrong(path, f"holds a number beyond float64 in line {where}", "finite numbers")
    zero = values == 0
    if zero.any():
        filled = (content for content in body.split(b"\n") if content.strip())
        tokens = (content.split()[-1].decode() for content in filled)
        for entry, (token, is_zero) in enumerate(zip(tokens, zero, strict=True)):
            if is_zero and vanishes(token):
                where = _line_of_entry(body, entry, line)
                said = f"holds {shown(token)}{why_not(token)} in line {where}"
                raise wrong(path, said, "0, or what float64 holds")


def _coordinate(
    path: Path,
    header: _Header,
    table: NDArray[np.float64],
    shape: tuple[int, int],
    where: tuple[bytes, int],
    notes: list[str],
) -> sp.csr_array:
    at = table[:, :2]
    outside = np.flatnonzero((at < 1).any(1) | (at > np.array(shape)).any(1))
    if len(outside):
        said = " ".join(f"{int(i)}" for i in at[outside[0]])
        line = _line_of_entry(where[0], int(outside[0]), where[1])
        holds = f"holds an entry at {said} in line {line}, outside {shape[0]} × {shape[1]}"
        raise wrong(path, holds, "rows and columns counted from 1")
    rows, columns = (at.T - 1).astype(np.int64)
    values = np.ones(len(rows)) if header.field == "pattern" else table[:, 2]
    if header.symmetry != "general":
        rows, columns, values = _both_triangles(path, header, rows, columns, values, where)
    A = sp.csr_array((values, (rows, columns)), shape=shape)
    if twice := len(rows) - A.nnz:
        if header.symmetry != "general":
            said = f"is {header.symmetry} and holds {counted(twice, 'entry', 'entries')} twice, or "
            said += "in both triangles"
            raise wrong(path, said, "each entry once, in one triangle")
        notes.append(
            f"{counted(twice, 'entry stands', 'entries stand')} where another does: summed"
        )
    return A


def _both_triangles(
    path: Path,
    header: _Header,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    values: NDArray[np.float64],
    where: tuple[bytes, int],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    off = rows != columns
    sign = 1.0
    if header.symmetry == "skew-symmetric":
        sign = -1.0
        kept = np.flatnonzero(~off & (values != 0))
        if len(kept):
            line = _line_of_entry(where[0], int(kept[0]), where[1])
            raise wrong(path, f"is skew-symmetric with a diagonal entry in line {line}", "none")
    return (
        np.concatenate([rows, columns[off]]),
        np.concatenate([columns, rows[off]]),
        np.concatenate([values, sign * values[off]]),
    )


def _array(
    header: _Header, values: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Column after column; of a symmetric matrix the lower triangle, of a skew one below it."""
    if header.symmetry == "general":
        return values.reshape(shape, order="F")
    A = np.zeros(shape)
    skew = header.symmetry == "skew-symmetric"
    columns, rows = np.triu_indices(shape[0], int(skew))  # the lower triangle, by columns
    A[rows, columns] = values
    A[columns, rows] = -values if skew else values
    return A


FORMAT = Format((".mtx", ".mtx.gz", ".mtx.bz2"), WHAT, WANTED, read)
