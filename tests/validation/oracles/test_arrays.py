"""Arrays of balls."""

import numpy as np
import pytest
import scipy.sparse as sp
from flint import arb

from projlab_validation.oracles.arrays import SparseBalls, nearest, nonzero, norm, product
from projlab_validation.oracles.arrays import ball as ball_of
from tests.validation.oracles.cases import EPS


class TestArrays:
    def test_a_ball_around_zero_is_not_zero(self):
        v = np.array([arb(0), arb(0, 1e-9), arb(1)], dtype=object)
        assert nonzero(v).tolist() == [False, True, True]
        out = SparseBalls(sp.csr_array(np.ones((1, 3)))) @ v
        assert out[0].contains(1 + 1e-10)
        assert out[0].contains(1 - 1e-10)

    def test_norm_is_an_upper_bound(self):
        assert (
            norm(np.array([arb(3, 0.5), arb(4, 0.5)], dtype=object)) >= arb(3.5**2 + 4.5**2).sqrt()
        )
        assert norm(np.empty(0, dtype=object)) == 0

    @pytest.mark.parametrize("columns", [(), (2,), (0,)])
    def test_products_agree_with_float64(self, columns):
        rng = np.random.default_rng(0)
        A = sp.random_array((5, 7), density=0.5, rng=rng, format="csr")
        P, x = rng.standard_normal((5, 7)), rng.standard_normal((7, *columns))
        y = rng.standard_normal((5, *columns))
        stored = SparseBalls(A)
        for answer, expected in (
            (stored @ ball_of(x), A @ x),
            (stored.adjoint(ball_of(y)), A.T @ y),
            (product(ball_of(P), ball_of(x)), P @ x),
        ):
            assert answer.shape == expected.shape
            assert nearest(answer) == pytest.approx(expected, abs=40 * EPS)
