"""Rows that a variant's own factor projects: sparse ones, and variants without a basis."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from projlab.engine.solver import Solver
from projlab.numerics import memory
from projlab.numerics.transfer import sent
from projlab.system.rows import Rows
from projlab.training.blocks.base import Block, Shift, TouchedEntries, shifted, unit
from projlab.training.blocks.matrix import applied
from projlab.training.partition import MatrixPlan


class SolverBlock(Block):
    """Any other variant: the touched entries are gathered, projected and put back."""

    def __init__(
        self, plan: MatrixPlan, parameters: Sequence[Tensor], solver: Solver, A: Rows
    ) -> None:
        self.solver, self.A = solver, A
        self.work = solver.dtype
        self.rows = sent(plan.rows, solver.device)
        self.variant = solver.variant
        self.shape = (len(plan.rows), *A.shape)
        self.entries = [TouchedEntries(piece, parameters[piece.parameter]) for piece in plan.pieces]

    def residual(self, b: Tensor) -> Tensor:
        return self.A.to(self.work).matvec(self._read(self.ts)) - b

    def magnitude(self, b: Tensor) -> Tensor:
        absolute = self.A.to(self.work).abs()
        return absolute.matvec(self._read(self.ts).abs()) + b.abs()

    def subtract(self, r: Tensor) -> None:
        zero = r.new_zeros(len(r), self.shape[2])
        delta, _ = self.solver.solve(zero, r, homogeneous=False, dual=False, want_multipliers=False)
        self._subtract(self.ts, delta)

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        v = shifted(self._read(gs), self.entries, self.ts, shift)
        kept, _ = self.solver.solve(v, None, homogeneous=True, dual=False, want_multipliers=False)
        self._subtract(gs, v - kept)

    def multipliers(self, gs: Sequence[Tensor], shift: Shift | None) -> Tensor:
        v = shifted(self._read(gs), self.entries, self.ts, shift)
        kept, y = self.solver.solve(v, None, homogeneous=True, dual=False, want_multipliers=True)
        assert y is not None
        if self.independent:
            return -y
        prices, basis = self._prices
        return applied(prices, applied(basis, (v - kept).double()))

    @cached_property
    def _prices(self) -> tuple[Tensor, Tensor]:
        """Multipliers by coordinates in a basis of the row space, and that basis, (B, r, n)."""
        count, m, n = self.shape
        memory.require(count * m * n * 8, "rows as a dense matrix", self.A.device)
        rows = self.A.to_dense().double()
        D = unit(torch.linalg.vector_norm(rows, dim=-1)).unsqueeze(-1)
        U, S, V = torch.linalg.svd(rows * D, full_matrices=False)
        ranks = torch.tensor(self.solver.facts.ranks, device=S.device, dtype=torch.long)
        kept = torch.arange(S.shape[-1], device=S.device) < ranks.unsqueeze(-1)
        return U * (-D * torch.where(kept, 1 / S, 0.0).unsqueeze(-2)), V

    def _read(self, ts: Sequence[Tensor]) -> Tensor:
        return torch.cat([e.read(ts).to(self.work) for e in self.entries], -1)

    def _subtract(self, ts: Sequence[Tensor], delta: Tensor) -> None:
        start = 0
        for e in self.entries:
            e.subtract(ts, delta[:, start : start + e.width])
            start += e.width
