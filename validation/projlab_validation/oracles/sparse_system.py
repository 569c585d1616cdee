"""The equations of a sparse system as the oracles see them: rank and consistency, nothing dense.

Which rows are independent is read off the pivots of E Eᵀ + δ I, E equilibrated: a row that depends
on rows before it leaves a pivot near δ. That is a guess, and may be a bad one. What follows is not:
with K the rows kept and D the others, W ≈ (E_K E_Kᵀ)⁻¹ E_K E_Dᵀ and N = E_Dᵀ − E_Kᵀ W,

    σ_r(E) ≥ σ_min(E_K)   and   σ_{r+1}(E) ≤ ‖N‖

(the singular values of some rows interlace; [−W; I] has none below 1), so that a proven bound on
the first and N in balls decide the numerical rank, whatever led to K. Where they do not, the dense
factorisation of `projlab_validation.oracles.system` has the word, if it is affordable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
from numpy.typing import NDArray

from projlab_validation.oracles import sparse_sigma_min
from projlab_validation.oracles.sparse_factor import SymmetricFactor, factorised
from projlab_validation.oracles.system import RankedSystem

Array = NDArray[np.float64]

SHIFT = 1e-13
"""Times √m: added to the unit diagonal of E Eᵀ, whose entries are off by a few u."""

DEPENDENT = 1e-6
"""Pivots above this belong to independent rows: σ² of κ = 1e3 is no rounding."""

GAP = 30.0
"""Pivots of dependent rows stand this factor below the others, or all rows count as independent."""

GUESSES = 4
"""At which rows are independent, before a dense factorisation has to say."""

GRAM_ENTRIES = 3e7
"""Products of two entries that E Eᵀ may take: one dense column of 5000 rows is as many."""

ENTRIES = 5e8
"""Entries of W before rounding, r times as many rows as depend on others."""

CHUNK = 2**21
"""Entries of W that are solved for at a time."""

SHORT = 2.0**-12
NEAR = 1e-6
"""Coefficients this near a multiple of `SHORT` are taken for it: rows that depend on others exactly
mostly do so with such coefficients. A wrong guess shows in N."""


class Undecided(Exception):  # noqa: N818  an answer, not a fault
    """The sparse way does not decide this system; the message says why."""


@dataclass(frozen=True, eq=False)
class SparseSystem(RankedSystem):
    """E x = f with independent rows first.

    Attributes
    ----------
    E, f, x0
        (m, n), (m,), (n,): no row of E is zero. The first r rows span the others to the cutoff.
    order
        (m,): which equation each row is.
    eps
        2u of the problem's dtype.
    rank
        r.
    gram
        The factor of E_K E_Kᵀ.
    W
        (r, m − r): E[r:] ≈ Wᵀ E[:r], as solved for.
    largest, smallest
        σ₁ and σ_r of E by Lanczos.
    smallest_kept, proven
        σ_min(E_K) by Lanczos, and a proven lower bound on it; 0 where there is no proof.
    """

    E: sp.csr_array
    f: Array
    x0: Array
    order: NDArray[np.intp]
    eps: float
    rank: int
    gram: SymmetricFactor
    W: sp.csc_array
    largest: float
    smallest: float
    smallest_kept: float
    proven: float
    cross: SymmetricFactor | None = field(repr=False)
    """The factor of I + WᵀW; None where no row depends on others."""

    @property
    def extremes(self) -> tuple[float, float]:
        """See `RankedSystem`."""
        return self.largest, self.smallest

    def gram_inverse(self, v: Array) -> Array:
        """(E_K E_Kᵀ)⁻¹ v; v: (r,) or (r, k)."""
        return self.gram.solve(v)

    def blend_inverse(self, v: Array) -> Array:
        """(I + W Wᵀ)⁻¹ v, by Woodbury's formula."""
        if self.cross is None:
            return v
        blended: Array = v - self.W @ self.cross.solve(self.W.T @ v)
        return blended

    def dependent_inverse(self, v: Array) -> Array:
        """(I + WᵀW)⁻¹ v."""
        return v if self.cross is None else self.cross.solve(v)

    def rows_as_given(self, A: sp.csr_array, b: Array) -> SparseSystem:
        """The same split for rows that are not equilibrated, A (m, n) and b in their own order."""
        A, r = A[self.order], self.rank
        first = A.indptr[:-1]
        scale = self.E.data[first] / A.data[first]  # powers of two
        W = sp.csc_array(self.W.multiply(scale[:r, None]).multiply(1 / scale[r:]))
        return _split(A, b[self.order], self.x0, self.order, self.eps, r, W)


