"""The systems that the tests share, and which variants are able to take them.

`SYSTEMS` is the one table; `CASES` has every system in every precision it is meant for, and `RUNS`
every case with every variant of the registry and "auto". A new variant is picked up by itself.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

import projlab
from projlab import tolerance
from projlab.engine.variants import REGISTRY, Variant, forward_error_bound
from tests.projlab import exact

VARIANTS = projlab.variants()
CHOICES = (*VARIANTS, "auto")
STRAIGHT = tuple(name for name in CHOICES if name != "iterative")
"""Those that do the same whatever the numbers are: an iteration looks at its residuals."""
BOTH = ("float32", "float64")
DOUBLE = ("float64",)

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


def by_name(name: str) -> Variant:
    return next(variant for variant in REGISTRY if variant.name == name)


OVERLAPPING_VARIANTS = tuple(v for v in VARIANTS if not by_name(v).needs_disjoint_rows)
DISJOINT_VARIANTS = tuple(v for v in VARIANTS if by_name(v).needs_disjoint_rows)


# --- the systems -------------------------------------------------------------------------------


def _random(m: int, n: int) -> Callable[[], Triple]:
    def build() -> Triple:
        rng = np.random.default_rng([m, n])
        return rng.standard_normal((m, n)), rng.standard_normal(m), rng.standard_normal(n)

    return build


def prescribed_spectrum(m: int, n: int, condition: float, seed: int = 0) -> np.ndarray:
    """U S V' with S from 1 down to 1/condition, and random orthogonal U and V."""
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((m, m)))[0]
    V = np.linalg.qr(rng.standard_normal((n, m)))[0]
    return np.asarray((U * np.geomspace(1, 1 / condition, m)) @ V.T)


def _spectrum(condition: float) -> Callable[[], Triple]:
    def build() -> Triple:
        rng = np.random.default_rng(1)
        A = prescribed_spectrum(6, 15, condition)
        return A, A @ rng.standard_normal(15), rng.standard_normal(15)

    return build


def _integers(m: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.random.Generator]:
    """Entries whose combinations, in these tests, are exact in float32."""
    rng = np.random.default_rng([seed, m, n])
    return rng.integers(-9, 10, (m, n)).astype(float), rng


def _redundant(combine: Callable[[np.ndarray], np.ndarray]) -> Callable[[], Triple]:
    """Independent integer rows and exact combinations of them; b of an integer solution."""

    def build() -> Triple:
        rows, rng = _integers(4, 9)
        A = combine(rows)
        return A, A @ rng.integers(-5, 6, 9), rng.standard_normal(9)

    return build


def _disjoint() -> Triple:
    """Ragged lengths, columns in no order, one column in no row."""
    rng = np.random.default_rng(0)
    order = iter(rng.permutation(40))
    A = np.zeros((7, 41))
    for i, length in enumerate((1, 2, 3, 5, 8, 13, 1)):
        for _ in range(length):
            A[i, next(order)] = rng.standard_normal()
    return A, rng.standard_normal(7), rng.standard_normal(41)


def _scaled(exponents: tuple[int, ...]) -> Callable[[], Triple]:
    """Row norms that differ by powers of ten, and b with them."""

    def build() -> Triple:
        A, b, x0 = _random(len(exponents), 8)()
        factors = 10.0 ** np.array(exponents)
        return A * factors[:, None], b * factors, x0

    return build


def _disjoint_scaled() -> Triple:
    A, b, x0 = _disjoint()
    factors = 10.0 ** np.linspace(-200, 200, 7)
    return A * factors[:, None], b * factors, x0


def _feasible() -> Triple:
    A, rng = _integers(4, 9, seed=1)
    x0 = rng.integers(-5, 6, 9).astype(float)
    return A, A @ x0, x0


def _to_the_origin() -> Triple:
    A, rng = _integers(4, 9, seed=2)
    return A, np.zeros(4), rng.integers(-5, 6, 4) @ A


def _far() -> Triple:
    A, b, x0 = _random(4, 9)()
    return A, b, x0 * 1e12


def _tall() -> Triple:
    """Nine rows in four variables, of rank three."""
    rows, rng = _integers(3, 4, seed=3)
    A = rng.integers(-2, 3, (9, 3)) @ rows
    return A, A @ rng.integers(-5, 6, 4), rng.standard_normal(4)


def _rank_zero() -> Triple:
    return np.zeros((3, 5)), np.zeros(3), np.arange(5.0)


def _no_rows() -> Triple:
    return np.zeros((0, 5)), np.zeros(0), np.arange(5.0)


def _one_row_thrice() -> Triple:
    a = np.array([1.0, -2.0, 0.5, 3.0])
    return np.stack([a, 2 * a, -0.25 * a]), np.array([1.5, 3.0, -0.375]), np.ones(4)


