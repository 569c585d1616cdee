"""The numba kernel of the search for an active set."""

from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.kernels.elimination import COUNTED, DENSER, kernels, ordering
from projlab.engine.kernels.native import PLAIN, loaded, recorded, wanted
from projlab.system.rows import Rows

SLOTS = 39
"""Numbers that kernels are told."""

COUNTS, LIMITS, FIRST = 9, 29, 30
"""Which of them are the addresses of what is counted, of thresholds, and of the first of a vector's
own parts."""

BLOCKED = 3e7
"""m m n of rows of which a tenth is stored from which products in blocks are worth their calls:
dense rows with x >= 0 take 24 ms against 71 by torch at 100 x 1000, 85 against 94 at 200 x 1000."""

PRODUCTS = 1e9
"""Of pairs of entries in a column: a Gram matrix of more takes a second."""


@cache
def kernel(name: str) -> Any:
    """A kernel of `face_kernels.float64`, compiled; None where numba is not there or fails."""
    if kernels() is None or ordering() is None:  # which have said so
        return None
    # of no rows and no variables, and no steps
    limits, counts, nothing = np.zeros(13), np.zeros(3, np.int64), np.zeros(SLOTS, np.int64)
    nothing[LIMITS], nothing[COUNTS] = limits.ctypes.data, counts.ctypes.data
    found = loaded(
        "face_kernels", torch.float64, lambda every: getattr(every, name)(nothing.ctypes.data)
    )
    return None if found is None else getattr(found, name)


class Faces:
    """One system of rows for the kernel, and the factor of the face that was tried last."""

    def __init__(self, M: "_Matrix", equations: int) -> None:
        m, n = M.shape
        self._sizes = m, n, len(M.cols), M.held, len(M.g_rows)
        self._full = len(M.cols) == m * n
        self._matrix = (
            M.first, M.cols, M.values, M.back, M.rows, M.entries, M.order < equations,
            M.g_first, M.g_rows, M.parent, M.width, M.Lp, M.order,
        )  # fmt: skip
        self._order = M.order.ctypes.data
        self._fixed = [part.ctypes.data for part in self._matrix[:-1]]
        self._kept: list[tuple[list[int], tuple[Any, ...]]] = []

    def forget(self) -> None:
        """Drop the last factor."""
        self._kept.clear()

    def search(
        self,
        given: tuple[Tensor, Tensor, Tensor, Tensor],
        found: tuple[Tensor, Tensor],
        face: tuple[Tensor, Tensor, Tensor],
        limits: "np.typing.NDArray[np.float64]",
        *,
        kind: str,
        steps: int,
        again: bool = False,
        done: Sequence[bool] = (False,),
    ) -> "Ends":
        """A search of a kind, at most so many steps, whose results are written where they lie.

        `given` are x0, right sides and bounds, `found` x and y, all (k, ·); `again` tries the faces
        that are there first. Vectors that are `done` are left alone.
        """
        compiled = kernel(kind)
        # sides that all vectors share are there once
        x0, right, lb, ub = (
            t if t.is_contiguous() and not t.is_neg() else _in_order(t) for t in given
        )
        try:  # taken while it is written: a call beside this one makes its own
            kept = self._kept.pop()
        except IndexError:
            kept = self._made()
        counts = array("q", (0, 0, 0))
        own = (x0, found[0], right, found[1], lb, ub, *face)
        told = limits.__array_interface__["data"][0]  # .ctypes makes an object of it first
        plan = array(
            "q",
            (
                *self._sizes, self._full, steps, 4 * tolerance.CORRECTIONS, again,
                counts.buffer_info()[0], *self._fixed, *kept[0], self._order, told,
                *[part.data_ptr() for part in own],
            ),
        )  # fmt: skip
        address = plan.buffer_info()[0]
        if len(done) == 1:
            ends = [1 if done[0] else compiled(address)]
        else:
            ends, strides = [], np.zeros(SLOTS, np.int64)
            strides[FIRST:] = [t.stride(0) * t.itemsize if t.shape[0] > 1 else 0 for t in own]
            most = [0, 0]
            for ready in done:
                counts[1] = counts[2] = 0
                ends.append(1 if ready else compiled(address))
                most = [max(most[0], counts[1]), max(most[1], counts[2])]
                np.frombuffer(plan, np.int64)[:] += strides
            counts[1], counts[2] = most
        self._kept[:] = [kept]
        return Ends(ends, *counts)

    def _made(self) -> tuple[list[int], tuple[Any, ...]]:
        """Memory for a factor and its face, which is none yet: every variable at both bounds."""
        m, n, _, held, _ = self._sizes
        one = np.ones(n, np.bool_)
        factor = np.empty(held, np.int32), np.empty(held), np.empty(m)
        parts = (*factor, one, one.copy(), np.ones(m, np.bool_))
        return [part.ctypes.data for part in parts], parts


