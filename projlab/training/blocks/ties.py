"""Groups of tied entries, which become their mean, with the signs and offsets of the group.

x_k = s_k t + o_k with t free: the nearest such point has t = mean_k s_k (x_k - o_k), and the
projection onto the null space is s_k mean_k s_k v_k. The offsets follow the rows from the first
entry of a group on; a residual of the rows is followed in the same way, which gives A^+ r.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.select import asked
from projlab.engine.setup import build_one
from projlab.engine.solver import Solver
from projlab.numerics.transfer import sent
from projlab.system.constraint import AffineConstraint
from projlab.system.rank import wide_data
from projlab.training.blocks.base import Block, Shift, narrowed, widest_dtype
from projlab.training.blocks.sparse import least_multipliers
from projlab.training.memory_order import flat
from projlab.training.ties import TiesPlan, jumps


class TiesBlock(Block):
    """Entries that are equal up to signs and offsets; O(entries) time and memory."""

    def __init__(self, plan: TiesPlan, parameters: Sequence[Tensor]) -> None:
        self.plan = plan
        own = [parameters[p] for p, _, _ in plan.entries]
        device = own[0].device
        self.work = widest_dtype(own)
        self._wide = torch.float64 if device.type != "mps" else self.work
        """The precision of long sums, one after the other."""
        self.rows = sent(plan.rows, device)
        self.ends = sent(plan.ends, device)
        self.values = sent(narrowed(plan.values.T, self.work).T.contiguous(), device)
        self.group_of_row = sent(plan.group_of_row, device)
        self.sizes = sent(plan.sizes, device)
        groups, rows, entries = len(plan.sizes), len(plan.rows), len(plan.signs)
        alike = bool((plan.sizes == plan.sizes[0]).all())
        number = torch.arange(groups, device="cpu")
        number = (
            number.repeat(int(plan.sizes[0])) if alike else number.repeat_interleave(plan.sizes)
        )
        self.group = sent(number, device)
        self._alike = int(plan.sizes[0]) if alike else 0
        """The size of every group, where they have one."""
        self.entries = [(p, sent(c, device), sent(where, device)) for p, c, where in plan.entries]
        positive = bool((plan.signs > 0).all())
        self.signs = None if positive else sent(plan.signs, device, self.work)
        self._way: list[tuple[Tensor, Tensor]] = []
        self.variant = "means of tied entries"
        each = torch.bincount(plan.group_of_row)
        self._rows_alike = bool((each == each[0]).all())
        uniform = alike and self._rows_alike
        self.shape = (groups, int(each[0]), self._alike) if uniform else (1, rows, entries)

    def residual(self, b: Tensor) -> Tensor:
        x = self._read(self.ts)
        r = self.values[0] * x.index_select(0, self.ends[0])
        r.addcmul_(self.values[1], x.index_select(0, self.ends[1]))
        return r if self.homogeneous else r.sub_(b)

    def magnitude(self, b: Tensor) -> Tensor:
        x = self._read(self.ts).abs()
        return (self.values.abs() * x[self.ends]).sum(0).add_(b.abs())

    def subtract(self, r: Tensor) -> None:
        if self.homogeneous:
            x = self._read(self.ts)
            off = self._any_in_groups(r != 0)
            self._write(self.ts, torch.where(self._each(off), self._averaged(x), x))
        else:
            d = self._followed(r)
            self._write(self.ts, self._read(self.ts) - (d - self._averaged(d)))

    def one_is_enough(self, b: Tensor, r: Tensor) -> bool:
        return self.homogeneous

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        g = self._read(gs)
        if shift is None:
            self._write(gs, self._averaged(g))
            return
        x = self._read(self.ts)
        for p, _, where in self.entries:
            x[where] *= shift[p]
        self._write(gs, self._averaged(g + x) - x)

    def multipliers(self, gs: Sequence[Tensor], shift: Shift | None) -> Tensor:
        v = self._read(gs).to(self._wide)
        if shift is not None:
            x = self._read(self.ts)
            for p, _, where in self.entries:
                v[where] += x[where] * shift[p]
        v = v - self._averaged(v)
        # on the host, as any device has a sparse factor there: this waits for another one
        y = least_multipliers(self._prices, v.cpu().double().unsqueeze(0))[0]
        return -y.to(device=v.device, dtype=v.dtype)

    @cached_property
    def _prices(self) -> Solver:
        """The rows, which cycles make depend on each other, in a sparse factor."""
        plan, (height, width) = self.plan, (len(self.rows), len(self.group))
        i = torch.arange(height, device="cpu").expand(2, -1).flatten()
        A = torch.sparse_coo_tensor(
            torch.stack([i, plan.ends.flatten()]),
            plan.values.flatten(),
            (height, width),
            device="cpu",
            check_invariants=False,
        )
        options = asked(width, "sparse_cholesky", {}, applications=1)
        none = torch.zeros(height, dtype=torch.float64, device="cpu")
        constraint = AffineConstraint(A.coalesce(), none)
        return build_one(constraint, torch.float64, options, torch.float64)

    def together(self, holds: Tensor) -> Tensor:
        return ~self._any_in_groups(~holds)[self.group_of_row]

    def off(self, b: Tensor, u: float) -> Tensor:
        """(G,) whether following the rows from b ends in a contradiction, for data of roundoff u.

        Where it does, rank and consistency have to be decided. Where it does not, no row of the
        least-squares residual is beyond the bound of float64 data, but for a factor. What is left
        of a row in a cycle is the sum of what is left of the rows beside the tree: of coarser data
        no combination of rows is off by more than their rounding unless one of these is.
        """
        o = self._followed(b)
        o = o - self._averaged(o)
        values = self.plan.values.to(o)
        left = (values * o[self.ends]).sum(0) - b
        square = torch.zeros(len(self.sizes), dtype=o.dtype, device=o.device)
        length = square.index_add(0, self.group, o.square()).sqrt()[self.group_of_row]
        allowed = math.sqrt(2) * values[0].abs() * length + b.abs()
        if not wide_data(u):
            return self._any_in_groups(left.abs() > tolerance.ROUNDED_ONCE * u * allowed)
        most = torch.maximum(torch.bincount(self.group_of_row), self.sizes)
        sizes, kind = torch.unique(most, return_inverse=True)
        cutoffs = [tolerance.rank_cutoff(size, size, u) for size in sizes.tolist()]
        factors = torch.tensor(
            [tolerance.consistency_factor(cutoff) for cutoff in cutoffs],
            dtype=torch.float64,
            device="cpu",
        )
        factor = factors.to(o)[kind][self.group_of_row]
        return self._any_in_groups(left.abs() > factor * allowed)

    def _read(self, ts: Sequence[Tensor]) -> Tensor:
        """The entries, in memory of their own."""
        if len(self.entries) == 1:
            p, columns, _ = self.entries[0]
            return flat(ts[p]).index_select(0, columns).to(self.work)
        x = torch.empty(len(self.group), dtype=self.work, device=self.group.device)
        for p, columns, where in self.entries:
            x.scatter_(0, where, flat(ts[p]).index_select(0, columns).to(self.work))
        return x

    def _write(self, ts: Sequence[Tensor], x: Tensor) -> None:
        for p, columns, where in self.entries:
            own = x if len(self.entries) == 1 else x.index_select(0, where)
            flat(ts[p]).scatter_(0, columns, own.to(ts[p].dtype))

    def _averaged(self, x: Tensor) -> Tensor:
        """s_k mean_k s_k x_k."""
        signed = x if self.signs is None else x * self.signs
        if self._alike:
            means = signed.view(self._alike, -1).mean(0)
        else:
            # to look at the lengths once more would wait for the device
            sums = torch.segment_reduce(
                signed.to(self._wide), "sum", lengths=self.sizes, unsafe=True
            )
            means = (sums / self.sizes).to(x.dtype)
        spread = self._each(means)
        return spread if self.signs is None else spread * self.signs

    def _each(self, groups: Tensor) -> Tensor:
        """The number of its group for each entry."""
        if self._alike:
            return groups.expand(self._alike, -1).reshape(-1)
        return groups.index_select(0, self.group)

    def _any_in_groups(self, rows: Tensor) -> Tensor:
        """(G,) whether it is true of any row of a group."""
        if self._rows_alike:
            off: Tensor = rows.view(-1, len(self.sizes)).any(0)
            return off
        none = torch.zeros(len(self.sizes), dtype=torch.uint8, device=rows.device)
        marks = none.scatter_reduce(0, self.group_of_row, rows.to(torch.uint8), "amax")
        return marks > 0

    def _followed(self, r: Tensor) -> Tensor:
        """d with A d = r, zero at the first entry of each group."""
        if not self._way:
            plan = self.plan
            first = plan.before == torch.arange(len(plan.before), device="cpu")
            other = plan.ends[1][plan.edge] == torch.arange(len(plan.before), device="cpu")
            own = torch.where(other, plan.values[1][plan.edge], plan.values[0][plan.edge])
            steps = plan.signs * plan.signs[plan.before]
            device = self.group.device
            self._inverse = sent(torch.where(first, 0.0, 1 / own), device, self._wide)
            self._edge = sent(plan.edge, device)
            way = jumps(plan.before, steps)
            self._way = [(sent(before, device), sent(s, device, self._wide)) for before, s in way]
        d = r.to(self._wide).index_select(0, self._edge) * self._inverse
        for before, signs in self._way:
            d = torch.addcmul(d, signs, d.index_select(0, before))
        return d
