"""Rows that are sums of whole tensors, met in the cache; compiled by numba when this is imported.

Each row, or a few rows whose entries lie beside each other, is added up, corrected and added up
again before the next ones are read, so that a projection reads and writes an entry once. Sums have
no long run of roundings: pieces in the precision of the entries, and pieces of pieces in float64.

Memory is one array of numbers, of which tensors are parts, by their addresses over their itemsize.
"""

from typing import Any

import numpy as np
from numba import carray, njit  # type: ignore[attr-defined]  # exported at run time

from projlab.engine.kernels.numba_kernels import OPTIONS, pointer
from projlab.engine.kernels.sums import HEAD

PIECE, PIECES = 256, 64
"""Entries of a row that are added up at a time, in the four or more running sums of a vector, and
pieces of a row."""
HEIGHT, GROUP = 32, 64 * 32
"""The same of entries that lie in a column."""
CHUNK, NARROWEST, WIDEST = 2**15, 64, 1024
"""Entries of columns that are met at a time. Where that is less than so many columns, the most are
met in passes over memory: a few entries of each of many long rows are read slowly."""
ALL = 2**56


@njit(**OPTIONS)
def pass_row(x: Any, d: Any, first: bool) -> tuple[float, float]:
    """x - d in place, or x as it is; its sum, and that of its absolute values where it is first."""
    n = len(x)
    zero = x.dtype.type(0)
    total, group, size = 0.0, 0.0, 0.0
    count = 0
    for left in range(0, n, PIECE):
        y = x[left : min(left + PIECE, n)]
        a, m = zero, zero
        if first:
            for j in range(len(y)):
                a += y[j]
                m += abs(y[j])
        else:
            for j in range(len(y)):
                v = y[j] - d
                y[j] = v
                a += v
        group += a
        size += m
        count += 1
        if count == PIECES:
            total += group
            group, count = 0.0, 0
    return total + group, size


@njit(**OPTIONS)
def pass_columns(
    mem: Any, at: int, height: int, pitch: int, d: Any, first: bool, factor: float, held: Any
) -> None:
    """The same of as many columns as d has; factor times the sums are added to the last of `held`.

    `held` is part and sizes in the precision of the entries, and group, sums and magnitudes. Of
    absolute values it is a lower bound: those of sums of four entries are added up.
    """
    part, sizes, group, sums, magnitudes = held
    width = len(d)
    zero = d.dtype.type(0)
    for j in range(width):
        group[j] = 0.0
        sizes[j] = zero
    for top in range(0, height, HEIGHT):
        for j in range(width):
            part[j] = zero
        bottom = min(top + HEIGHT, height)
        i = top
        while i + 4 <= bottom:
            start = at + i * pitch
            y, z = mem[start : start + width], mem[start + pitch : start + pitch + width]
            start += 2 * pitch
            u, v = mem[start : start + width], mem[start + pitch : start + pitch + width]
            if first:
                for j in range(width):
                    s = (y[j] + z[j]) + (u[j] + v[j])
                    part[j] += s
                    sizes[j] += abs(s)
            else:
                for j in range(width):
                    dj = d[j]
                    yj, zj, uj, vj = y[j] - dj, z[j] - dj, u[j] - dj, v[j] - dj
                    y[j], z[j], u[j], v[j] = yj, zj, uj, vj
                    part[j] += (yj + zj) + (uj + vj)
            i += 4
        while i < bottom:
            y = mem[at + i * pitch : at + i * pitch + width]
            if first:
                for j in range(width):
                    part[j] += y[j]
                    sizes[j] += abs(y[j])
            else:
                for j in range(width):
                    yj = y[j] - d[j]
                    y[j] = yj
                    part[j] += yj
            i += 1
        for j in range(width):
            group[j] += part[j]
        if (top + HEIGHT) % GROUP == 0 or top + HEIGHT >= height:
            for j in range(width):
                sums[j] += factor * group[j]
                group[j] = 0.0
    if first:
        for j in range(width):
            magnitudes[j] += abs(factor) * sizes[j]


@njit(**OPTIONS)
def move_columns(mem: Any, at: int, height: int, pitch: int, d: Any) -> None:
    """d_j off each entry of column j."""
    for i in range(height):
        y = mem[at + i * pitch : at + i * pitch + len(d)]
        for j in range(len(d)):
            y[j] -= d[j]


@njit(**OPTIONS)
def larger(largest: float, r: float) -> float:
    """The larger absolute value; NaN stays."""
    size = abs(r)
    return largest if largest != largest or size <= largest else size


