"""Checks of what expressions are made of: parameters, constants, matrices, indices, shapes."""

from typing import Any

import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.system.inputs import broadcast_shape, require_finite, require_values, to_tensor
from projlab.system.rows import from_scipy, is_scipy_sparse


def require_parameter(parameter: object) -> Tensor:
    """The parameter, or `InputError` where no equation can be written over it."""
    if not isinstance(parameter, Tensor):
        raise InputError(
            f"parameter is a {type(parameter).__name__}; expr takes a torch parameter or tensor"
        )
    if torch.nn.parameter.is_lazy(parameter):
        raise InputError("parameter is uninitialised; run the module once before constraining it")
    if not parameter.is_floating_point():
        raise InputError(f"parameter has dtype {parameter.dtype}; it must be floating-point")
    if parameter.layout != torch.strided:
        raise InputError(f"parameter has layout {parameter.layout}; it must be a dense tensor")
    if not parameter.is_leaf:
        raise InputError(
            "parameter is the result of a computation, not a leaf: name the parameter that the "
            "optimizer holds (for a parametrised module, use projlab.nn.affine)"
        )
    if parameter.numel() == 0:
        raise InputError(f"parameter has shape {tuple(parameter.shape)}: it has no entries")
    return parameter


def constant(value: Any, name: str, *, infinite: bool = False) -> tuple[Tensor, torch.dtype]:
    """A number or array as float64 on the CPU, and the dtype it was given in."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise InputError(
            f"{name} requires grad, but it is a constant here; write expr(...) for a parameter, or "
            "detach it"
        )
    require_values(value, name)
    if is_scipy_sparse(value):
        raise InputError(
            f"{name} is a scipy.sparse {value.format}; it must be dense: {name}.toarray()"
        )
    tensor = to_tensor(value, name)
    require_finite(torch.where(torch.isinf(tensor), 0, tensor) if infinite else tensor, name)
    return tensor.cpu().double(), tensor.dtype


def matrix(A: Any) -> tuple[Tensor, torch.dtype]:
    """A (k, n) or (n,): strided in its own dtype, or COO in float64; with the dtype given."""
    require_values(A, "A")
    if is_scipy_sparse(A):
        rows, cols, values, shape = from_scipy(A)
        entries = to_tensor(values, "A")
        require_finite(entries, "A's stored values")
        indices = torch.stack([rows, cols])
        coo = torch.sparse_coo_tensor(
            indices, entries.double(), shape, device="cpu", check_invariants=True
        )
        return coo.coalesce(), entries.dtype
    if isinstance(A, Tensor) and A.requires_grad:
        raise InputError("A requires grad, but the matrix of a constraint is a constant; detach it")
    if isinstance(A, Tensor) and A.layout != torch.strided:
        if A.dim() != 2 or A.dense_dim():
            raise InputError(f"A is a sparse tensor of shape {tuple(A.shape)}; it must be (m, n)")
        coo = A.detach().to_sparse_coo().cpu()
        # integers in float64 before duplicates are added up: in their own type they could overflow
        wide = coo if coo.is_floating_point() or coo.is_complex() else coo.double()
        wide = wide.coalesce()
        values = to_tensor(wide.values(), "A")
        require_finite(values, "A's stored values")
        return wide.double(), wide.dtype
    tensor = to_tensor(A, "A")
    if tensor.dim() not in (1, 2):
        raise InputError(f"A has shape {tuple(tensor.shape)}; it must be (m, n) or (n,)")
    require_finite(tensor, "A")
    return tensor, tensor.dtype


def transposed(A: Tensor) -> Tensor:
    """A' of what `matrix` gives, COO coalesced."""
    return A.t() if A.layout == torch.strided else A.t().coalesce()


def columns(A: Tensor, start: int, stop: int) -> Tensor:
    """Some columns of a coalesced COO matrix."""
    (i, j), values = A.indices(), A.values()
    inside = (j >= start) & (j < stop)
    return torch.sparse_coo_tensor(
        torch.stack([i[inside], j[inside] - start]),
        values[inside],
        (A.shape[0], stop - start),
        device="cpu",
        is_coalesced=True,
        check_invariants=False,
    )


def broadcast(a: torch.Size, b: torch.Size, what: str) -> torch.Size:
    """The common shape, or `InputError` that names `what`."""
    try:
        return broadcast_shape(a, b)
    except RuntimeError:
        raise InputError(
            f"{what} has shape {tuple(b)}, which does not broadcast with {tuple(a)}"
        ) from None


def narrower(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """The coarser of two dtypes."""
    return a if torch.finfo(a).eps >= torch.finfo(b).eps else b
