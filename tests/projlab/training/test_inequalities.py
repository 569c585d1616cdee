"""Inequalities and bounds in training: constrained optima, faces, refusals."""

import copy
import warnings
from dataclasses import dataclass

import pytest
import torch

import projlab
from projlab import cat, constrain, expr
from projlab.training.blocks.polyhedral import PolyhedralBlock
from tests.projlab.training.helpers import F64, SETTINGS, STEPS, U, network, vector


@dataclass
class Problem:
    """0.5 (x - t)' H (x - t) over parameters, with a known constrained optimum."""

    parameters: list
    relations: list
    H: torch.Tensor
    t: torch.Tensor
    optimum: torch.Tensor

    def x(self):
        return torch.cat([p.reshape(-1) for p in self.parameters])

    def loss(self):
        away = self.x() - self.t
        return 0.5 * away @ (self.H @ away)

    def distance(self):
        return float((self.x().detach() - self.optimum).abs().max())


def curvature(n, condition=10.0):
    """(n, n) with the largest eigenvalue one, whose axes are not those of the entries."""
    draw = torch.Generator().manual_seed(n)
    Q, _ = torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=draw))
    return Q @ torch.diag(torch.logspace(0, -torch.log10(torch.tensor(condition)), n, dtype=F64)) @ Q.T


def with_normal(optimum, normal):
    """H and t for which H (x* - t) is minus a vector of the normal cone: then x* is optimal."""
    H = curvature(len(optimum))
    return H, optimum + torch.linalg.solve(H, normal)


def simplex():
    """Half of the weights are zero; pushed there by multipliers of different sizes."""
    optimum = torch.tensor([0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0], dtype=F64)
    normal = 0.3 - torch.tensor([0, 0, 0, 0, 0.1, 0.5, 1.0, 2.0], dtype=F64)
    p = torch.nn.Parameter(torch.full((8,), 0.125, dtype=F64))
    return Problem(
        [p], [expr(p).sum() == 1, expr(p) >= 0], *with_normal(optimum, normal), optimum
    )


def box():
    """Bounds of both sides, one of them absent here and there."""
    optimum = torch.tensor([0.0, 0.0, 1.0, 2.0, 0.3, 0.7], dtype=F64)
    normal = torch.tensor([-0.5, -0.1, 0.3, 1.0, 0.0, 0.0], dtype=F64)
    upper = torch.tensor([1.0, torch.inf, 1.0, 2.0, 1.0, torch.inf], dtype=F64)
    p = torch.nn.Parameter(torch.full((6,), 0.5, dtype=F64))
    return Problem([p], [expr(p) >= 0, expr(p) <= upper], *with_normal(optimum, normal), optimum)


def portfolio():
    """Two equations, two inequalities of which one is slack, bounds, and two parameters."""
    A = torch.tensor([[1.0] * 6, [0.8, 0.3, -0.5, -0.2, 0.1, 0.0]], dtype=F64)
    optimum = torch.tensor([0.25, 0.1, 0.4, 0.0, 0.05, 0.2], dtype=F64)
    G = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0.0, 0, 0, 1, 1, 0]], dtype=F64)
    normal = A.T @ torch.tensor([0.2, -0.4], dtype=F64) + 0.7 * G[0]
    normal = normal + torch.tensor([0, 0, 0.6, -0.3, 0, 0], dtype=F64)
    p = torch.nn.Parameter(torch.full((2,), 0.1, dtype=F64))
    q = torch.nn.Parameter(torch.full((4,), 0.2, dtype=F64))
    w = cat(expr(p), expr(q))
    relations = [A @ w == A @ optimum, G @ w <= torch.tensor([0.35, 0.5], dtype=F64)]
    relations += [e >= 0 for e in (expr(p), expr(q))] + [e <= 0.4 for e in (expr(p), expr(q))]
    return Problem([p, q], relations, *with_normal(optimum, normal), optimum)


def mixtures():
    """A matrix whose rows are mixtures: what Muon can take."""
    optimum = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.25, 0.75], [0.1, 0.2, 0.3, 0.4]], dtype=F64)
    normal = torch.where(optimum == 0, -0.5, 0.0) + torch.tensor([[0.2], [-0.1], [0.0]], dtype=F64)
    W = torch.nn.Parameter(torch.full((3, 4), 0.25, dtype=F64))
    H, t = with_normal(optimum.flatten(), normal.flatten())
    return Problem([W], [expr(W).sum(dim=1) == 1, expr(W) >= 0], H, t, optimum.flatten())


def budgets():
    """Rows that sum to one at most, of which some do, and entries within bounds of their own."""
    optimum = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.1], [0.6, 0.0, 0.1]], dtype=F64)
    normal = torch.tensor([[0.4, 0.4, -0.2], [0, 0, 0], [0.3, -0.1, 0]], dtype=F64)
    upper = torch.full((3, 3), torch.inf, dtype=F64)
    upper[2, 0] = 0.6
    W = torch.nn.Parameter(torch.full((3, 3), 0.2, dtype=F64))
    H, t = with_normal(optimum.flatten(), normal.flatten())
    relations = [expr(W).sum(dim=1) <= 1, expr(W) >= 0, expr(W) <= upper]
    return Problem([W], relations, H, t, optimum.flatten())


PROBLEMS = {
    "simplex": simplex,
    "box": box,
    "portfolio": portfolio,
    "mixtures": mixtures,
    "budgets": budgets,
}
FEW = ("SGD, momentum", "Adam", "RMSprop, centered")
"""Optimizers that are tried on every problem; the others on the one that has all kinds of rows."""
INSTANCES = [
    (problem, name)
    for problem in PROBLEMS
    for name in SETTINGS
    if name != "LBFGS" and (problem == "budgets" or name in FEW)
]
REACH = 10.0
"""Curvatures are a tenth of those that `Setting.reach` was stated for."""


def train(problem, make, steps=STEPS, watch=None, **keywords):
    optimizer = make(problem.parameters)
    handle = constrain(optimizer, *problem.relations, **keywords)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 - k / STEPS) ** 2)
    for _ in range(steps):
        optimizer.zero_grad()
        problem.loss().backward()
        optimizer.step()
        schedule.step()
        if watch is not None:
            watch(handle)
    return handle


@pytest.mark.parametrize(("problem", "name"), INSTANCES)
def test_every_optimizer_ends_at_the_constrained_optimum(problem, name):
    instance, setting = PROBLEMS[problem](), SETTINGS[name]
    # linear rates: 1 - lr * 0.1 a step over 500 effective ones leaves e^-25 of the start for
    # lr = 0.05 / (1 - 0.9), e^-5 for plain steps of 0.1, which take the rate that is stable
    make = setting.make
    if name in ("SGD", "SGD, foreach", "SGD, fused", "ASGD"):
        make = faster(make)
    handle = train(instance, make)
    assert instance.distance() <= max(REACH * setting.reach, 1e-6)
    assert handle.residual().abs().max() <= 8 * U[F64] * 4
    assert handle.certify().verdict == "certified"


def faster(make):
    def made(parameters):
        optimizer = make(parameters)
        for group in optimizer.param_groups:
            group["lr"] = 1.0
        return optimizer

    return made
