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


D = torch.tensor([[1.0, 0, 2, 0], [0, 3, 0, 0], [0, 0, -1, 4], [2, 0, 0, 0]], dtype=F64)
ROWS, COLS = D.nonzero(as_tuple=True)
TWICE = (D[ROWS, COLS] / 2).repeat(2), (ROWS.repeat(2), COLS.repeat(2))
MATRICES = {
    "coo": D.to_sparse,
    "duplicates": lambda: torch.sparse_coo_tensor(
        torch.stack(TWICE[1]), TWICE[0], D.shape, check_invariants=True
    ),
    "transposed": lambda: D.T.to_sparse().t(),
    "csr": D.to_sparse_csr,
    "transposed csr": lambda: D.T.to_sparse_csr().t(),
    "csc": D.to_sparse_csc,
    "bsr": lambda: D.to_sparse_bsr((2, 2)),
    "bsc": lambda: D.to_sparse_bsc((2, 2)),
    "scipy csr": lambda: scipy.sparse.csr_array(D.numpy()),
    "scipy csc": lambda: scipy.sparse.csc_matrix(D.numpy()),
    "scipy bsr": lambda: scipy.sparse.bsr_array(D.numpy()),
    "scipy duplicates": lambda: scipy.sparse.coo_array(TWICE, shape=(4, 4)),
    "scipy dia": lambda: scipy.sparse.dia_array(D.numpy()),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("name", MATRICES)
def test_sparse_matrices_stand_on_either_side_of_every_expression(name):
    S, w = MATRICES[name](), W[:, :4].detach()
    joined = torch.cat([q, p[:3]]).detach()
    e = cat(expr(q), expr(p)[:3])
    for found, wanted in (
        (S @ e, D @ joined),
        (e @ S, joined @ D),
        ((e + 1) @ S, (joined + 1) @ D),
        (S @ expr(W)[:, :4], D @ w),
        (expr(W)[:, :4] @ S, w @ D),
        (expr(W)[:, :4].T @ S, w.T @ D),
    ):
        torch.testing.assert_close(value(found).detach(), wanted)
    if isinstance(S, torch.Tensor):
        torch.testing.assert_close(value(torch.nn.functional.linear(e, S)), joined @ D.T)
    for apply in (lambda e: e * S, lambda e: e + S, lambda e: e / S, lambda e: e == S):
        with pytest.raises(projlab.InputError, match=r"it must be dense: the \w+\.to"):
            apply(expr(W)[:, :4])


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
