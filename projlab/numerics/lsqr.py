"""LSQR for many right-hand sides at once, each with its own coefficients, solved for E' y.

Of min ||E x - r|| over x = E' y: both the residual and the error in x fall at every step, and where
no x solves E x = r it ends at the residual that is left. What is returned is y, so that x is in the
row space by construction. The coefficients tell the singular values that r has met. Where there is
room, left vectors are made orthogonal to all before them, which makes the right ones so too, and
keeps the number of steps at that of exact arithmetic.

Reference: Paige and Saunders, "LSQR: an algorithm for sparse linear equations and sparse least
squares", ACM TOMS 8 (1982); Simon and Zha, "Low-rank matrix approximation using the Lanczos
bidiagonalization process", SIAM J. Sci. Comput. 21 (2000), for making one side orthogonal only;
Benbow, "Solving generalized least-squares problems with LSQR", SIAM J. Matrix Anal. Appl. 21
(1999), for the inner product of a preconditioner.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
Continued = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of y, x and a factor: E'y - factor x, which may be written where x lies, and its norm."""


class Steps(NamedTuple):
    """Where an iteration stands; every quantity but `taken` has one entry a right-hand side."""

    taken: int
    left: Tensor
    """The norm of M^(1/2) times the residual, as recurred."""
    active: Tensor
    """Whether it still moves."""
    largest: Tensor
    """A lower bound on the largest singular value of M^(1/2) E, at least half of it before long."""


