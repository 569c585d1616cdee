"""Which rows carry a rank: well-conditioned ones, and the earlier of two alike."""

import numpy as np
import pytest
import torch

from projlab import tolerance
from projlab.system.row_choice import choose_rows, rows_given

F64 = torch.float64


def basis_of(A):
    """Orthonormal basis of the range, and the row norms."""
    rank = int(torch.linalg.matrix_rank(A))
    return torch.linalg.svd(A).U[:, :rank], A.norm(dim=1)


def deficient(m, rank, n, seed):
    """Integer rows, and exact integer combinations of them, in some order."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-9, 10, (rank, n)).astype(float)
    more = rng.integers(-2, 3, (m - rank, rank)).astype(float)
    more[~more.any(1), 0] = 1.0
    return torch.from_numpy(rng.permutation(np.concatenate([rows, more @ rows])))


@pytest.mark.parametrize("seed", range(5))
def test_the_others_follow_with_small_coefficients(seed):
    A = deficient(20, 6, 15, seed)
    basis, norms = basis_of(A)
    kept, dropped, C = choose_rows(basis, norms)
    assert sorted([*kept.tolist(), *dropped.tolist()]) == list(range(20))
    assert kept.tolist() == sorted(kept.tolist())
    assert dropped.tolist() == sorted(dropped.tolist())
    # solved from a block whose condition is modest, so to a modest multiple of u
    assert torch.allclose(C @ A[kept], A[dropped], rtol=0, atol=1e-10)
    unit = C * norms[kept] / norms[dropped, None]
    assert unit.abs().max() <= tolerance.LARGEST_COEFFICIENT * (1 + 1e-9)
    # Goreinov, Tyrtyshnikov and Zamarashkin 1997
    sigma = torch.linalg.svdvals(basis / norms[:, None])[-1]
    block = torch.linalg.svdvals((basis / norms[:, None])[kept])[-1]
    growth = tolerance.LARGEST_COEFFICIENT**2
    assert block >= sigma / (1 + growth * 6 * 14) ** 0.5


def test_of_rows_alike_the_earlier_is_kept():
    A = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 4.0], [-3.0, -1.0]], dtype=F64)
    kept, dropped, C = choose_rows(*basis_of(A))
    assert kept.tolist() == [0, 1]
    assert dropped.tolist() == [2, 3]
    assert torch.allclose(C, torch.tensor([[2.0, 0.0], [0.0, -1.0]], dtype=F64), atol=1e-14)


def test_rows_that_are_given():
    A = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=F64)
    basis, _ = basis_of(A)
    kept, dropped, C = rows_given(basis, torch.tensor([0, 2]))
    assert (kept.tolist(), dropped.tolist()) == ([0, 2], [1])
    assert torch.allclose(C, torch.tensor([[-1.0, 1.0]], dtype=F64), atol=1e-14)
