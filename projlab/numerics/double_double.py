"""Error-free transformations: values as unevaluated pairs of float64, and sums of products of them.

References: Knuth, TAOCP vol. 2, section 4.2.2 (two_sum); Dekker, Numer. Math. 18 (1971) (two_prod);
Rump, Ogita and Oishi, "Accurate floating-point summation, part I", SIAM J. Sci. Comput. 31 (2008)
(extraction of high parts whose sum is exact); Joldes, Muller and Popescu, ACM TOMS 44 (2017) (add).

They hold in plain round-to-nearest arithmetic, short of over- and underflow: callers scale by
powers of two first. A compiler that contracts or flushes breaks them: nothing here is compiled.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_SPLITTER = 2.0**27 + 1
_SLICES = 4
_CHUNK = 2**21
"""Entries of a matrix whose exact terms, three numbers each, are held at a time."""


class Pair(NamedTuple):
    """high + low, |low| at most half an ulp of high."""

    high: Tensor
    low: Tensor

    def value(self) -> Tensor:
        """Rounded to float64."""
        return self.high + self.low


def exact(values: Tensor) -> Pair:
    """Float64 values as pairs."""
    return Pair(values, torch.zeros_like(values))


def two_sum(a: Tensor, b: Tensor) -> Pair:
    """a + b, exactly."""
    s = a + b
    t = s - a
    return Pair(s, (a - (s - t)) + (b - t))


def two_prod(a: Tensor, b: Tensor) -> Pair:
    """a * b, exactly."""
    p = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    low = a_low * b_low - (((p - a_high * b_high) - a_low * b_high) - a_high * b_low)
    return Pair(p, low)


def _split(a: Tensor) -> tuple[Tensor, Tensor]:
    c = _SPLITTER * a
    high = c - (c - a)
    return high, a - high


def add(a: Pair, b: Pair) -> Pair:
    """a + b, to a relative error below 3 u**2."""
    s, t = two_sum(a.high, b.high), two_sum(a.low, b.low)
    c = s.low + t.high
    high = s.high + c
    return two_sum(high, (c - (high - s.high)) + t.low)


def take(a: Pair, rows: Tensor) -> Pair:
    """The rows with these numbers, or those where a mask holds."""
    return Pair(a.high[rows], a.low[rows])


def negative(a: Pair) -> Pair:
    """-a, exactly."""
    return Pair(-a.high, -a.low)


def terms(a: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """Three numbers a term, in a first dimension."""
    product = two_prod(a, high)
    return torch.stack([product.high, product.low, a * low])


def _sigma(largest: Tensor, count: int) -> Tensor:
    """Powers of two above count * largest."""
    mantissa = torch.frexp(largest).mantissa
    power = torch.where(mantissa == 0, 1.0, largest / mantissa)  # exact: a power of two
    return power * 2.0 ** (math.ceil(math.log2(count)) + 1)


def sum_last(terms: Tensor) -> Pair:
    """Sum (3, rows, columns) over the first and the last dimension."""
    terms = terms.movedim(0, 1).flatten(1)
    total: Pair | None = None
    for _ in range(_SLICES):
        sigma = _sigma(terms.abs().amax(1), terms.shape[1]).unsqueeze(1)
        parts = (sigma + terms) - sigma
        terms = terms - parts
        total = _gather_slice(total, parts.sum(1))
    assert total is not None
    return total


def sum_into(terms: Tensor, target: Tensor, length: int) -> Pair:
    """Sum (3, nnz) into `length` places."""
    target, terms = target.repeat(3), terms.flatten()
    count = 3 * int(torch.bincount(target, minlength=1).max()) if len(target) else 1
    total: Pair | None = None
    for _ in range(_SLICES):
        largest = terms.new_zeros(length).scatter_reduce(0, target, terms.abs(), "amax")
        sigma = _sigma(largest, count)[target]
        parts = (sigma + terms) - sigma
        terms = terms - parts
        total = _gather_slice(total, terms.new_zeros(length).index_add(0, target, parts))
    assert total is not None
    return total


def dense_product(A: Tensor, x: Pair) -> Pair:
    """A x for A (m, n) and one vector x (n,)."""
    step = max(1, _CHUNK // A.shape[1])
    parts = [sum_last(terms(rows, x.high, x.low)) for rows in A.split(step)]
    return Pair(torch.cat([p.high for p in parts]), torch.cat([p.low for p in parts]))


def sparse_product(values: Tensor, source: Tensor, target: Tensor, length: int, x: Pair) -> Pair:
    """y (length,) with y_target the sum of value * x_source, for one vector x."""
    return sum_into(terms(values, x.high[source], x.low[source]), target, length)


def _gather_slice(total: Pair | None, slice_: Tensor) -> Pair:
    return exact(slice_) if total is None else add(total, exact(slice_))