def candidates(E: sp.csr_array, f: Array, x0: Array, eps: float) -> Iterator[SparseSystem]:
    """Yield guesses at rank and independent rows of equilibrated E, the likeliest first.

    Raises
    ------
    Undecided
        Where E Eᵀ would not be sparse.
    """
    counts = np.bincount(E.indices, minlength=E.shape[1]).astype(float)
    if counts @ counts > GRAM_ENTRIES:
        raise Undecided(f"E Eᵀ takes {counts @ counts:.1e} products of entries")
    pivots = _pivots(E)
    for limit in _limits(pivots):
        dependent = pivots <= limit
        order = np.concatenate([np.flatnonzero(~dependent), np.flatnonzero(dependent)])
        rank = int(np.sum(~dependent))
        if rank * (len(order) - rank) > ENTRIES:
            continue
        try:
            system = _split(E[order], f[order], x0, order, eps, rank)
        except Undecided:
            continue
        if (system.proven or system.smallest_kept) > system.cutoff:
            yield system


def _pivots(E: sp.csr_array) -> Array:
    """What elimination leaves of the diagonal of E Eᵀ + δ I, row by row."""
    m = E.shape[0]
    shift = SHIFT * np.sqrt(m) * sp.eye_array(m, format="csc")
    factor = factorised(sp.csc_array(E @ E.T) + shift)
    if factor is None:
        raise Undecided("E Eᵀ has no factor even with its diagonal shifted")
    return factor.pivots


def _limits(pivots: Array) -> list[float]:
    """The pivots that dependent rows may reach: those below the widest gaps, and none."""
    m = len(pivots)
    sizes = np.sort(pivots)
    steps = sizes[1:] / sizes[:-1]
    # The sum of all rows leaves δ times their number.
    steps[sizes[:-1] > max(DEPENDENT, 4 * SHIFT * m**1.5)] = 0.0
    widest = np.argsort(-steps, kind="stable")[: GUESSES - 1]
    return [float(sizes[i]) for i in widest if steps[i] > GAP] + [0.0]


def _split(
    E: sp.csr_array,
    f: Array,
    x0: Array,
    order: NDArray[np.intp],
    eps: float,
    rank: int,
    W: sp.csc_array | None = None,
) -> SparseSystem:
    """Factor the first rows, and express the others by them, unless that is known."""
    kept, others = E[:rank], E[rank:]
    gram = factorised(sp.csc_array(kept @ kept.T))
    if gram is None:
        raise Undecided("rows that seem independent are not to rounding")
    cross = None
    if not others.shape[0]:
        W = sp.csc_array((rank, 0))
    else:
        if W is None:
            W = _coefficients(gram, kept, others)
        cross = factorised(sp.csc_array(sp.eye_array(W.shape[1], format="csc") + W.T @ W))
        if cross is None:
            raise Undecided("rows do not express the others to rounding")
    smallest = sparse_sigma_min.estimate(gram)
    system = SparseSystem(
        E=E, f=f, x0=x0, order=order, eps=eps, rank=rank, gram=gram, W=W,
        largest=np.sqrt(_largest(E)), smallest=np.sqrt(smallest),
        smallest_kept=np.sqrt(smallest),
        proven=sparse_sigma_min.lower_bound(kept, smallest), cross=cross,
    )  # fmt: skip
    return system if cross is None else replace(system, smallest=_smallest(system))


def _coefficients(gram: SymmetricFactor, kept: sp.csr_array, others: sp.csr_array) -> sp.csc_array:
    """What rows make of those kept, some at a time: rounded, few coefficients are left."""
    count = max(1, CHUNK // kept.shape[0])
    parts = [others[i : i + count] for i in range(0, others.shape[0], count)]
    columns = [_rounded(gram.solve((kept @ part.T).toarray())) for part in parts]
    return sp.csc_array(sp.hstack(columns, format="csc"))


def _rounded(W: Array) -> sp.csc_array:
    """W with short binary fractions in place of coefficients near one, zeros among them."""
    short = np.rint(W / SHORT) * SHORT
    return sp.csc_array(np.where(np.abs(W - short) < NEAR, short, W))


def _largest(E: sp.csr_array) -> float:
    """σ₁² of E."""
    m = E.shape[0]
    product = scipy.sparse.linalg.LinearOperator(
        (m, m), matvec=lambda v: E @ (E.T @ v), dtype=np.float64
    )
    return sparse_sigma_min.largest(product)


def _smallest(system: SparseSystem) -> float:
    """σ_r of E: E Eᵀ = G (E_K E_Kᵀ) Gᵀ with G = [I; Wᵀ] has the pseudoinverse that is applied."""
    r, (m, _) = system.rank, system.E.shape

    def apply(v: Array) -> Array:
        v = v.ravel()
        inner = system.blend_inverse(v[:r] + system.W @ v[r:])
        inner = system.blend_inverse(system.gram_inverse(inner))
        return np.concatenate([inner, system.W.T @ inner])

    operator = scipy.sparse.linalg.LinearOperator((m, m), matvec=apply, dtype=np.float64)
    return float(1 / np.sqrt(sparse_sigma_min.largest(operator)))
