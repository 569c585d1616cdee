"""Cholesky factor of the Gram matrix E E', applied twice.

Reference: Golub and Van Loan, "Matrix Computations", 4th ed., section 5.3.2 (normal equations);
Higham, ASNA, section 21.3, and Bjorck, "Numerical Methods for Least Squares Problems", section
2.9.3 (why a second pass with the same factor restores what the squared condition number took).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.variants.base import Factor, Variant
from projlab.errors import RankDeficientError
from projlab.numerics.triangular import cholesky_solve
from projlab.system.rows import Rows

PASSES = 2


@dataclass(frozen=True)
class CholeskyFactor(Factor):
    """E E' = L L'."""

    E: Tensor
    L: Tensor
    passes: int = PASSES
    """More than two where L is that of a matrix with a shift."""

    def right_side(self, f: Tensor) -> Tensor:
        return -f

    def project(self, x: Tensor, c: Tensor | None) -> Tensor:
        for _ in range(self.passes):
            x = x - self._solve(x, c) @ self.E
        return x

    def project_(self, x: Tensor, c: Tensor | None) -> None:
        for _ in range(self.passes):
            y = self._solve(x, c)
            if x.dim() == 1:
                x.addmv_(self.E.mT, y, alpha=-1)
            elif x.dim() == 2:
                x.addmm_(y, self.E, alpha=-1)
            else:
                x.sub_(y @ self.E)

    def multipliers(self, x: Tensor, c: Tensor | None) -> Tensor:
        total = self._solve(x, c)
        for _ in range(self.passes - 1):
            total = total + self._solve(x - total @ self.E, c)
        return total

    def _solve(self, x: Tensor, c: Tensor | None) -> Tensor:
        r = x @ self.E.mT
        return cholesky_solve(self.L, r if c is None else r + c)


class Cholesky(Variant):
    name = "cholesky"
    summary = "Gram matrix, two passes; errs like kappa u + (kappa^2 u)^2; cheapest to set up"

    def factor(self, rows: Rows, u: float) -> CholeskyFactor:
        E = rows.to_dense()
        gram = E @ E.mT
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        padding = diagonal == 0
        gram = gram + torch.diag_embed(padding.to(E.dtype))
        L, failed = torch.linalg.cholesky_ex(gram)
        eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device).expand_as(L)
        # 1 / (G^-1)_ii is the pivot of row i where it comes last: whichever order the rows have,
        # one that is rounding shows
        last_pivots = 1 / torch.linalg.solve_triangular(L, eye, upper=False).square().sum(-2)
        threshold = tolerance.gram_pivot_threshold(E.shape[-2], u)
        sound = last_pivots > threshold * diagonal.amax(-1, keepdim=True)
        if bool((failed > 0).any()) or not bool((sound | padding).all()):
            raise RankDeficientError(
                "the Gram matrix A A' is not numerically positive definite: forming it squares the "
                f"condition number, and a pivot is at or below {threshold:.2g} of the largest "
                'diagonal entry. Use variant="qr" or "pinv", which work on A itself.'
            )
        return CholeskyFactor(E.contiguous(), L)

    def error_growth(self, condition: float, u: float) -> float:
        return tolerance.normal_equations_growth(condition, u)

    def flops(self, m: int, n: int) -> tuple[float, float]:
        return 1.0 * m * m * n + 2 * m**3 / 3, PASSES * (4.0 * m * n + 2.0 * m * m)

    def limitation(self, *, m: int, n: int, condition: float, u: float) -> str | None:
        if not tolerance.gram_unsafe(m, condition, u):
            return None
        return (
            f"kappa = {condition:.2g} is squared in the Gram matrix: kappa^2 times the pivot "
            f"threshold {tolerance.gram_pivot_threshold(m, u):.2g} exceeds 1/2, so a pivot may be "
            "rounding and the factorisation refused"
        )
