"""The projection onto any polyhedron, by its active set; differentiable through it.

Autograd sees two things: the active set, which has no derivative, and K (p, y) = (v, r) on it,
which is linear and self-adjoint, so that its derivative is itself (`_Solved`). Derivatives in the
rows come from two sweeps of K with the change of the rows on the right, exact to second order.

Reference: Amos and Kolter, "OptNet", ICML 2017, section 3.1; Dontchev and Rockafellar, "Implicit
functions and solution mappings", 2nd ed., section 2.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from projlab.engine.kernels import faces
from projlab.engine.polyhedra import infeasible, search
from projlab.engine.polyhedra.face import Face, corrected, factor_of
from projlab.engine.polyhedra.search import Search, limits
from projlab.engine.polyhedra.systems import System, require_room
from projlab.numerics.scaling import scale


class Answer(NamedTuple):
    """Projections x (k, n), multipliers y (k, m) in the system's units, and faces."""

    x: Tensor
    y: Tensor
    low: Tensor
    high: Tensor
    active: Tensor


@dataclass
class Effort:
    """What the last search took, and which of its answers are polished."""

    polished: Tensor
    factorisations: int
    newton_steps: int
    interior_steps: int


_SMALL, _LARGE = 1e-100, 1e100
"""Between these, squares and their sums neither over- nor underflow."""

_NEAR = 1e3
"""Multipliers of normed rows are about as large as what they move."""


_POLISHED = torch.ones(1, dtype=torch.bool, device="cpu")
"""Of one vector. Nobody writes to it."""


def largest(t: Tensor) -> float:
    """Of the magnitudes, NaN and infinities among them; 0 of none."""
    return float(torch.linalg.vector_norm(t, torch.inf)) if t.numel() else 0.0


def _largest(t: Tensor) -> float:
    """Of the finite magnitudes."""
    return float(t.abs().nan_to_num(0.0, 0.0, 0.0).max()) if t.numel() else 0.0


