"""b_error of `constrain`: equations whose right sides are too coarse to contradict each other."""

import math
import re

import numpy as np
import pytest
import torch

from projlab import InconsistentError, InputError, constrain, expr
from tests.projlab.training.helpers import F64, parameter, vector


def sgd(*parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def stepped(optimizer, *parameters, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p - 0.3).square().sum() for p in parameters).backward()
        optimizer.step()


def test_independent_rows_keep_their_right_sides_and_the_others_follow():
    p = vector(0.0, 0.0, 0.0)
    A = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 2.0, 1.0]], dtype=F64)
    b = torch.tensor([1.0, 2.0, 3.5], dtype=F64)
    optimizer = sgd(p)
    with pytest.raises(InconsistentError, match="b_error="):
        constrain(optimizer, A @ expr(p) == b)
    assert torch.equal(p.detach(), torch.zeros(3, dtype=F64))
    handle = constrain(optimizer, A @ expr(p) == b, b_error=0.5)
    stepped(optimizer, p)
    residual = handle.residual()  # of the right sides as given
    assert float(residual.abs().min()) < 1e-14
    assert abs(float(residual.abs().max()) - 0.5) < 1e-14
    assert handle.largest_residual < 1e-14  # of what they are taken to mean
    before = p.detach().clone()
    handle.apply()
    assert torch.equal(p.detach(), before)  # feasible: it keeps its bits
    assert handle.certify().verdict == "certified"


@pytest.mark.parametrize("error", [0.1, [0.1, 0.1, 0.2], torch.tensor([0.0, 0.0, 0.49], dtype=F64)])
def test_what_errors_do_not_explain_is_refused_and_nothing_changes(error):
    p = vector(4.0, 5.0, 6.0)
    A = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 2.0, 1.0]], dtype=F64)
    b = torch.tensor([1.0, 2.0, 3.5], dtype=F64)
    with pytest.raises(InconsistentError, match=re.escape("(A @ p0)[2] == 3.5")):
        constrain(sgd(p), A @ expr(p) == b, b_error=error)
    assert p.tolist() == [4.0, 5.0, 6.0]


def test_sums_over_rows_and_columns_of_a_rounded_table():
    """The sums of a published table, rounded to units, disagree by what rounding may do."""
    W = parameter(4, 5)
    rows = torch.tensor([3.0, 4.0, 2.0, 6.0], dtype=F64)
    columns = torch.tensor([3.0, 3.0, 3.0, 3.0, 4.0], dtype=F64)  # 16 in all, 15 by rows
    equations = (expr(W).sum(dim=1) == rows, expr(W).sum(dim=0) == columns)
    with pytest.raises(InconsistentError):
        constrain(sgd(W), *equations, b_error=[0.1, 0.1])  # 0.4 + 0.5 < 1
    handle = constrain(sgd(W), *equations, b_error=[0.15, np.full(5, 0.1)])  # 0.6 + 0.5
    assert "commuting means" in handle.blocks[0]
    assert float(handle.residual().abs().max()) <= 0.25 + 1e-14  # shared by the rows alike


def test_ties_that_go_round_in_a_circle():
    p = vector(0.0, 0.0, 0.0)
    x = expr(p)
    circle = (x[0] - x[1] == 1.0, x[1] - x[2] == 1.0, x[2] - x[0] == -2.0 + 1e-3)
    with pytest.raises(InconsistentError):
        constrain(sgd(p), *circle, b_error=[0.0, 0.0, 9e-4])
    handle = constrain(sgd(p), *circle, b_error=[0.0, 0.0, 1e-3])
    assert "tied" in handle.blocks[0]
    assert float(handle.residual().abs().max()) <= 1e-3 + 1e-15


def test_equations_stated_twice_and_rows_without_entries():
    p = vector(1.0, 2.0)
    twice = (expr(p).sum() == 1.0, expr(p).sum() == 1.1)
    with pytest.raises(InconsistentError):
        constrain(sgd(p), *twice, b_error=0.04)
    handle = constrain(sgd(p), *twice, b_error=0.06)
    assert abs(float(handle.residual()[0])) < 1e-15  # the first is met
    q = vector(1.0, 2.0)
    empty = (expr(q)[0] == 1.0, 0 * expr(q)[:1] == 0.5)
    with pytest.raises(InconsistentError):
        constrain(sgd(q), *empty, b_error=[0.0, 0.4])
    constrain(sgd(q), *empty, b_error=[0.0, 0.5])


def test_one_of_many_blocks():
    W = parameter(3, 2)
    A = torch.tensor([[1.0, 1.0], [2.0, 2.0]], dtype=F64)
    right = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.25]], dtype=F64)
    error = torch.zeros(2, 3, dtype=F64)
    columns = A @ expr(W).T
    with pytest.raises(InconsistentError):
        constrain(sgd(W), columns == right, b_error=error)
    error[1, 2] = 0.25
    handle = constrain(sgd(W), columns == right, b_error=error)
    off = handle.residual().abs().reshape(2, 3)
    assert abs(float(off[1, 2]) - 0.25) < 1e-14
    off[1, 2] = 0.0
    assert float(off.max()) < 1e-14


def test_a_sparse_system_takes_it():
    n = 400
    w = torch.nn.Parameter(torch.randn(n, dtype=F64))
    i = torch.arange(n - 1)
    rows = torch.cat([i, i, torch.full((2,), n - 1)])
    columns = torch.cat([i, i + 1, torch.tensor([0, 2])])
    values = torch.ones(2 * n, dtype=F64)
    values[-1] = -1.0  # w0 - w2 is the first row less the second
    where = torch.stack([rows, columns])
    A = torch.sparse_coo_tensor(where, values, (n, n), check_invariants=True).coalesce()
    b = torch.ones(n, dtype=F64)
    b[-1] = 1e-9
    with pytest.raises(InconsistentError):
        constrain(sgd(w), A @ expr(w) == b)
    handle = constrain(sgd(w), A @ expr(w) == b, b_error=1e-9)
    off = float(handle.residual().abs().max())
    assert 0.99e-9 < off < 1.01e-9


def test_it_stays_with_its_equation():
    p, q = vector(1.0, 2.0), vector(5.0)
    optimizer = sgd(p, q)
    first = expr(p).sum() == 1.0
    handle = constrain(optimizer, first, 2 * expr(p).sum() == 2.1, b_error=0.1)
    assert first.b_error is None  # the caller's is left alone
    other = constrain(optimizer, expr(q) == 1.0)  # all are derived again
    handle.set_right_side(None, 2.05)
    with pytest.raises(InconsistentError):
        handle.set_right_side(None, 3.0)
    other.remove()
    stepped(optimizer, p)
    assert float(handle.residual().abs().max()) <= 0.1
    p.data = p.data.float()  # midway
    stepped(optimizer, p)
    assert float(handle.residual().abs().max()) <= 0.1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (-1e-9, "negative"),
        (math.nan, "finite"),
        ("a", "b_error"),
        (None, "b_error"),
        ([0.1, 0.2, 0.3], "3 entries for 2 equations"),
        (torch.tensor([0.1, 0.2]), r"shape \(2,\) for 2 equations"),
        ([0.1, [0.1, 0.2]], r"shape \(2,\); of equation 1 it must broadcast to \(\)"),
    ],
)
def test_what_is_no_error_of_b_is_refused_by_name(error, said):
    p = vector(1.0, 2.0)
    optimizer = sgd(p)
    with pytest.raises(InputError, match=said):
        constrain(optimizer, expr(p).sum() == 1.0, expr(p)[0] == 0.5, b_error=error)
    assert not optimizer._optimizer_step_pre_hooks
