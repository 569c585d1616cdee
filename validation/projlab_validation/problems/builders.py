"""Families whose problems are one function each: seeded by the name, cited in its docstring."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from projlab_validation.problems.problem import Dtype, Family, Problem, Vector, rounded, seed_of

Rng = np.random.Generator


@dataclass(frozen=True, eq=False)
class UnroundedSystem:
    """A (m, n), b (m,) and x₀ (n,), before they are rounded to a dtype."""

    A: Vector
    b: Vector
    x0: Vector
    consistent: bool = True


Builder = Callable[[Rng], UnroundedSystem]


def family(group: str, builders: Iterable[Builder], *, float64_only: Iterable[Builder]) -> Family:
    """A family of what ``builders`` build, named after them; some are of no use in float32."""
    wide = {f"{group}_{build.__name__}": build for build in float64_only}
    both = {f"{group}_{build.__name__}": build for build in builders}
    known = both | wide

    def names(dtype: Dtype) -> tuple[str, ...]:
        return tuple(known if dtype == "float64" else both)

    def build(name: str, dtype: Dtype) -> Problem:
        seed = seed_of(name)
        system = known[name](np.random.default_rng(seed))
        return Problem(
            name=name,
            group=group,
            A=rounded(system.A, dtype),
            b=rounded(system.b, dtype),
            x0=rounded(system.x0, dtype),
            dtype=dtype,
            seed=seed,
            reference=" ".join((known[name].__doc__ or "").split()),
            consistent=system.consistent,
        )

    return Family(group, names, build)


def gaussian(rng: Rng, m: int, n: int) -> UnroundedSystem:
    """Gaussian rows: κ is modest with probability near one (Edelman 1988)."""
    return solvable(rng, rng.standard_normal((m, n)))


def solvable(rng: Rng, A: Vector) -> UnroundedSystem:
    """A with b = A x, x and x₀ standard normal: consistent at full row rank, however b is rounded.

    What is given in decimals, or scaled, must not be rank-deficient here.
    """
    x, x0 = rng.standard_normal((2, A.shape[1]))
    return UnroundedSystem(A, A @ x, x0)


def integers(rng: Rng, m: int, n: int) -> UnroundedSystem:
    """Entries −4 … 4: A, x and b = A x are exact in either dtype."""
    return solvable_in_integers(rng, rng.integers(-4, 5, (m, n)).astype(np.float64))


def solvable_in_integers(rng: Rng, A: Vector) -> UnroundedSystem:
    """A of small integers with b = A x for an integer x: consistent exactly, at any rank."""
    n = A.shape[1:]
    return UnroundedSystem(A, A @ rng.integers(-9, 10, n), rng.standard_normal(n))
