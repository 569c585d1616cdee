"""The Gram matrix of sparse rows, solves with it, and a proven lower bound on its eigenvalues.

The proof is that a factorisation succeeds (Rump, "Verification of positive definiteness", BIT 46
(2006); "Verification methods", Acta Numerica 19 (2010), section 10.8): where G - t I has the
computed factor L D L' with D > 0, all its eigenvalues are at least -||L D L' - (G - t I)||, and
that is bounded whatever the factor is. What is proven is at least a modest multiple of u ||G||, so
nothing is for singular values of the rows below about 1e-7 of the largest.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from projlab import tolerance
from projlab.numerics import memory
from projlab.numerics.lanczos import Eigenvalue, largest
from projlab.numerics.sparse_factor import CPU, Prepared, SuperLU, prepared

Vector = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float64]
"""(k, m), one vector a row."""

_U = tolerance.unit_roundoff("float64")


class IndefiniteError(Exception):
    """The Gram matrix is not positive definite as far as float64 can tell."""


ENTRY_BYTES = 48
"""Of a product of sparse matrices for each of its entries: value and index, for the product, its
sorted copy, and the permuted one that is factored."""


def gram_matrix(E: Any, remedy: str = memory.REMEDY) -> Any:
    """E E' of scipy rows, CSC.

    Raises
    ------
    MemoryLimitError
        It does not fit: a column that many rows hold makes it dense.
    """
    from scipy.sparse import csc_array

    m, n = E.shape
    shared = np.bincount(E.indices, minlength=n).astype(np.float64)
    require_gram(m, n, min(float(m) ** 2, float((shared**2).sum())), remedy)
    return csc_array(E @ E.T)


def require_gram(m: int, n: int, entries: float, remedy: str) -> None:
    """Raise `MemoryLimitError` where the Gram matrix of m x n rows does not fit."""
    what = f"the Gram matrix of {m} x {n} rows, formed sparse,"
    memory.require(int(ENTRY_BYTES * entries), what, CPU, remedy)


def rounding_of_gram(E: Any, G: Any) -> float:
    """Upper bound on the 2-norm of what `gram_matrix` lost.

    Each entry is a sum over the columns that two rows share (ASNA section 3.1).
    """
    sizes = abs(E)
    pattern = sizes.copy()
    pattern.data = np.ones_like(pattern.data)
    shared, products = pattern @ pattern.T, sizes @ sizes.T
    terms = float(shared.data.max(initial=0.0))
    if terms * _U >= 0.5:
        return math.inf
    bound = products.multiply(shared) * (_U / (1 - terms * _U))
    rows = float((bound @ np.ones(G.shape[0])).max(initial=0.0))  # symmetric: both norms
    return rows * (1 + tolerance.PRODUCT_ROUNDING)


@dataclass(frozen=True)
class GramFactor:
    """Solves with G = E E' of independent sparse rows E (r, n), corrected by E itself."""

    E: Any
    """scipy CSR."""
    transposed: Any
    G: Any
    ready: Prepared
    """G in the order of its elimination."""
    factor: SuperLU

    @staticmethod
    def of(E: Any, what: str) -> "GramFactor":
        """Of rows whose Gram matrix is positive definite.

        Raises
        ------
        IndefiniteError
            A pivot is not positive.
        MemoryLimitError
            Its factor does not fit.
        """
        G = gram_matrix(E)
        ready = prepared(G, what)
        ready.require_memory(what, CPU)
        try:
            factor = SuperLU(ready)
        except np.linalg.LinAlgError as error:
            raise IndefiniteError("a pivot of the Gram matrix is zero") from error
        if not bool((factor.pivots() > 0).all()):
            raise IndefiniteError("a pivot of the Gram matrix is not positive")
        return GramFactor(E, E.T.tocsr(), G, ready, factor)

    def solve(self, g: Vectors) -> Vectors:
        """G^-1 g for g (k, r), corrected once: what is left is (kappa^2 u)^2, or kappa u."""
        y = self.once(g)
        return y + self.once(g - (self.E @ (self.transposed @ y.T)).T)

    def once(self, g: Vectors) -> Vectors:
        """`solve` without the correction."""
        solved: Vectors = self.factor.solve(torch.from_numpy(np.ascontiguousarray(g))).numpy()
        return solved

    def proven(self, estimate: float) -> float:
        """A lower bound on the smallest eigenvalue, which is about `estimate`; 0 for none."""
        shift = estimate / 2
        lost = rounding_of_gram(self.E, self.G)
        diagonal = float(self.G.diagonal().max(initial=0.0)) + shift
        lost += 2 * _U * diagonal  # of subtracting the shift
        if not lost < shift < math.inf:
            return 0.0
        shifted = self.ready.matrix.copy()
        shifted.setdiag(shifted.diagonal() - shift)
        try:
            factor = SuperLU(replace(self.ready, matrix=shifted))
        except np.linalg.LinAlgError:
            return 0.0
        if not bool((factor.pivots() > 0).all()):
            return 0.0
        return max(0.0, (shift - lost - factor.misfit()) * (1 - tolerance.PROOF_ROUNDING))

    def smallest(self, accuracy: float) -> Eigenvalue:
        """An estimate of the smallest eigenvalue, with its uncertainty."""
        return reciprocal(inverse_iteration(self.solve, len(self.G.indptr) - 1, accuracy))


def inverse_iteration(
    solve: Callable[[Vectors], Vectors], size: int, accuracy: float
) -> Eigenvalue:
    """The largest eigenvalue of a symmetric inverse that takes vectors (1, size)."""
    return largest(lambda v: solve(v[None])[0], size, accuracy, STEPS)


def reciprocal(inverse: Eigenvalue) -> Eigenvalue:
    """Of an eigenvalue of the inverse."""
    if not inverse.value > 0:
        return Eigenvalue(0.0, math.inf)
    return Eigenvalue(1 / inverse.value, inverse.residual / inverse.value**2)


STEPS = 2000
"""Of a Lanczos iteration at most; the top of the spectrum of a 300 x 300 grid takes 900 to be known
to seven digits."""
