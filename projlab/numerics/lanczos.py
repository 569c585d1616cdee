"""The largest eigenvalue of a symmetric operator, by the Lanczos iteration without a memory.

Without reorthogonalisation: the vectors lose orthogonality, and the extreme Ritz values are copies
of eigenvalues to within their residuals all the same, up to rounding of the norm.

References: Paige, "Accuracy and effectiveness of the Lanczos algorithm for the symmetric
eigenproblem", Linear Algebra Appl. 34 (1980); Golub and Van Loan, "Matrix Computations", 4th ed.,
sections 10.1 to 10.3.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

_LOOK = 1.3
"""The small problem is solved each time the iteration is this many times longer."""


class Eigenvalue(NamedTuple):
    """What an iteration found."""

    value: float
    residual: float
    """An eigenvalue is this near; the square over the distance to the next one is nearer still."""


def largest(
    operator: Callable[[Vector], Vector], size: int, tolerance: float, steps: int
) -> Eigenvalue:
    """Of a symmetric operator on vectors (size,), positive semidefinite.

    From a random vector that is the same every time; until the residual is at most `tolerance`
    times the value, or that many `steps`.
    """
    from scipy.linalg import eigh_tridiagonal

    v = np.random.default_rng(0).standard_normal(size)
    v /= np.linalg.norm(v)
    before, beta = np.zeros(size), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    look = 1
    found = Eigenvalue(0.0, np.inf)
    for k in range(1, max(steps, 1) + 1):
        w = operator(v) - beta * before
        alpha = float(w @ v)
        w -= alpha * v
        diagonal.append(alpha)
        beta = float(np.linalg.norm(w))
        if k >= look or k == steps or beta == 0:
            look = int(k * _LOOK) + 1
            last = (k - 1, k - 1)
            theta, s = eigh_tridiagonal(diagonal, beside, select="i", select_range=last)
            found = Eigenvalue(float(theta[0]), beta * abs(float(s[-1, 0])))
            if found.residual <= tolerance * found.value or beta == 0:
                break
        beside.append(beta)
        before, v = v, w / beta
    return found
