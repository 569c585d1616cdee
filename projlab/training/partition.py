"""Partition of equations over parameters into independent blocks, which share no parameter entry.

Equations whose rows are sums of views stay views, also several that add up one view over different
axes of it; those with a dense matrix stay dense, unless the rows they share entries with are
sparser by far. The other rows fall into the connected components of the graph that joins a row to
the entries it holds, and components of one shape are batched; large ones of few entries are blocks
of their own, and stay sparse.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from projlab.numerics import tuning
from projlab.system.rows import SparseRows, sparse_rows
from projlab.system.structure import connected, places
from projlab.training import grids
from projlab.training.expressions.maps import DenseMap, LinearMap, Sums
from projlab.training.memory_order import is_dense
from projlab.training.ties import Graph, TiesPlan, ties

FEW = 16
"""Blocks of different shapes that are worth a kernel launch each; more are put together."""

SHORT = 2**10
"""Entries of a row up to which gathering costs less than the operators on its view."""


SPARSE = 3
"""A dense matrix of more than so many times the entries is stored by rows, columns and values: a
stored entry takes three numbers."""


class EquationRows(NamedTuple):
    """The rows of one equation, numbered from `start` on."""

    start: int
    shape: torch.Size
    terms: tuple[tuple[int, LinearMap], ...]
    """The index of a parameter, and the map that is applied to it."""
    inequality: bool = False
    """Whether A x <= b, rather than A x = b."""

    @property
    def height(self) -> int:
        """Number of rows."""
        return math.prod(self.shape)


class Piece(NamedTuple):
    """Entries of one parameter, (B, n): a view of it, or stored columns."""

    parameter: int
    where: Sums | Tensor

    def columns(self, blocks: int) -> Tensor:
        """The columns (B, n) in the parameter."""
        where = self.where
        return where.columns().reshape(blocks, -1) if isinstance(where, Sums) else where


@dataclass(frozen=True)
class SumsPlan:
    """Rows that are sums of views and share no entry with each other: nothing is stored."""

    rows: Tensor
    """Row numbers, in the shape of the views' out axes."""
    terms: tuple[tuple[int, Sums], ...]
    """The index of a parameter, and the sums over a view of it."""


@dataclass(frozen=True)
class MatrixPlan:
    """B blocks of m rows in n entries each."""

    rows: Tensor
    """(B, m) row numbers."""
    pieces: tuple[Piece, ...]
    A: Tensor
    """(m, n) where all blocks are equal, or (B, m, n); sparse COO for one block of few entries."""


Plan = SumsPlan | grids.MarginsPlan | TiesPlan | MatrixPlan


def split(
    equations: Sequence[EquationRows],
    parameters: Sequence[Tensor],
    *,
    sums: bool,
    structured: bool,
    join: bool,
) -> tuple[list[Plan], Tensor]:
    """Independent blocks, and the numbers of rows without any entry.

    Parameters
    ----------
    equations
        With the parameters by their index in `parameters`.
    parameters
        Only shapes and strides are read. Columns of maps are numbered in the order of memory where
        the parameter is dense in it, else row-major.
    sums
        Whether sums of views may stay views: where the variant of disjoint rows is welcome.
    structured
        Whether sums of one view over different axes, and ties between entries, are recognised:
        where any way is welcome.
    join
        Whether many single rows of different lengths may be put into one block.
    """
    equations = [
        e._replace(terms=tuple((p, t) for p, t in e.terms if not _is_zero(t))) for e in equations
    ]
    units = _units(equations, parameters, margins=structured)
    groups, tangled = _groups([u.equations[0] for u in units], parameters)
    views: list[SumsPlan] = []
    grid: list[grids.MarginsPlan] = []
    dense: list[MatrixPlan] = []
    scattered: list[EquationRows] = []
    for group in groups:
        members = [e for i in group for e in units[i].equations]
        alone = units[group[0]] if len(group) == 1 and group[0] not in tangled else None
        if alone is not None and alone.margins is not None:
            grid.append(alone.margins)
        elif sums and alone is not None and _is_sums(members[0], parameters):
            (e,) = members
            rows = torch.arange(e.start, e.start + e.height, device="cpu").reshape(e.shape)
            views.append(SumsPlan(rows, tuple((p, t) for p, t in e.terms if isinstance(t, Sums))))
        elif _mostly_dense(members):
            dense.append(_dense(members, parameters))
        else:
            scattered += members
    views = _merged(views)
    if join and len(views) > FEW:
        # many views of no common pattern: one block that gathers is faster than a launch for each
        small = [v for v in views if v.rows.numel() == 1]
        entries = sum(t.count for v in small for _, t in v.terms)
        short = entries < SHORT * len(small)
        if len(small) > FEW and (short or len(alike(small, parameters)) > FEW):
            views = [v for v in views if v.rows.numel() != 1]
            scattered += [EquationRows(int(v.rows), v.rows.shape, v.terms) for v in small]
    components, empty = _stored(scattered, parameters, structured=structured, join=join)
    return [*views, *grid, *dense, *components], empty


