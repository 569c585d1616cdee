"""Gradients of parameters, as they are found and as they were projected last."""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from projlab.errors import InputError


def gradient_of(p: Tensor) -> Tensor:
    """Without a graph; where there is none, something of its shape, which no block reads."""
    g = p.grad
    if g is None:
        return p.detach()
    if g.layout is not torch.strided:
        raise InputError(
            "a constrained parameter has a sparse gradient, which a projection onto "
            "the null space fills; use sparse=False in its embedding"
        )
    return g.detach() if g.requires_grad else g


class ProjectedGradients:
    """Gradients of several optimizers as they were projected last, and their versions."""

    def __init__(self) -> None:
        self._projected: list[tuple[weakref.ref[Tensor], int]] = []

    def note(self, parameters: Sequence[Tensor]) -> None:
        """These parameters' gradients are projected now."""
        own = [p.grad for p in parameters if p.grad is not None]
        self._projected = [(weakref.ref(g), g._version) for g in own]

    def hold(self, parameters: Sequence[Tensor]) -> bool:
        """Whether the gradients of one optimizer's are as another one's step left them, projected.

        That one may have written to its own since: they are no gradients any more.
        """
        known = {id(g): version for ref, version in self._projected if (g := ref()) is not None}
        return all(p.grad is None or known.get(id(p.grad)) == p.grad._version for p in parameters)
