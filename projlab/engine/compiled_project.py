"""`project` under `torch.compile` and `torch.export`: one operator, with the checks inside.

It decides by values, which no graph can hold. An exported program that calls it needs projlab
where it runs.
"""

from typing import Any

import torch
from torch import Tensor

from projlab.engine.autograd import in_rows, require_full_rank, sum_to
from projlab.engine.select import asked
from projlab.errors import InputError
from projlab.system.inputs import working_dtype
from projlab.system.options import DEFAULTS, ProjectorKeywords, check_b_error


def as_operator(x: Tensor, A: Tensor, b: Any, variant: str, keywords: ProjectorKeywords) -> Tensor:
    """The projection as a call of the operator; traced."""
    for name in keywords:
        if name not in DEFAULTS:
            raise TypeError(
                f"unexpected keyword argument {name!r}; there are {', '.join(DEFAULTS)}"
            )
    given = dict(DEFAULTS) | dict(keywords)
    rank, metric = given["rank"], given["metric"]
    by_name = isinstance(rank, str)
    found: Tensor = project(
        x,
        A,
        _tensor(b, A),
        variant,
        None if metric is None else _tensor(metric, A),
        given["accuracy"],
        rank if by_name else None,
        None if by_name else rank,
        given["on_redundant"],
        given["on_inconsistent"],
        _tensor(given["b_error"], A),
    )
    return found


def _tensor(value: Any, A: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.as_tensor(value, dtype=torch.float64, device=A.device)


def _apart(t: Tensor) -> Tensor:
    """An operator's result: a new tensor, with the strides that the compiler counts on."""
    return t.clone(memory_format=torch.contiguous_format)


def _keywords(
    metric: Tensor | None,
    accuracy: float | None,
    rule: str | None,
    cutoff: float | None,
    on_redundant: str,
    on_inconsistent: str,
    b_error: Tensor,
) -> ProjectorKeywords:
    keywords: Any = {
        "metric": metric,
        "accuracy": accuracy,
        "rank": cutoff if rule is None else rule,
        "on_redundant": on_redundant,
        "on_inconsistent": on_inconsistent,
        "b_error": check_b_error(b_error),  # a number where it is zero
    }
    return keywords  # type: ignore[no-any-return]  # checked where they are read


@torch.library.custom_op("projlab::project", mutates_args=())
def project(
    x: Tensor,
    A: Tensor,
    b: Tensor,
    variant: str,
    metric: Tensor | None,
    accuracy: float | None,
    rule: str | None,
    cutoff: float | None,
    on_redundant: str,
    on_inconsistent: str,
    b_error: Tensor,
) -> Tensor:
    """`projlab.project`; `rule` or `cutoff` is its `rank`."""
    from projlab.engine.project import projected

    keywords = _keywords(metric, accuracy, rule, cutoff, on_redundant, on_inconsistent, b_error)
    return _apart(projected(x, A, b, variant, keywords))


@project.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("projlab::project_backward", mutates_args=())
def project_backward(
    g: Tensor,
    x: Tensor,
    A: Tensor,
    b: Tensor,
    wanted: bool,
    variant: str,
    metric: Tensor | None,
    accuracy: float | None,
    rule: str | None,
    cutoff: float | None,
    on_redundant: str,
    on_inconsistent: str,
    b_error: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in x, and where `wanted` in A and b as well; A is factored again.

    The derivatives are those of `projlab.engine.autograd`.
    """
    from projlab.engine.project import OneOff

    keywords = _keywords(metric, accuracy, rule, cutoff, on_redundant, on_inconsistent, b_error)
    options = asked(A.shape[-1], variant, keywords, applications=1)
    dtype = working_dtype(torch.promote_types(x.dtype, A.dtype))
    source = OneOff(options, dtype, working_dtype(A.dtype))
    rows = (A.unsqueeze(0) if A.dim() == 1 else A).to(dtype)
    right = b.to(dtype).expand(rows.shape[:-1])
    solver = source.bind(x.to(dtype), rows, right)
    length, k = solver.solve(
        g.to(dtype), None, homogeneous=True, dual=True, want_multipliers=wanted
    )
    in_x = _apart(length.to(x.dtype))
    if not wanted:
        return in_x, A.new_empty(0), b.new_empty(0)
    require_full_rank(source)
    point, y = solver.solve(x.to(dtype), None, homogeneous=False, dual=False, want_multipliers=True)
    assert y is not None
    assert k is not None
    in_A = in_rows(length, k, point, y, rows, source, dual=False)
    in_b = sum_to(k, b.shape) if b.dim() else k.sum()
    return in_x, _apart(in_A.reshape(A.shape).to(A.dtype)), _apart(in_b.to(b.dtype))


@project_backward.register_fake
def _(
    g: Tensor,  # noqa: ARG001  # the signature is the operator's
    x: Tensor,
    A: Tensor,
    b: Tensor,
    wanted: bool,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    if not wanted:
        return x.new_empty(x.shape), A.new_empty(0), b.new_empty(0)
    return x.new_empty(x.shape), A.new_empty(A.shape), b.new_empty(b.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    x, A, b, ctx.variant, metric, *ctx.rest, b_error = inputs
    ctx.save_for_backward(x, A, b, b_error, *(() if metric is None else (metric,)))


def _backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, A, b, b_error, *metric = ctx.saved_tensors
    _, needs_A, needs_b, *_ = ctx.needs_input_grad
    wanted = needs_A or needs_b
    in_x, in_A, in_b = project_backward(
        g, x, A, b, wanted, ctx.variant, metric[0] if metric else None, *ctx.rest, b_error
    )
    return in_x, in_A if needs_A else None, in_b if needs_b else None, *[None] * 8


def _vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    A: Tensor,
    b: Tensor,
    variant: str,
    metric: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, int]:
    x_dim, A_dim, b_dim, _, metric_dim, *_ = in_dims
    if metric_dim is not None:
        raise InputError("metric is a constant; vmap maps over x, A and b")
    if A_dim is None and b_dim is None:
        place = 1 if A.dim() == 3 else 0
        assert x_dim is not None
        return project(x.movedim(x_dim, place), A, b, variant, metric, *rest), place
    # a system a lane, and for batched A as many as there are, in a row
    lanes = info.batch_size
    x, A, b = (
        t.expand(lanes, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in ((x, x_dim), (A, A_dim), (b, b_dim))
    )
    A = A.unsqueeze(1) if A.dim() == 2 else A
    batch = A.shape[1:-2]
    b = b.reshape(lanes, *[1] * (A.dim() - 1 - b.dim()), *b.shape[1:]).expand(A.shape[:-1])
    x, A, b = (t.reshape(lanes * batch.numel(), *t.shape[1 + len(batch) :]) for t in (x, A, b))
    found = project(x, A, b, variant, metric, *rest)
    return found.reshape(lanes, *batch, *found.shape[1:]), 0


project.register_vmap(_vmap)
project.register_autograd(_backward, setup_context=_setup_context)