def _early_svd() -> Triple:
    """LAPACK's iteration for singular vectors stops at 90 roundings here (DBDSQR's TOLMUL)."""
    A = [
        [-2.0, -192.0, 28.0, 256.0, -16.0, 0.0, 8.0],
        [-0.15625, -0.5625, 256.0, 0.15625, -0.625, -0.125, 20.0],
        [-7.0, 4.0, 20.0, 16.0, -2.5, 0.625, -64.0],
        [-160.0, -0.25, 1.5, 0.5625, -24.0, -64.0, 0.25],
    ]
    x0 = [-0.0808, 0.0567, 0.0868, -0.018, 0.0088, -0.1149, -0.024]
    return np.array(A), np.array([-312.0, 981.125, 188.0, -915.0]), np.array(x0)


def _duplicates(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, rows[1:3], -rows[:1]])


def _combinations(rows: np.ndarray) -> np.ndarray:
    return np.stack([rows[0], rows[0] + 2 * rows[1], rows[1], *rows[2:], rows[3] - rows[2]])


def _zero_rows(rows: np.ndarray) -> np.ndarray:
    return np.insert(rows, [0, 2, 4], 0.0, axis=0)


def _all_at_once(rows: np.ndarray) -> np.ndarray:
    return _zero_rows(np.concatenate([_duplicates(rows), [[*np.zeros(9)], rows.sum(0)]]))


SYSTEMS: dict[str, tuple[Callable[[], Triple], str, tuple[str, ...]]] = {
    # name: (builder, do its independent rows share columns?, precisions it is meant for)
    "article 1: [1, 1] x = 1": (
        lambda: (np.array([[1.0, 1.0]]), np.array([1.0]), np.array([0.25, 0.5])),
        "disjoint",
        BOTH,
    ),
    "article 2: [1, -2] x = 0": (
        lambda: (np.array([[1.0, -2.0]]), np.array([0.0]), np.array([0.75, 1.0])),
        "disjoint",
        BOTH,
    ),
    "article 3: two rows": (
        lambda: (
            np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]),
            np.array([1.0, 0.5]),
            np.array([1.0, -2.0, 3.0]),
        ),
        "overlapping",
        BOTH,
    ),
    "random 1 x 1": (_random(1, 1), "disjoint", BOTH),
    "random 1 x 7": (_random(1, 7), "disjoint", BOTH),
    "random 3 x 3": (_random(3, 3), "overlapping", BOTH),
    "random 5 x 12": (_random(5, 12), "overlapping", BOTH),
    "random 30 x 100": (_random(30, 100), "overlapping", BOTH),
    "condition 1": (_spectrum(1.0), "overlapping", BOTH),
    "condition 1e2": (_spectrum(1e2), "overlapping", BOTH),
    "condition 1e4": (_spectrum(1e4), "overlapping", BOTH),
    "condition 1e6": (_spectrum(1e6), "overlapping", DOUBLE),
    "condition 1e8": (_spectrum(1e8), "overlapping", DOUBLE),
    "condition 1e10": (_spectrum(1e10), "overlapping", DOUBLE),
    "condition 1e12": (_spectrum(1e12), "overlapping", DOUBLE),
    "disjoint rows": (_disjoint, "disjoint", BOTH),
    "duplicate rows": (_redundant(_duplicates), "overlapping", BOTH),
    "integer combinations": (_redundant(_combinations), "overlapping", BOTH),
    "rows of zeros": (_redundant(_zero_rows), "overlapping", BOTH),
    "every kind of redundant row": (_redundant(_all_at_once), "overlapping", BOTH),
    "one row three times": (_one_row_thrice, "disjoint", BOTH),
    "more rows than variables": (_tall, "overlapping", BOTH),
    "rank zero": (_rank_zero, "disjoint", BOTH),
    "no rows": (_no_rows, "disjoint", BOTH),
    "row norms 1e-8 to 1e7": (_scaled((-8, 0, 7, 3)), "overlapping", BOTH),
    "row norms 1e-200 to 1e200": (_scaled((-200, 0, 200, 100)), "overlapping", DOUBLE),
    "disjoint rows of norms 1e-200 to 1e200": (_disjoint_scaled, "disjoint", DOUBLE),
    "an SVD that stops early": (_early_svd, "overlapping", BOTH),
    "a feasible point": (_feasible, "overlapping", BOTH),
    "onto the origin": (_to_the_origin, "overlapping", BOTH),
    "a point far away": (_far, "overlapping", BOTH),
}


# --- every form of A ---------------------------------------------------------------------------

# torch announces its compressed sparse layouts as beta whenever one is made
SPARSE_BETA = pytest.mark.filterwarnings("ignore:Sparse CS[RC] tensor support is in beta")

FORMS: dict[str, Callable[[Tensor], Any]] = {
    "dense": lambda A: A,
    "nested lists": lambda A: A.tolist(),
    "numpy": lambda A: A.numpy(),
    "numpy, Fortran order": lambda A: np.asfortranarray(A.numpy()),
    "numpy, big-endian": lambda A: A.numpy().astype(">f8"),
    "torch, transposed": lambda A: A.mT.contiguous().mT,
    "scipy csr_array": lambda A: scipy.sparse.csr_array(A.numpy()),
    "scipy csc_matrix": lambda A: scipy.sparse.csc_matrix(A.numpy()),
    "scipy coo with duplicates": lambda A: _split(A.numpy()),
    "scipy dok": lambda A: scipy.sparse.dok_array(A.numpy()),
    "torch COO": lambda A: A.to_sparse_coo(),
    "torch CSR": lambda A: A.to_sparse_csr(),
    "torch CSC": lambda A: A.to_sparse_csc(),
}


