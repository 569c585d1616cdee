"""Closed forms with their derivatives: the box, and rows that share no column.

The numbers come from `threshold`; what autograd sees is the projection on the face that they found,
written in torch's operators, so that derivatives of any order exist in everything, also under
`torch.func`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from projlab.engine.polyhedra.general import _flattened
from projlab.engine.polyhedra.threshold import DisjointRows, project


def box(x: Tensor, lb: Tensor, ub: Tensor) -> Tensor:
    """clamp; at a bound its derivative in x is one, and in the bound zero."""
    inside = (x >= lb) & (x <= ub)
    return torch.where(inside, x, torch.where(x < lb, lb, torch.where(x > ub, ub, x)))


def rows_with_bounds(
    rows: DisjointRows,
    x: Tensor,
    right: Tensor,
    lb: Tensor,
    ub: Tensor,
    a: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The projection of x (k, n) and its multipliers (k, m), as functions of everything.

    `a` (n,) are the rows' entries, watched by autograd.
    """
    if torch._C._are_functorch_transforms_active():  # every lane has bounds of its own
        lb, ub = lb.expand(x.shape), ub.expand(x.shape)
    found, multipliers = _Found.apply(x, right, lb, ub, rows)  # type: ignore[no-untyped-call]  # torch leaves it bare
    low, high = (found <= lb) & (lb < ub), (found >= ub) & (lb <= ub)
    free = ~(low | high)
    fixed = torch.where(low, lb, torch.where(high, ub, 0.0))
    held = ~rows.inequality | (multipliers > 0)
    entries = rows.a if a is None else a
    squares = entries.square()
    slope = rows.total(torch.where(free, squares, 0.0))
    moves = held & (slope > 0)
    safe = torch.where(moves, slope, 1.0)
    side = right - rows.total(entries * fixed)
    t = torch.where(moves, (rows.total(torch.where(free, entries * x, 0.0)) - side) / safe, 0.0)
    projected = torch.where(free, x - rows.spread(t).to(x.dtype) * entries, fixed)
    over = rows.total(entries * projected) - right
    further = torch.where(moves, over / safe, 0.0)
    projected = torch.where(free, projected - rows.spread(further).to(x.dtype) * entries, projected)
    # the search's own digits, which are the better ones
    projected = projected + (found - projected).detach()
    t = t + further
    return projected, (t + (multipliers - t).detach()).to(x.dtype)


class _Found(Function):
    """The search: constants, as far as autograd goes."""

    @staticmethod
    def forward(
        x: Tensor, right: Tensor, lb: Tensor, ub: Tensor, rows: DisjointRows
    ) -> tuple[Tensor, Tensor]:
        found = project(rows, x, right, lb, ub)
        return found.x, found.multipliers

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        return (None,) * 5

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        flat, restore = _flattened(info.batch_size, in_dims[:4], inputs[:4])
        x, t = _Found.apply(*flat, inputs[4])  # type: ignore[no-untyped-call]  # as above
        return (restore(x), restore(t)), (0, 0)
