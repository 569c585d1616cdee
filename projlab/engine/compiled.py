"""The projection under `torch.compile`: one opaque operator of x, b and the factors' tensors.

A compiler would fuse, contract and lower the products inside; as an operator they run as they do
eagerly, to the same bits and in the stated precision. Eager code does not pass through here, and
neither does `torch.export`: an exported program holds torch's own operators alone.
"""

import functools
import importlib
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch.utils._python_dispatch import _disable_current_modes

from projlab.engine.autograd import spread, sum_to
from projlab.engine.blocks import AnySolver
from projlab.engine.kernels import native
from projlab.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

LEFT_OUT = frozenset({"facts", "variant", "reason", "dtype", "device"})
"""Fields of solvers that the operator does not need, or has from x."""


def eager(function: F) -> F:
    """Decorator: the compiler leaves the function alone (it decides by values, or factors).

    `torch.compiler.disable` when the compiler is there, and not before: it imports the compiler,
    which takes longer than the rest of torch.
    """

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or get_eval_frame_callback() is not None:
            return torch.compiler.disable(function)(*args, **keywords)
        if torch.compiler.is_compiling():  # torch.export, which runs this code on fake tensors
            with _disable_current_modes():
                return function(*args, **keywords)
        return function(*args, **keywords)

    return cast("F", call)


def taken_apart(solver: AnySolver) -> tuple[str, list[Tensor]]:
    """The tensors of a solver, and the form (JSON) in which `put_together` finds them.

    The compiler traces this: plain reading of fields, no more.
    """
    tensors: list[Tensor] = []
    return _form(solver, tensors), tensors


def _form(value: Any, tensors: list[Tensor]) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Tensor):
        tensors.append(value)
        return '"tensor"'
    if isinstance(value, tuple):
        return "[" + ", ".join([_form(item, tensors) for item in value]) + "]"
    if isinstance(value, native.NativeRows):
        return '"native"'
    kind = type(value)
    names = [field.name for field in fields(value) if field.name not in LEFT_OUT]
    parts = [f'"{name}": {_form(getattr(value, name), tensors)}' for name in names]
    parts.append(f'"class": "{kind.__module__}:{kind.__qualname__}"')
    return "{" + ", ".join(parts) + "}"


_read = functools.lru_cache(maxsize=256)(json.loads)


def put_together(form: str, tensors: list[Tensor], x: Tensor) -> AnySolver:
    """What `taken_apart` took apart, for solving in the precision of x."""
    solver: AnySolver = _value(_read(form), iter(tensors), x)
    return solver


def _value(form: Any, source: Iterator[Tensor], x: Tensor) -> Any:
    if form == "tensor":
        return next(source)
    if isinstance(form, list):
        return tuple([_value(item, source, x) for item in form])
    if not isinstance(form, dict):
        return form
    module, _, name = form["class"].partition(":")
    kind = getattr(importlib.import_module(module), name)
    values = {k: _value(part, source, x) for k, part in form.items() if k != "class"}
    for key, value in values.items():
        if value == "native":
            values[key] = native.rows(values["W"])
    own = {field.name for field in fields(kind)} & {"dtype", "device"}
    return _filled(kind, values | {key: getattr(x, key) for key in own})


def _filled(kind: type[T], values: dict[str, Any]) -> T:
    """An instance of a frozen dataclass with derived fields given, not derived again."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def marked(watched: list[Tensor]) -> Tensor | None:
    """Where buffers lie and how often they were changed, on the host: what `solve` compares."""
    marks = array("q")
    for t in watched:
        if t.is_meta:
            return None
        marks.extend((t.data_ptr(), t._version))
    return torch.frombuffer(marks, dtype=torch.long)


def require_unchanged(watched: list[Tensor], mark: Tensor | None) -> None:
    """Raise `InputError` where buffers were changed in place since they were `marked`."""
    if mark is None:
        return
    numbers = mark.tolist()
    for t, address, version in zip(watched, numbers[::2], numbers[1::2], strict=True):
        if not t.is_inference() and t.data_ptr() == address and t._version != version:
            raise InputError(
                "A was changed in place since it was factored, and a compiled program does not "
                "factor again: call the projector once outside of it"
            )


@torch.library.custom_op("projlab::solve", mutates_args=())
def solve(
    x: Tensor,
    b: Tensor | None,
    tensors: list[Tensor],
    form: str,
    watched: list[Tensor],
    mark: Tensor | None,
    homogeneous: bool,
    dual: bool,
    want_multipliers: bool,
) -> tuple[Tensor, Tensor]:
    """Projection (..., n) and multipliers (..., m), or (0,) where they are not wanted.

    `tensors` and `form` are a solver, `taken_apart`; `mark` is what `marked` said then of
    `watched`, the buffers that hold A.
    """
    require_unchanged(watched, mark)
    projected, y = put_together(form, tensors, x).solve(
        x, b, homogeneous=homogeneous, dual=dual, want_multipliers=want_multipliers
    )
    # the compiler counts on the strides that the fake below has, whatever those of x are
    return projected.contiguous(), x.new_empty(0) if y is None else y.contiguous()


@solve.register_fake
def _(
    x: Tensor,
    b: Tensor | None,  # noqa: ARG001  # the signature is the operator's
    tensors: list[Tensor],  # noqa: ARG001
    form: str,
    watched: list[Tensor],  # noqa: ARG001
    mark: Tensor | None,  # noqa: ARG001
    homogeneous: bool,  # noqa: ARG001
    dual: bool,  # noqa: ARG001
    want_multipliers: bool,
) -> tuple[Tensor, Tensor]:
    m = _read(form)["shape"][0]
    y = x.new_empty(*x.shape[:-1], m) if want_multipliers else x.new_empty(0)
    return x.new_empty(x.shape), y


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    _, b, tensors, ctx.form, watched, _, _, ctx.dual, ctx.want_multipliers = inputs
    ctx.b_shape = None if b is None else b.shape
    ctx.watched = len(watched)
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Any, ...]:
    # the same self-adjoint solve as in projlab.autograd, with the factors that forward had
    right = h if ctx.want_multipliers else None
    in_b = ctx.b_shape is not None and ctx.needs_input_grad[1]
    tensors = list(ctx.saved_tensors)
    grad_x, k = solve(g, right, tensors, ctx.form, [], None, right is None, not ctx.dual, in_b)
    grad_b = sum_to(k, ctx.b_shape) if in_b else None
    buffers = [None] * ctx.watched
    return grad_x, grad_b, [None] * len(tensors), None, buffers, None, None, None, None


def _vmap(
    info: Any,
    in_dims: tuple[Any, ...],
    x: Tensor,
    b: Tensor | None,
    tensors: list[Tensor],
    form: str,
    *rest: Any,
) -> tuple[tuple[Tensor, Tensor], tuple[int | None, int | None]]:
    batched = _read(form).get("batch") is not None
    x, b, place = spread(x, in_dims[0], b, in_dims[1], info.batch_size, batched)
    found = solve(x, b, tensors, form, *rest)
    want_multipliers = rest[-1]
    return found, (place, place if want_multipliers else None)


solve.register_vmap(_vmap)
solve.register_autograd(_backward, setup_context=_setup_context)
