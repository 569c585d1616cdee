"""Products of a constraint's rows with pairs of float64, and bounds on their errors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics.double_double import Pair
from projlab.system.rows import Rows


@dataclass(frozen=True)
class Product:
    """Products of rows, or their transpose, with pairs, and bounds on their errors.

    y_i = sum_j a_ij x_j: each a_ij x_high is an exact pair, a_ij x_low is rounded once, the sums
    are taken by extraction: with sigma a power of two above (number of terms) * (largest term), the
    parts (sigma + t) - sigma are multiples of u sigma and add up exactly in any order; what is left
    is smaller by 2 (number of terms) u, and after four rounds below u**2 for up to 1e6 terms. So

        |computed - y|_i <= 4 u**2 (sum_j |a_ij| |x_j| + |y_i|).
    """

    rows: Rows
    transposed: bool

    def __call__(self, x: Pair) -> Pair:
        """x (k, n) to (k, m), or (k, m) to (k, n) for the transpose."""
        return self.rows.rmatvec_pair(x) if self.transposed else self.rows.matvec_pair(x)

    def error(self, x: Pair, y: Pair, u: float) -> Tensor:
        """(k,) 2-norm of the bound above, itself rounded upwards."""
        absolute, sizes = self.rows.abs(), x.high.abs()
        size = absolute.rmatvec(sizes) if self.transposed else absolute.matvec(sizes)
        bound: Tensor = torch.linalg.vector_norm(4 * u * u * (size + y.high.abs()), dim=-1)
        return bound * (1 + tolerance.PRODUCT_ROUNDING)
