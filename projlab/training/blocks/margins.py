"""Sums of one grid over different axes: averages that commute, subtracted one after the other.

With M_i the average over the axes that equation i adds up, and m_i what it wants that average to
be, x <- x - (M_i x - m_i) for each i in turn is the projection onto all of them. What one has
changed is known without reading x again, because averages of averages are averages:

    s_i = (M_i x - m_i) - M_i (s_1 + ... + s_{i-1}),    x <- x - s_1 - s_2 - ...,

where s_i has the size of the right side of equation i. Equations that add up sums of another one
follow from it and are left out. The sums over both dimensions of a matrix are subtracted in one
pass, as the product of (1, s_1) and (s_2, 1).

Reference: see `projlab.training.grids`.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.kernels import margins as kernels
from projlab.numerics import tuning
from projlab.numerics.transfer import sent
from projlab.system.rank import wide_data
from projlab.training.blocks.base import Block, Shift, largest_of, unit, widest_dtype
from projlab.training.blocks.sums import column_sums, sums_by_product
from projlab.training.expressions.maps import Sums
from projlab.training.grids import Margin, MarginsPlan


@dataclass(frozen=True)
class _Corrections:
    """Memory for the corrections of the independent equations, and how they are subtracted."""

    flat: Tensor
    """All of them, one after the other."""
    parts: list[Tensor]
    """In the shapes of their margins."""
    factors: tuple[Tensor, Tensor] | None
    """Of rows and columns, (1, s) and (t, 1), where their product is what is subtracted."""

    @staticmethod
    def of(margins: Sequence[Margin], like: Tensor, *, product: bool) -> "_Corrections":
        """With the dtype and device of a tensor."""
        sizes = [m.rows.numel() for m in margins]
        before, behind = sizes if product else (0, 0)
        # ones, s_1, s_2, ones: two matrices of two rows each, and what is computed in one piece
        memory = like.new_ones(before + sum(sizes) + behind)
        flat = memory[before : before + sum(sizes)]
        parts = zip(flat.split(sizes), margins, strict=True)
        factors = None
        if product:
            first, second = memory[: 2 * before].view(2, -1), memory[2 * before :].view(2, -1)
            rows_first = margins[0].dims == (1,)
            factors = (first.T, second) if rows_first else (second.T, first)
        return _Corrections(flat, [part.view(m.rows.shape) for part, m in parts], factors)

    def subtract_from(self, view: Tensor) -> None:
        """From the grid."""
        if self.factors is not None:
            view.addmm_(*self.factors, alpha=-1)
            return
        for s in self.parts:
            view.sub_(s)


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
        self.rows = sent(torch.cat([m.rows.flatten() for m in self.margins]), parameter.device)
        scales = [m.sums.scale for m in self.margins]
        counts = [m.sums.count for m in self.margins]
        device = parameter.device
        self._scales = None if set(scales) == {1.0} else self._spread(scales, device)
        pairs = list(zip(scales, counts, strict=True))
        self._per_entry = self._spread([1 / (s * count) for s, count in pairs], device)
        shares = self._spread([1 / count for count in counts], device)
        # a correction is at most its mean, and what the earlier ones leave of theirs
        most = sum(1 / abs(scales[i] * counts[i]) for i in self._independent)
        most *= 2 ** (len(self._independent) - 1)
        self._spreading = 1 + max(abs(scale) * count for scale, count in pairs) * most
        """How many times the largest residual `_moved_by_rounding` may come to."""
        self._samples = [m.sums.partial(tuning.GROUPS, tuning.SHARE) for m in self.margins]
        flat = len(plan.grid.shape) == 2
        axes = tuple(zip(parameter.shape, parameter.stride(), strict=True))
        self._whole = plan.grid.out == axes and plan.grid.offset == 0
        self._by_product = [
            flat and parameter.dtype is self.work and sums_by_product(parameter, m.sums)
            for m in self.margins
        ]
        own = self.margins[: len(self._independent)]
        self._r = torch.empty(sum(self._sizes), dtype=self.work, device=device)
        self._parts = [self._part(self._r, i) for i in range(len(self.margins))]
        both = flat and sorted(m.dims for m in own) == [(0,), (1,)]
        product = both and parameter.dtype is self.work and _multiplied(self.grid)
        self._native = both and self._whole and kernels.pay(parameter)
        self._down = int(self._native and own[1].dims == (0,))
        """Of the two parts, that of the columns' sums."""
        self._corrections = _Corrections.of(own, self._r, product=product)
        """Of which everything is overwritten by the next residual or correction."""
        self._shares = shares[: len(self._corrections.flat)]
        self._lengths = self._per_entry[: len(self._corrections.flat)]
        self._couplings = [_coupling(own, i, j) for i in range(len(own)) for j in range(i)]
        self.variant = "commuting means"
        self.shape = (1, sum(self._sizes), math.prod(plan.grid.shape))

    @property
    def large(self) -> bool:
        return self.shape[2] >= tuning.DECIDED

    def bind(self, ts: Sequence[Tensor]) -> None:
        self.ts = ts
        self._own = self._view(ts)
        self._sampled = [sample.view(ts[self.parameter]) for sample in self._samples]

    def residual(self, b: Tensor) -> Tensor:
        self._add_up(self._own, self._parts)
        for i in range(len(self._independent), len(self._parts)):
            finer, dims = self._parts[self._finer[i]], self.margins[i].dims
            torch.sum(finer, dims, True, out=self._parts[i]) if dims else self._parts[i].copy_(
                finer
            )
        r = self._r
        if self._scales is not None:
            r.mul_(self._scales)
        return r if self.homogeneous else r.sub_(b)

    def magnitude(self, b: Tensor) -> Tensor:
        sizes = b.new_zeros(len(b))
        # a few of the entries at a time: absolute values are another tensor
        for piece, place in self._pieces(self._own):
            absolute = piece.abs().to(self.work)
            for i, m in enumerate(self.margins):
                own = self._part(sizes, i)
                target = own if 0 in m.dims else own[place]
                target += absolute.sum(m.dims, keepdim=True) if m.dims else absolute
        return self._scaled_sizes(sizes, b)

    def magnitude_at_least(self, b: Tensor) -> Tensor:
        sizes = torch.empty_like(b)
        for i, (sample, view) in enumerate(zip(self._samples, self._sampled, strict=True)):
            inner = tuple(range(len(sample.out), view.dim()))
            own = view.abs().sum((0, *inner), dtype=self.work)
            self._part(sizes, i).copy_(own.reshape(self.margins[i].rows.shape))
        return self._scaled_sizes(sizes, b)

    def magnitude_at_most(self, b: Tensor) -> Tensor:
        low, high = torch.aminmax(self._own)
        largest = torch.maximum(-low, high).to(self.work)
        return b.abs() + largest / self._per_entry.abs()

    def subtract(self, r: Tensor) -> None:
        self._take_off(self._correct(r), self._own)

    def one_is_enough(self, b: Tensor, r: Tensor) -> bool:
        if self.b_at_least > 0:
            needed = tolerance.ONE_CORRECTION * self._spreading * largest_of(r)
            if needed <= self.b_at_least:
                return True
        return super().one_is_enough(b, r)

    def _moved_by_rounding(self, r: Tensor) -> Tensor:
        """|r|, and what rounding of all corrections does to the entries of a row."""
        moved = torch.zeros_like(r)
        for s in self._correct(r).parts:
            for i, m in enumerate(self.margins):
                own = self._part(moved, i)
                own += _mean(s.abs(), m)
        return r.abs() + moved / self._per_entry.abs()

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        view, corrections = self._view(gs), self._corrections
        self._add_up_shifted(view, shift)
        corrections.flat.mul_(self._shares)
        self._separate(corrections.parts)
        self._take_off(corrections, view)

    def multipliers(self, gs: Sequence[Tensor], shift: Shift | None) -> Tensor:
        # each effect, what varies over some axes and averages to zero over each of them, is shared
        # out between the equations whose margins have it
        self._add_up_shifted(self._view(gs), shift)
        parts = zip(self._corrections.parts, self.margins, strict=False)
        means = [part / m.sums.count for part, m in parts]
        y = torch.zeros_like(self._r)
        every = range(len(self.grid.shape))
        kept = [frozenset(every).difference(m.dims) for m in self.margins]
        for axes in {s for own in kept for s in _subsets(own)}:
            finest = next(i for i in self._independent if axes <= kept[i])
            effect = means[finest]
            for d in every:
                mean = effect.mean(d, keepdim=True)
                effect = effect - mean if d in axes else mean
            holders = [i for i, own in enumerate(kept) if axes <= own]
            weights = [self._weight(i) for i in holders]
            for i, weight in zip(holders, weights, strict=True):
                share = weight / sum(weights) / self.margins[i].sums.scale
                self._part(y, i).sub_(effect * share)
        return y

    def _weight(self, i: int) -> float:
        """The share of equation i in an effect: its rows' squared norms, equilibrated, a row."""
        m = self.margins[i]
        norm = abs(m.sums.scale) * math.sqrt(m.sums.count)
        D = float(unit(torch.tensor(norm, dtype=torch.float64, device="cpu")))
        return float(m.sums.scale * D) ** 2 / m.rows.numel()

    def contradiction(
        self, b: Tensor, u: float, error: Tensor | None = None
    ) -> list[tuple[Tensor, float]] | None:
        """Rows of two equations that no entries satisfy, for data of unit roundoff u.

        Of either, row numbers, and what the same entries add up to by these rows.
        Equations of commuting averages agree as soon as any two of them do on what both determine.
        With `error`, by how much each right side may be off, only what that does not explain.
        """
        entries = self.shape[2]
        wanted = self._averages(b)
        own = [w.clone() for w in wanted[: len(self._independent)]]
        length = self._norm(self._separate(own))
        errors = None if error is None else [w.abs() for w in self._averages(error)]
        for i, j in itertools.combinations(range(len(wanted)), 2):
            one, two = self.margins[i], self.margins[j]
            first, second = _mean(wanted[i], two), _mean(wanted[j], one)
            apart = (first - second).abs()
            if errors is not None:
                apart = (apart - _mean(errors[i], two) - _mean(errors[j], one)).clamp_min(0)
            sides = ((wanted[i], one, two), (wanted[j], two, one))
            if self._apart(apart, sides, length, u):
                where = int(torch.argmax(apart))
                both = entries // apart.numel()
                return [
                    (_rows_at(own, apart.shape, where), float(mean.flatten()[where]) * both)
                    for own, mean in ((one, first), (two, second))
                ]
        return None

    def nearby(self, b: Tensor) -> Tensor:
        """Right sides that agree: the sums of the grid to which b takes a grid of zeros.

        What one equation asks is corrected by the next, so that the last of them keeps its b.
        """
        wanted = self._averages(b)
        effects = self._separate([w.clone() for w in wanted[: len(self._independent)]])
        meant = torch.empty_like(b)
        for i, m in enumerate(self.margins):
            average = torch.stack([_mean(s, m).expand(m.rows.shape) for s in effects]).sum(0)
            self._part(meant, i).copy_(average * (m.sums.scale * m.sums.count))
        return meant

    def _averages(self, b: Tensor) -> list[Tensor]:
        """The average of the grid that each equation asks for, in the shape of its margin."""
        return [
            self._part(b, i) / (m.sums.scale * m.sums.count) for i, m in enumerate(self.margins)
        ]

    def _apart(
        self,
        apart: Tensor,
        sides: Sequence[tuple[Tensor, Margin, Margin]],
        length: float,
        u: float,
    ) -> bool:
        """Whether averages that are so far apart contradict each other; judged as a projector does.

        Each side: the averages wanted, their margin and the other one. Of float64 data, half of
        what two are apart is left of each row in least squares; of coarser data only what rounding
        of the entries does counts, of all rows of both that add up the same entries.
        """
        if not wide_data(u):
            sizes = [
                _mean(w.abs(), other) + length / math.sqrt(m.sums.count) for w, m, other in sides
            ]
            return bool((apart > tolerance.ROUNDED_ONCE * u * (sizes[0] + sizes[1])).any())
        total, entries = self.shape[1:]
        factor = tolerance.consistency_factor(tolerance.rank_cutoff(total, entries, u))
        return any(
            bool(
                (
                    math.sqrt(m.sums.count) * apart / 2
                    > factor * (length + math.sqrt(m.sums.count) * w.abs())
                ).any()
            )
            for w, m, _ in sides
        )

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
        sizes = torch.tensor(self._sizes, dtype=torch.long, device="cpu")
        each = torch.tensor(values, dtype=torch.float64, device="cpu").repeat_interleave(sizes)
        return sent(each, device, self.work)

    def _scaled_sizes(self, sizes: Tensor, b: Tensor) -> Tensor:
        return b.abs() + (sizes if self._scales is None else sizes * self._scales.abs())

    def _pieces(self, view: Tensor) -> list[tuple[Tensor, Any]]:
        """The grid in parts along its first axis, and where each is."""
        if not view.dim():  # one entry
            return [(view, ...)]
        size = max(1, len(view) // tuning.GROUPS)
        starts = range(0, len(view), size)
        return [(view[i : i + size], slice(i, i + size)) for i in starts]

    def _view(self, ts: Sequence[Tensor]) -> Tensor:
        """The grid, in parameters or gradients."""
        t = ts[self.parameter]
        return t if self._whole else self.grid.view(t)

    def _correct(self, r: Tensor) -> _Corrections:
        """The corrections that a residual asks for."""
        flat = self._corrections.flat
        independent = r if len(r) == len(flat) else r[: len(flat)]
        torch.mul(independent, self._lengths, out=flat)
        self._separate(self._corrections.parts)
        return self._corrections

    def _separate(self, means: list[Tensor]) -> list[Tensor]:
        """From means to s_i of the module's docstring, in place."""
        for i, j, dims, share in self._couplings:
            s = means[j]
            means[i].sub_(torch.sum(s, dims, True) if dims else s, alpha=share)
        return means

    def _add_up(self, view: Tensor, parts: Sequence[Tensor]) -> None:
        """The sums of the independent equations, without their scales, into the first parts."""
        if self._native and kernels.add_up(view, parts[self._down], parts[1 - self._down]):
            return
        for i in self._independent:
            self._sum(i, view, parts[i])

    def _add_up_shifted(self, view: Tensor, shift: Shift | None) -> None:
        """The sums of g + shift * x, without their scales, into the corrections' memory."""
        corrections = self._corrections
        self._add_up(view, corrections.parts)
        if shift is not None:
            self._add_up(self._own, self._parts)
            own = self._r[: len(corrections.flat)]
            corrections.flat.add_(own * shift[self.parameter])

    def _take_off(self, corrections: _Corrections, view: Tensor) -> None:
        """Subtract corrections from the grid."""
        parts = corrections.parts
        if self._native and kernels.take_off(view, parts[self._down], parts[1 - self._down]):
            return
        corrections.subtract_from(view)

    def _sum(self, i: int, view: Tensor, out: Tensor) -> None:
        """The sums of equation i without its scale, in the shape of its margin, of the grid."""
        dims = self.margins[i].dims
        if self._by_product[i]:
            column_sums(view, out)
        elif dims:
            torch.sum(view, dims, True, dtype=self.work, out=out)
        else:
            out.copy_(view)


def _finer(margins: Sequence[Margin], i: int) -> int:
    """An equation that number i follows from, and that follows from no other; else i."""
    for j, other in enumerate(margins):
        strictly = set(other.dims) < set(margins[i].dims)
        if strictly or (j < i and other.dims == margins[i].dims):
            return _finer(margins, j)
    return i


def _multiplied(grid: Sums) -> bool:
    """Whether a product can write to the view of a matrix as it lies."""
    return min(stride for _, stride in grid.out) == 1


def _coupling(margins: Sequence[Margin], i: int, j: int) -> tuple[int, int, tuple[int, ...], float]:
    """How a correction of equation j enters number i: summed over which axes, and times what."""
    shape = margins[j].rows.shape
    dims = tuple(d for d in margins[i].dims if shape[d] > 1)
    return i, j, dims, 1 / math.prod(shape[d] for d in dims)


def _mean(t: Tensor, margin: Margin) -> Tensor:
    """The average of a broadcast margin over the axes of another one."""
    dims = tuple(d for d in margin.dims if t.shape[d] > 1)
    return t.mean(dims, keepdim=True) if dims else t


def _subsets(axes: frozenset[int]) -> Iterator[frozenset[int]]:
    """All of them, the empty one as well."""
    for size in range(len(axes) + 1):
        yield from map(frozenset, itertools.combinations(sorted(axes), size))


def _rows_at(margin: Margin, joint: torch.Size, position: int) -> Tensor:
    """The rows of a margin that add up to one entry of a coarser one."""
    rows = margin.rows
    for d, index in enumerate(
        torch.unravel_index(torch.tensor(position, dtype=torch.long, device="cpu"), joint)
    ):
        if joint[d] > 1:
            rows = rows.narrow(d, int(index), 1)
    return rows.flatten()
