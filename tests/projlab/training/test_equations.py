"""Rows of several equations under one numbering."""

import torch

from projlab import expr
from projlab.training.equations import StackedEquations
from tests.projlab.training.helpers import parameter, vector


def test_rows_are_numbered_on_from_one_equation_to_the_next():
    W, p = parameter(2, 3), vector(1.0, 2.0)
    first, second = expr(W).sum(1) == 1, expr(p) == 2 * expr(W)[0, 0]
    stacked = StackedEquations([first, second], {id(p): "scale"})
    assert [(start, e) for start, e in stacked.numbered()] == [(0, first), (2, second)]
    assert stacked.row_names(torch.arange(4)) == [
        "W0[0].sum() == 1",
        "W0[1].sum() == 1",
        "scale[0] == 2 * W0[0, 0]",
        "scale[1] == 2 * W0[0, 0]",
    ]
    assert stacked.right_side().tolist() == [1.0, 1.0, 0.0, 0.0]
    assert [id(q) for q in stacked.parameters] == [id(W), id(p)]
