"""The matrix of a system, dense or sparse, from whatever a file keeps it in.

Indices are checked before scipy sees them: its constructors believe them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from projlab.files.arrays import Matrix, Vector, integers, is_scipy_sparse, is_torch_sparse, numbers
from projlab.files.contents import SPARSE_KEYS, Parts, Unread, counted
from projlab.files.refusal import believe, believe_shape, shown, wrong

SPARSE_PARTS: Mapping[str, tuple[str, ...]] = {
    "csr": ("data", "indices", "indptr", "shape"),
    "csc": ("data", "indices", "indptr", "shape"),
    "bsr": ("data", "indices", "indptr", "shape"),
    "coo": ("data", "row", "col", "shape"),
    "dia": ("data", "offsets", "shape"),
}
"""By scipy's `format`: the parts that `scipy.sparse.save_npz` writes of it."""

PARTS_OF_SPARSE = frozenset(
    {"data", "indices", "indptr", "shape", "row", "col", "coords", "offsets"}
)


def matrix(path: Path, name: str, value: Any, notes: list[str]) -> Matrix:
    """A as one array (m, n), or as CSR where it is sparse."""
    if is_scipy_sparse(value):
        coo: Any = sp.coo_array(value)
        return _from_coordinates(path, name, coo.data, coo.coords, coo.shape, notes)
    if is_torch_sparse(value):
        return _from_torch(path, name, value, notes)
    dense = numbers(path, name, value, notes)
    dense = dense[None] if dense.ndim == 1 else dense
    if dense.ndim != 2:
        raise wrong(path, f"holds {name} of shape {dense.shape}", "(m, n), or (n,) for one row")
    return dense


def _from_torch(path: Path, name: str, value: Any, notes: list[str]) -> sp.csr_array:
    if value.dim() != 2 or value.dense_dim():
        said = f"holds {name} as a sparse tensor of shape {tuple(value.shape)}"
        raise wrong(path, said, "a sparse matrix (m, n) of numbers")
    shape = (int(value.shape[0]), int(value.shape[1]))
    believe_shape(path, *shape, 8 * value._nnz())
    coo = value.detach().to_sparse_coo().coalesce()
    return _from_coordinates(path, name, coo.values(), coo.indices().numpy(), shape, notes)


def is_sparse_by_parts(parts: Parts) -> bool:
    """Whether the parts are those of one sparse matrix."""
    return "format" in parts or set(SPARSE_PARTS["csr"]) <= set(parts)


def from_parts(path: Path, parts: Parts, notes: list[str]) -> sp.csr_array:
    """The matrix of `scipy.sparse.save_npz`, or of CSR's parts where no `format` is said."""
    kind = _kind(path, parts["format"]) if "format" in parts else "csr"
    wanted = SPARSE_PARTS[kind]
    if kind == "coo" and "coords" in parts:
        wanted = ("data", "coords", "shape")
    if missing := [key for key in wanted if key not in parts]:
        raise wrong(path, f"is {kind} without {', '.join(missing)}", f"the keys {SPARSE_KEYS}")
    values = numbers(path, "data", parts["data"], notes)
    shape = integers(path, "shape", parts["shape"])
    if shape.shape != (2,) or (shape < 0).any():
        raise wrong(path, f"holds shape = {shape.tolist()!s:.60}", "two sizes, [m, n]")
    m, n = map(int, shape)
    held = sum(math.prod(getattr(parts[key], "shape", (1,))) for key in wanted)
    believe_shape(path, m, n, 8 * held)
    if "format" not in parts and m == n:  # CSC's parts would be read as the transpose
        notes.append("no format is said: the parts of the matrix are taken as CSR's")
    if kind == "dia":
        return _diagonals(path, parts, values, (m, n))
    if kind == "coo":
        return _coordinates(path, parts, values, (m, n), notes)
    return _compressed(path, parts, kind, values, (m, n), notes)


def _kind(path: Path, value: Any) -> str:
    """The text of `format`, which scipy writes as bytes."""
    item = value.item() if getattr(value, "size", 0) == 1 else value
    kind = item.decode("latin-1") if isinstance(item, bytes) else item
    if isinstance(value, Unread) or kind not in SPARSE_PARTS:
        said = shown(kind) if isinstance(kind, str) else f"a {type(kind).__name__}"
        raise wrong(path, f"holds format = {said}", f"one of {', '.join(SPARSE_PARTS)}")
    return str(kind)


