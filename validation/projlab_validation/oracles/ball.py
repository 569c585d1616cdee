"""A proven enclosure of x* by ball arithmetic, at any size that can be factored in float64.

**What is computed.** x* = x₀ − E_r⁺ (E x₀ − f), E_r the truncated SVD of E at rank r. Let K be r
independent rows, D the others, W (r, m − r) any matrix, and

    Z = [−W; I],    G = [I; Wᵀ],    N = EᵀZ = E_Dᵀ − E_Kᵀ W,    F = GᵀE = E_K + W E_D.

The ranges of Z and G are orthogonal complements. If F N = 0 they are invariant under E Eᵀ, and if
‖N‖ is below the r largest singular values, Z is what the truncation removes: x* is the projection
of x₀ onto {x : F x = Gᵀf}. Rows that depend on others exactly have N = 0; rows that do so but for
a rounding have N ≈ u; rows that contradict each other meet at their least-squares compromise, Gᵀf.
All three are one computation:

1. W ← W + (E_K E_Kᵀ)⁻¹ (I + W Wᵀ)⁻¹ F N: converges like κu and (σ_{r+1}/σ_r)² (`separate`);
2. t ← t + (F Fᵀ)⁻¹ ρ with x = x₀ − Fᵀt and ρ = F x − Gᵀf: converges like κu (`project`).

The inverses are applied in float64, by the triangular factor of E_Kᵀ and F ≈ (I + W Wᵀ) E_K;
F N and ρ are evaluated in balls. W and t are points, and the bound holds whatever they are.

**Bound.** Let ν = ‖N‖, ε = ‖F N‖, and a = s − ν/2 with a proven s ≤ σ_min(E_K) (`sigma_min`).
In the orthonormal basis [G (GᵀG)^{-1/2}, Z (ZᵀZ)^{-1/2}] write E as [H; M]. Then ‖M‖ ≤ ν,
‖H Mᵀ‖ ≤ ε, and σ_min(F) ≥ σ_min(H) ≥ a, since F = (I + W Wᵀ)(E_K + C Nᵀ) with
C = W (I + WᵀW)⁻¹, ‖C‖ ≤ 1/2. Let y be the projection of x₀ onto {x : F x = Gᵀf}.

- x − x₀ is in the row space of F, so ‖x − y‖ ≤ ‖ρ‖/a.
- If a > ν, the r leading left singular vectors of E span the range of [I; X] in that basis with
  ‖X‖ ≤ τ = ε/(a² − ν²) (Davis and Kahan 1970, the tan 2Θ theorem for E Eᵀ), so x* is the
  projection of x₀ onto {x : (H + XᵀM) x = [I; X]ᵀf}. With y = x₀ + Hᵀv, ‖v‖ ≤ ‖y − x₀‖/a, the
  point y + MᵀXv lies in x₀ + row space of H + XᵀM, and misses the right-hand side by
  Xᵀ(M y − f_Z) + (H + XᵀM) MᵀXv, f_Z the second part of f. Hence, with ‖f_Z‖ ≤ ‖Zᵀf‖,

      ‖y − x*‖ ≤ τ ((ν‖y‖ + ‖Zᵀf‖ + (ε + τν²) ‖y − x₀‖/a) / (a − τν) + ν ‖y − x₀‖/a).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from flint import arb, ctx
from numpy.typing import NDArray

from projlab_validation.oracles import sigma_min
from projlab_validation.oracles.answer import Kind, Reference
from projlab_validation.oracles.arrays import (
    Balls,
    SparseBalls,
    ball,
    middle,
    nearest,
    nonzero,
    norm,
    product,
)
from projlab_validation.oracles.system import FactoredSystem

if TYPE_CHECKING:
    from projlab_validation.oracles.sparse_system import SparseSystem

PRECISION = 384
"""Bits: the bound divides ‖F N‖ by a³, which costs 120 of them at κ = 1e12."""

TARGET = 2.0**-100
"""Relative radius at which refinement may end, 8e-31: more would mostly be lost on two words."""


def enclose(system: FactoredSystem, deadline: float) -> Reference:
    """x* in two words; the radius is proven if σ_min(E_K) can be bounded, and estimated if not.

    Raises
    ------
    TimeoutError
        When ``time.monotonic()`` has passed ``deadline``.
    ArithmeticError
        When refinement ends without separating the singular values that count from the others.
    """
    proven = sigma_min.lower_bound(system.E[: system.rank], system.R)
    estimate = float(system.singular_values[system.rank - 1])
    with ctx.workprec(PRECISION):
        E, x0, f = SparseBalls(system.E), ball(system.x0), ball(system.f)
        W, dependence = separate(system, E, f, proven or estimate, deadline)
        x, rho = project(system, E, W, x0, f, proven or estimate, deadline)
        return reference_of(system, x, rho, x0, dependence, proven, estimate)


def reference_of(
    system: FactoredSystem | SparseSystem,
    x: Balls,
    rho: arb,
    x0: Balls,
    dependence: Dependence,
    proven: float,
    estimate: float,
) -> Reference:
    """x and the bound on its distance from x*, from s ≤ σ_min(E_K) as proven, else as estimated."""
    size = norm(x)

    def distance_from(s: float) -> arb:
        """The bound on ‖x − x*‖ from s ≤ σ_min(E_K); NaN where there is none."""
        offset = rho / (s - dependence.N / 2)
        return offset + dependence.error(s, size + offset, norm(x - x0) + offset)

    kind: Kind = "ball"
    distance = distance_from(proven)
    if not distance.is_finite():
        kind, distance = "high precision", distance_from(estimate)
    if not distance.is_finite():
        raise ArithmeticError("refinement could not separate singular values r and r + 1")

    high = nearest(x)
    low = nearest(x - ball(high))
    distance += norm(x - ball(high) - ball(low))
    x0_norm = float(np.linalg.norm(system.x0))
    if distance < size / 4:
        radius = distance / (size - 2 * distance)
    else:  # x cannot be told from 0, which is then the answer that can be judged
        high, low = np.zeros_like(high), np.zeros_like(low)
        radius = (distance + size) / (x0_norm or 1.0)
    return Reference(
        kind=kind,
        x_high=high,
        x_low=low,
        radius=float(np.nextafter(float(radius.upper()), np.inf)),
        rank=system.rank,
        condition=system.condition,
        ambiguous=system.ambiguous(float(dependence.N)),
        consistent=system.consistent,
        x0_norm=x0_norm,
    )


@dataclass(frozen=True)
class Dependence:
    """How far rows are from depending on others by W: bounds on ‖N‖, ‖F N‖ and ‖Zᵀf‖."""

    N: arb
    FN: arb
    Zf: arb

    def error(self, s: float, y: arb, step: arb) -> arb:
        """The bound on ‖y − x*‖ from s ≤ σ_min(E_K), ‖y‖ and ‖y − x₀‖; NaN where there is none."""
        a = s - self.N / 2
        tau = self.FN / (a**2 - self.N**2)
        if not (a > self.N and a > tau * self.N):
            return arb.nan()
        residual = self.N * y + self.Zf + (self.FN + tau * self.N**2) * step / a
        return tau * (residual / (a - tau * self.N) + self.N * step / a)


def separate(
    system: FactoredSystem, E: SparseBalls, f: Balls, s: float, deadline: float
) -> tuple[Balls, Dependence]:
    """W, refined until its error cannot be seen in x* or no longer shrinks.

    (I + W Wᵀ)⁻¹ F N is evaluated as E_K N + W (I + WᵀW)⁻¹ NᵀN, its second term in float64: left
    multiplication by an inverse that is off by δ would be amplified by κδ.
    """
    r, k = system.W.shape
    W, identity = ball(_simple(system.W, min(1e-8, 1e-3 / system.condition))), ball(np.eye(k))
    step = system.E[:r].T @ system.gram_inverse(system.E[:r] @ system.x0 - system.f[:r])
    step_size = arb(float(np.linalg.norm(step)))
    size = arb(float(np.linalg.norm(system.x0 - step)))
    live = np.arange(k)
    now = Dependence(arb.pos_inf(), arb.pos_inf(), arb.pos_inf())
    while True:
        N = E.adjoint(np.vstack([-W[:, live], identity[:, live]]))
        unsettled = nonzero(N).any(axis=0)
        live, N = live[unsettled], N[:, unsettled]
        EN = E @ N
        before = now
        now = Dependence(norm(N), norm(blend(W, EN)), norm(f[r:] - W.T @ f[:r]))
        if now.error(s, size, step_size) < TARGET * size or not now.FN < before.FN / 2:
            return W, now
        check(deadline)
        W64, N64 = nearest(W), nearest(N)
        NN = np.linalg.solve(np.eye(k) + W64.T @ W64, np.eye(k)[:, live]) @ (N64.T @ N64)
        W[:, live] = middle(W[:, live] + ball(system.gram_inverse(nearest(EN[:r]) + W64 @ NN)))


def _simple(W: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """W with short binary fractions in place of the coefficients that are close to one.

    Rows that depend on others exactly mostly do so with such coefficients, and then nothing is left
    to refine. A wrong guess costs a step: refinement converges from ‖N‖ << σ_r.
    """
    short = np.rint(W * 2.0**12) / 2.0**12
    return np.where(np.abs(W - short) < tolerance, short, W)


def project(
    system: FactoredSystem, E: SparseBalls, W: Balls, x0: Balls, f: Balls, s: float, deadline: float
) -> tuple[Balls, arb]:
    """x = x₀ − Fᵀt and ‖ρ‖, refined until ‖ρ‖/s < TARGET ‖x‖ or no longer shrinking."""
    W64 = nearest(W)
    cross = np.linalg.inv(np.eye(W.shape[1]) + W64.T @ W64)

    def blend_inverse(v: NDArray[np.float64]) -> NDArray[np.float64]:
        """(I + W Wᵀ)⁻¹ v, by Woodbury's formula."""
        return v - W64 @ (cross @ (W64.T @ v))

    t, now = ball(np.zeros(system.rank)), arb.pos_inf()
    while True:
        x = x0 - E.adjoint(np.concatenate([t, W.T @ t]))
        rho = blend(W, E @ x - f)
        before, now = now, norm(rho)
        if now < TARGET * s * norm(x) or not now < before / 2:
            return x, now
        check(deadline)
        t = middle(t + ball(blend_inverse(system.gram_inverse(blend_inverse(nearest(rho))))))


def blend(W: Balls, v: Balls) -> Balls:
    """Gᵀv = v_K + W v_D."""
    r = W.shape[0]
    return v[:r] + product(W, v[r:])


def check(deadline: float) -> None:
    """Give up when the time is up: `TimeoutError`."""
    if time.monotonic() > deadline:
        raise TimeoutError("refinement did not end within the time limit")