class _Unit(NamedTuple):
    """Equations that touch the same entries."""

    equations: list[EquationRows]
    margins: grids.MarginsPlan | None
    """Where they are sums of one grid over different axes."""


def _units(
    equations: Sequence[EquationRows], parameters: Sequence[Tensor], *, margins: bool
) -> list[_Unit]:
    """Sums of one grid together, the other equations alone."""
    alike: dict[object, list[EquationRows]] = {}
    for e in equations:
        key: object = e.start
        if margins and len(e.terms) == 1 and _is_sums(e, parameters):
            ((p, t),) = e.terms
            assert isinstance(t, Sums)
            key = (p, t.offset, grids.coarsest(t.out + t.inner))
        alike.setdefault(key, []).append(e)
    units = []
    for members in alike.values():
        plan = None
        if len(members) > 1:
            sums = [(e.start, t) for e in members for _, t in e.terms if isinstance(t, Sums)]
            plan = grids.margins(members[0].terms[0][0], sums)
        if plan is None:
            units += [_Unit([e], None) for e in members]
        else:
            units.append(_Unit(members, plan))
    return units


def _is_zero(term: LinearMap) -> bool:
    return isinstance(term, Sums) and (term.scale == 0 or term.count == 0)


def _is_sums(equation: EquationRows, parameters: Sequence[Tensor]) -> bool:
    """Whether every term is a sum over a view in which no two rows meet in an entry."""
    return bool(equation.terms) and all(
        isinstance(t, Sums)
        and t.injective
        and all(stride > 0 or size == 1 for size, stride in t.out)
        and is_dense(parameters[p])
        for p, t in equation.terms
    )


def footprint(term: LinearMap) -> Sums | Tensor:
    """What a map touches of its parameter: a view, or columns."""
    if isinstance(term, Sums):
        return term
    return term.source if isinstance(term, DenseMap) else term.cols


def _span(touched: Sums | Tensor) -> tuple[int, int]:
    """The first and the last column touched."""
    if isinstance(touched, Sums):
        return touched.offset, touched.last
    if len(touched) == 0:
        return 0, -1
    return int(touched.min()), int(touched.max())


def _groups(
    equations: Sequence[EquationRows], parameters: Sequence[Tensor]
) -> tuple[list[list[int]], set[int]]:
    """Equations that touch a common entry, together; of those alone, the ones whose terms do so.

    Some of the others may be among these.
    """
    overlaps = _overlaps(equations, parameters)
    _, label = connected(
        len(equations), *torch.tensor(overlaps, dtype=torch.long, device="cpu").view(-1, 2).T
    )
    groups: dict[int, list[int]] = {}
    for i, group in enumerate(label.tolist()):
        groups.setdefault(group, []).append(i)
    return list(groups.values()), {i for i, j in overlaps if i == j}


