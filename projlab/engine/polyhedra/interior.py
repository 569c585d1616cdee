"""An interior-point start for the search, where faces are so degenerate that Newton's steps crawl.

Mehrotra's predictor and corrector on min 1/2 ||x - x0||^2 over {M x (+ t) = r, lb <= x <= ub}: the
matrix of each step is M D M' + diag(t / y) with 0 < D <= 1, however degenerate the face is that
the iterates run into. What it hands over are multipliers and a face, for the polish to judge.

References: Mehrotra, "On the implementation of a primal-dual interior point method", SIAM J. Optim.
2 (1992); Wright, "Primal-dual interior-point methods", SIAM 1997, chapter 10.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.polyhedra.face import Face
from projlab.engine.polyhedra.systems import Factor, System

STEPS = 80
"""At most; fifteen to forty are what real systems take."""
_CLOSE = 1e-3
"""Relative to the problem's size."""
_TO_THE_BOUNDARY = 0.995
_LARGEST_RATIO = 1e30


def limits(m: int) -> tuple[float, float, float, float]:
    """What the kernel is told of these."""
    return _LARGEST_RATIO, tolerance.gram_shift(max(1, m)), _TO_THE_BOUNDARY, _CLOSE


@dataclass
class Interior:
    """k problems, and where the method stands on each."""

    system: System
    x0: Tensor
    right: Tensor
    lb: Tensor
    ub: Tensor

    def __post_init__(self) -> None:
        lb, ub = self.lb, self.ub
        self.has_low, self.has_high = torch.isfinite(lb), torch.isfinite(ub)
        self.fixed = lb == ub
        self.has_low, self.has_high = self.has_low & ~self.fixed, self.has_high & ~self.fixed
        self.equation = self.system.is_equation.expand_as(self.right)
        # a row without a right side takes no part: its multiplier stays zero
        self.inequality = ~self.equation & torch.isfinite(self.right)
        self.absent = ~(self.equation | self.inequality)
        self.right = torch.where(self.absent, 0.0, self.right)
        self.scale = _scale(self.x0, self.right, lb, ub)
        width = torch.where(self.has_low & self.has_high, ub - lb, torch.inf)
        room = torch.minimum(self.scale, width / 4)
        low = torch.where(self.has_low, lb + room, -torch.inf)
        high = torch.where(self.has_high, ub - room, torch.inf)
        self.x = torch.where(self.fixed, lb, self.x0.clamp(low, high))
        zero, one = torch.zeros_like(lb), self.scale.expand_as(lb)
        self.zl = torch.where(self.has_low, one, zero)
        self.zu = torch.where(self.has_high, one, zero)
        slack = self.right - self.system.times(self.x)
        self.t = torch.where(self.inequality, torch.maximum(slack, self.scale), 0.0)
        self.y = torch.where(self.inequality, self.scale, 0.0).expand_as(self.right).clone()
        self.broken = torch.zeros(len(lb), dtype=torch.bool, device=lb.device)

    @property
    def gaps(self) -> tuple[Tensor, Tensor]:
        """x - lb and ub - x, one where there is no bound."""
        low = torch.where(self.has_low, self.x - self.lb, 1.0)
        return low, torch.where(self.has_high, self.ub - self.x, 1.0)

    def complementarity(self) -> Tensor:
        """(k,) mean of the products that shall vanish."""
        low, high = self.gaps
        total = (low * self.zl + high * self.zu).sum(-1) + (self.t * self.y * self.inequality).sum(
            -1
        )
        count = self.has_low.sum(-1) + self.has_high.sum(-1) + self.inequality.sum(-1)
        return total / count.clamp_min(1)

    def face(self) -> Face:
        """A bound is active where its multiplier exceeds its distance, a row likewise."""
        low, high = self.gaps
        at_low = (self.has_low & (self.zl > low)) | self.fixed
        at_high = self.has_high & (self.zu > high) & ~at_low
        return Face(at_low, at_high, self.equation | (self.inequality & (self.y > self.t)))

    def primal(self) -> Tensor:
        """(k, m) what is left of the rows."""
        left = self.system.times(self.x) + self.t - self.right
        return torch.where(self.absent, 0.0, left)

    def residuals(self) -> Tensor:
        """(k,) norm of what is left of the equations."""
        norm = torch.linalg.vector_norm
        dual = self.x - self.x0 + self.system.transposed(self.y) - self.zl + self.zu
        primal = self.primal()
        left: Tensor = norm(torch.where(self.fixed, 0.0, dual), dim=-1) + norm(primal, dim=-1)
        return left

    def close(self) -> Tensor:
        """(k,) whether the face is worth a polish: what is left is small beside the problem."""
        scale = self.scale.squeeze(-1)
        small = self.residuals() <= _CLOSE * scale
        return small & (self.complementarity() <= _CLOSE * scale.square())

    def ended(self) -> Tensor:
        """(k,) whether nothing but rounding is left, or a step was no number."""
        u = tolerance.unit_roundoff(self.x.dtype)
        mu = self.complementarity()
        return ~(mu > (u * self.scale.squeeze(-1)).square()) | self.broken

    def take(self, kept: Tensor) -> "Interior":
        """Of these problems."""
        other = object.__new__(Interior)
        vars(other).update(
            {
                name: value[kept] if isinstance(value, Tensor) else value
                for name, value in vars(self).items()
            }
        )
        return other

    def step(self) -> None:
        """One predictor and corrector."""
        low, high = self.gaps
        weights = 1 / (1 + self.zl / low + self.zu / high)
        weights = torch.where(self.fixed, 0.0, weights)
        ratio = torch.where(self.inequality, self.t / self.y, 0.0)
        ratio = torch.where(self.absent, _LARGEST_RATIO, ratio).clamp_max(_LARGEST_RATIO)
        shift = tolerance.gram_shift(max(1, self.y.shape[-1]))
        factor = self.system.weighted(weights, ratio + shift)
        dual = self.x - self.x0 + self.system.transposed(self.y) - self.zl + self.zu
        dual = torch.where(self.fixed, 0.0, dual)
        primal = self.primal()
        mu = self.complementarity()
        solve = _Direction(self, factor, weights, ratio, dual, primal)
        affine = solve(-low * self.zl, -high * self.zu, -self.t * self.y)
        p, d = self._lengths(affine)
        dx, _, dt, dzl, dzu, dy = (affine.dx, None, affine.dt, affine.dzl, affine.dzu, affine.dy)
        p_, d_ = p.unsqueeze(-1), d.unsqueeze(-1)
        after = (
            torch.where(self.has_low, (low + p_ * dx) * (self.zl + d_ * dzl), 0.0)
            + torch.where(self.has_high, (high - p_ * dx) * (self.zu + d_ * dzu), 0.0)
        ).sum(-1) + torch.where(self.inequality, (self.t + p_ * dt) * (self.y + d_ * dy), 0.0).sum(
            -1
        )
        count = self.has_low.sum(-1) + self.has_high.sum(-1) + self.inequality.sum(-1)
        reached = after / count.clamp_min(1)
        target = (mu * (reached / mu.clamp_min(1e-300)).clamp(0, 1) ** 3).unsqueeze(-1)
        full = solve(
            target - low * self.zl - dx * dzl,
            target - high * self.zu + dx * dzu,
            target - self.t * self.y - dt * dy,
        )
        p, d = self._lengths(full)
        # one length for both: x - x0 stands in the dual equation too
        length = (_TO_THE_BOUNDARY * torch.minimum(p, d)).unsqueeze(-1)
        steps = (full.dx, full.dt, full.dy, full.dzl, full.dzu)
        sound = torch.stack([torch.isfinite(step).all(-1) for step in steps]).all(0)
        self.broken = self.broken | ~sound
        for name, step in zip(("x", "t", "y", "zl", "zu"), steps, strict=True):
            moved = getattr(self, name) + length * step
            setattr(self, name, torch.where(sound.unsqueeze(-1), moved, getattr(self, name)))

    def _lengths(self, step: "_Step") -> tuple[Tensor, Tensor]:
        low, high = self.gaps
        primal = [
            _ratio(low, step.dx, self.has_low),
            _ratio(high, -step.dx, self.has_high),
            _ratio(self.t, step.dt, self.inequality),
        ]
        dual = [
            _ratio(self.zl, step.dzl, self.has_low),
            _ratio(self.zu, step.dzu, self.has_high),
            _ratio(self.y, step.dy, self.inequality),
        ]
        return torch.stack(primal).amin(0), torch.stack(dual).amin(0)


