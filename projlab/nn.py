"""Affine constraints inside modules: on an output (`AffineProjection`), on a weight (`affine`)."""

import math
from typing import Any, Unpack

import torch
from torch import Tensor
from torch import nn as torch_nn
from torch.nn.utils import parametrize

from projlab.engine.polyhedra.projector import PolyhedralProjector
from projlab.engine.projector import Projector
from projlab.errors import InputError
from projlab.system.constraint import AffineConstraint
from projlab.system.inputs import refuse_kinds
from projlab.system.options import LayerKeywords, listed
from projlab.system.polyhedron import Polyhedron

__all__ = ["AffineProjection", "Projection", "affine"]


class AffineProjection(torch_nn.Module):
    """A layer that projects the outputs before it onto {y : A y = b}.

    `forward(x, b=None)` takes x (..., n), for batched A (B, ..., n), and returns its shape and
    dtype; inside autocast it returns float32, because rounded to bfloat16 an equation is off by
    4e-3 of its terms. b, (m,) or (..., m), replaces the layer's own; it is not checked for
    consistency.

    Its buffers are what is used, and a state dict sets it up, as for `projlab.Projector`. It is
    compiled in one graph, and exported, by `torch.export` and to ONNX, as plain operators with the
    factors as constants; those run in the precision that their runtime is set to.

    Parameters
    ----------
    A, b
        As `projlab.projector` takes them; kept as buffers, and factored again when a state dict is
        loaded. Without b the layer has none of its own: `forward` must be given one.
    dim
        The dimension, or dimensions, of x that make up a vector: n is their size, or the product of
        their sizes, flattened row-major in the order named. b is then (m,), or (..., m) with the
        dimensions of x that are left, in their order.
    keywords
        variant, accuracy, rank, metric, on_redundant, on_inconsistent, b_error, as for
        `projlab.projector`.

    Raises
    ------
    InputError
        dim is no int or tuple of different ints; in `forward`: x has no such dimension, or b is
        missing.
    ProjlabError
        As `projlab.projector`.

    References
    ----------
    Golub and Van Loan, "Matrix Computations", 4th ed., section 6.2 (equality constraints).
    """

    @listed
    def __init__(
        self,
        A: Any,
        b: Any = None,
        dim: int | tuple[int, ...] = -1,
        **keywords: Unpack[LayerKeywords],
    ) -> None:
        super().__init__()
        self.dims = _dims(dim)
        self.needs_b = b is None and not isinstance(A, AffineConstraint)
        self.projector = Projector(A, 0.0 if self.needs_b else b, **keywords)

    def forward(self, x: Tensor, b: Tensor | None = None) -> Tensor:
        """The projection of x."""
        if b is None and self.needs_b:
            raise InputError("the layer was built without b: give one, forward(x, b)")
        if torch._C._is_any_autocast_enabled() and isinstance(x, Tensor):
            x = _widened(x)
        if self.dims == (-1,) or not isinstance(x, Tensor):
            projected: Tensor = self.projector(x, b)
            return projected
        dims = _checked(self.dims, x, "x")
        if self.projector.constraint.batch is not None and 0 in dims:
            raise InputError(f"dim={self.dims}, but dimension 0 of x counts the systems of A")
        return _spread(self.projector(_gathered(x, dims), b), x, dims)

    def extra_repr(self) -> str:
        """What differs from the default."""
        dim = "" if self.dims == (-1,) else f"dim={self.dims if self.dims[1:] else self.dims[0]}"
        return ", ".join([part for part in (dim, "b with each x" if self.needs_b else "") if part])


