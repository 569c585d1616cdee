"""Linear maps from one parameter to the entries of an expression: sums of views, sparse, dense.

Each is kept in the smallest form that holds it. The rows of a map are the entries of the
expression, its columns those of the parameter, both numbered row-major, whatever the strides.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from projlab.numerics.scaling import power_of_two
from projlab.numerics.transfer import sent

Axes = tuple[tuple[int, int], ...]
"""(size, stride) of each dimension of a view."""


@dataclass(frozen=True)
class Sums:
    """scale * (sums over the `inner` axes of a strided view): O(1) memory whatever the sizes.

    The view has the axes `out`, one for each dimension of the result, and `inner` behind them.
    """

    parameter: Tensor
    scale: float
    out: Axes
    inner: Axes
    offset: int

    @property
    def shape(self) -> torch.Size:
        """Shape of the result."""
        return torch.Size(size for size, _ in self.out)

    @property
    def count(self) -> int:
        """Entries of the parameter in one row."""
        return math.prod(size for size, _ in self.inner)

    @property
    def last(self) -> int:
        """The largest column of any row."""
        return self.offset + sum((size - 1) * stride for size, stride in self.out + self.inner)

    @property
    def injective(self) -> bool:
        """Whether no entry of the parameter is read twice.

        True of any view of a view of the parameter; False where an axis is a broadcast.
        """
        reach = 0
        for size, stride in sorted(self.out + self.inner, key=lambda axis: axis[1]):
            if size > 1 and stride <= reach:
                return False
            reach += (size - 1) * stride
        return True

    def reshaped(self, change: Callable[[Tensor], Tensor]) -> "Sums | None":
        """The map after a change of its result; None where that is no view, or needs values."""
        sizes = [size for size, _ in self.out]
        meta = torch.empty_strided(sizes, [stride for _, stride in self.out], device="meta")
        try:
            view = change(meta)
        except (RuntimeError, NotImplementedError):  # a mask
            return None
        if view is meta:  # what flattens nothing returns what it was given
            return self
        if not view._is_view():
            return None
        out = tuple(zip(view.shape, view.stride(), strict=True))
        return replace(self, out=out, offset=self.offset + int(view.storage_offset()))

    def summed(self, dims: tuple[int, ...]) -> "Sums":
        """The map after a sum of its result over some dimensions."""
        summed = [self.out[d] for d in dims]
        repeats = math.prod(size for size, stride in summed if stride == 0)
        return replace(
            self,
            scale=self.scale * repeats,
            out=tuple(axis for d, axis in enumerate(self.out) if d not in dims),
            inner=self.inner + tuple(axis for axis in summed if axis[1] != 0),
        )

    def partial(self, groups: int, share: int) -> "Sums":
        """Sums over `groups` parts of one in `share` entries, along a first axis of the result.

        Their absolute values add up to no more than those of all entries.
        """
        if not self.inner:
            return replace(self, out=((1, 1), *self.out))
        longest = max(range(len(self.inner)), key=lambda d: self.inner[d][0])
        size, stride = self.inner[longest]
        each = max(size // (share * groups), 1)
        inner = [*self.inner]
        inner[longest] = (each, stride)
        return replace(
            self, out=((min(groups, size), each * stride), *self.out), inner=tuple(inner)
        )

    def columns(self) -> Tensor:
        """(rows, count) columns of each row."""
        index = torch.tensor(self.offset, dtype=torch.long, device="cpu")
        for size, stride in self.out + self.inner:
            index = index.unsqueeze(-1) + torch.arange(size, device="cpu") * stride
        return index.reshape(math.prod(self.shape), self.count)

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and values; O(entries) memory."""
        columns = self.columns()
        rows = torch.arange(len(columns), device="cpu").unsqueeze(-1).expand(columns.shape)
        values = torch.full((columns.numel(),), self.scale, dtype=torch.float64, device="cpu")
        return rows.flatten(), columns.flatten(), values

    def view(self, t: Tensor) -> Tensor:
        """The view, out axes first, of a tensor that lies in memory as columns are numbered."""
        sizes, strides = self._axes
        return t.as_strided(sizes, strides, t.storage_offset() + self.offset)

    @cached_property
    def _axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        axes = self.out + self.inner
        return tuple(size for size, _ in axes), tuple(stride for _, stride in axes)

    def evaluate(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """The map applied to t, (rows,), summed in `dtype`."""
        view = self.view(t.contiguous())
        if self.inner:
            dims = tuple(range(len(self.out), view.dim()))
            return view.sum(dims, dtype=dtype).reshape(-1) * self.scale
        return view.to(dtype, copy=True).reshape(-1) * self.scale


@dataclass(frozen=True)
class SparseMap:
    """Stored entries (row, column, value): what indexing and sparse matrices come to.

    In any order; entries of one row and column add up.
    """

    parameter: Tensor
    shape: torch.Size
    """Shape of the result."""
    rows: Tensor
    cols: Tensor
    values: Tensor

    def selected(self, source: Tensor) -> "SparseMap":
        """Row i of the result is row source[i]; source has the result's shape."""
        row, position = _matches(source.flatten(), self.rows)
        return replace(
            self,
            shape=source.shape,
            rows=row,
            cols=self.cols[position],
            values=self.values[position],
        )

    def summed(self, dims: tuple[int, ...]) -> "SparseMap":
        """The map after a sum of its result over some dimensions."""
        shape = torch.Size(size for d, size in enumerate(self.shape) if d not in dims)
        target = torch.arange(math.prod(shape), device="cpu").reshape(
            [1 if d in dims else size for d, size in enumerate(self.shape)]
        )
        return replace(self, shape=shape, rows=target.expand(self.shape).flatten()[self.rows])

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and values."""
        return self.rows, self.cols, self.values

    def evaluate(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """The map applied to t, (rows,)."""
        cols, rows = self.cols.to(t.device), self.rows.to(t.device)
        products = t.reshape(-1)[cols].to(dtype) * self.values.to(t.device, dtype)
        zeros = torch.zeros(math.prod(self.shape), dtype=dtype, device=t.device)
        return zeros.index_add(0, rows, products)


@dataclass(frozen=True)
class DenseMap:
    """scale * a dense matrix times the flattened view of a parameter; the matrix is kept as given.

    The scale is the view's.
    """

    source: Sums
    """The view: sums without inner axes."""
    shape: torch.Size
    """Shape of the result."""
    entries: Tensor
    """The matrix, (rows, entries of the view)."""

    @property
    def parameter(self) -> Tensor:
        """The parameter it is applied to."""
        return self.source.parameter

    def selected(self, source: Tensor) -> "DenseMap":
        """Row i of the result is row source[i]; source has the result's shape."""
        return replace(
            self,
            shape=source.shape,
            entries=self.entries[source.flatten().to(self.entries.device)],
        )

    def summed(self, dims: tuple[int, ...]) -> "DenseMap":
        """The map after a sum of its result over some dimensions."""
        shape = torch.Size(size for d, size in enumerate(self.shape) if d not in dims)
        entries = self.entries.reshape(*self.shape, -1).sum(dims) if dims else self.entries
        return replace(self, shape=shape, entries=entries.reshape(math.prod(shape), -1))

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and values of the nonzero entries."""
        columns = self.source.columns().flatten()
        entries = self.entries.cpu()
        i, j = entries.nonzero(as_tuple=True)
        return i, columns[j], entries[i, j].double() * self.source.scale

    def evaluate(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """The map applied to t, (rows,)."""
        return self.entries.to(t.device, dtype) @ self.source.evaluate(t, dtype)


LinearMap = Sums | SparseMap | DenseMap
"""What an expression applies to one of its parameters."""


def leaf(parameter: Tensor) -> Sums:
    """The identity map of a parameter."""
    sizes = list(parameter.shape)
    strides = [math.prod(sizes[d + 1 :]) for d in range(len(sizes))]
    return Sums(parameter, 1.0, tuple(zip(sizes, strides, strict=True)), (), 0)


def stored(term: LinearMap) -> SparseMap:
    """The same map as stored entries."""
    if isinstance(term, SparseMap):
        return term
    return SparseMap(term.parameter, term.shape, *term.triplets())


def placed(term: LinearMap, device: torch.device) -> LinearMap:
    """The same map with its coefficients on a device, so that applying it there copies none."""
    if isinstance(term, SparseMap):
        rows, cols, values = (sent(t, device) for t in (term.rows, term.cols, term.values))
        return replace(term, rows=rows, cols=cols, values=values)
    return replace(term, entries=sent(term.entries, device)) if isinstance(term, DenseMap) else term


def scaled(term: LinearMap, factor: float) -> LinearMap:
    """factor * term."""
    if isinstance(term, Sums):
        return replace(term, scale=term.scale * factor)
    if isinstance(term, SparseMap):
        return replace(term, values=term.values * factor)
    return replace(term, source=replace(term.source, scale=term.source.scale * factor))


def weighted(term: LinearMap, weights: Tensor) -> LinearMap:
    """weights * term, entry by entry; weights have the term's shape."""
    if isinstance(term, DenseMap):
        w = weights.reshape(-1, 1).to(term.entries.device)
        wide = torch.promote_types(w.dtype, term.entries.dtype)
        return replace(term, entries=term.entries.to(wide) * w)
    entries = stored(term)
    return replace(entries, values=entries.values * weights.flatten()[entries.rows])


def largest_entries(term: LinearMap) -> Tensor:
    """Of each row the largest magnitude of a coefficient, (rows,), float64 on the CPU."""
    rows = math.prod(term.shape)
    if isinstance(term, SparseMap):
        largest = torch.zeros(rows, dtype=torch.float64, device="cpu")
        return largest.scatter_reduce(0, term.rows.cpu(), term.values.cpu().double().abs(), "amax")
    if isinstance(term, DenseMap):
        if term.entries.shape[-1] == 0:
            return torch.zeros(rows, dtype=torch.float64, device="cpu")
        low, high = (t.double() for t in torch.aminmax(term.entries, dim=-1))
        return torch.maximum(-low, high).cpu() * abs(term.source.scale)
    return torch.full((rows,), abs(term.scale), dtype=torch.float64, device="cpu")


def in_units(term: LinearMap, exponents: Tensor) -> LinearMap:
    """The map with each row divided by two to its exponent, (rows,), exactly."""
    factors = power_of_two(-exponents, torch.float64)
    if isinstance(term, Sums) and bool((exponents == exponents[0]).all()):
        return replace(term, scale=term.scale * float(factors[0][0]) * float(factors[1][0]))
    for factor in factors:
        term = weighted(term, factor)
    return term


def magnitude(term: LinearMap, t: Tensor, dtype: torch.dtype) -> Tensor:
    """The sizes that the map adds up, (rows,): what it makes of |t| with coefficients |a|."""
    if isinstance(term, SparseMap):
        term = replace(term, values=term.values.abs())
    elif isinstance(term, DenseMap):
        term = replace(term, entries=term.entries.abs())
    return term.evaluate(t.abs(), dtype).abs()


def changed(term: LinearMap, change: Callable[[Tensor], Tensor]) -> LinearMap:
    """The map after entries of its result were taken elsewhere, dropped or repeated."""
    if isinstance(term, Sums):
        view = term.reshaped(change)
        if view is not None:
            return view
        term = stored(term)
    rows = torch.arange(math.prod(term.shape), device="cpu").reshape(term.shape)
    return term.selected(change(rows))


def multiplied(A: Tensor, term: LinearMap, nonzeros: int) -> LinearMap:
    """A @ term for A (k, n), dense or sparse COO, and a term of shape (n,) or (n, l).

    `nonzeros` counts those of A: from a third of its entries on, a dense matrix is the smaller
    form, because a stored entry takes three numbers.
    """
    k, n = A.shape
    shape = torch.Size((k, *term.shape[1:]))
    plain = isinstance(term, Sums) and not term.inner and term.injective
    if plain and len(term.shape) == 1 and A.layout == torch.strided and 3 * nonzeros >= k * n:
        assert isinstance(term, Sums)
        # read there whenever blocks are made, also within a step, where a device is not waited for
        return DenseMap(term, shape, A.cpu())
    coo = (A if A.layout != torch.strided else A.to_sparse_coo()).coalesce().cpu()
    (i, j), values = coo.indices(), coo.values().double()
    width = math.prod(term.shape[1:])
    column = torch.arange(width, device="cpu")
    rows, cols, entries = term.triplets()
    source, position = _matches((j.unsqueeze(-1) * width + column).flatten(), rows)
    target = (i.unsqueeze(-1) * width + column).flatten()
    product = torch.sparse_coo_tensor(
        torch.stack([target[source], cols[position]]),
        values.unsqueeze(-1).expand(-1, width).flatten()[source] * entries[position],
        (k * width, term.parameter.numel()),
        device="cpu",
        check_invariants=False,
    ).coalesce()
    (rows, cols), entries = product.indices(), product.values()
    return SparseMap(term.parameter, shape, rows, cols, entries)


def _matches(wanted: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair of positions (i, k) with wanted[i] == rows[k]."""
    order = torch.argsort(rows, stable=True)
    ordered = rows[order]
    wanted = wanted.contiguous()
    first = torch.searchsorted(ordered, wanted)
    count = torch.searchsorted(ordered, wanted, right=True) - first
    i = torch.repeat_interleave(torch.arange(len(wanted), device="cpu"), count)
    start = torch.cumsum(count, 0) - count
    return i, order[first[i] + torch.arange(len(i), device="cpu") - start[i]]
