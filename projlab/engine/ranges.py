"""b moved to the nearest point of the range of A: what makes a system consistent in least squares.

x minimises ||A x - b|| exactly where A x = Q b, with Q the orthogonal projection onto the range of
A. I - Q is that onto the null space of A', so that a sparse factor of A's columns makes Q b, as one
of its rows projects x. Reference: Bjorck, "Numerical Methods for Least Squares Problems", section
1.1.4.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from projlab.engine.variants.base import Factor
from projlab.numerics.transfer import sent
from projlab.system.equilibration import equilibrate_rows
from projlab.system.rows import Rows, sparse_rows


class Range(Protocol):
    """Q, for b (..., m)."""

    def __call__(self, b: Tensor) -> Tensor:
        """Q b."""

    def to(self, device: torch.device) -> "Range":
        """The same on another device."""


@dataclass(frozen=True)
class DenseRange:
    """By an orthonormal basis; for B systems b is (B, k, m)."""

    basis: Tensor
    """(m, r), or (B, m, r)."""

    def __call__(self, b: Tensor) -> Tensor:
        """See `Range`."""
        return b.to(self.basis.dtype) @ self.basis @ self.basis.mT

    def to(self, device: torch.device) -> "DenseRange":
        """See `Range`."""
        return DenseRange(sent(self.basis, device))


def transposed(rows: Rows) -> Rows:
    """Rows of A', equilibrated, of rows A (m, n) as they were given."""
    i, j, values = rows.triplets()
    (m, n), order = rows.shape, torch.argsort(j, stable=True)
    columns = sparse_rows(j[order], i[order], values.double()[order], (n, m))
    return equilibrate_rows(columns)[0]


@dataclass(frozen=True)
class SparseRange:
    """By the projection onto the null space of A', in float64."""

    columns: Factor
    """Of the equilibrated rows of A' (see `transposed`)."""

    def __call__(self, b: Tensor) -> Tensor:
        """See `Range`."""
        wide = b.double()
        return wide - self.columns.project(wide, None)

    def to(self, device: torch.device) -> "SparseRange":
        """See `Range`."""
        return SparseRange(self.columns.to(device))
