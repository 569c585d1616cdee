"""Sums of one grid of entries over different axes of it, which are projected onto one by one.

Rows that add up a grid over some of its axes span what averaging over these axes leaves; averages
over different axes commute, and so do their projections: the analysis of variance.

Reference: Scheffe, "The Analysis of Variance" (1959), chapter 4; Halmos, "Finite-Dimensional Vector
Spaces", section 43 (a product of projections that commute is the projection onto the
intersection).
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from projlab.training.expressions.maps import Axes, Sums


@dataclass(frozen=True)
class Margin:
    """One equation: the sums of a grid over some of its axes, all with one scale."""

    rows: Tensor
    """Row numbers, in the shape of the grid with 1 for the axes that are summed."""
    dims: tuple[int, ...]
    """The axes of the grid that are summed."""
    sums: Sums
    """The same rows over the parameter: its out axes are the others, in the order of the grid."""


@dataclass(frozen=True)
class MarginsPlan:
    """Sums of one grid over different axes: nothing is stored, and each pass reads the grid."""

    parameter: int
    grid: Sums
    """The view of the grid: sums without inner axes."""
    margins: tuple[Margin, ...]


def coarsest(axes: Axes) -> Axes:
    """The fewest axes that reach the same entries, outermost first."""
    merged: list[tuple[int, int]] = []
    for size, stride in sorted(axes, key=lambda axis: -axis[1]):
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return tuple(merged)


def refined(axes: Axes, cuts: Iterable[int]) -> Axes | None:
    """The axes split at these strides, in order; None where one does not fall between entries."""
    pieces: list[tuple[int, int]] = []
    for size, stride in axes:
        if size == 1:  # whose stride may be zero, as of a sum that was broadcast
            continue
        inside = [cut for cut in cuts if stride < cut <= (size - 1) * stride]
        bounds = [stride, *sorted(inside), size * stride]
        if any(large % small for small, large in itertools.pairwise(bounds)):
            return None
        pieces += [(large // small, small) for small, large in itertools.pairwise(bounds)][::-1]
    return tuple(axis for axis in pieces if axis[0] > 1)


def margins(parameter: int, equations: Sequence[tuple[int, Sums]]) -> MarginsPlan | None:
    """The plan of several equations, each the number of its first row and sums of its entries.

    All of them over the same entries, given by equal `coarsest` axes and offsets; None where these
    have no axes of which every equation adds up some.
    """
    _, first = equations[0]
    cuts = {stride for _, t in equations for size, stride in t.out + t.inner if size > 1}
    axes = refined(coarsest(first.out + first.inner), cuts)
    if axes is None:
        return None
    found = []
    for start, t in equations:
        out, inner = refined(t.out, cuts), refined(t.inner, cuts)
        assert out is not None
        assert inner is not None
        order = sorted(range(len(out)), key=lambda d: -out[d][1])
        rows = torch.arange(start, start + math.prod(t.shape), device="cpu").reshape(
            [size for size, _ in out]
        )
        rows = rows.permute(order).reshape([1 if a in inner else a[0] for a in axes])
        sums = replace(t, out=tuple(out[d] for d in order), inner=coarsest(inner))
        found.append(Margin(rows, tuple(d for d, a in enumerate(axes) if a in inner), sums))
    grid = Sums(first.parameter, 1.0, axes, (), first.offset)
    return MarginsPlan(parameter, grid, tuple(found))
