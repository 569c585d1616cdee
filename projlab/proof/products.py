"""Products of a constraint's rows with pairs of float64, and bounds on their errors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from projlab.numerics.double_double import Pair, sum_into, sum_last, terms
from projlab.system.rows import Dense, Matrix

_CHUNK = 2**21


@dataclass(frozen=True)
class Product:
    """Products of a matrix, or its transpose, with pairs, and bounds on their errors.

    y_i = sum_j a_ij x_j: each a_ij x_high is an exact pair, a_ij x_low is rounded once, the sums
    are taken by extraction: with sigma a power of two above (number of terms) * (largest term), the
    parts (sigma + t) - sigma are multiples of u sigma and add up exactly in any order; what is left
    is smaller by 2 (number of terms) u, and after four rounds below u**2 for up to 1e6 terms. So

        |computed - y|_i <= 4 u**2 (sum_j |a_ij| |x_j| + |y_i|).
    """

    matrix: Matrix
    transposed: bool

    def __call__(self, x: Pair) -> Pair:
        """x (k, n) to (k, m), or (k, m) to (k, n) for the transpose."""
        rows = [self._one(Pair(h, lo)) for h, lo in zip(x.high, x.low, strict=True)]
        return Pair(torch.stack([r.high for r in rows]), torch.stack([r.low for r in rows]))

    def error(self, x: Pair, y: Pair, u: float) -> Tensor:
        """(k,) 2-norm of the bound above, itself rounded upwards."""
        if isinstance(self.matrix, Dense):
            entries = self.matrix.entries.abs()
            size = x.high.abs() @ (entries if self.transposed else entries.mT)
        else:
            absolute = type(self.matrix)(
                self.matrix.rows, self.matrix.cols, self.matrix.values.abs(), self.matrix.shape
            )
            source, target, length = _indices(absolute, self.transposed)
            products = x.high.abs()[:, source] * absolute.values
            size = x.high.new_zeros(len(x.high), length).index_add(1, target, products)
        bound: Tensor = torch.linalg.vector_norm(4 * u * u * (size + y.high.abs()), dim=-1)
        return bound * 1.01

    def _one(self, x: Pair) -> Pair:
        if isinstance(self.matrix, Dense):
            entries = self.matrix.entries.mT if self.transposed else self.matrix.entries
            step = max(1, _CHUNK // entries.shape[1])
            parts = [sum_last(terms(chunk, x.high, x.low)) for chunk in entries.split(step)]
            return Pair(torch.cat([p.high for p in parts]), torch.cat([p.low for p in parts]))
        source, target, length = _indices(self.matrix, self.transposed)
        products = terms(self.matrix.values, x.high[source], x.low[source])
        return sum_into(products, target, length)


def _indices(matrix: Matrix, transposed: bool) -> tuple[Tensor, Tensor, int]:
    assert not isinstance(matrix, Dense)
    if transposed:
        return matrix.rows, matrix.cols, matrix.shape[1]
    return matrix.cols, matrix.rows, matrix.shape[0]
