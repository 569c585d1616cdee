"""`load`: one system from one file, and what of the file was taken as what."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from projlab.errors import InputError
from projlab.files.arrays import Matrix, Vector, is_scipy_sparse, row_names, vector
from projlab.files.contents import (
    KEYS,
    MATRICES,
    RIGHT_SIDES,
    Contents,
    Format,
    Parts,
    held_by,
    keys_with_matrices,
    listed,
    printable,
    under,
)
from projlab.files.find import companion, format_of
from projlab.files.matrices import PARTS_OF_SPARSE, from_parts, is_sparse_by_parts, matrix
from projlab.files.refusal import plain, shown, wrong

Source = str | os.PathLike[str] | float

ALIASES = {
    "b": ("b", "beq", "b_eq", "A"),
    "b_error": ("b_error", "b", "A"),
    "x0": ("x0", "x", "A"),
}
"""What a vector may be called in a file of its own."""


class LoadedSystem(NamedTuple):
    """What a file says.

    Attributes
    ----------
    A
        (m, n): an array, or a `scipy.sparse.csr_array` where the file is sparse; float32 where it
        is stored in that or less, else float64.
    b, x0
        (m,) and (n,); None where neither the file nor the caller says.
    names
        Of the rows, where the file has them.
    notes
        What was taken as what where that was a choice, and what was left out, a sentence each.
    """

    A: Matrix
    b: Vector | None
    x0: Vector | None
    names: tuple[str, ...] | None
    notes: tuple[str, ...]


def load(
    path: str | os.PathLike[str],
    b: Source | None = None,
    x0: Source | None = None,
    *,
    key: str | None = None,
    dtype: Literal["float64", "float32"] | None = None,
) -> LoadedSystem:
    """Read a system A x = b from a file; nothing in it is ever executed.

    Parameters
    ----------
    path
        ``.npz``, ``.npy``, ``.mat`` (version 7 or older), ``.pt``, ``.pth``, ``.safetensors``, or
        ``.csv``, ``.tsv``, ``.mtx``, ``.mps``, these four also with ``.gz`` or ``.bz2``.
    b, x0
        A file with the right-hand side or the point, or one number for all of it; they replace what
        `path` holds. By default NAME_b.* and NAME_x0.* beside NAME.*, where it holds none.
    key
        Of a file whose parts have names: the one that holds A, b and the like, as ``model`` or
        ``state.equations``, or the one that is A, as ``model.S``; the others are then sought beside
        it.
    dtype
        Of what is returned; by default as stored.

    Returns
    -------
    LoadedSystem
        ``A, b, x0, names, notes``, which ``projector(A, b)`` and ``AffineConstraint(A, b, names)``
        take.

    Raises
    ------
    InputError
        A file cannot be read, or not as one system: the sentence names the file, the place in it,
        what stands there, and what is wanted.
    ImportError
        safetensors is not installed.
    """
    path = Path(path)
    format_ = format_of(path)
    contents = format_.read(path)
    notes = list(contents.notes)
    parts, named = _asked_for(path, format_, contents, key)
    system = _system(path, format_, parts, named, notes)
    m, n = system.A.shape
    right = _given(path, "b", b, m, notes) if b is not None or system.b is None else system.b
    point = _given(path, "x0", x0, n, notes) if x0 is not None or system.x0 is None else system.x0
    system = system._replace(b=right, x0=point, notes=tuple(dict.fromkeys(map(plain, notes))))
    return system if dtype is None else _rounded(path, system, dtype)


def _asked_for(
    path: Path, format_: Format, contents: Contents, key: str | None
) -> tuple[Parts, str | None]:
    if key is None:
        return contents.parts, None
    if not format_.keyed:
        raise wrong(path, f"is {format_.what}, whose parts have no names", f"no key {shown(key)}")
    return under(path, contents.parts, key)


def _system(
    path: Path, format_: Format, parts: Parts, named: str | None, notes: list[str]
) -> LoadedSystem:
    """Check what a file holds and put it into the form that everything else takes."""
    held = held_by(parts)
    name = named or _matrix_name(path, format_, parts, held)
    if name is None:
        A: Matrix = from_parts(path, parts, notes)
        used = {*PARTS_OF_SPARSE, "format", "_is_array"}
    else:
        A, used = matrix(path, name, parts[name], notes), {name}
    m, n = A.shape
    if not (m and n):
        raise wrong(path, f"holds A of shape {(m, n)}", "at least one row and one column")
    if "x" in parts and "x0" in parts:
        raise wrong(path, "holds both x and x0", "one of them")
    right = RIGHT_SIDES.get(name or "A", "b")
    point = "x0" if "x0" in parts else "x"
    left_out = [key for key in parts if key not in {*used, right, point, "names"}]
    if left_out:
        notes.append(f"left out: {listed(list(map(printable, left_out)))}")
    if name in ("Aeq", "A_eq"):
        notes.append(f"the equations are {name} and {right}")
    return LoadedSystem(
        A,
        vector(path, right, parts[right], m, name or "A", notes) if right in parts else None,
        vector(path, point, parts[point], n, name or "A", notes) if point in parts else None,
        row_names(path, parts["names"], m) if "names" in parts else None,
        (),
    )


def _matrix_name(path: Path, format_: Format, parts: Parts, held: str) -> str | None:
    """The part that is the matrix; None where several are, of a sparse one.

    Aeq goes before A: where a file has both, A holds inequalities (MATLAB's linprog, scipy's).
    """
    found = [name for name in MATRICES if name in parts]
    if found and PARTS_OF_SPARSE & set(parts):
        raise wrong(path, f"holds both a dense A and CSR parts ({held})", KEYS)
    if is_sparse_by_parts(parts) and not found:
        return None
    if "Aeq" in found and "A_eq" in found:
        raise wrong(path, "holds both Aeq and A_eq", "one of them, or a key that names one")
    if found:
        return found[-1]
    keys = keys_with_matrices(parts)
    if keys:
        raise wrong(path, f"holds {held}", f"a key: {listed(keys)} (load(key=…), --key)")
    extra = ", or a key that names the matrix" if format_.keyed and parts else ""
    raise wrong(path, f"holds {held}", format_.wanted + extra)


def _given(path: Path, name: str, source: Source | None, length: int, notes: list[str]) -> Any:
    """b or x0 from a number, from a file, or from the file beside the system's."""
    if isinstance(source, bool | np.bool_) or not isinstance(
        source, str | os.PathLike | int | float | np.integer | np.floating | None
    ):
        raise InputError(f"{name} is a {type(source).__name__}; it must be a file or a number")
    if isinstance(source, str | os.PathLike):
        return _vector_file(Path(source), name, length, path, notes)
    if source is not None:
        if not math.isfinite(source):
            raise InputError(f"{name} is {source}; it must be finite")
        return np.full(length, float(source))
    beside = companion(path, name)
    if beside is None:
        return None
    notes.append(f"{name} is read from {beside.name}")
    return _vector_file(beside, name, length, path, notes)


