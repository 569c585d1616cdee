"""What stands between the brackets of an expression: told apart once, as torch reads it."""

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projlab.errors import InputError

Key = tuple[Any, ...]
"""None, Ellipsis, slices, ints; else tensors on the CPU, bool or int64, which gather entries."""


def normalised(key: Any) -> Key:
    """The key as a tuple of what `Key` says; whatever else holds integers or booleans is an array.

    Raises
    ------
    InputError
        An index that is neither, or one that torch and numpy read differently.
    """
    if isinstance(key, list) and any(isinstance(k, list | tuple | slice | Tensor) for k in key):
        raise InputError(
            f"the index {key!r} is a list of sequences, which torch reads as a tuple or as an "
            "array, by its version; write tuple(index) or torch.tensor(index)"
        )
    return tuple(_one(k) for k in (key if isinstance(key, tuple) else (key,)))


def gathers(key: Key) -> bool:
    """Whether entries are gathered, so that the result is no view."""
    return any(isinstance(k, Tensor) for k in key)


def _one(k: Any) -> Any:
    if k is None or k is Ellipsis or isinstance(k, slice):
        return k
    if isinstance(k, (bool, np.bool_)):
        return torch.tensor(bool(k), dtype=torch.bool, device="cpu")
    if isinstance(k, Tensor):
        return _of_tensor(k)
    try:
        return operator.index(k)
    except TypeError:
        return _of_array(k)


def _of_tensor(k: Tensor) -> Tensor | int:
    if k.dtype is torch.uint8:
        raise InputError(
            "an index has dtype uint8, which torch reads as a mask and numpy as numbers; use "
            ".bool() or .long()"
        )
    if k.is_floating_point() or k.is_complex():
        raise InputError(f"an index has dtype {k.dtype}; it must hold integers or booleans")
    k = k.detach().cpu()
    if k.dtype is torch.bool:
        return k
    return int(k) if k.dim() == 0 else k.long()


def _of_array(k: Any) -> Tensor:
    if isinstance(k, np.ma.MaskedArray):
        raise InputError("an index is a masked array; fill it or index by its .nonzero()")
    try:
        array = np.asarray(k)
    except (ValueError, TypeError) as error:
        raise InputError(f"the index {k!r} is no array of integers or booleans: {error}") from None
    if array.size == 0 and array.dtype.kind == "f":  # an empty list
        array = array.astype(np.int64)
    if array.dtype.kind not in "biu":
        raise InputError(
            f"an index is a {type(k).__name__} of dtype {array.dtype}; it must hold integers or "
            "booleans"
        )
    wide = array if array.dtype.kind == "b" else array.astype(np.int64)
    return torch.from_numpy(np.array(wide))
