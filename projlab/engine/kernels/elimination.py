"""Sparse elimination by numba: order, count, factor, solves, and a projection in one call.

Used where numba is installed and PROJLAB_NATIVE leaves it on (see `native`), on the CPU. SuperLU
takes 135 us to factor 920 rows with a fill of 2,583, of which 14 are work, and keeps both triangles
and permutes vectors: 920 to 9e4 rows of networks, grids and stoichiometry are factored in a tenth
to two thirds of its time, and solved in a half to nine tenths.
"""

import sys
from array import array
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projlab.engine.corrections import PROBES, TINY, Measured, probes
from projlab.engine.kernels.native import in_place, loaded, wanted
from projlab.numerics.fill import Fill
from projlab.numerics.sparse_factor import CPU, Prepared, SparseFactor
from projlab.numerics.sparse_gram import SparseGram

COUNTED = 2**28
"""Entries of L that are counted one by one, in a third of a second; others by subtrees."""

DENSER = 300
"""Multiplications an entry of L from which SuperLU's dense blocks are worth their overhead: at 128
and 141, 8455 rows of metabolism and a grid of 300 x 300, it takes 1.4 and 1.6 times as long; at
487, the 2052 rows of stcqp1, 0.55 times."""


@cache
def kernels() -> Any:
    """`elimination_kernels.float64`, compiled; None where numba is not there or fails."""
    return loaded("elimination_kernels", torch.float64, _tried)


@cache
def ordering() -> Any:
    """`ordering_kernels.minimum_degree`, compiled; None where numba is not there or fails."""
    one = np.array([0, 1], np.int32), np.zeros(1, np.int32), np.empty(1, np.int64)
    return loaded("ordering_kernels", torch.float64, lambda found: found(*one))


def _tried(found: Any) -> None:
    """Compile all of them, on one row."""
    first, rows, one = np.array([0, 1], np.int32), np.zeros(1, np.int32), np.ones(1)
    made, order = (np.zeros(2, np.int32), rows.copy(), one.copy()), np.zeros(1, np.int64)
    found.transposed(first, rows, one, *made)
    found.gram_entries(first, rows, first, rows)
    found.gram(first, rows, one, first, rows, one, 0.0, *made)
    found.permuted(first, rows, one, order, *made)
    found.selected(first, rows, one, order, *made)
    parent, count, width = np.empty(1, np.int32), np.empty(1, np.int64), np.ones(1, np.int64)
    found.symbolic(first, rows, COUNTED, parent, count)
    found.widths(parent, count, width)
    Lp, Li, Lx, D = np.zeros(2, np.int64), np.empty(0, np.int32), np.empty(0), np.empty(1)
    found.numeric(first, rows, one, parent, width, Lp, Li, Lx, D)
    found.solve_all(Lp, Li, Lx, D, width, np.ones((1, 1)))
    nothing = array("q", [0] * SLOTS)
    found.project(0, 0, nothing.buffer_info()[0])
    E, X, known = (first, rows, one), np.ones((2, 1)), (np.ones(1), np.ones((1, 1)), np.ones(1))
    found.opened(*E, X, *known)
    found.measured(E, (Lp, Li, Lx, D, width), X, one, known, np.zeros((2, 1)), TINY)


SLOTS = 16
"""Numbers that `elimination_kernels.project` is told."""