def _in_order(t: Tensor) -> Tensor:
    return (t if t.stride(0) else t[:1]).contiguous().resolve_neg()


class Ends(NamedTuple):
    """What a kernel returned for each vector; factorisations, and the most steps of a vector."""

    each: list[int]
    factorisations: int
    newton_steps: int
    interior_steps: int


def takes(*tensors: Tensor) -> bool:
    """Whether these may be handed to a kernel."""
    plain = all(type(t) in PLAIN and t.is_contiguous() and not t.is_neg() for t in tensors)
    return plain and not recorded()


def of(rows: Rows, equations: int) -> Faces | None:
    """For rows on the CPU, the first `equations` of them equations; None where torch searches."""
    if min(rows.shape) == 0 or not wanted() or rows.device.type != "cpu":
        return None
    made = None if kernel("by_newton") is None else _matrix(rows.triplets(), rows.shape)
    return None if made is None else Faces(made, equations)


class _Matrix(NamedTuple):
    """Rows in the order of elimination, with the pattern of their Gram matrix and its factor."""

    shape: tuple[int, int]
    held: int
    """Entries of L below its diagonal."""
    order: Any
    """(m,): row i here is row order[i] of the system."""
    first: Any
    cols: Any
    values: Any
    back: Any
    rows: Any
    entries: Any
    g_first: Any
    g_rows: Any
    parent: Any
    width: Any
    Lp: Any


def _matrix(given: tuple[Tensor, Tensor, Tensor], shape: tuple[int, int]) -> _Matrix | None:
    """None where the factor of torch or of SuperLU is faster."""
    (m, n), run = shape, kernels()
    i, j, values = (t.detach().numpy() for t in given)
    there = np.flatnonzero(values)
    by_row = there[np.lexsort((j[there], i[there]))]
    first = np.zeros(m + 1, np.int32)
    np.cumsum(np.bincount(i[by_row], minlength=m), out=first[1:])
    E = first, j[by_row].astype(np.int32), values[by_row]
    products = float((np.bincount(E[1], minlength=n).astype(np.float64) ** 2).sum())
    if products > (BLOCKED if 10 * len(by_row) > m * n else PRODUCTS):
        return None
    full = len(by_row) == m * n
    order = np.arange(m)
    if not full:
        back = _transposed(E, n)
        # the pattern alone, of which the values are not looked at
        pattern = _gram(E, back)
        ordering()(*pattern, order)
        ordered = np.empty(m + 1, np.int32), np.empty_like(E[1]), np.empty_like(E[2])
        run.selected(*E, order, *ordered)
        E = ordered
    back = _transposed(E, n)
    g_first, g_rows = _gram(E, back)
    parent, count = np.empty(m, np.int32), np.empty(m, np.int64)
    held = run.symbolic(g_first, g_rows, COUNTED, parent, count)
    operations = float(((count + 1.0) ** 2).sum())
    if held < 0 or operations > max(BLOCKED / 10, DENSER * held):
        return None
    width = np.empty(m, np.int64)
    run.widths(parent, count, width)
    Lp = np.zeros(m + 1, np.int64)
    np.cumsum(count, out=Lp[1:])
    columns = np.repeat(np.arange(m), np.diff(g_first))
    upper = g_rows <= columns
    g_first = np.concatenate([[0], np.cumsum(np.bincount(columns[upper], minlength=m))])
    return _Matrix(
        (m, n), held, order, *E, *back, g_first.astype(np.int32), g_rows[upper], parent, width, Lp
    )


def _transposed(E: Any, n: int) -> tuple[Any, Any, Any]:
    made = np.zeros(n + 1, np.int32), np.empty_like(E[1]), np.empty_like(E[2])
    kernels().transposed(*E, *made)
    return made


def _gram(E: Any, back: Any) -> tuple[Any, Any]:
    """Where the columns of E E' begin, and their rows."""
    run, m = kernels(), len(E[0]) - 1
    entries = run.gram_entries(E[0], E[1], back[0], back[1])
    made = np.empty(m + 1, np.int32), np.empty(entries, np.int32), np.empty(entries)
    run.gram(*E, *back, 0.0, *made)
    return made[0], made[1]
