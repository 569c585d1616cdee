"""How sparse dropped rows follow from kept ones, in pairs of float64, entry by entry."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics import tuning
from projlab.numerics.double_double import (
    Pair,
    add,
    exact,
    negative,
    sparse_product,
    sum_into,
    terms,
)
from projlab.proof.rounding import U
from projlab.proof.sparse_steering import SparseSteering
from projlab.system.rank import Rank
from projlab.system.rows import Rows, SparseRows, sparse_rows
from projlab.system.sparse_rank import scipy_rows


class Redundancy(NamedTuple):
    """How d dropped rows follow from the kept ones: E_D = C E_K + delta, f_D = C f_K + phi."""

    delta: Rows
    """(d, n)."""
    size: float
    """Frobenius norm of delta."""
    phi: Tensor
    """(1, d)."""


def sparse_redundancy(
    E: SparseRows, f: Tensor, decision: Rank, steering: SparseSteering
) -> Redundancy:
    """By the coefficients of the rank decision, corrected in pairs where they are not zero.

    Whatever they are, delta and phi are what they leave.
    """
    assert decision.coefficients is not None
    kept, dropped = E.select(decision.kept), E.select(decision.dropped)
    i, k, c = decision.coefficients.triplets()
    C, product = exact(c), _Combined.of(kept, dropped, i, k)
    delta, size = product.left_over(C)
    negligible = tolerance.NEGLIGIBLE_SHIFT * U * steering.sigma_min
    for _ in range(tolerance.REFINEMENT_STEPS):
        if size <= negligible or delta.nnz == 0:
            break
        trial = add(C, exact(_lacking(delta, kept, i, k, steering)))
        left, now = product.left_over(trial)
        gained = now < size * tolerance.REFINEMENT_GAIN
        if now < size:
            C, delta, size = trial, left, now
        if not gained:
            break
    kept_f, d = exact(f[decision.kept]), len(decision.dropped)
    combined = sparse_product(C.high, k, i, d, kept_f)
    low = torch.zeros_like(combined.high).index_add(0, i, C.low * kept_f.high[k])
    phi = add(exact(f[decision.dropped]), negative(add(combined, exact(low)))).high
    return Redundancy(delta, size, phi[None])


def _lacking(
    delta: SparseRows, kept: SparseRows, i: Tensor, k: Tensor, steering: SparseSteering
) -> Tensor:
    """What each of the coefficients, of dropped row i on kept row k, lacks."""
    right = (scipy_rows(delta) @ scipy_rows(kept).T).tocsr()
    numbers, others = i.cpu().numpy(), k.cpu().numpy()
    found = np.zeros(len(numbers))
    inexact = np.flatnonzero(np.diff(right.indptr))
    starts = np.searchsorted(numbers, inexact), np.searchsorted(numbers, inexact, side="right")
    step = max(1, tuning.PORTION // max(kept.shape))
    for first in range(0, len(inexact), step):
        some = slice(first, first + step)
        lacking = steering.corrections(right[inexact[some]].toarray())
        for row, start, stop in zip(lacking, *(t[some] for t in starts), strict=True):
            found[start:stop] = row[others[start:stop]]
    return torch.from_numpy(found).to(i.device)


class _Combined(NamedTuple):
    """The products of coefficients with entries of kept rows, and where they add up."""

    coefficient: Tensor
    """(t,) which one."""
    entry: Tensor
    """(t,) which value of the kept rows."""
    target: Tensor
    """(t + entries of the dropped rows,) which place of delta."""
    kept: SparseRows
    dropped: SparseRows
    rows: Tensor
    """(places,)."""
    cols: Tensor

    @staticmethod
    def of(kept: SparseRows, dropped: SparseRows, i: Tensor, k: Tensor) -> "_Combined":
        """Of coefficients of dropped rows i on kept rows k."""
        count = torch.bincount(kept.rows, minlength=kept.shape[0])
        first = torch.cumsum(count, 0) - count
        repeat = count[k]
        coefficient = torch.repeat_interleave(torch.arange(len(k), device=k.device), repeat)
        start = torch.cumsum(repeat, 0) - repeat
        within = torch.arange(len(coefficient), device=k.device) - start[coefficient]
        entry = first[k][coefficient] + within
        n = kept.shape[1]
        places = torch.cat([i[coefficient] * n + kept.cols[entry], dropped.rows * n + dropped.cols])
        where, target = torch.unique(places, return_inverse=True)
        return _Combined(coefficient, entry, target, kept, dropped, where // n, where % n)

    def left_over(self, C: Pair) -> tuple[SparseRows, float]:
        """Delta, rounded, and an upper bound on its Frobenius norm before that."""
        high, low = C.high[self.coefficient], C.low[self.coefficient]
        products = terms(self.kept.values[self.entry], -high, -low)
        own = self.dropped.values.new_zeros(3, self.dropped.nnz)
        own[0] = self.dropped.values
        every = torch.cat([products, own], 1)
        delta = sum_into(every, self.target, len(self.rows)).high
        # each place errs by 4 u^2 times the sum of its magnitudes, as in `products.Product`
        sizes = torch.zeros_like(delta).index_add(0, self.target, every.abs().sum(0))
        error = 4 * U * U * float(torch.linalg.vector_norm(sizes))
        size = float(torch.linalg.vector_norm(delta)) + error
        rows = sparse_rows(self.rows, self.cols, delta, self.dropped.shape)
        return rows, size * (1 + tolerance.PRODUCT_ROUNDING)