class Elimination:
    """What forms, counts and factors in the place of `projlab.numerics`; see `SparseGram`."""

    def transposed(self, E: Any) -> Any:
        """Compressed rows of E', of E's."""
        m, n = E.shape
        back, rows, entries = _empty(n, E.nnz)
        back[:] = 0
        kernels().transposed(E.indptr, E.indices, E.data, back, rows, entries)
        return _compressed(entries, rows, back, (n, m))

    def gram_entries(self, E: Any, back: Any) -> int:
        """How many entries E E' has."""
        found: int = kernels().gram_entries(E.indptr, E.indices, back.indptr, back.indices)
        return found

    def gram(self, E: Any, back: Any, shift: float, entries: int) -> Any:
        """E E' + shift I, by columns, not sorted."""
        m = E.shape[0]
        made = _empty(m, entries)
        kernels().gram(
            E.indptr, E.indices, E.data, back.indptr, back.indices, back.data, shift, *made
        )
        return _compressed(made[2], made[1], made[0], (m, m), columns=True)

    def order(self, matrix: Any) -> Any:
        """As `projlab.numerics.fill.elimination_order`, of both triangles."""
        found = np.empty(matrix.shape[0], np.int64)
        ordering()(matrix.indptr, matrix.indices, found)
        return found

    def permuted(self, matrix: Any, order: Any) -> Any:
        """Rows and columns of a square matrix by columns, in another order."""
        made = _empty(matrix.shape[0], matrix.nnz)
        kernels().permuted(matrix.indptr, matrix.indices, matrix.data, order, *made)
        return _compressed(made[2], made[1], made[0], matrix.shape, columns=True)

    def selected(self, E: Any, order: Any) -> Any:
        """Rows of E in another order."""
        made = _empty(len(order), E.nnz)
        kernels().selected(E.indptr, E.indices, E.data, order, *made)
        return _compressed(made[2], made[1], made[0], E.shape)

    def count(self, matrix: Any) -> Fill | None:
        """As `projlab.numerics.fill.count`; None where that is faster."""
        counted = _counted(matrix, COUNTED)
        if counted is None:
            return None
        each = counted[1].astype(np.float64) + 1
        return Fill(int(each.sum()), float((each**2).sum()))

    def factor(self, ready: Prepared) -> "NativeFactor | None":
        """A factor; None where SuperLU is faster."""
        fill = ready.fill
        if fill.operations > DENSER * fill.nonzeros:
            return None
        return NativeFactor(ready)


@cache
def elimination() -> Elimination | None:
    """The kernels for vectors on the CPU, or None where there are none."""
    return None if kernels() is None or ordering() is None else Elimination()


def available(device: torch.device) -> Elimination | None:
    """`elimination` where the environment leaves it on."""
    return elimination() if device.type == "cpu" and wanted() else None


def _empty(m: int, entries: int) -> tuple[Any, Any, Any]:
    """Where rows begin, columns and values, not yet set."""
    return np.empty(m + 1, np.int32), np.empty(entries, np.int32), np.empty(entries)


def _compressed(
    values: Any, places: Any, first: Any, shape: tuple[int, int], *, columns: bool = False
) -> Any:
    from scipy.sparse import csc_array, csr_array

    return (csc_array if columns else csr_array)((values, places, first), shape=shape)


def _counted(matrix: Any, most: int) -> tuple[Any, Any, int] | None:
    """Parents, entries of each column of L below the diagonal, and their sum."""
    m = matrix.shape[0]
    parent, count = np.empty(m, np.int32), np.empty(m, np.int64)
    total = kernels().symbolic(matrix.indptr, matrix.indices, most, parent, count)
    return None if total < 0 else (parent, count, total)


class NativeFactor(SparseFactor):
    """L D L' by columns of L below its diagonal of ones."""

    def __init__(self, ready: Prepared) -> None:
        self.m, self.fill, self.device = ready.matrix.shape[0], ready.fill, CPU
        self.order = torch.from_numpy(ready.order).long()
        matrix, m = ready.matrix, self.m
        counted = _counted(matrix, 2 * ready.fill.nonzeros)
        assert counted is not None
        parent, count, total = counted
        self.width = np.empty(m, np.int64)
        kernels().widths(parent, count, self.width)
        self.first = np.zeros(m + 1, np.int64)
        np.cumsum(count, out=self.first[1:])
        self.rows, self.values = np.empty(total, np.int32), np.empty(total)
        self.pivots = np.empty(m)
        stopped = kernels().numeric(
            matrix.indptr,
            matrix.indices,
            matrix.data,
            parent,
            self.width,
            self.first,
            self.rows,
            self.values,
            self.pivots,
        )
        if stopped >= 0:
            raise np.linalg.LinAlgError(f"pivot {stopped} is {self.pivots[stopped]}")

    def solve_ordered(self, b: Tensor) -> Tensor:
        """See `SparseFactor.solve_ordered`."""
        x = b.detach().reshape(-1, self.m).clone(memory_format=torch.contiguous_format)
        kernels().solve_all(self.first, self.rows, self.values, self.pivots, self.width, x.numpy())
        return x.reshape(b.shape)


