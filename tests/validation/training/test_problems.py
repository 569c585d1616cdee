"""Optima that are optima."""

import numpy as np
import pytest
import torch

import projlab
from projlab_validation.training.problems import BUILDERS
from projlab_validation.training.train import _best, _rows, feasibility


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_the_optimum_satisfies_the_optimality_conditions(name, decay):
    problem = BUILDERS[name]()
    p = problem.optimum(decay)
    assert np.allclose(problem.A @ p, problem.b, rtol=0, atol=1e-12)
    gradient = problem.loss.gradient(p) + decay * p
    multipliers = _best(problem, p, gradient, 2.0**-53)
    assert np.linalg.norm(gradient + _rows(problem).T @ multipliers) <= 1e-11
    if problem.sides is not None:
        assert feasibility(problem.A, problem.b, p[None], problem.sides) <= 2.0**-50
        assert (multipliers[len(problem.A) :] > 0).any()
    low, high = problem.curvature(p, decay)
    assert 0 < low <= high <= 1.5
    assert sum(int(np.prod(shape)) for shape in problem.shapes) == problem.A.shape[1]


@pytest.mark.parametrize("name", ["train_article_3", "train_logistic", "train_huber"])
def test_the_gradient_is_that_of_the_value(name):
    problem = BUILDERS[name]()
    p = torch.tensor(problem.start, requires_grad=True)
    value, gradient = problem.loss.of(p)
    (expected,) = torch.autograd.grad(value, p)
    torch.testing.assert_close(gradient.detach(), expected, rtol=0, atol=1e-14)


def test_the_article_s_optima():
    assert np.allclose(BUILDERS["train_article_2"]().optimum(0.0), [1.6, 0.8], atol=1e-15)
    assert np.allclose(BUILDERS["train_article_3"]().optimum(0.0), [1.5, -0.5, 1.0], atol=1e-15)


def test_sums_that_are_stated_are_the_equations_of_the_problem():
    problem = BUILDERS["train_margins"]()
    W = torch.nn.Parameter(torch.tensor(problem.optimum(0.0)).reshape(4, 5))
    before = W.detach().clone()
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = projlab.constrain(optimizer, *problem.equations([W]))
    assert handle.blocks == ("9 rows in 20 entries: commuting means",)
    assert torch.equal(W.detach(), before)
    with torch.no_grad():
        W.copy_(torch.tensor(problem.start).reshape(4, 5))
    handle.apply()
    wanted = projlab.project(torch.tensor(problem.start), problem.A, problem.b)
    torch.testing.assert_close(W.detach().flatten(), wanted)
