"""Structure of a constraint that a variant can use: disjoint rows, independent blocks.

Equations over parameters are split into blocks that share no entry of any parameter: equations
whose rows are sums of views stay views; the rest falls into the connected components of the graph
that joins a row to the entries it holds, and equal components are batched.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from projlab.system.rows import SparseRows, sparse_rows
from projlab.training.expressions.maps import Map, Matrix, Sums

FEW = 16
"""Blocks of different shapes that are worth a kernel launch each; more are put together."""


class RowSet(NamedTuple):
    """The rows of one equation: those from `start` on, and a map of each parameter by its index."""

    start: int
    shape: torch.Size
    terms: tuple[tuple[int, Map], ...]

    @property
    def height(self) -> int:
        """Number of rows."""
        return math.prod(self.shape)


class Piece(NamedTuple):
    """Entries of one parameter, (B, n): a view of it, or stored columns."""

    parameter: int
    where: Sums | Tensor


@dataclass(frozen=True)
class SumsPlan:
    """Rows that are sums of views and share no entry with each other: nothing is stored."""

    rows: Tensor
    """Row numbers, in the shape of the views' out axes."""
    terms: tuple[tuple[int, Sums], ...]


@dataclass(frozen=True)
class MatrixPlan:
    """B blocks of one shape."""

    rows: Tensor
    """(B, m) row numbers."""
    pieces: tuple[Piece, ...]
    A: Tensor | SparseRows
    """(m, n) where all blocks are equal, or (B, m, n); sparse for one block of few entries."""


Plan = SumsPlan | MatrixPlan


def split(
    rowsets: Sequence[RowSet], parameters: Sequence[Tensor], *, sums: bool, join: bool
) -> tuple[list[Plan], Tensor]:
    """Independent blocks, and the numbers of rows without any entry.

    Parameters
    ----------
    rowsets
        Equations; maps of parameters by their index in `parameters`.
    parameters
        Only shapes and strides are read.
    sums
        Whether sums of views may stay views: where the variant of disjoint rows is welcome.
    join
        Whether many single rows of different lengths may be put into one block.
    """
    rowsets = [
        r._replace(terms=tuple((p, t) for p, t in r.terms if not _is_zero(t))) for r in rowsets
    ]
    groups, tangled = _groups(rowsets, parameters)
    views: list[SumsPlan] = []
    plans: list[Plan] = []
    scattered: list[RowSet] = []
    for group in groups:
        members = [rowsets[i] for i in group]
        alone = members[0] if len(members) == 1 and group[0] not in tangled else None
        if sums and alone is not None and _is_sums(alone, parameters):
            rows = torch.arange(alone.start, alone.start + alone.height).reshape(alone.shape)
            views.append(
                SumsPlan(rows, tuple((p, t) for p, t in alone.terms if isinstance(t, Sums)))
            )
        elif any(isinstance(t, Matrix) for r in members for _, t in r.terms):
            plans.append(_dense(members, parameters))
        else:
            scattered += members
    views = _merged(views)
    if join and len(views) > FEW:
        # many views of no common pattern: one block that gathers is faster than a launch for each
        small = [v for v in views if v.rows.numel() == 1]
        if len(small) > FEW:
            views = [v for v in views if v.rows.numel() != 1]
            scattered += [RowSet(int(v.rows), v.rows.shape, v.terms) for v in small]
    found, empty = _components(scattered, parameters, join=join)
    return [*views, *plans, *found], empty


def _is_zero(term: Map) -> bool:
    return isinstance(term, Sums) and (term.scale == 0 or term.count == 0)


def _is_sums(rows: RowSet, parameters: Sequence[Tensor]) -> bool:
    return bool(rows.terms) and all(
        isinstance(t, Sums)
        and t.injective
        and all(stride > 0 or size == 1 for size, stride in t.out)
        and parameters[p].is_contiguous()
        for p, t in rows.terms
    )


def _footprint(term: Map) -> Sums | Tensor:
    if isinstance(term, Sums):
        return term
    return term.source if isinstance(term, Matrix) else term.cols


def _span(footprint: Sums | Tensor) -> tuple[int, int]:
    if isinstance(footprint, Sums):
        return footprint.offset, footprint.last
    if len(footprint) == 0:
        return 0, -1
    return int(footprint.min()), int(footprint.max())


