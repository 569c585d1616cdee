"""How blocks of inequalities read and write the entries of a parameter, as (B, width).

Of a parameter that ranks hold together either all of them are here, or each rank has some: those
are added up over the ranks where they are read, n numbers for n entries, and every rank writes its
own.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from projlab.numerics.transfer import sent
from projlab.training.blocks.base import TouchedEntries, widest_dtype
from projlab.training.blocks.places import Places, indices
from projlab.training.expressions.maps import Sums
from projlab.training.partition import Piece
from projlab.training.shards import Ranks


class Entries(Protocol):
    """Entries of one parameter."""

    parameter: int
    """Its index in the system."""
    width: int
    in_place: bool
    """Whether what is read may be a view."""

    def read(self, ts: Sequence[Tensor]) -> Tensor:
        """The entries (B, width): a view where there is one, else a copy."""
        ...

    def write(self, ts: Sequence[Tensor], values: Tensor) -> None:
        """Put (B, width) there, with one rounding."""
        ...


Read = Callable[[Piece, Tensor, int], Entries]
"""Of a piece, the whole parameter (or its form) and B."""


class Whole:
    """Of a parameter that is here, and plain."""

    in_place = True

    def __init__(self, piece: Piece, parameter: Tensor, blocks: int) -> None:
        self.parameter, self._blocks = piece.parameter, blocks
        self._view = piece.where if isinstance(piece.where, Sums) else None
        self._stored = None if self._view is not None else TouchedEntries(piece, parameter)
        if self._view is not None:
            self.width = self._view.count * self._view.shape.numel() // blocks
        else:
            assert self._stored is not None
            self.width = self._stored.width

    def read(self, ts: Sequence[Tensor]) -> Tensor:
        """See `Entries`."""
        if self._view is not None:
            return self._view.view(ts[self.parameter]).reshape(self._blocks, -1)
        assert self._stored is not None
        return self._stored.read(ts)

    def write(self, ts: Sequence[Tensor], values: Tensor) -> None:
        """See `Entries`."""
        if self._view is not None:
            view = self._view.view(ts[self.parameter])
            view.copy_(values.reshape(view.shape))
            return
        assert self._stored is not None
        self._stored.put(ts, values)


class Here:
    """Of a parameter that ranks hold together, entries that are all on this one."""

    in_place = True

    def __init__(self, piece: Piece, parameter: Tensor, blocks: int, ranks: Ranks) -> None:
        columns = piece.columns(blocks)
        self.parameter, self.width = piece.parameter, columns.shape[1]
        _, places = ranks.places(columns, parameter)
        self._places = Places.of(places, parameter.device)

    def read(self, ts: Sequence[Tensor]) -> Tensor:
        """See `Entries`."""
        t = ts[self.parameter]
        view = self._places.view(t)
        return t.reshape(-1)[self._places.numbers(t.device)] if view is None else view

    def write(self, ts: Sequence[Tensor], values: Tensor) -> None:
        """See `Entries`."""
        t = ts[self.parameter]
        view = self._places.view(t)
        if view is not None:
            view.copy_(values)
            return
        where = indices(t, self._places.numbers(t.device))
        t.index_put_(where, values.to(t.dtype))


class Gathered:
    """Of a parameter that ranks hold together, entries of which each has some: all ranks ask."""

    in_place = False

    def __init__(self, piece: Piece, parameter: Tensor, blocks: int, ranks: Ranks) -> None:
        columns = piece.columns(blocks)
        self.parameter, self.width = piece.parameter, columns.shape[1]
        inside, places = ranks.places(columns.flatten(), parameter)
        self._ranks, self._counted = ranks, ranks.counted(parameter)
        self._own = sent(inside.nonzero().flatten(), parameter.device)
        self._places = sent(places[inside], parameter.device)
        # sums over ranks are of float32 at least, which has every value of narrower ones
        self._dtype = widest_dtype([parameter])
        self._shape = columns.shape

    def read(self, ts: Sequence[Tensor]) -> Tensor:
        """See `Entries`; one sum over the ranks."""
        t = ts[self.parameter]
        x = torch.zeros(self._shape, dtype=self._dtype, device=t.device)
        if self._counted:
            x.view(-1)[self._own] = t.reshape(-1)[self._places].to(self._dtype)
        return self._ranks.add_(x)

    def write(self, ts: Sequence[Tensor], values: Tensor) -> None:
        """See `Entries`; those that are here."""
        t = ts[self.parameter]
        own = values.reshape(-1)[self._own].to(t.dtype)
        t.index_put_(indices(t, self._places), own)
