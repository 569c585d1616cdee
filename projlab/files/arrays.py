"""Parts of a file as arrays of real, finite numbers, or refused by their names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from projlab.files.contents import Unread
from projlab.files.refusal import believe, reading, wrong

Vector = NDArray[np.floating[Any]]
Matrix = NDArray[np.floating[Any]] | sp.csr_array
SCALARS = frozenset({"b", "h", "lb", "ub"})
"""What may be one number for all entries."""

EXACT = 2**53
"""Integers up to this size are float64 numbers."""


def numbers(
    path: Path,
    name: str,
    value: Any,
    notes: list[str],
    places: Sequence[NDArray[Any]] | None = None,
    *,
    infinite: bool = False,
) -> Vector:
    """Real, finite numbers: float32 where stored in that or less, else float64.

    `places` are where the values of a sparse matrix stand. Bounds may be `infinite`.
    """
    array = _real(path, name, array_of(path, name, value, notes), notes)
    refused = np.isnan(array) if infinite else ~np.isfinite(array)
    if refused.any():
        where = np.argwhere(refused)[0].tolist()
        entry = array[tuple(where)]
        if places is not None:
            where = [int(axis[where[0]]) for axis in places]
        place = f"[{', '.join(map(str, where))}]" if where else ""
        wanted = "numbers" if infinite else "finite numbers"
        raise wrong(path, f"holds {name}{place} = {entry}", wanted)
    return array


def _real(path: Path, name: str, array: NDArray[Any], notes: list[str]) -> Vector:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "biuf":
        raise wrong(path, f"holds {name} of dtype {array.dtype}", "real numbers")
    believe(path, 8 * array.size)
    if kind == "f" and size <= 4:
        if size < 4:
            notes.append(f"{name} is stored in {array.dtype}, each entry exact in float32")
        return array.astype(np.float32)
    with np.errstate(over="ignore"):
        wide = array.astype(np.float64)
    rounds = kind == "f" and size > 8 and bool((wide.astype(array.dtype) != array).any())
    if kind in "iu" and size == 8:
        rounds = bool(((array > EXACT) | (array < -EXACT if kind == "i" else False)).any())
    if rounds:
        notes.append(f"{name} is stored in {array.dtype}, rounded to float64")
    return wide


def integers(path: Path, name: str, value: Any) -> NDArray[np.int64]:
    """Whole numbers, as indices and shapes are."""
    array = array_of(path, name, value, [])
    if array.dtype.kind not in "iu":
        raise wrong(path, f"holds {name} of dtype {array.dtype}", "integers")
    return array.astype(np.int64)


def array_of(path: Path, name: str, value: Any, notes: list[str]) -> NDArray[Any]:
    """Whatever a reader handed over as an array, torch's narrow floats in float32."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Unread):
        raise wrong(path, f"holds {name} as {value.why}", "an array of numbers")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _of_tensor(path, name, value, notes)
    if isinstance(value, (int, float, list, tuple)):
        with reading(path, f"an array {name}", "an array of numbers"):
            return np.array(value)
    raise wrong(path, f"holds {name} as a {type(value).__name__}", "an array of numbers")


def _of_tensor(path: Path, name: str, value: Any, notes: list[str]) -> NDArray[Any]:
    dtype = str(value.dtype).removeprefix("torch.")
    if is_torch_sparse(value):
        raise wrong(path, f"holds {name} as a sparse tensor", "a dense one")
    if value.is_quantized or value.is_nested or value.device.type != "cpu":
        raise wrong(path, f"holds {name} as a tensor of {dtype} on {value.device}", "plain numbers")
    believe(path, 8 * value.numel())
    kept = value.detach()
    with reading(path, f"a tensor {name} of {dtype}", "real numbers"):
        if kept.is_floating_point() and kept.dtype.itemsize < 4:
            notes.append(f"{name} is stored in {dtype}, each entry exact in float32")
            kept = kept.float()
        return np.asarray(kept.resolve_conj().resolve_neg().numpy())


def is_scipy_sparse(value: Any) -> bool:
    """Whether it is sparse, as scipy keeps it."""
    return bool(sp.issparse(value))


def is_torch_sparse(value: Any) -> bool:
    """Whether it is a torch tensor of another layout than strided."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor) and value.layout != torch.strided


def vector(
    path: Path,
    name: str,
    value: Any,
    length: int,
    of: str,
    notes: list[str],
    *,
    infinite: bool = False,
) -> Vector:
    """A vector of that length; right sides and bounds may be one number for every entry."""
    dense = sp.csr_array(value).toarray() if is_scipy_sparse(value) else value
    array = numbers(path, name, dense, notes, infinite=infinite)
    if array.ndim == 2 and 1 in array.shape:
        array = array.ravel()
    if array.ndim == 0 and name in SCALARS:
        array = np.full(length, array)
    if array.shape != (length,):
        raise wrong(path, f"holds {name} of shape {array.shape}", f"({length},), to fit {of}")
    return array


def require_fit(path: Path, parts: Sequence[Matrix], dtype: str, *, small: bool = False) -> None:
    """Refuse finite entries that overflow in a dtype, and such as fall below its normal numbers.

    These may be `small` where they are no coefficients: there the least of them is an error of x.
    """
    for part in parts:
        values = np.abs(part.data if isinstance(part, sp.csr_array) else part)
        with np.errstate(over="ignore", under="ignore"):
            narrow = values.astype(dtype)
        if (np.isinf(narrow) & np.isfinite(values)).any():
            raise wrong(path, f"holds entries that overflow in {dtype}", "float64")
        least = np.finfo(dtype).tiny
        if not small and ((narrow < least) & (values > 0)).any():
            said = f"holds entries below {least:.2g}, which {dtype} does not keep"
            raise wrong(path, said, "float64, or rows in other units")


def row_names(path: Path, value: Any, m: int) -> tuple[str, ...]:
    """One name a row."""
    names = np.asarray(list(value) if isinstance(value, (list, tuple)) else value)
    if isinstance(value, Unread) or names.dtype.kind != "U" or names.shape != (m,):
        said = f"holds names of dtype {names.dtype} and shape {names.shape}"
        raise wrong(path, said, f"{m} strings")
    return tuple(map(str, names))
