"""The Euclidean norm at every size."""

import numpy as np
import pytest
import scipy.sparse as sp

from projlab_validation.norms import norm, row_norms


@pytest.mark.parametrize("size", [0.0, 1e-320, 1e-170, 1.0, 1e30, 1e200, 1e307, np.inf])
def test_no_square_overflows_or_vanishes(size):
    v = np.array([3.0, -4.0, 0.0]) * size if np.isfinite(size) else np.array([3.0, -size])
    assert norm(v) == pytest.approx(5 * size, rel=1e-3 if size == 1e-320 else 1e-15, abs=0.0)


def test_nan_stays_nan_and_float32_is_summed_in_float64():
    assert np.isnan(norm(np.array([1.0, np.nan])))
    v = np.full(1000, 1e30, dtype=np.float32)
    assert norm(v) == pytest.approx(np.linalg.norm(v.astype(np.float64)), rel=1e-15)


@pytest.mark.parametrize("size", [1e-320, 1e-170, 1.0, 1e200, 1e307])
def test_norms_of_rows_neither_overflow_nor_vanish(size):
    A = sp.csr_array(np.array([[0, 0, 0], [3, -4, 0], [0, 0, 1], [0, 0, 0]]) * size)
    want = np.array([0, 5, 1, 0]) * size
    np.testing.assert_allclose(row_norms(A), want, rtol=1e-3 if size == 1e-320 else 1e-15)
    assert len(row_norms(A[:1])) == 1
