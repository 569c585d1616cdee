"""The compiled kernels, called by address, against plain products."""

import numpy as np
import pytest
import torch

from projlab import tolerance
from tests.projlab.ways import NUMBA

if not NUMBA:
    pytest.skip("numba, the extra `native`, is not installed", allow_module_level=True)

from projlab.engine.kernels import numba_kernels
from projlab.engine.kernels.native import plan

KERNELS = {torch.float32: numba_kernels.float32, torch.float64: numba_kernels.float64}


def orthonormal(*lead, m, n, dtype):
    W = torch.linalg.qr(torch.randn(*lead, n, m, dtype=torch.float64)).Q.mT
    return W.to(dtype).contiguous()


def project(x, W, c, *, step, system):
    """In place, x (B, k, n), W (B, m, n); c begins at i * system + j * step for x[i, j]."""
    B, k, n = x.shape
    numbers = plan(W.data_ptr(), c.data_ptr(), B, W.shape[1], n, step, system)
    KERNELS[x.dtype](x.data_ptr(), k, numbers.buffer_info()[0])


def check(found, x, W, c):
    """Orthonormal rows: each way errs by dimension_factor u (||x|| + ||c||)."""
    wide, rows = x.double(), W.double()
    expected = wide - (wide @ rows.mT + c.double()) @ rows
    m, n = W.shape[-2:]
    size = wide.norm(dim=-1) + c.double().norm(dim=-1)
    allowed = tolerance.dimension_factor(m, n) * tolerance.unit_roundoff(x.dtype) * size
    assert ((found.double() - expected).norm(dim=-1) <= allowed).all()


@pytest.mark.parametrize("dtype", KERNELS)
@pytest.mark.parametrize("k", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("m", [*range(1, 17), 23])
def test_every_group_of_rows_and_of_vectors(m, k, dtype):
    """Rows go by four, two and one, vectors by four: every remainder."""
    W, x = orthonormal(1, m=m, n=29, dtype=dtype), torch.randn(1, k, 29, dtype=dtype)
    c, found = torch.randn(m, dtype=dtype), x.clone()
    project(found, W, c, step=0, system=0)
    check(found, x, W, c)


@pytest.mark.parametrize("dtype", KERNELS)
def test_a_right_hand_side_for_each_vector(dtype):
    W, x = orthonormal(1, m=6, n=13, dtype=dtype), torch.randn(1, 5, 13, dtype=dtype)
    c, found = torch.randn(5, 6, dtype=dtype), x.clone()
    project(found, W, c, step=6, system=0)
    check(found, x, W, c)


@pytest.mark.parametrize("dtype", KERNELS)
@pytest.mark.parametrize("each", [False, True])
def test_a_system_for_each_batch(each, dtype):
    W, x = orthonormal(3, m=6, n=13, dtype=dtype), torch.randn(3, 5, 13, dtype=dtype)
    c, found = torch.randn(3, 5 if each else 1, 6, dtype=dtype), x.clone()
    project(found, W, c, step=6 if each else 0, system=c.shape[1] * 6)
    check(found, x, W, c)


@pytest.mark.parametrize("n", [2047, 2048, 2049])
def test_long_rows(n):
    W, x = orthonormal(1, m=9, n=n, dtype=torch.float64), torch.randn(1, 1, n, dtype=torch.float64)
    c, found = torch.randn(9, dtype=torch.float64), x.clone()
    project(found, W, c, step=0, system=0)
    check(found, x, W, c)


@pytest.mark.parametrize("dtype", KERNELS)
@pytest.mark.parametrize("m", range(168, 176))
def test_groups_of_eight_rows(m, dtype):
    """Beyond a second-level cache rows go by eight, the rest by four, two and one."""
    W, x = orthonormal(2, m=m, n=1600, dtype=dtype), torch.randn(2, 3, 1600, dtype=dtype)
    assert numba_kernels.by_eight(W[0].numpy())
    c, found = torch.randn(2, 3, m, dtype=dtype), x.clone()
    project(found, W, c, step=m, system=3 * m)
    for i in range(2):
        check(found[i], x[i], W[i], c[i])


@pytest.mark.parametrize(
    ("m", "n", "why"),
    [
        (80, 1600, "all of W in a second-level cache"),
        (4000, 500, "short rows"),
        (20, 9000, "two groups that leave that cache"),
        (100, 2048, "rows one page apart"),
        (100, 2049, "rows all but a page apart"),
        (100, 2045, "rows all but a page apart"),
    ],
)
def test_other_rows_go_by_four(m, n, why):
    assert not numba_kernels.by_eight(np.empty((m, n))), why


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_and_infinity_keep_their_meaning(value):
    W, x = orthonormal(1, m=3, n=7, dtype=torch.float64), torch.zeros(1, 1, 7, dtype=torch.float64)
    x[0, 0, 2] = value
    project(x, W, torch.zeros(3, dtype=torch.float64), step=0, system=0)
    assert not x.isfinite().any()
