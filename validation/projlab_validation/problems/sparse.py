"""Sparse systems as they come: large, structured, and handed over with their entries in no order.

Entries are given as COO, each as two halves, so that whoever does not add up duplicates is wrong;
nothing here is ever made dense. The 49 real systems are among them, with points of their own. What
is built has integer data where its rank is not full, so that consistency is exact. `LARGE` names
those of 1e4 rows and more, which the profile "full" alone takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from projlab_validation.problems import real
from projlab_validation.problems.builders import Rng
from projlab_validation.problems.problem import (
    Dtype,
    Family,
    Problem,
    Vector,
    rounded,
    seed_of,
)

GROUP = "sparse"

SMALLEST = (
    "sparse_flow_8x8",
    "sparse_tree_200",
    "sparse_one_dense_row_120",
    "sparse_nearly_redundant_60",
)
"""What the profile "quick" takes, one of each kind of difficulty."""


@dataclass(frozen=True, eq=False)
class Built:
    """A sparse system before x₀ is drawn."""

    A: sp.csr_array
    b: Vector


def flow(rng: Rng, side: int) -> Built:
    """Flow in a square grid, every node with its balance: rank one short (Kirchhoff 1847)."""
    node = np.arange(side * side).reshape(side, side)
    tails = np.concatenate([node[:, :-1].ravel(), node[:-1].ravel()])
    heads = np.concatenate([node[:, 1:].ravel(), node[1:].ravel()])
    return _incidence(rng, tails, heads, side * side)


def tree(rng: Rng, nodes: int) -> Built:
    """Flow along a random recursive tree, each node but its root with its balance (Drmota 2009)."""
    child = np.arange(1, nodes)
    parent = (rng.random(nodes - 1) * child).astype(np.int64)
    whole = _incidence(rng, child, parent, nodes)
    return Built(sp.csr_array(whole.A[1:]), whole.b[1:])


def chain(rng: Rng, steps: int) -> Built:
    """Differences of neighbours are given: κ grows like the number of steps."""
    A = sp.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(steps, steps + 1), format="csr")
    return _integers(rng, A)


def hierarchy(rng: Rng, leaves: int) -> Built:
    """Totals of groups of ten, of groups of those, and of all (Hyndman and others 2011)."""
    below = sp.csr_array(sp.eye_array(leaves))
    levels, count = [], leaves
    while count > 1:
        groups = -(-count // 10)
        which = np.arange(count) // 10
        gather = sp.csr_array((np.ones(count), (which, np.arange(count))), shape=(groups, count))
        below = sp.csr_array(gather @ below)
        levels.append(below)
        count = groups
    sums = sp.vstack(levels, format="csr")
    A = sp.hstack([sp.eye_array(sums.shape[0]), -sums], format="csr")
    return _integers(rng, sp.csr_array(A))


def transport(rng: Rng, sides: int) -> Built:
    """Row and column sums of a square table: rank one short (Hitchcock 1941)."""
    one = sp.csr_array(np.ones((1, sides)))
    eye = sp.eye_array(sides)
    A = sp.vstack([sp.kron(eye, one), sp.kron(one, eye)], format="csr")
    return _integers(rng, sp.csr_array(A))


def dynamics(rng: Rng, steps: int) -> Built:
    """Model predictive control: x⁺ = F x + G u, four states, two inputs (Rawlings 2017)."""
    F = np.eye(4) + 0.1 * rng.standard_normal((4, 4))
    G = rng.standard_normal((4, 2))
    states = sp.eye_array(4 * steps) - sp.kron(sp.eye_array(steps, k=-1), F)
    A = sp.hstack([states, -sp.kron(sp.eye_array(steps), G)], format="csr")
    return _solvable(rng, sp.csr_array(A))


def circulant(rng: Rng, size: int) -> Built:
    """A moving average around a circle: square, Toeplitz, and dense when inverted (Davis 1979)."""
    entries = [4.0, 1.0, -1.0, 0.5]
    row = np.repeat(np.arange(size), len(entries))
    column = (row + np.tile(np.arange(len(entries)), size)) % size
    A = sp.csr_array((np.tile(entries, size), (row, column)), shape=(size, size))
    return _solvable(rng, A[: size - size // 4])


def one_dense_row(rng: Rng, columns: int) -> Built:
    """A budget over all variables below rows of five, which it all touches (Andersen 1996)."""
    m = columns // 4 - 8
    first = 4 * np.arange(m)[:, None]
    where = np.concatenate([first + np.arange(4), first + rng.integers(4, 32, (m, 1))], axis=1)
    values = 1.0 + rng.random((m, 5))
    rows = sp.csr_array((values.ravel(), where.ravel(), 5 * np.arange(m + 1)), shape=(m, columns))
    A = sp.vstack([rows, sp.csr_array(np.ones((1, columns)))], format="csr")
    return _solvable(rng, sp.csr_array(A))


def nearly_redundant(rng: Rng, rows: int) -> Built:
    """Tenths, whose last rows are sums of others in decimals, off by a rounding in binary."""
    place = rng.integers(0, 3 * rows, (rows, 4))
    values = rng.integers(1, 5, place.size).astype(np.float64)
    random = sp.csr_array((values, place.ravel(), 4 * np.arange(rows + 1)), shape=(rows, 3 * rows))
    random.sum_duplicates()
    whole = sp.csr_array(random + 5 * sp.eye_array(rows, 3 * rows, format="csr"))
    pick = sp.csr_array(
        (np.ones(15), (np.repeat(np.arange(5), 3), rng.permutation(rows)[:15])), shape=(5, rows)
    )
    sums = sp.csr_array(pick @ whole)
    built = _integers(rng, sp.csr_array(sp.vstack([whole, sums], format="csr")))
    return Built(sp.csr_array(built.A / 10), built.b / 10)


def empty_rows_and_columns(rng: Rng, rows: int) -> Built:
    """Every third row and every fourth column holds nothing: 0 = 0, and variables left alone."""
    A = flow(rng, int(rows**0.5)).A.tolil()
    A[::3] = 0
    A[:, ::4] = 0
    return _integers(rng, sp.csr_array(A))


def blocks(rng: Rng, count: int) -> Built:
    """Loops of three nodes that share nothing, each with a row too many: rank 2/3 of the rows."""
    node = 3 * np.arange(count)
    tails = np.concatenate([node, node + 1, node + 2])
    heads = np.concatenate([node + 1, node + 2, node])
    return _incidence(rng, tails, heads, 3 * count)


_SIZES: dict[Callable[[Rng, int], Built], tuple[tuple[str, int], ...]] = {
    flow: (("8x8", 8), ("40x40", 40), ("300x300", 300)),
    tree: (("200", 200), ("3000", 3000), ("100000", 100_000)),
    chain: (("1000", 1000), ("50000", 50_000)),
    hierarchy: (("2000", 2000), ("50000", 50_000)),
    transport: (("30x30", 30), ("300x300", 300)),
    dynamics: (("100", 100), ("10000", 10_000)),
    circulant: (("2000", 2000),),
    one_dense_row: (("120", 120), ("4000", 4000), ("100000", 100_000)),
    nearly_redundant: (("60", 60), ("1000", 1000)),
    empty_rows_and_columns: (("900", 900),),
    blocks: (("500", 500), ("10000", 10_000)),
}

_BUILDERS = {
    f"{GROUP}_{build.__name__}_{label}": (build, size)
    for build, sizes in _SIZES.items()
    for label, size in sizes
}

SINGLE = SMALLEST[:2]
"""Offered in float32 too: integers, and κ far from what float32 cannot tell from 0."""


def _names(dtype: Dtype) -> tuple[str, ...]:
    if dtype == "float32":
        return SINGLE
    return (*_BUILDERS, *(f"{GROUP}_{name}" for name in real.names("float64")))


def _build(name: str, dtype: Dtype) -> Problem:
    seed = seed_of(name)
    rng = np.random.default_rng(seed)
    if name not in _BUILDERS:
        return _real(name, rng, seed)
    build, size = _BUILDERS[name]
    built = build(rng, size)
    return Problem(
        name=name,
        group=GROUP,
        A=_rounded(built.A, dtype),
        b=rounded(built.b, dtype),
        x0=rounded(rng.standard_normal(built.A.shape[1]), dtype),
        dtype=dtype,
        seed=seed,
        reference=" ".join((build.__doc__ or "").split()),
        stays_sparse=True,
    )


def _real(name: str, rng: Rng, seed: int) -> Problem:
    """A real system with a point of its own, drawn from this name."""
    (family,) = (real.FAMILY,)
    problem = family.build(name.removeprefix(f"{GROUP}_"), "float64")
    x0 = rng.standard_normal(problem.n) * (np.linalg.norm(problem.x0) / problem.n**0.5 or 1.0)
    return replace(problem, name=name, group=GROUP, x0=x0, seed=seed, stays_sparse=True)


def _incidence(
    rng: Rng, tails: NDArray[np.integer], heads: NDArray[np.integer], nodes: int
) -> Built:
    """What leaves each node less what arrives, for edges from tail to head."""
    edges = len(tails)
    data = np.repeat([1.0, -1.0], edges)
    where = np.concatenate([tails, heads]), np.tile(np.arange(edges), 2)
    return _integers(rng, sp.csr_array((data, where), shape=(nodes, edges)))


def _rounded(A: sp.csr_array, dtype: Dtype) -> sp.csr_array:
    return sp.csr_array((rounded(A.data, dtype), A.indices, A.indptr), shape=A.shape)


def _integers(rng: Rng, A: sp.csr_array) -> Built:
    """b = A x for an integer x: consistent exactly where A is of small integers, at any rank."""
    return Built(A, A @ rng.integers(-9, 10, A.shape[1]).astype(np.float64))


def _solvable(rng: Rng, A: sp.csr_array) -> Built:
    """b = A x for a normal x: consistent at full row rank."""
    return Built(A, A @ rng.standard_normal(A.shape[1]))


FAMILY = Family(GROUP, cache(_names), _build)
