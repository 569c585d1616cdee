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
    "range": lambda W, p, q, s, cat: W[range(4), range(4)],
    "ranges as rows": lambda W, p, q, s, cat: W[range(1, 3)],
    "tuple in a tuple": lambda W, p, q, s, cat: W[(0, 2), :],
    "array beside a slice": lambda W, p, q, s, cat: W[1:, np.array([0, 4])],
    "int of numpy": lambda W, p, q, s, cat: W[np.int64(2), np.int32(-1)],
    "int in a tensor": lambda W, p, q, s, cat: W[torch.tensor(2)],
    "small ints of numpy": lambda W, p, q, s, cat: W[np.array([1, 0], dtype=np.int8)],
    "True": lambda W, p, q, s, cat: p[True],
    "numpy mask": lambda W, p, q, s, cat: p[np.array([True, False, True, False, True])],
    "empty list": lambda W, p, q, s, cat: p[[]],
    "view": lambda W, p, q, s, cat: W.view(2, 10),
    "flatten some": lambda W, p, q, s, cat: W.reshape(2, 2, 5).flatten(1),
    "flatten the first": lambda W, p, q, s, cat: W.reshape(2, 2, 5).flatten(0, 1),
    "unflatten": lambda W, p, q, s, cat: W.unflatten(0, (2, 2)),
    "permute": lambda W, p, q, s, cat: W.reshape(2, 2, 5).permute(2, 0, 1),
    "permute a tuple": lambda W, p, q, s, cat: W.reshape(2, 2, 5).permute((1, 2, 0)).sum(1),
    "transpose of two": lambda W, p, q, s, cat: W.reshape(2, 2, 5).transpose(0, -1),
    "movedim": lambda W, p, q, s, cat: W.reshape(2, 2, 5).movedim(0, 2),
    "mT": lambda W, p, q, s, cat: W.reshape(2, 2, 5).mT,
    "unsqueeze": lambda W, p, q, s, cat: p.unsqueeze(1) + q,
    "squeeze": lambda W, p, q, s, cat: q.squeeze() + W[None].squeeze(0),
    "diagonal": lambda W, p, q, s, cat: W.diagonal(),
    "other diagonal": lambda W, p, q, s, cat: W.reshape(2, 2, 5).diagonal(1, 0, 2),
    "trace": lambda W, p, q, s, cat: W.trace(),
    "flip": lambda W, p, q, s, cat: W.flip(0, 1) + W.flip((1,)),
    "roll": lambda W, p, q, s, cat: W.roll(2, 1) + W.roll(3) + W.roll((1, -1), (0, 1)),
    "sum of a list of dims": lambda W, p, q, s, cat: W.sum([0, -1]),
    "torch.sum": lambda W, p, q, s, cat: torch.sum(W, dim=(0,), keepdim=True) + torch.sum(p),
    "torch.mean": lambda W, p, q, s, cat: torch.mean(W, 1),
    "torch.cat": lambda W, p, q, s, cat: torch.cat([W, W[:2], torch.ones(1, 5)], dim=0),
    "torch.cat of columns": lambda W, p, q, s, cat: torch.cat((W, 2 * W[:, :1]), dim=-1).sum(1),
    "torch.cat of vectors": lambda W, p, q, s, cat: A[:, :3] @ torch.cat([q, p[:2]]),
    "torch.stack": lambda W, p, q, s, cat: torch.stack([p, W[0], torch.ones(5)], dim=1),
    "torch.trace": lambda W, p, q, s, cat: torch.trace(W[:, :4]),
    "torch.add": lambda W, p, q, s, cat: torch.add(p, W, alpha=2) + torch.add(A[0], p, alpha=3),
    "torch.sub": lambda W, p, q, s, cat: torch.sub(A[0], p, alpha=2) - torch.sub(p, W, alpha=0.5),
    "torch.mul": lambda W, p, q, s, cat: torch.mul(A[0], p) + torch.mul(p, 2.0),
    "torch.div": lambda W, p, q, s, cat: torch.div(p, 4.0) - torch.neg(p),
    "torch.matmul": lambda W, p, q, s, cat: torch.matmul(A, p) + torch.mv(A, p),
    "torch.mm": lambda W, p, q, s, cat: torch.mm(W, A.T) + torch.nn.functional.linear(W, A),
    "torch.t": lambda W, p, q, s, cat: torch.t(W) + torch.transpose(W, 0, 1),
    "torch.flip": lambda W, p, q, s, cat: torch.flip(W, [0]) + torch.roll(W, 1, 0),
    "torch.reshape": lambda W, p, q, s, cat: torch.flatten(torch.reshape(W, (2, 10)))[3:],
    "einsum matrix": lambda W, p, q, s, cat: torch.einsum("ij,j->i", A, p),
    "einsum both": lambda W, p, q, s, cat: torch.einsum("ki,li->lk", W, A),
    "einsum along": lambda W, p, q, s, cat: torch.einsum("ij,ij->i", W, torch.ones(4, 5) * A[0]),
    "einsum outer": lambda W, p, q, s, cat: torch.einsum("i,j->ji", p, A[:, 0]),
    "einsum implicit": lambda W, p, q, s, cat: torch.einsum("ij,jk", A, W.T),
    "einsum of one": lambda W, p, q, s, cat: (
        torch.einsum("ij->j", W) + torch.einsum("ii", W[:, :4])
    ),
    "einsum diagonal": lambda W, p, q, s, cat: torch.einsum("ii->i", W[:, :4]),
    "einsum of three": lambda W, p, q, s, cat: torch.einsum("i,ij,kj->k", A[:, 0], A, W),
    "einsum batched": lambda W, p, q, s, cat: torch.einsum(
        "bi,bij->bj", W[:3], torch.arange(60.0, dtype=F64).reshape(3, 5, 4)
    ),
    "einsum to a scalar": lambda W, p, q, s, cat: torch.einsum("ij,kj->", W, A),
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


def test_pandas_on_the_left():
    """Its `*`, `+` and relations leave the operation to us; its `@` takes arrays alone."""
    pandas = pytest.importorskip("pandas")
    a = pandas.Series([1.0, 2.0, 4.0, 8.0, 16.0])
    values = torch.tensor(a.to_numpy())
    for made, wanted in (
        (a * expr(p), values * p),
        (a + expr(p), values + p),
        (a - expr(p), values - p),
        (expr(p) @ a, p @ values),
        (a.to_numpy() @ expr(p), values @ p),
    ):
        torch.testing.assert_close(value(made), wanted.detach())
    assert (a == expr(p)).right_side().tolist() == a.tolist()
    with pytest.raises(IndexError):  # from within pandas, which asks nobody else
        a @ expr(p)


def test_equations_and_expressions_have_no_truth_value():
    with pytest.raises(TypeError, match=r"projlab\.constrain"):
        bool(expr(p) == 1)
    with pytest.raises(TypeError, match="no truth value"):
        bool(expr(p))
    with pytest.raises(TypeError, match=r"an inequality has no truth value"):
        bool(expr(p) <= 1)
    for compare in (lambda e: e < 1, lambda e: e > 1, lambda e: e != 1):
        with pytest.raises(TypeError, match="<= and >="):
            compare(expr(p))
    with pytest.raises(TypeError, match="not iterable"):
        list(expr(p))
