"""AffineConstraint: the equations as given, checked once, immutable."""

import math

import numpy as np
import pytest
import scipy.sparse
import torch

import projlab
from projlab import AffineConstraint
from tests.projlab import exact

F64 = torch.float64


def test_it_holds_the_equations_as_given():
    A, b = torch.randn(2, 5), torch.randn(2)
    c = AffineConstraint(A, b)
    assert torch.equal(c.A, A)
    assert torch.equal(c.b, b)
    assert (c.m, c.n, c.batch, c.dtype, c.device.type) == (2, 5, None, torch.float32, "cpu")
    assert c.names == ("row 0", "row 1")
    assert AffineConstraint(A, b, names=["p", "q"]).names == ("p", "q")
    assert AffineConstraint(A.expand(3, 2, 5), b).batch == 3


def test_one_row_scalars_and_lists():
    c = AffineConstraint([1, 2, 3], 4)
    assert (c.A.tolist(), c.b.tolist(), c.A.dtype) == ([[1.0, 2.0, 3.0]], [4.0], F64)
    c = AffineConstraint([[1, 2], [3, 4]], [5, 6])
    assert (c.A.tolist(), c.b.tolist()) == ([[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0])
    c = AffineConstraint(np.ones((2, 3, 4)), np.ones(3))
    assert (tuple(c.A.shape), tuple(c.b.shape)) == ((2, 3, 4), (2, 3))


@pytest.mark.parametrize(
    "make", [scipy.sparse.csr_array, lambda A: torch.from_numpy(A).to_sparse()]
)
def test_sparse_rows_stay_sparse(make):
    A = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    c = AffineConstraint(make(A), 0.0)
    assert c.A.layout == torch.sparse_coo
    assert torch.equal(c.A.to_dense(), torch.from_numpy(A))
    assert (c.m, c.n) == (2, 3)
    assert "sparse" in repr(c)


def test_it_is_immutable():
    c = AffineConstraint([[1.0, 2.0]], [3.0])
    for name in ("A", "b", "names", "anything"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(c, name, None)


def test_it_is_a_copy():
    A = np.ones((1, 2))
    c = AffineConstraint(A, 1.0)
    A[:] = 7.0
    assert c.A.tolist() == [[1.0, 1.0]]


def test_what_it_prints():
    assert repr(AffineConstraint(torch.ones(2, 3), 0.0)) == (
        "AffineConstraint(2 equations in 3 variables, float32, cpu)"
    )
    assert "4 systems of 2 equations" in repr(AffineConstraint(torch.ones(4, 2, 3), 0.0))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_residual(dtype, sparse):
    A, b = torch.randn(4, 9, dtype=dtype), torch.randn(4, dtype=dtype)
    x = torch.randn(2, 3, 9, dtype=dtype)
    c = AffineConstraint(A.to_sparse() if sparse else A, b)
    r = c.residual(x)
    assert r.shape == (2, 3, 4)
    assert r.dtype == dtype
    M, right, u = exact.matrix(A), exact.vector(b), torch.finfo(dtype).eps / 2
    for point, found in zip(x.flatten(0, 1), r.flatten(0, 1), strict=True):
        expected = exact.subtract(exact.times(M, exact.vector(point)), right)
        for i in range(4):
            # an inner product of length n and a subtraction (ASNA, section 3.1)
            size = float((A[i].double().abs() * point.double().abs()).sum() + b[i].abs())
            assert abs(float(exact.rational(found[i]) - expected[i])) <= 1.01 * 10 * u * size


def test_residual_takes_the_wider_dtype():
    c = AffineConstraint(torch.ones(1, 2), 0.1)
    assert c.residual(torch.ones(2, dtype=F64)).dtype == F64
    assert AffineConstraint([[1.0, 1.0]], 0.1).residual(torch.ones(2)).dtype == F64


def test_batched_residual():
    A, b = torch.randn(3, 2, 5, dtype=F64), torch.randn(3, 2, dtype=F64)
    c = AffineConstraint(A, b)
    x = torch.randn(3, 4, 6, 5, dtype=F64)
    r = c.residual(x)
    assert r.shape == (3, 4, 6, 2)
    one = AffineConstraint(A[1], b[1]).residual(x[1])
    assert (r[1] - one).abs().max() <= 20 * 2**-53 * 30
    assert c.residual(x[:, 0, 0]).shape == (3, 2)
    assert c.residual(torch.zeros(3, 0, 5, dtype=F64)).shape == (3, 0, 2)


def test_residual_is_differentiable_in_x():
    c = AffineConstraint([[1.0, 2.0]], 0.0)
    x = torch.zeros(2, dtype=F64, requires_grad=True)
    c.residual(x).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0]


def test_residual_lets_nan_through():
    assert math.isnan(AffineConstraint([[1.0, 2.0]], 0.0).residual(torch.tensor([math.nan, 0.0])))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.uint64, np.longdouble, ">f4"])
def test_what_torch_has_no_type_for_is_taken_as_floats(dtype):
    A = np.ones((1, 2), dtype=dtype)
    assert AffineConstraint(A, 1.0).A.tolist() == [[1.0, 1.0]]
    sparse = scipy.sparse.csr_array(np.ones((1, 2), dtype=np.dtype(dtype).newbyteorder("=")))
    assert AffineConstraint(sparse, 1.0).A.to_dense().tolist() == [[1.0, 1.0]]


def test_one_constraint_serves_many_projectors():
    c = AffineConstraint(torch.randn(3, 7, dtype=F64), torch.randn(3, dtype=F64), list("pqr"))
    x = torch.randn(7, dtype=F64)
    results = [projlab.projector(c, variant=v)(x) for v in ("qr", "pinv", "cholesky")]
    for result in results[1:]:
        assert (result - results[0]).abs().max() <= 1e-12
    assert projlab.projector(c).constraint is c
    assert projlab.diagnose(c).rank == 3
    assert projlab.project(x, c).shape == (7,)
