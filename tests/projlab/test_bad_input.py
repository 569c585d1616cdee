"""Every bad input gets its own error: the right class, and the words that help.

Each row of the table is one mistake: what the user did, which error it raises, and what its
message must say. After every one of them, what existed before works as it did.
"""

# ruff: noqa: E501  one row of the table is one line, however long

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch

from projlab import (
    AccuracyError,
    AffineConstraint,
    InconsistentError,
    InputError,
    MemoryLimitError,
    ProjlabError,
    RankDeficientError,
    diagnose,
    expr,
    project,
    projector,
)

F64 = torch.float64
NAN, INF = float("nan"), float("inf")


def A(m=2, n=3):
    """[[1, 0, 0], [1, 1, 0]]: rows that share a column."""
    return torch.tril(torch.ones(m, n, dtype=F64))


def x(*shape):
    return torch.zeros(*(shape or (3,)), dtype=F64)


def P(**keywords):
    return projector(A(), [1.0, 2.0], **keywords)


def batch():
    return projector(A().expand(4, 2, 3), [1.0, 2.0])


def huge():
    """A million rows in a million variables, each row overlapping the next: 8 TB dense."""
    n = 1_000_000
    return scipy.sparse.diags_array([np.ones(n), np.ones(n - 1)], offsets=[0, 1], format="csr")


