"""Axes of a grid, and equations as sums over some of them."""

import pytest
import torch

from projlab import expr
from projlab.training.grids import coarsest, margins, refined
from tests.projlab.training.helpers import blocks_of, parameter, vector


def test_axes_that_reach_the_same_entries_have_one_coarsest_form():
    assert coarsest(((3, 4), (2, 12), (4, 1), (1, 7))) == ((24, 1),)
    assert coarsest(((3, 8), (4, 1))) == ((3, 8), (4, 1))


def test_axes_are_split_where_a_cut_falls_between_entries():
    assert refined(((24, 1),), [1, 4, 12]) == ((2, 12), (3, 4), (4, 1))
    assert refined(((3, 8), (4, 1)), [2, 8]) == ((3, 8), (2, 2), (2, 1))
    assert refined(((24, 1),), [4, 6]) is None
    assert refined(((4, 2),), [3]) is None


def test_an_axis_of_one_entry_has_any_stride():
    assert refined(((1, 0), (4, 2)), [2, 4]) == ((2, 4), (2, 2))
    w, total = vector(1.0, 2.0), torch.ones(1, dtype=torch.float64)
    (block,) = blocks_of([w], expr(w).sum() == expr(total), 2 * expr(w).sum() == 2)
    assert block.variant == "commuting means"
    assert w.detach().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("transposed", [False, True])
def test_rows_are_numbered_as_the_equations_number_them(transposed):
    W = parameter(2, 3, 4)
    e = expr(W).sum(1).T if transposed else expr(W).sum(1)
    (one,) = expr(W).sum((0, 2)).terms
    (two,) = e.terms
    plan = margins(0, [(0, one), (3, two)])
    assert [m.dims for m in plan.margins] == [(0, 2), (1,)]
    assert plan.margins[0].rows.tolist() == [[[0], [1], [2]]]
    numbers = torch.arange(3, 11).reshape(4, 2).T if transposed else torch.arange(3, 11)
    assert torch.equal(plan.margins[1].rows, numbers.reshape(2, 1, 4))
    with torch.no_grad():
        sums = plan.margins[1].sums.view(W).sum(-1)
        torch.testing.assert_close(sums, W.sum(1))