def _overlaps(
    equations: Sequence[EquationRows], parameters: Sequence[Tensor]
) -> list[tuple[int, int]]:
    """Pairs of equations that touch a common entry; (i, i) where two terms of equation i do.

    Of several equations that touch one entry, enough pairs to connect them, (i, i) or not.
    """
    touching: dict[int, list[tuple[int, int, int, Sums | Tensor]]] = {}
    for i, e in enumerate(equations):
        for p, term in e.terms:
            touched = footprint(term)
            touching.setdefault(p, []).append((*_span(touched), i, touched))
    pairs: list[tuple[int, int]] = []
    for p, spans in touching.items():
        spans.sort(key=lambda span: span[:3])
        if all(a[1] < b[0] for a, b in itertools.pairwise(spans)):
            continue
        # spans may overlap where entries do not: columns of one matrix interleave
        owner = torch.zeros(parameters[p].numel(), dtype=torch.int32, device="cpu")
        for _, _, i, touched in spans:
            held = touched.view(owner) if isinstance(touched, Sums) else owner[touched]
            pairs += [(other - 1, i) for other in held[held > 0].unique().tolist()]
            if isinstance(touched, Sums):
                held.fill_(i + 1)
            else:
                owner[touched] = i + 1
    return pairs


def alike(plans: Iterable[SumsPlan], parameters: Sequence[Tensor]) -> list[list[SumsPlan]]:
    """Plans that one block can hold, together: equal sums of parameters that are laid out alike."""
    groups: dict[object, list[SumsPlan]] = {}
    for plan in plans:
        terms = tuple(
            (t.scale, t.out, t.inner, q.dtype, q.shape, q.stride())
            for q, t in ((parameters[p], t) for p, t in plan.terms)
        )
        groups.setdefault((plan.rows.shape, terms), []).append(plan)
    return list(groups.values())


def _merged(views: list[SumsPlan]) -> list[SumsPlan]:
    """Equal sums at regular distances as one, with one more axis."""
    alike: dict[tuple[object, ...], list[SumsPlan]] = {}
    for v in views:
        key = tuple((p, t.scale, t.out, t.inner) for p, t in v.terms)
        alike.setdefault(key, []).append(v)
    merged: list[SumsPlan] = []
    for group in alike.values():
        group.sort(key=lambda v: [t.offset for _, t in v.terms])
        offsets = torch.tensor(
            [[t.offset for _, t in v.terms] for v in group], dtype=torch.long, device="cpu"
        )
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


def _mostly_dense(members: Sequence[EquationRows]) -> bool:
    """Whether rows with a dense matrix, and those that share entries with them, are one block."""
    terms = [(e, p, t) for e in members for p, t in e.terms]
    if not any(isinstance(t, DenseMap) for _, _, t in terms):
        return False
    if len(members) == 1 or all(isinstance(t, DenseMap) for _, _, t in terms):
        return True
    height = sum(e.height for e in members)
    held = sum(_entries(t) for _, _, t in terms)
    # every parameter's columns at least as many as its widest term touches
    widest: dict[int, int] = {}
    for _, p, t in terms:
        widest[p] = max(widest.get(p, 0), _width(t))
    return height * sum(widest.values()) <= SPARSE * held


def _entries(term: LinearMap) -> int:
    """How many entries a map holds."""
    if isinstance(term, Sums):
        return math.prod(term.shape) * term.count
    return term.entries.numel() if isinstance(term, DenseMap) else len(term.values)


def _width(term: LinearMap) -> int:
    """How many columns a map may touch."""
    if isinstance(term, Sums):
        return math.prod(size for size, stride in term.out + term.inner if stride)
    return term.entries.shape[-1] if isinstance(term, DenseMap) else len(term.cols.unique())


