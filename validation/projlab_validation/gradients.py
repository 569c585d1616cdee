"""Gradients of a projection against exact ones.

With x* the projection of x₀ and l = T(g), both known exactly, an incoming gradient g leads to

    grad x₀ = l,   grad b = k with Aᵀk = g − l,   grad A = −(y lᵀ + k x*ᵀ) with Aᵀy = x₀ − x*

(Amos and Kolter, "OptNet", ICML 2017, section 3.1), so that l, Aᵀ grad b and Aᵀ grad A are known
without a multiplier ever being computed; at full row rank they determine all three gradients.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from projlab import project, projector
from projlab_validation.norms import norm
from projlab_validation.oracles import reference
from projlab_validation.problems.problem import rounded

if TYPE_CHECKING:
    from torch import Tensor

    from projlab_validation.oracles import Reference
    from projlab_validation.problems import Problem

TERMS = 4
"""Each of the errors below is at most c·κ·u times this: the product rule leaves four terms, each a
projection's own error times the size of the other factor."""

COMPARED = 2**22
"""Entries of the n × n matrix Aᵀ grad A that are compared: all up to n = 2048, else every k-th
row of it, which belongs to every k-th column of A."""

Array = np.ndarray[Any, np.dtype[Any]]


def gradient_error(
    problem: Problem, variant: str, x_star: Reference, A: Tensor, *, seconds: float | None
) -> float:
    """Return the largest error of the gradients of a variant, relative to `TERMS` times theory's.

    A is the matrix as the variant gets it, in the problem's dtype. Redundant rows leave the
    gradient in x₀ alone, sparse ones those in x₀ and b.
    """
    rng = np.random.default_rng([problem.seed, 2])
    g = rounded(rng.standard_normal(problem.n), problem.dtype)
    tangent = reference(replace(problem, b=0 * problem.b, x0=g), time_limit=seconds)
    dtype = getattr(torch, problem.dtype)
    b, x0 = (torch.tensor(v, dtype=dtype) for v in (problem.b, problem.x0))
    inputs = [x0]
    if x_star.rank == problem.m:
        inputs += [b] if A.is_sparse else [b, A]
    for tensor in inputs:
        tensor.requires_grad_()
    if A.is_sparse:
        answer = projector(A, b.detach(), variant)(x0, b)
    else:
        answer = project(x0, A, b, variant)
    gradients = torch.autograd.grad(answer, inputs, torch.tensor(g, dtype=dtype))
    wide = [v.numpy().astype(np.longdouble) for v in gradients]
    x, left = _wide(x_star), _wide(tangent)
    size = norm(g)
    errors = [_norm(wide[0] - left) / size]
    if len(gradients) > 1:
        rows = problem.csr().astype(np.longdouble).T
        errors.append(_norm(rows @ wide[1] - (g - left)) / size)
    if len(gradients) > 2:
        moved = problem.x0 - x
        some = slice(None, None, -(-(problem.n**2) // COMPARED))
        exact = -(np.outer(moved[some], left) + np.outer((g - left)[some], x))
        travelled = norm(problem.x0) + _norm(moved) + _norm(x)
        errors.append(
            _norm(problem.dense().astype(np.longdouble).T[some] @ wide[2] - exact)
            / (size * (travelled or 1.0))
        )
    return float(max(errors))


def _wide(x_star: Reference) -> Array:
    return x_star.x_high.astype(np.longdouble) + x_star.x_low


def _norm(values: Array) -> float:
    return norm(values.astype(np.float64))
