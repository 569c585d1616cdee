"""Tensors as callers give them: taken as floating point on one device, or refused by name."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from projlab.errors import InputError
from projlab.numerics import memory

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_FLOATS_TEXT = "it must be float64, float32, float16 or bfloat16"


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """float16 and bfloat16 are worked in float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def to_tensor(value: Any, name: str) -> Tensor:
    """A new floating-point tensor from a dense tensor, an array, a number or nested lists."""
    if isinstance(value, Tensor):
        refuse_kinds(value, name)
        _require_memory(value.numel() * value.itemsize, value.device, name)
        tensor = value.detach().clone()
    else:
        _refuse_masks(value, name)
        if isinstance(value, list | tuple) and any(
            isinstance(each, Tensor) and each.requires_grad for each in value
        ):
            raise InputError(
                f"{name} is a {type(value).__name__} of tensors that require grad, which a list "
                "loses: give torch.stack of them"
            )
        try:
            array = np.asarray(value)
        except (ValueError, TypeError) as error:
            raise InputError(f"{name} is not a rectangular array of numbers: {error}") from None
        if array.dtype.kind not in "biuf":
            raise InputError(
                f"{name} has dtype {array.dtype}; it must hold real numbers (float, int)"
                + (f": {name}.astype(float), if all of them are" if array.dtype == object else "")
            )
        _require_memory(8 * array.size, torch.device("cpu"), name)
        if array.dtype.kind != "f" or array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    if tensor.dtype in FLOATS:
        return tensor
    if tensor.is_complex():
        raise InputError(f"{name} has dtype {tensor.dtype}; projlab projects real vectors only")
    if tensor.is_floating_point():
        raise InputError(f"{name} has dtype {tensor.dtype}; {_FLOATS_TEXT}")
    return tensor.to(torch.float64)


_SMALL = 2**27
"""Bytes that are not worth asking for the memory there is."""


def broadcast_shape(*shapes: Sequence[int]) -> torch.Size:
    """torch.broadcast_shapes, which imports sympy: that takes a second or more in each process.

    Raises
    ------
    RuntimeError
        They do not broadcast.
    """
    if is_compiling() or not all(type(size) is int for shape in shapes for size in shape):
        return torch.Size(torch.broadcast_shapes(*shapes))
    try:
        return torch.Size(np.broadcast_shapes(*map(tuple, shapes)))
    except ValueError as error:
        raise RuntimeError(str(error)) from None


_FEW = 32


def _require_memory(needed: int, device: torch.device, name: str) -> None:
    """An expanded tensor is small until it is copied."""
    if needed > _SMALL and device.type != "meta":
        remedy = "Give it sparse, or a part of it at a time."
        memory.require(needed, f"a copy of {name}", device, remedy)


def refuse_kinds(value: Tensor, name: str) -> None:
    """Tensors whose numbers are not all there, or are no plain ones."""
    if isinstance(value, torch.masked.MaskedTensor):
        raise InputError(
            f"{name} is a masked tensor, and masked entries have no value; fill them "
            f"({name}.to_tensor(0.0)), or leave their rows out"
        )
    if value.is_nested or value.is_quantized:
        kind = "nested" if value.is_nested else "quantized"
        raise InputError(f"{name} is a {kind} tensor; it must be a plain one")
    if value.layout is not torch.strided:
        layout = str(value.layout).removeprefix("torch.")
        raise InputError(
            f"{name} is a tensor of layout {layout}; it must be dense: {name}.to_dense()"
        )


def refuse_elsewhere(value: Any, name: str, other: str, device: torch.device) -> None:
    """Tensors on another device than `other` is on; a number may be, where it has a value."""
    if isinstance(value, Tensor) and value.device != device and (value.dim() > 0 or value.is_meta):
        raise InputError(f"{name} is on {value.device}, {other} on {device}; move one of them")


def places(t: Tensor) -> "np.typing.NDArray[np.int64]":
    """Where the entries of a strided tensor lie in its storage, counted in entries."""
    at = np.array(t.storage_offset())
    for size, stride in zip(t.shape, t.stride(), strict=True):
        at = np.add.outer(at, stride * np.arange(size))
    return at.ravel()


