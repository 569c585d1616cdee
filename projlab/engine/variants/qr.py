"""QR of E': orthonormal rows by Householder reflections.

Reference: Golub and Van Loan, "Matrix Computations", 4th ed., sections 5.3.3 and 5.4.1; Higham,
ASNA, theorem 21.4. Which rows are independent is decided before, from singular values, and rows
that are not are dropped: unpivoted QR of dependent rows is wrong however small its residual.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.kernels import small_qr
from projlab.engine.variants.base import Variant
from projlab.engine.variants.orthonormal import OrthonormalRows
from projlab.numerics import tuning
from projlab.numerics.scaling import widened
from projlab.numerics.triangular import Reflectors, householder, triangular_solve
from projlab.system.rows import Rows


@dataclass(frozen=True)
class QRFactor(OrthonormalRows):
    """E' = W' [R, corner; 0, last]."""

    R: Tensor
    corner: Tensor | None = None
    """(k, r - k) where R is (k, k) and not the whole: a quarter of r x r would hold zeros."""
    last: Tensor | None = None

    def right_side(self, f: Tensor) -> Tensor:
        if self.corner is None or self.last is None:
            return triangular_solve(self.R, -f, transpose=True)
        k = len(self.R)
        first = triangular_solve(self.R, -f[..., :k], transpose=True)
        rest = -f[..., k:] - first @ self.corner
        return torch.cat([first, triangular_solve(self.last, rest, transpose=True)], -1)

    def multipliers(self, x: Tensor, c: Tensor | None) -> Tensor:
        r = self._coordinates(x, c)
        if self.corner is None or self.last is None:
            return triangular_solve(self.R, r, transpose=False)
        k = len(self.R)
        rest = triangular_solve(self.last, r[..., k:], transpose=False)
        first = r[..., :k] - rest @ self.corner.mT
        return torch.cat([triangular_solve(self.R, first, transpose=False), rest], -1)


@dataclass(frozen=True)
class SmallQRFactor(QRFactor):
    """Made by a kernel, which also solves for another right side: to the bits of the first one."""

    def right_side(self, f: Tensor) -> Tensor:
        found = small_qr.right_side(self.R, f)
        return super().right_side(f) if found is None else found


class QR(Variant):
    name = "qr"
    summary = "Householder QR of A'; errs like kappa u; the safe choice for dense rows"

    def factor(self, rows: Rows, u: float) -> QRFactor:
        # float32 reflectors of 1e6 entries are orthonormal to 1e-4 only: rounded, these are to u
        return self.factor_from(householder(widened(rows.to_dense()).mT), rows, u)

    def factor_from(self, reflectors: Reflectors, rows: Rows, u: float) -> QRFactor:
        E, (a, tau, R) = rows.to_dense(), reflectors
        W = torch.linalg.householder_product(a, tau).mT.to(E).contiguous()
        R = R.to(E)
        if E.dim() == 2 and len(R) >= tuning.IN_PARTS:
            k = len(R) // 2
            return QRFactor(W, *(t.clone() for t in (R[:k, :k], R[:k, k:], R[k:, k:])))
        if E.dim() == 2:
            return QRFactor(W, R)
        padding = (E == 0).all(-1)
        # a row of zeros contributes nothing: no direction, and a multiplier of zero
        W = W.masked_fill(padding.unsqueeze(-1), 0)
        return QRFactor(W, R + torch.diag_embed(padding.to(R.dtype)))

    def error_growth(self, condition: float, u: float) -> float:
        return tolerance.backward_stable_growth(condition, u)

    def flops(self, m: int, n: int) -> tuple[float, float]:
        return 4.0 * m * m * n, 4.0 * m * n
