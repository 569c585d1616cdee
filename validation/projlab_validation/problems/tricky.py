"""Small systems on which code that is right on random data goes wrong: by size, scale or structure.

Entries are small integers times powers of ten or two, so that rank and consistency are exact in
float64; elsewhere b = A x, rounded, at full row rank. Every reference stands in its builder.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from projlab_validation.problems.problem import (
    Dtype,
    Family,
    Problem,
    Vector,
    rounded,
    seed_of,
)

System = tuple[Vector, Vector, Vector]
Rng = np.random.Generator


def _random(rng: Rng, m: int, n: int) -> System:
    """Gaussian rows: κ is modest with probability near one (Edelman 1988)."""
    A = rng.standard_normal((m, n))
    return A, A @ rng.standard_normal(n), rng.standard_normal(n)


def _integers(rng: Rng, m: int, n: int) -> System:
    """Entries −4 … 4: A, x and b = A x are exact in either dtype."""
    A = rng.integers(-4, 5, (m, n)).astype(np.float64)
    return A, A @ rng.integers(-9, 10, n), rng.standard_normal(n)


def badly_scaled_rows(rng: Rng) -> System:
    """Rows times 1e±8: row scaling leaves the set alone (van der Sluis 1969, on equilibration)."""
    A, b, x0 = _random(rng, 6, 20)
    scale = np.array([1e8, 1e-8, 1.0, 1e8, 1e-8, 1.0])
    return A * scale[:, None], b * scale, x0


def tiny_scale(rng: Rng) -> System:
    """All of A and b times 2⁻⁴⁰: an absolute threshold takes it for zero (ASNA section 1.18)."""
    A, b, x0 = _random(rng, 4, 12)
    return A * 2.0**-40, b * 2.0**-40, x0


def tiny_answer(rng: Rng) -> System:
    """b and x₀ times 2⁻⁴⁰: an absolute threshold takes what is left for noise, as above."""
    A, b, x0 = _random(rng, 4, 12)
    return A, b * 2.0**-40, x0 * 2.0**-40


def duplicates(rng: Rng) -> System:
    """Two rows twice, one of them times −2: rank 4 of 6, exactly."""
    A, b, x0 = _integers(rng, 4, 12)
    return np.vstack([A, A[1], -2 * A[2]]), np.concatenate([b, b[1:2], -2 * b[2:3]]), x0


def combinations(rng: Rng) -> System:
    """More rows than columns: 12 integer combinations, rank 5 of 8 columns."""
    A, b, x0 = _integers(rng, 5, 8)
    mix = np.vstack([np.eye(5), rng.integers(-2, 3, (7, 5))])
    return mix @ A, mix @ b, x0


def square(rng: Rng) -> System:
    """m = n: the set is one point, whatever x₀; diagonal weight keeps κ modest (Varah 1975)."""
    A, _, x0 = _random(rng, 8, 8)
    A = A + 8 * np.eye(8)
    return A, A @ rng.standard_normal(8), x0


def wide(rng: Rng) -> System:
    """n = 2000, m = 3: inner products long enough to be cut into blocks (ASNA section 3.1)."""
    return _random(rng, 3, 2000)


def huge_start(rng: Rng) -> System:
    """x₀ of size 1e8, b near 1: x* is what is left of x₀ (ASNA section 1.7, cancellation)."""
    A, b, x0 = _random(rng, 4, 12)
    return A, b, 1e8 * x0


def answer_near_zero(rng: Rng) -> System:
    """x₀ in the row space and b small: x* = A⁺ b is a thousandth of x₀."""
    A, b, _ = _random(rng, 4, 12)
    return A, b * 1e-3, A.T @ rng.standard_normal(4)


def answer_zero(rng: Rng) -> System:
    """b = 0 and x₀ = Aᵀ w in integers: x* = 0 exactly, judged on the scale of x₀."""
    A, b, _ = _integers(rng, 4, 12)
    return A, 0 * b, A.T @ rng.integers(-3, 4, 4).astype(np.float64)


def nearly_feasible(rng: Rng) -> System:
    """x₀ misses the set by 1e-9: a solver's tolerance takes it for feasible."""
    A = rng.integers(-4, 5, (4, 12)).astype(np.float64)
    x = rng.integers(-9, 10, 12).astype(np.float64)
    return A, A @ x, x + 1e-9 * rng.standard_normal(12)


def parallel_rows(rng: Rng) -> System:
    """Rows that differ by 2⁻⁸: κ near 1e3 at unit scale (Läuchli 1961, in the rows)."""
    A, _, x0 = _random(rng, 3, 10)
    A = np.vstack([A, A + 2.0**-8 * rng.standard_normal((3, 10))])
    return A, A @ rng.standard_normal(10), x0


def same_shape(rng: Rng) -> System:
    """Another system of the shape of `tiny_scale`: what is kept from there is wrong here."""
    return _random(rng, 4, 12)


BUILDERS: dict[str, Callable[[Rng], System]] = {
    f"subjects_{build.__name__}": build
    for build in (
        badly_scaled_rows,
        tiny_scale,
        tiny_answer,
        duplicates,
        combinations,
        square,
        wide,
        huge_start,
        answer_near_zero,
        answer_zero,
        nearly_feasible,
        parallel_rows,
        same_shape,
    )
}


def _names(_dtype: Dtype) -> tuple[str, ...]:
    return tuple(BUILDERS)


def _build(name: str, dtype: Dtype) -> Problem:
    seed = seed_of(name)
    A, b, x0 = BUILDERS[name](np.random.default_rng(seed))
    return Problem(
        name=name,
        group="subjects",
        A=rounded(A, dtype),
        b=rounded(b, dtype),
        x0=rounded(x0, dtype),
        dtype=dtype,
        seed=seed,
        reference=" ".join((BUILDERS[name].__doc__ or "").split()),
    )


FAMILY = Family("subjects", _names, _build)
