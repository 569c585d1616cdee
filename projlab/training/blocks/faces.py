"""Projections of B vectors onto {x : M x = r or <= r, lb <= x <= ub}, rows held or absent at will.

A step asks for three of them on the same rows: of the gradient onto the tangent cone, of momenta
onto its face, and of the parameters onto the set. They differ in right sides and bounds, and in
which inequalities count as equations (`held`); a right side of infinity leaves a row out.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.polyhedra import threshold
from projlab.engine.polyhedra.general import General
from projlab.engine.polyhedra.projector import PolyhedralProjector
from projlab.engine.polyhedra.systems import System, system_of
from projlab.engine.polyhedra.threshold import DisjointRows
from projlab.errors import InconsistentError
from projlab.numerics import memory
from projlab.proof.certificate import Certificate
from projlab.system.polyhedron import Polyhedron
from projlab.system.rows import Rows

PATTERNS = 8
"""Sets of held rows whose factors are kept: they change seldom."""


class Onto(NamedTuple):
    """Projections onto a face."""

    x: Tensor
    """(B, n)."""
    rests: Tensor
    """(B, m) rows that they rest on."""
    multipliers: Tensor
    """(B, m) y: what was projected less M'y is clamped to the bounds."""


class Faces(ABC):
    """The rows of B vectors (B, n)."""

    rows: int
    """m."""
    name: str
    """The variant."""

    @abstractmethod
    def onto(
        self, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor, held: Tensor | None, *, use: str
    ) -> Onto:
        """The projections of x (B, n).

        `right` (B, m), inf for rows that are absent; lb and ub (B, n) or (); `held` (B, m) marks
        inequalities that are equations now. `use` tells calls apart that start from each other.
        """

    @abstractmethod
    def refuse_empty(
        self,
        right: Tensor,
        lb: Tensor,
        ub: Tensor,
        names: Sequence[Sequence[str]],
        room: Tensor,
    ) -> None:
        """Raise `InconsistentError` where a vector has no x; `names` of the rows of each.

        `room` (B, m): what right sides may be off by.
        """

    @property
    @abstractmethod
    def matrix(self) -> Tensor | None:
        """M (m, n) in float64, dense; None for no rows."""

    @property
    @abstractmethod
    def inequality(self) -> Tensor:
        """(m,)."""

    def certified(
        self, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor, accuracy: float | None, u: float
    ) -> Certificate:
        """Of x (B, n), known to u, as its own projection."""
        M, loose = self.matrix, self.inequality
        used = None if M is None or not bool((~loose).any()) else M[~loose]
        rest = None if M is None or not bool(loose.any()) else M[loose]
        polyhedron = Polyhedron(
            used, None if used is None else 0.0, rest, None if rest is None else 0.0, n=x.shape[-1]
        )
        given = {
            "b": None if used is None else right[:, ~loose],
            "h": None if rest is None else right[:, loose],
            "lb": lb.double(),
            "ub": ub.double(),
        }
        projector = PolyhedralProjector(polyhedron, sides_follow=True)
        with torch.no_grad():
            return projector.certified(x, x, accuracy, given, u)

    @abstractmethod
    def times(self, x: Tensor) -> Tensor:
        """M x, (B, m)."""

    @abstractmethod
    def transposed(self, y: Tensor) -> Tensor:
        """M' y, (B, n), or (B, 1) for numbers of no rows."""

    @abstractmethod
    def sizes(self, x: Tensor, u: float) -> Tensor:
        """What rows of entries that are known to u may be off by for rounding, over u: (B, m).

        |M| |x|, and what meeting rows together leaves.
        """


class Free(Faces):
    """No rows: bounds alone."""

    rows = 0
    name = "box"
    matrix = None

    def __init__(self, inequality: Tensor) -> None:
        self._inequality = inequality

    @property
    def inequality(self) -> Tensor:
        return self._inequality

    def onto(
        self, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor, held: Tensor | None, *, use: str
    ) -> Onto:
        return Onto(x.clamp(lb, ub), _true(right), torch.zeros_like(right))

    def refuse_empty(
        self,
        right: Tensor,
        lb: Tensor,
        ub: Tensor,
        names: Sequence[Sequence[str]],
        room: Tensor,
    ) -> None:
        """Bounds alone are empty where they cross, which is refused where they are made."""

    def times(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 0)

    def transposed(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y), 1)

    def sizes(self, x: Tensor, u: float) -> Tensor:
        return x.new_zeros(len(x), 0)