def _groups(
    rowsets: Sequence[RowSet], parameters: Sequence[Tensor]
) -> tuple[list[list[int]], set[int]]:
    """Equations that touch a common entry, together; and those with terms that do so themselves."""
    parent = list(range(len(rowsets)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    touching: dict[int, list[tuple[int, int, int, Sums | Tensor]]] = {}
    for i, r in enumerate(rowsets):
        for p, term in r.terms:
            footprint = _footprint(term)
            touching.setdefault(p, []).append((*_span(footprint), i, footprint))
    tangled: set[int] = set()
    for p, spans in touching.items():
        spans.sort(key=lambda span: span[:3])
        if all(a[1] < b[0] for a, b in itertools.pairwise(spans)):
            continue
        # spans overlap, entries need not: columns of one matrix interleave
        owner = torch.zeros(parameters[p].numel(), dtype=torch.int32)
        for _, _, i, footprint in spans:
            held = footprint.view(owner) if isinstance(footprint, Sums) else owner[footprint]
            for other in held[held > 0].unique().tolist():
                if other == i + 1:
                    tangled.add(i)
                parent[root(other - 1)] = root(i)
            if isinstance(footprint, Sums):
                held.fill_(i + 1)
            else:
                owner[footprint] = i + 1
    groups: dict[int, list[int]] = {}
    for i in range(len(rowsets)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values()), tangled


def _merged(views: list[SumsPlan]) -> list[SumsPlan]:
    """Equal sums at regular distances as one, with one more axis."""
    alike: dict[tuple[object, ...], list[SumsPlan]] = {}
    for v in views:
        key = tuple((p, t.scale, t.out, t.inner) for p, t in v.terms)
        alike.setdefault(key, []).append(v)
    merged: list[SumsPlan] = []
    for group in alike.values():
        group.sort(key=lambda v: [t.offset for _, t in v.terms])
        offsets = torch.tensor([[t.offset for _, t in v.terms] for v in group])
        steps = offsets.diff(dim=0)
        if len(group) == 1 or bool((steps != steps[0]).any()) or not bool((steps[0] > 0).all()):
            merged += group
            continue
        terms = tuple(
            (p, replace(t, out=((len(group), int(step)), *t.out)))
            for (p, t), step in zip(group[0].terms, steps[0], strict=True)
        )
        merged.append(SumsPlan(torch.stack([v.rows for v in group]), terms))
    return merged


def _dense(members: Sequence[RowSet], parameters: Sequence[Tensor]) -> MatrixPlan:
    """One block of all rows of the equations, with dense coefficients."""
    rows = torch.cat([torch.arange(r.start, r.start + r.height) for r in members])
    placed: dict[int, list[tuple[int, Map]]] = {}
    start = 0
    for r in members:
        for p, term in r.terms:
            placed.setdefault(p, []).append((start, term))
        start += r.height
    pieces, blocks = [], []
    for p, terms in sorted(placed.items()):
        first, term = terms[0]
        if len(terms) == 1 and isinstance(term, Matrix):
            view = replace(term.source, scale=1.0)
            pieces.append(Piece(p, view))
            count = math.prod(view.shape)
            scale = term.source.scale
            entries = term.entries if scale == 1 else term.entries.double() * scale
            block = torch.zeros(start, count, dtype=entries.dtype)
            block[first : first + len(entries)] = entries.cpu()
        else:
            parts = [(s, *t.triplets()) for s, t in terms]
            used, inverse = torch.unique(
                torch.cat([cols for _, _, cols, _ in parts]), return_inverse=True
            )
            block = torch.zeros(start, len(used), dtype=torch.float64)
            where = (torch.cat([i + s for s, i, _, _ in parts]), inverse)
            block.index_put_(where, torch.cat([v for *_, v in parts]), accumulate=True)
            pieces.append(Piece(p, used.unsqueeze(0)))
        blocks.append(block)
    wide = torch.float64 if any(b.dtype is torch.float64 for b in blocks) else blocks[0].dtype
    A = torch.cat([b.to(wide) for b in blocks], 1) if len(blocks) > 1 else blocks[0]
    return MatrixPlan(rows.unsqueeze(0), tuple(_as_view(piece, parameters) for piece in pieces), A)


def _components(
    scattered: Sequence[RowSet], parameters: Sequence[Tensor], *, join: bool
) -> tuple[list[MatrixPlan], Tensor]:
    """Blocks of equations with stored entries, by connected components."""
    from scipy.sparse import coo_array  # half of projlab's import time, and only needed here
    from scipy.sparse.csgraph import connected_components

    if not scattered:
        return [], torch.zeros(0, dtype=torch.long)
    base = torch.tensor([0, *[p.numel() for p in parameters]]).cumsum(0)
    numbers = torch.cat([torch.arange(r.start, r.start + r.height) for r in scattered])
    parts, start = [], 0
    for r in scattered:
        for p, term in r.terms:
            i, j, v = term.triplets()
            parts.append((i + start, j + base[p], v))
        start += r.height
    if not parts:
        return [], numbers
    whole = sparse_rows(
        torch.cat([i for i, _, _ in parts]),
        torch.cat([j for _, j, _ in parts]),
        torch.cat([v for *_, v in parts]),
        (start, int(base[-1])),
    )
    used, local = torch.unique(whole.cols, return_inverse=True)
    graph = coo_array(
        (torch.ones(len(local)).numpy(), (whole.rows.numpy(), local.numpy() + start)),
        shape=(start + len(used), start + len(used)),
    )
    count, found = connected_components(graph, directed=False)
    label = torch.from_numpy(found).long()
    of_row, of_column = label[:start], label[start:]
    parameter = torch.searchsorted(base, used, right=True) - 1
    size = torch.zeros(count, 1 + len(parameters), dtype=torch.long)
    size[:, 0] = torch.bincount(of_row, minlength=count)
    size.index_put_(
        (of_column, parameter + 1), torch.ones(len(used), dtype=torch.long), accumulate=True
    )
    if join:
        size = _joined(size)
        if len(size) < count:
            # the single rows of many lengths have become one component, the last
            single = (torch.bincount(of_row, minlength=count) == 1) & (
                torch.bincount(of_column, minlength=count) > 0
            )
            target = torch.cumsum(~single, 0) - 1
            target[single] = len(size) - 1
            of_row, of_column = target[of_row], target[of_column]
            count = len(size)
    shapes, kind = torch.unique(size, dim=0, return_inverse=True)
    row_place, column_place = _places(of_row, count), _places(of_column, count)
    plans = []
    for k, shape in enumerate(shapes.tolist()):
        members = (kind == k).nonzero().flatten()
        m, n = shape[0], sum(shape[1:])
        if m == 0 or n == 0:
            continue
        position = torch.full((count,), -1)
        position[members] = torch.arange(len(members))
        mine = (position[of_row] >= 0).nonzero().flatten()
        rows = torch.zeros(len(members), m, dtype=torch.long)
        rows[position[of_row[mine]], row_place[mine]] = numbers[mine]
        mine = (position[of_column] >= 0).nonzero().flatten()
        columns = torch.zeros(len(members), n, dtype=torch.long)
        columns[position[of_column[mine]], column_place[mine]] = used[mine]
        mine = (position[of_row[whole.rows]] >= 0).nonzero().flatten()
        block = position[of_row[whole.rows[mine]]]
        i, j, v = row_place[whole.rows[mine]], column_place[local[mine]], whole.values[mine]
        A: Tensor | SparseRows
        # a stored entry takes three numbers, a dense one one
        if len(members) == 1 and m * n > 3 * len(v):
            A = sparse_rows(i, j, v, (m, n))
        else:
            A = torch.zeros(len(members), m, n, dtype=torch.float64)
            A[block, i, j] = v
            if torch.equal(A, A[:1].expand_as(A)):
                A = A[0].clone()
        pieces, first = [], 0
        for p, width in enumerate(shape[1:]):
            if width:
                piece = Piece(p, columns[:, first : first + width] - base[p])
                pieces.append(_as_view(piece, parameters))
                first += width
        plans.append(MatrixPlan(rows, tuple(pieces), A))
    touched = torch.zeros(start, dtype=torch.bool)
    touched[whole.rows] = True
    return plans, numbers[~touched]


def _joined(size: Tensor) -> Tensor:
    """Sizes of the components with single rows put together where their shapes are too many."""
    single = (size[:, 0] == 1) & (size[:, 1:].sum(1) > 0)
    if len(torch.unique(size[single], dim=0)) <= FEW:
        return size
    return torch.cat([size[~single], size[single].sum(0, keepdim=True)])


def _places(component: Tensor, count: int) -> Tensor:
    """The position of each item among those of its component, in order."""
    order = torch.argsort(component, stable=True)
    size = torch.bincount(component, minlength=count)
    first = torch.cumsum(size, 0) - size
    place = torch.empty_like(component)
    place[order] = torch.arange(len(component)) - first[component[order]]
    return place


def _as_view(piece: Piece, parameters: Sequence[Tensor]) -> Piece:
    """Columns at regular distances as a view of the parameter, where it is contiguous."""
    where, parameter = piece.where, parameters[piece.parameter]
    if isinstance(where, Sums):
        if parameter.is_contiguous():
            flat = where.reshaped(lambda v: v.view(1, -1))
            if flat is not None:
                return piece._replace(where=flat)
        return piece._replace(where=where.columns().reshape(1, -1))
    blocks, width = where.shape
    down = int(where[1, 0] - where[0, 0]) if blocks > 1 else width
    across = int(where[0, 1] - where[0, 0]) if width > 1 else 1
    regular = where[0, 0] + torch.arange(blocks).unsqueeze(-1) * down + torch.arange(width) * across
    if down > 0 and parameter.is_contiguous() and torch.equal(where, regular):
        axes = ((blocks, down), (width, across))
        return piece._replace(where=Sums(parameter, 1.0, axes, (), int(where[0, 0])))
    return piece
