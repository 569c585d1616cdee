"""From inequalities, bounds and the equations that meet them to blocks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from projlab.training.blocks.entries import Entries, Gathered, Here, Read
from projlab.training.blocks.polyhedral import PolyhedralBlock, Rowed
from projlab.training.blocks.shards import owner
from projlab.training.expressions.maps import Sums
from projlab.training.memory_order import is_dense
from projlab.training.partition import FEW, MatrixPlan, Piece, SumsPlan, split
from projlab.training.shards import Ranks
from projlab.training.sides import Bounds, Parted


def polyhedral_blocks(
    parts: Parted,
    parameters: Sequence[Tensor],
    b: Tensor,
    inequality: Tensor,
    names: Callable[[Tensor], list[str]],
    entry_name: Callable[[int, int], str],
    *,
    strict: bool,
    of_constants: Tensor | None,
) -> tuple[list[PolyhedralBlock], Tensor]:
    """The blocks, and the numbers of rows without any entry.

    Parameters
    ----------
    b
        Every right-hand side, float64.
    inequality
        (rows,) which rows are inequalities.
    names
        Names of the rows with these numbers.
    entry_name
        Of a parameter, by its index, and a column of it.
    strict
        Whether a set without any point is refused.
    of_constants
        (rows,) the rounding of what was taken off b; None for nothing.

    Raises
    ------
    InconsistentError
        No parameters are in the set.
    """
    plans, empty = split(parts.together, parameters, sums=True, structured=False, join=False)
    known = torch.zeros_like(inequality)
    known[parts.bounds.rows] = True
    rowed = _rowed([_Plan.of(plan) for plan in plans], inequality)
    rowed += _bounds_alone(parts.bounds, rowed, parameters)
    made = [
        PolyhedralBlock(
            r,
            parameters,
            parts.bounds,
            b,
            names,
            entry_name,
            strict=strict,
            of_constants=of_constants,
        )
        for r in rowed
    ]
    return made, torch.cat([empty[~known[empty]], parts.void])


def shared_polyhedra(
    parts: Parted,
    parameters: Sequence[Tensor],
    forms: Sequence[Tensor],
    ranks: Ranks,
    b: Tensor,
    inequality: Tensor,
) -> tuple[list[PolyhedralBlock], bool]:
    """The blocks of this rank, over parameters that ranks hold together.

    Vectors whose entries one rank alone holds are that rank's; of the others every rank gathers
    the entries, does the same, and keeps its own.

    Parameters
    ----------
    parts, b, inequality
        As in `polyhedral_blocks`, which is asked first whether the set has points.
    parameters
        As the optimizer holds them.
    forms
        Plain tensors of their whole shapes.

    Returns
    -------
    The blocks, and whether any rank has some of its own.
    """
    plans, _ = split(parts.together, forms, sums=True, structured=False, join=False)
    common: list[_Plan] = []
    own: list[_Plan] = []
    apart = False
    for plan in map(_Plan.of, plans):
        if all(ranks.held_by_all(parameters[piece.parameter]) for piece in plan.pieces):
            common.append(plan)
            continue
        owners = owner(plan.pieces, len(plan.rows), parameters, ranks)
        apart |= bool((owners >= 0).any())
        for mask, found in ((owners < 0, common), (owners == ranks.number, own)):
            if bool(mask.any()):
                found.append(plan.some(mask.nonzero().flatten()))
    together, alone = _rowed(common, inequality), _rowed(own, inequality)
    held = _rowed([_Plan.of(plan) for plan in plans], inequality)
    for single in _bounds_alone(parts.bounds, held, forms):
        (piece,) = single.pieces
        p = parameters[piece.parameter]
        if ranks.held_by_all(p):
            together.append(single)
            continue
        apart = True
        columns = piece.columns(1)
        inside, _ = ranks.places(columns, p)
        if bool(inside.any()):
            here = Piece(piece.parameter, columns[inside].unsqueeze(0))
            alone.append(single._replace(pieces=(here,), A=single.A[:, inside[0]]))

    def read(piece: Piece, parameter: Tensor, blocks: int) -> Entries:
        here = ranks.held_by_all(parameter)
        return (Here if here else Gathered)(piece, parameter, blocks, ranks)

    def block(rowed: Rowed, read: Read) -> PolyhedralBlock:
        return PolyhedralBlock(
            rowed, parameters, parts.bounds, b, _unnamed, _unnamed, strict=False, read=read
        )

    blocks = [block(rowed, read) for rowed in together]
    for rowed in alone:
        blocks.append(block(rowed, partial(Here, ranks=ranks)))
        blocks[-1].alone = True
        blocks[-1].counted = all(ranks.counted(parameters[p.parameter]) for p in rowed.pieces)
    return blocks, apart


def _unnamed(*_: object) -> Any:
    raise AssertionError("only what is refused is named")


class _Plan:
    """B blocks of m rows: numbers (B, m), pieces, and A (m, n) or (B, m, n)."""

    def __init__(self, rows: Tensor, pieces: tuple[Piece, ...], A: Tensor) -> None:
        self.rows, self.pieces, self.A = rows, pieces, A

    @staticmethod
    def of(plan: object) -> "_Plan":
        """From a plan of the partition."""
        if isinstance(plan, SumsPlan):
            a = [
                torch.full((t.count,), t.scale, dtype=torch.float64, device="cpu")
                for _, t in plan.terms
            ]
            pieces = tuple(Piece(p, t) for p, t in plan.terms)
            return _Plan(plan.rows.reshape(-1, 1), pieces, torch.cat(a).unsqueeze(0))
        assert isinstance(plan, MatrixPlan)
        return _Plan(plan.rows, plan.pieces, plan.A)

    def some(self, which: Tensor) -> "_Plan":
        """Only these blocks."""
        B = len(self.rows)
        pieces = tuple(Piece(p.parameter, p.columns(B)[which]) for p in self.pieces)
        A = self.A[which] if self.A.dim() == 3 else self.A
        return _Plan(self.rows[which], pieces, A)


def _rowed(plans: Sequence[_Plan], inequality: Tensor) -> list[Rowed]:
    """Blocks whose vectors have the same rows; many single rows of different ones as one vector."""
    found: list[Rowed] = []
    scattered: list[_Plan] = []
    for plan in plans:
        signs = inequality[plan.rows]
        kinds, kind = torch.unique(signs, dim=0, return_inverse=True)
        if plan.rows.shape[1] == 1 and (plan.A.dim() == 3 or len(kinds) > 1):
            scattered.append(plan)
            continue
        if plan.A.dim() == 3:
            each = torch.arange(len(plan.rows), device="cpu").unsqueeze(-1)
            parts = [plan.some(i) for i in each]
            found += [Rowed(p.rows, p.pieces, p.A[0], inequality[p.rows[0]]) for p in parts]
        elif len(kinds) == 1:
            found.append(Rowed(plan.rows, plan.pieces, plan.A, signs[0]))
        else:
            for k in range(len(kinds)):
                p = plan.some((kind == k).nonzero().flatten())
                found.append(Rowed(p.rows, p.pieces, p.A, kinds[k]))
    lone = [r for r in found if r.rows.numel() == 1]
    if len(lone) > FEW:
        found = [r for r in found if r.rows.numel() != 1]
        scattered += [_Plan(r.rows, r.pieces, r.A) for r in lone]
    return [*found, *([_segments(scattered, inequality)] if scattered else [])]


def _segments(plans: Sequence[_Plan], inequality: Tensor) -> Rowed:
    """Single rows that share no entry, as one vector with the row of each entry."""
    columns: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
    above = 0
    for plan in plans:
        B = len(plan.rows)
        A = plan.A.to_dense()
        A = A.expand(B, *A.shape[-2:])[:, 0]
        row = torch.arange(above, above + B, device="cpu").unsqueeze(-1)
        above += B
        start = 0
        for piece in plan.pieces:
            own = piece.columns(B)
            width = own.shape[1]
            values = A[:, start : start + width].double()
            start += width
            columns.setdefault(piece.parameter, []).append(
                (own.flatten(), row.expand(own.shape).flatten(), values.flatten())
            )
    pieces, segments, entries = [], [], []
    for p, parts in columns.items():
        own, row, values = (torch.cat(part) for part in zip(*parts, strict=True))
        pieces.append(Piece(p, own.unsqueeze(0)))
        segments.append(row)
        entries.append(values)
    rows = torch.cat([plan.rows.flatten() for plan in plans])
    return Rowed(
        rows.unsqueeze(0),
        tuple(pieces),
        torch.cat(entries).unsqueeze(0),
        inequality[rows],
        torch.cat(segments),
    )


def _bounds_alone(
    bounds: Bounds, rowed: Sequence[Rowed], parameters: Sequence[Tensor]
) -> list[Rowed]:
    """The entries with bounds that no row holds, parameter by parameter."""
    held = {
        p: torch.zeros(parameters[p].numel(), dtype=torch.bool, device="cpu")
        for p in bounds.parameters.unique().tolist()
    }
    for r in rowed:
        for piece in r.pieces:
            if piece.parameter in held:
                held[piece.parameter][piece.columns(len(r.rows))] = True
    found = []
    for p, mask in held.items():
        columns = bounds.columns[bounds.parameters == p].unique()
        columns = columns[~mask[columns]]
        n = len(columns)
        if n == 0:
            continue
        where: Sums | Tensor = columns.unsqueeze(0)
        if n == parameters[p].numel() and is_dense(parameters[p]):
            where = Sums(parameters[p], 1.0, ((1, n),), ((n, 1),), 0)
        none = torch.zeros(1, 0, dtype=torch.long, device="cpu")
        A = torch.zeros(0, n, dtype=torch.float64, device="cpu")
        found.append(Rowed(none, (Piece(p, where),), A, none[0].bool()))
    return found