def overlaps_itself(t: Tensor) -> bool:
    """Whether a strided tensor has one number of memory at several places."""
    reach = 0
    for stride, size in sorted(zip(t.stride(), t.shape, strict=True)):
        if size > 1 and stride <= reach:  # may be, and is looked at
            return len(np.unique(places(t))) < t.numel()
        reach += (size - 1) * stride
    return False


def refuse_overlap(x: Tensor) -> None:
    """Raise `InputError` for x, to be written to, that has one number of memory at two places."""
    if overlaps_itself(x):
        raise InputError(
            f"x, of shape {tuple(x.shape)} and strides {x.stride()}, has one number of memory at "
            "several places, which no projection can fill: give x.clone()"
        )


def refuse_watched(value: object, name: str, constant: str) -> None:
    """Raise `InputError` for a tensor of which a derivative, or lanes, would be lost.

    Numbers of forward mode do not say that they require grad, nor do the lanes of `vmap`.
    """
    if not isinstance(value, Tensor):
        return
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    if not (transformed or value.requires_grad):  # as most are
        return
    functorch = torch._C._functorch
    how, inner = None, value
    while how is None:
        if inner.requires_grad:
            how = "requires grad"
        elif inner.layout is not torch.strided:  # torch has no others in these modes
            return
        elif forward_ad.unpack_dual(inner).tangent is not None:
            how = "has a tangent of forward mode"
        elif functorch.is_batchedtensor(inner):
            how = "is mapped over by vmap"
        elif functorch.is_functorch_wrapped_tensor(inner):
            inner = functorch.get_unwrapped(inner)
        else:
            return
    raise InputError(f"{name} {how}, but {constant}")


def require_values(value: Any, name: str) -> None:
    """Raise `InputError` for a tensor on the device meta, which is no part of a state."""
    if isinstance(value, Tensor) and value.is_meta:
        raise InputError(
            f"{name} is on the device meta; it is no part of the state, and must have values"
        )


def _refuse_masks(value: Any, name: str) -> None:
    """A masked entry has no value, and numpy hands over the number below the mask."""
    if isinstance(value, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(value).sum())
        raise InputError(
            f"{name} is a masked array, {masked} of its entries are masked, and these have no "
            f"value; fill them ({name}.filled(0.0)), or leave their rows out"
        )
    if isinstance(value, list | tuple):
        for part in value:
            _refuse_masks(part, name)


def check_vector(
    x: object, n: int, batch: int | None, device: torch.device, name: str = "x"
) -> None:
    """Raise `InputError` unless x is a floating-point tensor (..., n) on the device."""
    if not isinstance(x, Tensor):
        raise InputError(f"{name} is a {type(x).__name__}; it must be a torch tensor")
    refuse_kinds(x, name)
    if x.is_complex():
        raise InputError(f"{name} has dtype {x.dtype}; projlab projects real vectors only")
    if not x.is_floating_point():
        raise InputError(
            f"{name} has dtype {x.dtype}; it must be a floating-point tensor: x.float()"
        )
    if x.dtype not in FLOATS:
        raise InputError(f"{name} has dtype {x.dtype}; {_FLOATS_TEXT}")
    if x.device != device:
        raise InputError(f"{name} is on {x.device}, A and b on {device}; move one of them")
    if batch is None:
        if x.dim() == 0 or x.shape[-1] != n:
            raise InputError(f"{name} has shape {tuple(x.shape)}; its last dimension must be {n}")
    elif x.dim() < 2 or x.shape[0] != batch or x.shape[-1] != n:
        raise InputError(
            f"{name} has shape {tuple(x.shape)}; with {batch} systems it must be "
            f"({batch}, {n}) or ({batch}, k, {n})"
        )


def require_finite(value: Tensor, name: str) -> None:
    """Raise `InputError` that says where the first NaN or infinity of `value` stands.

    A tensor on the device meta has no values to look at.
    """
    if value.is_meta:
        return
    # no sum of a NaN or an infinity is finite; of a few numbers Python's own is the quicker
    few = value.dim() == 1 and len(value) <= _FEW and value.is_cpu
    if math.isfinite(sum(value.tolist()) if few else value.sum().item()):
        return
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        where = (~finite).nonzero()
        index = "".join(f"[{int(i)}]" for i in where[0])
        raise InputError(
            f"{name}{index} is {float(value[tuple(where[0])])}; "
            f"{name} must be finite ({len(where)} entries are not)"
        )