class Disjoint(Faces):
    """One row for each vector, or for B = 1 several that share no entry."""

    name = "disjoint_rows"

    def __init__(
        self, a: Tensor, segment: Tensor | None, inequality: Tensor, dtype: torch.dtype
    ) -> None:
        """a (n,), segment (n,) the row of each entry or None, inequality (m,)."""
        self.rows = len(inequality)
        device = inequality.device
        self._made = DisjointRows(a, segment, self.rows, inequality).to(dtype, device)
        self._absolute = DisjointRows(a.abs(), segment, self.rows, inequality).to(dtype, device)
        same = torch.zeros_like(inequality)
        self._equations = DisjointRows(self._made.a, self._made.segment, self.rows, same)

    @property
    def matrix(self) -> Tensor:
        a, segment = self._made.a.double(), self._made.segment
        if segment is None:
            return a.unsqueeze(0)
        memory.require(self.rows * len(a) * 8, "rows as a dense matrix", a.device)
        M = a.new_zeros(self.rows, len(a))
        return M.index_put((segment, torch.arange(len(a), device=a.device)), a)

    @property
    def inequality(self) -> Tensor:
        return self._made.inequality

    def onto(
        self, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor, held: Tensor | None, *, use: str
    ) -> Onto:
        if not self._made.any_inequality:
            found = threshold.project(self._made, x, right, lb, ub)
            return Onto(found.x, _true(right), found.multipliers)
        absent = torch.isinf(right)
        # no value that the row takes within the bounds reaches this
        far = 2 * self._absolute.total(self._absolute.times(x.clamp(lb, ub).abs())) + 1
        right = torch.where(absent, far.to(right.dtype), right)
        if held is None or not bool(held.any()):
            found = threshold.project(self._made, x, right, lb, ub)
            return _resting(self._made, found)
        if len(held) == 1:
            rows = DisjointRows(
                self._made.a, self._made.segment, self.rows, self._made.inequality & ~held[0]
            )
            return _resting(rows, threshold.project(rows, x, right, lb, ub))
        whole = Onto(torch.empty_like(x), _true(right), torch.empty_like(right))
        for rows, which in ((self._equations, held[:, 0]), (self._made, ~held[:, 0])):
            if bool(which.any()):
                bounds = (t[which] if t.dim() > 1 else t for t in (lb, ub))
                found = threshold.project(rows, x[which], right[which], *bounds)
                _put(whole, which, _resting(rows, found))
        return whole

    def refuse_empty(
        self,
        right: Tensor,
        lb: Tensor,
        ub: Tensor,
        names: Sequence[Sequence[str]],
        room: Tensor,
    ) -> None:
        wide = self._made.to(torch.float64, right.device)
        right, lb, ub = right.double(), lb.double(), ub.double()
        least, largest, noise = threshold.limits(wide, lb, ub)
        noise = noise + tolerance.unit_roundoff("float64") * right.abs() + room
        low = right < least - noise
        bad = (low | ((right > largest + noise) & ~wide.inequality)).nonzero()
        if len(bad):
            i, row = bad[0].tolist()
            reach, what = (least, "at least") if bool(low[i, row]) else (largest, "at most")
            value = float(reach.expand(right.shape)[i, row])
            raise InconsistentError(
                f"no parameters satisfy the constraints: within the bounds, the left side of "
                f"{names[i][row]} is {what} {value:.6g}. Mend the bounds or the right side"
            )

    def times(self, x: Tensor) -> Tensor:
        return self._made.total(self._made.times(x))

    def transposed(self, y: Tensor) -> Tensor:
        return self._made.spread(y) * self._made.a

    def sizes(self, x: Tensor, u: float) -> Tensor:
        return self._absolute.total(self._absolute.times(x.abs()))


