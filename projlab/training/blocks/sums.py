"""Rows that are sums of views of parameters, such as the row sums of a matrix.

Equal sums of several parameters, as of the weights of equal layers, are one block: each pass over
the entries is one operator a parameter, and whatever is done to residuals is done to all at once.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.kernels import sums as kernels
from projlab.numerics import tuning
from projlab.numerics.transfer import sent
from projlab.training.blocks.base import Block, Shift, largest_of, skipped, widest_dtype
from projlab.training.expressions.maps import Sums
from projlab.training.partition import SumsPlan


class _View(NamedTuple):
    """What one term reads of one parameter, and how that is added up."""

    parameter: int
    sums: Sums
    """With the axes of the residual, and at least one inner axis."""
    whole: bool
    """Whether it is the parameter itself, in the order of its own dimensions."""
    dims: tuple[int, ...]
    """The dimensions that are added up."""
    by_product: bool
    ones: Tensor | None
    """By which a short matrix is multiplied: half the time of a sum of so few entries."""

    def of(self, ts: Sequence[Tensor]) -> Tensor:
        """The view, of parameters or of gradients."""
        t = ts[self.parameter]
        return t if self.whole else self.sums.view(t)

    def sum(self, x: Tensor, work: torch.dtype, out: Tensor | None = None) -> Tensor:
        """The sums of a view, with its dimensions kept."""
        if self.ones is not None:
            left, right = (self.ones, x) if self.dims == (0,) else (x, self.ones)
            return torch.mm(left, right, out=out)
        if not self.by_product:
            return torch.sum(x, self.dims, True, dtype=work, out=out)
        if self.dims == (0,):
            return column_sums(x, out)
        return column_sums(x.mT, None if out is None else out.mT).mT


class SumsBlock(Block):
    """Rows that are sums of views: a sum and a broadcast subtraction, nothing stored but residuals.

    Parameters
    ----------
    plans
        Of one shape, with equal terms over parameters of equal dtypes (`partition.alike`).
    natively
        Whether a kernel is to meet them, where it can.
    """

    disjoint = True
    independent = True

    def __init__(
        self, plans: Sequence[SumsPlan], parameters: Sequence[Tensor], *, natively: bool = False
    ) -> None:
        first = plans[0].terms
        device = parameters[0].device
        self.work = widest_dtype([parameters[p] for p, _ in first])
        laid = [_laid(plan, parameters, self.work) for plan in plans]
        self.rows = sent(torch.stack([rows for rows, _ in laid]), device)
        # one term after the other, and of each those of all plans
        self._views = [views[k] for k in range(len(first)) for _, views in laid]
        self._samples = [v.sums.partial(tuning.GROUPS, tuning.SHARE) for v in self._views]
        scales = torch.tensor([t.scale for _, t in first], dtype=self.work, device="cpu")
        self._scales = sent(scales, device)
        self._scales = self._scales.view(-1, *[1] * self.rows.dim())
        self._scaled = any(t.scale != 1 for _, t in first)
        self._norm2 = sum(t.scale**2 * t.count for _, t in first)
        self._steps = [t.scale / self._norm2 for _, t in first]
        self.variant = "single_row"
        self.shape = (self.rows.numel(), 1, sum(t.count for _, t in first))
        sizes = (len(first), *self.rows.shape)
        self._sums_of_terms = torch.empty(sizes, dtype=self.work, device=device)
        self._outs = [out for term in self._sums_of_terms for out in term.unbind(0)]
        one = len(first) == 1
        self._r = self._sums_of_terms[0] if one else torch.empty_like(self._sums_of_terms[0])
        self._rs = self._r.unbind(0)
        self._native = self._kernel(parameters) if natively else None
        self._left = torch.zeros(1, dtype=torch.float64, device="cpu")
        self._left_number = self._left.numpy()

    def _kernel(self, parameters: Sequence[Tensor]) -> kernels.NativeSums | None:
        """The kernel for these rows, where all terms read dense pieces of one precision alike."""
        count, views = len(self._rs), self._views
        shapes = {_dense(v.sums) for v in views}
        if len(shapes) != 1 or None in shapes or not kernels.pay(self.shape[0] * self.shape[2]):
            return None
        if any(parameters[v.parameter].dtype is not self.work for v in views):
            return None
        rows, columns = shapes.pop() or (0, False)
        pieces = [
            [kernels.Piece(v.parameter, v.sums.offset, v.sums.count) for v in views[i::count]]
            for i in range(count)
        ]
        scales = [v.sums.scale for v in views[::count]]
        return kernels.of(kernels.Blocks(rows, columns, pieces, scales, self._steps), self.work)

    @property
    def large(self) -> bool:
        count, _, entries = self.shape
        return count * entries >= tuning.DECIDED * len(self._rs)

    def bind(self, ts: Sequence[Tensor]) -> None:
        self.ts = ts
        self._own = [v.of(ts) for v in self._views]
        self._sampled = [
            s.view(ts[v.parameter]) for v, s in zip(self._views, self._samples, strict=True)
        ]

    def project_(self, b: Tensor, skip: Tensor | None, *, reads: bool, last: bool) -> Tensor:
        if self._native is not None and skip is None:
            right = None if self.homogeneous else b
            left = self._native.meet(self.ts, right, tolerance.ONE_CORRECTION, self.corrections)
            if left is not None:
                self._left_number[0] = left
                return self._left
        return super().project_(b, skip, reads=reads, last=last)

    def residual(self, b: Tensor) -> Tensor:
        r = self._sums(self._own)
        return r if self.homogeneous else r.sub_(b)

    def magnitude(self, b: Tensor) -> Tensor:
        sizes = [v.sum(x.abs(), self.work) for v, x in zip(self._views, self._own, strict=True)]
        return b.abs().add_(self._added(sizes, self._scales.abs()))

    def magnitude_at_least(self, b: Tensor) -> Tensor:
        sizes = []
        for out, sample, x in zip(self._outs, self._samples, self._sampled, strict=True):
            inner = tuple(range(len(sample.out), x.dim()))
            sizes.append(x.sum(inner, dtype=self.work).abs_().sum(0).view(out.shape))
        return b.abs().add_(self._added(sizes, self._scales.abs()))

    def magnitude_at_most(self, b: Tensor) -> Tensor:
        return torch.full_like(b, torch.inf)

    def subtract(self, r: Tensor) -> None:
        self._subtract(self._own, r)

    def one_is_enough(self, b: Tensor, r: Tensor) -> bool:
        if self.b_at_least > 0 and tolerance.ONE_CORRECTION * largest_of(r) <= self.b_at_least:
            return True
        return super().one_is_enough(b, r)

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        native = self._native if shift is None else None
        if native is not None and native.meet(gs, None, 0.0, 0) is not None:
            return
        views = [v.of(gs) for v in self._views]
        self._subtract(views, self._sums(views, shift))

    def multipliers(self, gs: Sequence[Tensor], shift: Shift | None) -> Tensor:
        return self._sums([v.of(gs) for v in self._views], shift) / -self._norm2

    def project_in_metric(self, b: Tensor, inverse: Sequence[Tensor], skip: Tensor | None) -> None:
        weights = [v.of(inverse) for v in self._views]
        sums = [v.sum(w, self.work) for v, w in zip(self._views, weights, strict=True)]
        norm2 = self._added(sums, self._scales.square())
        y = skipped(skipped(self.residual(b), skip) / norm2, norm2 == 0)
        ys = (self._scales * y).flatten(0, 1).unbind(0)
        for view, weight, own in zip(self._own, weights, ys, strict=True):
            view.sub_(own * weight)

    def _added(self, sums: list[Tensor], factors: Tensor) -> Tensor:
        """What the terms come to together, in the shape of the residual."""
        return (torch.stack(sums).view(self._sums_of_terms.shape) * factors).sum(0)

    def _sums(self, views: Sequence[Tensor], shift: Shift | None = None) -> Tensor:
        """A x, or A (g + shift * x) for views of gradients; overwritten by the next one."""
        work, total = self.work, torch.sum
        for x, out, v in zip(views, self._outs, self._views, strict=True):
            if v.by_product or v.ones is not None:
                v.sum(x, work, out)
            else:
                total(x, v.dims, True, dtype=work, out=out)
        if shift is not None:
            for v, x, out in zip(self._views, self._own, self._outs, strict=True):
                out.add_(v.sum(x, self.work) * shift[v.parameter])
        if self._scaled:
            self._sums_of_terms.mul_(self._scales)
        if len(self._steps) > 1:
            torch.sum(self._sums_of_terms, 0, out=self._r)
        return self._r

    def _subtract(self, views: list[Tensor], r: Tensor) -> None:
        rs = self._rs if r is self._r else r.unbind(0)
        if len(views) == 1:
            views[0].sub_(rs[0], alpha=self._steps[0])
            return
        count = len(rs)
        for i, step in enumerate(self._steps):
            torch._foreach_sub_(views[i * count : (i + 1) * count], rs, alpha=step)


def _laid(
    plan: SumsPlan, parameters: Sequence[Tensor], work: torch.dtype
) -> tuple[Tensor, list[_View]]:
    """The numbers of the rows in the shape of their sums, and a view for each term.

    Where every term adds up dimensions of a whole parameter, and all of them keep the same ones,
    the parameters are taken as they are: operators on them are faster than on views.
    """
    found = [_dimensions(t, parameters[p]) for p, t in plan.terms]
    first = found[0]
    if first is not None and all(f is not None and f[:2] == first[:2] for f in found):
        order, kept, _ = first
        rows = plan.rows.permute(order).reshape(kept)
        views = []
        for (p, t), f in zip(plan.terms, found, strict=True):
            assert f is not None
            t = replace(t, out=tuple(t.out[i] for i in order))
            product = len(kept) == 2 and _by_product(t, parameters[p], work)
            views.append(_View(p, t, True, f[2], product, _ones(parameters[p], f[2], work)))
        return rows, views
    # every view gets as many inner axes, so that sums that keep them broadcast to all views
    axes = max(1, *(len(t.inner) for _, t in plan.terms))
    dims = tuple(range(plan.rows.dim(), plan.rows.dim() + axes))
    views = []
    for p, t in plan.terms:
        t = replace(t, inner=t.inner + ((1, 1),) * (axes - len(t.inner)))
        views.append(_View(p, t, False, dims, _by_product(t, parameters[p], work), None))
    return plan.rows.reshape(*plan.rows.shape, *[1] * axes), views


def _dense(sums: Sums) -> tuple[int, bool] | None:
    """Of sums over pieces of memory without gaps: `rows` and `columns` of `kernels.Blocks`."""
    rows = math.prod(sums.shape)
    out = _pitch(sums.out)
    inner = _pitch(sorted(sums.inner, key=lambda axis: -axis[1]))
    if inner == 1 and (rows == 1 or out == sums.count):
        return rows, False
    if out == 1 and inner == rows:
        return rows, True
    return None


def _pitch(axes: Sequence[tuple[int, int]]) -> int | None:
    """The distance of entries that are equally far apart, in the order of the axes; else None."""
    pitch, expected = None, None
    for size, stride in reversed(axes):
        if size == 1:
            continue
        if expected is not None and stride != expected:
            return None
        pitch = stride if pitch is None else pitch
        expected = size * stride
    return pitch


def _dimensions(
    sums: Sums, parameter: Tensor
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Of sums over dimensions of a whole parameter; None where they are something else.

    In which order its dimensions take the out axes, the shape with the summed ones kept, and those.
    """
    shape, strides = parameter.shape, parameter.stride()
    dimension = {(shape[d], strides[d]): d for d in range(parameter.dim()) if shape[d] > 1}
    axes = [axis for axis in sums.out + sums.inner if axis[0] > 1]
    inner = tuple(sorted(dimension.get(axis, -1) for axis in sums.inner if axis[0] > 1))
    if not inner or sums.offset or sorted(axes) != sorted(dimension):
        return None
    order = sorted(range(len(sums.out)), key=lambda i: dimension.get(sums.out[i], -1))
    kept = tuple(1 if d in inner else shape[d] for d in range(parameter.dim()))
    return tuple(order), kept, inner


