"""Equations over parameters that ranks hold together: partial sums, one all-reduce, own entries.

Every rank has the factors of all blocks, of which the columns of its own entries stay. A pass over
all equations is a product with these, one sum over the ranks of as many numbers as there are rows,
and a correction of the own entries; what is decided is decided on numbers that all ranks have.
Equations whose entries one rank alone holds, as sums of rows of a parameter that is divided along
them, are a block of that rank, which sends nothing and decides by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import InputError
from projlab.numerics.transfer import sent
from projlab.training.blocks.base import Block, Shift, narrowed, widest_dtype
from projlab.training.blocks.factoring import decidable
from projlab.training.blocks.matrix import MatrixBlock, applied
from projlab.training.blocks.places import Places, indices
from projlab.training.partition import MatrixPlan, Piece, SumsPlan
from projlab.training.shards import REMEDY, Ranks, here

VARIANTS = {"auto": "qr", "qr": "qr", "pinv": "pinv", "single_row": "single_row"}
"""Those that end in a basis of the row space, of which a rank can hold columns."""


@dataclass(frozen=True)
class _Part:
    """Columns of A and W that belong to entries of one parameter here."""

    parameter: int
    counted: bool
    """Whether sums take the entries from this rank."""
    blocks: Tensor | None
    """(k,) the blocks that have entries here; None for all."""
    places: Places
    """(k, n): of how many blocks, which n entries of those here."""
    own: Tensor | None
    """Which of the places, flattened, are entries; None for all. The others are padding."""
    A: Tensor
    """(m, n) or (k, m, n); zero for padding. Where all columns are equal, one of them."""
    W: Tensor
    """(r, n) or (k, r, n); as A."""

    def read(self, t: Tensor, work: torch.dtype) -> Tensor:
        """The entries, (k, n)."""
        if (view := self.places.view(t)) is not None:
            return view.to(work)
        x = t.reshape(-1)[self.places.numbers(t.device)].to(work)
        if self.own is None:
            return x
        padded = torch.zeros_like(x)
        padded.view(-1)[self.own] = x.view(-1)[self.own]
        return padded

    def subtract(self, t: Tensor, y: Tensor) -> None:
        """Subtract W' y, y (k, r), in the precision of the difference, with one rounding."""
        view, even = self.places.view(t), self.W.shape[-1] < self.places.shape[1]
        if view is not None and not even and self.W.dim() == 2 and t.dtype is y.dtype:
            if len(y) == 1:
                view[0].addmv_(self.W.mT, y[0], alpha=-1)
            else:
                view.addmm_(y, self.W, alpha=-1)
            return
        delta = applied(self.W.mT, y)
        if view is not None:
            view.sub_(delta)
            return
        places = self.places.numbers(t.device).reshape(-1)
        delta = delta.expand(self.places.shape).reshape(-1)
        if self.own is not None:
            places, delta = places[self.own], delta[self.own]
        where = indices(t, places)
        t.index_put_(where, (t[where] - delta.reshape(t[where].shape)).to(t.dtype))

    def times(self, M: Tensor, x: Tensor) -> Tensor:
        """M x for each block, of M = A, its absolute values, or W; x (k, n)."""
        return applied(M, x.sum(-1, keepdim=True) if M.shape[-1] < x.shape[-1] else x)


@dataclass(frozen=True)
class _Group:
    """B blocks of one shape: the entries here, and K with K A = W."""

    rows: slice
    """Of all rows of the system, one after the other."""
    shape: tuple[int, int, int]
    rank: int
    K: Tensor
    prices: Tensor
    """Y with A'Y = W'."""
    norms: Tensor
    """(m,) or (B, m), of the rows of A."""
    parts: tuple[_Part, ...]