@dataclass(frozen=True)
class _Step:
    dx: Tensor
    dy: Tensor
    dt: Tensor
    dzl: Tensor
    dzu: Tensor


@dataclass(frozen=True)
class _Direction:
    """Newton directions for right sides of the complementarity equations."""

    at: Interior
    factor: Factor
    weights: Tensor
    ratio: Tensor
    dual: Tensor
    primal: Tensor

    def __call__(self, cl: Tensor, cu: Tensor, ct: Tensor) -> _Step:
        at, (low, high) = self.at, self.at.gaps
        cl, cu = torch.where(at.has_low, cl, 0.0), torch.where(at.has_high, cu, 0.0)
        multiplier = torch.where(at.inequality, at.y, 1.0)
        ct = torch.where(at.inequality, ct / multiplier, 0.0)
        q = -self.dual + cl / low - cu / high
        system = at.system
        right = system.times(self.weights * q) + self.primal + ct
        dy = self.factor.solve(right)
        for _ in range(2):  # what the shift left
            rest = right - system.times(self.weights * system.transposed(dy)) - self.ratio * dy
            dy = dy + self.factor.solve(rest)
        dy = torch.where(at.absent, 0.0, dy)
        dx = self.weights * (q - system.transposed(dy))
        dt = torch.where(at.inequality, ct - self.ratio * dy, 0.0)
        return _Step(dx, dy, dt, (cl - at.zl * dx) / low, (cu + at.zu * dx) / high)


def _ratio(value: Tensor, step: Tensor, there: Tensor) -> Tensor:
    """(k,) the longest step of at most one that leaves the values positive."""
    blocked = there & (step < 0)
    lengths = torch.where(blocked, -value / torch.where(blocked, step, -1.0), 1.0)
    if not lengths.shape[-1]:
        return value.new_ones(len(value))
    return lengths.amin(-1).clamp_max(1.0)


def _scale(x0: Tensor, right: Tensor, lb: Tensor, ub: Tensor) -> Tensor:
    """(k, 1) a size of the problem: of the point, the right sides (rows of norm one) and bounds."""
    parts = [
        part.abs().amax(-1)
        for part in (x0, right, *(torch.where(torch.isfinite(b), b, 0.0) for b in (lb, ub)))
        if part.shape[-1]
    ]
    scale = torch.stack(parts).amax(0).unsqueeze(-1)
    return torch.where(scale > 0, scale, 1.0)