def _ones(parameter: Tensor, dims: tuple[int, ...], work: torch.dtype) -> Tensor | None:
    """Those that add up a short matrix on the CPU in one product of few terms; else None."""
    if parameter.device.type != "cpu" or parameter.dtype is not work or parameter.dim() != 2:
        return None
    if len(dims) > 1 or parameter.numel() > tuning.SHORT or not parameter.is_contiguous():
        return None
    length = parameter.shape[dims[0]]
    if length > tuning.PIECE:
        return None
    return parameter.new_ones((1, length) if dims == (0,) else (length, 1), requires_grad=False)


def _by_product(sums: Sums, parameter: Tensor, work: torch.dtype) -> bool:
    return parameter.dtype is work and sums_by_product(parameter, sums)


def sums_by_product(parameter: Tensor, sums: Sums) -> bool:
    """Whether sums over one axis of a contiguous parameter are faster as products with ones."""
    if parameter.device.type != "cpu" or len(sums.out) != 1 or len(sums.inner) != 1:
        return False
    (n, across), (k, down) = sums.out[0], sums.inner[0]
    aligned = down * parameter.itemsize % tuning.PAGE == 0 and k % tuning.PIECE == 0
    return aligned and across == 1 and n * k >= tuning.BY_PRODUCT


def column_sums(matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """(1, n) sums of the columns of a matrix (k, n), as products with ones."""
    pieces = matrix.unflatten(0, (-1, tuning.PIECE))
    ones = pieces.new_ones(1, 1, tuning.PIECE).expand(len(pieces), -1, -1)
    return torch.sum(torch.bmm(ones, pieces), 0, out=out)
