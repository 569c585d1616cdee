"""Projection with orthonormal rows W: what QR and the SVD both end in."""

from dataclasses import dataclass

import torch
from torch import Tensor

from projlab.variants.base import Factor


@dataclass(frozen=True)
class OrthonormalRows(Factor):
    """E = L W with W W' = I: P(x) = x - W' (W x - c), c = L^-1 f."""

    W: Tensor

    def project(self, x: Tensor, c: Tensor | None) -> Tensor:
        r = self._coordinates(x, c)
        if x.dim() == 1:
            return torch.addmv(x, self.W.mT, r, alpha=-1)
        return x - r @ self.W

    def project_(self, x: Tensor, c: Tensor) -> None:
        r = self._coordinates(x, c)
        if x.dim() == 1:
            x.addmv_(self.W.mT, r, alpha=-1)
        elif x.dim() == 2:
            x.addmm_(r, self.W, alpha=-1)
        else:
            x.sub_(r @ self.W)

    def _coordinates(self, x: Tensor, c: Tensor | None) -> Tensor:
        r = x @ self.W.mT
        return r if c is None else r - c
