"""Parameters within bounds and inequalities, beside the equations that meet them.

A step of gradient g in the tangent mode ends at the constrained optimum, whatever the optimizer's
scaling, by three projections:

1. The gradient. d is the projection of -g onto the tangent cone of the set at x, and -d is what the
   optimizer sees. It is zero exactly where x is stationary. -g = d + q, with q in the normal cone
   and q'd = 0: bounds and inequalities that q rests on, those that the gradient pushes against, are
   *held* for this step; what lies on a bound that the gradient pulls away from is free to leave it.
2. The momenta, minus which are velocities, onto the same face: what a bound stopped has no velocity
   into it, and nothing to unwind before it can leave.
3. The parameters after the step, onto the set with the held constraints as equations.

Why held. Let the step be along u with u'd > 0, as for u = D d with any positive diagonal D (Adam,
RMSprop, Adagrad and the like), for signs (Rprop), or for Muon's orthogonalised matrix. To first
order x moves along e, the projection of u onto K = (tangent cone) with q'e = 0, the critical cone.
u - e is in the polar cone of K and d in K, so that -g'e = d'e + q'e = d'e >= d'u > 0: a descent
direction, although the projection is Euclidean and the scaling is not; no metric is needed, also
where rows couple bounds. Without holding, q'e may be negative beyond d'e: an optimizer that scales
entries differently would push variables off bounds that the gradient holds them to, and the loss
may rise. Held constraints are released by the gradient of the next step.

Limits. The statements are those for equations: of momenta, descent holds as it does without
constraints, on average. A gradient that is noise about its mean feeds a variable on a bound one
side of the noise only, so that it hovers off the bound by about the learning rate, as under
projected SGD, and settles as the rate falls. Momenta that are not called `momentum_buffer` or
`exp_avg` in the optimizer's state decay instead of being projected. Line searches over several
points within a step (LBFGS) leave the set between them, and are refused.

References: Rosen, "The gradient projection method for nonlinear programming", J. SIAM 8 (1960);
Bertsekas, "Projected Newton methods for optimization problems with simple constraints", SIAM J.
Control Optim. 20 (1982), for holding what the gradient pushes against; Moreau, "Decomposition
orthogonale d'un espace hilbertien selon deux cones mutuellement polaires", C. R. Acad. Sci. 255
(1962).
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from projlab import tolerance
from projlab.engine.kernels import cones
from projlab.errors import InconsistentError, InputError, first_few
from projlab.numerics.transfer import sent
from projlab.proof.certificate import Certificate
from projlab.system.rows import as_rows
from projlab.training.blocks.base import Block, Shift, unit, widest_dtype
from projlab.training.blocks.entries import Read, Whole
from projlab.training.blocks.faces import Coupled, Disjoint, Faces, Free
from projlab.training.partition import Piece
from projlab.training.sides import Bounds


class Rowed(NamedTuple):
    """The rows of a block, as they come from a plan."""

    rows: Tensor
    """(B, m) row numbers."""
    pieces: tuple[Piece, ...]
    A: Tensor
    """(m, n), for all B."""
    inequality: Tensor
    """(m,)."""
    segment: Tensor | None = None
    """(n,) the row of each entry, where A is (1, n) and holds the entries of several rows."""


@dataclass(frozen=True)
class _Sides:
    """Right sides and bounds at one b, as numbers."""

    right: Tensor
    """(B, m)."""
    lb: Tensor
    """(B, n), or () where one holds for all; each as its parameter's dtype has it."""
    ub: Tensor
    listed: cones.Bounds | None
    """Both as kernels take them."""
    sums: Tensor | None
    """(B,) what the entries are to add up to, in float64, where rows are plain sums."""
    rounding: Tensor | None
    """(B,) what a sum of them may be off by, for rounding."""
    sizes: Tensor
    """(B, m) what right sides were made of, in units of u: zero where they are infinite."""
    on: tuple[Tensor, Tensor]
    """Up to what an entry is on its lower bound, and from what on on its upper one."""


@dataclass(frozen=True)
class _Face:
    """What is held until the next gradient."""

    entries: Tensor
    """(B, n): 1 held to the lower bound, 2 to the upper one, 3 to both; else 0, -1 on a bound."""
    rows: Tensor | None
    """(B, m) inequalities that count as equations; None where there are none."""

    @property
    def low(self) -> Tensor:
        """(B, n) at the lower bound."""
        return (self.entries == 1) | (self.entries == 3)

    @property
    def high(self) -> Tensor:
        """(B, n) at the upper bound."""
        return self.entries >= 2


