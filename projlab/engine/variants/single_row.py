"""Rows that share no column, one row included: each is projected on its own, in O(nnz).

x_j - a_ij (a_i' x - b_i) / ||a_i||^2 for every j in the support of row i: no Gram matrix, because
it is diagonal. Reference: Kaczmarz, Bull. Acad. Polon. Sci. A 35 (1937), for one row.
"""

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.kernels import native
from projlab.engine.variants.base import Bound, Factor, Variant
from projlab.engine.variants.orthonormal import OrthonormalRows
from projlab.numerics import tuning
from projlab.numerics.transfer import sent
from projlab.system.rows import Rows


@dataclass(frozen=True)
class UnitRows(OrthonormalRows):
    """Dense rows of norms 1 / inverse: one, one for each element of a batch, or short ones."""

    inverse: Tensor
    """(r,), or (B, 1, 1); zero for a row of zeros."""
    _equal: Tensor | None = field(init=False, repr=False, compare=False)
    """(1,) the entry where all are the same, as for a sum: the row itself need not be read."""

    def __post_init__(self) -> None:
        super().__post_init__()
        long = self._one and self.W.dim() == 2 and self.W.nbytes > tuning.SMALL
        equal = long and bool((self.W[:, :1] == self.W).all())
        object.__setattr__(self, "_equal", self.W[0, :1].clone() if equal else None)

    def project_(self, x: Tensor, c: Tensor | None) -> None:
        if self._equal is None or self._native is not None:
            super().project_(x, c)
            return
        r = x.sum(-1, keepdim=True) * self._equal
        x.sub_((r if c is None else r + c) * self._equal)

    def right_side(self, f: Tensor) -> Tensor:
        return -f * self.inverse

    def multipliers(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self._coordinates(x, c) * self.inverse


@dataclass(frozen=True)
class Bucket:
    """Rows of similar length, padded to one: gathering them moves at most twice their entries."""

    rows: Tensor
    """(k,) which rows these are."""
    columns: Tensor
    """(k, width) indices into x; padding points at the row's first column."""
    values: Tensor
    """(k, width), or (B, k, width) for a batch that shares its pattern; padding is zero."""
    filled: Tensor
    """Positions of the flattened (k, width) block that are no padding."""


@dataclass(frozen=True)
class DisjointRows(Factor):
    """Rows gathered into buckets by length; sums are in a fixed order on every device."""

    buckets: tuple[Bucket, ...]
    order: Tensor
    """(r,) position of each row in the concatenated buckets."""
    inverse_norm2: Tensor
    """(r,), or (B, 1, r) for a batch: 1 / ||e_i||^2, zero for a row of zeros."""
    unit: Tensor | None = None
    """(r, n) dense rows of norm one, where these are so short that a kernel takes less time."""
    _dense: UnitRows | None = field(default=None, init=False, repr=False, compare=False)
    """From `bound` on."""

    def right_side(self, f: Tensor) -> Tensor:
        return -f

    def bound(self, c: Tensor) -> Bound:
        kernel = None if self.unit is None else native.rows(self.unit)
        if kernel is None or self.unit is None:
            return super().bound(c)
        dense = UnitRows(self.unit, self.inverse_norm2.sqrt()).with_kernel(kernel)
        object.__setattr__(self, "_dense", dense)
        return dense.bound(c * dense.inverse)

    def project(self, x: Tensor, c: Tensor | None) -> Tensor:
        if self._dense is not None:
            return self._dense.project(x, None if c is None else c * self._dense.inverse)
        y = self.multipliers(x, c)
        for bucket in self.buckets:
            moves = y[..., bucket.rows].unsqueeze(-1) * _spread(bucket.values)
            moves = moves.reshape(*moves.shape[:-2], bucket.columns.numel())
            # no two rows share a column, so that no two of these indices agree
            x = x.index_add(
                -1, bucket.columns.flatten()[bucket.filled], moves[..., bucket.filled], alpha=-1
            )
        return x

    def project_(self, x: Tensor, c: Tensor | None) -> None:
        x.copy_(self.project(x, c))

    def multipliers(self, x: Tensor, c: Tensor | None) -> Tensor:
        sums = [(x[..., b.columns] * _spread(b.values)).sum(-1) for b in self.buckets]
        r = torch.cat(sums, -1)[..., self.order]
        return (r if c is None else r + c) * self.inverse_norm2

    def to(self, device: torch.device) -> Self:
        return replace(
            self,
            buckets=tuple(
                Bucket(*(sent(field, device) for field in vars(b).values())) for b in self.buckets
            ),
            order=sent(self.order, device),
            inverse_norm2=sent(self.inverse_norm2, device),
            unit=None if self.unit is None else sent(self.unit, device),
        )


def _spread(values: Tensor) -> Tensor:
    """(B, k, width) as (B, 1, k, width), beside the vectors of each element."""
    return values.unsqueeze(1) if values.dim() == 3 else values


class SingleRow(Variant):
    name = "single_row"
    summary = "one row, or rows that share no column; O(nnz), no matrix built; errs like u"
    needs_disjoint_rows = True
    keeps_sparse = True

    def factor(self, rows: Rows, u: float) -> Factor:
        if rows.sparse or rows.shape[0] > 1:
            return _disjoint(*rows.triplets(), rows)
        a = rows.to_dense()
        # torch's vector_norm adds up in a few running sums, and is off by 2e-4 in 1e7 float32
        # entries; a sum goes by pairs, and equilibrated rows cannot overflow
        norm = a.square().sum(-1, keepdim=True).sqrt()
        inverse = torch.where(norm == 0, 0, 1 / norm)
        return UnitRows((a * inverse).contiguous(), inverse if a.dim() == 3 else inverse[0])

    def error_growth(self, condition: float, u: float) -> float:
        return tolerance.backward_stable_growth(condition, u)

    def flops(self, m: int, n: int) -> tuple[float, float]:
        return (2.0 * n, 4.0 * n) if m else (0.0, 0.0)


def _disjoint(i: Tensor, j: Tensor, values: Tensor, rows: Rows) -> DisjointRows:
    """Bucket rows, sorted triplets, by the power of two above their length."""
    m, n = rows.shape
    length = torch.bincount(i, minlength=m)
    start = torch.cumsum(length, 0) - length
    height = torch.ceil(torch.log2(length.clamp_min(1).double())).long()
    buckets = []
    for h in torch.unique(height).tolist():
        own = (height == h).nonzero().flatten()
        width = int(length[own].max())
        offset = torch.arange(max(width, 1), device=i.device)
        inside = offset < length[own].unsqueeze(-1)
        if len(j) == 0:
            columns = torch.zeros_like(inside, dtype=torch.long)
            padded = values.new_zeros(*values.shape[:-1], *inside.shape)
        else:
            # a row of zeros that pads a batch has no entry: any column will do, its value is zero
            first = start[own].clamp_max(len(j) - 1)
            where = torch.where(inside, start[own].unsqueeze(-1) + offset, first.unsqueeze(-1))
            columns = j[where]
            padded = values[..., where].masked_fill(~inside, 0)
        buckets.append(Bucket(own, columns, padded, inside.flatten().nonzero().flatten()))
    norm2 = values.new_zeros(*values.shape[:-1], m).index_add(-1, i, values.square())
    inverse = torch.where(norm2 == 0, 0, 1 / norm2)
    short = rows.batch is None and 0 < m * n * values.itemsize <= tuning.SMALL
    return DisjointRows(
        tuple(buckets),
        torch.argsort(torch.cat([b.rows for b in buckets])),
        inverse.unsqueeze(1) if inverse.dim() == 2 else inverse,
        rows.to_dense() * inverse.sqrt().unsqueeze(-1) if short else None,
    )
