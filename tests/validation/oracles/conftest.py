"""mpmath works with sixty digits in every test of the oracles."""

import mpmath
import pytest


@pytest.fixture(autouse=True)
def sixty_digits():
    with mpmath.workdps(60):
        yield
