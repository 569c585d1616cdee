"""Blocks that a variant's own factor projects."""

import pytest
import torch

import projlab
from projlab import constrain, expr
from projlab.training.blocks.solver import SolverBlock
from tests.projlab.training.helpers import F64, U, parameter


def differences(p):
    """p[i + 1] - p[i], sparse."""
    return [expr(p)[1:] - expr(p)[:-1] == 0.25], torch.eye(40, dtype=F64).diff(dim=0)


def gathered(p):
    """Single rows of many lengths, gathered into one block."""
    A, equations, start = torch.zeros(18, 400, dtype=F64), [], 0
    for i, length in enumerate(range(2, 20)):
        part = slice(start, start + length)
        A[i, part] = torch.randn(length, dtype=F64)
        equations.append((A[i, part] * expr(p)[part]).sum() == 0.25)
        start += length
    return equations, A


def dense(p):
    A = torch.randn(3, 9, dtype=F64)
    return [A @ expr(p) == 0.25], A


KINDS = {
    "sparse": (40, differences, "cholesky"),
    "gathered": (400, gathered, "auto"),
    "dense": (9, dense, "cholesky"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_projections_are_those_of_a_projector(kind):
    n, equations_of, variant = KINDS[kind]
    p = parameter(n)
    x0, g = p.detach().clone(), torch.randn(n, dtype=F64)
    equations, A = equations_of(p)
    optimizer = torch.optim.SGD([p], lr=0.1, weight_decay=0.5)
    handle = constrain(optimizer, *equations, variant=variant)
    (block,) = handle._hooks.system.blocks
    assert isinstance(block, SolverBlock)
    P = projlab.projector(A, 0.25, "pinv")
    torch.testing.assert_close(p.detach(), P(x0))
    p.grad = g.clone()
    x = p.detach().clone()
    optimizer.step()
    # T(g + lambda x) - lambda x, to which the optimizer adds lambda x
    torch.testing.assert_close(p.grad, P.tangent(g + 0.5 * x) - 0.5 * x)
    size = A.abs() @ p.detach().abs() + 0.25
    assert bool((handle.residual().abs() <= 8 * U[F64] * size).all())
