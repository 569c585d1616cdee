"""The active set of a projection onto a polyhedron: semismooth Newton inside a proximal method.

The dual of min 1/2 ||x - x0||^2 over {M x = r or <= r, lb <= x <= ub} is concave with the gradient
M x(y) - r, x(y) = clamp(x0 - M'y, lb, ub), which is piecewise linear. Where faces are degenerate
its Hessian is singular; so each outer step maximises it less ||y - center||^2 / (2 sigma), by
Newton's method with a line search along the projection onto the signs of inequalities' multipliers.

The active set settles long before the multipliers do. So as soon as Newton stays on one piece, the
face is polished: one equality-constrained projection on its free variables, whose own signs say
whether it is the answer. No digit of the answer comes from the search.

References: Rockafellar, "Augmented Lagrangians and applications of the proximal point algorithm in
convex programming", Math. Oper. Res. 1 (1976); Li, Sun and Toh, "On the efficient computation of a
generalized Jacobian of the projector over the Birkhoff polytope", Math. Program. 179 (2020);
Bertsekas, "Projected Newton methods for optimization problems
with simple constraints", SIAM J. Control Optim. 20 (1982).
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.kernels import faces
from projlab.engine.polyhedra import interior
from projlab.engine.polyhedra.face import Face, face_shift, polish
from projlab.engine.polyhedra.systems import System

NEWTON_STEPS = 25
"""Newton steps before an interior point is tried: most real systems need fewer, and those that need
more would take hundreds. As many again start from where the interior point ended."""
_EXACT = 1e7
"""m m n of the systems whose faces are projected onto one by one, where all else failed."""
_ROUNDS = 12
"""Of these at most, from one start."""
_FIRST = 1e2
"""sigma of the first outer step, beside rows of norm one."""
_LATE = 1e6
"""sigma of the first outer step that starts from an interior point."""
_GROWTH = 10.0
_LARGEST = 1e10
"""Beyond it the shift 1 / sigma is rounding in the Gram matrix of such rows."""
_LOOSE = 0.1
"""An outer step is good enough where its gradient is this much of what the proximal term adds."""


@dataclass
class Search:
    """k problems on one system: where each stands, and what was counted."""

    system: System
    x0: Tensor
    """(k, n), float64."""
    right: Tensor
    """(k, m), in the system's units."""
    lb: Tensor
    """(k, n)."""
    ub: Tensor
    """(k, n)."""
    y: Tensor
    """(k, m) multipliers, changed as the search goes."""
    factorisations: int = 0
    newton_steps: int = 0
    interior_steps: int = 0
    x: Tensor = field(init=False)
    face: Face = field(init=False)
    polished: Tensor = field(init=False)
    """(k,) whether the face's own signs hold, or x0 is not finite."""

    def __post_init__(self) -> None:
        self.x = torch.full_like(self.x0, torch.nan)
        # NaN goes through: there is nothing to search for
        self.polished = ~(torch.isfinite(self.x0).all(-1) & ~self.right.isnan().any(-1))
        self.face = Face(
            torch.zeros_like(self.x0, dtype=torch.bool),
            torch.zeros_like(self.x0, dtype=torch.bool),
            torch.zeros_like(self.y, dtype=torch.bool),
        )

    def run(self, *, searched: bool = False) -> None:
        """Until every face is polished, or every way has been tried.

        `searched` says that Newton's steps from nothing have been taken.
        """
        still = (~self.polished).nonzero().squeeze(-1)
        if len(still) and not searched:
            still = self._newton(still, _FIRST)
        if len(still):
            still = self._interior(still)
        if len(still):
            x, y, face = self.x[still], self.y[still], self.face.take(still)
            left = ~self.polished[still]
            self._newton(still, _LATE)
            left &= ~self.polished[still]
            # Newton's steps from there end on an answer, or are not what is told of
            i = still[left]
            self.x[i], self.y[i] = x[left], y[left]
            self.face.put(i, face.take(left))
            self._by_exact_faces(i)

    def _by_exact_faces(self, still: Tensor) -> None:
        """Newton's steps without a proximal term, each face projected onto by its rank.

        Where rows nearly depend on each other, 1/kappa^2 is below the shift of a Gram matrix, and a
        step from face to face by the engine for equations is not. It is a second for each vector at
        most, and has no say where it ends on no answer.
        """
        m, n = self.system.shape
        if not len(still) or float(m) * n * min(m, n) > _EXACT:
            return
        nothing = torch.zeros_like(self.x0[:1], dtype=torch.bool)
        whole = Face(nothing, nothing, self.system.is_equation.unsqueeze(0))
        for i in still.split(1):
            for start, y in ((self.face.take(i), self.y[i]), (whole, torch.zeros_like(self.y[i]))):
                if bool(self.polished[i]):
                    break
                self._from_face(i, start, y)

    def _from_face(self, i: Tensor, face: Face, y: Tensor) -> None:
        tried: list[Face] = []
        x0, right, lb, ub = self.x0[i], self.right[i], self.lb[i], self.ub[i]
        while len(tried) < _ROUNDS and not any(bool(face.same(old)) for old in tried):
            tried.append(face)
            found = polish(self.system, face, x0, right, lb, ub, y, insist=True)
            self.factorisations += 1
            if bool(found.holds):
                self.x[i], self.y[i], self.polished[i] = found.x, found.y, True
                self.face.put(i, face)
                return
            y = found.y
            w = x0 - self.system.transposed(y)
            over = self.system.times(w.clamp(lb, ub)) - right
            active = self.system.is_equation | (y + over > 0)
            face = Face(w < lb, (w > ub) & ~(w < lb), active)

    def resume(self, found: "tuple[Tensor, ...]", ends: faces.Ends) -> None:
        """Go on from where a kernel's Newton steps left x, y and the face."""
        self.x, self.y, *parts = found
        self.face = Face(*parts)
        self.counted(ends)
        self.run(searched=True)

    def retry(self) -> None:
        """Polish the faces that are set already: a step away the active set is mostly the same."""
        native = self._native()
        if native is not None:
            self._by_kernel(native, "by_newton", 0, again=True)
            return
        everything = torch.arange(len(self.x0), device=self.x0.device)
        due = ~self.polished
        low, high, active = (t.clone() for t in self.face.parts)
        self.attempt(due, Face(low, high, active), everything, self.y)

    def _newton(self, still: Tensor, sigma: float) -> Tensor:
        """Newton steps on these problems, which are all that are left; those left after it."""
        native = self._native()
        if native is not None:
            self._by_kernel(native, "by_newton", NEWTON_STEPS, sigma)
            return (~self.polished).nonzero().squeeze(-1)
        state = _State(self, still, sigma)
        for _ in range(NEWTON_STEPS):
            if not len(still):
                break
            self.newton_steps += 1
            done = state.step()
            if bool(done.any()):
                still = still[~done]
                state = state.without(done)
        state.leave()
        return still

    def _native(self) -> faces.Faces | None:
        """The kernel, where it takes these problems."""
        found = self.system.faces
        results = self.x, self.y, self.polished, *self.face.parts
        return found if found is not None and faces.takes(*results) else None

    def _by_kernel(
        self,
        native: faces.Faces,
        kind: str,
        steps: int,
        sigma: float = _FIRST,
        *,
        again: bool = False,
    ) -> Tensor:
        """The kernel on these; which faces (k,) are to be polished with the rank decided."""
        ends = native.search(
            (self.x0, self.right, self.lb, self.ub),
            (self.x, self.y),
            self.face.parts,
            limits(self.system.shape[0], sigma),
            kind=kind,
            steps=steps,
            again=again,
            done=self.polished.tolist(),
        )
        self.counted(ends)
        each = torch.tensor(ends.each, dtype=torch.long, device="cpu")
        self.polished = each == 1
        return each == 2

    def counted(self, ends: faces.Ends) -> None:
        """Add what a kernel took."""
        self.factorisations += ends.factorisations
        self.newton_steps += ends.newton_steps
        self.interior_steps += ends.interior_steps

    def _interior(self, still: Tensor) -> Tensor:
        """An interior-point method on these problems; those that are left, with its multipliers."""
        # the kernel's interior point knows no rows without a right side
        native = self._native() if bool(torch.isfinite(self.right).all()) else None
        if native is not None:
            insist = self._by_kernel(native, "by_interior", interior.STEPS)
            if bool(insist.any()):
                face = Face(*(t.clone() for t in self.face.parts))
                everything = torch.arange(len(insist), device=insist.device)
                self.attempt(insist, face, everything, self.y, insist=True)
            return still[~self.polished[still]]
        i = still
        problem = interior.Interior(self.system, self.x0[i], self.right[i], self.lb[i], self.ub[i])
        seen = tried = Face.none(problem.x0, problem.y)
        for _ in range(interior.STEPS):
            problem.step()
            self.interior_steps += 1
            self.factorisations += len(still)
            face = problem.face()
            ended = problem.ended()
            due = (face.same(seen) | ended) & ~face.same(tried) & problem.close()
            done = torch.zeros_like(due)
            if bool(due.any()):
                last = bool(ended[due].all())
                done = self.attempt(due, face, still, problem.y, insist=last)
                tried = Face(
                    *(
                        torch.where(due.unsqueeze(-1), new, old)
                        for new, old in zip(face.parts, tried.parts, strict=True)
                    )
                )
            seen = face
            left = done | ended
            if bool(left.any()):
                self._keep(still, problem, ended & ~done)
                still = still[~left]
                problem, seen, tried = problem.take(~left), seen.take(~left), tried.take(~left)
            if not len(still):
                break
        self._keep(still, problem, torch.ones_like(still, dtype=torch.bool))
        return i[~self.polished[i]]

    def _keep(self, index: Tensor, problem: interior.Interior, which: Tensor) -> None:
        """Where the interior point ended, for what it did not polish."""
        i = index[which]
        self.x[i] = problem.x[which].clamp(self.lb[i], self.ub[i])
        self.y[i] = problem.y[which]
        self.face.put(i, problem.face().take(which))

    def attempt(
        self, due: Tensor, face: Face, index: Tensor, y: Tensor, *, insist: bool = False
    ) -> Tensor:
        """Polish the faces that are due, of the problems `index`; which of these hold."""
        which = due.nonzero().squeeze(-1)
        part, i = face.take(which), index[which]
        found = polish(
            self.system,
            part,
            self.x0[i],
            self.right[i],
            self.lb[i],
            self.ub[i],
            y[which],
            insist=insist,
        )
        self.factorisations += len(which)
        good = i[found.holds]
        self.x[good], self.y[good] = found.x[found.holds], found.y[found.holds]
        self.polished[good] = True
        self.face.put(good, part.take(found.holds))
        done = torch.zeros_like(due)
        done[which] = found.holds
        return done


