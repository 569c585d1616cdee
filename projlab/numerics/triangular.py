"""Triangular factors: as LAPACK leaves them, and solves with them over the last dimension."""

from typing import NamedTuple

import torch
from torch import Tensor


class Reflectors(NamedTuple):
    """A Householder QR as LAPACK leaves it: R above the diagonal of a, the reflectors below."""

    a: Tensor
    tau: Tensor


def householder(M: Tensor) -> Reflectors:
    """Householder QR of M (..., n, m), the orthogonal factor not formed."""
    return Reflectors(*torch.geqrf(M))


def upper(a: Tensor) -> Tensor:
    """R (..., m, m) of a Householder QR as LAPACK leaves it."""
    return a[..., : a.shape[-1], :].triu()


def triangular_solve(R: Tensor, v: Tensor, *, transpose: bool) -> Tensor:
    """R^-1 v or R^-T v over the last dimension of v, for upper triangular R."""
    T = R.mT if transpose else R
    solved = torch.linalg.solve_triangular(T, columns(v), upper=not transpose)
    return uncolumns(solved, v)


def columns(v: Tensor) -> Tensor:
    """(..., r) vectors as the columns of a matrix: what the solvers take."""
    return v.unsqueeze(-1) if v.dim() == 1 else v.mT


def uncolumns(solved: Tensor, like: Tensor) -> Tensor:
    """Undo `columns`."""
    return solved.squeeze(-1) if like.dim() == 1 else solved.mT
