"""A float64 QR that steers the refinement, and a lower bound on sigma_min that it cannot spoil.

Of the whole system, or of independent blocks, equal shapes at once; of rows that share no column
nothing need be factored. Large sparse rows have a sparse factor instead: `sparse_steering`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import MemoryLimitError
from projlab.numerics import tuning
from projlab.numerics.gram import IndefiniteError
from projlab.numerics.scaling import scale
from projlab.numerics.triangular import triangular_solve
from projlab.proof.rounding import frobenius, gamma, norms
from projlab.proof.sparse_steering import SparseSteering
from projlab.system.equilibration import equilibrate_rows
from projlab.system.rows import Rows, SparseRows
from projlab.system.structure import Blocks, worthwhile_blocks


@dataclass(frozen=True)
class Steering:
    """F' = W'R of independent rows F (r, n), W with orthonormal rows, and sigma_min(F).

    Or of B systems of one shape, (B, r, n), which take B sets of vectors, (B, k, n).

    The QR only steers. sigma_min is proven from what was computed, not from how:

        sigma_min(F) >= sigma_min(R) sigma_min(W) - ||F - R' W||,
        sigma_min(W) >= sqrt(1 - ||I - W W'||),  sigma_min(R) >= (1 - ||I - X R||) / ||X||,

    X an approximate inverse of R, every product with its rounding bound (ASNA section 3.5) added.
    """

    W: Tensor
    R: Tensor
    sigma_min: float
    """A lower bound, the least of all systems; 0 where nothing is proven."""

    @staticmethod
    def of(F: Tensor, uncertainty: float) -> "Steering":
        """Of float64 rows that are known to within `uncertainty` in the 2-norm."""
        r, n = F.shape[-2:]
        Q, R = torch.linalg.qr(F.mT)
        W = Q.mT.contiguous()
        eye = torch.eye(r, dtype=torch.float64, device=F.device)
        X = torch.linalg.solve_triangular(R, eye.expand_as(R), upper=True)
        size_R, size_W, size_X = frobenius(R), frobenius(W), frobenius(X)
        misfit = frobenius(F - R.mT @ W) + gamma(r + 2) * (frobenius(F) + size_R * size_W)
        skew = frobenius(eye - W @ W.mT) + gamma(n + 2) * (size_W**2 + math.sqrt(r))
        defect = frobenius(eye - X @ R) + gamma(r + 2) * frobenius(X.abs() @ R.abs())
        proven = (1 - defect) / size_X * (1 - skew).clamp_min(0).sqrt() - misfit - uncertainty
        known = (skew < 1) & (defect < 1)  # not where they are NaN
        least = float(torch.where(known, proven, 0.0).min())
        return Steering(W, R, max(0.0, least * (1 - tolerance.PROOF_ROUNDING)))

    def into_rows(self, v: Tensor) -> Tensor:
        """Coefficients y (..., k, r) with F'y near the row-space part of v (..., k, n)."""
        return triangular_solve(self.R, v @ self.W.mT, transpose=False)

    def shortest(self, q: Tensor) -> Tensor:
        """z (..., k, n) of least norm with F z near q (..., k, r)."""
        return triangular_solve(self.R, q, transpose=True) @ self.W

    def row_part(self, v: Tensor) -> Tensor:
        """(..., k) how much of v (..., k, n) is left in the row space, as the QR sees it."""
        return norms(v @ self.W.mT)

    def image(self, v: Tensor) -> Tensor:
        """(..., k) upper bound on ||F v||, rounding included."""
        r, n = self.W.shape[-2:]
        product = v @ (self.R.mT @ self.W).mT
        size = frobenius(self.R).unsqueeze(-1)
        return norms(product) + gamma(n + r) * 4 * size * norms(v)


@dataclass(frozen=True)
class DisjointSteering:
    """As `Steering` of rows that share no column: W those rows at norm one, R their norms.

    They are orthogonal, so the smallest of the norms is sigma_min.
    """

    rows: Rows
    """F with its rows scaled by powers of two, to norms near one."""
    scaled: Tensor
    """(r,) the norms of those."""
    R: Tensor
    """(r,) the norms of F."""
    sigma_min: float

    @staticmethod
    def of(F: Rows, uncertainty: float) -> "DisjointSteering":
        """Of float64 rows that are known to within `uncertainty` in the 2-norm."""
        rows, exponent = equilibrate_rows(F)
        scaled = rows.row_norms()
        R = scale(scaled, -exponent)
        least = float(R.min()) * (1 - gamma(F.shape[1] + 2)) - uncertainty
        return DisjointSteering(rows, scaled, R, max(0.0, least * (1 - tolerance.PROOF_ROUNDING)))

    def into_rows(self, v: Tensor) -> Tensor:
        """As `Steering.into_rows`."""
        return self._along(v) / self.R

    def shortest(self, q: Tensor) -> Tensor:
        """As `Steering.shortest`."""
        return self.rows.rmatvec(q / self.R / self.scaled)

    def row_part(self, v: Tensor) -> Tensor:
        """As `Steering.row_part`."""
        return norms(self._along(v))

    def image(self, v: Tensor) -> Tensor:
        """As `Steering.image`."""
        rounding = 4 * gamma(self.rows.shape[1] + 2) * self.R.max()
        return norms(self._along(v) * self.R) + rounding * norms(v)

    def _along(self, v: Tensor) -> Tensor:
        """W v."""
        return self.rows.matvec(v) / self.scaled


class _Group(NamedTuple):
    """Blocks of one shape: numbers of their rows (B, r) and of their columns (B, n)."""

    rows: Tensor
    columns: Tensor
    steering: Steering


@dataclass(frozen=True)
class BlockSteering:
    """As `Steering` of rows that fall into independent blocks: each by itself."""

    shape: tuple[int, int]
    groups: tuple[_Group, ...]

    @staticmethod
    def of(blocks: Blocks, uncertainty: float) -> "BlockSteering":
        """Of float64 rows that are known to within `uncertainty` in the 2-norm."""
        groups = []
        for shape, members in blocks.shapes():
            rows, columns, F = blocks.gathered(shape, members)
            groups.append(_Group(rows, columns, Steering.of(F, uncertainty)))
        return BlockSteering(blocks.entries.shape, tuple(groups))

    @property
    def sigma_min(self) -> float:
        """A lower bound; the least of the blocks'."""
        return min(group.steering.sigma_min for group in self.groups)

    def into_rows(self, v: Tensor) -> Tensor:
        """As `Steering.into_rows`."""
        y = v.new_zeros(len(v), self.shape[0])
        for rows, columns, steering in self.groups:
            y[:, rows] = steering.into_rows(_of_blocks(v, columns)).transpose(0, 1)
        return y

    def shortest(self, q: Tensor) -> Tensor:
        """As `Steering.shortest`."""
        z = q.new_zeros(len(q), self.shape[1])
        for rows, columns, steering in self.groups:
            z[:, columns] = steering.shortest(_of_blocks(q, rows)).transpose(0, 1)
        return z

    def row_part(self, v: Tensor) -> Tensor:
        """As `Steering.row_part`."""
        return self._together(v, Steering.row_part)

    def image(self, v: Tensor) -> Tensor:
        """As `Steering.image`."""
        return self._together(v, Steering.image) * (1 + tolerance.NORM_ROUNDING)

    def _together(self, v: Tensor, size: Callable[[Steering, Tensor], Tensor]) -> Tensor:
        """(k,) norms from those of the blocks' parts."""
        parts = [size(steering, _of_blocks(v, columns)) for _, columns, steering in self.groups]
        return norms(torch.cat(parts).mT)


def _of_blocks(v: Tensor, numbers: Tensor) -> Tensor:
    """(B, k, ...) what k vectors hold at the numbers (B, ...)."""
    return v[:, numbers].transpose(0, 1)


AnySteering = Steering | DisjointSteering | BlockSteering | SparseSteering


def steering_of(F: Rows, uncertainty: float) -> AnySteering:
    """Of independent float64 rows, known to within `uncertainty`, by what structure they have."""
    if F.disjoint():
        return DisjointSteering.of(F, uncertainty)
    blocks = worthwhile_blocks(F)
    sparse = _sparse(F, blocks, uncertainty)
    if sparse is not None and sparse.sigma_min > 0:
        return sparse
    try:
        if blocks is not None:
            return BlockSteering.of(blocks, uncertainty)
        return Steering.of(F.to_dense(), uncertainty)
    except MemoryLimitError:
        if sparse is None:
            raise
        return sparse


def _sparse(F: Rows, blocks: Blocks | None, uncertainty: float) -> SparseSteering | None:
    """Where dense factors would take much longer, and the Gram matrix has a sparse one."""
    r, n = F.shape
    operations = float(r) * r * n if blocks is None else blocks.operations
    if not isinstance(F, SparseRows) or operations < tuning.SPARSE_DECISION:
        return None
    try:
        return SparseSteering.of(F, uncertainty)
    except (IndefiniteError, MemoryLimitError, np.linalg.LinAlgError):
        return None
