"""Linear expressions over parameters: the values they stand for, their rows and their names."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse
import torch

import projlab
from projlab import cat, expr
from projlab.training.expressions.expression import Equation, Expression
from projlab.training.expressions.labels import ParameterNames
from projlab.training.expressions.maps import DenseMap, SparseMap, Sums

F64 = torch.float64
W = torch.nn.Parameter(torch.linspace(-2, 3, 20, dtype=F64).reshape(4, 5))
p = torch.nn.Parameter(torch.linspace(0.5, 2, 5, dtype=F64))
q = torch.nn.Parameter(torch.tensor([0.7], dtype=F64))
s = torch.nn.Parameter(torch.tensor(1.3, dtype=F64))
A = torch.linspace(-1, 1, 15, dtype=F64).reshape(3, 5)
SPARSE = scipy.sparse.coo_array(([1.0, 2.0, 3.0], ([0, 2, 2], [1, 0, 4])), shape=(3, 5))


def value(e):
    total = torch.zeros(e.shape, dtype=F64)
    for term in e.terms:
        total = total + term.evaluate(term.parameter.detach(), F64).reshape(e.shape)
    return total if e.constant is None else total + e.constant


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
MASK = W.detach() > 0


@pytest.mark.parametrize("form", FORMS)
def test_expression_has_the_value_and_shape_of_the_tensors(form):
    found, wanted = with_values(FORMS[form])
    assert isinstance(found, Expression)
    torch.testing.assert_close(value(found), wanted)
    repr(found)


@pytest.mark.parametrize(
    "matrix",
    [A, A.numpy(), A.tolist(), SPARSE, SPARSE.tocsr(), SPARSE.tocsc(), A.to_sparse(), A.float()],
    ids=["torch", "numpy", "lists", "coo", "csr", "csc", "torch sparse", "float32"],
)
def test_matrix_of_every_kind_times_an_expression(matrix):
    if isinstance(matrix, list):
        with pytest.raises(TypeError):
            matrix @ 1.0  # lists themselves know no @
    found = matrix @ expr(p)
    dense = torch.as_tensor(
        matrix.toarray()
        if scipy.sparse.issparse(matrix)
        else matrix.to_dense()
        if torch.is_tensor(matrix)
        else matrix
    ).double()
    torch.testing.assert_close(value(found), (dense @ p).detach())


def test_numpy_scalars_and_arrays_stand_on_the_left():
    assert value(np.float64(2) * expr(p)).tolist() == (2 * p).tolist()
    assert value(np.arange(5.0) + expr(p)).tolist() == (torch.arange(5.0) + p).tolist()
    assert isinstance(np.ones(5) == expr(p), Equation)
    assert isinstance(torch.ones(5) == expr(p), Equation)


def test_sums_are_views_and_dense_matrices_stay_matrices():
    kinds = {
        "sum": (expr(W).sum(1), Sums),
        "slice": (expr(W)[1:, ::2].sum(), Sums),
        "matrix": (A @ expr(p), DenseMap),
        "sparse matrix": (SPARSE @ expr(p), SparseMap),
        "mostly zero": (torch.eye(5, dtype=F64) @ expr(p), SparseMap),
    }
    for name, (e, kind) in kinds.items():
        assert [type(t) for t in e.terms] == [kind], name


def test_row_sums_of_a_large_matrix_store_nothing_of_its_size():
    big = torch.nn.Parameter(torch.empty(4096, 4096, device="meta"))
    tracemalloc.start()
    equation = expr(big).sum(dim=1) == 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (term,) = equation.difference.terms
    assert isinstance(term, Sums)
    assert term.inner == ((4096, 1),)
    assert term.out == ((4096, 4096),)
    assert peak < 1e5


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: expr([1.0]), "list"),
        (lambda: expr(torch.ones(2, dtype=torch.long)), "int64"),
        (lambda: expr(W * 2), "not a leaf"),
        (lambda: expr(torch.nn.LazyLinear(3).weight), "uninitialised"),
        (lambda: expr(torch.ones(2, 2).to_sparse()), "layout"),
        (lambda: expr(torch.ones(0)), "no entries"),
        (lambda: expr(p, name=3), "name=3"),
        (lambda: expr(p) * expr(q), "not linear"),
        (lambda: expr(p) / expr(q), "not linear"),
        (lambda: expr(p) @ expr(p), "not linear"),
        (lambda: expr(p) / 0, "by zero"),
        (lambda: expr(p) * float("nan"), "finite"),
        (lambda: expr(p) + W, "requires grad"),
        (lambda: W.detach().requires_grad_() @ expr(p)[:4], "requires grad"),
        (lambda: A @ expr(W), "5 columns"),
        (lambda: torch.ones(2, 2, 5, dtype=F64) @ expr(p), "must be"),
        (lambda: expr(p)[9], "index"),
        (lambda: expr(p).sum(3), "dim=3"),
        (lambda: expr(p).reshape(3, 3), "reshape"),
        (lambda: expr(W).reshape(2, 2, 5).T, "two dimensions"),
        (lambda: A @ expr(W).reshape(5, 2, 2), "one or two dimensions"),
        (lambda: cat(expr(p), p), "argument 1"),
        (lambda: cat(), "at least one"),
        (lambda: expr(p)[[]] == 0, "no rows"),
        (lambda: expr(p)[[0.5]], "index"),
        (lambda: expr(p) + expr(W).T, "broadcast"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(projlab.InputError, match=message):
        make()
