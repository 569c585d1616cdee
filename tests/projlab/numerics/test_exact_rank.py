"""Exact rank and rows that carry it, against elimination over the rationals."""

import numpy as np
import pytest
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st

from projlab.numerics.exact_rank import PRIMES, independent_rows
from tests.projlab import exact


def expected(E):
    return exact.independent_rows(exact.matrix(np.asarray(E, dtype=np.float64)))


@draw(st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_random_matrices_of_low_rank_in_any_units(seed):
    rng = np.random.default_rng(seed)
    m, r, n = rng.integers(1, 8, 3)
    E = rng.integers(-5, 6, (m, r)) @ rng.integers(-5, 6, (r, n)) * 1.0
    E *= 2.0 ** rng.integers(-400, 400, (m, 1)) * 2.0 ** rng.integers(-400, 400, (1, n))
    assert independent_rows(E) == expected(E)


@draw(st.lists(st.lists(st.floats(-1e300, 1e300), min_size=3, max_size=3), min_size=1, max_size=5))
def test_any_floats(rows):
    E = np.array(rows)
    assert independent_rows(E) == expected(E)


def test_a_rounding_apart_is_independent():
    row = np.array([0.1, 0.2, 0.3])
    assert independent_rows(np.stack([row, 2 * row, 3 * row])) == [0, 2]
    one = np.nextafter(1.0, 2.0)
    assert independent_rows(np.array([[1.0, 1.0], [1.0, one], [one, 1.0]])) == [0, 1]


def test_the_first_of_equal_rows_is_taken_and_rows_of_zeros_never():
    E = np.array([[0, 0, 0], [1, 2, 0], [1, 2, 0], [0, 0, 0], [0, 0, 5], [2, 4, 5]], float)
    assert independent_rows(E) == [1, 4]


@pytest.mark.parametrize("p", PRIMES)
def test_a_multiple_of_one_prime_is_not_zero(p):
    """Modulo that prime the second row vanishes; the other prime tells."""
    E = np.array([[1.0, 1.0], [0.0, float(p)], [1.0, 1.0 + p]])
    assert independent_rows(E) == [0, 1]


def test_from_one_end_of_the_range_to_the_other():
    tiny, huge = 2.0**-1074, 2.0**1023
    assert independent_rows(np.array([[tiny, huge], [huge, tiny]])) == [0, 1]
    assert independent_rows(np.array([[tiny, 2 * tiny], [huge / 2, huge]])) == [0]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_is_of_rank_zero(shape):
    assert independent_rows(np.zeros(shape)) == []
