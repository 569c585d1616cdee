"""One factorisation in one working precision, in the caller's rows and units.

The solver answers the saddle-point system

    [ W  A' ] [x*]   [W x]
    [ A  0  ] [y ] = [ b ]

whose matrix is symmetric: its adjoint is itself, with a gradient in the place of W x. That one fact
gives every derivative of a projection (`projlab.engine.autograd`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from projlab.engine.facts import Facts
from projlab.engine.kernels.native import PLAIN
from projlab.engine.ranges import Range
from projlab.engine.select import Reason
from projlab.engine.variants import Factor
from projlab.engine.variants.base import InPlace
from projlab.numerics.precision import lowered, stated_precision
from projlab.numerics.transfer import sent
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import Equilibrated
from projlab.system.metric import Metric


class Direct(NamedTuple):
    """A projection of plain tensors, without the checks and choices of the general road.

    Each says with None or False that x is not of that kind: another dtype, shape or device, wanted
    by autograd or a transform, or a precision switch of the caller's in the way.
    """

    fresh: Callable[[Tensor], Tensor | None]
    in_place: InPlace


NOTHING = Direct(lambda _: None, lambda _: False)
"""Takes no x."""

ReverseMode = Callable[[Tensor, Callable[[Tensor], Tensor], "Solver"], Tensor | None]
"""See `projlab.engine.reverse`."""


def needs_function(x: Tensor, b: Tensor | None) -> bool:
    """Whether autograd or a functorch transform must see the projection as one function."""
    # numbers of forward mode do not say that they require grad
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))


@dataclass(frozen=True)
class Solver:
    """Projects x (..., n), or (B, ..., n) for B systems, in `dtype` on `device`."""

    shape: tuple[int, int]
    batch: int | None
    dtype: torch.dtype
    device: torch.device
    variant: str
    reason: str | Reason
    facts: Facts
    factor: Factor | None
    """None where no row is left: the projection is the identity."""
    kept: Tensor | None
    """(r,) or (B, r) rows that the factor holds, None for all; short elements repeat row 0."""
    units: tuple[Tensor, ...]
    """(r,) or (B, r), one or two: their product takes b to the factor's right-hand side, and
    multipliers back; zero where a row only pads a batch."""
    onto_range: Range | None
    """Of b, in least squares; None where every b is in the range of A."""
    metric: Metric | None
    c: Tensor | None
    """The right-hand side b of the constraint in the factor's coordinates."""
    decided: bool = True
    """Whether the factor holds independent rows alone: only then do multipliers of the others stay
    zero, and entries of another b on them without effect."""

    @property
    def pattern(self) -> None:
        """A is constant."""
        return None

    @property
    def batched(self) -> bool:
        return self.batch is not None

    def solvers(self) -> list["Solver"]:
        return [self]

    @property
    def opaque(self) -> bool:
        """Whether no transform or compiler may look inside a projection."""
        return self.factor is not None and self.factor.opaque

    def stacked(self) -> "Solver":
        return self

    @property
    def independent(self) -> bool:
        """Whether every row is known, or cheaply shown, to be independent and in the factor."""
        return self.kept is None and self.facts.proven() and self.full_rank

    @property
    def full_rank(self) -> bool:
        """Whether every row is independent; decided now where set-up could do without."""
        return all(rank == self.shape[0] for rank in self.facts.ranks)

    @property
    def takes_any_side(self) -> bool:
        """Whether another b is taken as it is, whatever it has on redundant rows."""
        return self.decided or self.onto_range is not None

    def to(self, device: torch.device) -> "Solver":
        """The same solver on another device."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else sent(t, device)

        return replace(
            self,
            device=device,
            factor=None if self.factor is None else self.factor.to(device),
            kept=move(self.kept),
            units=tuple(sent(t, device) for t in self.units),
            onto_range=None if self.onto_range is None else self.onto_range.to(device),
            metric=None if self.metric is None else self.metric.to(device),
            c=move(self.c),
        )

    def bind(self, x: Tensor, A: Tensor | None, b: Tensor | None) -> "Solver":
        """A solver of constant A and b is its own (see `projlab.engine.autograd`)."""
        return self

    def right_side(self, b: Tensor) -> Tensor | None:
        """b (..., m) in the factor's coordinates; for B systems (B, k, m) gives (B, k, r)."""
        if self.factor is None:
            return None
        if self.onto_range is not None:
            b = self.onto_range(b)
        if self.kept is not None:
            b = b[..., self.kept] if self.batch is None else _gather(b, self.kept)
        return self.factor.right_side(self._times_units(b).to(self.dtype))

    def for_right_side(self, b: Tensor) -> "Solver | None":
        """The same factors for another b; None where entries on redundant rows must be checked."""
        if not self.independent:
            return None
        b = b.to(torch.promote_types(b.dtype, self.dtype))
        with stated_precision(self.device):
            return replace(self, c=self.right_side(self.beside(b)))

    def _times_units(self, v: Tensor) -> Tensor:
        for unit in self.units:
            v = v * self.beside(unit)
        return v

    def beside(self, t: Tensor) -> Tensor:
        """Per-element rows (B, r) beside vectors (B, k, r)."""
        return t if self.batch is None else t.unsqueeze(1)

    def project(self, x: Tensor, c: Tensor | None, *, dual: bool = False) -> Tensor:
        """x - W^-1 A' y; for `dual`, the gradient x - A' y with y of the vector W^-1 x."""
        if self.factor is None:
            return x.clone()
        if self.metric is None:
            return self.factor.project(x, c)
        white = self.metric.whiten(x, dual=dual)
        correction = white - self.factor.project(white, c)
        return x - self.metric.unwhiten(correction, dual=dual)

    def multipliers(self, x: Tensor, c: Tensor | None, *, dual: bool = False) -> Tensor:
        """y (..., m) in the caller's rows and units, zero on rows that were dropped."""
        m = self.shape[0]
        if self.factor is None:
            return x.new_zeros(*x.shape[:-1], m)
        if self.metric is not None:
            x = self.metric.whiten(x, dual=dual)
        y = self._times_units(self.factor.multipliers(x, c))
        if self.kept is None:
            return y
        whole = y.new_zeros(*y.shape[:-1], m)
        if self.batch is None:
            return whole.index_add(-1, self.kept, y)
        # padding repeats row 0 with zeros
        return whole.scatter_add(-1, self.kept.unsqueeze(1).expand(y.shape), y)

    def solve(
        self,
        x: Tensor,
        b: Tensor | None,
        *,
        homogeneous: bool,
        dual: bool,
        want_multipliers: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Projection and multipliers for any x (..., n); b None is the constraint's, or zero."""
        if self.dtype is not torch.float64 and lowered(self.dtype, self.device.type):
            with stated_precision(self.device):
                return self._solve(x, b, homogeneous, dual, want_multipliers)
        return self._solve(x, b, homogeneous, dual, want_multipliers)

    def _solve(
        self, x: Tensor, b: Tensor | None, homogeneous: bool, dual: bool, want: bool
    ) -> tuple[Tensor, Tensor | None]:
        lead = x.shape[:-1]
        m, n = self.shape
        if self.batch is not None:
            x, b = _vectors(x), None if b is None else _vectors(b)
        if b is not None:
            c = self.right_side(b)
        else:
            c = None if homogeneous else self.c
        projected = self.project(x, c, dual=dual).reshape(*lead, n)
        y = self.multipliers(x, c, dual=dual).reshape(*lead, m) if want else None
        return projected, y

    def tangent(self, v: Tensor, *, dual: bool) -> Tensor:
        """v on the null space, or for `dual` a gradient: a new tensor, no graph."""
        if (
            self.factor is not None
            and self.metric is None
            and self.batch is None
            and v.dim() <= 2
            and not lowered(self.dtype, self.device.type)
        ):
            return self.factor.project(v, None)
        found, _ = self.solve(v, None, homogeneous=True, dual=dual, want_multipliers=False)
        return found.clone() if found._is_view() else found

    def direct(self, reverse_mode: ReverseMode) -> Direct:
        """The hot path for the constraint's own b, made once."""
        factor, c = self.factor, self.c
        if factor is None or c is None or self.metric is not None:
            return NOTHING
        native, project, project_ = factor.bound(c)
        n, dtype, device, single = self.shape[1], self.dtype, self.device, self.batch is None
        on_cpu, exact, kind = device.type == "cpu", dtype is torch.float64, device.type
        one = torch.Size((n,) if self.batch is None else (self.batch, n))

        # the two repeat their conditions: a function for them would cost a tenth of a projection
        def fresh(x: Tensor) -> Tensor | None:
            if not (
                type(x) in PLAIN
                and x.dtype is dtype
                and (x.is_cpu if on_cpu else x.device == device)
                and (x.shape == one or (single and x.ndim == 2 and x.shape[1] == n))
                and (exact or not lowered(dtype, kind))
            ):
                return None
            if needs_function(x, None):
                return reverse_mode(x, project, self) if single else None
            if native is not None:
                y = x.clone()
                return y if native(y) else project(x)
            return project(x) if single else project(x.unsqueeze(1)).squeeze(1)

        def in_place(x: Tensor) -> bool:
            if not (
                type(x) in PLAIN
                and x.dtype is dtype
                and (x.is_cpu if on_cpu else x.device == device)
                and (x.shape == one or (single and x.ndim == 2 and x.shape[1] == n))
                and x.is_contiguous()  # no number of it at two places
                and not x.requires_grad
                and (exact or not lowered(dtype, kind))
            ):
                return False
            project_(x if single else x.unsqueeze(1))
            return True

        return Direct(fresh, in_place if native is None else native)

    def project_(self, x: Tensor) -> None:
        """In place, x in `dtype` on `device`, no graph: the hot path."""
        if self.factor is None:
            return
        if self.dtype is not torch.float64 and lowered(self.dtype, self.device.type):
            with stated_precision(self.device):
                self._project_(x)
        else:
            self._project_(x)

    def _project_(self, x: Tensor) -> None:
        assert self.factor is not None
        if x.requires_grad:
            x = x.detach()
        if self.metric is None and self.batch is None:
            self.factor.project_(x, self.c)
        elif self.metric is None and x.dim() <= 3:
            self.factor.project_(x if x.dim() == 3 else x.unsqueeze(1), self.c)
        else:
            projected, _ = self._solve(x, None, False, False, False)
            x.copy_(projected)


def of_rows(
    constraint: AffineConstraint,
    system: Equilibrated,
    factor: Factor,
    variant: str,
    reason: str | Reason,
    facts: Facts,
    *,
    decided: bool = True,
) -> Solver:
    """A solver by a factor of these rows, all of which it holds, with the constraint's own b."""
    f = system.f if constraint.batch is None else system.f.unsqueeze(1)
    return Solver(
        shape=(constraint.m, constraint.n),
        batch=constraint.batch,
        dtype=system.rows.dtype,
        device=constraint.device,
        variant=variant,
        reason=reason,
        facts=facts,
        factor=factor,
        kept=None,
        units=system.units,
        onto_range=None,
        metric=None,
        c=factor.right_side(f),
        decided=decided,
    )


def _vectors(t: Tensor) -> Tensor:
    """(B, n) or (B, ..., n) as (B, k, n)."""
    return t.reshape(t.shape[0], math.prod(t.shape[1:-1]), t.shape[-1])


def _gather(b: Tensor, kept: Tensor) -> Tensor:
    index = kept.unsqueeze(1).expand(kept.shape[0], b.shape[1], kept.shape[1])
    return b.gather(-1, index)
