"""MATLAB's files up to version 7, as scipy reads them; structs are named parts within parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse as sp

from projlab.files.arrays import is_scipy_sparse
from projlab.files.contents import KEYS, Contents, Format
from projlab.files.refusal import believe, reading, shown, wrong

WHAT = "MATLAB's file of version 7 or older"
WANTED = f"variables, or a struct of them, with {KEYS}"
VERSION_7_3 = b"MATLAB 7.3 MAT-file"


def read(path: Path) -> Contents:
    """Read every variable that is an array, a sparse matrix, a struct or a cell of words."""
    with reading(path, WHAT, WANTED), path.open("rb") as file:
        if file.read(len(VERSION_7_3)) == VERSION_7_3:
            raise wrong(path, "is of version 7.3, which is HDF5", "save(FILE, 'A', 'b', '-v7')")
    with reading(path, WHAT, WANTED) as warnings:
        for name, shape, kind in scipy.io.whosmat(str(path)):
            if kind != "sparse":
                believe(path, 8 * int(np.prod([float(size) for size in shape])), f"{shown(name)}, ")
        loaded = scipy.io.loadmat(str(path), mat_dtype=True, chars_as_strings=True)
    if warnings:
        raise wrong(path, f"is read with a warning ({warnings[0]})", "a file without")
    return Contents(dict(_parts(path, loaded.items())))


def _parts(path: Path, items: Any) -> Iterator[tuple[str, Any]]:
    for name, value in items:
        if not name.startswith("__"):
            yield name, _plain(path, value)


def _plain(path: Path, value: Any) -> Any:
    """A struct as a mapping, a cell of words as a list, a sparse matrix with its places checked."""
    if is_scipy_sparse(value):
        with reading(path, WHAT, WANTED):
            compressed = sp.csc_array(value)
            compressed.check_format(full_check=True)
        return compressed
    if isinstance(value, np.ndarray) and value.dtype.names and value.size == 1:
        return dict(_parts(path, ((name, value[name].flat[0]) for name in value.dtype.names)))
    if isinstance(value, np.ndarray) and value.dtype == object:
        words = [cell.item() if _is_word(cell) else cell for cell in value.flat]
        if words and all(isinstance(word, str) for word in words):
            return words
    return value


def _is_word(cell: Any) -> bool:
    return isinstance(cell, np.ndarray) and cell.dtype.kind == "U" and cell.size == 1


FORMAT = Format((".mat",), WHAT, WANTED, read, keyed=True)