def of_kind(make, *arguments):
    """A tensor of a kind of which torch warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*arguments)


def masked(t):
    return of_kind(torch.masked.masked_tensor, t, t > 0)


def nested(t):
    return of_kind(torch.nested.nested_tensor, [t])


def with_entry(value, *index, shape=(2, 3)):
    t = torch.ones(*shape, dtype=F64)
    t[index] = value
    return t


def grad(t):
    return t.clone().requires_grad_()


# fmt: off
MISTAKES = {
    # --- A ---------------------------------------------------------------------------------------
    "A is a scalar": (lambda: projector(3.0, 1.0), InputError, ["A", "shape ()", "(m, n)"]),
    "A has four dimensions": (lambda: projector(torch.ones(1, 2, 3, 4), 1.0), InputError, ["A", "(1, 2, 3, 4)", "(B, m, n)"]),
    "A has no columns": (lambda: projector(torch.ones(2, 0), 1.0), InputError, ["A", "(2, 0)", "column"]),
    "A is an empty list": (lambda: projector([], 1.0), InputError, ["A", "column"]),
    "A is an empty batch": (lambda: projector(torch.ones(0, 2, 3), 1.0), InputError, ["A", "(0, 2, 3)", "system"]),
    "A is a ragged list": (lambda: projector([[1.0, 2.0], [3.0]], 1.0), InputError, ["A", "rectangular"]),
    "A is a masked tensor": (lambda: projector(masked(A()), 1.0), InputError, ["A", "masked tensor", "A.to_tensor(0.0)"]),
    "b is a sparse tensor": (lambda: projector(A(), torch.ones(2).to_sparse()), InputError, ["b", "sparse_coo", "b.to_dense()"]),
    "b is a masked tensor": (lambda: projector(A(), masked(torch.ones(2))), InputError, ["b", "masked tensor", "b.to_tensor(0.0)"]),
    "A is nested": (lambda: projector(of_kind(torch.nested.nested_tensor, [x(), x()]), 1.0), InputError, ["A", "nested", "plain"]),
    "A is quantized": (lambda: projector(of_kind(torch.quantize_per_tensor, torch.ones(2, 3), 1.0, 0, torch.qint8), 1.0), InputError, ["A", "quantized", "plain"]),
    "A is text": (lambda: projector("A", 1.0), InputError, ["A", "real numbers"]),
    "A is None": (lambda: projector(None, 1.0), InputError, ["A", "real numbers"]),
    "A is a list of strings": (lambda: projector([["1", "2"]], 1.0), InputError, ["A", "real numbers"]),
    "A is an object array": (lambda: projector(np.array([[1, None]], dtype=object), 1.0), InputError, ["A", "object"]),
    "A is a dict": (lambda: projector({"A": 1}, 1.0), InputError, ["A"]),
    "A is complex": (lambda: projector(torch.ones(2, 3, dtype=torch.complex64), 1.0), InputError, ["A", "complex", "real"]),
    "A is a complex numpy array": (lambda: projector(np.ones((2, 3)) * 1j, 1.0), InputError, ["A", "complex"]),
    "A is a complex sparse matrix": (lambda: projector(scipy.sparse.csr_array(np.ones((2, 3)) * 1j), 1.0), InputError, ["A", "complex"]),
    "A has a NaN": (lambda: projector(with_entry(NAN, 1, 2), 1.0), InputError, ["A[1][2] is nan", "finite"]),
    "A has an infinity": (lambda: projector(with_entry(-INF, 0, 1), 1.0), InputError, ["A[0][1] is -inf", "finite"]),
    "batched A has a NaN": (lambda: projector(with_entry(NAN, 3, 1, 2, shape=(4, 2, 3)), 1.0), InputError, ["A[3][1][2] is nan"]),
    "sparse A has a NaN": (lambda: projector(scipy.sparse.csr_array([[1.0, NAN]]), 1.0), InputError, ["A", "nan", "finite"]),
    "A requires grad": (lambda: projector(grad(A()), 1.0), InputError, ["A requires grad", "project("]),
    "A is in float8": (lambda: projector(A().to(torch.float8_e4m3fn), 1.0), InputError, ["A", "float8"]),
    "A is a sparse tensor of four dimensions": (lambda: projector(torch.ones(1, 2, 2, 3).to_sparse(), 1.0), InputError, ["A", "sparse", "(1, 2, 2, 3)"]),
    "A is a batch of sparse tensors with a NaN": (lambda: projector(with_entry(NAN, 3, 1, 2, shape=(4, 2, 3)).to_sparse(), 1.0), InputError, ["A", "nan", "finite"]),
    "A is a hybrid sparse tensor": (lambda: projector(torch.ones(2, 3).to_sparse(1), 1.0), InputError, ["A", "sparse"]),
    "A is a one-dimensional sparse array": (lambda: projector(scipy.sparse.coo_array(np.ones(3)), 1.0), InputError, ["A", "(3,)", "(m, n)"]),
    "rows overflow against b": (lambda: projector([[1e-300, 0.0]], [1e300]), InputError, ["b", "row 0", "overflow"]),
    # --- b ---------------------------------------------------------------------------------------
    "no b": (lambda: projector(A()), InputError, ["b is missing"]),
    "b is too long": (lambda: projector(A(), [1.0, 2.0, 3.0]), InputError, ["b", "(3,)", "(2,)"]),
    "b is a column": (lambda: projector(A(), torch.ones(2, 1)), InputError, ["b", "(2, 1)", "(2,)"]),
    "b is of another batch": (lambda: projector(A().expand(4, 2, 3), torch.ones(3, 2)), InputError, ["b", "(3, 2)", "(2,) or (4, 2)"]),
    "b is ragged": (lambda: projector(A(), [[1.0], [1.0, 2.0]]), InputError, ["b", "rectangular"]),
    "b is text": (lambda: projector(A(), "b"), InputError, ["b", "real numbers"]),
    "b is complex": (lambda: projector(A(), [1.0, 2j]), InputError, ["b", "complex"]),
    "b has a NaN": (lambda: projector(A(), [1.0, NAN]), InputError, ["b[1] is nan", "finite"]),
    "b is infinite": (lambda: projector(A(), INF), InputError, ["b is inf", "finite"]),
    "b requires grad": (lambda: projector(A(), grad(x(2))), InputError, ["b requires grad", "project("]),
    "b is on another device": (lambda: projector(A(), torch.ones(2, device="meta")), InputError, ["b is on meta", "cpu"]),
    "a constraint and another b": (lambda: projector(AffineConstraint(A(), 1.0), [1.0, 2.0]), InputError, ["AffineConstraint", "its own b"]),
    "a constraint of a constraint": (lambda: AffineConstraint(AffineConstraint(A(), 1.0), 1.0), InputError, ["A"]),
    # --- names -----------------------------------------------------------------------------------
    "too few names": (lambda: AffineConstraint(A(), 1.0, names=["p"]), InputError, ["names", "2 strings", "'p'"]),
    "names are numbers": (lambda: AffineConstraint(A(), 1.0, names=[1, 2]), InputError, ["names", "2 strings"]),
    "names are a number": (lambda: AffineConstraint(A(), 1.0, names=3), InputError, ["names", "2 strings"]),
    "names are one string": (lambda: AffineConstraint(A(), 1.0, names="pq"), InputError, ["names", "2 strings"]),
    # --- x ---------------------------------------------------------------------------------------
    "x is a list": (lambda: P()([0.0, 0.0, 0.0]), InputError, ["x", "list", "tensor"]),
    "x is a numpy array": (lambda: P()(np.zeros(3)), InputError, ["x", "ndarray", "tensor"]),
    "x is an integer tensor": (lambda: P()(torch.zeros(3, dtype=torch.long)), InputError, ["x", "int64", "floating-point"]),
    "x is a bool tensor": (lambda: P()(torch.zeros(3, dtype=torch.bool)), InputError, ["x", "bool", "floating-point"]),
    "x is complex": (lambda: P()(torch.zeros(3, dtype=torch.complex128)), InputError, ["x", "complex", "real"]),
    "x is a masked tensor": (lambda: P()(masked(torch.ones(3))), InputError, ["x is a masked tensor", "x.to_tensor(0.0)"]),
    "x is a nested tensor": (lambda: P()(nested(torch.ones(3))), InputError, ["x is a nested tensor", "plain"]),
    "x is a sparse tensor": (lambda: P()(torch.ones(3).to_sparse()), InputError, ["x", "sparse_coo", "x.to_dense()"]),
    "x of many is a sparse tensor": (lambda: P()(of_kind(torch.ones(2, 3).to_sparse_csr)), InputError, ["x", "sparse_csr", "x.to_dense()"]),
    "x is in float8": (lambda: P()(x().to(torch.float8_e4m3fn)), InputError, ["x", "float8"]),
    "x is a scalar": (lambda: P()(torch.tensor(1.0)), InputError, ["x", "()", "3"]),
    "x is too short": (lambda: P()(x(2)), InputError, ["x", "(2,)", "3"]),
    "x is a column": (lambda: P()(x(3, 1)), InputError, ["x", "(3, 1)", "3"]),
    "x is on another device": (lambda: P()(torch.zeros(3, device="meta")), InputError, ["x is on meta", "cpu"]),
    "x lacks the batch": (lambda: batch()(x()), InputError, ["x", "(3,)", "(4, 3)"]),
    "x is of another batch": (lambda: batch()(x(3, 3)), InputError, ["x", "(3, 3)", "(4, 3)", "(4, k, 3)"]),
    "v is an integer tensor": (lambda: P().tangent(torch.zeros(3, dtype=torch.int32)), InputError, ["v", "int32"]),
    "v is too short": (lambda: P().tangent(x(2)), InputError, ["v", "(2,)"]),
    "x of multipliers is too short": (lambda: P().multipliers(x(2)), InputError, ["x", "(2,)"]),
    "x of project_ is an integer tensor": (lambda: P().project_(torch.zeros(3, dtype=torch.long)), InputError, ["x", "int64"]),
    "x of project_ is a masked tensor": (lambda: P().project_(masked(torch.ones(3))), InputError, ["x is a masked tensor"]),
    "x of project_ is a nested tensor": (lambda: P().project_(nested(torch.ones(3))), InputError, ["x is a nested tensor"]),
    "x of project_ is a sparse tensor": (lambda: P().project_(torch.ones(3).to_sparse()), InputError, ["x", "sparse_coo"]),
    "v is a sparse tensor": (lambda: P().tangent(torch.ones(3).to_sparse()), InputError, ["v", "sparse_coo", "v.to_dense()"]),
    "x within bounds is a sparse tensor": (lambda: projector(lb=0.0, A=A(), b=1.0)(torch.ones(3).to_sparse()), InputError, ["x", "sparse_coo"]),
    "x of project_ is too long": (lambda: P().project_(x(4)), InputError, ["x", "(4,)", "3"]),
    "x of residual is too short": (lambda: P().constraint.residual(x(2)), InputError, ["x", "(2,)", "3"]),
    "x of residual is an integer tensor": (lambda: P().constraint.residual(torch.zeros(3, dtype=torch.long)), InputError, ["x", "floating-point"]),
    "x of residual is a list": (lambda: P().constraint.residual([0.0, 0.0, 0.0]), InputError, ["x", "tensor"]),
    "x of residual lacks the batch": (lambda: batch().constraint.residual(x()), InputError, ["x", "(3,)", "(4, "]),
    "x of residual is of another batch": (lambda: batch().constraint.residual(x(3, 3)), InputError, ["x", "(3, 3)", "(4, "]),
    "x of residual is on another device": (lambda: P().constraint.residual(torch.zeros(3, device="meta")), InputError, ["x", "on meta", "cpu"]),
    # --- another b for a projector -----------------------------------------------------------------
    "another b is too long": (lambda: P()(x(), [1.0, 2.0, 3.0]), InputError, ["b", "(3,)", "(2,)"]),
    "another b does not fit x": (lambda: P()(x(4, 3), x(5, 2)), InputError, ["b", "(5, 2)", "(4, 2)"]),
    "another b is text": (lambda: P()(x(), "b"), InputError, ["b"]),
    "another b is ragged": (lambda: P()(x(), [[1.0], [1.0, 2.0]]), InputError, ["b"]),
    "another b is complex": (lambda: P()(x(), [1.0, 2j]), InputError, ["b", "complex"]),
    "another b is a masked tensor": (lambda: P()(x(), masked(torch.ones(2))), InputError, ["b is a masked tensor"]),
    "another b is a nested tensor": (lambda: P()(x(), nested(torch.ones(2))), InputError, ["b is a nested tensor"]),
    "another b is a sparse tensor": (lambda: P()(x(), torch.ones(2).to_sparse()), InputError, ["b", "sparse_coo", "b.to_dense()"]),
    "another b is on another device": (lambda: P()(x(), torch.ones(2, device="meta")), InputError, ["b is on meta", "cpu"]),
    "another b of multipliers is too long": (lambda: P().multipliers(x(), [1.0, 2.0, 3.0]), InputError, ["b", "(3,)"]),
    "another b of another batch": (lambda: batch()(x(4, 3), x(3, 2)), InputError, ["b", "(3, 2)", "(4, 2)"]),
    # --- project -----------------------------------------------------------------------------------
    "project: x has a NaN": (lambda: project(with_entry(NAN, 1, shape=(3,)), A(), [1.0, 2.0]), InputError, ["x[1] is nan", "finite"]),
    "project: x is infinite": (lambda: project(with_entry(INF, 1, 2), A(), [1.0, 2.0]), InputError, ["x[1][2] is inf", "finite"]),
    "project: x has a NaN, A is an array": (lambda: project(with_entry(NAN, 1, shape=(3,)), A().numpy(), 1.0), InputError, ["x[1] is nan"]),
    "project: x is an integer tensor": (lambda: project(torch.zeros(3, dtype=torch.long), A(), 1.0), InputError, ["x", "int64"]),
    "project: x is a list": (lambda: project([0.0, 0.0, 0.0], A(), 1.0), InputError, ["x", "list", "tensor"]),
    "project: x is an array, A too": (lambda: project(np.zeros(3), A().numpy(), 1.0), InputError, ["x", "ndarray", "tensor"]),
    "project: x is too short": (lambda: project(x(2), A(), 1.0), InputError, ["x", "(2,)", "3"]),
    "project: x is on another device": (lambda: project(torch.zeros(3, device="meta"), A(), 1.0), InputError, ["x is on meta", "cpu"]),
    "project: x lacks the batch": (lambda: project(x(), A().expand(4, 2, 3), 1.0), InputError, ["x", "(3,)", "(4, 3)"]),
    "project: A has a NaN": (lambda: project(x(), with_entry(NAN, 1, 2), 1.0), InputError, ["A[1][2] is nan"]),
    "project: A is complex": (lambda: project(x(), A().to(torch.complex128), 1.0), InputError, ["A", "complex"]),
    "project: A has four dimensions": (lambda: project(x(), torch.ones(1, 1, 1, 3), 1.0), InputError, ["A", "(1, 1, 1, 3)"]),
    "project: A has no columns": (lambda: project(x(0), torch.ones(1, 0), 1.0), InputError, ["A", "column"]),
    "project: A is a scalar": (lambda: project(x(), torch.tensor(1.0), 1.0), InputError, ["A", "shape ()"]),
    "project: no b": (lambda: project(x(), A()), InputError, ["b is missing"]),
    "project: b is too long": (lambda: project(x(), A(), [1.0, 2.0, 3.0]), InputError, ["b", "(3,)", "(2,)"]),
    "project: x is a sparse tensor": (lambda: project(torch.ones(3).to_sparse(), A(), 1.0), InputError, ["x", "sparse_coo"]),
    "project: x is a nested tensor": (lambda: project(nested(torch.ones(3)), A(), 1.0), InputError, ["x is a nested tensor"]),
    "project: b is a sparse tensor": (lambda: project(x(), A(), torch.ones(2).to_sparse()), InputError, ["b", "sparse_coo"]),
    "project: b is a nested tensor": (lambda: project(x(), A(), nested(torch.ones(2))), InputError, ["b is a nested tensor"]),
    "project: b is a masked tensor": (lambda: project(x(), A(), masked(torch.ones(2))), InputError, ["b is a masked tensor"]),
    "project: b is complex": (lambda: project(x(), A(), torch.ones(2, dtype=torch.complex64)), InputError, ["b", "complex"]),
    "project: b has a NaN": (lambda: project(x(), A(), [1.0, NAN]), InputError, ["b[1] is nan"]),
    "project: b is on another device": (lambda: project(x(), A(), torch.ones(2, device="meta")), InputError, ["b is on meta", "cpu"]),
    "project: integer b is on another device": (lambda: project(x(), grad(A()), torch.ones(2, dtype=torch.long, device="meta")), InputError, ["b is on meta", "cpu"]),
    "project: integer b of sparse A is on another device": (lambda: project(x(), grad(A().to_sparse()), torch.ones(2, dtype=torch.long, device="meta")), InputError, ["b is on meta", "cpu"]),
    "project: b is a number without a value": (lambda: project(x(), A(), torch.ones((), device="meta")), InputError, ["b is on meta", "cpu"]),
    "b is a number without a value": (lambda: projector(A(), torch.ones((), device="meta")), InputError, ["b is on meta", "A on cpu"]),
    "another b is a number without a value": (lambda: P()(x(), torch.ones((), device="meta")), InputError, ["b is on meta", "cpu"]),
    "h is on another device": (lambda: projector(G=A(), h=torch.ones(2, device="meta")), InputError, ["h is on meta", "G on cpu"]),
    "lb is a number without a value": (lambda: projector(A(), 1.0, lb=torch.ones((), device="meta")), InputError, ["lb is on meta", "cpu"]),
    "b_error is without a value": (lambda: projector(A(), 1.0, b_error=torch.ones((), device="meta")), InputError, ["b_error", "meta", "values"]),
    "a factor is without a value": (lambda: torch.ones((), device="meta") * expr(x()), InputError, ["factor", "meta", "values"]),
    "a matrix is without values": (lambda: torch.ones(2, 3, device="meta") @ expr(grad(x())), InputError, ["A is on the device meta"]),
    "project: a constraint and another b": (lambda: project(x(), AffineConstraint(A(), 1.0), 1.0), InputError, ["AffineConstraint", "its own b"]),
    "project: sparse A requires grad, under a transform": (lambda: torch.func.grad(lambda a: project(x(), a.to_sparse(), 1.0).sum())(A()), InputError, ["A is sparse", "under a transform", "backward"]),
    "project: rank-deficient A requires grad": (lambda: project(x(), grad(torch.ones(2, 3, dtype=F64)), 1.0), RankDeficientError, ["rank is 1 of 2 rows", "diagnose", "detach"]),
    "project: b of rank-deficient A requires grad": (lambda: project(x(), torch.ones(2, 3, dtype=F64), grad(x(2))), RankDeficientError, ["rank is 1 of 2 rows"]),
    # --- keywords ------------------------------------------------------------------------------------
    "an unknown variant": (lambda: P(variant="lu"), InputError, ["variant='lu'", '"auto"', '"qr"', '"pinv"']),
    "variant is None": (lambda: P(variant=None), InputError, ["variant=None", '"auto"']),
    "variant is a list": (lambda: P(variant=["qr"]), InputError, ["variant=['qr']"]),
    "an unknown on_redundant": (lambda: P(on_redundant="ignore"), InputError, ["on_redundant='ignore'", '"drop"', '"raise"']),
    "an unknown on_inconsistent": (lambda: P(on_inconsistent="drop"), InputError, ["on_inconsistent='drop'", '"raise"', '"least_squares"']),
    "an unknown rank": (lambda: P(rank="full"), InputError, ["rank='full'", '"numerical"', '"exact"']),
    "rank is zero": (lambda: P(rank=0.0), InputError, ["rank=0.0", "between 0 and 1"]),
    "rank is a count": (lambda: P(rank=2), InputError, ["rank=2", "between 0 and 1"]),
    "rank is NaN": (lambda: P(rank=NAN), InputError, ["rank=nan"]),
    "rank is True": (lambda: P(rank=True), InputError, ["rank=True"]),
    "rank is None": (lambda: P(rank=None), InputError, ["rank=None"]),
    "accuracy is zero": (lambda: P(accuracy=0.0), InputError, ["accuracy=0.0", "positive"]),
    "accuracy is negative": (lambda: P(accuracy=-1e-8), InputError, ["accuracy=-1e-08", "positive"]),
    "accuracy is NaN": (lambda: P(accuracy=NAN), InputError, ["accuracy=nan", "positive"]),
    "accuracy is infinite": (lambda: P(accuracy=INF), InputError, ["accuracy=inf", "positive"]),
    "accuracy is text": (lambda: P(accuracy="1e-8"), InputError, ["accuracy='1e-8'", "positive"]),
    "accuracy is True": (lambda: P(accuracy=True), InputError, ["accuracy=True", "positive"]),
    "accuracy is beyond reach": (lambda: P(accuracy=1e-30), AccuracyError, ["accuracy=1e-30", "float64", "predicted to reach"]),
    "accuracy is beyond the variant": (lambda: P(variant="qr", accuracy=1e-30), AccuracyError, ["accuracy=1e-30", "qr"]),
    "project: unknown variant": (lambda: project(x(), A(), 1.0, "lu"), InputError, ["variant='lu'"]),
    "project: unknown on_redundant": (lambda: project(x(), A(), 1.0, on_redundant=1), InputError, ["on_redundant=1"]),
    "project: accuracy beyond reach": (lambda: project(x(), A(), 1.0, accuracy=1e-30), AccuracyError, ["accuracy=1e-30"]),
    "diagnose: unknown rank": (lambda: diagnose(A(), 1.0, rank="full"), InputError, ["rank='full'"]),
    "diagnose: a batch": (lambda: diagnose(A().expand(4, 2, 3), 1.0), InputError, ["batch of 4", "A[i]"]),
    "diagnose: no b": (lambda: diagnose(A()), InputError, ["b is missing"]),
    # --- metric --------------------------------------------------------------------------------------
    "metric is too short": (lambda: P(metric=[1.0, 2.0]), InputError, ["metric", "(2,)", "(3,)", "(3, 3)"]),
    "metric is a scalar": (lambda: P(metric=2.0), InputError, ["metric", "()", "(3,)"]),
    "metric is not square": (lambda: P(metric=torch.ones(3, 2)), InputError, ["metric", "(3, 2)"]),
    "metric has a zero": (lambda: P(metric=[1.0, 0.0, 2.0]), InputError, ["metric[1] is 0", "positive"]),
    "metric has a negative weight": (lambda: P(metric=[1.0, 2.0, -3.0]), InputError, ["metric[2] is -3", "positive"]),
    "metric has a NaN": (lambda: P(metric=[1.0, NAN, 2.0]), InputError, ["metric[1] is nan", "finite"]),
    "metric is infinite": (lambda: P(metric=[1.0, INF, 2.0]), InputError, ["metric[1] is inf", "finite"]),
    "metric is asymmetric": (lambda: P(metric=torch.eye(3) + with_entry(0.5, 0, 1, shape=(3, 3)) * 0.1), InputError, ["metric", "symmetric"]),
    "metric is indefinite": (lambda: P(metric=[[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), InputError, ["metric", "positive definite"]),
    "metric is singular": (lambda: P(metric=torch.ones(3, 3)), InputError, ["metric", "positive definite"]),
    "metric is a sparse tensor": (lambda: P(metric=torch.ones(3).to_sparse()), InputError, ["metric", "sparse_coo"]),
    "lb is a sparse tensor": (lambda: projector(A(), 1.0, lb=torch.zeros(3).to_sparse()), InputError, ["lb", "sparse_coo"]),
    "metric is complex": (lambda: P(metric=torch.ones(3, dtype=torch.complex64)), InputError, ["metric", "complex"]),
    "metric is text": (lambda: P(metric="identity"), InputError, ["metric", "real numbers"]),
    "metric is ragged": (lambda: P(metric=[[1.0], [1.0, 2.0]]), InputError, ["metric", "rectangular"]),
    "metric requires grad": (lambda: P(metric=grad(torch.ones(3))), InputError, ["metric requires grad", "constant"]),
    "single_row in a dense metric": (lambda: projector(torch.eye(2, 3), 1.0, "single_row", metric=torch.eye(3)), InputError, ["single_row", "diagonal metric"]),
    # --- what the system itself forbids -----------------------------------------------------------------
    "single_row on rows that share a column": (lambda: P(variant="single_row"), InputError, ["row 0 and row 1 share column 0", 'variant="qr"']),
    "redundant rows that are to raise": (lambda: projector(torch.ones(2, 3), 1.0, on_redundant="raise"), RankDeficientError, ["rank is 1", "row 1 = row 0", '"drop"']),
    "cholesky beyond its reach": (lambda: projector([[1.0, 0.0], [1.0, 1e-9]], 1.0, "cholesky"), RankDeficientError, ["Gram matrix", "squares", 'variant="qr"']),
    "a contradiction": (lambda: projector(torch.ones(2, 3), [1.0, 2.0]), InconsistentError, ["row 1 = row 0", "its b is 2", "is 1", "least_squares"]),
    "0 = 1": (lambda: projector(torch.zeros(1, 3), [1.0]), InconsistentError, ["row 0 reads 0 = 1"]),
    "project: a contradiction": (lambda: project(x(), torch.ones(2, 3), [1.0, 2.0]), InconsistentError, ["row 1 = row 0"]),
    # --- size ----------------------------------------------------------------------------------------
    "sparse rows too large to be dense": (lambda: projector(huge(), 1.0, "qr"), MemoryLimitError, ["1000000 x 1000000", "bytes"]),
    "an expanded A": (lambda: projector(torch.ones(1, 1, dtype=F64).expand(10**7, 10**7), 1.0), MemoryLimitError, ["a copy of A", "bytes", "sparse"]),
    "an expanded array as A": (lambda: projector(np.broadcast_to(np.float32(1), (10**7, 10**7)), 1.0), MemoryLimitError, ["a copy of A", "bytes"]),
    "an expanded b": (lambda: projector(A(), torch.ones(1).expand(10**12)), MemoryLimitError, ["a copy of b", "bytes"]),
    "a metric expanded": (lambda: P(metric=torch.ones(1).expand(10**12)), MemoryLimitError, ["a copy of metric", "bytes"]),
    "a null space too large to hold": (lambda: projector(scipy.sparse.csr_array(np.ones((1, 1_000_000))), 1.0).null_space(), MemoryLimitError, ["null-space", "bytes"]),
    "a null space of systems of different rank": (lambda: projector(torch.stack([torch.eye(2, 3), torch.ones(2, 3)]), 1.0).null_space(), InputError, ["ranks from 1 to 2"]),
}
# fmt: on


@pytest.mark.parametrize("mistake", MISTAKES)
def test_error(mistake):
    act, error, words = MISTAKES[mistake]
    with pytest.raises(ProjlabError) as caught:
        act()
    assert type(caught.value) is error
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert len(message) < 1000, "a message is read by people: it prints no matrix"


WRONG_CALLS = {
    "x too short": (lambda P: P(x(2)), r"x has shape \(2,\)"),
    "x on another device": (lambda P: P(torch.zeros(3, device="meta")), "x is on meta"),
    "b too long": (lambda P: P(x(), [1.0, 2.0, 3.0]), r"b has shape \(3,\)"),
    "project_ on integers": (
        lambda P: P.project_(torch.zeros(3, dtype=torch.long)),
        "x has dtype torch.int64",
    ),
    "tangent of a scalar": (lambda P: P.tangent(torch.tensor(1.0)), r"v has shape \(\)"),
    "multipliers with text": (lambda P: P.multipliers(x(), "b"), "b has dtype <U1"),
    "complex b": (
        lambda P: P(x(), torch.ones(2, dtype=torch.complex64)),
        "b has dtype torch.complex64",
    ),
}


@pytest.mark.parametrize("call", WRONG_CALLS)
def test_a_projector_works_as_before_after_a_mistake(call):
    one = P()
    point = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    before = one(point)
    act, message = WRONG_CALLS[call]
    with pytest.raises(InputError, match=message):
        act(one)
    assert torch.equal(one(point), before)
    assert torch.equal(one.project_(point.clone()), before)
    assert one.A.tolist() == A().tolist()


def test_project_in_place_leaves_x_alone_when_it_refuses():
    point = torch.arange(4.0, dtype=F64)
    with pytest.raises(InputError, match=r"x has shape \(4,\)"):
        P().project_(point)
    assert point.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_refused_system_leaves_its_constraint_usable():
    """The analysis is kept with the constraint; a refusal must not be kept as an answer."""
    constraint = AffineConstraint(torch.ones(2, 3, dtype=F64), [1.0, 2.0])
    for _ in range(2):
        with pytest.raises(InconsistentError, match="row 1 = row 0"):
            projector(constraint)
    least = projector(constraint, on_inconsistent="least_squares")
    assert least(x()).tolist() == pytest.approx([0.5] * 3, rel=1e-14)
    with pytest.raises(InconsistentError, match="row 1 = row 0"):
        projector(constraint)


def test_what_needs_no_dense_matrix_is_not_refused_for_its_size():
    n = 1_000_000
    A = scipy.sparse.eye_array(n, format="csr")
    assert projector(A, 1.0).rank == n
