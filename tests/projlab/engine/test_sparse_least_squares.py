"""Sparse rows that contradict each other, in least squares: by sparse factors, nothing dense."""

import copy

import numpy as np
import pytest
import scipy.sparse
import torch
from torch.autograd import gradcheck

import projlab
from projlab import tolerance
from projlab.errors import MemoryLimitError
from projlab.numerics import memory
from tests.projlab.sparse_systems import grid, redundant, scattered, tree

F64 = torch.float64
NAME = "sparse_cholesky"
U = 2.0**-53


def weighted():
    """Rows of a grid, some of them twice, in units that differ by up to 800."""
    A = grid(5)
    A = A[np.r_[0 : A.shape[0], 3, 7, 7]]
    rng = np.random.default_rng(0)
    return A.multiply(rng.choice([1e-2, 1.0, 8.0], A.shape[0])[:, None]).tocsr()


SYSTEMS = {
    "grid": lambda: grid(6),
    "weighted": weighted,
    "tree": lambda: tree(40),
    "combinations": lambda: redundant(scattered(20, 45, 3), 6)[0],
    "tall": lambda: scattered(25, 60, 2).T.tocsr(),
}


def problem(name, seed=1):
    A = SYSTEMS[name]()
    rng = np.random.default_rng(seed)
    b, x = (torch.from_numpy(rng.standard_normal(k)) for k in A.shape)
    return A, b, x


def nearest(A, b, x):
    """By singular values of A as given, and what rounding may do to it."""
    D = A.toarray()
    step, _, rank, sigma = np.linalg.lstsq(D, D @ x.numpy() - b.numpy(), rcond=1e-12)
    kappa = sigma[0] / sigma[rank - 1]
    size = float(x.norm()) + kappa * float(b.norm()) / sigma[0]
    allowed = 10 * tolerance.dimension_factor(*A.shape) * U * kappa * size
    return x - torch.from_numpy(step), allowed


def projector(A, b, **keywords):
    P = projlab.projector(A, b, NAME, on_inconsistent="least_squares", **keywords)
    assert P.variant == NAME
    return P


@pytest.mark.parametrize("name", SYSTEMS)
def test_it_projects_onto_the_least_squares_solutions(name):
    A, b, x = problem(name)
    P = projector(A, b)
    assert "what contradicts in b is taken out by a sparse factor of the columns" in P.reason
    wanted, allowed = nearest(A, b, x)
    assert (P(x) - wanted).norm() <= allowed
    assert torch.equal(P.project_(x.clone()), P(x))
    dense = projlab.projector(torch.from_numpy(A.toarray()), b, on_inconsistent="least_squares")
    assert (P(x) - dense(x)).norm() <= 2 * allowed


@pytest.mark.parametrize("name", SYSTEMS)
def test_another_right_side_needs_no_decision(name, monkeypatch):
    A, b, x = problem(name)
    P = projector(A, b)
    monkeypatch.setattr(projlab.Projector, "_decide", lambda *_: pytest.fail("decided"))
    for b_other in (b.flip(0), torch.stack([b, 2 * b, b.flip(0)])):
        found = P(x, b_other)
        for one, right in zip(found.reshape(-1, len(x)), b_other.reshape(-1, len(b)), strict=True):
            wanted, allowed = nearest(A, right, x)
            assert (one - wanted).norm() <= allowed


def test_buffers_copies_and_dtypes_follow():
    A, b, x = problem("weighted")
    P = projector(A, b)
    same = copy.deepcopy(P)
    assert torch.equal(same(x), P(x))
    P.b.copy_(b.flip(0))
    wanted, allowed = nearest(A, b.flip(0), x)
    assert (P(x) - wanted).norm() <= allowed
    same.load_state_dict(P.state_dict())
    assert (same(x) - wanted).norm() <= allowed
    assert P(x.float()).dtype is torch.float32
    narrow = projector(grid(5).astype(np.float32), torch.randn(25, dtype=torch.float32))
    x = torch.randn(40, dtype=torch.float32)
    wanted, allowed = nearest(grid(5), narrow.b.double(), x.double())
    assert (narrow(x) - wanted).norm() <= 2.0**29 * allowed


def test_what_has_a_solution_is_projected_onto_as_without():
    A = scattered(20, 45, 3)
    b, x = torch.randn(20, dtype=F64), torch.randn(45, dtype=F64)
    P = projector(A, b)
    assert "contradicts" not in P.reason
    assert torch.equal(P(x), projlab.projector(A, b, NAME)(x))


def test_derivatives_are_those_of_the_dense_one():
    A, b, x = problem("combinations")
    P = projector(A, b)
    assert gradcheck(P, (x.clone().requires_grad_(),))
    dense = projlab.projector(torch.from_numpy(A.toarray()), b, on_inconsistent="least_squares")
    jacobians = (torch.func.jacrev(Q)(x) for Q in (P, dense))
    torch.testing.assert_close(*jacobians, rtol=0, atol=1e-12)


def test_the_automatic_choice_takes_it_where_dense_rows_do_not_fit(monkeypatch):
    A, b, x = problem("weighted")
    monkeypatch.setattr(memory, "factorisation_bytes", lambda *_: 2**60)
    P = projlab.projector(A, b, on_inconsistent="least_squares")
    assert P.variant == NAME
    wanted, allowed = nearest(A, b, x)
    assert (P(x) - wanted).norm() <= allowed
    y = P.multipliers(x)
    assert (x - torch.from_numpy(A.T @ y.numpy()) - P(x)).norm() <= allowed


def test_what_fits_neither_way_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda _: 50_000)
    with pytest.raises(MemoryLimitError):
        projlab.projector(grid(20), np.arange(400.0), on_inconsistent="least_squares")


def test_long_rows_whose_columns_would_fill_are_met_by_a_dense_basis():
    """A row of k entries makes a k x k block of A'A; of a few rows a basis is small."""
    A = scipy.sparse.csr_array(np.random.default_rng(0).standard_normal((6, 3000)).round(2))
    A = scipy.sparse.csr_array(scipy.sparse.vstack([A, A[:2]]))
    b, x = torch.arange(8.0, dtype=F64), torch.randn(3000, dtype=F64)
    P = projector(A, b)
    assert "columns" not in P.reason
    wanted, allowed = nearest(A, b, x)
    assert (P(x) - wanted).norm() <= allowed
