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


K = 2.0**-10
FORMULAS = {
    "rank_cutoff": (tolerance.rank_cutoff(3, 10, 2.0**-53), 20 * 2.0**-53),
    "consistency_factor": (tolerance.consistency_factor(3.0), 12.0),
    "repeated_factor": (tolerance.repeated_factor(2.0**-53), 16 * 2.0**-53),
    "… of float32": (tolerance.repeated_factor(2.0**-24), 8 * 2.0**-24),
    "dimension_factor": (tolerance.dimension_factor(4, 9), 14.0),
    "backward_stable_growth": (tolerance.backward_stable_growth(3.0, K), 3 * K),
    "normal_equations_growth": (tolerance.normal_equations_growth(4.0, K), 0.004150390625),
    "gram_pivot_threshold": (tolerance.gram_pivot_threshold(5, K), 40 * K),
    "gram_contraction": (tolerance.gram_contraction(4, 9, 100.0, K), 1400 * K),
    "gram_condition2_limit by the contraction": (
        tolerance.gram_condition2_limit(4, 9, data=2.0**-53, work=2.0**-53),
        2.0**46.375 / 14,
    ),
    "gram_condition2_limit by the cutoff": (
        tolerance.gram_condition2_limit(4, 9, data=K, work=2.0**-53),
        (1024 / 360) ** 2,
    ),
    "gram_shift": (tolerance.gram_shift(16), 2.0**-41),
    "square_range, least": (tolerance.square_range(torch.float64)[0], 2.0**-255.5),
    "square_range, most": (tolerance.square_range(torch.float64)[1], 2.0**256),
    "diagonal_whitening_error": (tolerance.diagonal_whitening_error(K), 4 * K),
    "whitening_error": (tolerance.whitening_error(3, 5.0, K), 600 * K),
    "symmetry_bound": (tolerance.symmetry_bound(5, torch.float32), 10 * 2.0**-24),
    "forward_error_bound": (
        tolerance.forward_error_bound(K, m=4, n=9, amplification=3.0),
        42 * K,
    ),
    "drift_bound": (
        tolerance.drift_bound(K, u=K * K, m=4, n=9, amplification=3.0, steps=100.0),
        42 * K + 1400 * K * K,
    ),
    "predicted_accuracy": (tolerance.predicted_accuracy(K, 4, 9), 42 * K),
    "feasibility_bound": (tolerance.feasibility_bound(u=K, m=4, n=9), 14 * K),
    "sum_rounding": (tolerance.sum_rounding(256, K), 8 * K),
    "… of one entry": (tolerance.sum_rounding(1, K), 6.25 * K),
    "adjoint_bound": (tolerance.adjoint_bound(4, 9, K), 24 * K),
    "… of nothing": (tolerance.adjoint_bound(0, 0, K), 8 * K),
    "iterated_most": (tolerance.iterated_most(10_000, 2.0**-53), 200 * 2.0**-53),
    "… of short rows": (tolerance.iterated_most(100, 2.0**-53), 30 * 2.0**-53),
    "iterated_condition_limit": (tolerance.iterated_condition_limit(4, 9, 2.0**-30), 2.0**20 / 14),
    "iterated_steps by kappa": (tolerance.iterated_steps(5, 1.0, K), math.log(2048) / 2),
    "iterated_steps by rows": (tolerance.iterated_steps(3, 1e6, K), 3.0),
    "… of more than are kept": (tolerance.iterated_steps(10**4, 1e6, K), 5e5 * math.log(2048)),
}
"""Each formula at numbers at which it is worked out by hand."""


@pytest.mark.parametrize("name", FORMULAS)
def test_each_threshold_is_its_formula(name):
    found, by_hand = FORMULAS[name]
    assert found == pytest.approx(by_hand, rel=1e-14)


def test_where_the_gram_matrix_becomes_unsafe():
    assert tolerance.gram_unsafe(2, 2.0**24, 2.0**-53)
    assert not tolerance.gram_unsafe(2, 2.0**24 - 1, 2.0**-53)
    # 2 q^24 = u^(1/8), q = (r - 1)/(r + 1), r^2 = 1 + 2 shift kappa^2
    q = (2.0 ** (-53 / 8) / 2) ** (1 / 24)
    r = (1 + q) / (1 - q)
    kappa = math.sqrt((r * r - 1) / (2 * 3 * 2.0**-43))
    assert tolerance.shift_unsafe(9, 1.001 * kappa)
    assert not tolerance.shift_unsafe(9, 0.999 * kappa)
