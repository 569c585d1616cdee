"""A lower bound on the smallest singular value is below it, whatever the factor."""

import mpmath
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from projlab_validation.oracles import sigma_min
from tests.validation.oracles.cases import EPS, random_rows


class TestSigmaMin:
    @pytest.mark.parametrize("condition", [1, 1e4, 1e8, 1e12])
    @pytest.mark.parametrize("shape", [(1, 5), (6, 6), (40, 90)])
    def test_is_below_sigma_min_and_close(self, shape, condition):
        m, n = shape
        A = random_rows(m, n, seed=n, condition=condition if m > 1 else 1)
        R = np.linalg.qr(A.T, mode="r")
        bound = sigma_min.lower_bound(sp.csr_array(A), R)
        smallest = np.linalg.svd(A, compute_uv=False)[-1]
        accuracy = 1 - m * n * EPS * condition  # of numpy's own
        assert smallest * accuracy / (2 * np.sqrt(m)) < bound <= smallest / accuracy

    @given(st.integers(0, 10**6), st.floats(-12, 1))
    def test_is_below_sigma_min_whatever_the_factor(self, seed, magnitude):
        """A factor that is off may cost the proof, never its truth."""
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((4, 7))
        R = np.triu(np.linalg.qr(A.T, mode="r") + 10**magnitude * rng.standard_normal((4, 4)))
        bound = sigma_min.lower_bound(sp.csr_array(A), R)
        assert 0 <= bound <= np.linalg.svd(A, compute_uv=False)[-1] * (1 + 1e-12)

    @pytest.mark.parametrize("condition", [1e13, 1e14, 1e15, 1e16, 1e17])
    @pytest.mark.parametrize("seed", range(5))
    def test_is_below_sigma_min_where_float64_is_at_its_end(self, seed, condition):
        """The computed YᵀY is close to I by luck here, and proves nothing without its own error."""
        A = random_rows(6, 12, seed, condition)
        bound = sigma_min.lower_bound(sp.csr_array(A), np.linalg.qr(A.T, mode="r"))
        assert bound <= min(mpmath.svd_r(mpmath.matrix(A.tolist()), compute_uv=False))

    @pytest.mark.parametrize("R", [np.zeros((2, 2)), np.full((2, 2), np.nan), np.eye(2) * 1e-30])
    def test_is_zero_without_a_proof(self, R):
        assert sigma_min.lower_bound(sp.csr_array(np.eye(2)), R) == 0
