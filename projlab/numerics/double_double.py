"""Error-free transformations: values as unevaluated pairs of float64, and sums of products of them.

References: Knuth, TAOCP vol. 2, section 4.2.2 (two_sum); Dekker, Numer. Math. 18 (1971) (two_prod);
Rump, Ogita and Oishi, "Accurate floating-point summation, part I", SIAM J. Sci. Comput. 31 (2008)
(extraction of high parts whose sum is exact); Joldes, Muller and Popescu, ACM TOMS 44 (2017) (add).

They hold in plain round-to-nearest arithmetic, short of over- and underflow: callers scale by
powers of two first. A compiler that contracts or flushes breaks them: nothing here is compiled.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_SPLITTER = 2.0**27 + 1
_SLICES = 4
_CHUNK = 2**16
"""Products whose exact terms, three numbers each, are held at a time: a cache holds them."""


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


def sum_last(terms: Tensor, room: Tensor) -> tuple[Tensor, ...]:
    """The sum over the last dimension, as numbers to add up; the terms and `room` are used up."""
    slices = []
    for _ in range(_SLICES):
        largest = torch.maximum(terms.amax(-1), -terms.amin(-1))
        sigma = _sigma(largest, terms.shape[-1]).unsqueeze(-1)
        parts = torch.add(terms, sigma, out=room).sub_(sigma)
        terms.sub_(parts)
        slices.append(parts.sum(-1))
    return tuple(slices)


def sum_into(terms: Tensor, target: Tensor, length: int) -> Pair:
    """Sum (3, nnz) into `length` places."""
    target, terms = target.repeat(3), terms.flatten()
    count = 3 * int(torch.bincount(target, minlength=1).max()) if len(target) else 1
    slices = []
    for _ in range(_SLICES):
        largest = terms.new_zeros(length).scatter_reduce(0, target, terms.abs(), "amax")
        sigma = _sigma(largest, count)[target]
        parts = (sigma + terms) - sigma
        terms = terms - parts
        slices.append(terms.new_zeros(length).index_add(0, target, parts))
    return added(slices)


def dense_product(A: Tensor, x: Pair) -> Pair:
    """A x for A (m, n) and a vector x (n,), or A x_i for each of (k, n)."""
    m, n = A.shape
    high, low = (part.reshape(-1, 1, n) for part in x)
    rows = max(1, min(m, _CHUNK // n))
    vectors = max(1, min(len(high), _CHUNK // (n * rows)))
    # Memory that is taken anew for each of many passes costs more than the passes.
    held, room = A.new_empty(2, vectors * rows * 3 * n)
    slices = []
    for h, lo in zip(high.split(vectors), low.split(vectors), strict=True):
        split_h, of_rows = _split(h), []
        for a in A.split(rows):
            shape = (len(h), len(a), 3, n)
            size = math.prod(shape)
            terms = _row_terms(a, h, split_h, lo, held[:size].view(shape))
            of_rows.append(sum_last(terms, room[:size].view_as(terms)))
        slices.append([torch.cat(part, -1) for part in zip(*of_rows, strict=True)])
    total = added([torch.cat(part) for part in zip(*slices, strict=True)])
    return Pair(*(part.reshape(*x.high.shape[:-1], m) for part in total))


def _row_terms(
    a: Tensor, high: Tensor, split: tuple[Tensor, Tensor], low: Tensor, out: Tensor
) -> Tensor:
    """`terms` of rows a (m, n) with vectors (k, 1, n), into (k, m, 3, n), as (k, m, 3 n)."""
    product, error, rest = out.unbind(2)
    torch.mul(a, high, out=product)
    (a_high, a_low), (h_high, h_low) = _split(a), split
    # each of the four products is exact, so that it is the same with one rounding or two
    torch.addcmul(product, a_high, h_high, value=-1, out=error)
    error.addcmul_(a_low, h_high, value=-1).addcmul_(a_high, h_low, value=-1)
    error.addcmul_(a_low, h_low, value=-1).neg_()
    torch.mul(a, low, out=rest)
    return out.flatten(2)


def sparse_product(values: Tensor, source: Tensor, target: Tensor, length: int, x: Pair) -> Pair:
    """y (length,) with y_target the sum of value * x_source, for x (n,), or each of (k, n)."""
    if x.high.dim() > 1:
        parts = [
            sparse_product(values, source, target, length, Pair(h, lo))
            for h, lo in zip(*x, strict=True)
        ]
        return Pair(torch.stack([p.high for p in parts]), torch.stack([p.low for p in parts]))
    return sum_into(terms(values, x.high[source], x.low[source]), target, length)


def added(slices: Sequence[Tensor]) -> Pair:
    """What these add up to, each much smaller than the one before it."""
    total = exact(slices[0])
    for part in slices[1:]:
        total = add(total, exact(part))
    return total
