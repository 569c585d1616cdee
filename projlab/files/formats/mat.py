"""MATLAB's files of versions 5 to 7; structs are named parts within parts.

Source: The MathWorks, "MAT-File Format" (2019), chapter 1. scipy's reader is not used: a damaged
file makes it read where nothing is, and ends the process. Here every size is held against the bytes
that are there before it is used.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from projlab.files.contents import KEYS, Contents, Format, Unread, repeated
from projlab.files.refusal import believe, believe_shape, reading, shown, wrong

WHAT = "MATLAB's file of version 5 to 7"
WANTED = f"variables, or a struct of them, with {KEYS}"
HEADER = 128
VERSION_7_3 = b"MATLAB 7.3 MAT-file"
DEPTH = 16
"""Structs and cells inside each other: more are damage."""

NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, CHAR, SPARSE = 1, 2, 4, 5
CLASSES = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
OTHER = {3: "an object", 16: "a function", 17: "an opaque object"}
COMPLEX = 0x08


class DamagedError(ValueError):
    """A size or type that does not fit what is there."""


@dataclass(frozen=True)
class _Element:
    kind: int
    data: memoryview


@dataclass(frozen=True)
class _Stream:
    """Bytes, and the order in which numbers are written in them."""

    path: Path
    data: memoryview
    order: str
    depth: int = DEPTH

    def elements(self) -> Iterator[_Element]:
        """The elements one after the other, each with its tag read and its padding passed."""
        at = 0
        while at < len(self.data):
            kind, size = self.unpack("II", at)
            start = at + 8
            if kind >> 16 and self.depth < DEPTH:  # a small element holds its data in the tag
                kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            elif kind >> 16:
                raise DamagedError(f"holds an element of type {kind}")
            if size > len(self.data) - start or (start == at + 4 and size > 4):
                raise DamagedError(f"holds an element of {size:,} bytes where less is left")
            yield _Element(kind, self.data[start : start + size])
            at = (
                at + 8
                if start == at + 4
                else start + size + (-size % 8 if kind != COMPRESSED else 0)
            )

    def unpack(self, layout: str, at: int) -> tuple[int, ...]:
        """Integers at a place."""
        if struct.calcsize(layout) > len(self.data) - at:
            raise DamagedError("ends inside a tag")
        return struct.unpack_from(self.order + layout, self.data, at)

    def inside(self, data: memoryview) -> _Stream:
        """The same of what an element holds."""
        if not self.depth:
            raise DamagedError(f"holds more than {DEPTH} parts inside each other")
        return replace(self, data=data, depth=self.depth - 1)

    def numbers(self, element: _Element) -> NDArray[Any]:
        """The numbers of an element."""
        if element.kind not in NUMBERS:
            raise DamagedError(f"holds an element of type {element.kind} where numbers belong")
        dtype = np.dtype(self.order + NUMBERS[element.kind])
        if len(element.data) % dtype.itemsize:
            raise DamagedError(f"holds {len(element.data)} bytes of numbers of {dtype.itemsize}")
        return np.frombuffer(element.data, dtype)


def read(path: Path) -> Contents:
    """Read every variable that is an array, a sparse matrix, a struct, or words."""
    with reading(path, WHAT, WANTED):
        believe(path, path.stat().st_size)
        content = path.read_bytes()
    if content.startswith(VERSION_7_3):
        raise wrong(path, "is of version 7.3, which is HDF5", "save(FILE, 'A', 'b', '-v7')")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER])
    if order is None or struct.unpack(f"{order}H", content[124:126]) != (0x0100,):
        said = "has no header of version 5 to 7"
        raise wrong(path, f"cannot be read as {WHAT} ({said})", "save(FILE, 'A', 'b', '-v7')")
    stream = _Stream(path, memoryview(content)[HEADER:], order)
    with reading(path, WHAT, WANTED):
        variables = [_variable(stream, element) for element in stream.elements()]
    if twice := repeated(name for name, _ in variables):
        raise wrong(path, f"holds {shown(twice)} twice", "each variable once")
    return Contents({name: value for name, value in variables if name})


def _variable(stream: _Stream, element: _Element) -> tuple[str, Any]:
    if element.kind == COMPRESSED:
        inner = replace(stream, data=memoryview(_inflated(stream.path, element.data)))
        elements = list(inner.elements())
        if len(elements) != 1:
            raise DamagedError(f"holds {len(elements)} variables in one packed element")
        element = elements[0]
    if element.kind != MATRIX:
        raise DamagedError(f"holds an element of type {element.kind} where a variable belongs")
    return _matrix(stream, element)


def _inflated(path: Path, data: memoryview) -> bytes:
    """Unpacked, piece by piece, with the checksum compared at the end."""
    parts, size, packed, unpacker = [], 0, bytes(data), zlib.decompressobj()
    while not unpacker.eof:
        part = unpacker.decompress(packed, 2**20)
        packed = unpacker.unconsumed_tail
        if not part and not packed and not unpacker.eof:
            raise DamagedError("ends inside a packed variable")
        parts.append(part)
        size += len(part)
        believe(path, size)
    return b"".join(parts)


def _matrix(stream: _Stream, element: _Element) -> tuple[str, Any]:
    """The name and the value of a variable, of a cell or of a field."""
    if not element.data:
        return "", np.zeros((0, 0))
    inner = stream.inside(element.data)
    parts = list(inner.elements())
    if len(parts) < 3:
        raise DamagedError(f"holds a variable of {len(parts)} parts")
    flags, sizes = inner.numbers(parts[0]), inner.numbers(parts[1])
    name = bytes(parts[2].data).decode("latin-1")
    if len(flags) != 2 or len(sizes) < 2 or sizes.dtype.kind == "f" or (sizes < 0).any():
        raise DamagedError(f"holds {shown(name)} without its class and sizes")
    kind, bits = int(flags[0]) & 0xFF, int(flags[0]) >> 8
    shape = tuple(map(int, sizes))
    if kind in OTHER:
        return name, Unread(f"{OTHER[kind]} of MATLAB's")
    return name, _value(inner, kind, bool(bits & COMPLEX), shape, parts[3:])


def _value(
    stream: _Stream, kind: int, is_complex: bool, shape: tuple[int, ...], parts: Sequence[_Element]
) -> Any:
    if is_complex:
        return Unread("complex numbers")
    if kind == CELL:
        return _cell([_matrix(stream, part)[1] for part in _each(parts, math.prod(shape))])
    if kind == STRUCT:
        return _struct(stream, shape, parts)
    if kind == CHAR:
        return _text(stream, shape, _only(parts))
    if kind == SPARSE:
        return _sparse(stream, shape, parts)
    if kind not in CLASSES:
        raise DamagedError(f"holds a variable of class {kind}")
    numbers = stream.numbers(_only(parts))
    if len(numbers) != math.prod(shape):
        raise DamagedError(f"holds {len(numbers):,} numbers for a shape of {list(shape)}")
    believe(stream.path, 8 * len(numbers))
    return numbers.astype(CLASSES[kind]).reshape(shape, order="F")


def _only(parts: Sequence[_Element]) -> _Element:
    return _each(parts, 1)[0]


def _each(parts: Sequence[_Element], count: int) -> Sequence[_Element]:
    if len(parts) != count:
        raise DamagedError(f"holds {len(parts):,} parts where {count:,} belong")
    return parts


def _cell(values: list[Any]) -> Any:
    """A list of words, which may be names of rows; any other cell is named and not read."""
    if values and all(isinstance(value, str) for value in values):
        return values
    return Unread("a cell array")


def _struct(stream: _Stream, shape: tuple[int, ...], parts: Sequence[_Element]) -> Any:
    if len(parts) < 2:
        raise DamagedError("holds a struct without fields")
    (length,) = stream.numbers(parts[0]) if len(parts[0].data) == 4 else (0,)
    names = bytes(parts[1].data)
    if length < 1 or len(names) % length:
        raise DamagedError("holds a struct without names of its fields")
    step = int(length)
    fields = [
        names[i : i + step].split(b"\0")[0].decode("latin-1") for i in range(0, len(names), step)
    ]
    if math.prod(shape) != 1:
        return Unread(f"an array of {math.prod(shape):,} structs")
    if repeated(fields):
        raise DamagedError("holds a struct with one field twice")
    values = (_matrix(stream, part)[1] for part in _each(parts[2:], len(fields)))
    return dict(zip(fields, values, strict=True))


def _text(stream: _Stream, shape: tuple[int, ...], part: _Element) -> Any:
    """A word, or the words of a matrix of letters, without the blanks that fill them up."""
    if part.kind not in TEXTS:
        raise DamagedError(f"holds letters of type {part.kind}")
    ends = {"<": "-le", ">": "-be"}[stream.order] if part.kind in (4, 17, 18) else ""
    text = bytes(part.data).decode(TEXTS[part.kind] + ends)
    if len(shape) == 2 and shape[0] <= 1:
        return text
    if len(shape) != 2 or len(text) != math.prod(shape):
        raise DamagedError(f"holds {len(text)} letters for a shape of {list(shape)}")
    return [text[i :: shape[0]].rstrip() for i in range(shape[0])]


def _sparse(stream: _Stream, shape: tuple[int, ...], parts: Sequence[_Element]) -> Any:
    rows, starts, values = (stream.numbers(part) for part in _each(parts, 3))
    if (
        len(shape) != 2
        or len(starts) != shape[1] + 1
        or starts.dtype.kind == "f"
        or not len(starts)
    ):
        raise DamagedError("holds a sparse matrix without its columns")
    count = int(starts[-1])
    if starts[0] != 0 or (np.diff(starts.astype(np.int64)) < 0).any() or count > len(values):
        raise DamagedError("holds a sparse matrix whose columns do not rise")
    rows, values = rows[:count].astype(np.int64), values[:count].astype(np.float64)
    if len(rows) != count or (count and not 0 <= rows.min() <= rows.max() < shape[0]):
        raise DamagedError("holds a sparse matrix with rows outside")
    believe_shape(stream.path, *shape, len(stream.data))
    return sp.csc_array((values, rows, starts.astype(np.int64)), shape=shape)


FORMAT = Format((".mat",), WHAT, WANTED, read, keyed=True)
