"""The largest eigenvalue, and how near it is known."""

import numpy as np
import pytest

from projlab.numerics.lanczos import largest


@pytest.mark.parametrize("size", [1, 2, 5, 60, 400])
@pytest.mark.parametrize("tolerance", [1e-1, 1e-6])
def test_it_is_within_its_residual(size, tolerance):
    rng = np.random.default_rng(size)
    Q, _ = np.linalg.qr(rng.standard_normal((size, size)))
    values = rng.random(size) ** 3
    M = (Q * values) @ Q.T
    found = largest(lambda v: M @ v, size, tolerance, 500)
    assert np.abs(values - found.value).min() <= found.residual + 100 * size * 2**-53
    assert found.residual <= tolerance * found.value + 1e-14
    if tolerance == 1e-6:
        assert found.value == pytest.approx(values.max(), rel=1e-6)


def test_few_steps_say_that_they_were_too_few():
    values = np.linspace(1, 2, 1000)
    few = largest(lambda v: values * v, 1000, 1e-6, 5)
    assert 1e-3 < few.residual < 1
    assert few.value <= 2 + 1e-12


def test_zero():
    assert largest(lambda v: 0 * v, 4, 1e-6, 10).value == 0
