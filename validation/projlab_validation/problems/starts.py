"""One kind of system, 4 × 12, and every place to start from: on the set, far from it, at the end.

The forward error is relative to ‖x*‖, so what matters is how much smaller x* is than x₀.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from projlab_validation.problems.builders import Rng, UnroundedSystem, family, gaussian, integers

M, N = 4, 12


def feasible(rng: Rng) -> UnroundedSystem:
    """x₀ on the set, exactly: P(x₀) = x₀, and a step of length 0 has no direction."""
    system = integers(rng, M, N)
    x0 = rng.integers(-9, 10, N).astype(np.float64)
    return replace(system, x0=x0, b=system.A @ x0)


def nearly_feasible(rng: Rng) -> UnroundedSystem:
    """x₀ misses the set by 1e-9: a solver's tolerance takes it for feasible."""
    system = feasible(rng)
    return replace(system, x0=system.x0 + 1e-9 * rng.standard_normal(N))


def zero(rng: Rng) -> UnroundedSystem:
    """x₀ = 0: x* is the minimum-norm solution A⁺ b (Penrose 1956)."""
    return replace(gaussian(rng, M, N), x0=np.zeros(N))


def origin(rng: Rng) -> UnroundedSystem:
    """x₀ = 0 and b = 0: x* = 0, and nothing else is right on any scale."""
    return replace(integers(rng, M, N), b=np.zeros(M), x0=np.zeros(N))


def huge(rng: Rng) -> UnroundedSystem:
    """x₀ of size 1e8, b near 1: x* is what is left of x₀ (ASNA section 1.7, cancellation)."""
    system = gaussian(rng, M, N)
    return replace(system, x0=1e8 * system.x0)


def huge_1e150(rng: Rng) -> UnroundedSystem:
    """x₀ of size 1e150: ‖x₀‖² is still a number, its square is not (Blue 1978, on norms)."""
    system = gaussian(rng, M, N)
    return replace(system, x0=1e150 * system.x0)


def tiny_1e_minus_150(rng: Rng) -> UnroundedSystem:
    """x₀ and b of size 1e-150: ‖x₀‖² is still a number, its square is 0 (Blue 1978)."""
    system = gaussian(rng, M, N)
    return replace(system, b=1e-150 * system.b, x0=1e-150 * system.x0)


def tiny(rng: Rng) -> UnroundedSystem:
    """b and x₀ times 2⁻⁴⁰: an absolute threshold takes what is left for noise (ASNA sec. 1.18)."""
    system = gaussian(rng, M, N)
    return replace(system, b=2.0**-40 * system.b, x0=2.0**-40 * system.x0)


def answer_near_zero(rng: Rng) -> UnroundedSystem:
    """x₀ in the row space and b small: x* = A⁺ b is a thousandth of x₀."""
    system = gaussian(rng, M, N)
    return replace(system, b=1e-3 * system.b, x0=system.A.T @ rng.standard_normal(M))


def answer_tiny(rng: Rng) -> UnroundedSystem:
    """x₀ of integers in the row space, b near 1e-9: nine digits of x₀ cancel (ASNA section 1.7)."""
    system = answer_zero(rng)
    return replace(system, b=1e-9 * rng.standard_normal(M))


def answer_zero(rng: Rng) -> UnroundedSystem:
    """b = 0 and x₀ = Aᵀ w in integers: x* = 0 exactly, judged on the scale of x₀."""
    system = integers(rng, M, N)
    x0 = system.A.T @ rng.integers(-3, 4, M).astype(np.float64)
    return replace(system, b=np.zeros(M), x0=x0)


FAMILY = family(
    "starts",
    (feasible, zero, origin, huge, tiny, answer_near_zero, answer_zero),
    float64_only=(nearly_feasible, huge_1e150, tiny_1e_minus_150, answer_tiny),
)
