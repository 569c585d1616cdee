"""Names of rows, as people would write them."""

import numpy as np
import pytest
import torch

from projlab import cat, expr
from projlab.training.expressions.labels import ParameterNames
from tests.projlab.training.expressions.parameters import MASK, SPARSE, A, W, p, q, s


def names_of(equation):
    names = ParameterNames(equation.difference.names, equation.parameters)
    return [equation.row_name(i, names) for i in range(equation.rows)]


@pytest.mark.parametrize(
    ("equation", "row", "name"),
    [
        (expr(W).sum(dim=1) == 1, 3, "W0[3].sum() == 1"),
        (expr(W).sum(dim=0) == 1, 3, "W0[:, 3].sum() == 1"),
        (expr(W).sum(dim=0, keepdim=True) == 1, 3, "W0[:, 3].sum() == 1"),
        (expr(W, name="layer1.weight")[1:].sum(1) == 0, 1, "layer1.weight[2].sum() == 0"),
        (expr(W)[:, 1:4:2].sum(1) == 0, 2, "W0[2, 1:4:2].sum() == 0"),
        (expr(q) - 2 * expr(s) == 0, 0, "p0 - 2 * p1 == 0"),
        (expr(p) + 1 == expr(q), 2, "p0[2] + 1 == p1"),
        (expr(p) == np.arange(5), 2, "p0[2] == 2"),
        (expr(W) == expr(p), 7, "W0[1, 2] == p1[2]"),
        (A @ expr(p) == 1, 2, "(A @ p0)[2] == 1"),
        (expr(W).T == 0, 1, "W0[1, 0] == 0"),
        (expr(W).reshape(-1) == 0, 7, "W0[1, 2] == 0"),
        (expr(W).reshape(2, 10).sum(1) == 0, 1, "W0.reshape(2, 10)[1].sum() == 0"),
        (-expr(p).mean() == 2.5, 0, "-p0.mean() == 2.5"),
        (cat(expr(p), expr(q)) == 0, 5, "p1 == 0"),
        (cat(expr(p), expr(q)).sum() == 0, 0, "cat(p0, p1).sum() == 0"),
        (2 * (expr(q) + expr(s)) == 0, 0, "2 * (p0 + p1) == 0"),
        (expr(W)[..., None, 1] == 0, 2, "W0[2, 1] == 0"),
        (expr(W)[[3, 0], [1, 4]] == 0, 1, "W0[0, 4] == 0"),
        (expr(W)[torch.tensor([3, 0])].sum(1) == 0, 1, "W0[...][1].sum() == 0"),
        (expr(W)[MASK] == 0, 0, "W0[1, 3] == 0"),
        (SPARSE @ expr(W).T == 0, 5, "(A @ W0)[1, 1] == 0"),
        (expr(W) @ np.ones(5) == 0, 3, "(W0 @ A)[3] == 0"),
    ],
)
def test_rows_have_names_that_people_recognise(equation, row, name):
    assert names_of(equation)[row] == name
