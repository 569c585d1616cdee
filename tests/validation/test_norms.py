import numpy as np
import pytest

from projlab_validation.measure import Truth
from projlab_validation.norms import norm
from projlab_validation.oracles import reference
from projlab_validation.problems import catalogue


@pytest.mark.parametrize("size", [0.0, 1e-320, 1e-170, 1.0, 1e30, 1e200, 1e307, np.inf])
def test_no_square_overflows_or_vanishes(size):
    v = np.array([3.0, -4.0, 0.0]) * size if np.isfinite(size) else np.array([3.0, -size])
    assert norm(v) == pytest.approx(5 * size, rel=1e-3 if size == 1e-320 else 1e-15, abs=0.0)


def test_nan_stays_nan_and_float32_is_summed_in_float64():
    assert np.isnan(norm(np.array([1.0, np.nan])))
    v = np.full(1000, 1e30, dtype=np.float32)
    assert norm(v) == pytest.approx(np.linalg.norm(v.astype(np.float64)), rel=1e-15)


def test_an_error_in_the_last_digits_of_a_tiny_answer_is_measured():
    (problem,) = catalogue(names=["starts_tiny_1e_minus_150"])
    x_star = reference(problem)
    truth = Truth(problem, "projection", x_star, [])
    for error in (1e-13, 1e-9):
        x = (1 + error) * x_star.x_high
        assert truth.forward_error(x) == pytest.approx(error, rel=1e-2)
        assert x_star.forward_error(x) == truth.forward_error(x)
