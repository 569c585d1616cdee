"""Rows that are sums of views of parameters, such as the row sums of a matrix."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics import tuning
from projlab.training.blocks.base import Block, Shift, skipped, widest_dtype
from projlab.training.expressions.maps import Sums
from projlab.training.partition import SumsPlan


class SumsBlock(Block):
    """Rows that are sums of views: a sum and a broadcast subtraction, nothing stored."""

    disjoint = True

    def __init__(self, plan: SumsPlan, parameters: Sequence[Tensor]) -> None:
        self.terms = plan.terms
        self.work = widest_dtype([parameters[p] for p, _ in plan.terms])
        # every view gets as many inner axes, so that sums that keep them broadcast to all views
        axes = max(1, *(len(t.inner) for _, t in plan.terms))
        rows = plan.rows.to(parameters[0].device)
        self.rows = rows.reshape(*rows.shape, *[1] * axes)
        self._inner = tuple(range(rows.dim(), rows.dim() + axes))
        self._padded = [
            (p, replace(t, inner=t.inner + ((1, 1),) * (axes - len(t.inner))))
            for p, t in plan.terms
        ]
        self._samples = [(p, t.partial(tuning.GROUPS, tuning.SHARE)) for p, t in self._padded]
        self._scales = [t.scale for _, t in plan.terms]
        self._by_product = [
            axes == 1 and parameters[p].dtype is self.work and sums_by_product(parameters[p], t)
            for p, t in self._padded
        ]
        norm2 = sum(t.scale**2 * t.count for _, t in plan.terms)
        self._steps = [t.scale / norm2 for _, t in plan.terms]
        self.variant = "single_row"
        entries = sum(t.count for _, t in plan.terms)
        self.shape = (plan.rows.numel(), 1, entries)

    @property
    def large(self) -> bool:
        count, _, entries = self.shape
        return count * entries >= tuning.DECIDED

    def bind(self, ts: Sequence[Tensor]) -> None:
        self.ts = ts
        self._own = self._views(ts)

    def residual(self, b: Tensor) -> Tensor:
        r = self._sums(self._own)
        return r if self.homogeneous else r.sub_(b)

    def magnitude(self, b: Tensor) -> Tensor:
        total = b.abs()
        for view, scale in zip(self._own, self._scales, strict=True):
            total.add_(self._sum(view.abs()), alpha=abs(scale))
        return total

    def magnitude_at_least(self, b: Tensor) -> Tensor:
        total = b.abs()
        for p, t in self._samples:
            sums = t.view(self.ts[p]).sum([i + 1 for i in self._inner], True, dtype=self.work)
            total.add_(sums.abs_().sum(0), alpha=abs(t.scale))
        return total

    def magnitude_at_most(self, b: Tensor) -> Tensor:
        return torch.full_like(b, torch.inf)

    def subtract(self, r: Tensor) -> None:
        self._subtract(self._own, r)

    def one_is_enough(self, b: Tensor, r: Tensor) -> bool:
        if (
            self.b_at_least > 0
            and tolerance.ONE_CORRECTION * r.abs().max().item() <= self.b_at_least
        ):
            return True
        return super().one_is_enough(b, r)

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        views = self._views(gs)
        y = self._sums(views)
        if shift is not None:
            for view, scale, (p, _) in zip(self._own, self._scales, self.terms, strict=True):
                y = y + self._sum(view) * scale * shift[p]
        self._subtract(views, y)

    def project_in_metric(self, b: Tensor, inverse: Sequence[Tensor], skip: Tensor | None) -> None:
        weights = self._views(inverse)
        norm2 = torch.zeros_like(b)
        for view, scale in zip(weights, self._scales, strict=True):
            norm2 = norm2 + self._sum(view) * scale**2
        y = skipped(skipped(self.residual(b), skip) / norm2, norm2 == 0)
        for view, weight, scale in zip(self._own, weights, self._scales, strict=True):
            view.sub_(y * weight, alpha=scale)

    def _views(self, ts: Sequence[Tensor]) -> list[Tensor]:
        return [t.view(ts[p]) for p, t in self._padded]

    def _sum(self, view: Tensor) -> Tensor:
        return view.sum(self._inner, True, dtype=self.work)

    def _sums(self, views: Sequence[Tensor]) -> Tensor:
        """A x, in memory of its own."""
        total: Tensor | None = None
        for view, scale, product in zip(views, self._scales, self._by_product, strict=True):
            s = column_sums(view) if product else self._sum(view)
            if total is not None:
                total.add_(s, alpha=scale)
            else:
                total = s if scale == 1 else s.mul_(scale)
        assert total is not None
        return total

    def _subtract(self, views: Sequence[Tensor], r: Tensor) -> None:
        for view, step in zip(views, self._steps, strict=True):
            view.sub_(r, alpha=step)


def sums_by_product(parameter: Tensor, sums: Sums) -> bool:
    """Whether sums over one axis of a contiguous parameter are faster as products with ones."""
    if parameter.device.type != "cpu" or len(sums.out) != 1 or len(sums.inner) != 1:
        return False
    (n, across), (k, down) = sums.out[0], sums.inner[0]
    aligned = down * parameter.itemsize % tuning.PAGE == 0 and k % tuning.PIECE == 0
    return aligned and across == 1 and n * k >= tuning.DECIDED


def column_sums(view: Tensor) -> Tensor:
    """(n, 1) sums of the columns of a matrix (k, n), given as (n, k), as products with ones."""
    pieces = view.mT.unflatten(0, (-1, tuning.PIECE))
    ones = pieces.new_ones(1, 1, tuning.PIECE).expand(len(pieces), -1, -1)
    return torch.bmm(ones, pieces).sum(0).mT
