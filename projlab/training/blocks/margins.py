"""Sums of one grid over different axes: averages that commute, subtracted one after the other.

With M_i the average over the axes that equation i adds up, and m_i what it wants that average to
be, x <- x - (M_i x - m_i) for each i in turn is the projection onto all of them. What one has
changed is known without reading x again, because averages of averages are averages:

    s_i = (M_i x - m_i) - M_i (s_1 + ... + s_{i-1}),    x <- x - s_1 - s_2 - ...,

where s_i has the size of the right side of equation i. Equations that add up sums of another one
follow from it and are left out.

Reference: see `projlab.training.grids`.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics import tuning
from projlab.training.blocks.base import Block, Shift, widest_dtype
from projlab.training.blocks.sums import column_sums, sums_by_product
from projlab.training.grids import Margin, MarginsPlan


class MarginsBlock(Block):
    """Sums of one grid over different axes of it; O(entries) time, and no memory beside margins."""

    def __init__(self, plan: MarginsPlan, parameters: Sequence[Tensor]) -> None:
        self.grid, self.parameter = plan.grid, plan.parameter
        parameter = parameters[plan.parameter]
        self.work = widest_dtype([parameter])
        finer = [_finer(plan.margins, i) for i in range(len(plan.margins))]
        order = sorted(range(len(finer)), key=lambda i: i != finer[i])
        self.margins = [plan.margins[i] for i in order]
        """Those that follow from another one are the last."""
        self._finer = [order.index(finer[i]) for i in order]
        self._independent = range(sum(i == j for i, j in enumerate(finer)))
        self._sizes = [m.rows.numel() for m in self.margins]
        self._starts = [sum(self._sizes[:i]) for i in range(len(self._sizes) + 1)]
        self.rows = torch.cat([m.rows.flatten() for m in self.margins]).to(parameter.device)
        scales = [m.sums.scale for m in self.margins]
        counts = [m.sums.count for m in self.margins]
        self._scales = None if set(scales) == {1.0} else self._spread(scales, parameter.device)
        pairs = list(zip(scales, counts, strict=True))
        self._per_entry = self._spread([1 / (s * count) for s, count in pairs], parameter.device)
        # a correction is at most its mean, and what the earlier ones leave of theirs
        most = sum(1 / abs(scales[i] * counts[i]) for i in self._independent)
        most *= 2 ** (len(self._independent) - 1)
        self._spreading = 1 + max(abs(scale) * count for scale, count in pairs) * most
        """How many times the largest residual `_moved_by_rounding` may come to."""
        self._samples = [m.sums.partial(tuning.GROUPS, tuning.SHARE) for m in self.margins]
        self._by_product = [
            parameter.dtype is self.work and sums_by_product(parameter, m.sums)
            for m in self.margins
        ]
        self.variant = "commuting means"
        self.shape = (1, sum(self._sizes), math.prod(plan.grid.shape))

    @property
    def large(self) -> bool:
        return self.shape[2] >= tuning.DECIDED

    def residual(self, b: Tensor) -> Tensor:
        view = self.grid.view(self.ts[self.parameter])
        sums = [self._sum(i, view) for i in self._independent]
        for i in range(len(sums), len(self.margins)):
            sums.append(sums[self._finer[i]].sum(self.margins[i].dims, keepdim=True))
        r = torch.cat([s.flatten() for s in sums])
        if self._scales is not None:
            r.mul_(self._scales)
        return r if self.homogeneous else r.sub_(b)

    def magnitude(self, b: Tensor) -> Tensor:
        view = self.grid.view(self.ts[self.parameter])
        sizes = b.new_zeros(len(b))
        # a few of the entries at a time: absolute values are another tensor
        for piece, place in self._pieces(view):
            absolute = piece.abs().to(self.work)
            for i, m in enumerate(self.margins):
                own = self._part(sizes, i)
                target = own if 0 in m.dims else own[place]
                target += absolute.sum(m.dims, keepdim=True) if m.dims else absolute
        return self._scaled_sizes(sizes, b)

    def magnitude_at_least(self, b: Tensor) -> Tensor:
        x = self.ts[self.parameter]
        sizes = torch.empty_like(b)
        for i, sample in enumerate(self._samples):
            view, out = sample.view(x), len(sample.out)
            inner = tuple(range(out, view.dim()))
            own = view.abs().sum((0, *inner), dtype=self.work)
            self._part(sizes, i).copy_(own.reshape(self.margins[i].rows.shape))
        return self._scaled_sizes(sizes, b)

    def magnitude_at_most(self, b: Tensor) -> Tensor:
        low, high = torch.aminmax(self.grid.view(self.ts[self.parameter]))
        largest = torch.maximum(-low, high).to(self.work)
        return b.abs() + largest / self._per_entry.abs()

    def subtract(self, r: Tensor) -> None:
        view = self.grid.view(self.ts[self.parameter])
        self._subtract(view, self._corrections(self._means(r)))

    def one_is_enough(self, b: Tensor, r: Tensor) -> bool:
        if self.b_at_least > 0:
            largest = float(r.abs().max())
            if tolerance.ONE_CORRECTION * self._spreading * largest <= self.b_at_least:
                return True
        return super().one_is_enough(b, r)

    def _moved_by_rounding(self, r: Tensor) -> Tensor:
        """|r|, and what rounding of all corrections does to the entries of a row."""
        moved = torch.zeros_like(r)
        for s in self._corrections(self._means(r)):
            for i, m in enumerate(self.margins):
                own = self._part(moved, i)
                own += _mean(s.abs(), m)
        return r.abs() + moved / self._per_entry.abs()

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        view = self.grid.view(gs[self.parameter])
        sums = [self._sum(i, view) for i in self._independent]
        if shift is not None:
            own, factor = self.grid.view(self.ts[self.parameter]), shift[self.parameter]
            sums = [s + self._sum(i, own) * factor for i, s in enumerate(sums)]
        means = [s / m.sums.count for s, m in zip(sums, self.margins, strict=False)]
        self._subtract(view, self._corrections(means))

    def contradiction(self, b: Tensor, u: float) -> list[tuple[Tensor, float]] | None:
        """Rows of two equations that no entries satisfy, for data of unit roundoff u.

        Of either, row numbers, and what the same entries add up to by these rows.
        Equations of commuting averages agree as soon as any two of them do on what both determine.
        Half of what two are apart is left of each in least squares; rows are judged by that.
        """
        total, entries = self.shape[1:]
        factor = tolerance.consistency_factor(tolerance.rank_cutoff(total, entries, u))
        wanted = [
            self._part(b, i) / (m.sums.scale * m.sums.count) for i, m in enumerate(self.margins)
        ]
        length = self._norm(self._corrections(wanted[: len(self._independent)]))
        for i, j in itertools.combinations(range(len(wanted)), 2):
            one, two = self.margins[i], self.margins[j]
            first, second = _mean(wanted[i], two), _mean(wanted[j], one)
            apart = (first - second).abs()
            for k, m in ((i, one), (j, two)):
                root = math.sqrt(m.sums.count)
                off = root * apart / 2 > factor * (length + root * wanted[k].abs())
                if bool(off.any()):
                    where = int(torch.argmax(apart))
                    both = entries // apart.numel()
                    return [
                        (_rows_at(own, apart.shape, where), float(mean.flatten()[where]) * both)
                        for own, mean in ((one, first), (two, second))
                    ]
        return None

    def _norm(self, corrections: list[Tensor]) -> float:
        """The norm of the sum of broadcast margins, without the grid.

        An inner product of averages over different axes is that of their averages over both.
        """
        square = 0.0
        own = [self.margins[i] for i in self._independent]
        for (s, m), (t, n) in itertools.product(zip(corrections, own, strict=True), repeat=2):
            product = _mean(s, n) * _mean(t, m)
            square += float(product.sum()) * (self.shape[2] // product.numel())
        return math.sqrt(max(square, 0.0))

    def _part(self, flat: Tensor, i: int) -> Tensor:
        """The part of equation i of all rows, in the shape of its margin."""
        return flat[self._starts[i] : self._starts[i + 1]].view(self.margins[i].rows.shape)

    def _spread(self, values: Sequence[float], device: torch.device) -> Tensor:
        """One number an equation, for each of its rows."""
        sizes = torch.tensor(self._sizes)
        return (
            torch.tensor(values, dtype=torch.float64)
            .repeat_interleave(sizes)
            .to(device=device, dtype=self.work)
        )

    def _scaled_sizes(self, sizes: Tensor, b: Tensor) -> Tensor:
        return b.abs() + (sizes if self._scales is None else sizes * self._scales.abs())

    def _pieces(self, view: Tensor) -> list[tuple[Tensor, slice]]:
        """The grid in parts along its first axis, and where each is."""
        size = max(1, len(view) // tuning.GROUPS)
        starts = range(0, len(view), size)
        return [(view[i : i + size], slice(i, i + size)) for i in starts]

    def _means(self, r: Tensor) -> list[Tensor]:
        """Residuals of the independent equations, per entry of their sums."""
        means = r * self._per_entry
        return [self._part(means, i) for i in self._independent]

    def _corrections(self, means: list[Tensor]) -> list[Tensor]:
        """s_i of the module's docstring."""
        found: list[Tensor] = []
        for s, m in zip(means, self.margins, strict=False):
            for earlier in found:
                s = s - _mean(earlier, m)
            found.append(s)
        return found

    def _subtract(self, view: Tensor, corrections: list[Tensor]) -> None:
        for s in corrections:
            view.sub_(s)

    def _sum(self, i: int, view: Tensor) -> Tensor:
        """The sums of equation i without its scale, in the shape of its margin, of the grid."""
        if self._by_product[i]:
            return column_sums(view)
        dims = self.margins[i].dims
        return view.sum(dims, keepdim=True, dtype=self.work) if dims else view.to(self.work)


def _finer(margins: Sequence[Margin], i: int) -> int:
    """An equation that number i follows from, and that follows from no other; else i."""
    for j, other in enumerate(margins):
        strictly = set(other.dims) < set(margins[i].dims)
        if strictly or (j < i and other.dims == margins[i].dims):
            return _finer(margins, j)
    return i


def _mean(t: Tensor, margin: Margin) -> Tensor:
    """The average of a broadcast margin over the axes of another one."""
    dims = tuple(d for d in margin.dims if t.shape[d] > 1)
    return t.mean(dims, keepdim=True) if dims else t


def _rows_at(margin: Margin, joint: torch.Size, position: int) -> Tensor:
    """The rows of a margin that add up to one entry of a coarser one."""
    rows = margin.rows
    for d, index in enumerate(torch.unravel_index(torch.tensor(position), joint)):
        if joint[d] > 1:
            rows = rows.narrow(d, int(index), 1)
    return rows.flatten()