@njit(**OPTIONS)
def meet_rows(mem: Any, terms: Any, factors: Any, b: Any, rows: int, how: Any) -> float:
    """Rows k that add up entries k L to (k + 1) L of each term; the largest residual at the end.

    Without corrections, entries are moved once all the same, and nothing is looked at again.
    """
    needed, corrections = how
    largest = 0.0
    zero = mem.dtype.type(0)
    for k in range(rows):
        total, size = 0.0, 0.0
        for t in range(len(terms)):
            at, L = terms[t, 0], terms[t, 1]
            s, m = pass_row(mem[at + k * L : at + (k + 1) * L], zero, True)
            total += factors[0, t] * s
            size += abs(factors[0, t]) * m
        right = float(b[k]) if len(b) else 0.0
        r = total - right
        once = needed * abs(r) <= size + abs(right)
        most = min(corrections, 1) if once else corrections
        if corrections == 0:
            for t in range(len(terms)):
                at, L = terms[t, 0], terms[t, 1]
                d = mem.dtype.type(factors[1, t] * r)
                x = mem[at + k * L : at + (k + 1) * L]
                for j in range(L):
                    x[j] -= d
        for _ in range(most):
            total = 0.0
            for t in range(len(terms)):
                at, L = terms[t, 0], terms[t, 1]
                d = mem.dtype.type(factors[1, t] * r)
                s, m = pass_row(mem[at + k * L : at + (k + 1) * L], d, False)
                total += factors[0, t] * s
            r = total - right
        largest = larger(largest, r)
    return largest


@njit(**OPTIONS)
def meet_columns(mem: Any, terms: Any, factors: Any, b: Any, rows: int, how: Any) -> float:
    """Rows k that add up entries k, k + rows, k + 2 rows, ... of each term, L of them."""
    needed, corrections = how
    largest, height = 0.0, 0
    for t in range(len(terms)):
        height += terms[t, 1]
    widest = CHUNK // max(height, 1)
    if not NARROWEST <= widest <= WIDEST:
        widest = WIDEST
    widest = min(widest, rows)
    scratch, sums = np.empty((3, widest), mem.dtype), np.empty((4, widest))
    for left in range(0, rows, widest):
        width = min(widest, rows - left)
        d, group = scratch[2, :width], sums[0, :width]
        total, magnitude, r = sums[1, :width], sums[2, :width], sums[3, :width]
        held = (scratch[0, :width], scratch[1, :width], group, total, magnitude)
        for j in range(width):
            total[j], magnitude[j] = 0.0, 0.0
        for t in range(len(terms)):
            pass_columns(mem, terms[t, 0] + left, terms[t, 1], rows, d, True, factors[0, t], held)
        most = min(corrections, 1)
        for j in range(width):
            right = float(b[left + j]) if len(b) else 0.0
            r[j] = total[j] - right
            if not needed * abs(r[j]) <= magnitude[j] + abs(right):
                most = corrections
        for _ in range(most):
            for j in range(width):
                total[j] = 0.0
            for t in range(len(terms)):
                for j in range(width):
                    d[j] = mem.dtype.type(factors[1, t] * r[j])
                pass_columns(
                    mem, terms[t, 0] + left, terms[t, 1], rows, d, False, factors[0, t], held
                )
            for j in range(width):
                r[j] = total[j] - (float(b[left + j]) if len(b) else 0.0)
        if corrections == 0:
            for t in range(len(terms)):
                for j in range(width):
                    d[j] = mem.dtype.type(factors[1, t] * r[j])
                move_columns(mem, terms[t, 0] + left, terms[t, 1], rows, d)
        for j in range(width):
            largest = larger(largest, r[j])
    return largest


@njit(**OPTIONS)
def meet(mem: Any, plan: int, factors: int, needed: float, corrections: int) -> float:
    """All blocks, of what `sums.NativeSums` put at these addresses."""
    head = carray(pointer(plan), HEAD, np.int64)
    blocks, terms, rows, columns, right = head[0], head[1], head[2], head[3], head[4]
    table = carray(pointer(plan + 8 * HEAD), (blocks, terms, 2), np.int64)
    both = carray(pointer(factors), (2, terms), np.float64)
    largest = 0.0
    for i in range(blocks):
        b = mem[right + i * rows : right + (i + 1) * rows] if right else mem[0:0]
        if columns:
            left = meet_columns(mem, table[i], both, b, rows, (needed, corrections))
        else:
            left = meet_rows(mem, table[i], both, b, rows, (needed, corrections))
        largest = larger(largest, left)
    return largest


@njit(**OPTIONS)
def float64(plan: int, factors: int, needed: float, corrections: int) -> float:
    """`meet`, of entries in this precision."""
    largest: float = meet(carray(pointer(0), ALL, np.float64), plan, factors, needed, corrections)
    return largest


@njit(**OPTIONS)
def float32(plan: int, factors: int, needed: float, corrections: int) -> float:
    """As `float64`."""
    largest: float = meet(carray(pointer(0), ALL, np.float32), plan, factors, needed, corrections)
    return largest