def read_vector(path: Path, name: str, source: Source, length: int, notes: list[str]) -> Vector:
    """A vector of `length` that goes with the system in `path`, from a file or one number."""
    given: Vector = _given(path, name, source, length, notes)
    return given


def _vector_file(path: Path, name: str, length: int, of: Path, notes: list[str]) -> Vector:
    """A vector from a file that holds nothing else, or holds it by this name."""
    parts: Mapping[str, Any] = format_of(path).read(path).parts
    aliases = ALIASES[name]
    known = [alias for alias in aliases if alias in parts]
    if not known and len(parts) == 1:
        known = list(parts)
    if known:
        value = parts[known[0]]
    elif is_sparse_by_parts(parts):
        value = from_parts(path, parts, notes)
    else:
        raise wrong(path, f"holds {held_by(parts)}", f"one vector, or one named {name}")
    return vector(path, name, value, length, of.name, notes)


def _rounded(path: Path, system: LoadedSystem, dtype: str) -> LoadedSystem:
    if dtype not in ("float64", "float32"):
        raise InputError(f'dtype is {dtype!r}; it must be "float64" or "float32"')
    with np.errstate(over="ignore"):
        A: Any = system.A.astype(dtype)
        b, x0 = (None if v is None else v.astype(dtype) for v in (system.b, system.x0))
    held = A.data if is_scipy_sparse(A) else A
    if not all(np.isfinite(part).all() for part in (held, b, x0) if part is not None):
        raise wrong(path, f"holds entries that overflow in {dtype}", "float64")
    return system._replace(A=A, b=b, x0=x0)
