"""Linear maps from one parameter to the rows of equations, in as little memory as they need.

Columns are positions in the parameter read row-major, whatever its strides.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from projlab.errors import InputError

Axes = tuple[tuple[int, int], ...]
"""(size, stride) of each dimension of a view."""


@dataclass(frozen=True)
class Sums:
    """scale * (sums over the `inner` axes of a strided view): O(1) memory whatever the sizes."""

    parameter: Tensor
    scale: float
    out: Axes
    inner: Axes
    offset: int

    @property
    def shape(self) -> torch.Size:
        """Of the result."""
        return torch.Size(size for size, _ in self.out)

    @property
    def count(self) -> int:
        """Entries of the parameter in one row."""
        return math.prod(size for size, _ in self.inner)

    @property
    def last(self) -> int:
        """The largest column, from which on nothing is touched."""
        return self.offset + sum((size - 1) * stride for size, stride in self.out + self.inner)

    @property
    def injective(self) -> bool:
        """Whether no entry is met twice; views of views always nest, broadcast axes do not."""
        reach = 0
        for size, stride in sorted(self.out + self.inner, key=lambda axis: axis[1]):
            if size > 1 and stride <= reach:
                return False
            reach += (size - 1) * stride
        return True

    def reshaped(self, change: Callable[[Tensor], Tensor]) -> "Sums | None":
        """The map after a change of view of its result; None where that is not a view."""
        sizes = [size for size, _ in self.out]
        meta = torch.empty_strided(sizes, [stride for _, stride in self.out], device="meta")
        try:
            found = change(meta)
        except RuntimeError:
            return None
        out = tuple(zip(found.shape, found.stride(), strict=True))
        return replace(self, out=out, offset=self.offset + int(found.storage_offset()))

    def summed(self, dims: tuple[int, ...]) -> "Sums":
        """The map after a sum of its result over some dimensions."""
        gone = [self.out[d] for d in dims]
        repeats = math.prod(size for size, stride in gone if stride == 0)
        return replace(
            self,
            scale=self.scale * repeats,
            out=tuple(axis for d, axis in enumerate(self.out) if d not in dims),
            inner=self.inner + tuple(axis for axis in gone if axis[1] != 0),
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
        index = torch.tensor(self.offset)
        for size, stride in self.out + self.inner:
            index = index.unsqueeze(-1) + torch.arange(size) * stride
        return index.reshape(math.prod(self.shape), self.count)

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and values; O(entries) memory."""
        columns = self.columns()
        rows = torch.arange(len(columns)).unsqueeze(-1).expand(columns.shape)
        values = torch.full((columns.numel(),), self.scale, dtype=torch.float64)
        return rows.flatten(), columns.flatten(), values

    def view(self, t: Tensor) -> Tensor:
        """The view, out axes first, of a contiguous tensor of the parameter's shape."""
        sizes, strides = self._axes
        return t.as_strided(sizes, strides, t.storage_offset() + self.offset)

    @cached_property
    def _axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        axes = self.out + self.inner
        return tuple(size for size, _ in axes), tuple(stride for _, stride in axes)

    def total(self, t: Tensor, dtype: torch.dtype, *, absolute: bool = False) -> Tensor:
        """The sums, without the scale, in `dtype`; of absolute values where asked for."""
        view = self.view(t.contiguous())
        if absolute:
            view = view.abs()
        if not self.inner:
            return view.to(dtype, copy=True)
        dims = tuple(range(len(self.out), view.dim()))
        return view.sum(dims, dtype=dtype)

    def evaluate(self, t: Tensor, dtype: torch.dtype, *, absolute: bool = False) -> Tensor:
        """The map applied to t, (rows,)."""
        scale = abs(self.scale) if absolute else self.scale
        return self.total(t, dtype, absolute=absolute).reshape(-1) * scale


@dataclass(frozen=True)
class Entries:
    """Stored entries: what indexing, sparse matrices and broadcasting come to."""

    parameter: Tensor
    shape: torch.Size
    rows: Tensor
    cols: Tensor
    values: Tensor

    def selected(self, source: Tensor) -> "Entries":
        """Row i of the result is row source[i]; source has the result's shape."""
        row, position = _matches(source.flatten(), self.rows)
        return replace(
            self,
            shape=source.shape,
            rows=row,
            cols=self.cols[position],
            values=self.values[position],
        )

    def summed(self, dims: tuple[int, ...]) -> "Entries":
        """The map after a sum of its result over some dimensions."""
        shape = torch.Size(size for d, size in enumerate(self.shape) if d not in dims)
        target = torch.arange(math.prod(shape)).reshape(
            [1 if d in dims else size for d, size in enumerate(self.shape)]
        )
        return replace(self, shape=shape, rows=target.expand(self.shape).flatten()[self.rows])

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and values."""
        return self.rows, self.cols, self.values

    def evaluate(self, t: Tensor, dtype: torch.dtype, *, absolute: bool = False) -> Tensor:
        """The map applied to t, (rows,)."""
        cols, rows = self.cols.to(t.device), self.rows.to(t.device)
        products = t.reshape(-1)[cols].to(dtype) * self.values.to(t.device, dtype)
        zeros = torch.zeros(math.prod(self.shape), dtype=dtype, device=t.device)
        return zeros.index_add(0, rows, products.abs() if absolute else products)


@dataclass(frozen=True)
class Matrix:
    """A dense matrix times the flattened view of a parameter; the matrix is kept as given."""

    source: Sums
    """Without inner axes; its scale multiplies the matrix."""
    shape: torch.Size
    entries: Tensor
    """(rows, columns of the view)."""

    @property
    def parameter(self) -> Tensor:
        """The parameter it is applied to."""
        return self.source.parameter

    def selected(self, source: Tensor) -> "Matrix":
        """Row i of the result is row source[i]; source has the result's shape."""
        return replace(
            self,
            shape=source.shape,
            entries=self.entries[source.flatten().to(self.entries.device)],
        )

    def summed(self, dims: tuple[int, ...]) -> "Matrix":
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

    def evaluate(self, t: Tensor, dtype: torch.dtype, *, absolute: bool = False) -> Tensor:
        """The map applied to t, (rows,)."""
        x = self.source.evaluate(t, dtype, absolute=absolute)
        entries = self.entries.to(t.device, dtype)
        return (entries.abs() if absolute else entries) @ x


