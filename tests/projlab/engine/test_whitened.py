"""A diagonal metric, answered first: as a decision on the rank would answer, and checked as it."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import projlab
from projlab import tolerance
from projlab.engine import careful, whitened
from projlab.numerics import memory
from tests.projlab.systems import prescribed_spectrum

F64, F32 = torch.float64, torch.float32


@pytest.fixture
def answered(monkeypatch):
    """What `whitened.solver` came to, call by call; a careful decision in it is None."""
    came_to, set_up, decided = [], whitened.solver, careful.decided
    in_need = []

    def watched(*given):
        in_need.clear()
        found = set_up(*given)
        came_to.append(None if in_need else found)
        return found

    monkeypatch.setattr(whitened, "solver", watched)
    monkeypatch.setattr(careful, "decided", lambda *g: in_need.append(g) or decided(*g))
    return came_to


def sparse_rows(m, n, rng, per_row=4):
    """Rows that share columns, each with a column of its own."""
    columns = rng.integers(m, n, (m, per_row))
    rows = np.repeat(np.arange(m), per_row)
    own = sp.csr_array((np.ones(m), (np.arange(m), np.arange(m))), shape=(m, n))
    return own + sp.csr_array((rng.standard_normal(rows.size), (rows, columns.ravel())), (m, n))


def weights(n, spread, rng):
    """W from 1 to spread."""
    return torch.from_numpy(np.exp(rng.uniform(0, np.log(spread), n)))


def exactly(A, b, W, x):
    """x - W^-1 A'(A W^-1 A')^-1 (A x - b) in twice the precision."""
    from mpmath import matrix, mp

    with mp.workdps(40):
        A, b, W, x = (matrix(np.asarray(v, dtype=float).tolist()) for v in (A, b, W, x))
        scaled = matrix(A.cols, A.rows)
        for j in range(A.cols):
            for i in range(A.rows):
                scaled[j, i] = A[i, j] / W[j]
        y = mp.lu_solve(A * scaled, A * x - b)
        return torch.tensor([float(v) for v in x - scaled * y], dtype=F64)


@pytest.mark.parametrize("spread", [1.0, 1e3, 1e8])
@pytest.mark.parametrize("given", ["dense", "sparse"])
def test_the_answer_is_that_of_twice_the_precision(answered, given, spread):
    rng = np.random.default_rng(3)
    m, n = 12, 40
    A = sparse_rows(m, n, rng)
    W = weights(n, spread, rng)
    b, x = rng.standard_normal(m), torch.from_numpy(rng.standard_normal(n))
    variant = "sparse_cholesky" if given == "sparse" else "auto"
    P = projlab.projector(A if given == "sparse" else A.toarray(), b, variant, metric=W)
    assert answered.pop() is not None
    want = exactly(A.toarray(), b, W, x)
    scale = float((W.sqrt() * x).norm() + (W.sqrt() * (x - want)).norm())
    error = float((W.sqrt() * (P(x) - want)).norm())
    c = tolerance.dimension_factor(m, n)
    assert error <= 3 * c * P.condition * tolerance.unit_roundoff(F64) * scale
    assert P.rank == m


@pytest.mark.parametrize("dtype", [F64, F32])
def test_it_says_what_a_decision_says(answered, dtype, monkeypatch):
    rng = np.random.default_rng(5)
    A = torch.from_numpy(prescribed_spectrum(6, 20, 50.0)).to(dtype)
    W = weights(20, 100.0, rng).to(dtype)
    b, x = torch.from_numpy(rng.standard_normal(6)).to(dtype), torch.ones(20, dtype=dtype)
    P = projlab.projector(A, b, metric=W)
    assert answered.pop() is not None
    monkeypatch.setattr(whitened, "possible", lambda *_: False)
    Q = projlab.projector(A, b, metric=W)
    assert not answered
    assert (P.variant, P.rank) == (Q.variant, Q.rank)
    u = tolerance.unit_roundoff(dtype)
    assert P.condition == pytest.approx(Q.condition, rel=20 * u * Q.condition)
    allowed = 6 * tolerance.dimension_factor(6, 20) * u * Q.condition * float(W.max().sqrt())
    size = float(x.norm() + (x - Q(x)).norm())
    assert (P(x) - Q(x)).norm() <= allowed * size
    assert (P.tangent(x) - Q.tangent(x)).norm() <= allowed * size
    unit = torch.linalg.vector_norm(A, dim=-1)
    allowed *= Q.condition * size * float(W.max().sqrt())
    assert (unit * (P.multipliers(x) - Q.multipliers(x))).norm() <= allowed


def test_redundant_sparse_rows_carry_no_multiplier(answered):
    rng = np.random.default_rng(7)
    A = sparse_rows(30, 90, rng)
    A = sp.vstack([A, A[[3]] + A[[5]]], format="csr")
    W = weights(90, 1e3, rng)
    b, x = A @ rng.standard_normal(90), torch.from_numpy(rng.standard_normal(90))
    P = projlab.projector(A, b, "sparse_cholesky", metric=W)
    assert answered.pop() is not None
    assert P.rank == 30
    want = exactly(A[:30].toarray(), b[:30], W, x)
    moved = float(x.norm() + (x - want).norm())
    spread = float((W.max() / W.min()).sqrt())
    c, u = tolerance.dimension_factor(31, 90), tolerance.unit_roundoff(F64)
    assert (P(x) - want).norm() <= 3 * c * P.condition * u * spread * moved
    y = P.multipliers(x)
    assert int((y == 0).sum()) == 1
    ended = x - torch.from_numpy(A.T @ y.numpy()) / W
    assert (ended - want).norm() <= 3 * c * P.condition**2 * u * spread * moved


def test_a_rank_that_the_metric_would_change_is_decided_of_the_rows_as_given(answered):
    """Row 1 is row 0 but for rounding, in a column whose weight makes that a direction."""
    A = torch.zeros(3, 8, dtype=F64)
    A[0, :4], A[2, 3:7] = 1, 1
    A[1] = A[0]
    A[1, 7] = 2.0**-52
    b = torch.tensor([1.0, 1.0, 2.0], dtype=F64)
    W = torch.ones(8, dtype=F64)
    W[7] = 2.0**-52
    for variant, matrix in (("auto", A), ("sparse_cholesky", A.to_sparse())):
        P = projlab.projector(matrix, b, variant, metric=W)
        assert answered.pop() is None
        assert P.rank == projlab.projector(A, b).rank == 2


def test_equations_that_contradict_each_other_are_not_hidden_by_weights(answered):
    """In the variables of the metric the norms of rows of small weights are large."""
    rng = np.random.default_rng(9)
    A = sparse_rows(20, 60, rng)
    A = sp.vstack([A, A[[3]] + A[[5]]], format="csr")
    b = A @ rng.standard_normal(60)
    W = torch.ones(60, dtype=F64)
    W[torch.from_numpy(A[[20]].indices).long()] = 1e-7
    P = projlab.projector(A, b, "sparse_cholesky", metric=W)
    assert answered.pop() is not None
    size = sp.linalg.norm(A[[20]]) * float(P(torch.zeros(60, dtype=F64)).norm()) + abs(b[20])
    b[20] += 20 * tolerance.consistency_factor(tolerance.rank_cutoff(21, 60, 2.0**-53)) * size
    for metric in (None, W):
        with pytest.raises(projlab.InconsistentError):
            projlab.projector(A, b, "sparse_cholesky", metric=metric)


def test_derivatives_in_the_metric(answered):
    rng = np.random.default_rng(11)
    A = sparse_rows(5, 12, rng)
    W = weights(12, 30.0, rng)
    b = torch.from_numpy(rng.standard_normal(5)).requires_grad_()
    x = torch.from_numpy(rng.standard_normal((3, 12))).requires_grad_()
    for variant, given in (("sparse_cholesky", A), ("auto", A.toarray())):
        P = projlab.projector(A if variant != "auto" else given, b.detach(), variant, metric=W)
        assert answered.pop() is not None
        torch.autograd.gradcheck(P, (x, b))
        torch.autograd.gradgradcheck(P, (x, b))
    dense = torch.from_numpy(A.toarray()).requires_grad_()
    torch.autograd.gradcheck(lambda *t: projlab.project(*t, metric=W), (x, dense, b))


def test_another_right_side_and_another_device_of_the_weights(answered):
    rng = np.random.default_rng(13)
    A = sparse_rows(8, 30, rng)
    W = weights(30, 1e4, rng)
    b, c = rng.standard_normal(8), torch.from_numpy(rng.standard_normal(8))
    x = torch.from_numpy(rng.standard_normal(30))
    P = projlab.projector(A, b, "sparse_cholesky", metric=W.numpy())
    fresh = projlab.projector(A, c, "sparse_cholesky", metric=W)(x)
    u = tolerance.unit_roundoff(F64)
    allowed = 6 * tolerance.dimension_factor(8, 30) * P.condition * u
    allowed *= float((W.max() / W.min()).sqrt()) * float(x.norm() + (x - fresh).norm())
    assert (P(x, c) - fresh).norm() <= allowed
    P.b.copy_(c)
    assert (P(x) - fresh).norm() <= allowed
    assert float((torch.from_numpy(A.toarray()) @ P(x) - c).norm()) <= allowed * 10


def test_what_cannot_be_weighed_in_the_precision_is_refused(answered):
    A = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0]], dtype=F32)
    with pytest.raises(projlab.InputError, match="Take float64"):
        projlab.projector(A, 1.0, metric=torch.tensor([1e-4, 1.0, 1.0, 1e4], dtype=F32))
    assert not answered
    assert projlab.projector(A.double(), 1.0, metric=[1e-4, 1.0, 1.0, 1e4]).rank == 2


def test_rows_that_share_no_column_stay_with_their_own_variant(answered):
    A = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0]], dtype=F64)
    P = projlab.projector(A, 1.0, metric=torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64))
    assert answered.pop() is None
    assert P.variant == "single_row"


def test_large_sparse_rows_that_fit_nowhere_dense_are_answered(answered, monkeypatch):
    rng = np.random.default_rng(15)
    A = sparse_rows(300, 900, rng)
    W, x = weights(900, 1e3, rng), torch.from_numpy(rng.standard_normal(900))
    b = A @ rng.standard_normal(900)
    monkeypatch.setattr(memory, "limit", lambda _: 1_000_000)
    P = projlab.projector(A, b, metric=W)
    assert answered.pop() is not None
    assert P.variant == "sparse_cholesky"
    y = A @ P(x).numpy() - b
    norms = sp.linalg.norm(A, axis=1)
    u = tolerance.unit_roundoff(F64)
    assert np.all(np.abs(y) <= tolerance.ANSWERED * 10 * u * (norms * float(P(x).norm()) + abs(b)))