def _split(A: np.ndarray) -> scipy.sparse.coo_array:
    """Every entry as the sum of two halves, and an explicit zero."""
    i, j = np.nonzero(A)
    v = A[i, j] / 2
    i, j, v = (np.concatenate(t) for t in ((i, i, [0]), (j, j, [0]), (v, v, [0.0])))
    return scipy.sparse.coo_array((v, (i, j)), shape=A.shape)


# --- one system in one precision, with its exact answer ----------------------------------------


def condition_number(A: np.ndarray, rank: int) -> float:
    """Of rows of norm one that carry the rank; an upper bound where some rows are redundant.

    Rows chosen by a strong rank-revealing factorisation have singular values within
    sqrt(1 + 4 r (m - r)) of those of all rows (Goreinov, Tyrtyshnikov and Zamarashkin 1997).
    """
    A = np.asarray(A, dtype=np.float64)
    largest = np.abs(A).max(axis=1, initial=0.0)
    A = A[largest > 0] / largest[largest > 0, None]
    if rank == 0:
        return 1.0
    sigma = np.linalg.svd(A / np.linalg.norm(A, axis=1, keepdims=True), compute_uv=False)
    m = len(A)
    return float(sigma[0] / sigma[rank - 1]) * math.sqrt(1 + 4 * rank * (m - rank))


@dataclass(frozen=True, eq=False)
class Case:
    """A x = b and x0 as tensors of one dtype, and the exact projection of exactly these floats."""

    name: str
    A: Tensor
    b: Tensor
    x0: Tensor
    overlapping: bool
    rank: int
    condition: float
    solution: exact.Vector

    @property
    def m(self) -> int:
        return self.A.shape[0]

    @property
    def n(self) -> int:
        return self.A.shape[1]

    @property
    def u(self) -> float:
        return tolerance.unit_roundoff(self.A.dtype)

    @property
    def size(self) -> float:
        """||x0|| + ||x0 - x*||: what the rounding of a projection is relative to."""
        x0 = exact.vector(self.x0)
        return exact.norm(x0) + exact.norm(exact.subtract(x0, self.solution))

    def allowed(self, variant: str, u: float | None = None) -> float:
        """Forward error that theory allows, in absolute terms, so that x* = 0 is no exception."""
        return self.size * forward_error_bound(
            variant,
            u=self.u if u is None else u,
            m=self.m,
            n=self.n,
            condition=self.condition,
            amplification=1.0,
        )

    def able(self, variant: str) -> bool:
        """Whether the variant takes this system, by its structure."""
        return not self.overlapping or variant not in DISJOINT_VARIANTS

    def may_refuse(self, variant: str) -> bool:
        """Whether the variant's own theory says that it may be unable."""
        return variant != "auto" and bool(
            by_name(variant).limitation(m=self.m, n=self.n, condition=self.condition, u=self.u)
        )


def make_case(name: str, A: Tensor, b: Tensor, x0: Tensor, *, overlapping: bool = True) -> Case:
    M = exact.matrix(A)
    rank = exact.rank(M)
    solution = exact.projection(M, exact.vector(b), exact.vector(x0))
    assert exact.times(M, solution) == exact.vector(b), f"{name} has no solution"
    condition = condition_number(A.double().numpy(), rank)
    return Case(name, A, b, x0, overlapping, rank, condition, solution)


@cache
def case(name: str, dtype: str = "float64") -> Case:
    """The system of that name in the table, rounded to the dtype and then taken as exact."""
    builder, rows, _ = SYSTEMS[name]
    A, b, x0 = (torch.tensor(t, dtype=getattr(torch, dtype)) for t in builder())
    return make_case(name, A, b, x0, overlapping=rows == "overlapping")


CASES = [(name, dtype) for name, (_, _, dtypes) in SYSTEMS.items() for dtype in dtypes]

RUNS = [
    pytest.param(name, dtype, variant, id=f"{variant}-{dtype}-{name}")
    for name, dtype in CASES
    for variant in CHOICES
    if SYSTEMS[name][1] == "disjoint" or variant not in DISJOINT_VARIANTS
]
"""(name, dtype, variant) wherever the structure allows the variant."""


def refused_if(foretold: bool, variant: str) -> AbstractContextManager[object]:
    """Around a call that a variant must refuse where its own theory says that it is unable.

    The error must come, and name the remedy; where nothing is foretold, none may. A variant that
    finds out by trying may be able after all, and is then held to the same figures.
    """
    if not foretold:
        return nullcontext()
    if by_name(variant).finds_out:
        return _refusal_allowed()
    return pytest.raises(projlab.RankDeficientError, match='variant="qr"')


@contextmanager
def _refusal_allowed() -> Iterator[None]:
    try:
        yield
    except (projlab.RankDeficientError, projlab.AccuracyError) as error:
        if 'variant="qr"' not in str(error) and "a variant that factors A" not in str(error):
            raise
