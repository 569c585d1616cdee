"""Gradients of parameters, as they are found and as they were projected last."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.system.inputs import overlaps_itself
from projlab.training.shards import here

_MARK = "_projlab_projected"
"""An attribute of gradients."""


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
    if g.is_inference():
        raise InputError(
            "a constrained parameter has a gradient that was made under torch.inference_mode(), "
            "which keeps no count of changes; take gradients outside of it, or under "
            "torch.no_grad(), in which steps can be taken"
        )
    if not g.is_contiguous() and overlaps_itself(g):  # expanded, which no projection can fill
        p.grad = g = g.detach().clone()
    return g.detach() if g.requires_grad else g


@contextmanager
def finite_as_before(gs: Sequence[Tensor]) -> Iterator[None]:
    """Inside, gradients are projected: those of float16 stay finite where they were.

    An entry of a projection may be up to twice the largest one before, and float16 ends at 65504.
    """
    own_entries = [here(g) for g in gs if g.dtype is torch.float16]
    narrow = [(own, torch.isfinite(own).all()) for own in own_entries]
    yield
    for own, finite in narrow:
        most = torch.finfo(own.dtype).max
        own.copy_(torch.where(finite, own.clamp(-most, most), own))


class ProjectedMark:
    """What tells gradients that a step projected, and nobody wrote to since.

    It is an attribute of the gradient, and goes with it: a reference would keep it alive, and
    `torch.utils.swap_tensors`, by which modules may be converted, refuses what a weak one is to.
    """

    _drawn = itertools.count()

    def __init__(self) -> None:
        self._own = next(self._drawn)

    def put(self, p: Tensor) -> None:
        """The gradient of a parameter, if it has one, is projected now."""
        if (g := p.grad) is not None:
            g.__dict__[_MARK] = self._own, g._version

    def on(self, p: Tensor) -> bool:
        """Whether the gradient of a parameter is as it was when it was projected."""
        g = p.grad
        return g is not None and g.__dict__.get(_MARK) == (self._own, g._version)

    def was_on(self, p: Tensor) -> bool:
        """Whether the gradient of a parameter was projected, whatever was done to it since."""
        g = p.grad
        return g is not None and g.__dict__.get(_MARK, (None,))[0] == self._own

    def on_all(self, parameters: Sequence[Tensor]) -> bool:
        """Whether this is so of all gradients: the optimizer may have written to its own since."""
        return all(p.grad is None or self.on(p) for p in parameters)