class _Factored(NamedTuple):
    """Blocks of one shape, and which of them are meant."""

    plan: MatrixPlan
    block: MatrixBlock
    which: Tensor
    """(k,) their numbers."""

    def of(self, M: Tensor, dims: int) -> Tensor:
        """Of a tensor for each block, or one of fewer dimensions for all, those that are meant."""
        return M[self.which] if M.dim() > dims and len(self.which) < len(M) else M


def shards_blocks(
    plans: Sequence[SumsPlan | MatrixPlan],
    parameters: Sequence[Tensor],
    forms: Sequence[Tensor],
    ranks: Ranks,
    variant: str,
    factored: Callable[[MatrixPlan, Sequence[Tensor], str], Block],
) -> tuple[list[Block], bool]:
    """The equations that ranks hold together as one block, those of this rank alone as another.

    Also whether any rank has some of its own. `plans` are matrices and sums of views; `parameters`
    vary, and are as the optimizer holds them; `forms` are plain tensors of their whole shapes,
    whose values are not read; `factored` is `make_block`, but for the plan, the forms and the
    variant.

    Raises
    ------
    InputError
        A variant without a basis.
    """
    if variant not in VARIANTS:
        raise InputError(
            f'variant="{variant}" has no basis of which a rank can hold columns; sharded '
            f"parameters take {', '.join(sorted(VARIANTS))}"
        )
    shared: list[_Factored] = []
    own: list[_Factored] = []
    apart = False
    for plan in plans:
        matrix = _as_matrix(plan)
        block = factored(matrix, forms, VARIANTS[variant])
        assert isinstance(block, MatrixBlock)
        owners = owner(matrix.pieces, block.shape[0], parameters, ranks)
        apart |= bool((owners >= 0).any())
        for mask, found in ((owners < 0, shared), (owners == ranks.number, own)):
            if bool(mask.any()):
                found.append(_Factored(matrix, block, mask.nonzero().flatten()))
    blocks = [
        ShardsBlock(found, parameters, ranks, VARIANTS[variant], alone=alone)
        for found, alone in ((shared, False), (own, True))
        if found
    ]
    return list(blocks), apart


