"""Triangular factors and solves, on integers, where every operation is exact."""

import pytest
import torch

from projlab.numerics.triangular import columns, householder, triangular_solve, uncolumns

F64 = torch.float64


def triangle(*lead, m=5):
    """Small integers above a diagonal of powers of two: solves round nothing."""
    R = torch.randint(-3, 4, (*lead, m, m)).to(F64).triu(1)
    return R + torch.diag_embed(2.0 ** torch.randint(-2, 3, (*lead, m)))


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("vectors", [(), (1,), (4,)])
def test_it_solves_over_the_last_dimension(vectors, transpose):
    R, y = triangle(), torch.randint(-9, 10, (*vectors, 5)).to(F64)
    v = y @ (R if transpose else R.mT)
    assert torch.equal(triangular_solve(R, v, transpose=transpose), y)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("k", [1, 4])
def test_it_solves_a_batch_each_with_its_own(k, transpose):
    R, y = triangle(3), torch.randint(-9, 10, (3, k, 5)).to(F64)
    v = y @ (R if transpose else R.mT)
    assert torch.equal(triangular_solve(R, v, transpose=transpose), y)


def test_what_is_below_the_diagonal_is_not_read():
    R, v = triangle(), torch.ones(5, dtype=F64)
    expected = triangular_solve(R, v, transpose=False)
    R += torch.full((5, 5), 7.0, dtype=F64).tril(-1)
    assert torch.equal(triangular_solve(R, v, transpose=False), expected)


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("n", [4, 9])
def test_the_reflectors_have_the_R_of_a_QR(n, lead):
    M = torch.randn(*lead, n, 4, dtype=F64)
    R = householder(M).R
    assert R.shape == (*lead, 4, 4)
    assert torch.equal(R, torch.linalg.qr(M, mode="r").R)
    assert torch.equal(R, R.triu())


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5), (2, 3, 5), (0, 5)])
def test_vectors_become_columns_and_vectors_again(shape):
    v = torch.randn(shape, dtype=F64)
    assert columns(v).shape[-2] == 5
    assert torch.equal(uncolumns(columns(v), v), v)
