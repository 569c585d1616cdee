"""Pseudoinverse by the singular value decomposition, kept factored.

Reference: Golub and Van Loan, "Matrix Computations", 4th ed., section 5.5.2; Higham, ASNA,
section 20.1. A^+ itself is never formed: multiplying by it would lose what the factors keep.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.variants.base import Variant
from projlab.engine.variants.orthonormal import OrthonormalRows
from projlab.numerics.scaling import widened
from projlab.numerics.triangular import triangular_solve
from projlab.system.rows import Rows


@dataclass(frozen=True)
class PinvFactor(OrthonormalRows):
    """E = U diag(1 / inverse) R' W; inverse is zero where the singular value is."""

    U: Tensor
    inverse: Tensor
    R: Tensor

    def right_side(self, f: Tensor) -> Tensor:
        return triangular_solve(self.R, -f @ self.U * self._inverse(), transpose=True)

    def multipliers(self, x: Tensor, c: Tensor | None) -> Tensor:
        solved = triangular_solve(self.R, self._coordinates(x, c), transpose=False)
        return solved * self._inverse() @ self.U.mT

    def _inverse(self) -> Tensor:
        return self.inverse.unsqueeze(-2) if self.inverse.dim() == 2 else self.inverse


class Pinv(Variant):
    name = "pinv"
    summary = "singular value decomposition; errs like kappa u; the dearest to set up"

    def factor(self, rows: Rows, u: float) -> PinvFactor:
        entries = rows.to_dense()
        E = widened(entries)  # float32 reflectors of long rows lose their orthogonality
        U, S = _left_vectors(E)
        # the rows are independent at the rank decided before: only rows of zeros, which pad a
        # batch, have singular values of zero, or of the rounding of the decomposition
        kept = tolerance.svd_noise(u) * S[..., :1] < S
        inverse = torch.where(kept, 1 / S, 0)
        # LAPACK's iteration stops at up to 91 u sigma_1 (DBDSQR's TOLMUL): the right vectors are
        # taken afresh as images of the left ones, in the row space to rounding, and orthonormalised
        Q, R = torch.linalg.qr((U.mT @ E * inverse.unsqueeze(-1)).mT)
        W = Q.mT.masked_fill(~kept.unsqueeze(-1), 0).contiguous()
        R = R + torch.diag_embed((~kept).to(R.dtype))
        return PinvFactor(*(t.to(entries) for t in (W, U, inverse, R)))

    def error_growth(self, condition: float, u: float) -> float:
        return tolerance.backward_stable_growth(condition, u)

    def flops(self, m: int, n: int) -> tuple[float, float]:
        return 12.0 * m * m * n + 20.0 * m**3, 4.0 * m * n


def _left_vectors(E: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors of E and its singular values, the largest first.

    LAPACK's divide and conquer gives up on a few matrices, among them 8129 stoichiometric rows,
    and on their triangular factors too. Eigenvectors of E E' stand in: they are as orthogonal, and
    `factor` is backward stable for any U that is, since it takes U'E from E itself. Vectors of
    values below sqrt(u) sigma_1 may be mixed, which R then says.
    """
    try:
        U, S, _ = torch.linalg.svd(E, full_matrices=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # not re-exported
        U = torch.linalg.eigh(E @ E.mT).eigenvectors.flip(-1)
        S = torch.linalg.vector_norm(U.mT @ E, dim=-1)
    return U, S
