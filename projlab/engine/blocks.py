"""Independent blocks of one sparse system, each projected onto by itself, equal shapes at once.

Rows that share no variable with each other, not even through others, are systems of their own: the
projection onto all of them is that onto each. Blocks of one shape are one batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine import sparse
from projlab.engine.facts import Facts
from projlab.engine.kernels import components
from projlab.engine.solver import NOTHING, Direct, ReverseMode, Solver
from projlab.errors import InconsistentError, ProjlabError
from projlab.numerics import tuning
from projlab.numerics.precision import lowered, stated_precision
from projlab.numerics.transfer import sent
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import equilibrate
from projlab.system.options import Options
from projlab.system.rows import SparseRows
from projlab.system.structure import Blocks, independent_blocks

Build = Callable[[AffineConstraint, torch.dtype, Options, torch.dtype], Solver]


class Group(NamedTuple):
    """Blocks of one shape."""

    rows: Tensor
    """(B, m) numbers of their rows."""
    columns: Tensor
    """(B, n) numbers of their variables."""
    solver: Solver


@dataclass
class BlockFacts:
    """What is known of a system of blocks: as `Facts`, of the whole."""

    shape: tuple[int, int]
    parts: tuple[Facts, ...]

    @property
    def known_ranks(self) -> tuple[int, ...] | None:
        """The rank, where every block's is known."""
        known = [part.known_ranks for part in self.parts]
        return None if None in known else (sum(sum(ranks or ()) for ranks in known),)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank; decided now, block by block, where it is not known."""
        return (sum(sum(part.ranks) for part in self.parts),)

    known_conditions: tuple[float, ...] | None = None

    @property
    def conditions(self) -> tuple[float, ...]:
        """The condition number of all equilibrated rows, from singular values."""
        if self.known_conditions is None:
            sigma = torch.cat([s for part in self.parts for s in part.singular_values()])
            self.known_conditions = (float(sigma.max() / sigma.min()) if len(sigma) else 1.0,)
        return self.known_conditions

    @property
    def bounds(self) -> tuple[float, ...] | None:
        """An upper bound on the condition number, where every block has one.

        Rows have norms in [sqrt(1/2), sqrt(2)): singular values of a block are at most sqrt(2 m),
        and the largest is at least sqrt(1/2).
        """
        bounds = [part.known_conditions or part.bounds for part in self.parts]
        if None in bounds:
            return None
        worst = max((max(b) for b in bounds if b), default=1.0)
        return (2 * max(self.shape[0], 1) ** 0.5 * worst,)


@dataclass(frozen=True)
class BlockSolver:
    """Projects x (..., n) block by block; in the place of a `Solver` of one system."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    variant: str
    reason: str
    facts: BlockFacts
    groups: tuple[Group, ...]
    place: Tensor
    """(n,) where each entry of a projection stands behind x and those of the groups."""
    batch = None
    batched = False
    pattern = None
    metric = None

    @property
    def decided(self) -> bool:
        """As `Solver.decided`, of every block."""
        return all(group.solver.decided for group in self.groups)

    @property
    def takes_any_side(self) -> bool:
        """As `Solver.takes_any_side`, of every block."""
        return all(group.solver.takes_any_side for group in self.groups)

    @property
    def independent(self) -> bool:
        """As `Solver.independent`, of every block."""
        return all(group.solver.independent for group in self.groups)

    @property
    def full_rank(self) -> bool:
        """Whether every row is independent; decided now where set-up could do without."""
        return self.facts.ranks[0] == self.shape[0]

    def solvers(self) -> list["BlockSolver"]:
        """Itself, as a source of derivatives."""
        return [self]

    @property
    def opaque(self) -> bool:
        """As `Solver.opaque`, of any block."""
        return any(group.solver.opaque for group in self.groups)

    def stacked(self) -> "BlockSolver":
        """Itself, as a source of derivatives."""
        return self

    def bind(self, x: Tensor, A: Tensor | None, b: Tensor | None) -> "BlockSolver":
        """Itself, as a source of derivatives."""
        return self

    def to(self, device: torch.device) -> "BlockSolver":
        """The same solver on another device."""
        groups = tuple(
            Group(g.rows.to(device), g.columns.to(device), g.solver.to(device)) for g in self.groups
        )
        return replace(self, device=device, groups=groups, place=sent(self.place, device))

    def for_right_side(self, b: Tensor) -> "BlockSolver | None":
        """As `Solver.for_right_side`."""
        groups = []
        for rows, columns, solver in self.groups:
            changed = solver.for_right_side(b[rows])
            if changed is None:
                return None
            groups.append(Group(rows, columns, changed))
        return replace(self, groups=tuple(groups))

    def tangent(self, v: Tensor, *, dual: bool) -> Tensor:
        """As `Solver.tangent`."""
        return self.solve(v, None, homogeneous=True, dual=dual, want_multipliers=False)[0]

    def direct(self, reverse_mode: ReverseMode) -> Direct:
        """No shorter road than the general one, on which the blocks use their kernels."""
        for group in self.groups:
            group.solver.direct(reverse_mode)
        return NOTHING

    def solve(
        self,
        x: Tensor,
        b: Tensor | None,
        *,
        homogeneous: bool,
        dual: bool,
        want_multipliers: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """As `Solver.solve`."""
        if self.dtype is not torch.float64 and lowered(self.dtype, self.device.type):
            with stated_precision(self.device):
                return self._solve(x, b, homogeneous, dual, want_multipliers)
        return self._solve(x, b, homogeneous, dual, want_multipliers)

    def _solve(
        self, x: Tensor, b: Tensor | None, homogeneous: bool, dual: bool, want: bool
    ) -> tuple[Tensor, Tensor | None]:
        lead, (m, n) = x.shape[:-1], self.shape
        flat = x.reshape(-1, n)
        right = b
        if b is not None:  # one for all vectors stays one
            right = b.reshape(1, m) if b.dim() == 1 else b.expand(*lead, m).reshape(-1, m)
        found, y = [flat], flat.new_zeros(flat.shape[0], m) if want else None
        for rows, columns, solver in self.groups:
            part, multipliers = solver.solve(
                flat[:, columns].transpose(0, 1),
                None if right is None else right[:, rows].transpose(0, 1),
                homogeneous=homogeneous,
                dual=dual,
                want_multipliers=want,
            )
            found.append(part.transpose(0, 1).reshape(flat.shape[0], -1))
            if y is not None:
                assert multipliers is not None
                own = multipliers.transpose(0, 1).reshape(flat.shape[0], -1)
                y = y.index_copy(-1, rows.flatten(), own)
        # one copy and one gather, however many groups there are
        projected = torch.cat(found, -1)[:, self.place]
        return projected.reshape(x.shape), None if y is None else y.reshape(*lead, m)

    def project_(self, x: Tensor) -> None:
        """In place, x in `dtype` on `device`, no graph."""
        x = x.detach()
        projected, _ = self.solve(x, None, homogeneous=False, dual=False, want_multipliers=False)
        x.copy_(projected)


AnySolver = Solver | BlockSolver
"""What projects, whatever is behind it."""


@dataclass(frozen=True)
class _Apart:
    """A constraint taken apart, and what its blocks are built with."""

    constraint: AffineConstraint
    blocks: Blocks
    dtype: torch.dtype
    options: Options
    data: torch.dtype
    build: Build

    def check_empty(self) -> None:
        """Raise for a row without coefficients as for any other that has no solution."""
        b = self.constraint.b[self.blocks.empty]
        for i in self.blocks.empty[b != 0].tolist():
            none = torch.zeros(1, 1, dtype=self.constraint.dtype, device=b.device)
            name = self.constraint.names[i]
            one = AffineConstraint(none, self.constraint.b[i], [name], b_error=self._error(i))
            self._built(one, self.options)

    def group(self, shape: tuple[int, int], members: Tensor) -> Group:
        """The blocks of one shape, factored."""
        rows, columns, A = self.blocks.gathered(shape, members)
        b = self.constraint.b[rows]
        whole = AffineConstraint(A, b, b_error=self._error(rows))
        try:
            solver = self._built(whole, self.options)
        except InconsistentError:
            # a row may be off on the scale of its block, and not on that of the whole system
            lenient = replace(self.options, on_inconsistent="least_squares")
            solver = self._built(whole, lenient)
            self._refuse(rows, columns, A, solver)
        except ProjlabError:
            for i in range(len(rows)):
                self._built(self._one(A[i], rows[i]), self.options)
            raise
        return Group(rows, columns, solver)

    def _one(self, A: Tensor, rows: Tensor) -> AffineConstraint:
        """One block, by the names of its rows."""
        names = [self.constraint.names[i] for i in rows.tolist()]
        return AffineConstraint(A, self.constraint.b[rows], names, b_error=self._error(rows))

    def _error(self, rows: Tensor | int) -> float | Tensor:
        error = self.constraint.b_error
        return 0.0 if error is None else error[rows]

    def _built(self, constraint: AffineConstraint, options: Options) -> Solver:
        return self.build(constraint, self.dtype, options, self.data)

    @cached_property
    def nearest_to_zero(self) -> Tensor:
        """2-norm of the least-squares solution of least norm, of all blocks together."""
        lenient = replace(self.options, on_inconsistent="least_squares")
        total = torch.zeros((), dtype=torch.float64, device=self.constraint.device)
        for shape, members in self.blocks.shapes():
            rows, _, A = self.blocks.gathered(shape, members)
            solver = self._built(AffineConstraint(A, self.constraint.b[rows]), lenient)
            zero = torch.zeros(len(rows), shape[1], dtype=self.dtype, device=total.device)
            x, _ = solver.solve(zero, None, homogeneous=False, dual=False, want_multipliers=False)
            total += x.double().square().sum()
        return total.sqrt()

    def _refuse(self, rows: Tensor, columns: Tensor, A: Tensor, solver: Solver) -> None:
        """Raise `InconsistentError` unless every row holds on the scale of the whole system."""
        m, n = self.constraint.m, self.constraint.n
        system = equilibrate(AffineConstraint(A, self.constraint.b[rows]), torch.float64)
        zero = torch.zeros(columns.shape, dtype=self.dtype, device=A.device)
        x, _ = solver.solve(zero, None, homogeneous=False, dual=False, want_multipliers=False)
        off = (system.rows.matvec(x.double()) - system.f).abs()
        u = tolerance.unit_roundoff(self.data)
        factor = tolerance.consistency_factor(tolerance.rank_cutoff(m, n, u))
        allowed = factor * (system.rows.row_norms() * self.nearest_to_zero + system.f.abs())
        bad = (off > allowed).any(-1).nonzero().flatten().tolist()
        for i in bad:  # says which rows, and the combination that proves it, unless b_error does
            self._built(self._one(A[i], rows[i]), self.options)


def _large(shapes: list[tuple[tuple[int, int], Tensor]]) -> bool:
    """Whether a block is larger than what is dense anyway."""
    return max((m * n for (m, n), _ in shapes), default=0) > tuning.DENSE_BLOCK


def built(
    constraint: AffineConstraint,
    dtype: torch.dtype,
    options: Options,
    data: torch.dtype,
    build: Build,
) -> BlockSolver | None:
    """A solver by blocks, where a sparse constraint falls into some and that costs less."""
    rows = constraint.rows
    if (
        not isinstance(rows, SparseRows)
        or options.metric is not None
        or options.rank != "numerical"
        or options.variant == "single_row"
    ):
        return None
    m, n = constraint.m, constraint.n
    if tuning.whole(m, n):
        return None
    blocks = independent_blocks(rows, components.of_rows)
    if len(blocks) < 2:
        return None
    shapes = blocks.shapes()
    if options.variant == "auto" and all(k == 1 for (k, _), _ in shapes):
        return None  # rows that share no variable are projected onto at once
    split = sum(len(members) * k * k * width for (k, width), members in shapes)
    pays = len(shapes) <= tuning.FEW_SHAPES and split * tuning.SPLIT_GAIN <= m * m * n
    if sparse.possible(constraint, options):
        # one sparse factor of all is as good as many of each, but not as many small dense ones
        if not pays or options.variant == sparse.NAME or _large(shapes):
            return None
    elif not pays and sparse.dense_fits(constraint):
        return None
    system = _Apart(constraint, blocks, dtype, options, data, build)
    system.check_empty()
    groups = tuple(system.group(shape, members) for shape, members in shapes)
    names = " and ".join(dict.fromkeys(group.solver.variant for group in groups))
    facts = BlockFacts((m, n), tuple(group.solver.facts for group in groups))
    reason = (
        f"{groups[0].solver.variant}: {len(blocks)} blocks that share no variable, of "
        f"{len(shapes)} shapes, each projected onto by itself ({names})"
    )
    place = torch.arange(n, device=constraint.device)
    moved = torch.cat([g.columns.flatten() for g in groups])
    place[moved] = torch.arange(n, n + len(moved), device=constraint.device)
    return BlockSolver(
        (m, n), dtype, constraint.device, groups[0].solver.variant, reason, facts, groups, place
    )
