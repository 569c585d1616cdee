"""Names of rows, as people would write them."""

import re

import numpy as np
import pytest
import torch

from projlab import InconsistentError, cat, constrain, expr
from projlab.training.expressions.labels import ParameterNames
from tests.projlab.training.expressions.parameters import F64, MASK, SPARSE, A, W, p, q, s

STACK = torch.nn.Parameter(torch.ones(2, 5, 4, dtype=F64))
WIDE = np.ones((5, 4))
TRANSPOSED = "(A @ (W0.sum(0, keepdim=True) + 1).T)[2, 0] == 0"


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
        (SPARSE @ expr(W).T == 0, 5, "(A @ W0.T)[1, 1] == 0"),
        (A[0] @ expr(p) == 0, 0, "(A @ p0) == 0"),
        (expr(W)[:, 1:4][:, :2].sum(1) == 0, 3, "W0[3, 1:3].sum() == 0"),
        (expr(W).T.reshape(2, 10).sum(1) == 0, 1, "W0.T.reshape(2, 10)[1].sum() == 0"),
        (A @ expr(W).sum(0) == 0, 2, "(A @ W0.sum(0))[2] == 0"),
        (A @ expr(STACK).sum(2)[1] == 0, 2, "(A @ W0[1].sum(1))[2] == 0"),
        (A @ (expr(W).sum(0, keepdim=True) + 1).T == 0, 2, TRANSPOSED),
        (WIDE * expr(p)[:, None] == 0, 6, "(c * p0[:, None])[1, 2] == 0"),
        ((expr(W) + WIDE.T).sum(1) == 0, 3, "(W0[3] + c[3]).sum() == 0"),
        (cat(expr(W).T, expr(q)).sum() == 0, 0, "cat(W0.T, p1).sum() == 0"),
        (expr(W) @ np.ones(5) == 0, 3, "(W0 @ A)[3] == 0"),
    ],
)
def test_rows_have_names_that_people_recognise(equation, row, name):
    assert names_of(equation)[row] == name


CUBE = torch.ones(2, 5, 4, dtype=F64)


@pytest.mark.parametrize(
    ("moved", "text"),
    [
        (lambda e: e.T, "W0.T"),
        (lambda e: e.movedim(0, 1), "W0.T"),
        (lambda e: e.flip(0).T, "W0.flip(0,).T"),
        (lambda e: torch.einsum("ij->ji", e), "W0.T"),
        (lambda e: e.reshape(5, 4), "W0.reshape(5, 4)"),
    ],
)
def test_what_an_array_of_more_dimensions_widens_has_names(moved, text):
    product = CUBE * moved(expr(W))
    assert repr(product) == f"Expression((c * {text}), shape=(2, 5, 4))"
    summed = product.sum(dim=2) <= 1
    assert names_of(summed)[7] == f"(c * {text})[1, 2].sum() <= 1"
    weight = torch.nn.Parameter(torch.ones(4, 5))
    assert f"(c * {text})[0, 0].sum() <= 1" in repr(
        constrain(torch.optim.SGD([weight], 0.1), (CUBE * moved(expr(weight))).sum(dim=2) <= 1)
    )


def test_equations_that_contradict_each_other_are_named_where_an_array_widens():
    with pytest.raises(InconsistentError, match=re.escape("(c * W0.T)[1, 0, 0] == 1")):
        constrain(
            torch.optim.SGD([W], 0.1), torch.tensor([1.0, 2.0])[:, None, None] * expr(W).T == 1
        )
