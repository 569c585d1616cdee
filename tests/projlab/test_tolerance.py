"""The thresholds against what they are derived from."""

import math

import pytest
import torch
from hypothesis import given as draw
from hypothesis import strategies as st

from projlab import tolerance

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SIZES = st.integers(1, 10_000)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_unit_roundoff_is_half_the_distance_from_one_to_the_next(dtype):
    u = tolerance.unit_roundoff(dtype)
    one = torch.ones((), dtype=dtype)
    assert one + 2 * u > one
    assert one + u == one
    assert tolerance.unit_roundoff(str(dtype).removeprefix("torch.")) == u


def test_float32_is_the_coarsest_data_analysed_in_float64():
    assert tolerance.unit_roundoff(torch.float32) == tolerance.FLOAT32_ROUNDOFF


@pytest.mark.parametrize("u", [2.0**-24, 2.0**-53])
def test_the_cutoff_of_the_rank_grows_with_the_larger_side_of_small_systems(u):
    assert tolerance.rank_cutoff(3, 10, u) == tolerance.rank_cutoff(10, 3, u)
    assert tolerance.rank_cutoff(3, 4, u) == tolerance.rank_cutoff(4, 3, u) == 8 * u


def test_rounding_of_coarse_data_does_not_grow_with_the_length_of_rows():
    u = 2.0**-24
    assert tolerance.rank_cutoff(4, 10**9, u) == tolerance.rank_cutoff(10**9, 4, u) == 20 * u
    assert tolerance.rank_cutoff(4, 10**6, 2.0**-53) == 2e6 * 2.0**-53


@draw(SIZES, SIZES, SIZES)
def test_the_factor_of_the_dimensions_is_modest(m, n, more):
    c = tolerance.dimension_factor(m, n)
    assert 9 <= c <= 9 * math.sqrt(m * n)
    assert tolerance.dimension_factor(m + more, n) > c
    assert tolerance.dimension_factor(n, m) == c


@draw(st.floats(1.0, 1e16))
def test_laws_of_growth(kappa):
    """Two passes through the Gram matrix: kappa u while kappa^2 u is small, and never less."""
    u = 2.0**-53
    stable = tolerance.backward_stable_growth(kappa, u)
    two_passes = tolerance.normal_equations_growth(kappa, u)
    assert stable == kappa * u
    assert stable <= two_passes
    assert two_passes - stable == pytest.approx((kappa**2 * u) ** 2, rel=1e-9, abs=u * stable)


@draw(st.integers(2, 8), st.floats(0.0, 1.0))
def test_a_pivot_above_the_threshold_is_safe_and_bounded_by_kappa(m, position):
    """The Gram matrix with the smallest last pivot at this kappa: two rows at an angle."""
    u = 2.0**-53
    kappa = 10 ** (8 * position)
    angle = 2 * math.atan(1 / kappa)  # singular values sqrt(2) cos and sin of half of it
    last_pivot = math.sin(angle) ** 2
    if not tolerance.gram_unsafe(m, kappa, u):
        assert last_pivot > tolerance.gram_pivot_threshold(m, u)


@draw(SIZES)
def test_a_pivot_is_rounding_where_a_cholesky_factor_may_err_as_much(m):
    """ASNA 10.3: (m + 1) u of diagonal entries in [1/2, 2], and once more for the Gram matrix."""
    u = 2.0**-53
    assert 4 * (m + 1) * u <= tolerance.gram_pivot_threshold(m, u) <= 16 * (m + 1) * u


def test_nothing_is_safe_where_kappa_squared_is_beyond_rounding():
    u = 2.0**-53
    assert tolerance.gram_unsafe(2, u**-0.5, u)
    assert not tolerance.gram_unsafe(2, 0.01 * u**-0.5, u)


@draw(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_products_are_symmetric_within_their_bound(n, seed):
    """Entry by entry two inner products of length n, in any order of their terms."""
    M = torch.randn(4, n, generator=torch.Generator().manual_seed(seed))
    W = M @ M.T
    shuffled = M.flip(1)
    V = torch.stack([torch.stack([(p * q).cumsum(0)[-1] for q in shuffled]) for p in shuffled])
    size = (M.abs() @ M.abs().T).max()
    assert (W - V.T).abs().max() <= tolerance.symmetry_bound(n, torch.float32) * size


def test_a_bound_is_relative_to_what_the_projection_subtracts():
    few = tolerance.forward_error_bound(1e-16, m=3, n=10, amplification=1.0)
    assert few == tolerance.dimension_factor(3, 10) * 1e-16
    assert tolerance.forward_error_bound(1e-16, m=3, n=10, amplification=1e6) == 1e6 * few
    # ||x0|| + ||x0 - x*|| is at most three times the larger of ||x0|| and ||x*||
    assert tolerance.predicted_accuracy(1e-16, 3, 10) == 3 * few


def test_drift_is_a_projection_and_a_rounding_a_step():
    sizes = {"m": 3, "n": 10, "amplification": 2.0}
    once = tolerance.forward_error_bound(1e-12, **sizes)
    rounding = tolerance.dimension_factor(3, 10) * 2.0**-53
    assert tolerance.drift_bound(1e-12, u=2.0**-53, steps=0.0, **sizes) == once
    drifted = tolerance.drift_bound(1e-12, u=2.0**-53, steps=100.0, **sizes)
    assert drifted == pytest.approx(once + 100 * rounding, rel=1e-12)
    assert tolerance.feasibility_bound(u=2.0**-53, m=3, n=10) == rounding
