"""Triangular factors: as LAPACK leaves them, and solves with them over the last dimension."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling, is_exporting
from torch.utils._python_dispatch import _disable_current_modes


class Reflectors(NamedTuple):
    """A Householder QR as LAPACK leaves it, and its triangle.

    R stands above the diagonal of a too, the reflectors below.
    """

    a: Tensor
    tau: Tensor
    R: Tensor
    """(..., m, m)."""


def householder(M: Tensor) -> Reflectors:
    """Householder QR of M (..., n, m), the orthogonal factor not formed."""
    a, tau = torch.geqrf(M)
    return Reflectors(a, tau, a[..., : a.shape[-1], :].triu())


def condition_bound(R: Tensor) -> Tensor:
    """An upper bound on kappa_2 of upper triangular R (..., m, m), off by a factor m at worst.

    The product of the Frobenius norms of R and its inverse; infinite or NaN for singular R.
    """
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    inverse = torch.linalg.solve_triangular(R, eye.expand_as(R), upper=True)
    norm = torch.linalg.vector_norm
    bound: Tensor = norm(R, dim=(-2, -1)) * norm(inverse, dim=(-2, -1))
    return bound


def triangular_solve(R: Tensor, v: Tensor, *, transpose: bool) -> Tensor:
    """R^-1 v or R^-T v over the last dimension of v, for upper triangular R."""
    if exporting():
        inverse = inverted(R, upper=True)
        return v @ (inverse if transpose else inverse.mT)
    T = R.mT if transpose else R
    solved = torch.linalg.solve_triangular(T, columns(v), upper=not transpose)
    return uncolumns(solved, v)


def cholesky_solve(L: Tensor, v: Tensor) -> Tensor:
    """(L L')^-1 v over the last dimension of v, for lower triangular L."""
    if exporting():
        inverse = inverted(L, upper=False)
        return v @ inverse.mT @ inverse
    return uncolumns(torch.cholesky_solve(columns(v), L), v)


def exporting() -> bool:
    """Whether `torch.export` runs this code: other runtimes, as ONNX, have products, no solves."""
    return is_exporting() and not is_dynamo_compiling()


def inverted(T: Tensor, *, upper: bool) -> Tensor:
    """The inverse of a triangular constant, itself a constant of the program that is exported.

    Its products err like kappa u, as substitution may: Higham, ASNA, section 14.2.
    """
    with _disable_current_modes():
        wide = T.double()
        eye = torch.eye(T.shape[-1], dtype=wide.dtype, device=T.device).expand_as(wide)
        inverse: Tensor = torch.linalg.solve_triangular(wide, eye, upper=upper).to(T.dtype)
        return inverse


def columns(v: Tensor) -> Tensor:
    """(..., r) vectors as the columns of a matrix: what the solvers take."""
    return v.unsqueeze(-1) if v.dim() == 1 else v.mT


def uncolumns(solved: Tensor, like: Tensor) -> Tensor:
    """Undo `columns`."""
    return solved.squeeze(-1) if like.dim() == 1 else solved.mT
