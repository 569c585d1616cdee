"""Linear expressions over parameters: the values they stand for, and the equations made of them."""

import numpy as np
import pytest
import torch

import projlab
from projlab import cat, expr
from projlab.training.expressions.expression import Equation, Expression
from tests.projlab.training.expressions.parameters import F64, MASK, A, W, p, q, s, value


def with_values(f):
    """f of the expressions, and of the parameters themselves."""
    found = f(expr(W), expr(p), expr(q), expr(s), cat)
    wanted = f(W, p, q, s, lambda *ts: torch.cat([t.reshape(-1) for t in ts]))
    return found, wanted.detach()


FORMS = {
    "identity": lambda W, p, q, s, cat: W,
    "plus": lambda W, p, q, s, cat: p + q,
    "broadcast plus": lambda W, p, q, s, cat: W - p + s,
    "plus a constant": lambda W, p, q, s, cat: p + 1,
    "constant first": lambda W, p, q, s, cat: 1 - p,
    "array of constants": lambda W, p, q, s, cat: W + torch.arange(5.0),
    "numbers": lambda W, p, q, s, cat: -2 * p / 3 + q * 4,
    "0-d factor": lambda W, p, q, s, cat: torch.tensor(2.0, dtype=F64) * p,
    "plus sign": lambda W, p, q, s, cat: +p,
    "weights": lambda W, p, q, s, cat: torch.arange(5.0) * W,
    "weights that broadcast": lambda W, p, q, s, cat: q * torch.arange(3.0),
    "divided by weights": lambda W, p, q, s, cat: W / torch.arange(1.0, 6.0),
    "sum": lambda W, p, q, s, cat: W.sum(),
    "sum of a dim": lambda W, p, q, s, cat: W.sum(1),
    "sum of the first dim": lambda W, p, q, s, cat: W.sum(dim=-2),
    "sum keeping dims": lambda W, p, q, s, cat: W.sum((0, 1), keepdim=True),
    "sum of a sum": lambda W, p, q, s, cat: W.sum(1).sum(0),
    "sum over a broadcast": lambda W, p, q, s, cat: (W + p).sum(0),
    "sum of a constant": lambda W, p, q, s, cat: (W + 1).sum(0),
    "mean": lambda W, p, q, s, cat: W.mean(0) + p.mean(),
    "matrix": lambda W, p, q, s, cat: A @ p,
    "matrix times transpose": lambda W, p, q, s, cat: A @ W.T,
    "matrix on the right": lambda W, p, q, s, cat: W @ A.T,
    "vector on the right": lambda W, p, q, s, cat: W @ A[0],
    "vector on the left": lambda W, p, q, s, cat: A[0] @ p,
    "vector times matrix": lambda W, p, q, s, cat: p @ A.T,
    "inner product": lambda W, p, q, s, cat: p @ A[1],
    "matrix of a sum": lambda W, p, q, s, cat: A @ W.sum(0),
    "matrix of a constant": lambda W, p, q, s, cat: A @ (p + 1),
    "rows of a product": lambda W, p, q, s, cat: (A @ p)[1:],
    "sum of a product": lambda W, p, q, s, cat: (A @ p).sum(),
    "weighted product": lambda W, p, q, s, cat: (A @ p) * torch.arange(3.0),
    "cat": lambda W, p, q, s, cat: cat(W, q, p),
    "cat with a constant": lambda W, p, q, s, cat: cat(p, q + 2),
    "sum of a cat": lambda W, p, q, s, cat: cat(W, q, p).sum(),
    "matrix of a cat": lambda W, p, q, s, cat: A @ cat(p[:2], W[1, :3]),
    "index of a cat": lambda W, p, q, s, cat: cat(p, q)[2:],
    "index": lambda W, p, q, s, cat: W[2, 1],
    "row": lambda W, p, q, s, cat: W[2],
    "slice": lambda W, p, q, s, cat: W[1:3, ::2],
    "ellipsis and None": lambda W, p, q, s, cat: W[..., None, 1],
    "negative": lambda W, p, q, s, cat: p[-1],
    "advanced": lambda W, p, q, s, cat: W[[0, 2], [1, 4]],
    "repeated": lambda W, p, q, s, cat: p[[0, 0, 3]],
    "mask": lambda W, p, q, s, cat: W[W.detach() > 0] if torch.is_tensor(W) else W[MASK],
    "numpy index": lambda W, p, q, s, cat: W[np.array([0, 3])],
    "reshape": lambda W, p, q, s, cat: W.reshape(2, 10).sum(1),
    "reshape to -1": lambda W, p, q, s, cat: W.reshape(-1)[3:5],
    "flatten of a transpose": lambda W, p, q, s, cat: W.T.flatten()[3:7],
    "transpose": lambda W, p, q, s, cat: W.T,
    "0-d": lambda W, p, q, s, cat: s * 2,
}


@pytest.mark.parametrize("form", FORMS)
def test_expression_has_the_value_and_shape_of_the_tensors(form):
    found, wanted = with_values(FORMS[form])
    assert isinstance(found, Expression)
    torch.testing.assert_close(value(found), wanted)
    repr(found)


def test_numpy_scalars_and_arrays_stand_on_the_left():
    assert value(np.float64(2) * expr(p)).tolist() == (2 * p).tolist()
    assert value(np.arange(5.0) + expr(p)).tolist() == (torch.arange(5.0) + p).tolist()
    assert isinstance(np.ones(5) == expr(p), Equation)
    assert isinstance(torch.ones(5) == expr(p), Equation)


def test_right_sides_broadcast():
    assert (expr(W) == torch.arange(5)).right_side().tolist() == [0, 1, 2, 3, 4] * 4
    assert (expr(W).sum(1) == 1).right_side().tolist() == [1] * 4
    assert (expr(p) + 1 == expr(q)).right_side().tolist() == [-1] * 5
    assert (1 == expr(q)).right_side().tolist() == [1]  # noqa: SIM300  the reflected form
    with pytest.raises(projlab.InputError, match=r"\(7,\), which does not broadcast"):
        expr(p) == torch.ones(7)  # noqa: B015  the comparison is the test
    with pytest.raises(projlab.InputError, match="does not broadcast"):
        expr(q) == torch.ones(3)  # noqa: B015


def test_equations_and_expressions_have_no_truth_value():
    with pytest.raises(TypeError, match=r"projlab\.constrain"):
        bool(expr(p) == 1)
    with pytest.raises(TypeError, match="no truth value"):
        bool(expr(p))
    for compare in (lambda e: e < 1, lambda e: e >= 1, lambda e: e != 1):
        with pytest.raises(TypeError, match="inequalities"):
            compare(expr(p))
    with pytest.raises(TypeError, match="not iterable"):
        list(expr(p))
