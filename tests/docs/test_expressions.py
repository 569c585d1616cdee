"""Each example of docs/expressions.md is what torch computes of the same parameters."""

import re
from typing import Any

import pytest
import torch

import projlab
from projlab import constrain

from .pages import ROOT, names_of, table_rows

EXPRESSIONS = ROOT / "docs" / "expressions.md"
OPERATIONS = [cells[1:3] for cells in table_rows(EXPRESSIONS) if len(cells) == 4]
EQUATIONS = [cells[:2] for cells in table_rows(EXPRESSIONS) if cells[1].isdigit()]
ERRORS = {
    "InputError": projlab.InputError,
    "TypeError": TypeError,
    "AttributeError": AttributeError,
}
REFUSALS = [cells[:2] for cells in table_rows(EXPRESSIONS) if cells[1] in ERRORS]


def evaluated(example: str, names: dict[str, Any]) -> Any:
    return eval(example.strip("`"), names)  # noqa: S307  the documentation's own lines


def as_tensors(names: dict[str, Any]) -> dict[str, Any]:
    """The same names, so that an example is computed by torch."""
    wide = {key: value.double() for key, value in names.items() if key in ("A", "C")}
    return {
        **names,
        **wide,
        "S": wide["A"],
        "expr": lambda parameter: parameter.detach().double(),
        "cat": lambda *parts: torch.cat([part.flatten() for part in parts]),
    }


def test_operations_were_found():
    assert (len(OPERATIONS), len(EQUATIONS), len(REFUSALS)) == (36, 6, 14)


@pytest.mark.parametrize(("example", "shape"), OPERATIONS)
def test_operation_is_what_torch_computes(example, shape):
    names = names_of(EXPRESSIONS)
    value = evaluated(example, as_tensors(names))
    assert tuple(value.shape) == tuple(int(s) for s in re.findall(r"\d+", shape))
    expression = evaluated(example, names)
    assert expression.shape == value.shape

    def optimizer():
        return torch.optim.SGD([names["W"], names["v"]], lr=0.1)

    constrain(optimizer(), expression == value, start="raise")
    with pytest.raises(projlab.InputError, match="do not satisfy"):
        constrain(optimizer(), expression == value + 1e-3, start="raise")


@pytest.mark.parametrize(("example", "rows"), EQUATIONS)
def test_equation_has_the_rows_shown(example, rows):
    assert evaluated(example, names_of(EXPRESSIONS)).rows == int(rows)


@pytest.mark.parametrize(("example", "error"), REFUSALS)
def test_expression_is_refused(example, error):
    with pytest.raises(ERRORS[error]):
        evaluated(example, names_of(EXPRESSIONS))