Map = Sums | Entries | Matrix


def leaf(parameter: Tensor) -> Sums:
    """The identity map of a parameter."""
    sizes = list(parameter.shape)
    strides = [math.prod(sizes[d + 1 :]) for d in range(len(sizes))]
    return Sums(parameter, 1.0, tuple(zip(sizes, strides, strict=True)), (), 0)


def stored(term: Map) -> Entries:
    """The same map as entries."""
    if isinstance(term, Entries):
        return term
    return Entries(term.parameter, term.shape, *term.triplets())


def scaled(term: Map, factor: float) -> Map:
    """factor * term."""
    if isinstance(term, Sums):
        return replace(term, scale=term.scale * factor)
    if isinstance(term, Entries):
        return replace(term, values=term.values * factor)
    return replace(term, source=replace(term.source, scale=term.source.scale * factor))


def weighted(term: Map, weights: Tensor) -> Map:
    """weights * term, entry by entry; weights have the term's shape."""
    if isinstance(term, Matrix):
        w = weights.reshape(-1, 1).to(term.entries.device)
        wide = torch.promote_types(w.dtype, term.entries.dtype)
        return replace(term, entries=term.entries.to(wide) * w)
    entries = stored(term)
    return replace(entries, values=entries.values * weights.flatten()[entries.rows])


def changed(term: Map, change: Callable[[Tensor], Tensor]) -> Map:
    """The map after an index, a transposition, an expansion or a reshape of its result."""
    if isinstance(term, Sums):
        found = term.reshaped(change)
        if found is not None:
            return found
        term = stored(term)
    rows = torch.arange(math.prod(term.shape)).reshape(term.shape)
    return term.selected(change(rows))


def multiplied(A: Tensor, term: Map, data: int) -> Map:
    """A @ term for A (k, n), dense or sparse COO, and a term of shape (n,) or (n, l).

    `data` is the number of nonzero entries of A: with a third of them stored, a dense matrix is the
    smaller form.
    """
    k, n = A.shape
    shape = torch.Size((k, *term.shape[1:]))
    plain = isinstance(term, Sums) and not term.inner and term.injective
    if plain and len(term.shape) == 1 and A.layout == torch.strided and 3 * data >= k * n:
        assert isinstance(term, Sums)
        return Matrix(term, shape, A)
    coo = (A if A.layout != torch.strided else A.to_sparse_coo()).coalesce().cpu()
    (i, j), values = coo.indices(), coo.values().double()
    width = math.prod(term.shape[1:])
    column = torch.arange(width)
    rows, cols, entries = term.triplets()
    source, position = _matches((j.unsqueeze(-1) * width + column).flatten(), rows)
    target = (i.unsqueeze(-1) * width + column).flatten()
    product = torch.sparse_coo_tensor(
        torch.stack([target[source], cols[position]]),
        values.unsqueeze(-1).expand(-1, width).flatten()[source] * entries[position],
        (k * width, term.parameter.numel()),
        check_invariants=False,
    ).coalesce()
    (rows, cols), entries = product.indices(), product.values()
    return Entries(term.parameter, shape, rows, cols, entries)


def _matches(wanted: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair of positions (i, k) with wanted[i] == rows[k]."""
    order = torch.argsort(rows, stable=True)
    found = rows[order]
    first = torch.searchsorted(found, wanted)
    count = torch.searchsorted(found, wanted, right=True) - first
    i = torch.repeat_interleave(torch.arange(len(wanted)), count)
    start = torch.cumsum(count, 0) - count
    return i, order[first[i] + torch.arange(len(i)) - start[i]]


def require_parameter(parameter: object) -> Tensor:
    """The parameter, or `InputError` where no equation can be written over it."""
    if not isinstance(parameter, Tensor):
        raise InputError(
            f"parameter is a {type(parameter).__name__}; expr takes a torch parameter or tensor"
        )
    if torch.nn.parameter.is_lazy(parameter):
        raise InputError("parameter is uninitialised; run the module once before constraining it")
    if not parameter.is_floating_point():
        raise InputError(f"parameter has dtype {parameter.dtype}; it must be floating-point")
    if parameter.layout != torch.strided:
        raise InputError(f"parameter has layout {parameter.layout}; it must be a dense tensor")
    if not parameter.is_leaf:
        raise InputError(
            "parameter is the result of a computation, not a leaf: name the parameter that the "
            "optimizer holds (for a parametrised module, use projlab.nn.affine)"
        )
    if parameter.numel() == 0:
        raise InputError(f"parameter has shape {tuple(parameter.shape)}: it has no entries")
    return parameter
