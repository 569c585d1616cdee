"""The projection for plain reverse mode: what a layer's training step goes through.

The same derivatives as `projlab.engine.autograd`, for constant A and b and without transforms:
torch binds the arguments of a function that serves those by its signature, which takes longer than
a small projection.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from projlab.engine.autograd import solve
from projlab.engine.blocks import AnySolver


def reverse_mode(
    x: Tensor, project: Callable[[Tensor], Tensor], solver: AnySolver
) -> Tensor | None:
    """project(x), a new tensor, differentiable in x; None where a transform wants to see it."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return None
    function: Any = _Reverse
    projected: Tensor = function.apply(x, project, solver, False)
    return projected


class _Reverse(torch.autograd.Function):
    """x to its projection; backward is the tangent projection of the gradient, transposed."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, project: Callable[[Tensor], Tensor], solver: AnySolver, dual: bool
    ) -> Tensor:
        ctx.solver, ctx.dual = solver, dual
        return project(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (g,) = grads
        solver, dual = ctx.solver, not ctx.dual
        watched = torch._C._are_functorch_transforms_active()
        if not torch.is_grad_enabled() and not (watched and solver.opaque):
            return solver.tangent(g, dual=dual), None, None, None
        if watched:
            found, _ = solve(
                g, None, None, solver, homogeneous=True, dual=dual, want_multipliers=False
            )
            return found, None, None, None
        function: Any = _Reverse
        again = function.apply(g, lambda v: solver.tangent(v, dual=dual), solver, dual)
        return again, None, None, None
