"""The projection as one opaque operator for `torch.compile`.

A compiler would fuse, contract and lower the products inside; as an operator they run as they do
eagerly, to the same bits and in the stated precision. Eager code does not pass through here.
"""

import functools
import itertools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from projlab.engine.autograd import spread
from projlab.engine.blocks import AnySolver

F = TypeVar("F", bound=Callable[..., Any])

_numbers = itertools.count()
_solvers: "weakref.WeakValueDictionary[int, AnySolver]" = weakref.WeakValueDictionary()


def register(solver: AnySolver) -> int:
    """A number by which the operator finds the solver for as long as somebody holds it."""
    number = next(_numbers)
    _solvers[number] = solver
    return number


def eager(function: F) -> F:
    """Decorator: the compiler leaves the function alone (it decides by values, or factors).

    `torch.compiler.disable` when the compiler is there, and not before: it imports the compiler,
    which takes longer than the rest of torch.
    """

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **keywords)
        return function(*args, **keywords)

    return cast("F", call)


@torch.library.custom_op("projlab::solve", mutates_args=())
def solve(
    x: Tensor, b: Tensor | None, number: int, homogeneous: bool, dual: bool, want_multipliers: bool
) -> tuple[Tensor, Tensor]:
    """Projection (..., n) and multipliers (..., m), or (0,) where they are not wanted."""
    projected, y = _solvers[number].solve(
        x, b, homogeneous=homogeneous, dual=dual, want_multipliers=want_multipliers
    )
    return projected, x.new_empty(0) if y is None else y


@solve.register_fake
def _(
    x: Tensor,
    b: Tensor | None,  # noqa: ARG001  # the signature is the operator's
    number: int,
    homogeneous: bool,  # noqa: ARG001
    dual: bool,  # noqa: ARG001
    want_multipliers: bool,
) -> tuple[Tensor, Tensor]:
    m = _solvers[number].shape[0]
    y = x.new_empty(*x.shape[:-1], m) if want_multipliers else x.new_empty(0)
    return x.new_empty(x.shape), y


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    _, b, ctx.number, _, ctx.dual, ctx.want_multipliers = inputs
    ctx.has_b = b is not None


def _backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Any, ...]:
    # the same self-adjoint solve as in projlab.autograd
    right = h if ctx.want_multipliers else None
    grad_x, k = solve(g, right, ctx.number, right is None, not ctx.dual, ctx.has_b)
    return grad_x, k if ctx.has_b else None, None, None, None, None


def _vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    b: Tensor | None,
    number: int,
    homogeneous: bool,
    dual: bool,
    want_multipliers: bool,
) -> tuple[tuple[Tensor, Tensor], tuple[int | None, int | None]]:
    batched = _solvers[number].batched
    x, b, place = spread(x, in_dims[0], b, in_dims[1], info.batch_size, batched)
    found = solve(x, b, number, homogeneous, dual, want_multipliers)
    return found, (place, place if want_multipliers else None)


solve.register_vmap(_vmap)
solve.register_autograd(_backward, setup_context=_setup_context)
