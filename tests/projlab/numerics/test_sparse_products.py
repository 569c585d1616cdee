"""Products by compressed rows agree with the dense ones; indices are as wide as they must be."""

import warnings

import numpy as np
import scipy.sparse
import torch

from projlab.numerics.sparse_products import both, compressed
from projlab.system.rows import as_rows


def test_both_ways():
    S = scipy.sparse.random_array((7, 11), density=0.3, rng=np.random.default_rng(0))
    A = torch.from_numpy(S.toarray())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forward, adjoint = both(*as_rows(S).triplets(), (7, 11))
        for lead in ((), (1,), (4,), (2, 3), (0,)):
            x, y = torch.randn(*lead, 11, dtype=A.dtype), torch.randn(*lead, 7, dtype=A.dtype)
            assert torch.allclose(forward(x), x @ A.T)
            assert torch.allclose(adjoint(y), y @ A)
    assert forward.columns.dtype is torch.int32
    assert torch.allclose(forward.to(torch.device("cpu"))(A[0]), A @ A[0])


def test_indices_beyond_32_bits_are_kept():
    wide = compressed(torch.tensor([0]), torch.tensor([2**31]), torch.ones(1), (1, 2**31 + 1))
    assert wide.columns.dtype is torch.int64
    assert wide.columns.tolist() == [2**31]
