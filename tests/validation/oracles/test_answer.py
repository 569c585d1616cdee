"""Two words for a value, and the forward error that sees below the rounding of x."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from projlab_validation.oracles import reference
from projlab_validation.oracles.answer import TWO_WORDS, two_words
from tests.validation.oracles.cases import make, named


class TestTwoWords:
    @given(st.lists(st.fractions(min_value=-(10**6), max_value=10**6), min_size=1))
    def test_are_the_value_to_106_bits(self, values):
        high, low = two_words((v.numerator, v.denominator) for v in values)
        for value, h, e in zip(values, high.tolist(), low.tolist(), strict=True):
            assert h == float(value)
            assert h + e == h
            assert abs(Fraction(h) + Fraction(e) - value) <= Fraction(TWO_WORDS) * abs(value)

    def test_take_integers_of_any_size(self):
        high, low = two_words([(7**2000 * 2, 7**2000 * 3)])
        assert high[0] == 2 / 3
        assert low[0] == float(Fraction(2, 3) - Fraction(2 / 3))


class TestForwardError:
    def test_sees_below_the_rounding_of_x(self):
        """x = fl(x*) is wrong by low alone, which a single word could not tell from 0."""
        x_star = reference(make([3, 1], 1, [0, 0]))
        expected = np.linalg.norm(x_star.x_low) / np.linalg.norm(x_star.x_high)
        assert 0 < x_star.forward_error(x_star.x_high) == expected < 2.0**-53

    def test_is_nan_or_infinite_for_what_is(self):
        x_star = reference(named("article_1"))
        assert np.isnan(x_star.forward_error(np.array([np.nan, 0])))
        assert np.isinf(x_star.forward_error(np.array([np.inf, 0])))

    def test_takes_float32(self):
        x_star = reference(make([1, 1], 1, [0.1, 0.2]))
        assert x_star.forward_error(x_star.x_high.astype(np.float32)) < 2.0**-24