class Projection(torch_nn.Module):
    """A layer that projects the outputs before it onto {y : A y = b, G y <= h, lb <= y <= ub}.

    `forward(x, b=None, h=None, lb=None, ub=None)` takes x (..., n) and returns its shape and dtype;
    inside autocast float32. Right sides and bounds given there replace the layer's own: of shape
    (m,), (p,) or (n,), or with x's leading dimensions, one for each vector. Differentiable in x and
    in them, through the face where each vector ends (`projlab.PolyhedralProjector` says what that
    means at a kink).

    Parameters
    ----------
    A, b, G, h, lb, ub
        As `projlab.projector` takes them, or one `projlab.Polyhedron` as A. Without b beside A, or
        h beside G, `forward` must be given one; a set that is known here is checked here.
    variant
        "auto", "box", "disjoint_rows" or "active_set".
    dim
        The dimension, or dimensions, of x that make up a vector, as for `AffineProjection`.
    n
        How many variables, where no part says so.

    Raises
    ------
    InputError
        As `projlab.projector`; in `forward`: x has no such dimension, or b or h is missing.
    InconsistentError
        No y is in the set, by the rows and bounds that prove it.

    References
    ----------
    Amos and Kolter, "OptNet", ICML 2017 (quadratic programmes as layers).
    """

    def __init__(
        self,
        A: Any = None,
        b: Any = None,
        *,
        G: Any = None,
        h: Any = None,
        lb: Any = None,
        ub: Any = None,
        variant: str = "auto",
        dim: int | tuple[int, ...] = -1,
        n: int | None = None,
    ) -> None:
        super().__init__()
        self.dims = _dims(dim)
        self.needs = []
        if not isinstance(A, Polyhedron):
            if A is not None and b is None and not isinstance(A, AffineConstraint):
                self.needs.append("b")
                b = 0.0
            if G is not None and h is None:
                self.needs.append("h")
                h = 0.0
            A = Polyhedron(A, b, G, h, lb, ub, n=n)
        elif not (b is G is h is lb is ub is n is None):
            raise InputError("A is a Polyhedron and holds every part; give no other")
        self.projector = PolyhedralProjector(A, variant, sides_follow=bool(self.needs))

    def forward(
        self, x: Tensor, b: Any = None, h: Any = None, lb: Any = None, ub: Any = None
    ) -> Tensor:
        """The projection of x."""
        for name, value in (("b", b), ("h", h)):
            if value is None and name in self.needs:
                raise InputError(
                    f"the layer was built without {name}: give one, forward(x, {name}=...)"
                )
        if torch._C._is_any_autocast_enabled() and isinstance(x, Tensor):
            x = _widened(x)
        if self.dims == (-1,) or not isinstance(x, Tensor):
            projected: Tensor = self.projector(x, b, h, lb, ub)
            return projected
        dims = _checked(self.dims, x, "x")
        return _spread(self.projector(_gathered(x, dims), b, h, lb, ub), x, dims)

    def extra_repr(self) -> str:
        """What differs from the default."""
        dim = "" if self.dims == (-1,) else f"dim={self.dims if self.dims[1:] else self.dims[0]}"
        needed = [f"{name} with each x" for name in self.needs]
        return ", ".join([part for part in (dim, *needed) if part])


def _widened(x: Tensor) -> Tensor:
    """x in float32 at least, where autocast is on for its device."""
    narrow = x.dtype in (torch.float16, torch.bfloat16)
    return x.float() if narrow and torch.is_autocast_enabled(x.device.type) else x


def _dims(dim: object) -> tuple[int, ...]:
    """`dim` as a tuple, or `InputError`."""
    dims = dim if isinstance(dim, tuple) else (dim,)
    if not dims or not all(isinstance(d, int) and not isinstance(d, bool) for d in dims):
        raise InputError(f"dim={dim!r}; it must be an int or a tuple of ints")
    return dims


def _checked(dims: tuple[int, ...], x: Tensor, name: str) -> tuple[int, ...]:
    """dims counted from the first dimension of x, or `InputError`."""
    refuse_kinds(x, name)
    within = [d % x.dim() for d in dims if -x.dim() <= d < x.dim()]
    if len(set(within)) < len(dims):
        shown = dims if len(dims) > 1 else dims[0]
        raise InputError(f"dim={shown!r}; {name} has shape {tuple(x.shape)}")
    return tuple(within)


def _gathered(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x with dims moved last and flattened, as vectors."""
    return x.movedim(dims, _last(dims)).flatten(-len(dims))


def _spread(vectors: Tensor, like: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Undo `_gathered`."""
    apart: Tensor = vectors.unflatten(-1, [like.shape[d] for d in dims])
    return apart.movedim(_last(dims), dims)


def _last(dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(-len(dims), 0))


class _Affine(torch_nn.Module):
    """The parametrisation of one tensor: its projection, flattened or along some dimensions."""

    def __init__(self, projector: Projector, dim: int | tuple[int, ...] | None) -> None:
        super().__init__()
        self.projector = projector
        self.dim = dim

    def forward(self, weight: Tensor) -> Tensor:
        """The projection of the free tensor."""
        if self.dim is None:
            projected: Tensor = self.projector(weight.reshape(-1))
            return projected.reshape(weight.shape)
        dims = _checked(_dims(self.dim), weight, "the tensor")
        return _spread(self.projector(_gathered(weight, dims)), weight, dims)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """A free tensor for a value that is assigned: its projection."""
        with torch.no_grad():
            return self.forward(weight)

    def extra_repr(self) -> str:
        """The dimensions."""
        return f"dim={self.dim}"


@listed
def affine(
    module: torch_nn.Module,
    name: str,
    A: Any,
    b: Any = None,
    dim: int | tuple[int, ...] | None = None,
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
        None: the tensor flattened row-major is x. Otherwise every slice along this dimension is, or
        along these, flattened row-major in the order named: (2, 3) for each filter of a Conv2d.
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
    dims = None if dim is None else _checked(_dims(dim), weight, name)
    projector = Projector(A, b, **keywords)
    n = weight.numel() if dims is None else math.prod(weight.shape[d] for d in dims)
    if projector.constraint.batch is not None:
        raise InputError("A is batched; a parametrisation takes one system")
    if projector.constraint.n != n:
        where = "entries" if dim is None else f"entries along dimension {dim}"
        raise InputError(f"A has {projector.constraint.n} columns; {name} has {n} {where}")
    if projector.device != weight.device:
        raise InputError(f"A is on {projector.device}, {name} on {weight.device}; move one of them")
    parametrize.register_parametrization(module, name, _Affine(projector, dim))
    return module
