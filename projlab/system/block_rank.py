"""Rank of a system of independent blocks, decided block by block: nothing as large as A A' is made.

The singular values of the whole are those of its blocks, the cutoff is relative to the largest of
them all, and how a redundant row follows from the others is settled within its block.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import AccuracyError
from projlab.numerics.triangular import condition_bound
from projlab.system.rank import (
    Rank,
    RankRule,
    all_kept,
    count,
    cutoff_of,
    extended_precision_tail,
    range_of,
    singular,
    triangle,
    wide_data,
)
from projlab.system.row_choice import RowChoice, choose_rows
from projlab.system.rows import DenseRows, Rows, SparseRows, sparse_rows
from projlab.system.structure import Blocks, independent_blocks


class _Shape(NamedTuple):
    """Blocks of one shape."""

    size: tuple[int, int]
    members: Tensor
    sigma: Tensor
    """(B, min(m, n)) singular values, falling."""


def decide_by_blocks(blocks: Blocks, u: float, rule: RankRule) -> Rank:
    """As `projlab.system.rank.decide`, of equilibrated rows that fall into blocks."""
    shapes = [
        _Shape(size, members, torch.linalg.svdvals(triangle(_dense(blocks, size, members))[0]))
        for size, members in blocks.shapes()
    ]
    largest = torch.stack([shape.sigma.max() for shape in shapes]).max()
    cutoff = cutoff_of(rule, *blocks.entries.shape, u)
    extended = False
    if wide_data(u):
        for shape in shapes:
            extended = _extend(blocks, shape, largest, cutoff) or extended
    sigma = torch.cat([shape.sigma.flatten() for shape in shapes]).sort(descending=True).values
    counted = count(sigma, cutoff, extended=extended)
    ranks = [(shape.sigma > cutoff * largest).sum(-1) for shape in shapes]
    zero = blocks.of_row < 0
    if all(bool((r == s.size[0]).all()) for r, s in zip(ranks, shapes, strict=True)):
        nonzero = (~zero).nonzero().flatten()
        return all_kept(nonzero, zero, counted.condition, sigma, counted.gap, counted.ambiguous)
    parts = _Parts(blocks.entries.shape[0], zero.device)
    for shape, rank in zip(shapes, ranks, strict=True):
        for r in rank.unique().tolist():
            parts.take(blocks, shape.size, shape.members[rank == r], r)
    kept, dropped = parts.kept.nonzero().flatten(), (~parts.kept).nonzero().flatten()
    place = torch.empty_like(zero, dtype=torch.long)
    for numbers in (kept, dropped):
        place[numbers] = torch.arange(len(numbers), device=zero.device)
    i, j, c = parts.coefficients.joined()
    return Rank(
        rank=len(kept),
        condition=counted.condition,
        ambiguous=counted.ambiguous,
        gap=counted.gap,
        kept=kept,
        dropped=dropped,
        coefficients=sparse_rows(place[i], place[j], c, (len(dropped), len(kept))),
        basis=sparse_rows(*parts.basis.joined(), (len(zero), len(kept))),
        sigma=torch.cat(parts.sigma),
    )


def _dense(blocks: Blocks, size: tuple[int, int], members: Tensor) -> Tensor:
    return blocks.gathered(size, members)[2].double()


def _extend(blocks: Blocks, shape: _Shape, largest: Tensor, cutoff: float) -> bool:
    """Recompute singular values near the cutoff where an SVD's rounding could hide them."""
    doubtful = shape.sigma[:, -1] <= cutoff * tolerance.AMBIGUITY * largest
    done = False
    for i in doubtful.nonzero().flatten().tolist():
        E = _dense(blocks, shape.size, shape.members[i : i + 1])[0]
        tail = extended_precision_tail(E, shape.sigma[i], largest, cutoff)
        if tail is None:  # for this shape an SVD is good enough
            return done
        shape.sigma[i] = tail
        done = True
    return done


