"""Where entries lie among those of a tensor, by strides where these say it all."""

from dataclasses import dataclass

import torch
from torch import Tensor

from projlab.numerics.transfer import sent


@dataclass(frozen=True)
class Places:
    """Row-major places of (k, n) entries."""

    shape: tuple[int, int]
    stored: Tensor | None
    """(k, n); None where `strides` says it all."""
    strides: tuple[int, int] | None
    """By how much places grow down and across, where that is the same everywhere."""
    first: int

    @staticmethod
    def of(places: Tensor, device: torch.device, *, regular: bool = True) -> "Places":
        """From places (k, n), of which none is empty; `regular` where strides may be looked for."""
        strides = _strides(places) if regular else None
        stored = sent(places, device) if strides is None else None
        return Places((len(places), places.shape[1]), stored, strides, int(places[0, 0]))

    def view(self, t: Tensor) -> Tensor | None:
        """The entries of t as a view, where they are one."""
        if self.strides is None or not t.is_contiguous():
            return None
        return t.as_strided(self.shape, self.strides, t.storage_offset() + self.first)

    def numbers(self, device: torch.device) -> Tensor:
        """The places, (k, n)."""
        if self.strides is None:
            assert self.stored is not None
            return self.stored
        k, n = (torch.arange(size, device=device) for size in self.shape)
        return self.first + k.unsqueeze(-1) * self.strides[0] + n * self.strides[1]


def indices(t: Tensor, places: Tensor) -> tuple[Tensor, ...]:
    """Of row-major places the index of each dimension of t."""
    return torch.unravel_index(places, t.shape) if t.dim() else ()


def _strides(places: Tensor) -> tuple[int, int] | None:
    """By how much places (k, n) grow down and across; None where that differs."""
    k, n = places.shape
    down = int(places[1, 0] - places[0, 0]) if k > 1 else n
    across = int(places[0, 1] - places[0, 0]) if n > 1 else 1
    i, j = torch.arange(k, device="cpu"), torch.arange(n, device="cpu")
    regular = places[0, 0] + i.unsqueeze(-1) * down + j * across
    return (down, across) if min(down, across) > 0 and torch.equal(places, regular) else None
