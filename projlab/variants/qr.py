"""QR of E': orthonormal rows by Householder reflections.

Reference: Golub and Van Loan, "Matrix Computations", 4th ed., sections 5.3.3 and 5.4.1; Higham,
ASNA, theorem 21.4. Which rows are independent is decided before, from singular values, and rows
that are not are dropped: unpivoted QR of dependent rows is wrong however small its residual.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from projlab import tolerance
from projlab.matrix import Dense, Matrix, upper, widened
from projlab.variants.base import Variant, triangular_solve
from projlab.variants.orthonormal import OrthonormalRows


@dataclass(frozen=True)
class QRFactor(OrthonormalRows):
    """E' = W' R."""

    R: Tensor

    def right_side(self, f: Tensor) -> Tensor:
        return triangular_solve(self.R, -f, transpose=True)

    def multipliers(self, x: Tensor, c: Tensor | None) -> Tensor:
        return triangular_solve(self.R, self._coordinates(x, c), transpose=False)


class QR(Variant):
    name = "qr"
    summary = "Householder QR of A'; errs like kappa u; the safe choice for dense rows"

    def factor(self, rows: Matrix, u: float) -> QRFactor:
        E = rows.to_dense()
        made = rows.reflectors if isinstance(rows, Dense) else None
        # float32 reflectors of 1e6 entries are orthonormal to 1e-4 only: rounded, these are to u
        a, tau = torch.geqrf(widened(E).mT) if made is None else made
        W = torch.linalg.householder_product(a, tau).mT.to(E).contiguous()
        R = upper(a).to(E)
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
