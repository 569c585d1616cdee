"""How a redundant row is written down."""

import math

import pytest
import torch

from projlab import diagnose
from projlab.system.combinations import Combination


def combination(*terms, left=1.0, right=2.0):
    return Combination("total", 3, tuple(terms), left, right)


@pytest.mark.parametrize(
    ("terms", "expression"),
    [
        ([], "0"),
        ([("a", 1.0)], "a"),
        ([("a", -1.0), ("b", 1.0)], "-a + b"),
        ([("a", 2.0), ("b", -0.5)], "2 * a - 0.5 * b"),
        ([("a", 1 / 3)], "0.333333 * a"),
    ],
)
def test_expression(terms, expression):
    assert combination(*terms).expression == expression
    assert str(combination(*terms)) == f"total = {expression}"


def test_long_sums_are_cut_off_and_counted():
    terms = [(f"r{i}", 1.0) for i in range(13)]
    assert combination(*terms).expression.endswith("r9 + 3 more terms")


def test_a_contradiction_shows_both_right_sides():
    said = combination(("a", 1.0), left=0.1, right=2.0).contradiction()
    assert said.startswith("total = a on the left")
    assert "0.10000000000000001" in said
    assert combination(left=3.0).contradiction() == "total reads 0 = 3"


def test_coefficients_lose_their_rounding():
    rows = torch.tensor([[3.0, 0.0, 3.0], [0.0, 7.0, 7.0]], dtype=torch.float64)
    A = torch.cat([rows, rows[:1] / 3 - 2 * rows[1:] / 7])
    (found,) = diagnose(A, 0.0).redundant
    assert dict(found.terms) == {"row 0": 1 / 3, "row 1": -2 / 7}
    assert all(math.isfinite(c) for _, c in found.terms)
