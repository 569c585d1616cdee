"""Affine constraints inside modules: on an output (`AffineProjection`), on a weight (`affine`)."""

from typing import Any, Unpack

import torch
from torch import Tensor
from torch import nn as torch_nn
from torch.nn.utils import parametrize

from projlab.engine.projector import Projector
from projlab.errors import InputError
from projlab.system.options import LayerKeywords, listed

__all__ = ["AffineProjection", "affine"]


class AffineProjection(torch_nn.Module):
    """A layer that projects the outputs before it onto {y : A y = b}.

    `forward(x, b=None)` takes x (..., n), for batched A (B, ..., n), and returns its shape and
    dtype; inside autocast it returns float32, because rounded to bfloat16 an equation is off by
    4e-3 of its terms. b, (m,) or (..., m), replaces the layer's own; it is not checked for
    consistency.

    Parameters
    ----------
    A, b
        As `projlab.projector` takes them; kept as buffers, and factored again when a state dict is
        loaded.
    keywords
        variant, accuracy, rank, metric, on_redundant, on_inconsistent, as for `projlab.projector`.

    Raises
    ------
    ProjlabError
        As `projlab.projector`.

    References
    ----------
    Golub and Van Loan, "Matrix Computations", 4th ed., section 6.2 (equality constraints).
    """

    @listed
    def __init__(self, A: Any, b: Any = None, **keywords: Unpack[LayerKeywords]) -> None:
        super().__init__()
        self.projector = Projector(A, b, **keywords)

    def forward(self, x: Tensor, b: Tensor | None = None) -> Tensor:
        """The projection of x (..., n)."""
        if torch._C._is_any_autocast_enabled() and isinstance(x, Tensor):
            x = _widened(x)
        projected: Tensor = self.projector(x, b)
        return projected


def _widened(x: Tensor) -> Tensor:
    """x in float32 at least, where autocast is on for its device."""
    narrow = x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if narrow and torch.is_autocast_enabled(x.device.type) else x


class _Affine(torch_nn.Module):
    """The parametrisation of one tensor: its projection, flattened or along one dimension."""

    def __init__(self, projector: Projector, dim: int | None) -> None:
        super().__init__()
        self.projector = projector
        self.dim = dim

    def forward(self, weight: Tensor) -> Tensor:
        """The projection of the free tensor."""
        if self.dim is None:
            projected: Tensor = self.projector(weight.reshape(-1))
            return projected.reshape(weight.shape)
        along: Tensor = self.projector(weight.movedim(self.dim, -1))
        return along.movedim(-1, self.dim)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """A free tensor for a value that is assigned: its projection."""
        with torch.no_grad():
            return self.forward(weight)

    def extra_repr(self) -> str:
        """The dimension."""
        return f"dim={self.dim}"


@listed
def affine(
    module: torch_nn.Module,
    name: str,
    A: Any,
    b: Any = None,
    dim: int | None = None,
    **keywords: Unpack[LayerKeywords],
) -> torch_nn.Module:
    """Parametrise a tensor of a module so that A x = b, whatever the optimizer does.

        affine(linear, "weight", torch.ones(linear.in_features), 1.0, dim=1)

    The free tensor behind it is trained; the module sees its projection, computed at each access
    (within `torch.nn.utils.parametrize.cached()` once). `constrain` does the same at the
    optimizer, without a projection in the graph.

    Parameters
    ----------
    module, name
        The tensor module.<name>, floating-point. It is projected now.
    A, b
        As `projlab.projector` takes them, not batched: n is the tensor's number of entries, or
        with `dim` its size there.
    dim
        None: the tensor flattened row-major is x. Otherwise every slice along this dimension is.
    keywords
        As for `projlab.projector`.

    Returns
    -------
    torch.nn.Module
        The module.

    Raises
    ------
    InputError
        No such tensor; A does not fit it; A is batched. Nothing has been changed then.
    ProjlabError
        As `projlab.projector`.

    References
    ----------
    Lezcano-Casado, "Trivializations for gradient-based optimization on manifolds", NeurIPS 2019.
    """
    weight = getattr(module, name, None) if isinstance(name, str) else None
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise InputError(
            f"{type(module).__name__} has no floating-point tensor {name!r} to parametrise"
        )
    if dim is not None and not (isinstance(dim, int) and -weight.dim() <= dim < weight.dim()):
        raise InputError(f"dim={dim!r}; {name} has shape {tuple(weight.shape)}")
    projector = Projector(A, b, **keywords)
    n = weight.numel() if dim is None else weight.shape[dim]
    if projector.constraint.batch is not None:
        raise InputError("A is batched; a parametrisation takes one system")
    if projector.constraint.n != n:
        where = "entries" if dim is None else f"entries along dimension {dim}"
        raise InputError(f"A has {projector.constraint.n} columns; {name} has {n} {where}")
    if projector.device != weight.device:
        raise InputError(f"A is on {projector.device}, {name} on {weight.device}; move one of them")
    parametrize.register_parametrization(module, name, _Affine(projector, dim))
    return module