@dataclass
class Coefficients:
    """The upper bidiagonal matrices that LSQR ends in, of every right-hand side."""

    diagonal: list[Tensor] = field(default_factory=list)
    above: list[Tensor] = field(default_factory=list)
    """Right of each entry of the diagonal."""

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Estimates of the smallest and largest singular value of M^(1/2) E, both from inside."""
        like = self.diagonal[0]
        parts = (torch.stack(part).double().cpu() for part in (self.diagonal, self.above))
        pairs = zip(*(part.reshape(len(part), -1).T.numpy() for part in parts), strict=True)
        found = torch.from_numpy(np.array([_extremes(d, above) for d, above in pairs]))
        smallest, largest = found.reshape(-1, 2).unbind(-1)
        return smallest.to(like).reshape(like.shape), largest.to(like).reshape(like.shape)


def _extremes(diagonal: np.ndarray, above: np.ndarray) -> tuple[float, float]:
    """Of one right-hand side, over the steps that moved it; (1, 1) where none did.

    The smallest by inverse iteration, which keeps its digits.
    """
    from scipy.linalg import eigvalsh_tridiagonal, solve_banded  # slow to import

    stopped = ~(diagonal > 0)
    k = int(np.argmax(stopped)) if stopped.any() else len(diagonal)
    if k == 0:
        return 1.0, 1.0
    if k == 1:  # scipy < 1.15 divides by another entry of a band of one
        return float(diagonal[0]), float(diagonal[0])
    d, e = diagonal[:k], above[: k - 1]
    squares = d**2 + np.append(0.0, e**2)
    (largest,) = eigvalsh_tridiagonal(squares, d[:-1] * e, select="i", select_range=(k - 1, k - 1))
    upper, lower = np.stack([np.append(0.0, e), d]), np.stack([d, np.append(e, 0.0)])
    v, growth = np.ones(k), 0.0
    for _ in range(INVERSE_STEPS):
        v = solve_banded((0, 1), upper, solve_banded((1, 0), lower, v / np.linalg.norm(v)))
        last, growth = growth, float(np.linalg.norm(v))
        if growth <= (1 + SETTLED) * last:
            break
    return growth**-0.5, float(largest) ** 0.5


INVERSE_STEPS = 50
"""At most: an estimate is wanted, and the last of these change it by less than `SETTLED`."""

SETTLED = 1e-2
"""Relative change of an estimate that is as good as it need be."""


@dataclass
class _Before:
    """Left vectors, and M times them, in memory that doubles as it fills."""

    u: Tensor
    """(..., j, m)."""
    mu: Tensor
    """u itself without a preconditioner."""
    used: int = 0

    @classmethod
    def like(cls, r: Tensor, *, preconditioned: bool) -> "_Before":
        u = r.new_empty(*r.shape[:-1], min(16, r.shape[-1]), r.shape[-1])
        return cls(u, torch.empty_like(u) if preconditioned else u)

    def append(self, u: Tensor, mu: Tensor) -> None:
        size = self.u.shape[-1]
        if self.used == size:
            return
        if self.used == self.u.shape[-2]:
            more = self.u.new_empty(*self.u.shape[:-2], min(self.used, size - self.used), size)
            same = self.mu is self.u
            self.u = torch.cat([self.u, more], -2)
            self.mu = self.u if same else torch.cat([self.mu, more], -2)
        self.u[..., self.used, :] = u
        self.mu[..., self.used, :] = mu
        self.used += 1

    def remove(self, u: Tensor) -> Tensor:
        """u without its parts along those before, twice, which is enough."""
        for _ in range(2):
            along = (self.mu[..., : self.used, :] @ u.unsqueeze(-1)).mT
            u = u - (along @ self.u[..., : self.used, :]).squeeze(-2)
        return u


def _inverse(size: Tensor) -> Tensor:
    return torch.where(size > 0, 1 / size, 0).unsqueeze(-1)


def solve(
    matvec: Product,
    rmatvec: Product,
    precondition: Product | None,
    r: Tensor,
    *,
    goal: Callable[[Steps], Tensor],
    limit: int,
    negligible: float,
    orthogonal: bool,
    check: int,
    coefficients: Coefficients | None = None,
    watch: Callable[[Steps], bool] | None = None,
    continued: Continued | None = None,
) -> tuple[Tensor, Steps]:
    """y (..., m) with E E' y = r (..., m) in the least-squares sense, as far as `goal` asks for.

    Parameters
    ----------
    matvec, rmatvec, precondition
        E x, E' y, and M r with M about (E E')^-1, symmetric and positive definite.
    goal
        What the norm of M^(1/2) times the residual must fall to.
    limit
        Steps at most.
    negligible
        Relative to the largest singular value: a residual on which E' acts as a smaller one would
        is orthogonal to the range of E, and left alone.
    orthogonal
        Whether to keep left vectors orthogonal to all before them, for m numbers a step, and 2 m
        with a preconditioner.
    check
        Steps between looks at the numbers on the host.
    watch
        Is shown the steps at each look, and may end the iteration by True.
    continued
        What passes over the long vector come to, where they can be made in one.
    """
    u, z, b = _normed(r, precondition)
    before = _Before.like(r, preconditioned=precondition is not None) if orthogonal else None
    if before is not None:
        before.append(u, z)
    v = rmatvec(z)
    a = torch.linalg.vector_norm(v, dim=-1)
    # v is the long one: it keeps its length a, and is divided by it where it is used
    source = z * _inverse(a)  # v = a E' source
    direction, y = source, torch.zeros_like(r)
    left, bar = b, a
    steps = Steps(0, b, (a > 0) & (b > 0), a)
    while steps.taken < limit:
        # what has arrived stops here, also where the host does not look: more steps would spoil it
        steps = steps._replace(active=steps.active & (steps.left > goal(steps)))
        look = steps.taken % check == 0
        if look and (not bool(steps.active.any()) or (watch is not None and watch(steps))):
            break
        # zero where nothing moves any more, so that nothing there can overflow
        inverse = torch.where(steps.active.unsqueeze(-1), _inverse(a), 0)
        u = torch.addcmul(matvec(v).mul_(inverse), u, a.unsqueeze(-1), value=-1)
        u, z, b = _normed(u if before is None else before.remove(u), precondition)
        if before is not None:
            before.append(u, z)
        spread = b.unsqueeze(-1)
        if continued is None:
            v = rmatvec(z).addcmul_(v, spread * inverse, value=-1)
            a = torch.linalg.vector_norm(v, dim=-1)
        else:
            v, a = continued(z, v, spread * inverse)
        source = torch.addcmul(z, source, spread, value=-1)
        rho = torch.hypot(bar, b)
        active = steps.active & (rho > 0)
        source = source.mul_(torch.where(active.unsqueeze(-1), _inverse(a), 0))
        c, s = bar / rho, b / rho
        theta = s * a
        y.addcmul_(direction, torch.where(active, c * left / rho, 0).unsqueeze(-1))
        turn = torch.where(active, theta / rho, 0).unsqueeze(-1)
        direction = torch.addcmul(source, direction, turn, value=-1)
        left, bar = torch.where(active, s * left, left), -c * a
        if coefficients is not None:
            coefficients.diagonal.append(torch.where(active, rho, 0))
            coefficients.above.append(theta)
        largest = torch.maximum(steps.largest, torch.where(active, rho, 0))
        # ||E' M r|| over the norm of M^(1/2) r is |bar|
        active = active & (bar.abs() > negligible * largest)
        steps = Steps(steps.taken + 1, left, active, largest)
    return y, steps


def _normed(u: Tensor, precondition: Product | None) -> tuple[Tensor, Tensor, Tensor]:
    """u and M u, so that u' M u is one, and the root of what it was."""
    if precondition is None:
        size = torch.linalg.vector_norm(u, dim=-1)
        u = u * _inverse(size)
        return u, u, size
    z = precondition(u)
    size = torch.linalg.vecdot(u, z).clamp_min(0).sqrt()
    return u * _inverse(size), z * _inverse(size), size