@dataclass
class _Entries:
    """Entries of a sparse matrix as they are found."""

    device: torch.device
    found: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def add(self, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """A dense part (..., p, q) whose rows (..., p) and columns (..., q) are numbered."""
        i = rows.unsqueeze(-1).expand_as(values)
        j = columns.unsqueeze(-2).expand_as(values)
        self.found.append((i.flatten(), j.flatten(), values.flatten()))

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and values of all."""
        none = torch.empty(0, dtype=torch.long, device=self.device)
        i = torch.cat([none, *(rows for rows, _, _ in self.found)])
        j = torch.cat([none, *(columns for _, columns, _ in self.found)])
        return i, j, torch.cat([none.double(), *(values for _, _, values in self.found)])


class _Parts:
    """What the blocks say, put together; rows by their numbers in the system."""

    def __init__(self, m: int, device: torch.device) -> None:
        self.kept = torch.zeros(m, dtype=torch.bool, device=device)
        self.coefficients, self.basis = _Entries(device), _Entries(device)
        self.sigma: list[Tensor] = []
        self._columns = 0

    def take(self, blocks: Blocks, size: tuple[int, int], members: Tensor, rank: int) -> None:
        """Blocks of one shape and rank; of rank zero their rows are zero to the system's cutoff."""
        if rank == 0:
            return
        rows, _, E = blocks.gathered(size, members)
        E = E.double()
        wide = triangle(E)[0].mT if size[0] <= size[1] else E
        basis, sigma = range_of(wide, *singular(wide), rank)
        columns = torch.arange(sigma.numel(), device=E.device).reshape(sigma.shape)
        self.basis.add(rows, self._columns + columns, basis)
        self._columns += sigma.numel()
        self.sigma.append(sigma.flatten())
        if rank == size[0]:
            self.kept[rows] = True
            return
        for which, chosen in _chosen(E, basis):
            kept, dropped = rows[which][:, chosen.kept], rows[which][:, chosen.dropped]
            self.kept[kept] = True
            C = chosen.coefficients
            self.coefficients.add(dropped, kept, C.expand(len(which), *C.shape))


def _chosen(E: Tensor, basis: Tensor) -> Iterator[tuple[Tensor, RowChoice]]:
    """Rows of each block that carry its rank: chosen once for blocks that are equal."""
    _, kind = torch.unique(E.flatten(1), dim=0, return_inverse=True)
    order = torch.argsort(kind, stable=True)
    for which in order.split(torch.bincount(kind).tolist()):
        first = int(which[0])
        yield which, choose_rows(basis[first], torch.linalg.vector_norm(E[first], dim=1))


def orthonormal_columns(basis: Rows) -> Rows:
    """Orthonormal columns with the span of those of `basis` (m, r); block by block where sparse.

    Raises
    ------
    AccuracyError
        Rows differ so much in size that rounding of the large ones is more than the small ones.
    """
    if not isinstance(basis, SparseRows):
        return DenseRows(_orthonormal(basis.to_dense()))
    blocks, found = independent_blocks(basis), _Entries(basis.device)
    for shape, members in blocks.shapes():
        rows, columns, part = blocks.gathered(shape, members)
        found.add(rows, columns, _orthonormal(part))
    return sparse_rows(*found.joined(), basis.shape)


def _orthonormal(M: Tensor) -> Tensor:
    """Of columns (..., m, r): b on their span is off by rounding of all of b in every entry."""
    Q, R = torch.linalg.qr(M)
    if not bool((condition_bound(R) * tolerance.unit_roundoff(M.dtype) < 1).all()):  # NaN too
        raise AccuracyError(
            'on_inconsistent="least_squares": the rows that follow from others differ so much in '
            "size that rounding of the largest hides what the smallest ask for, and least squares "
            "weighs them as they were given. Scale the rows, with their b, to what they count for"
        )
    columns: Tensor = Q
    return columns
