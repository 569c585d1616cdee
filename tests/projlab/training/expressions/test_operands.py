"""Operands of expressions: matrices of every kind, and what is refused."""

import pytest
import scipy.sparse
import torch

import projlab
from projlab import cat, expr
from tests.projlab.training.expressions.parameters import F64, SPARSE, A, W, p, q, value


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


@pytest.mark.parametrize("index", [[[0, 1], [1, 2]], [[0, 1]], [[0, 1], slice(None)]])
def test_a_list_of_sequences_is_no_index(index):
    W = torch.nn.Parameter(torch.ones(3, 4))
    with pytest.raises(projlab.InputError, match="write tuple"):
        expr(W)[index]
    assert expr(W)[tuple(index)].shape == W[tuple(index)].shape
