"""Projection with orthonormal rows W: what QR and the SVD both end in.

Reference for taking the rows in blocks: block modified Gram-Schmidt, Bjorck, "Numerical Methods for
Least Squares Problems", section 2.4.2. With rows orthonormal to rounding, what one block subtracts
is orthogonal to the others, so that their coordinates are the same before and after it.
"""

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, addmv
from torch.compiler import is_exporting

from projlab.engine.kernels import native
from projlab.engine.variants.base import Bound, Factor
from projlab.numerics import dots, tuning


@dataclass(frozen=True)
class OrthonormalRows(Factor):
    """E = L W with W W' = I: P(x) = x - W' (W x + c), c = -L^-1 f."""

    W: Tensor
    _negated: Tensor | None = field(init=False, repr=False, compare=False)
    """-W' where W is small, from `bound` on and without a kernel: a second copy saves the keyword
    that would change the sign."""
    _native: native.NativeRows | None = field(init=False, repr=False, compare=False)
    """From `with_kernel` or `bound` on: a single projection does not pay for importing numba."""
    _blocks: tuple[Tensor, ...] = field(init=False, repr=False, compare=False)
    """Views of W, by rows."""
    _systems: bool = field(init=False, repr=False, compare=False)
    """Whether W is (B, r, n)."""
    _one: bool = field(init=False, repr=False, compare=False)
    """Whether W has one row."""

    def __post_init__(self) -> None:
        W = self.W
        rows, r = tuning.rows_per_block(W), W.shape[-2]
        vars(self).update(  # past the ban on assignment, at a quarter of its price
            _systems=W.dim() == 3,
            _one=r == 1,
            _native=None,
            _negated=None,
            _blocks=(W,) if rows >= r else W.split(rows, dim=-2),
        )

    def with_kernel(self, kernel: native.NativeRows) -> Self:
        """Itself, with the kernel for W that `bound` would ask for."""
        vars(self)["_native"] = kernel
        return self

    def bound(self, c: Tensor) -> Bound:
        kernel = native.rows(self.W) if self._native is None else self._native
        small = kernel is None and self.W.dim() == 2 and self.W.nbytes <= tuning.SMALL
        if not small or self._negated is None:
            negated = (-self.W).mT if small else None
            vars(self).update(_native=kernel, _negated=negated)
        if kernel is not None and not self._systems:
            return super().bound(c)._replace(native=kernel.for_vectors(c))
        if self._negated is None:
            return super().bound(c)
        M, N = self.W, self._negated

        def project(x: Tensor) -> Tensor:
            return addmv(x, N, addmv(c, M, x)) if x.ndim == 1 else self.project(x, c)

        def project_(x: Tensor) -> None:
            if x.ndim == 1:
                x.addmv_(N, addmv(c, M, x))
            else:
                self.project_(x, c)

        return Bound(None, project, project_)

    def project(self, x: Tensor, c: Tensor | None) -> Tensor:
        if x.dim() == 2 and self._native is None and not (self._one or self._as_columns(x)):
            return torch.addmm(x, self._coordinates(x, c), self.W, alpha=-1)
        projected = x.clone(memory_format=torch.contiguous_format)
        self.project_(projected, c)
        return projected

    def project_(self, x: Tensor, c: Tensor | None) -> None:
        if self._native is not None and not is_exporting() and self._native.project_(x, c):
            return
        dim = x.dim()
        if self._systems and self._one:
            x.addcmul_(self._coordinates(x, c), self.W, value=-1)
        elif self._systems:
            x.baddbmm_(self._coordinates(x, c), self.W, alpha=-1)
        elif dim == 1:
            self._project_vector_(x, c)
        elif dim == 2 and self._as_columns(x):
            self._project_columns_(x.mT, c)
        elif dim == 2:
            x.addmm_(self._coordinates(x, c), self.W, alpha=-1)
        else:
            x.sub_(self._coordinates(x, c) @ self.W)

    def _as_columns(self, x: Tensor) -> bool:
        """Whether x (k, n) is multiplied from the left; an exported program takes any k alike."""
        k = 0 if is_exporting() else x.shape[0]
        return k >= tuning.COLUMNS and k * self.W.shape[0] >= tuning.COORDINATES

    def _project_vector_(self, x: Tensor, c: Tensor | None) -> None:
        if self._negated is not None:
            x.addmv_(self._negated, self._coordinates(x, c))
        elif self._one:
            a = self.W[0]
            r = dots.times(a, x)
            x.addcmul_(r if c is None else r + c, a, value=-1)
        elif len(self._blocks) == 1:
            x.addmv_(self.W.mT, self._coordinates(x, c), alpha=-1)
        else:
            start = 0
            for W in self._blocks:
                stop = start + len(W)
                r = W.mv(x) if c is None else torch.addmv(c[start:stop], W, x)
                x.addmv_(W.mT, r, alpha=-1)
                start = stop

    def _project_columns_(self, X: Tensor, c: Tensor | None) -> None:
        """Of X (n, k), a vector in each column."""
        if c is None:
            r = self.W @ X
        else:
            r = torch.addmm(c.mT if c.dim() == 2 else c.unsqueeze(-1), self.W, X)
        X.addmm_(self.W.mT, r, alpha=-1)

    def _coordinates(self, x: Tensor, c: Tensor | None) -> Tensor:
        """W x + c."""
        if self._systems and self._one:
            r: Tensor = torch.linalg.vecdot(x, self.W).unsqueeze(-1)
            return r if c is None else r + c
        if c is None:
            return torch.mm(x, self.W.mT) if x.dim() == 2 else x @ self.W.mT
        if x.dim() == 1:
            return torch.addmv(c, self.W, x)
        if self._systems:
            return torch.baddbmm(c, x, self.W.mT)
        if x.dim() == 2:
            return torch.addmm(c, x, self.W.mT)
        return x @ self.W.mT + c
