"""A polyhedron written as equations and inequalities alone, as most solvers want it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Program(NamedTuple):
    """{x : A x = b, G x <= h}, in one dtype."""

    A: Tensor
    """(m, n), of no rows where there are no equations."""
    b: Tensor
    """(m,)."""
    G: Tensor
    """(p, n): the inequalities that have a right side, then bounds, the lower ones first."""
    h: Tensor
    """(p,)."""


def program(
    x: Tensor,
    A: Tensor | None,
    b: Tensor | None,
    G: Tensor | None,
    h: Tensor | None,
    lb: Tensor | None,
    ub: Tensor | None,
) -> Program:
    """Write bounds as rows; what an infinity leaves out is no row. x (..., n) tells dtype and n."""
    n = x.shape[-1]
    none, nothing = x.new_zeros(0, n), x.new_zeros(0)
    eye = torch.eye(n, dtype=x.dtype, device=x.device)
    rows, right = [], []
    sides = ((G, h, 1), (eye, lb, -1), (eye, ub, 1))
    for M, bound, sign in sides:
        if M is None or bound is None:
            continue
        values = bound.expand(len(M))
        there = sign * values != torch.inf  # the other infinity is no point's, and stays
        rows.append(sign * M[there])
        right.append(sign * values[there])
    return Program(
        none if A is None else A,
        nothing if b is None else b,
        torch.cat([none, *rows]),
        torch.cat([nothing, *right]),
    )