class General:
    """One system of rows; remembers its last answer, from which the next search starts."""

    def __init__(self, system: System, names: tuple[str, ...]) -> None:
        self.system = system
        self.names = names
        self.effort: Effort | None = None
        self._last: Answer | None = None
        self._limits = limits(system.shape[0])

    def answer(
        self,
        x: Tensor,
        right: Tensor,
        lb: Tensor,
        ub: Tensor,
        *,
        checked: bool,
        largest_right: float | None = None,
    ) -> Answer:
        """The projections of x (k, n), without a graph, everything in float64 and of k rows.

        `checked` says that the right sides and bounds are known to leave some x, and
        `largest_right` is `largest(right)` where that is known. Numbers whose squares over- or
        underflow are brought to size one: everything scales together.
        """
        size_x = largest(x)
        size_right = largest(right) if largest_right is None else largest_right
        ordinary = right.numel() and _SMALL <= size_x <= _LARGE and size_right <= _LARGE
        if not ordinary:
            size = max(map(_largest, (x, right, lb, ub)))
            sides = torch.where(self.system.is_equation, right, 0.0)
            if 0 < size < _SMALL or max(_largest(x), _largest(sides)) > _LARGE:
                return self._of_size_one((x, right, lb, ub), size, checked=checked)
        known = max(size_x, size_right) if ordinary else None
        begun = self._at_once(x, right, lb, ub, known) if len(x) == 1 else None
        if begun is not None and begun[1].each == [1]:
            found, ends = begun
            self._last = found
            self.effort = Effort(_POLISHED, *ends[1:])
            return found
        require_room(self.system, len(x))
        sought = Search(self.system, x, right, lb, ub, self._start(x, right))
        if begun is not None and not bool(sought.polished.any()):
            sought.resume(*begun)
        else:
            last = self._last
            if last is not None and len(last.x) == len(x):
                sought.face = Face(last.low.clone(), last.high.clone(), last.active.clone())
                sought.retry()
            sought.run()
        if not checked:
            self._refuse_empty(sought.polished, sought.right, sought.lb, sought.ub)
        self.effort = Effort(
            sought.polished,
            sought.factorisations,
            sought.newton_steps,
            sought.interior_steps,
        )
        face = sought.face
        found = Answer(sought.x, sought.y, face.low, face.high, face.active)
        if bool(sought.polished.all()):
            self._last = found
        return found

    def _at_once(
        self, x: Tensor, right: Tensor, lb: Tensor, ub: Tensor, size: float | None
    ) -> tuple[Answer, faces.Ends] | None:
        """One vector by the kernel: the last face tried, and Newton's steps; None without one.

        `size` is the largest magnitude in x and the right sides, where all are finite.
        """
        native = self.system.faces
        if native is None or not faces.takes(x, right, lb, ub):
            return None
        last = self._last
        if last is not None and len(last.x) == 1:
            start = self._start(x, right) if size is None else _near(last.y, size)
            found = Answer(torch.empty_like(x), start, *(t.clone() for t in last[2:]))
        else:
            last = None
            found = Answer(
                torch.empty_like(x),
                torch.zeros_like(right),
                *(torch.zeros_like(t, dtype=torch.bool) for t in (x, x, right)),
            )
        ends = native.search(
            (x, right, lb, ub),
            found[:2],
            found[2:],
            self._limits,
            kind="by_newton",
            steps=search.NEWTON_STEPS,
            again=last is not None,
        )
        return found, ends

    def forget(self) -> None:
        """Drop the last answer and its factor."""
        self._last = None
        vars(self.system).pop("_kept", None)
        if self.system.faces is not None:
            self.system.faces.forget()

    def _start(self, x: Tensor, right: Tensor) -> Tensor:
        """The last multipliers, where they are of this problem's size.

        Of rows that follow from each other some may have any size, and what they round to hides
        what is off.
        """
        nothing = x.new_zeros(len(x), self.system.shape[0])
        if self._last is None or len(self._last.x) != len(x) or not nothing.numel():
            return nothing
        y, sides = self._last.y, torch.where(torch.isfinite(right), right, 0.0)
        size = torch.maximum(x.abs().amax(-1), sides.abs().amax(-1))
        near = y.abs().amax(-1) <= _NEAR * size
        return torch.where(near.unsqueeze(-1), y, 0.0)

    def _of_size_one(
        self, given: tuple[Tensor, Tensor, Tensor, Tensor], size: float, *, checked: bool
    ) -> Answer:
        """As `answer`, of everything times a power of two."""
        power = torch.tensor([-math.frexp(size)[1]], dtype=torch.int32, device=given[0].device)
        x, right, lb, ub = (scale(t, power) for t in given)
        self._last = None  # of another scale, before and after
        found = self.answer(x, right, lb, ub, checked=True)
        self._last = None
        if not checked and self.effort is not None:
            self._refuse_empty(self.effort.polished, *given[1:])
        x, y = (scale(t, -power) for t in found[:2])
        return found._replace(x=x, y=y)

    def _refuse_empty(self, polished: Tensor, right: Tensor, lb: Tensor, ub: Tensor) -> None:
        for i in (~polished).nonzero().flatten().tolist():
            sides = right[i], lb[i], ub[i]
            v = infeasible.proof(self.system, *sides)
            if v is not None:
                infeasible.raise_empty(self.system, *sides, v, self.names)

    def differentiable(
        self,
        x: Tensor,
        right: Tensor,
        lb: Tensor,
        ub: Tensor,
        rows: Tensor | None = None,
        *,
        checked: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Projections and multipliers of x (k, n), as functions of everything.

        `rows` are the system's, dense and watched by autograd.
        """
        found = Answer(*_Searched.apply(x, right, lb, ub, self, checked))  # type: ignore[no-untyped-call]  # torch leaves it bare
        fixed = torch.where(found.low, lb, torch.where(found.high, ub, 0.0))
        free = ~(found.low | found.high)
        active = found.active
        v = torch.where(free, x, 0.0)

        def solved(v: Tensor, r: Tensor, p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            both: tuple[Tensor, Tensor] = _Solved.apply(  # type: ignore[no-untyped-call]  # as above
                v, r, found.low, found.high, active, p, y, self
            )
            return both

        own = torch.where(free, found.x, 0.0)
        side = torch.where(torch.isfinite(right), right, 0.0)
        if rows is None:
            r = torch.where(active, side - self.system.rows.matvec(fixed), 0.0)
            p, y = solved(v, r, own, found.y)
            return p + fixed, y
        change = rows - rows.detach()
        r = torch.where(active, side - fixed @ rows.mT, 0.0)
        p, y = own, torch.where(active, found.y, 0.0)
        for _ in range(2):
            p, y = solved(
                v - torch.where(free, y @ change, 0.0),
                r - torch.where(active, p @ change.mT, 0.0),
                own,
                found.y,
            )
        return p + fixed, y


def _near(y: Tensor, size: float) -> Tensor:
    """A copy of the multipliers of one vector, or zeros, as `General._start` has it."""
    return y.clone() if largest(y) <= _NEAR * size else torch.zeros_like(y)


class _Searched(Function):
    """The active set: constants, as far as autograd goes."""

    @staticmethod
    def forward(
        x: Tensor, right: Tensor, lb: Tensor, ub: Tensor, general: General, checked: bool
    ) -> tuple[Tensor, ...]:
        return tuple(general.answer(x, right, lb, ub, checked=checked))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        return (None,) * 6

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[None, ...]:
        return (None,) * 5

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        flat, restore = _flattened(info.batch_size, in_dims[:4], inputs[:4])
        found = _Searched.apply(*flat, *inputs[4:])  # type: ignore[no-untyped-call]  # as above
        return tuple(restore(t) for t in found), (0,) * 5


class _Solved(Function):
    """(p, y) = K^-1 (v, r) on a face; p0 and y0, where given, are the answer already."""

    @staticmethod
    def forward(
        v: Tensor,
        r: Tensor,
        low: Tensor,
        high: Tensor,
        active: Tensor,
        p: Tensor | None,
        y: Tensor | None,
        general: General,
    ) -> tuple[Tensor, Tensor]:
        if p is not None and y is not None:
            return p.clone(), y.clone()
        face = Face(low, high, active)
        zero = torch.zeros_like(v)
        w, y, _ = corrected(
            general.system, factor_of(general.system, face), face, v, zero, r, torch.zeros_like(r)
        )
        return torch.where(face.free, w, 0.0), torch.where(active, y, 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, _, low, high, active, _, _, general = inputs
        ctx.save_for_backward(low, high, active)
        ctx.save_for_forward(low, high, active)
        ctx.general = general

    @staticmethod
    def _linear(ctx: Any, gp: Tensor, gy: Tensor) -> tuple[Tensor, Tensor]:
        low, high, active = ctx.saved_tensors
        both: tuple[Tensor, Tensor] = _Solved.apply(  # type: ignore[no-untyped-call]  # as above
            torch.where(low | high, 0.0, gp),
            torch.where(active, gy, 0.0),
            low,
            high,
            active,
            None,
            None,
            ctx.general,
        )
        return both

    @staticmethod
    def backward(ctx: Any, gp: Tensor, gy: Tensor) -> tuple[Tensor | None, ...]:
        dv, dr = _Solved._linear(ctx, gp, gy)
        return dv, dr, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tv: Tensor, tr: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        return _Solved._linear(ctx, tv, tr)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        given = [i for i in range(7) if inputs[i] is not None]
        flat, restore = _flattened(
            info.batch_size, tuple(in_dims[i] for i in given), [inputs[i] for i in given]
        )
        whole: list[Any] = [None] * 7
        for i, t in zip(given, flat, strict=True):
            whole[i] = t
        p, y = _Solved.apply(*whole, inputs[7])  # type: ignore[no-untyped-call]  # as above
        return (restore(p), restore(y)), (0, 0)


def _flattened(
    size: int, in_dims: tuple[int | None, ...], tensors: Any
) -> tuple[list[Tensor], Any]:
    """Lanes and rows (k, n) of each tensor as rows (lanes * k, n), and how to part them again."""
    moved = [
        t.unsqueeze(0).expand(size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(tensors, in_dims, strict=True)
    ]
    k = moved[0].shape[1]

    def restore(t: Tensor) -> Tensor:
        return t.reshape(size, k, *t.shape[1:])

    return [t.reshape(size * k, *t.shape[2:]) for t in moved], restore