@cache
def limits(m: int, sigma: float = _FIRST) -> "np.typing.NDArray[np.float64]":
    """What the kernel for m rows is told, as `face_kernels.Limits`."""
    u = tolerance.unit_roundoff("float64")
    return np.array(
        [
            tolerance.ANSWERED * u,
            u,
            tolerance.CONTRACTING,
            tolerance.LARGE_MULTIPLIERS,
            face_shift(m),
            sigma,
            _GROWTH,
            _LARGEST,
            _LOOSE,
            *interior.limits(m),
        ]
    )


@dataclass
class _State:
    """The problems still open: rows of the search's tensors, gathered."""

    search: Search
    index: Tensor
    first: float

    def __post_init__(self) -> None:
        s, i = self.search, self.index
        self.x0, self.right, self.y = s.x0[i], s.right[i], s.y[i]
        self.lb, self.ub = s.lb[i], s.ub[i]
        self.center = self.y.clone()
        self.sigma = torch.full((len(i),), self.first, dtype=self.y.dtype, device=self.y.device)
        self.seen = Face.none(self.x0, self.y)
        self.tried = Face.none(self.x0, self.y)
        self.stuck = torch.zeros(len(i), dtype=torch.bool, device=self.y.device)

    def without(self, done: Tensor) -> "_State":
        """The others."""
        kept = ~done
        other = object.__new__(_State)
        other.search, other.index, other.first = self.search, self.index[kept], self.first
        for name in ("x0", "right", "y", "lb", "ub", "center", "sigma", "stuck"):
            setattr(other, name, getattr(self, name)[kept])
        other.seen, other.tried = self.seen.take(kept), self.tried.take(kept)
        return other

    def leave(self) -> None:
        """Write down where those that are not polished stand."""
        s, i = self.search, self.index
        if len(i) == 0:
            return
        point, _ = self._point(self.y)
        s.x[i], s.y[i] = point, self.y
        s.face.put(i, self._face(self.y, point, self._gradient(self.y, point)))

    def step(self) -> Tensor:
        """One Newton step, a polish where it is due; which are done."""
        search, is_equation = self.search, self.search.system.is_equation
        point, value = self._point(self.y)
        gradient = self._gradient(self.y, point)
        face = self._face(self.y, point, gradient)
        free_gradient = torch.where(face.active, gradient, 0.0)
        size = torch.linalg.vector_norm(free_gradient, dim=-1)
        moved = torch.linalg.vector_norm(self.y - self.center, dim=-1) / self.sigma
        noise = tolerance.ANSWERED * tolerance.unit_roundoff(point.dtype)
        scale = torch.linalg.vector_norm(point, dim=-1) + torch.linalg.vector_norm(
            self._sides(), dim=-1
        )
        inner = (size <= _LOOSE * moved) | (size <= noise * scale) | self.stuck
        due = (face.same(self.seen) | inner) & ~face.same(self.tried)
        self.seen = face
        done = torch.zeros_like(due)
        if bool(due.any()):
            done = search.attempt(due, face, self.index, self.y)
            which = due.nonzero().squeeze(-1)
            self.tried.put(which, face.take(which))
        outer = inner & ~done
        self.center = torch.where(outer.unsqueeze(-1), self.y, self.center)
        self.sigma = torch.where(outer, (self.sigma * _GROWTH).clamp_max(_LARGEST), self.sigma)
        self.stuck = torch.zeros_like(done)
        working = ~done
        if not bool(working.any()):
            return done
        if bool(outer.any()):
            point, value = self._point(self.y)
            gradient = self._gradient(self.y, point)
            face = self._face(self.y, point, gradient)
            free_gradient = torch.where(face.active, gradient, 0.0)
        factor = search.system.factor(face.free, face.active, 1 / self.sigma)
        search.factorisations += int(working.sum())
        direction = factor.solve(free_gradient)
        self._search_along(direction, gradient, value, done, is_equation)
        return done

    def _search_along(
        self,
        direction: Tensor,
        gradient: Tensor,
        value: Tensor,
        done: Tensor,
        is_equation: Tensor,
    ) -> None:
        length = torch.ones_like(value).unsqueeze(-1)
        open_ = ~done
        u = tolerance.unit_roundoff(value.dtype)
        for _ in range(30):
            trial = self.y + length * direction
            trial = torch.where(is_equation, trial, trial.clamp_min(0))
            _, reached = self._point(trial)
            change = trial - self.y
            gain = torch.where(change == 0, 0.0, change * gradient).sum(-1)
            # the value itself is known to rounding only: a step too small to see is taken
            enough = reached >= value + 1e-4 * gain - 4 * u * value.abs()
            taken = open_ & enough
            self.y = torch.where(taken.unsqueeze(-1), trial, self.y)
            open_ = open_ & ~enough
            if not bool(open_.any()):
                return
            length = torch.where(open_.unsqueeze(-1), length / 2, length)
        self.stuck = open_

    def _point(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """x(y) and the dual's value, less the proximal term."""
        w = self.x0 - self.search.system.transposed(y)
        x = w.clamp(self.lb, self.ub)
        # 1/2 |x - x0|^2 + y'(M x - r), with M'y = x0 - w
        value = (0.5 * (x - self.x0) * (x - self.x0) + (self.x0 - w) * x).sum(-1)
        value = value - (y * self._sides()).sum(-1)
        return x, value - (y - self.center).square().sum(-1) / (2 * self.sigma)

    def _sides(self) -> Tensor:
        """Right sides, zero of inequalities that have none: those are never active."""
        return torch.where(torch.isfinite(self.right), self.right, 0.0)

    def _gradient(self, y: Tensor, x: Tensor) -> Tensor:
        proximal = (y - self.center) / self.sigma.unsqueeze(-1)
        return self.search.system.times(x) - self.right - proximal

    def _face(self, y: Tensor, x: Tensor, gradient: Tensor) -> Face:
        w = self.x0 - self.search.system.transposed(y)
        low = (w <= self.lb) | (self.lb == self.ub)
        high = (w >= self.ub) & ~low
        active = self.search.system.is_equation | (y > 0) | (gradient > 0)
        return Face(low, high, active)