def _dense(members: Sequence[EquationRows], parameters: Sequence[Tensor]) -> MatrixPlan:
    """One block of all rows of the equations, with dense coefficients."""
    rows = torch.cat([torch.arange(r.start, r.start + r.height, device="cpu") for r in members])
    placed: dict[int, list[tuple[int, LinearMap]]] = {}
    start = 0
    for r in members:
        for p, term in r.terms:
            placed.setdefault(p, []).append((start, term))
        start += r.height
    pieces, blocks = [], []
    for p, terms in sorted(placed.items()):
        first, term = terms[0]
        if len(terms) == 1 and isinstance(term, DenseMap):
            view = replace(term.source, scale=1.0)
            pieces.append(Piece(p, view))
            count = math.prod(view.shape)
            scale = term.source.scale
            entries = term.entries if scale == 1 else term.entries.double() * scale
            block = torch.zeros(start, count, dtype=entries.dtype, device="cpu")
            block[first : first + len(entries)] = entries.cpu()
        else:
            parts = [(s, *t.triplets()) for s, t in terms]
            used, inverse = torch.unique(
                torch.cat([cols for _, _, cols, _ in parts]), return_inverse=True
            )
            block = torch.zeros(start, len(used), dtype=torch.float64, device="cpu")
            where = (torch.cat([i + s for s, i, _, _ in parts]), inverse)
            block.index_put_(where, torch.cat([v for *_, v in parts]), accumulate=True)
            pieces.append(Piece(p, used.unsqueeze(0)))
        blocks.append(block)
    wide = torch.float64 if any(b.dtype is torch.float64 for b in blocks) else blocks[0].dtype
    A = torch.cat([b.to(wide) for b in blocks], 1) if len(blocks) > 1 else blocks[0]
    return MatrixPlan(rows.unsqueeze(0), tuple(_as_view(piece, parameters) for piece in pieces), A)


@dataclass(frozen=True)
class _Stored:
    """Equations as one sparse matrix over the entries of all parameters that they hold."""

    numbers: Tensor
    """(rows,) the numbers of the rows in the system."""
    entries: SparseRows
    """(rows, entries of all parameters)."""
    first: Tensor
    """(parameters + 1,) where the entries of each parameter begin."""
    used: Tensor
    """(columns,) the entries that any row holds, in order."""
    column: Tensor
    """(stored entries,) the position of each in `used`."""


@dataclass(frozen=True)
class _Components:
    """Independent sets of rows and columns of `_Stored`."""

    of_row: Tensor
    of_column: Tensor
    sizes: Tensor
    """(components, 1 + parameters): how many rows, and how many entries of each parameter."""

    @property
    def single(self) -> Tensor:
        """(components,) whether it is one row that holds an entry."""
        return (self.sizes[:, 0] == 1) & (self.sizes[:, 1:].sum(1) > 0)


def _stored(
    equations: Sequence[EquationRows],
    parameters: Sequence[Tensor],
    *,
    structured: bool,
    join: bool,
) -> tuple[list[TiesPlan | MatrixPlan], Tensor]:
    """Blocks of equations with stored entries, by connected components; rows without any entry."""
    if not equations:
        return [], torch.zeros(0, dtype=torch.long, device="cpu")
    stored = _assembled(equations, parameters)
    components = _components(stored)
    plans: list[TiesPlan | MatrixPlan] = []
    planned = torch.zeros(len(components.sizes), dtype=torch.bool, device="cpu")
    if structured:
        planned, plan = _tied(stored, components, parameters)
        plans += [] if plan is None else [plan]
    if join:
        components, planned = _joined(components, planned)
    plans += _matrices(stored, components, planned, parameters)
    touched = torch.zeros(len(stored.numbers), dtype=torch.bool, device="cpu")
    touched[stored.entries.rows] = True
    return plans, stored.numbers[~touched]


def _tied(
    stored: _Stored, components: _Components, parameters: Sequence[Tensor]
) -> tuple[Tensor, TiesPlan | None]:
    """Which components are ties between entries, and their plan."""
    e = stored.entries
    graph = Graph(e.rows, stored.column, e.values, components.of_row, components.of_column)
    planned, plan = ties(graph, len(components.sizes))
    if plan is None:
        return planned, None
    ((_, members, _),) = plan.entries
    columns = stored.used[members]
    owner = torch.searchsorted(stored.first, columns, right=True) - 1
    owners = owner.unique().tolist()
    if not all(is_dense(parameters[p]) for p in owners):
        return torch.zeros_like(planned), None
    entries = []
    for p in owners:
        where = (owner == p).nonzero().flatten()
        entries.append((p, columns[where] - stored.first[p], where))
    return planned, replace(plan, rows=stored.numbers[plan.rows], entries=tuple(entries))


