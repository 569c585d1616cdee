"""Sparse rows that share columns: answered by a sparse factor, as a dense QR answers them."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck, gradgradcheck

import projlab
from projlab import (
    AccuracyError,
    InconsistentError,
    MemoryLimitError,
    RankDeficientError,
    tolerance,
)
from projlab.engine.corrections import Corrected, Measured, corrected
from projlab.engine.variants.sparse_cholesky import Judged, SparseCholeskyFactor
from projlab.numerics import memory, tuning
from projlab.system.rows import SparseRows
from tests.projlab.systems import refused_if

F64 = torch.float64
U = 2.0**-53
NAME = "sparse_cholesky"


def grid(k):
    """Flow conservation on a k x k grid: a row a node, one of them redundant."""
    node = np.arange(k * k).reshape(k, k)
    start = np.concatenate([node[:, :-1].ravel(), node[:-1].ravel()])
    end = np.concatenate([node[:, 1:].ravel(), node[1:].ravel()])
    edge = np.arange(len(start))
    ones = np.ones(len(start))
    entries = np.concatenate([ones, -ones]), (np.concatenate([start, end]), np.tile(edge, 2))
    return sp.csr_array(entries, shape=(k * k, len(start)))


def chain(m):
    return sp.diags_array([1.0, -1.0], offsets=[0, 1], shape=(m, m + 1), format="csr")


def scattered(m=60, n=110, seed=0):
    """Random rows with an empty row, an empty column, one dense row, and a redundant one."""
    rng = np.random.default_rng(seed)
    A = sp.lil_array(sp.random_array((m, n), density=0.05, rng=rng))
    A[:, 7] = 0
    A[3, :] = 0
    A[5, :] = rng.standard_normal(n)
    A[5, 7] = 0
    A[m - 1, :] = A[[0], :] - 3 * A[[1], :]
    return sp.csr_array(A)


def long_column(m=400):
    """A chain in which one variable is in every row."""
    return sp.csr_array(sp.hstack([chain(m), np.ones((m, 1))]))


def tree(nodes=60):
    """Balances of all nodes but the root, on the edges: as many rows as variables."""
    child = np.arange(1, nodes)
    parent = (np.random.default_rng(2).random(nodes - 1) * child).astype(np.int64)
    edges, ones = np.arange(nodes - 1), np.ones(nodes - 1)
    where = np.concatenate([child, parent]), np.concatenate([edges, edges])
    return sp.csr_array((np.concatenate([ones, -ones]), where), shape=(nodes, nodes - 1))[1:]


def nearly_square(free, m=40):
    """Random rows in as many variables and `free` more, one of the rows redundant."""
    rng = np.random.default_rng(3)
    A = sp.lil_array(sp.random_array((m, m + free - 1), density=0.1, rng=rng))
    A.setdiag(4.0)
    A[m - 1, :] = A[[0], :] - A[[1], :]
    return sp.csr_array(A)


SYSTEMS = {
    "grid": lambda: grid(12),
    "chain": lambda: chain(40),
    "tree": tree,
    "three dimensions": lambda: nearly_square(3),
    "four dimensions": lambda: nearly_square(4),
    "scattered": scattered,
    "long column": long_column,
}


def problem(name):
    A = SYSTEMS[name]()
    rng = np.random.default_rng(1)
    b = torch.from_numpy(A @ rng.standard_normal(A.shape[1]))
    return A, b, torch.from_numpy(rng.standard_normal(A.shape[1]))


def allowed(P, x):
    """Of two answers, each by a method that errs like kappa u."""
    m, n = P.constraint.m, P.constraint.n
    growth = tolerance.backward_stable_growth(P.condition, U)
    return 2 * tolerance.forward_error_bound(growth, m=m, n=n, amplification=3) * float(x.norm())


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_answer_is_that_of_a_dense_qr(name):
    A, b, x = problem(name)
    P, Q = projlab.projector(A, b, NAME), projlab.projector(A.toarray(), b, "qr")
    limit = allowed(Q, x)
    assert P.variant == NAME
    for point in (x, torch.stack([x, -x, 2 * x]), x.reshape(1, 1, -1)):
        assert (P(point) - Q(point)).abs().max() <= limit
        assert (P.tangent(point) - Q.tangent(point)).abs().max() <= limit
        in_place = point.clone()
        assert P.project_(in_place) is in_place
        assert torch.equal(in_place, P(point))
    y = P.multipliers(x)
    assert (x - torch.from_numpy(A.T @ y.numpy()) - P(x)).abs().max() <= limit
    assert P.rank == Q.rank


DIMENSIONS = {"tree": 0, "chain": 1, "three dimensions": 3, "four dimensions": None, "grid": None}


@pytest.mark.parametrize("name", DIMENSIONS)
def test_a_null_space_of_few_dimensions_is_found_and_projects(name):
    A, b, x = problem(name)
    P, k = projlab.projector(A, b, NAME), DIMENSIONS[name]
    null, n = P._solver.factor.null, A.shape[1]
    if k is None:
        assert null is None
        return
    assert null.shape == (max(k, 1), n)
    u = tolerance.dimension_factor(*A.shape) * U
    assert (null @ null.mT - torch.eye(len(null)) * (k > 0)).abs().max() <= u
    assert abs(A @ null.numpy().T).max() <= u * abs(A).sum(axis=1).max()
    found = P(x)
    limit = allowed(P, x)
    assert (P(found) - found).norm() <= limit
    assert (P.tangent(x - found)).norm() <= limit
    single = projlab.projector(A, b, NAME)(x.float())
    assert (single - found).norm() <= limit + 4 * 2.0**-24 * float(x.norm() + found.norm())
    copied = pickle.loads(pickle.dumps(P))  # noqa: S301  # what was pickled here
    assert (copied(x) - found).norm() <= limit
    # another right side, of which the point nearest to zero is another
    other = projlab.projector(A, 2 * b, NAME)
    assert (other(2 * x) - 2 * found).norm() <= 2 * limit
    assert P(torch.full_like(x, torch.nan)).isnan().all()
    assert not P.project_(torch.full_like(x, torch.inf)).isfinite().any()


def test_a_null_space_is_not_told_from_what_is_left_in_between():
    """A direction that corrections remove slowly is no direction of the null space yet."""
    gram = projlab.projector(chain(40), 0.0, NAME)._solver.factor.gram
    ends = torch.zeros(4, 41, dtype=F64)
    ends[:, 0] = 1.0
    for size, found in ((0.0, True), (2.0**-22, False)):
        ends[1, 1] = size
        rest = Corrected(1, 0.0, 0.0, 0.0, 0.0, 0.0, 0, ends)
        assert (Judged(gram, 0, rest).factor(gram.shape).null is not None) == found


def test_dense_rows_are_taken_by_name():
    A, b, x = problem("grid")
    P = projlab.projector(torch.from_numpy(A.toarray()), b, NAME)
    assert P.variant == NAME
    assert (P(x) - projlab.projector(A, b, "qr")(x)).norm() <= allowed(P, x)


def test_the_order_of_rows_and_columns_changes_rounding_only():
    A, b, x = problem("grid")
    rng = np.random.default_rng(5)
    p, q = rng.permutation(A.shape[0]), rng.permutation(A.shape[1])
    P = projlab.projector(A, b, NAME)
    R = projlab.projector(sp.csr_array(A[p][:, q]), b[p], NAME)
    assert (R(x[q]) - P(x)[q]).norm() <= allowed(P, x)


def test_entries_that_repeat_are_summed():
    A, b, x = problem("chain")
    i, j = A.nonzero()
    twice = sp.coo_array((np.tile(A.data / 2, 2), (np.tile(i, 2), np.tile(j, 2))), shape=A.shape)
    assert torch.equal(projlab.projector(twice, b, NAME)(x), projlab.projector(A, b, NAME)(x))


def test_zero_on_the_right_is_no_witness():
    """With b = 0 only random vectors show that a row nearly follows from another."""
    A = sp.csr_array(np.array([[1.0, 1, 0, 0], [1, 1, 1e-9, 0], [0, 0, 1, 1]]))
    P = projlab.projector(A, 0.0)
    assert P.variant != NAME
    with refused_if(True, NAME):  # which tries, and then is held to what a QR reaches
        x = torch.randn(4, dtype=F64)
        found = projlab.projector(A, 0.0, NAME)(x)
        assert (found - projlab.projector(A, 0.0, "qr")(x)).norm() <= allowed(P, x)


class Contracting:
    """Random vectors of which a correction leaves `rate`, and as much of `left` of their rows."""

    def __init__(self, rate, left):
        self.rate, self.left, self.done, self.ends = rate, left, 0, torch.zeros(1, 1)

    def measured(self):
        by = self.rate**self.done
        left = max(self.left * by if self.done else 1.0, 1e-16)
        return Measured(max(by, 1e-16), max(by, 1e-16), left, left, 0)

    def correct(self):
        self.done += 1


@pytest.mark.parametrize(
    ("rate", "left", "passes"), [(1e-4, 1e-3, 4), (1e-2, 1e-2, 8), (0.08, 1e-3, 2), (0.5, 1.0, 2)]
)
def test_corrections_that_will_not_do_are_given_up_at_once(rate, left, passes):
    found = corrected(Contracting(rate, left))
    assert found.passes == passes
    assert found.at_rest == (passes > 2)


def test_auto_takes_it_where_a_dense_factor_costs_more_and_says_so(monkeypatch):
    assert projlab.projector(grid(6), 0.0).variant == "qr"
    A, b, x = problem("grid")
    P = projlab.projector(A, b)
    assert P.variant == NAME
    assert "would take longer" in P.reason
    small = projlab.projector(A, b, variant="qr")
    limit = allowed(small, x)
    monkeypatch.setattr(memory, "factorisation_bytes", lambda *_: 2**60)
    P = projlab.projector(A, b)
    assert P.variant == NAME
    assert "does not fit" in P.reason
    assert (P(x) - small(x)).norm() <= limit
    # some of the possible ones: to leave redundant rows out takes a decision on the rank
    y = P.multipliers(x)
    assert (x - torch.from_numpy(A.T @ y.numpy()) - P(x)).norm() <= limit
    with pytest.raises(MemoryLimitError, match="rank decision"):
        P(x, b)


def test_what_fits_neither_way_is_refused_with_its_size(monkeypatch):
    A = grid(40)
    monkeypatch.setattr(memory, "limit", lambda device: 100_000)
    with pytest.raises(MemoryLimitError, match=r"nonzeros|formed sparse"):
        projlab.projector(A, 0.0)


def test_a_grid_of_90000_nodes_is_set_up_and_projected_onto():
    A = grid(300)
    rng = np.random.default_rng(0)
    x0, flow = (torch.from_numpy(rng.standard_normal(A.shape[1])) for _ in range(2))
    P = projlab.projector(A, A @ flow.numpy())
    x = P(x0)
    assert P.constraint.residual(x).abs().max() <= 100 * U * float(x.norm())
    # x - x0 is a potential difference: orthogonal to every circulation
    assert abs(float((x - x0) @ P.tangent(flow))) <= 1e4 * U * float((x - x0).norm() * flow.norm())


def test_redundant_rows_that_contradict_are_named(monkeypatch):
    A, b, _ = problem("grid")
    b[17] += 1
    with pytest.raises(InconsistentError, match="row"):
        projlab.projector(A, b, NAME)
    monkeypatch.setattr(memory, "factorisation_bytes", lambda *_: 2**60)
    with pytest.raises(InconsistentError, match=r"at the nearest point row \d+ is off"):
        projlab.projector(A, b)


def test_another_right_side_keeps_the_factor_where_rows_are_independent(monkeypatch):
    A = grid(40)[1:]
    P = projlab.projector(A, 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "svd", None)
        patch.setattr(torch.linalg, "svdvals", None)
        b = torch.from_numpy(A @ np.ones(A.shape[1]))
        x = torch.zeros(A.shape[1], dtype=F64)
        found = P(x, b)
        assert P.rank == A.shape[0]
    assert (torch.from_numpy(A @ found.numpy()) - b).abs().max() <= 1e3 * U
    assert torch.equal(found, projlab.projector(A, b)(x))
    P.b.copy_(b)
    assert torch.equal(P(x), found)
    b.requires_grad_()
    P(x, b).sum().backward()
    assert b.grad is not None


def test_derivatives_in_x():
    A, b, x = problem("scattered")
    P = projlab.projector(A, b, NAME)
    x = torch.stack([x, -x]).requires_grad_()
    assert gradcheck(P, (x,), fast_mode=True)
    assert gradgradcheck(P, (x,), fast_mode=True)
    rows = torch.func.vmap(P)(x.detach())
    assert (rows - P(x.detach())).norm() <= allowed(P, x.detach())


def test_float32_is_rounded_once():
    A = grid(40)[1:]
    b = torch.from_numpy(A @ np.ones(A.shape[1])).float()
    x = torch.randn(A.shape[1])
    P = projlab.projector(A.astype(np.float32), b, NAME)
    found, wide = P(x), projlab.projector(A, b.double(), NAME)(x.double())
    assert found.dtype is torch.float32
    assert (found - wide).abs().max() <= 2.0**-24 * wide.abs().max() * 2
    assert P(x.double()).dtype is F64
    assert projlab.projector(A, b.double(), NAME).to(torch.float32)(x).dtype is torch.float32


def test_copies_and_files_keep_the_answer(tmp_path):
    A, b, x = problem("scattered")
    P = projlab.projector(A, b, NAME)
    want = P(x)
    for Q in (copy.deepcopy(P), pickle.loads(pickle.dumps(P))):  # noqa: S301  # our own
        assert torch.equal(Q(x), want)
    torch.save(P.state_dict(), tmp_path / "P.pt")
    other = projlab.projector(A, torch.zeros_like(b), NAME)
    other.load_state_dict(torch.load(tmp_path / "P.pt"))
    assert torch.equal(other(x), want)


def test_a_copy_keeps_its_order_of_elimination(monkeypatch):
    """The right side is stored in that order, which another scipy may choose otherwise."""
    A, b, x = problem("grid")
    P = projlab.projector(A, b, NAME)
    data, want = pickle.dumps(P), P(x)
    backwards = lambda matrix: np.arange(matrix.shape[0])[::-1].copy()  # noqa: E731
    monkeypatch.setattr("projlab.numerics.sparse_factor.elimination_order", backwards)
    assert torch.equal(pickle.loads(data)(x), want)  # noqa: S301  # our own


def test_long_columns_are_kept_apart():
    A = long_column(4000)
    b = torch.from_numpy(A @ np.ones(A.shape[1]))
    P = projlab.projector(A, b, NAME)
    assert "1 long columns kept apart" in P.reason
    factor = P._solver.factor
    assert isinstance(factor, SparseCholeskyFactor)
    assert factor.gram.fill.nonzeros < 10 * 4000
    x = torch.randn(A.shape[1], dtype=F64)
    assert P.constraint.residual(P(x)).abs().max() <= 1e3 * U * float(x.norm())


def test_blocks_too_large_to_be_dense_are_one_sparse_system(monkeypatch):
    A = sp.block_diag([grid(20)] * 12, format="csr")
    monkeypatch.setattr(tuning, "DENSE_BLOCK", 1000)
    P = projlab.projector(A, 0.0)
    assert P.variant == NAME
    x = torch.randn(A.shape[1], dtype=F64)
    one = projlab.projector(grid(20), 0.0, "qr")
    assert (P(x).reshape(12, -1) - one(x.reshape(12, -1))).norm() <= allowed(one, x)


@pytest.fixture
def never_dense(monkeypatch):
    """Fails where rows are made dense, or singular values computed."""

    def refuse(*_, **__):
        raise AssertionError("made dense")

    monkeypatch.setattr(SparseRows, "to_dense", refuse)
    for name in ("svd", "svdvals", "qr"):
        monkeypatch.setattr(torch.linalg, name, refuse)


@pytest.mark.usefixtures("never_dense")
@pytest.mark.parametrize("variant", ["auto", NAME])
@pytest.mark.parametrize("keywords", [{}, {"accuracy": 1e-6}, {"b_error": 1e-9}])
def test_blocks_beyond_memory_are_one_sparse_system_whatever_is_asked(variant, keywords):
    """A tree, and a few nodes beside it: its block fits no dense matrix."""
    rng = np.random.default_rng(2)
    child = np.arange(1, 100_000)
    parent = (rng.random(len(child)) * child).astype(np.int64)
    edge, ones = np.arange(len(child)), np.ones(len(child))
    entries = np.concatenate([ones, -ones]), (np.concatenate([child, parent]), np.tile(edge, 2))
    tree = sp.csr_array(entries, shape=(100_000, len(child)))[1:]
    A = sp.block_diag([tree, chain(3)], format="csr")
    flow = rng.standard_normal(A.shape[1])
    P = projlab.projector(A, A @ flow, variant, **keywords)
    assert P.variant == NAME
    x = P(torch.zeros(A.shape[1], dtype=F64))
    assert P.constraint.residual(x).abs().max() <= 1e3 * U * float(x.norm())


def flowing(k=100):
    """A flow on a grid, one row of k^2 redundant, with its right side and a point."""
    A, rng = grid(k), np.random.default_rng(3)
    flow, x = rng.standard_normal((2, A.shape[1]))
    return A, torch.from_numpy(A @ flow), torch.from_numpy(x)


@pytest.mark.usefixtures("never_dense")
def test_rank_condition_and_another_right_side_of_a_large_flow_stay_sparse():
    A, b, x = flowing()
    P = projlab.projector(A, b)
    assert P.rank == A.shape[0] - 1
    # eigenvalues of the Laplacian are 4 - 2 cos(pi i / k) - 2 cos(pi j / k), its rows scaled by
    # powers of two: within a factor of two
    exact = np.sqrt((8 * np.sin(np.pi * 99 / 200) ** 2) / (4 * np.sin(np.pi / 200) ** 2))
    assert exact / 2 <= P.condition <= 2 * exact
    found = P(x, 2 * b)
    direct = projlab.projector(A, 2 * b)(x)
    assert (found - direct).norm() <= allowed(P, direct)
    assert P._solver_for(x, decided=True).variant == NAME


@pytest.mark.usefixtures("never_dense")
def test_what_is_asked_for_is_decided_on_sparse_rows():
    A, b, x = flowing()
    want = projlab.projector(A, b)(x)
    P = projlab.projector(A, b, accuracy=1e-6)
    assert P.variant == NAME
    assert (P(x) - want).norm() <= 1e-6 * max(float(x.norm()), float(want.norm()))
    with pytest.raises(AccuracyError, match="accuracy=1e-15"):
        projlab.projector(A, b, NAME, accuracy=1e-15)
    with pytest.raises(RankDeficientError, match="the numerical rank is 9999"):
        projlab.projector(A, b, on_redundant="raise")


@pytest.mark.usefixtures("never_dense")
def test_a_large_flow_may_be_off_by_its_stated_error():
    A, b, x = flowing()
    b[17] += 1e-3
    with pytest.raises(InconsistentError, match="row 9999"):
        projlab.projector(A, b)
    P = projlab.projector(A, b, b_error=1e-3)
    assert "within b_error" in P.reason
    assert P.constraint.residual(P(x)).abs().max() <= 1.1e-3


def test_export_is_refused_by_name():
    A, b, x = problem("chain")
    P = projlab.projector(A, b, NAME)
    with pytest.raises(Exception, match=r"torch\.export cannot hold a sparse factor"):
        torch.export.export(P, (x,))