class ShardsBlock(Block):
    """Equations of a system of which a parameter is a DTensor, as one block.

    Parameters
    ----------
    found
        The equations and their factors.
    parameters
        Those that vary, as the optimizer holds them.
    alone
        Whether this rank holds all their entries, and no other does.
    """

    def __init__(
        self,
        found: Sequence[_Factored],
        parameters: Sequence[Tensor],
        ranks: Ranks,
        variant: str,
        *,
        alone: bool,
    ) -> None:
        self.ranks, self.alone = ranks, alone
        self.variant = f"{variant}, sharded, on this rank alone" if alone else f"{variant}, sharded"
        self.work = widest_dtype(parameters)
        device = here(parameters[0]).device
        self._groups: list[_Group] = []
        self.independent = True
        rows, start = [], 0
        for each in found:
            self.independent &= each.block.independent
            numbers = each.plan.rows.reshape(each.block.shape[:2])[each.which]
            stop = start + numbers.numel()
            self._groups.append(self._group(each, slice(start, stop), parameters, device))
            rows.append(numbers.reshape(-1))
            start = stop
        self.rows = sent(torch.cat(rows), device)
        self.shape = (1, start, sum(p.numel() for p in parameters))

    def _group(
        self,
        each: _Factored,
        rows: slice,
        parameters: Sequence[Tensor],
        device: torch.device,
    ) -> _Group:
        block, parts = each.block, []
        for piece, part in zip(each.plan.pieces, block.parts, strict=True):
            found = _part(
                piece.parameter,
                piece.columns(block.shape[0])[each.which],
                each.of(part.A, 2),
                each.of(part.W, 2),
                parameters[piece.parameter],
                self.ranks,
                device,
            )
            if found is not None:
                parts.append(
                    replace(
                        found,
                        blocks=None if found.blocks is None else sent(found.blocks, device),
                        own=None if found.own is None else sent(found.own, device),
                        A=sent(narrowed(found.A, self.work), device),
                        W=sent(found.W, device, self.work),
                    )
                )
        K = sent(narrowed(each.of(block.K, 2), self.work), device)
        norms = sent(each.of(block.norms, 1), device, self.work)
        prices = each.of(block.prices, 2)
        prices = K.mT if block.independent else sent(narrowed(prices, self.work), device)
        shape = (len(each.which), *block.shape[1:])
        return _Group(rows, shape, K.shape[-2], K, prices, norms, tuple(parts))

    def residual(self, b: Tensor) -> Tensor:
        return self._times(self.ts, lambda part: part.A, torch.Tensor.detach) - b

    def magnitude(self, b: Tensor) -> Tensor:
        return self._times(self.ts, lambda part: part.A.abs(), torch.abs) + b.abs()

    def subtract(self, r: Tensor) -> None:
        self._subtract(self.ts, [self._coordinates(group, r) for group in self._groups])

    def one_is_enough(self, b: Tensor, r: Tensor) -> bool:
        # whatever its size: finding out takes less than adding up a second time, and b, which
        # every rank has, is less than the magnitude
        return bool((tolerance.ONE_CORRECTION * self._moved_by_rounding(r) <= b.abs()).all())

    def _moved_by_rounding(self, r: Tensor) -> Tensor:
        moved = r.abs()
        for group in self._groups:
            count, m, _ = group.shape
            y = torch.linalg.vector_norm(self._coordinates(group, r), dim=-1, keepdim=True)
            moved[group.rows].view(count, m).add_(m * group.norms * y)
        return moved

    @staticmethod
    def _coordinates(group: _Group, r: Tensor) -> Tensor:
        """K r of one group, (B, r)."""
        return applied(group.K, r[group.rows].view(group.shape[:2]))

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        self._subtract(gs, self._coordinates_of(gs, shift))

    def multipliers(self, gs: Sequence[Tensor], shift: Shift | None) -> Tensor:
        y = torch.zeros(len(self.rows), dtype=self.work, device=self.rows.device)
        for group, own in zip(self._groups, self._coordinates_of(gs, shift), strict=True):
            y[group.rows] = -applied(group.prices, own).flatten()
        return y

    def _coordinates_of(self, gs: Sequence[Tensor], shift: Shift | None) -> list[Tensor]:
        """W (g + shift * x) of each group, (B, r); of shared ones the same on every rank."""
        sizes = [group.shape[0] * group.rank for group in self._groups]
        y = torch.zeros(sum(sizes), dtype=self.work, device=self.rows.device)
        ys = [
            own.view(-1, group.rank)
            for own, group in zip(y.split(sizes), self._groups, strict=True)
        ]
        for own, group in zip(ys, self._groups, strict=True):
            for part in group.parts:
                v = part.read(gs[part.parameter], self.work)
                if shift is not None:
                    x = part.read(self.ts[part.parameter], self.work)
                    v = v + x * shift[part.parameter]
                _add(own, part, part.times(part.W, v))
        self._add_up(y)
        return ys

    def _add_up(self, y: Tensor) -> Tensor:
        """Over the ranks, in place."""
        return y if self.alone else self.ranks.add_(y)

    def together(self, holds: Tensor) -> Tensor:
        every = holds.clone()
        for group in self._groups:
            count, m, _ = group.shape
            own = every[group.rows].view(count, m)
            own.copy_(own.all(-1, keepdim=True).expand(count, m))
        return every

    def _times(
        self,
        ts: Sequence[Tensor],
        matrix: Callable[[_Part], Tensor],
        of: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Sums over the entries of all ranks, (rows,)."""
        y = torch.zeros(len(self.rows), dtype=self.work, device=self.rows.device)
        for group in self._groups:
            own = y[group.rows].view(group.shape[:2])
            for part in group.parts:
                x = of(part.read(ts[part.parameter], self.work))
                _add(own, part, part.times(matrix(part), x))
        return self._add_up(y)

    def _subtract(self, ts: Sequence[Tensor], ys: Sequence[Tensor]) -> None:
        for group, y in zip(self._groups, ys, strict=True):
            for part in group.parts:
                own = y if part.blocks is None else y[part.blocks]
                part.subtract(ts[part.parameter], own)


def _as_matrix(plan: SumsPlan | MatrixPlan) -> MatrixPlan:
    """Dense rows, of which columns can be taken."""
    if isinstance(plan, SumsPlan):
        scales = [
            torch.full((t.count,), t.scale, dtype=torch.float64, device="cpu")
            for _, t in plan.terms
        ]
        pieces = tuple(Piece(p, t.columns()) for p, t in plan.terms)
        return MatrixPlan(plan.rows.reshape(-1, 1), pieces, torch.cat(scales).unsqueeze(0))
    if plan.A.layout == torch.strided:
        return plan
    if not decidable(plan.A):
        raise InputError(
            f"{plan.A.shape[0]} rows that share entries, in {plan.A.shape[1]} entries, are too "
            f"many for sharded parameters, whose rows are kept dense. {REMEDY}"
        )
    return replace(plan, A=plan.A.to_dense())


def owner(
    pieces: Sequence[Piece], blocks: int, parameters: Sequence[Tensor], ranks: Ranks
) -> Tensor:
    """The number of the rank that holds all entries of a block, (B,); -1 where several do."""
    entries = [ranks.owners(p.columns(blocks), parameters[p.parameter]) for p in pieces]
    owners = torch.cat(entries, dim=1)
    return owners[:, 0].masked_fill((owners != owners[:, :1]).any(1), -1)


def _part(
    number: int,
    columns: Tensor,
    A: Tensor,
    W: Tensor,
    parameter: Tensor,
    ranks: Ranks,
    device: torch.device,
) -> _Part | None:
    """What of the columns (B, n) of a parameter is here; None where nothing is."""
    inside, places = ranks.places(columns, parameter)
    blocks = inside.any(1).nonzero().flatten()
    if not len(blocks):
        return None
    inside, places = inside[blocks], places[blocks]
    width = int(inside.sum(1).max())
    # the entries here first, in their order; rows with fewer of them are padded
    order = torch.argsort(~inside, dim=1, stable=True)[:, :width]
    kept = inside.gather(1, order)
    places = places.gather(1, order).masked_fill(~kept, 0)
    same = bool((order == order[0]).all()) and bool(kept.all())

    def columns_here(M: Tensor) -> Tensor:
        if same:
            own = M if M.dim() == 2 else M[blocks]
            return own[..., order[0]].contiguous()
        own = M.expand(len(columns), *M.shape[-2:])[blocks]
        taken = own.gather(2, order.unsqueeze(1).expand(-1, own.shape[1], -1))
        return taken.masked_fill(~kept.unsqueeze(1), 0)

    own_A, own_W = columns_here(A), columns_here(W)
    # of sums only A is even to the last bit: W = K A, of one row, is so to rounding
    if width > 1 and own_A.shape[-2] == 1 and bool((own_A == own_A[..., :1]).all()):
        own_A, own_W = own_A[..., :1].clone(), own_W[..., -1:].clone()
    full = bool(kept.all())
    return _Part(
        number,
        ranks.counted(parameter),
        None if len(blocks) == len(columns) else blocks,
        Places.of(places, device, regular=full),
        None if full else kept.flatten().nonzero().flatten(),
        own_A,
        own_W,
    )


def _add(y: Tensor, part: _Part, product: Tensor) -> None:
    """Add (k, m) to the sums of its blocks, where this rank's entries are counted."""
    if not part.counted:
        return
    if part.blocks is None:
        y.add_(product)
    else:
        y.index_add_(0, part.blocks, product)
