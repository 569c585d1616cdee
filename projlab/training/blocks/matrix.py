"""Dense rows: A and an orthonormal basis W of their span, kept by parameter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from projlab.numerics import dots, tuning
from projlab.numerics.transfer import sent
from projlab.training.blocks.base import (
    Block,
    Shift,
    TouchedEntries,
    narrowed,
    skipped,
    unit,
    widest_dtype,
)
from projlab.training.partition import MatrixPlan


@dataclass(frozen=True)
class _Part:
    """The columns of A and W that belong to one parameter: (m, n) and (r, n), or (B, ...)."""

    entries: TouchedEntries
    A: Tensor
    W: Tensor


class MatrixBlock(Block):
    """Dense rows, one block or B of one shape, split by parameter.

    A is (m, n) or (B, m, n), W (r, n) or (B, r, n), and K with K A = W (r, m) or (B, r, m).
    """

    def __init__(
        self,
        plan: MatrixPlan,
        parameters: Sequence[Tensor],
        A: Tensor,
        W: Tensor,
        K: Tensor,
        variant: str,
    ) -> None:
        own = [parameters[piece.parameter] for piece in plan.pieces]
        device = own[0].device
        self.work = widest_dtype(own)
        self.rows = sent(plan.rows, device)
        self.variant = variant
        self.shape = (len(plan.rows), A.shape[-2], A.shape[-1])
        self.K = sent(narrowed(K, self.work), device)
        A, W = sent(narrowed(A, self.work), device), sent(W, device, self.work)
        self._entries = max(A.numel(), len(plan.rows) * A.shape[-1])
        self.norms: Tensor = torch.linalg.vector_norm(A, dim=-1)
        self.parts = []
        start = 0
        for piece in plan.pieces:
            entries = TouchedEntries(piece, parameters[piece.parameter])
            stop = start + entries.width
            own_A, own_W = A[..., start:stop], W[..., start:stop]
            if A.dim() == 3:  # batched products copy what is not contiguous, at each step
                own_A = own_A.contiguous()
            if W.dim() == 3:
                own_W = own_W.contiguous()
            elif tuning.small_set_up(*W.shape):
                # by columns: dot products of BLAS round by where in memory a gradient begins, and
                # what is resumed elsewhere is to go on with the same bits
                own_W = own_W.mT.contiguous().mT
            self.parts.append(_Part(entries, own_A, own_W))
            start = stop

    @property
    def disjoint(self) -> bool:
        """One row for each block."""
        return self.shape[1] == 1

    @property
    def large(self) -> bool:
        return self._entries >= tuning.DECIDED

    def residual(self, b: Tensor) -> Tensor:
        return self._times(self.ts, lambda part: part.A) - b

    def magnitude(self, b: Tensor) -> Tensor:
        total = b.abs()
        for part in self.parts:
            x = part.entries.read(self.ts)
            for a, piece in dots.pieces(part.A, x):
                total = total + applied(a.abs(), piece.to(self.work).abs())
        return total

    def magnitude_at_least(self, b: Tensor) -> Tensor:
        total = b.abs()
        for part in self.parts:
            x = part.entries.read(self.ts)[:, : tuning.HEAD].to(self.work).abs()
            total = total + applied(part.A[..., : tuning.HEAD].abs(), x)
        return total

    def magnitude_at_most(self, b: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm
        sizes = [norm(part.entries.read(self.ts), dim=-1, dtype=self.work) for part in self.parts]
        length: Tensor = norm(torch.stack(sizes), dim=0)
        return b.abs() + self.norms * length.unsqueeze(-1)

    def subtract(self, r: Tensor) -> None:
        self._subtract(self.ts, applied(self.K, r))

    def _moved_by_rounding(self, r: Tensor) -> Tensor:
        y: Tensor = torch.linalg.vector_norm(applied(self.K, r), dim=-1, keepdim=True)
        return r.abs() + self.shape[1] * self.norms * y

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        self._subtract(gs, self._coordinates(gs, shift))

    def multipliers(self, gs: Sequence[Tensor], shift: Shift | None) -> Tensor:
        return -applied(self.prices, self._coordinates(gs, shift))

    @cached_property
    def prices(self) -> Tensor:
        """Y with A'Y = W', (m, r) or (B, m, r): multipliers by coordinates in the basis."""
        if self.independent:
            return self.K.mT
        D = unit(self.norms).double().unsqueeze(-1)
        parts = [part.W.double() @ (part.A.double() * D).mT for part in self.parts]
        overlap = torch.stack(parts).sum(0)
        prices: Tensor = D * torch.linalg.pinv(overlap)
        return prices.to(self.work)

    def _coordinates(self, gs: Sequence[Tensor], shift: Shift | None) -> Tensor:
        """W (g + shift * x)."""
        y = self._times(gs, lambda part: part.W)
        if shift is not None:
            for part in self.parts:
                x = part.entries.read(self.ts).to(self.work)
                y = y + applied(part.W, x) * shift[part.entries.parameter]
        return y

    def project_in_metric(self, b: Tensor, inverse: Sequence[Tensor], skip: Tensor | None) -> None:
        norm2 = torch.zeros_like(b)
        for part in self.parts:
            norm2 = norm2 + applied(part.A.square(), part.entries.read(inverse).to(self.work))
        y = skipped(skipped(self.residual(b), skip) / norm2, norm2 == 0)
        for part in self.parts:
            q = part.entries.read(inverse).to(self.work)
            part.entries.subtract(self.ts, y * part.A.reshape(-1, part.A.shape[-1]) * q)

    def _times(self, ts: Sequence[Tensor], matrix: Callable[[_Part], Tensor]) -> Tensor:
        total: Tensor | None = None
        for part in self.parts:
            product = applied(matrix(part), part.entries.read(ts).to(self.work))
            total = product if total is None else total + product
        assert total is not None
        return total

    def _subtract(self, ts: Sequence[Tensor], y: Tensor) -> None:
        for part in self.parts:
            view = part.entries.view
            if (
                view is not None
                and part.W.dim() == 2
                and ts[part.entries.parameter].dtype is self.work
            ):
                x = view.view(ts[part.entries.parameter])
                if len(y) == 1:
                    x[0].addmv_(part.W.mT, y[0], alpha=-1)
                else:
                    x.addmm_(y, part.W, alpha=-1)
            else:
                part.entries.subtract(ts, applied(part.W.mT, y))


def applied(M: Tensor, x: Tensor) -> Tensor:
    """M x for each block: M (m, n) or (B, m, n), x (B, n)."""
    if M.dim() == 3:
        return (M @ x.unsqueeze(-1)).squeeze(-1)
    if len(x) > 1:
        return x @ M.mT
    return dots.times(M, x[0]).unsqueeze(0)
