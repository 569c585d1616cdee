"""Maps of a parameter in the order of its memory: channels_last and transposed parameters as views.

Expressions number the entries of a parameter row-major, whatever its strides. Where the entries lie
densely in memory, in whatever order of the dimensions, blocks number them as they lie there.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from projlab.training.expressions.maps import Axes, DenseMap, LinearMap, SparseMap, Sums, stored
from projlab.training.grids import coarsest, refined


def is_dense(t: Tensor) -> bool:
    """Whether the entries of t fill one piece of memory, each once."""
    reach = 1
    for stride, size in sorted(zip(t.stride(), t.shape, strict=True)):
        if size > 1:
            if stride != reach:
                return False
            reach *= size
    return True


def flat(t: Tensor) -> Tensor:
    """The entries of a dense tensor in the order of memory, a view."""
    return t.as_strided((t.numel(),), (1,))


def laid_out(t: Tensor, like: Tensor) -> Tensor:
    """t itself where it lies in memory as `like` does, else a copy that does.

    Where `like` has gaps, t is itself: its entries are indexed, not viewed.
    """
    if t.stride() == like.stride():
        return t
    strides = zip(t.stride(), like.stride(), t.shape, strict=True)
    if all(one == two or size == 1 for one, two, size in strides) or not is_dense(like):
        return t
    return torch.empty_like(like, dtype=t.dtype).copy_(t)


def in_memory_order(term: LinearMap, parameter: Tensor) -> LinearMap:
    """The map with columns numbered as the entries of a dense parameter lie in memory.

    Of any other parameter, and where that is row-major, the map itself.
    """
    if parameter.is_contiguous() or not is_dense(parameter):
        return term
    places = _Places(parameter)
    if isinstance(term, Sums):
        view = places.of_view(term)
        return places.of_entries(stored(term)) if view is None else view
    if isinstance(term, SparseMap):
        return places.of_entries(term)
    source = places.of_view(term.source)
    if source is not None:
        return replace(term, source=source)
    columns = places.of_columns(term.source.columns().flatten())
    columns, order = torch.sort(columns)
    first, step = int(columns[0]), int(columns[1] - columns[0])
    if not torch.equal(columns, first + step * torch.arange(len(columns), device="cpu")):
        return places.of_entries(stored(term))
    source = replace(term.source, out=((len(columns), step),), offset=first)
    entries = term.entries[:, order.to(term.entries.device)]
    return DenseMap(source, term.shape, entries)


class _Places:
    """Where the entries of a parameter lie in memory, by their row-major numbers."""

    def __init__(self, parameter: Tensor) -> None:
        shape = parameter.shape
        dims = [d for d, size in enumerate(shape) if size > 1]
        self.sizes = [shape[d] for d in dims]
        self.numbers = [math.prod(shape[d + 1 :]) for d in dims]
        """By how much the row-major number grows along each dimension."""
        self.strides = [parameter.stride(d) for d in dims]

    def of_columns(self, columns: Tensor) -> Tensor:
        """Places of some entries."""
        places = torch.zeros_like(columns)
        for size, number, stride in zip(self.sizes, self.numbers, self.strides, strict=True):
            places += columns // number % size * stride
        return places

    def of_entries(self, term: SparseMap) -> SparseMap:
        """A map of stored entries."""
        return replace(term, cols=self.of_columns(term.cols))

    def of_view(self, term: Sums) -> Sums | None:
        """Sums over a view; None where what is a view row-major is none in memory."""
        out: list[Axes] = []
        for axis in term.out:
            split = refined((axis,), self.numbers) if axis[0] > 1 and axis[1] > 0 else (axis,)
            if split is None or len(split) > 1:
                return None
            out.append(split)
        inner = refined(term.inner, self.numbers)
        if inner is None:
            return None
        offset = self._digits(term.offset)
        last = list(offset)
        for size, stride in [axis for axes in out for axis in axes] + [*inner]:
            last = [a + (size - 1) * b for a, b in zip(last, self._digits(stride), strict=True)]
        if any(a >= size for a, size in zip(last, self.sizes, strict=True)):
            return None
        return replace(
            term,
            out=tuple((size, self._place(stride)) for ((size, stride),) in out),
            inner=coarsest(tuple((size, self._place(stride)) for size, stride in inner)),
            offset=self._place(term.offset),
        )

    def _digits(self, number: int) -> list[int]:
        """The index of an entry, or how an index grows by a stride."""
        digits = []
        for each in self.numbers:
            digits.append(number // each)
            number %= each
        return digits

    def _place(self, number: int) -> int:
        return sum(q * s for q, s in zip(self._digits(number), self.strides, strict=True))
