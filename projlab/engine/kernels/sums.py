"""The numba kernel for rows that are sums of dense pieces of tensors, where numba is there."""

from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C import _is_tracing, _len_torch_dispatch_stack
from torch.autograd.graph import increment_version

from projlab.engine.kernels import native
from projlab.numerics import tuning

Kernel = Callable[[int, int, float, int], float]
"""`sum_kernels.float64` or `float32`."""

HEAD = 5
"""Numbers of a plan before its pieces."""


class Piece(NamedTuple):
    """Entries of a tensor that one term of a block adds up, which lie side by side."""

    tensor: int
    """Its number."""
    offset: int
    """The first entry, from where the tensor begins in memory."""
    height: int
    """How many entries a row adds up."""


class Blocks(NamedTuple):
    """Blocks of as many rows, each a sum of one piece a term."""

    rows: int
    columns: bool
    """Whether row k adds up entries k, k + rows, ...; else entries k height to (k + 1) height."""
    pieces: Sequence[Sequence[Piece]]
    """Of each block, the piece of each term."""
    scales: Sequence[float]
    """Of each term, by what its sums count."""
    steps: Sequence[float]
    """By how much of a row's residual its entries are moved."""


@cache
def kernel(dtype: torch.dtype) -> Kernel | None:
    """The kernel, compiled or loaded at the first call; None where numba is not there or fails."""
    nothing = array("q", [0] * HEAD)
    found: Kernel | None = native.loaded(
        "sum_kernels", dtype, lambda function: function(nothing.buffer_info()[0], 0, 0.0, 0)
    )
    return found


def wanted(entries: int, device: torch.device) -> bool:
    """Whether the kernel is worth its import for so many entries of all blocks together.

    As the environment has it now.
    """
    return device.type == "cpu" and entries >= tuning.SUMS and native.wanted()


def pay(entries: int) -> bool:
    """Whether it is the faster for a block: it works in one thread, where torch may have more."""
    return entries <= tuning.MANY_SUMS or torch.get_num_threads() <= 2


def of(blocks: Blocks, dtype: torch.dtype) -> "NativeSums | None":
    """The kernel for these blocks, or None where it cannot be had."""
    compiled = kernel(dtype) if dtype in (torch.float64, torch.float32) else None
    return None if compiled is None else NativeSums(blocks, dtype, compiled)


class NativeSums:
    """Meets the rows, or takes off gradients what would move them, in place."""

    def __init__(self, blocks: Blocks, dtype: torch.dtype, compiled: Kernel) -> None:
        self._kernel, self._dtype = compiled, dtype
        self._itemsize = dtype.itemsize
        pieces = [piece for block in blocks.pieces for piece in block]
        head = [len(blocks.pieces), len(blocks.scales), blocks.rows, blocks.columns, 0]
        self._plan = array("q", [*head, *(n for p in pieces for n in (0, p.height))])
        self._factors = array("d", [*blocks.scales, *blocks.steps])
        places = range(HEAD, len(self._plan), 2)
        self._where = [(i, p.tensor, p.offset) for i, p in zip(places, pieces, strict=True)]
        self._touched = sorted({p.tensor for p in pieces})

    def meet(
        self, tensors: Sequence[Tensor], b: Tensor | None, needed: float, corrections: int
    ) -> float | None:
        """Correct once, or where `needed` |residual| is more than the terms and b come to again.

        At most `corrections` times; for zero, once, without a look at what is left. b holds the
        right sides of all blocks, one after the other; None is zero. The largest residual that is
        left; None where torch is to do it: nothing has changed then.
        """
        # no compiler sees a step's hooks: modes and traces might
        if _len_torch_dispatch_stack() or _is_tracing():
            return None
        plan, itemsize, starts = self._plan, self._itemsize, {}
        touched = [tensors[i] for i in self._touched]
        for i, t in zip(self._touched, touched, strict=True):
            if type(t) not in native.PLAIN or t.dtype is not self._dtype or t.is_neg():
                return None
            starts[i], odd = divmod(t.data_ptr(), itemsize)
            if odd or not starts[i]:
                return None
        plan[4] = 0
        if b is not None:
            plan[4], odd = divmod(b.data_ptr(), itemsize)
            if odd or b.dtype is not self._dtype or not b.is_contiguous():
                return None
        for place, i, offset in self._where:
            plan[place] = starts[i] + offset
        try:
            increment_version(touched)  # autograd's saved tensors see it, as after an operator
        except RuntimeError:
            return None
        factors = self._factors.buffer_info()[0]
        return self._kernel(plan.buffer_info()[0], factors, needed, corrections)