class PolyhedralBlock(Block):
    """B vectors with the same rows, each with right sides and bounds of its own."""

    signs: Sequence[float] | None = None
    """For each parameter 1 where the optimizer descends, -1 where it ascends; None for all 1."""

    def __init__(
        self,
        rowed: Rowed,
        parameters: Sequence[Tensor],
        bounds: Bounds,
        b: Tensor,
        names: Callable[[Tensor], list[str]],
        entry_name: Callable[[int, int], str],
        *,
        strict: bool,
        read: Read = Whole,
        of_constants: Tensor | None = None,
    ) -> None:
        own = [parameters[piece.parameter] for piece in rowed.pieces]
        device, B = own[0].device, len(rowed.rows)
        self.work = widest_dtype(own)
        self._dtypes = [p.dtype for p in own]
        self._u = max(tolerance.unit_roundoff(dtype) for dtype in self._dtypes)
        self._entries = [read(piece, parameters[piece.parameter], B) for piece in rowed.pieces]
        n = sum(e.width for e in self._entries)
        self.faces = _faces(rowed, device, self.work)
        self.variant = self.faces.name
        self.shape = (B, self.faces.rows, n)
        self._inequality = sent(rowed.inequality, device)
        self._unequal = bool(rowed.inequality.any())
        self._place(rowed, parameters, bounds, device)
        one = len(self._entries) == 1 and self._entries[0].in_place
        view = one and rowed.segment is None and self.faces.rows <= 1
        uniform = view and (self.faces.rows == 0 or bool((rowed.A[0, 0] == rowed.A).all()))
        self._plain = uniform and not self._unequal and own[0].dtype is self.work
        """Whether vectors are one view of one parameter, and their one row, if any, its sum."""
        self._weight = float(rowed.A[0, 0]) if self._plain and self.faces.rows else 1.0
        self._face: _Face | None = None
        self._spare: Tensor | None = None
        self._same = False
        self._fixed: tuple[Tensor, _Sides] | None = None
        self._warned = False
        self.of_constants = of_constants
        """(rows,) the rounding of what was taken off b, for constants; None where nothing was."""
        if strict:
            sides = self._sides(sent(b, device), checked=partial(_entry, rowed, entry_name))
            shape = (B, n)
            lb, ub = (
                self._loosened(t.expand(shape), sign) for t, sign in ((sides.lb, -1), (sides.ub, 1))
            )
            row_names = [names(row) for row in rowed.rows] if self.faces.rows else [[]] * B
            room = tolerance.HELD_ROUNDINGS * self._rounding_of_constants(device).double()
            self.faces.refuse_empty(sides.right, lb, ub, row_names, room)

    def _place(
        self,
        rowed: Rowed,
        parameters: Sequence[Tensor],
        bounds: Bounds,
        device: torch.device,
    ) -> None:
        """Where the bounds of this block's entries are: their rows, factors and positions."""
        B, m, n = self.shape
        positions, kept = [], []
        start = 0
        for piece, entries in zip(rowed.pieces, self._entries, strict=True):
            place = torch.full(
                (parameters[piece.parameter].numel(),), -1, dtype=torch.long, device="cpu"
            )
            columns = piece.columns(B)
            own = torch.arange(B, device="cpu").unsqueeze(-1) * n + start
            place[columns] = own + torch.arange(entries.width, device="cpu")
            of_piece = (bounds.parameters == piece.parameter).nonzero().flatten()
            where = place[bounds.columns[of_piece]]
            positions.append(where[where >= 0])
            kept.append(of_piece[where >= 0])
            start += entries.width
        which, position = torch.cat(kept), torch.cat(positions)
        rows, factors = bounds.rows[which], bounds.factors[which]
        self._bound_rows, self._bound_places = rows, position
        upper = factors > 0
        self._upper, self._lower = (
            (sent(rows[m], device), sent(factors[m], device), sent(position[m], device))
            for m in (upper, ~upper)
        )
        last = torch.zeros(B, dtype=torch.long, device="cpu")
        last[position // max(n, 1)] = rows
        if m:
            last = torch.where(last > 0, last, rowed.rows[:, 0])
        self._row_numbers = sent(rowed.rows, device)
        self.rows = torch.cat([self._row_numbers, sent(last, device).unsqueeze(-1)], -1)

    @property
    def numbers(self) -> Tensor:
        rows = [self._row_numbers.flatten(), self._lower[0], self._upper[0]]
        return torch.cat(rows)

    # ---- right sides and bounds

    def right_side(self, b: Tensor) -> Tensor:
        return b

    def fix(self, b: Tensor) -> None:
        self._fixed = b, self._sides(b)

    def _sides_of(self, b: Tensor) -> _Sides:
        if self._fixed is not None and self._fixed[0] is b:
            return self._fixed[1]
        return self._sides(b)

    def _sides(self, b: Tensor, checked: Callable[[int, int], str] | None = None) -> _Sides:
        B, _, n = self.shape
        lb, ub = (
            self._tightest(b, side, sign)[0].view(B, n)
            for side, sign in ((self._lower, -1), (self._upper, 1))
        )
        rooms = self._rooms_of_bounds(b)
        room = None if rooms is None else torch.maximum(*rooms)
        if checked is not None:
            crossed = lb > (ub if room is None else ub + room)
            if bool(crossed.any()):
                self._refuse_crossed(lb, ub, crossed, checked)
        exact = lb, ub
        lb, ub = (self._as_parameters(t) for t in (lb, ub))
        if checked is not None:
            for bound, given in zip((lb, ub), exact, strict=True):
                if bool((lost := torch.isinf(bound) & torch.isfinite(given)).any()):
                    i, j = lost.nonzero()[0].tolist()
                    raise InputError(
                        f"the bound {float(given[i, j]):.6g} of {checked(i, j)} is infinite in the "
                        "precision of its parameter; scale the inequality"
                    )
        if rooms is not None:
            lb, ub = _uncrossed(lb, ub, *rooms)
        if not b.is_cuda:
            lb, ub = (_scalar(t) for t in (lb, ub))
        right, sums, rounding = b[self._row_numbers].to(self.work), None, None
        if self._plain and self.faces.rows:
            sums = right[:, 0].double() / self._weight
            u = tolerance.unit_roundoff(self.work)
            rounding = tolerance.RESIDUAL_ROUNDINGS / 2 * u * sums.abs()
        known = self._rounding_of_constants(right.device).to(self.work) / self._u
        sizes = torch.where(torch.isinf(right), 0, right).abs() + known
        on = (lb, ub) if room is None else (lb + room.to(lb), ub - room.to(ub))
        listed = cones.Bounds.of(lb, ub, n) if room is None else None
        return _Sides(right, lb, ub, listed, sums, rounding, sizes, on)

    def _rooms_of_bounds(self, b: Tensor) -> tuple[Tensor, Tensor] | None:
        """(B, n) by what rounding of constants may have moved lower and upper bounds.

        None where it moves none.
        """
        if self.of_constants is None:
            return None
        constants = sent(self.of_constants, b.device).to(b.dtype)
        # what constants leave is rounded, as entries are that meet it; other rows are exact
        left = self._u * torch.where(torch.isinf(b) | (constants == 0), 0, b).abs()
        rounding = tolerance.RESIDUAL_ROUNDINGS * (constants + left)
        none = torch.zeros(self.shape[0] * self.shape[2], dtype=b.dtype, device=b.device)
        low, high = (
            none.scatter_reduce(0, position, rounding[rows] / factors.to(b.dtype).abs(), "amax")
            for rows, factors, position in (self._lower, self._upper)
        )
        if not bool(torch.maximum(low, high).any()):
            return None
        return low.view(self.shape[0], -1), high.view(self.shape[0], -1)

    def _rounding_of_constants(self, device: torch.device) -> Tensor:
        """Of what was taken off the right sides, (B, m)."""
        if self.of_constants is None:
            return torch.zeros(self._row_numbers.shape, dtype=self.work, device=device)
        return sent(self.of_constants, device)[self._row_numbers]

    def _tightest(
        self, b: Tensor, side: tuple[Tensor, Tensor, Tensor], sign: int
    ) -> tuple[Tensor, Tensor]:
        """Of each entry the tightest bound on one side, (B * n,), and what each row asks for."""
        rows, factors, position = side
        bound = torch.full(
            (self.shape[0] * self.shape[2],), sign * torch.inf, dtype=b.dtype, device=b.device
        )
        values = b[rows] / factors.to(b.dtype)
        return bound.scatter_reduce(0, position, values, "amin" if sign > 0 else "amax"), values

    def _refuse_crossed(
        self, lb: Tensor, ub: Tensor, crossed: Tensor, entry_name: Callable[[int, int], str]
    ) -> None:
        shown = []
        for i, j in crossed.nonzero().tolist():
            name = entry_name(i, j)
            low, high = float(lb[i, j]), float(ub[i, j])
            shown.append(f"{name} >= {low:.17g} and {name} <= {high:.17g}")
        raise InconsistentError(f"no parameters satisfy the bounds: {first_few(shown)}")

    def _loosened(self, bound: Tensor, sign: int) -> Tensor:
        """By what rounding to the parameters' precision moved it."""
        size = torch.where(torch.isinf(bound), 0, bound).abs().double()
        return bound.double() + sign * 2 * self._u * size

    def _as_parameters(self, bound: Tensor) -> Tensor:
        """Bounds as the parameters can take them."""
        parts = bound.split([e.width for e in self._entries], -1)
        return torch.cat(
            [part.to(own).to(self.work) for part, own in zip(parts, self._dtypes, strict=True)],
            -1,
        )

    # ---- residuals

    def residual(self, b: Tensor) -> Tensor:
        """What each row is off by, (B, m), zero where an inequality holds; and by a bound most."""
        return self._off(self._read(self.ts), self._sides_of(b))

    def _off(self, x: Tensor, sides: _Sides, *, within: bool = False) -> Tensor:
        """The residual at x; `within` its bounds, of which nothing is read then."""
        rows = self.faces.times(x) - sides.right
        if self._unequal:
            rows = torch.where(self._inequality, rows.clamp_min(0), rows)
        if within:
            beyond = x.new_zeros(len(x), 1)
        else:
            beyond = torch.maximum(sides.lb - x, x - sides.ub).amax(-1, keepdim=True).clamp_min(0)
        return torch.cat([rows, beyond], -1).to(self.work)

    def magnitude(self, b: Tensor) -> Tensor:
        x = self._read(self.ts)
        rows = self._sizes(x, self._sides_of(b))
        return torch.cat([rows, x.abs().amax(-1, keepdim=True)], -1).to(self.work)

    def multipliers(self, gs: Sequence[Tensor], shift: Shift | None) -> Tensor:
        raise NotImplementedError("multipliers of a polyhedron are those of rows and of bounds")

    def subtract(self, r: Tensor) -> None:
        raise NotImplementedError("a polyhedron is projected onto, not corrected along rows")

    def named(self, holds: Tensor, b: Tensor) -> Tensor:
        numbers = [self.rows[:, :-1][~holds[:, :-1]]]
        x, sides = self._read(self.ts), self._sides_of(b)
        beyond = ((x < sides.lb) | (x > sides.ub)) & ~holds[:, -1:]
        off = beyond.flatten().cpu()[self._bound_places]
        return torch.cat([*numbers, self._bound_rows[off].to(self.rows.device)])

    def certified(self, b: Tensor, accuracy: float | None) -> Certificate:
        """Bounds on how far the parameters are from their own projection."""
        sides, x = self._sides_of(b), self._read(self.ts)
        lb, ub = (t.expand(x.shape) for t in (sides.lb, sides.ub))
        return self.faces.certified(x, sides.right, lb, ub, accuracy, self._u)

    # ---- projections

    def project_(self, b: Tensor, skip: Tensor | None, *, reads: bool, last: bool) -> Tensor:
        sides, x = self._sides_of(b), self._read(self.ts)
        within = self._fixed is not None
        self._look_at_bounds(sides)
        left = self._project_natively(x, sides) if skip is None and self._plain else None
        if left is None:
            self._write(self.ts, self._reached(x, sides), x, skip)
        elif within or not last:
            return left
        if not last:
            return x.new_zeros(1)
        return self._off(self._read(self.ts), sides, within=within)

    def _reached(self, x: Tensor, sides: _Sides) -> Tensor:
        """Onto the set with what is held as equations, where that has points; else onto the set.

        What was held at the last gradient may have none once right sides have changed.
        """
        new = self._onto(x, sides, self._face)
        off = self._far(new, sides)
        if self._face is not None and bool(off.any()):
            new = torch.where(off, self._onto(x, sides, None), new)
            off = self._far(new, sides)
        self._look_at(off, x)
        return new

    def _look_at(self, off: Tensor, x: Tensor) -> None:
        """Say that what a finite x was projected to is off."""
        if not self._warned and bool(off.any()) and bool(torch.isfinite(x).all()):
            self._say_empty()

    def _look_at_bounds(self, sides: _Sides) -> None:
        """Bounds that change may cross, which nothing looks at before."""
        if self._fixed is None and not self._warned:
            lb, ub = self._loosened(sides.lb, -1), self._loosened(sides.ub, 1)
            if bool((lb > ub).any()):
                self._say_empty()

    def _say_empty(self) -> None:
        self._warned = True
        warnings.warn(
            f"no parameters satisfy the constraints as they are now ({self}): right sides, "
            "which are read at each step, have left the set without points, and parameters "
            "off it; `handle.largest_residual` tells how far",
            stacklevel=2,
        )

    def _far(self, x: Tensor, sides: _Sides) -> Tensor:
        """Whether x (B, n), within its bounds, is off by more than rounding, (B, 1)."""
        off = self._off(x, sides, within=True)[:, :-1].abs()
        room = tolerance.HELD_ROUNDINGS * self._u * self._sizes(x, sides)
        return (off > room).any(-1, keepdim=True)

    def _sizes(self, x: Tensor, sides: _Sides) -> Tensor:
        """(B, m) by which rounding is judged: what x and right sides add up to, row by row."""
        return self.faces.sizes(x, self._u) + sides.sizes

    def restore_(
        self, b: Tensor, skip: Tensor | None, holds: Callable[[Tensor], Tensor], *, reads: bool
    ) -> None:
        sides, x = self._sides_of(b), self._read(self.ts)
        stays = holds(self._off(x, sides)).all(-1, keepdim=True)
        if reads and skip is None and bool(stays.all()):
            return
        if skip is not None:
            stays = stays | skip
        new = self._onto(x, sides, None)
        self._look_at_bounds(sides)
        self._look_at(self._far(new, sides), x)
        self._write(self.ts, new, x, stays)

    def _project_natively(self, x: Tensor, sides: _Sides) -> Tensor | None:
        """Bounds, and a sum within them, in place by the compiled kernel; what the sum is off by.

        None where it does not apply.
        """
        own = self.ts[self._entries[0].parameter]
        bounds = sides.listed
        compiled = None if bounds is None else cones.kernels(bounds, x)
        if bounds is None or compiled is None or not _shares(x, own):
            return None
        face = self._face
        entries = torch.zeros_like(x) if face is None else face.entries
        right = sides.sums
        sums = None if right is None else right.clone()
        if not cones.onto(compiled, x, bounds, entries, sums):
            return None
        increment_version(own)
        if right is None or sums is None or sides.rounding is None:
            return x.new_zeros(1)
        left = sums - right
        if not bool((left.abs() <= sides.rounding).all()):
            left = self._share_out(x, left, right, (sides.lb, sides.ub))
            suspected = left.abs() > tolerance.HELD_ROUNDINGS * self._u * right.abs()
            if bool(suspected.any()) and bool(self._far(x, sides).any()):
                x.copy_(self._reached(x, sides))
                return self._off(x, sides, within=True)
        return left.mul_(self._weight)

    def _share_out(
        self, x: Tensor, r: Tensor, right: Tensor, bounds: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Take out what rounding of the kernel's multiplier and sums left, r; the rest of it."""
        free = (x > bounds[0]) & (x < bounds[1])
        count = free.count_nonzero(-1)
        each = torch.where(count > 0, r / count.clamp_min(1), 0.0).unsqueeze(-1)
        x.sub_((each * free).to(x.dtype)).clamp_(*bounds)
        return x.sum(-1, dtype=torch.float64) - right

    def _onto(self, x: Tensor, sides: _Sides, face: _Face | None) -> Tensor:
        lb, ub, held = sides.lb, sides.ub, None
        if face is not None:
            lb, ub = torch.where(face.high, ub, lb), torch.where(face.low, lb, ub)
            held = face.rows
        return self.faces.onto(x, sides.right, lb, ub, held, use="parameters").x

    # ---- before a step

    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        """-g onto the tangent cone, and what it holds; gradients that are not finite stay."""
        sides, x = self._sides_of(self.b), self._read(self.ts)
        if shift is None and self.signs is None and self._plain:
            face = self._spare
            if face is None or face.shape != x.shape:
                face = torch.empty_like(x, memory_format=torch.contiguous_format)
            if self._natively(gs, x, sides, face, given=False):
                self._hold(_Face(face, None))
                return
        g = self._read(gs, self.signs)
        moved = 0.0 if shift is None else self._read_shift(shift, self.signs)
        low, high = x <= sides.on[0], x >= sides.on[1]
        v = -(g + moved)
        finite = torch.isfinite(v.sum(-1, keepdim=True))
        v = v.masked_fill(~finite, 0)
        lb, ub = _cone_bounds(low, high, v)
        d, rests, _ = self.faces.onto(v, self._cone(x, sides), lb, ub, None, use="gradient")
        still = (d == 0) & finite
        ends = low.to(self.work) + 2 * high.to(self.work)
        entries = torch.where(still, ends, -ends.clamp_max(1))
        self._hold(_Face(entries, rests & self._inequality & finite if self._unequal else None))
        self._write(gs, -d - moved, g, ~finite, self.signs)

    def price(self, y: Tensor, gs: Sequence[Tensor], shift: Shift | None) -> None:
        """The multipliers of the projection of -g onto the tangent cone, of rows and of bounds.

        Nothing is taken from `signs`: these are gradients of descent. Bounds that hold an entry
        alike share out what it is pushed by.
        """
        sides, x = self._sides_of(self.b), self._read(self.ts)
        v = -(self._read(gs) + (0.0 if shift is None else self._read_shift(shift)))
        low, high = x <= sides.on[0], x >= sides.on[1]
        lb, ub = _cone_bounds(low, high, v)
        found = self.faces.onto(v, self._cone(x, sides), lb, ub, None, use="prices")
        y[self._row_numbers] = found.multipliers.to(y.dtype)
        pushed = v - found.x - self.faces.transposed(found.multipliers)
        for side, on, sign in ((self._lower, low, -1), (self._upper, high, 1)):
            # what is free to leave its bound is pushed by rounding alone
            push = torch.where(on & (found.x == 0), (sign * pushed).clamp_min(0), 0.0).flatten()
            rows, factors, position = side
            bound, values = self._tightest(self.b, side, sign)
            norms = factors.abs()
            weights = torch.where(values == bound[position], (norms * unit(norms)).square(), 0.0)
            total = torch.zeros_like(bound).index_add(0, position, weights.to(bound))
            share = weights / (total[position] * norms)
            y[rows] = (push[position] * share).to(y.dtype)

    def _hold(self, face: _Face) -> None:
        """From here on, until the next gradient."""
        # fresh memory costs as much as what is written to it: the one of the step before is next
        self._spare = None if self._face is None else self._face.entries
        self._face = face

    def velocities_(self, ms: Sequence[Tensor]) -> None:
        """Minus these are velocities: onto the face that the last gradient left."""
        face = self._face
        if face is None:
            return
        sides, x = self._sides_of(self.b), self._read(self.ts)
        if self._plain and self._natively(ms, x, sides, face.entries, given=True):
            return
        m = self._read(ms)
        low, high = x <= sides.on[0], x >= sides.on[1]
        lb, ub = _cone_bounds(low | face.high, high | face.low, m)
        right = self._cone(x, sides)
        new = -self.faces.onto(-m, right, lb, ub, face.rows, use="velocity").x
        # what rounding alone would move stays: an entry without any gradient has no second moment,
        # and noise over that is a step of any length
        noise = tolerance.RESIDUAL_ROUNDINGS * self._u * m.abs().amax(-1, keepdim=True)
        stays = (new != 0) & ((new - m).abs() <= noise)
        self._write(ms, torch.where(stays, m, new), m, None)

    def _natively(
        self, gs: Sequence[Tensor], x: Tensor, sides: _Sides, face: Tensor, *, given: bool
    ) -> bool:
        """-g onto the cone in place, by the compiled kernel; False, where it does not apply."""
        own = gs[self._entries[0].parameter]
        g, sums = self._read(gs), bool(self.faces.rows)
        bounds = sides.listed
        compiled = None if bounds is None else cones.kernels(bounds, g, x)
        if bounds is None or compiled is None or not _shares(g, own):
            return False
        if not cones.cone(compiled, g, x, bounds, face, sums=sums, given=given):
            return False
        increment_version(own)
        return True

    def _cone(self, x: Tensor, sides: _Sides) -> Tensor:
        """Right sides of the tangent cone: 0 for rows that x is on, inf for slack ones."""
        zero = torch.zeros_like(sides.right)
        if not self._unequal:
            return zero
        room = tolerance.RESIDUAL_ROUNDINGS * self._u * self._sizes(x, sides)
        slack = self._inequality & (sides.right - self.faces.times(x) > room)
        return torch.where(slack, torch.inf, zero)

    # ---- entries

    def _read(self, ts: Sequence[Tensor], signs: Sequence[float] | None = None) -> Tensor:
        """The entries (B, n), a view where they are one; of gradients of ascent with their sign."""
        parts = [e.read(ts).to(self.work) for e in self._entries]
        if signs is not None:
            parts = [
                part if signs[e.parameter] > 0 else -part
                for part, e in zip(parts, self._entries, strict=True)
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _read_shift(self, shift: Shift, signs: Sequence[float] | None = None) -> Tensor:
        """What decay adds to the gradient, to that of ascent with its sign."""
        parts = []
        for e in self._entries:
            sign = 1.0 if signs is None else signs[e.parameter]
            parts.append(e.read(self.ts).to(self.work) * (sign * shift[e.parameter]))
        return torch.cat(parts, -1)

    def _write(
        self,
        ts: Sequence[Tensor],
        new: Tensor,
        old: Tensor,
        stays: Tensor | None,
        signs: Sequence[float] | None = None,
    ) -> None:
        """Put values (B, n) in place of the old ones, but where these stay."""
        if stays is not None:
            new = torch.where(stays, old, new)
        parts = new.split([e.width for e in self._entries], -1)
        for part, e in zip(parts, self._entries, strict=True):
            e.write(ts, part if signs is None or signs[e.parameter] > 0 else -part)


def _uncrossed(lb: Tensor, ub: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds that cross by rounding of constants alone, at one number: the exact one of them."""
    met = (lb > ub) & (lb <= ub + torch.maximum(low, high))
    at = torch.where(low > 0, ub, lb)
    return torch.where(met, at, lb), torch.where(met, at, ub)


def _entry(rowed: Rowed, name: Callable[[int, int], str], i: int, j: int) -> str:
    """The name of entry j of vector i."""
    for piece in rowed.pieces:
        columns = piece.columns(len(rowed.rows))
        if j < columns.shape[1]:
            return name(piece.parameter, int(columns[i, j]))
        j -= columns.shape[1]
    raise IndexError(j)


def _cone_bounds(low: Tensor, high: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Zero where an entry may not fall, or not rise, and infinite elsewhere."""
    lb = torch.full_like(like, -torch.inf).masked_fill_(low, 0)
    return lb, torch.full_like(like, torch.inf).masked_fill_(high, 0)


def _shares(view: Tensor, whole: Tensor) -> bool:
    """Whether writing to one writes to the other."""
    return view.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def _scalar(bound: Tensor) -> Tensor:
    """One number where all are the same: clamping by that is twice as fast."""
    first = bound.flatten()[0] if bound.numel() else bound.new_zeros(())
    return first.clone() if bool((bound == first).all()) else bound


def _faces(rowed: Rowed, device: torch.device, work: torch.dtype) -> Faces:
    m = len(rowed.inequality)
    inequality = sent(rowed.inequality, device)
    if m == 0:
        return Free(inequality)
    if rowed.segment is not None or m == 1:
        a = rowed.A.to_dense().reshape(-1).double()
        segment = None if m == 1 else rowed.segment
        return Disjoint(
            sent(a, device),
            None if segment is None else sent(segment, device),
            inequality,
            work,
        )
    return Coupled(as_rows(rowed.A.to(device)), inequality)
