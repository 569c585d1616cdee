"""The form in which a linear map is kept: sums of views, sparse, dense."""

import tracemalloc

import pytest
import torch

from projlab import cat, expr
from projlab.training.expressions.maps import DenseMap, SparseMap, Sums
from tests.projlab.training.expressions.parameters import F64, SPARSE, A, W, p, q


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


def test_what_changes_nothing_keeps_the_form():
    for e in (expr(p).flatten(), expr(p).reshape(5), expr(W).sum(1).flatten(), expr(p)[:]):
        assert [type(t) for t in e.terms] == [Sums]
    assert [type(t) for t in (torch.ones(2, 5, dtype=F64) @ cat(expr(p))).terms] == [DenseMap]


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


@pytest.mark.parametrize(
    "expression",
    [expr(W).sum(1), 3 * expr(W)[1:, ::2], A @ expr(p), SPARSE @ expr(W).T, cat(expr(p), expr(q))],
    ids=["sums", "view", "dense", "sparse", "cat"],
)
def test_triplets_are_the_map(expression):
    for term in expression.terms:
        rows, cols, values = term.triplets()
        x = term.parameter.detach()
        applied = torch.zeros(expression.shape.numel(), dtype=F64)
        applied.index_add_(0, rows, values * x.reshape(-1)[cols])
        torch.testing.assert_close(applied, term.evaluate(x, F64))