def _by_kernel(gram: SparseGram) -> NativeFactor | None:
    """The factor, where a correction is products with E and solves with it, all by kernels."""
    if gram.made is None:
        gram.factor()
    factor = gram.made
    if not isinstance(factor, NativeFactor) or gram.apart or max(gram.shape) == 0:
        return None
    kinds = gram.E.forward.indptr.dtype, gram.E.forward.indices.dtype
    return factor if kinds == (np.int32, np.int32) else None


class Projection:
    """`passes` corrections with one factor, in place; for vectors that lie one after the other."""

    def __init__(self, gram: SparseGram, factor: NativeFactor, passes: int) -> None:
        m, n = gram.shape
        E = gram.E.forward
        self.n, self.m = n, m
        self._held = E, factor
        self._kernel = kernels().project
        parts = (
            E.indptr, E.indices, E.data, factor.first, factor.rows, factor.values, factor.pivots,
            factor.width,
        )  # fmt: skip
        addresses = [part.ctypes.data for part in parts]
        self._fixed = [*addresses, 0, 0, m, n, E.nnz, len(factor.values), passes, 0]

    @staticmethod
    def of(gram: SparseGram, passes: int) -> "Projection | None":
        """None where a projection is more than that."""
        factor = _by_kernel(gram)
        return None if factor is None else Projection(gram, factor, passes)

    def _plan(self, c: Tensor | None, total: Tensor | None) -> "array[int]":
        numbers = list(self._fixed)
        if c is not None:
            numbers[8], numbers[15] = c.data_ptr(), self.m if c.dim() > 1 else 0
        if total is not None:
            numbers[9] = total.data_ptr()
        return array("q", numbers)

    def project(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """The projection of x (..., n) of float64, and the multipliers (..., m).

        c is (m,) or has the leading dimensions of x.
        """
        lead = x.shape[:-1]
        moved = x.detach().clone(memory_format=torch.contiguous_format)
        if c is not None:
            c = c.detach().expand(*lead, self.m) if c.dim() > 1 else c.detach()
            c = c.contiguous()
        total = torch.empty(*lead, self.m, dtype=x.dtype, device=x.device)
        made = self._plan(c, total)
        self._kernel(moved.data_ptr(), moved.numel() // self.n, made.buffer_info()[0])
        return moved, total

    def for_vectors(self, c: Tensor) -> Any:
        """x (n,) or (k, n) projected where it lies, for this c (m,); False where it is not taken.

        As `native.NativeRows.for_vectors`, and for the same reasons.
        """
        c = c.contiguous()
        return in_place(
            self._kernel, torch.float64, self.n, sys.maxsize, self._plan(c, None), (self, c)
        )


class Probes:
    """As `projlab.engine.corrections.Probes`, of one system: each correction is one call."""

    def __init__(self, gram: SparseGram, factor: NativeFactor, f: Tensor, count: int) -> None:
        E, (m, n) = gram.E.forward, gram.shape
        self._kernel = kernels().measured
        self._E = E.indptr, E.indices, E.data
        self._factor = factor.first, factor.rows, factor.values, factor.pivots, factor.width
        self._X = np.zeros((count + 1, n))
        self._X[:-1] = probes(count, n, torch.float64, CPU).numpy()
        self._f, self._step = f.contiguous().numpy(), np.zeros((count + 1, n))
        self._known = np.empty(count), np.empty((count, m)), np.empty(m)
        kernels().opened(*self._E, self._X, *self._known)

    @staticmethod
    def of(gram: SparseGram, f: Tensor, count: int = PROBES) -> "Probes | None":
        """For f (m,) of float64 in the order of the factor; None where that is no kernel's."""
        factor = _by_kernel(gram)
        return None if factor is None else Probes(gram, factor, f, count)

    @property
    def ends(self) -> Tensor:
        """See `projlab.engine.corrections.Vectors`."""
        return torch.from_numpy(self._X[:-1])

    def measured(self) -> Measured:
        """See `projlab.engine.corrections.Vectors`."""
        told = self._kernel(self._E, self._factor, self._X, self._f, self._known, self._step, TINY)
        return Measured(*told)

    def correct(self) -> None:
        """See `projlab.engine.corrections.Vectors`."""
        self._X -= self._step
