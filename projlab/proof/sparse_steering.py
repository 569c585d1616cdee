"""A sparse factor of the Gram matrix that steers the refinement; no dense matrix is made.

It steers worse than a QR, by kappa^2 u instead of kappa u, which costs a few steps more and nothing
of the proof. sigma_min is proven by a factorisation that succeeds (`projlab.numerics.gram`): down
to about 1e-7 of the largest singular value, where a QR proves down to about 1e-15.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics.gram import GramFactor
from projlab.numerics.scaling import scale
from projlab.proof.rounding import gamma, norms
from projlab.system.equilibration import equilibrate_rows
from projlab.system.rows import SparseRows
from projlab.system.sparse_rank import scipy_rows


@dataclass(frozen=True)
class SparseSteering:
    """As `projlab.proof.steering.Steering`, of sparse rows F (r, n)."""

    rows: SparseRows
    factor: GramFactor
    """Of D F."""
    exponent: Tensor
    """(r,) D = 2**exponent: rows of norm near one."""
    sigma_min: float

    @staticmethod
    def of(F: SparseRows, uncertainty: float) -> "SparseSteering":
        """Of float64 rows that are known to within `uncertainty` in the 2-norm.

        Raises
        ------
        IndefiniteError, numpy.linalg.LinAlgError
            The Gram matrix has no Cholesky factor in float64.
        MemoryLimitError
            It has one that does not fit.
        """
        rows, exponent = equilibrate_rows(F)
        assert isinstance(rows, SparseRows)
        r, n = F.shape
        factor = GramFactor.of(scipy_rows(rows), f"the Gram matrix of {r} x {n} rows")
        proven = factor.proven(factor.smallest(tolerance.ROUGH).value)
        # sigma_min(F) = sigma_min(D^-1 D F) >= min(D^-1) sigma_min(D F)
        least = float(scale(torch.ones_like(exponent, dtype=torch.float64), -exponent).min())
        sigma = math.sqrt(proven) * least - uncertainty
        return SparseSteering(F, factor, exponent, max(0.0, sigma * (1 - tolerance.PROOF_ROUNDING)))

    def into_rows(self, v: Tensor) -> Tensor:
        """As `Steering.into_rows`."""
        return self._scaled(self._solved(self._scaled(self.rows.matvec(v))))

    def shortest(self, q: Tensor) -> Tensor:
        """As `Steering.shortest`."""
        return self.rows.rmatvec(self._scaled(self._solved(self._scaled(q))))

    def row_part(self, v: Tensor) -> Tensor:
        """As `Steering.row_part`: v' F' (F F')^-1 F v is its square."""
        g = self._scaled(self.rows.matvec(v))
        y = torch.from_numpy(self.factor.once(_array(g))).to(g.device)
        # relative to the peak, whose square may over- or underflow
        peak = g.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
        return ((g / peak) * (y / peak)).sum(-1).abs().sqrt() * peak.squeeze(-1)

    def image(self, v: Tensor) -> Tensor:
        """As `Steering.image`."""
        terms = int(torch.bincount(self.rows.rows).max())
        sizes = norms(self.rows.abs().matvec(v.abs())) * (1 + tolerance.PRODUCT_ROUNDING)
        return norms(self.rows.matvec(v)) + gamma(terms + 2) * sizes

    def corrections(self, right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(k, r) coefficients on the rows of what has the products `right` (k, r) with them."""
        d = scale(torch.ones_like(self.exponent, dtype=torch.float64), self.exponent).cpu().numpy()
        found: npt.NDArray[np.float64] = self.factor.once(right * d) * d
        return found

    def _solved(self, g: Tensor) -> Tensor:
        return torch.from_numpy(self.factor.solve(_array(g))).to(g.device)

    def _scaled(self, g: Tensor) -> Tensor:
        return scale(g, self.exponent)


def _array(g: Tensor) -> npt.NDArray[np.float64]:
    array: npt.NDArray[np.float64] = g.cpu().numpy()
    return array