class Coupled(Faces):
    """Any rows M (m, n), dense or sparse: the active set is searched for, and polished."""

    name = "active_set"

    def __init__(self, M: Rows, inequality: Tensor) -> None:
        self.rows = M.shape[0]
        self._inequality = inequality
        self._kept: OrderedDict[tuple[bool, ...], tuple[System, Tensor, dict[str, General]]] = (
            OrderedDict()
        )
        self._matrix = M.to(torch.float64)
        self._absolute = self._matrix.abs()
        entries = self._absolute.triplets()[2]
        self._least = float(entries[entries > 0].min()) if bool((entries > 0).any()) else 1.0

    @property
    def matrix(self) -> Tensor:
        return self._matrix.to_dense()

    @property
    def inequality(self) -> Tensor:
        return self._inequality

    def _of(self, held: tuple[bool, ...]) -> tuple[System, Tensor, dict[str, General]]:
        """The system in which these inequalities are equations, and the order of its rows."""
        found = self._kept.get(held)
        if found is None:
            mask = torch.tensor(held, dtype=torch.bool, device=self._inequality.device)
            loose = self._inequality & ~mask
            order = torch.cat([(~loose).nonzero().squeeze(-1), loose.nonzero().squeeze(-1)])
            parts = _selected(self._matrix, ~loose), _selected(self._matrix, loose)
            polyhedron = Polyhedron(
                parts[0],
                None if parts[0] is None else 0.0,
                parts[1],
                None if parts[1] is None else 0.0,
                n=self._matrix.shape[1],
            )
            found = system_of(polyhedron), order, {}
            self._kept[held] = found
            if len(self._kept) > PATTERNS:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(held)
        return found

    def onto(
        self, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor, held: Tensor | None, *, use: str
    ) -> Onto:
        dtype, wide = x.dtype, torch.float64
        x, right = x.to(wide), right.to(wide)
        lb, ub = (t.to(wide).expand(x.shape) for t in (lb, ub))
        none = (False,) * self.rows
        masks = [none] * len(x) if held is None else [tuple(row) for row in held.tolist()]
        whole = Onto(torch.empty_like(x), _true(right), torch.empty_like(right))
        for mask in dict.fromkeys(masks):
            which = torch.tensor([own == mask for own in masks], dtype=torch.bool, device=x.device)
            _put(whole, which, self._searched(mask, use, *(t[which] for t in (x, right, lb, ub))))
        return Onto(whole.x.to(dtype), whole.rests, whole.multipliers.to(dtype))

    def _searched(
        self, mask: tuple[bool, ...], use: str, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor
    ) -> Onto:
        system, order, generals = self._of(mask)
        general = generals.setdefault(use, General(system, ()))
        found = general.answer(x, system.scaled(right[:, order]), lb, ub, checked=True)
        # what ends within rounding of a bound is on it: others ask whether it is
        roundings = tolerance.RESIDUAL_ROUNDINGS * tolerance.unit_roundoff(x.dtype)
        near = roundings * x.abs().amax(-1, keepdim=True)
        ends = torch.where((found.x - lb).abs() <= near, lb, found.x)
        ends = torch.where((ends - ub).abs() <= near, ub, ends)
        rests, y = torch.empty_like(found.active), torch.empty_like(found.y)
        rests[:, order] = system.is_equation | (found.active & (found.y > 0))
        y[:, order] = system.in_units(found.y)
        return Onto(ends, rests, y)

    def refuse_empty(
        self,
        right: Tensor,
        lb: Tensor,
        ub: Tensor,
        names: Sequence[Sequence[str]],
        room: Tensor,
    ) -> None:
        system, order, _ = self._of((False,) * self.rows)
        for i, (r, low, high) in enumerate(zip(right, lb, ub, strict=True)):
            general = General(system, tuple(names[i][k] for k in order.tolist()))
            # an absent row is beyond what any x within rounding of the others takes
            side = system.scaled(r[order].to(torch.float64))
            x = torch.zeros_like(low, dtype=torch.float64).clamp(low, high)
            try:
                general.answer(x[None], side[None], low[None], high[None], checked=False)
            except InconsistentError:
                if not bool(room[i].any()):
                    raise
                # rows that are off by that much hold where bounds, and inequalities, give way
                wide = torch.where(self._inequality, r + room[i], r)[order].to(torch.float64)
                give = float(room[i].max()) / self._least
                general.answer(
                    x[None], system.scaled(wide)[None], low[None] - give, high[None] + give,
                    checked=False,
                )  # fmt: skip

    def times(self, x: Tensor) -> Tensor:
        return self._matrix.matvec(x.to(torch.float64)).to(x.dtype)

    def transposed(self, y: Tensor) -> Tensor:
        return self._matrix.rmatvec(y.to(torch.float64)).to(y.dtype)

    def sizes(self, x: Tensor, u: float) -> Tensor:
        # the search is in float64: what it ends at zero is off by its rounding of the others
        wide = x.to(torch.float64).abs()
        others = tolerance.unit_roundoff("float64") / u * wide.amax(-1, keepdim=True)
        return self._absolute.matvec(wide + others).to(x.dtype)


def _true(right: Tensor) -> Tensor:
    return torch.ones_like(right, dtype=torch.bool)


def _resting(rows: DisjointRows, found: threshold.Found) -> Onto:
    """With the rows that multipliers say a projection rests on."""
    return Onto(found.x, ~rows.inequality | (found.multipliers > 0), found.multipliers)


def _put(whole: Onto, which: Tensor, part: Onto) -> None:
    """Some of the vectors among all."""
    for own, found in zip(whole, part, strict=True):
        own[which] = found.to(own.dtype)


def _selected(M: Rows, which: Tensor) -> Tensor | None:
    """Some of the rows; None for none."""
    index = which.nonzero().squeeze(-1)
    return M.select(index).as_tensor() if len(index) else None
