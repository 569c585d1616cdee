"""Independent blocks of a sparse system: what the whole would give, without the whole."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck

import projlab
from projlab import tolerance
from projlab.engine.blocks import BlockSolver
from projlab.numerics import memory, tuning

F64 = torch.float64
U = 2.0**-53


@pytest.fixture
def always(monkeypatch):
    """Take every sparse system apart, whatever it costs."""
    monkeypatch.setattr(tuning, "SPLIT_GAIN", 0)
    monkeypatch.setattr(tuning, "WHOLE", 0)


def scattered(blocks, seed=0):
    """The blocks on a diagonal, rows and columns in any order, with a row and a column of zeros."""
    rng = np.random.default_rng(seed)
    A = sp.block_diag([*blocks, np.zeros((1, 1))], format="csr")
    return A[rng.permutation(A.shape[0])][:, rng.permutation(A.shape[1])].tocsr()


def mixed(seed=0):
    rng = np.random.default_rng(seed)
    blocks = [rng.integers(-3, 4, (2, 4)) + np.eye(2, 4) * 7 for _ in range(5)]
    blocks += [rng.standard_normal((3, 5)) for _ in range(4)] + [np.ones((1, 3))] * 3
    blocks.append(np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 1.0, 1.0]]))  # a redundant row
    return scattered(blocks, seed)


def problem(A, seed=1):
    rng = np.random.default_rng(seed)
    b = torch.from_numpy(A @ rng.standard_normal(A.shape[1]))
    return b, torch.from_numpy(rng.standard_normal(A.shape[1]))


def allowed(A, x):
    """Of two answers, each by a backward-stable method, for blocks of condition below 100."""
    m, n = A.shape
    return 2 * tolerance.dimension_factor(m, n) * 100 * U * float(torch.linalg.vector_norm(x))


@pytest.mark.parametrize("variant", ["auto", "qr", "cholesky", "pinv"])
def test_blocks_give_what_the_dense_system_gives(variant, always):
    A = mixed()
    b, x = problem(A)
    P, Q = projlab.projector(A, b, variant), projlab.projector(A.toarray(), b, "qr")
    assert isinstance(P._solver, BlockSolver)
    assert "blocks that share no variable" in P.reason
    for point in (x, torch.stack([x, -x]), x.reshape(1, 1, -1)):
        assert (P(point) - Q(point)).abs().max() <= allowed(A, x)
        assert (P.tangent(point) - Q.tangent(point)).abs().max() <= allowed(A, x)
    y = P.multipliers(x)
    assert (x - torch.from_numpy(A.T @ y.numpy()) - P(x)).abs().max() <= allowed(A, x)
    assert torch.equal(P.project_(x.clone()), P(x))
    assert P.rank == Q.rank
    assert P.condition == pytest.approx(Q.condition, rel=1e-9)


def test_another_b_and_derivatives(always):
    A = mixed()
    b, x = problem(A)
    P = projlab.projector(A, b)
    other = torch.from_numpy(A @ np.ones(A.shape[1]))
    assert (P.constraint.residual(P(x)) / (1 + b.abs())).abs().max() <= allowed(A, x)
    assert np.abs(A @ P(x, other).numpy() - other.numpy()).max() <= allowed(A, x)
    assert gradcheck(P, (x.clone().requires_grad_(),))
    with pytest.raises(projlab.RankDeficientError, match="rank is"):
        P(x, other.clone().requires_grad_())


def test_a_copy_a_pickle_and_a_state_dict_keep_the_blocks(always):
    A = mixed()
    b, x = problem(A)
    P = projlab.projector(A, b)
    Q = pickle.loads(pickle.dumps(P))  # noqa: S301  # our own bytes
    R = projlab.projector(A, 2 * b)
    R.load_state_dict(P.state_dict())
    for other in (Q, R):
        assert isinstance(other._solver, BlockSolver)
        assert torch.equal(other(x), P(x))


def test_many_blocks_need_no_matrix_of_the_whole(monkeypatch):
    """20,000 blocks of 2 x 3 were 109 GB as one matrix."""
    monkeypatch.setattr(memory, "limit", lambda device: 2**28)
    rng = np.random.default_rng(0)
    blocks = rng.standard_normal((20_000, 2, 3))
    A = sp.block_diag(list(blocks), format="csr")
    b, x = problem(A)
    P = projlab.projector(A, b)
    one_by_one = projlab.project(x.reshape(-1, 3), torch.from_numpy(blocks), b.reshape(-1, 2), "qr")
    kappa = np.linalg.cond(blocks / np.linalg.norm(blocks, axis=-1, keepdims=True))
    off = torch.linalg.vector_norm(P(x).reshape(-1, 3) - one_by_one, dim=-1).numpy()
    size = torch.linalg.vector_norm(x.reshape(-1, 3), dim=-1) + torch.linalg.vector_norm(
        one_by_one, dim=-1
    )
    assert (off <= 2 * tolerance.dimension_factor(2, 3) * kappa * U * size.numpy()).all()


def test_a_few_dense_blocks_stay_one_system():
    rng = np.random.default_rng(0)
    A = sp.block_diag([rng.standard_normal((2, 4)) for _ in range(2)], format="csr")
    b, _ = problem(A)
    assert not isinstance(projlab.projector(A, b)._solver, BlockSolver)


def test_so_few_rows_are_set_up_whole_as_dense_ones_are():
    A = scattered([np.array([[1.0, 2.0, -1.0], [0.0, 1.0, 1.0]])] * 8)
    A = sp.csr_array(A)[abs(sp.csr_array(A)).sum(1) > 0]
    b, x = problem(A)
    P, Q = projlab.projector(A, b), projlab.projector(A.toarray(), b)
    assert (P.variant, str(P.reason)) == (Q.variant, str(Q.reason))
    assert torch.equal(P(x), Q(x))
    assert torch.equal(P.multipliers(x), Q.multipliers(x))
    assert P.A.is_sparse
    # 256 of them are more than one QR is worth
    A = scattered([np.array([[1.0, 2.0, -1.0], [0.0, 1.0, 1.0]])] * 256)
    assert isinstance(projlab.projector(A, problem(A)[0])._solver, BlockSolver)


def test_contradictions_are_named_by_their_rows(always):
    A = scattered([np.array([[1.0, 1.0], [2.0, 2.0]])] * 6)
    b = torch.from_numpy(A @ np.ones(A.shape[1]))
    rows = np.flatnonzero(A.toarray() @ np.ones(A.shape[1]) == 4)
    b[int(rows[3])] += 1.0
    with pytest.raises(
        projlab.InconsistentError, match=f"row {rows[3]} = 2|0.5 \\* row {rows[3]} "
    ):
        projlab.projector(A, b)
    P = projlab.projector(A, b, on_inconsistent="least_squares")
    Q = projlab.projector(A.toarray(), b, on_inconsistent="least_squares")
    x = torch.randn(A.shape[1], dtype=F64)
    assert (P(x) - Q(x)).abs().max() <= allowed(A, x)


def test_a_row_without_coefficients_has_to_be_zero(always):
    A = scattered([np.ones((1, 2))] * 4)
    b = torch.zeros(A.shape[0], dtype=F64)
    x = torch.randn(A.shape[1], dtype=F64)
    assert np.abs(A @ projlab.projector(A, b)(x).numpy()).max() <= allowed(A, x)
    A = scattered([np.array([[1.0, 1.0], [1.0, 2.0]])] * 4)
    empty = int(np.flatnonzero(abs(A).sum(1) == 0)[0])
    b = torch.zeros(A.shape[0], dtype=F64)
    b[empty] = 1.0
    with pytest.raises(projlab.InconsistentError, match=f"row {empty}"):
        projlab.projector(A, b)


def test_consistency_is_judged_on_the_scale_of_the_whole_system(always):
    """A block off by rounding of numbers elsewhere is not refused, as the whole would not be."""
    big = np.array([[1.0, 2.0], [2.0, -1.0]])
    small = np.array([[1.0, 1.0], [1.0, 1.0]])
    A = sp.block_diag([big, small, small], format="csr")
    b = torch.tensor([1e3, 1e3, 0.0, 1e-13, 0.0, 0.0], dtype=F64)
    P, Q = projlab.projector(A, b), projlab.projector(A.toarray(), b)
    assert isinstance(P._solver, BlockSolver)
    x = torch.randn(6, dtype=F64)
    assert (P(x) - Q(x)).abs().max() <= allowed(A, torch.full((6,), 1e3, dtype=F64))
    b[3] = 1e-9
    for form in (A, A.toarray()):
        with pytest.raises(projlab.InconsistentError):
            projlab.projector(form, b)


def test_an_error_of_one_block_names_its_rows(always):
    A = scattered([np.array([[1.0, 1.0], [2.0, 2.0]])] * 4)
    b = torch.zeros(A.shape[0], dtype=F64)
    with pytest.raises(projlab.RankDeficientError, match=r"row 0 = 0|row \d+ = "):
        projlab.projector(A, b, on_redundant="raise")
    A = scattered([np.array([[1.0, 1.0], [2.0, 1.0]])] * 4)
    with pytest.raises(projlab.InputError, match="single_row takes rows that share no column"):
        projlab.projector(A, b, "single_row")


def test_rows_that_share_no_variable_are_no_blocks(always):
    P = projlab.projector(scattered([np.full((1, 2), 3.0)] * 4), 0.0)
    assert P.variant == "single_row"
    assert "no two of the 4 rows share a column" in P.reason