def _compressed(
    path: Path,
    parts: Parts,
    kind: str,
    values: Vector,
    shape: tuple[int, int],
    notes: list[str],
) -> sp.csr_array:
    """CSR, CSC or BSR; in BSR each value is a block."""
    indices, indptr = (integers(path, key, parts[key]) for key in ("indices", "indptr"))
    block = values.shape[1:] if kind == "bsr" and values.ndim == 3 else (1, 1)
    if (
        values.ndim != (3 if kind == "bsr" else 1)
        or 0 in block
        or any(size % step for size, step in zip(shape, block, strict=True))
    ):
        said = f"holds data {values.shape} as {kind} of shape {list(shape)}"
        raise wrong(path, said, "blocks that divide it" if kind == "bsr" else "one value a place")
    major, minor = (size // step for size, step in zip(shape, block, strict=True))
    if kind == "csc":
        major, minor = minor, major
    if indptr.shape != (major + 1,) or indices.shape != values.shape[:1]:
        said = f"holds data {values.shape}, indices {indices.shape} and indptr {indptr.shape}"
        wanted = f"data and indices of one length, and indptr ({major + 1},)"
        raise wrong(path, f"{said} for a shape of {list(shape)}", wanted)
    if indptr[0] != 0 or indptr[-1] != len(values) or (np.diff(indptr) < 0).any():
        wanted = f"values rising from 0 to {len(values)}"
        raise wrong(path, "holds an indptr that is no row pointer", wanted)
    if len(indices) and (indices.min() < 0 or indices.max() >= minor):
        what = "row" if kind == "csc" else "column"
        raise wrong(path, f"holds {what} indices outside 0 … {minor - 1}", "indices below the size")
    made = {"csr": sp.csr_array, "csc": sp.csc_array, "bsr": sp.bsr_array}[kind]
    return _summed(made((values, indices, indptr), shape=shape).tocoo(), notes)


def _coordinates(
    path: Path, parts: Parts, values: Vector, shape: tuple[int, int], notes: list[str]
) -> sp.csr_array:
    if "coords" in parts:
        places = integers(path, "coords", parts["coords"])
        if places.ndim != 2 or len(places) != 2:
            raise wrong(path, f"holds coords of shape {places.shape}", "rows and columns")
        rows, columns = places
    else:
        rows, columns = (integers(path, key, parts[key]) for key in ("row", "col"))
    if values.ndim != 1 or not rows.shape == columns.shape == values.shape:
        said = f"holds data {values.shape}, rows {rows.shape} and columns {columns.shape}"
        raise wrong(path, said, "one length")
    for what, index, size in (("row", rows, shape[0]), ("column", columns, shape[1])):
        if len(index) and (index.min() < 0 or index.max() >= size):
            raise wrong(path, f"holds {what} indices outside 0 … {size - 1}", "indices inside")
    return _summed(sp.coo_array((values, (rows, columns)), shape=shape), notes)


def _diagonals(path: Path, parts: Parts, values: Vector, shape: tuple[int, int]) -> sp.csr_array:
    offsets = integers(path, "offsets", parts["offsets"])
    if values.ndim != 2 or offsets.shape != values.shape[:1]:
        said = f"holds data {values.shape} and offsets {offsets.shape}"
        raise wrong(path, said, "a row of data for each offset")
    if len(np.unique(offsets)) != len(offsets):
        raise wrong(path, "holds one offset twice", "each diagonal once")
    believe(path, 24 * values.size)
    return sp.csr_array(sp.dia_array((values, offsets), shape=shape))


def _from_coordinates(
    path: Path,
    name: str,
    data: Any,
    places: tuple[NDArray[Any], ...] | NDArray[Any],
    shape: tuple[int, int],
    notes: list[str],
) -> sp.csr_array:
    rows, columns = places
    values = numbers(path, name, data, notes, (rows, columns))
    believe_shape(path, shape[0], shape[1], 24 * len(values))
    return _summed(sp.coo_array((values, (rows, columns)), shape=shape), notes)


def _summed(coo: sp.coo_array, notes: list[str]) -> sp.csr_array:
    """As CSR; entries in one place are summed, as scipy does, and that is said."""
    A = sp.csr_array(coo)
    A.sum_duplicates()
    if twice := coo.nnz - A.nnz:
        notes.append(
            f"{counted(twice, 'entry stands', 'entries stand')} where another does: summed"
        )
    return A