def _assembled(equations: Sequence[EquationRows], parameters: Sequence[Tensor]) -> _Stored:
    """Every term of the equations in one matrix."""
    first = torch.tensor(
        [0, *[p.numel() for p in parameters]], dtype=torch.long, device="cpu"
    ).cumsum(0)
    none = torch.zeros(0, dtype=torch.long, device="cpu")
    rows, cols, values = [none], [none], [torch.zeros(0, dtype=torch.float64, device="cpu")]
    height = 0
    for e in equations:
        for p, term in e.terms:
            i, j, v = term.triplets()
            rows.append(i + height)
            cols.append(j + first[p])
            values.append(v)
        height += e.height
    entries = sparse_rows(
        torch.cat(rows), torch.cat(cols), torch.cat(values), (height, int(first[-1]))
    )
    used, column = torch.unique(entries.cols, return_inverse=True)
    numbers = torch.cat(
        [torch.arange(e.start, e.start + e.height, device="cpu") for e in equations]
    )
    return _Stored(numbers, entries, first, used, column)


def _components(stored: _Stored) -> _Components:
    """The connected components of the graph that joins a row to the entries it holds."""
    rows, columns = len(stored.numbers), len(stored.used)
    count, label = connected(rows + columns, stored.entries.rows, stored.column + rows)
    of_row, of_column = label[:rows], label[rows:]
    parameter = torch.searchsorted(stored.first, stored.used, right=True) - 1
    sizes = torch.zeros(count, len(stored.first), dtype=torch.long, device="cpu")
    sizes[:, 0] = torch.bincount(of_row, minlength=count)
    one = torch.ones(columns, dtype=torch.long, device="cpu")
    sizes.index_put_((of_column, parameter + 1), one, accumulate=True)
    return _Components(of_row, of_column, sizes)


def _joined(components: _Components, planned: Tensor) -> tuple[_Components, Tensor]:
    """Single rows put together, as the last component, where they come in too many shapes."""
    single, sizes = components.single, components.sizes
    if len(set(_kinds(sizes[single]).tolist())) <= FEW:
        return components, planned
    target = torch.cumsum(~single, 0) - 1
    target[single] = int((~single).sum())
    joined = _Components(
        target[components.of_row],
        target[components.of_column],
        torch.cat([sizes[~single], sizes[single].sum(0, keepdim=True)]),
    )
    return joined, torch.cat([planned[~single], torch.zeros(1, dtype=torch.bool, device="cpu")])


def _matrices(
    stored: _Stored, components: _Components, planned: Tensor, parameters: Sequence[Tensor]
) -> list[MatrixPlan]:
    """The components that are not planned yet: those of one shape are the blocks of one plan."""
    sizes = components.sizes
    wanted = (sizes[:, 0] > 0) & (sizes[:, 1:].sum(1) > 0) & ~planned
    kind = _kinds(sizes)
    # rows, columns and entries component by component, and these kind by kind
    rank = torch.empty_like(kind)
    rank[torch.argsort(kind, stable=True)] = torch.arange(len(kind), device="cpu")
    entries = stored.entries
    component = components.of_row[entries.rows]
    in_order = [
        order[wanted[owner[order]]]
        for owner in (components.of_row, components.of_column, component)
        for order in (torch.argsort(rank[owner], stable=True),)
    ]
    row_order, column_order, entry_order = in_order
    row_place = places(components.of_row, len(sizes))[entries.rows[entry_order]]
    column_place = places(components.of_column, len(sizes))[stored.column[entry_order]]
    values = entries.values[entry_order]
    counts = torch.bincount(component, minlength=len(sizes))
    plans: list[MatrixPlan] = []
    row = column = entry = 0
    left = wanted.nonzero().flatten()
    left = left[torch.argsort(kind[left], stable=True)]
    _, number = torch.unique_consecutive(kind[left], return_counts=True)
    for members in left.split(number.tolist()):
        m, *widths = sizes[members[0]].tolist()
        blocks, n = len(members), sum(widths)
        rows = stored.numbers[row_order[row : row + blocks * m]].view(blocks, m)
        columns = stored.used[column_order[column : column + blocks * n]].view(blocks, n)
        own = slice(entry, entry + int(counts[members].sum()))
        held = _Held(counts[members], row_place[own], column_place[own], values[own])
        row, column, entry = row + blocks * m, column + blocks * n, own.stop
        for some, A in _coefficients(m, n, held):
            pieces, start = [], 0
            for p, width in enumerate(widths):
                if width:
                    piece = Piece(p, columns[some, start : start + width] - stored.first[p])
                    pieces.append(_as_view(piece, parameters))
                    start += width
            plans.append(MatrixPlan(rows[some], tuple(pieces), A))
    return plans


