"""A float64 QR that steers the refinement, and a lower bound on sigma_min that it cannot spoil."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics.triangular import triangular_solve
from projlab.proof.rounding import frobenius, gamma, norms


@dataclass(frozen=True)
class Steering:
    """F' = W'R of independent rows F (r, n), W with orthonormal rows, and sigma_min(F).

    The QR only steers. sigma_min is proven from what was computed, not from how:

        sigma_min(F) >= sigma_min(R) sigma_min(W) - ||F - R' W||,
        sigma_min(W) >= sqrt(1 - ||I - W W'||),  sigma_min(R) >= (1 - ||I - X R||) / ||X||,

    X an approximate inverse of R, every product with its rounding bound (ASNA section 3.5) added.
    """

    W: Tensor
    R: Tensor
    sigma_min: float
    """A lower bound; 0 where nothing is proven."""

    @staticmethod
    def of(F: Tensor, uncertainty: float) -> "Steering":
        """Of float64 rows that are known to within `uncertainty` in the 2-norm."""
        r, n = F.shape
        Q, R = torch.linalg.qr(F.mT)
        W = Q.mT.contiguous()
        eye = torch.eye(r, dtype=torch.float64, device=F.device)
        X = torch.linalg.solve_triangular(R, eye, upper=True)
        size_R, size_W, size_X = frobenius(R), frobenius(W), frobenius(X)
        misfit = frobenius(F - R.mT @ W) + gamma(r + 2) * (frobenius(F) + size_R * size_W)
        skew = frobenius(eye - W @ W.mT) + gamma(n + 2) * (size_W**2 + math.sqrt(r))
        defect = frobenius(eye - X @ R) + gamma(r + 2) * frobenius(X.abs() @ R.abs())
        if not (skew < 1 and defect < 1):  # NaN too
            return Steering(W, R, 0.0)
        proven = (1 - defect) / size_X * math.sqrt(1 - skew) - misfit - uncertainty
        return Steering(W, R, max(0.0, proven * (1 - tolerance.PROOF_ROUNDING)))

    def into_rows(self, v: Tensor) -> Tensor:
        """Coefficients y (k, r) with F'y near the row-space part of v (k, n)."""
        return triangular_solve(self.R, v @ self.W.mT, transpose=False)

    def shortest(self, q: Tensor) -> Tensor:
        """z (k, n) of least norm with F z near q (k, r)."""
        return triangular_solve(self.R, q, transpose=True) @ self.W

    def row_part(self, v: Tensor) -> Tensor:
        """(k,) how much of v (k, n) is left in the row space, as the QR sees it."""
        return norms(v @ self.W.mT)

    def image(self, v: Tensor) -> Tensor:
        """(k,) upper bound on ||F v||, rounding included."""
        r, n = len(self.R), v.shape[-1]
        product = v @ (self.R.mT @ self.W).mT
        return norms(product) + gamma(n + r) * 4 * frobenius(self.R) * norms(v)
