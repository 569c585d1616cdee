"""What blocks have in common: their interface, and how they read and write parameter entries."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import InputError
from projlab.numerics.transfer import sent
from projlab.training.expressions.maps import Sums
from projlab.training.memory_order import flat, is_dense
from projlab.training.partition import Piece

Shift = list[Tensor | float]
"""For each parameter, the lambda of which weight decay adds lambda * x to its gradient."""


class Block(ABC):
    """Equations that share no parameter entry with those of other blocks.

    Methods take parameters, or gradients, as a list in the order of the system. None but
    `one_is_enough` and `settled` synchronises with the host.
    """

    rows: Tensor
    """Numbers of the equations, in the shape of the residual."""
    work: torch.dtype
    """The precision of residuals and corrections."""
    variant: str
    shape: tuple[int, int, int]
    """(B, m, n): how many equal blocks, rows and entries of each."""
    ts: Sequence[Tensor] = ()
    """The parameters, as bound last; none before."""
    homogeneous = False
    """Whether b is known to be zero."""
    b_at_least = 0.0
    """Every |b_i| is known to be at least this."""
    independent = False
    """Whether rows are known to be independent, so that any b has a solution."""
    alone = False
    """Whether, of ranks that hold the parameters together, no other knows of these equations."""
    counted = True
    """Whether what this rank alone knows is taken from it: another may hold the same entries."""
    corrections = 2
    """How many a projection takes: a second one for what the first leaves by rounding."""

    def bind(self, ts: Sequence[Tensor]) -> None:
        """Work on these tensors, those of all parameters in the order of the system."""
        self.ts = ts

    def right_side(self, b: Tensor) -> Tensor:
        """The block's own part of b, in the shape of the residual."""
        return b[self.rows].to(self.work)

    @property
    def numbers(self) -> Tensor:
        """Numbers of all equations that it prices, or says not to hold; some may be twice there."""
        return self.rows

    def fix(self, b: Tensor) -> None:
        """From here on the right side is always this one."""
        self.homogeneous = not bool(b.any())
        self.b_at_least = float(b.abs().min())

    b: Tensor
    """The right side of the gradients that come next, for blocks that look at where x is."""

    @abstractmethod
    def residual(self, b: Tensor) -> Tensor:
        """A x - b."""

    @abstractmethod
    def magnitude(self, b: Tensor) -> Tensor:
        """sum_i |A_i| |p_i| + |b|, on which the rounding of a residual is judged."""

    def magnitude_at_least(self, b: Tensor) -> Tensor:
        """A lower bound on `magnitude` from a few of the entries."""
        raise NotImplementedError

    def magnitude_at_most(self, b: Tensor) -> Tensor:
        """An upper bound on `magnitude` from norms, without reading A."""
        raise NotImplementedError

    @abstractmethod
    def subtract(self, r: Tensor) -> None:
        """x -= A^+ r in place: with the residual, the projection."""

    def project_(self, b: Tensor, skip: Tensor | None, *, reads: bool, last: bool) -> Tensor:
        """Onto the set, in place; the residual before the last correction, or after it if `last`.

        `reads`: values are at hand, and decide whether corrections can be saved.
        """
        r = self.residual(b)
        most = 1 if reads and self.one_is_enough(b, r) else self.corrections
        for done in range(1, most + 1):
            self.subtract(skipped(r, skip))
            if done < most or last:
                r = self.residual(b)
            if done < most and reads and self.settled(b, r):
                break
        return r

    def restore_(
        self, b: Tensor, skip: Tensor | None, holds: Callable[[Tensor], Tensor], *, reads: bool
    ) -> None:
        """Onto the set; rows of whose residuals `holds` is true keep their bits."""
        for _ in range(self.corrections):
            r = self.residual(b)
            kept = self.together(holds(r))
            r = skipped(r, kept if skip is None else kept | skip)
            if reads and not bool(r.any()):
                break
            once = reads and self.one_is_enough(b, r)
            self.subtract(r)
            if once:
                break

    def named(self, holds: Tensor, b: Tensor) -> Tensor:
        """Numbers of the equations that do not hold, by a mask in the shape of the residual."""
        return self.rows[~holds]

    def one_is_enough(self, b: Tensor, r: Tensor) -> bool:
        """Whether subtracting the residual r once surely leaves no more than rounding.

        False for a small block: subtracting twice is faster than finding out. Waits for the device.
        """
        if not self.large:
            return False
        needed = tolerance.ONE_CORRECTION * self._moved_by_rounding(r)
        return bool((needed <= self.magnitude_at_least(b)).all())

    def settled(self, b: Tensor, r: Tensor) -> bool:
        """Whether the residual r after a correction is known to be rounding; may wait."""
        return False

    def _moved_by_rounding(self, r: Tensor) -> Tensor:
        """By how much rounding in `subtract` may move each row, in units of u."""
        return r.abs()

    @abstractmethod
    def tangent(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        """g -= Q (g + shift * x), Q the projection onto the row space; no shift is zero."""

    @abstractmethod
    def multipliers(self, gs: Sequence[Tensor], shift: Shift | None) -> Tensor:
        """y with A'y = -Q (g + shift * x), in the shape of the residual; nothing is changed.

        Where rows depend on each other, the y for which the multipliers of the equilibrated rows,
        y / D, have the least norm (`unit`): prices that do not depend on how rows are scaled.
        """

    def price(self, y: Tensor, gs: Sequence[Tensor], shift: Shift | None) -> None:
        """Put the block's multipliers into y, (rows,), those of all equations."""
        y[self.rows] = self.multipliers(gs, shift).to(y.dtype)

    def project_in_metric(self, b: Tensor, inverse: Sequence[Tensor], skip: Tensor | None) -> None:
        """Project in a diagonal metric, given its inverse for each parameter; not where `skip`."""
        raise NotImplementedError

    def together(self, holds: Tensor) -> Tensor:
        """Which rows hold, and all those that they depend on with them.

        Rows that repeat each other add up what each of them leaves.
        """
        return holds if self.disjoint else holds.all(-1, keepdim=True)

    @property
    def disjoint(self) -> bool:
        """Whether no two rows share an entry, so that `project_in_metric` can be had."""
        return False

    @property
    def large(self) -> bool:
        """Whether a pass over the entries takes longer than deciding whether it is needed."""
        return False

    def __str__(self) -> str:
        count, m, n = self.shape
        equal = f"{count} blocks of " if count > 1 else ""
        rows = f"{m} row{'s' if m > 1 else ''}"
        return f"{equal}{rows} in {n} entries: {self.variant}"


class TouchedEntries:
    """The entries of one parameter that a block touches, as (B, n)."""

    def __init__(self, piece: Piece, parameter: Tensor) -> None:
        self.parameter = piece.parameter
        self.view = piece.where if isinstance(piece.where, Sums) else None
        self._index: tuple[Tensor, ...] = ()
        if self.view is not None:
            self.width = self.view.shape[1]
        else:
            assert isinstance(piece.where, Tensor)
            columns = sent(piece.where, parameter.device)
            self.width = columns.shape[1]
            self._flat = is_dense(parameter)
            # parameters with gaps have no flat view and take an index for each dimension
            self._index = (
                (columns,) if self._flat else torch.unravel_index(columns, parameter.shape)
            )

    def read(self, ts: Sequence[Tensor]) -> Tensor:
        """The entries: a view where there is one, else a copy."""
        t = ts[self.parameter]
        if self.view is not None:
            return self.view.view(t)
        return (flat(t) if self._flat else t)[self._index]

    def subtract(self, ts: Sequence[Tensor], delta: Tensor) -> None:
        """Subtract (B, n) in the precision of the difference, with one rounding."""
        t = ts[self.parameter]
        if self.view is not None:
            self.view.view(t).sub_(delta)
        else:
            where = flat(t) if self._flat else t
            where.index_put_(self._index, (where[self._index] - delta).to(t.dtype))

    def put(self, ts: Sequence[Tensor], values: Tensor) -> None:
        """Put (B, n) there, with one rounding."""
        t = ts[self.parameter]
        if self.view is not None:
            self.view.view(t).copy_(values)
        else:
            where = flat(t) if self._flat else t
            where.index_put_(self._index, values.to(t.dtype))


def shifted(
    v: Tensor, entries: Sequence[TouchedEntries], ts: Sequence[Tensor], shift: Shift | None
) -> Tensor:
    """v (B, n), read from gradients, and shift * x beside it."""
    if shift is None:
        return v
    return v + torch.cat([e.read(ts).to(v.dtype) * shift[e.parameter] for e in entries], -1)


def unit(norms: Tensor) -> Tensor:
    """D, the powers of two nearest to one over the norms of rows; any for rows of zeros."""
    mantissa, exponent = torch.frexp(norms)
    return torch.ldexp(torch.ones_like(norms), (mantissa < math.sqrt(0.5)).int() - exponent)


def widest_dtype(parameters: Sequence[Tensor]) -> torch.dtype:
    """The widest dtype of the parameters, float32 at least."""
    dtype = torch.float32
    for p in parameters:
        dtype = torch.promote_types(dtype, p.dtype)
    return dtype


def largest_of(r: Tensor) -> float:
    """The largest absolute value, NaN where there is one; waits for the device."""
    return abs(r.item()) if r.numel() == 1 else r.abs().max().item()


def largest_of_all(residuals: Sequence[Tensor], device: torch.device) -> Tensor:
    """The same of several, or zero, as a float32 on the device, which is not waited for."""
    sizes = [torch.linalg.vector_norm(r, math.inf).to(torch.float32) for r in residuals]
    return (
        torch.stack(sizes).amax() if sizes else torch.zeros((), device=device, dtype=torch.float32)
    )


def skipped(t: Tensor, skip: Tensor | None) -> Tensor:
    """t with zeros where `skip` (broadcast to it) is true: rows that are to stay as they are."""
    return t if skip is None else t.masked_fill(skip, 0)


def narrowed(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows t (..., m, n) in the working precision, or `InputError` where its range is too small."""
    if t.dtype is dtype:
        return t
    narrow = t.to(dtype)
    vanished = ((narrow == 0).all(-1) & (t != 0).any(-1)).any()
    lost = vanished | (~torch.isfinite(narrow)).any()
    if bool(lost):
        raise InputError(
            f"the coefficients of an equation over- or underflow in {dtype}, the precision of its "
            "parameters; multiply the equation by a number that brings them near one"
        )
    return narrow