def _kinds(shapes: Tensor) -> Tensor:
    """A number for each row of a table, equal for equal rows, from zero on; in their order."""
    kind = torch.zeros(len(shapes), dtype=torch.long, device="cpu")
    for column in shapes.T:
        pair = kind * (int(column.max()) + 1) + column if len(column) else column
        _, kind = torch.unique(pair, return_inverse=True)
    return kind


class _Held(NamedTuple):
    """The stored entries of blocks of one shape, block by block."""

    counts: Tensor
    """(B,) how many each has."""
    i: Tensor
    j: Tensor
    values: Tensor


def _coefficients(m: int, n: int, held: _Held) -> Iterator[tuple[slice, Tensor]]:
    """Which blocks go together, and their A: (m, n) where they are equal, or (B, m, n)."""
    counts, blocks = held.counts, len(held.counts)
    first = int(counts[0])
    if bool((counts == first).all()) and all(
        bool((t.view(-1, first) == t[:first]).all()) for t in held[1:]
    ):
        yield slice(None), _matrix(m, n, *(t[:first] for t in held[1:]))
        return
    if m * n >= tuning.APART and blocks * m * n > SPARSE * int(counts.sum()):
        starts = [0, *torch.cumsum(counts, 0).tolist()]
        for k, own in enumerate(itertools.starmap(slice, itertools.pairwise(starts))):
            yield slice(k, k + 1), _matrix(m, n, *(t[own] for t in held[1:]))
        return
    A = torch.zeros(blocks, m, n, dtype=torch.float64, device="cpu")
    A[torch.repeat_interleave(torch.arange(blocks, device="cpu"), counts), held.i, held.j] = (
        held.values
    )
    yield slice(None), A


def _matrix(m: int, n: int, i: Tensor, j: Tensor, values: Tensor) -> Tensor:
    """(m, n), sparse COO where that is the smaller form, of stored entries in order."""
    if m * n > SPARSE * len(values):
        # in order, as the whole is: places follow the numbers of rows and columns
        return torch.sparse_coo_tensor(
            torch.stack([i, j]),
            values,
            (m, n),
            device="cpu",
            is_coalesced=True,
            check_invariants=False,
        )
    A = torch.zeros(m, n, dtype=torch.float64, device="cpu")
    A[i, j] = values
    return A


def _as_view(piece: Piece, parameters: Sequence[Tensor]) -> Piece:
    """Columns at regular distances as a view of the parameter, where it is dense in memory."""
    where, parameter = piece.where, parameters[piece.parameter]
    if isinstance(where, Sums):
        if is_dense(parameter):
            flat = where.reshaped(lambda v: v.view(1, -1))
            if flat is not None:
                return piece._replace(where=flat)
        return piece._replace(where=where.columns().reshape(1, -1))
    blocks, width = where.shape
    down = int(where[1, 0] - where[0, 0]) if blocks > 1 else width
    across = int(where[0, 1] - where[0, 0]) if width > 1 else 1
    regular = (
        where[0, 0]
        + torch.arange(blocks, device="cpu").unsqueeze(-1) * down
        + torch.arange(width, device="cpu") * across
    )
    if down > 0 and is_dense(parameter) and torch.equal(where, regular):
        axes = ((blocks, down), (width, across))
        return piece._replace(where=Sums(parameter, 1.0, axes, (), int(where[0, 0])))
    return piece
