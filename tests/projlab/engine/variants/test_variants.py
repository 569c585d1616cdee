"""The registry: every variant is described, and errs as it declares."""

import numpy as np
import pytest
import torch

import projlab
from projlab.engine.variants import forward_error_bound
from tests.projlab import exact
from tests.projlab.systems import CHOICES, OVERLAPPING_VARIANTS, by_name, prescribed_spectrum

F64 = torch.float64


@pytest.mark.parametrize("variant", [*OVERLAPPING_VARIANTS])
def test_the_growth_of_the_error_is_what_the_variant_declares(variant):
    """Median over systems of one condition number: the bound is not met by chance only."""
    for condition in (1e1, 1e3, 1e5):
        A = torch.from_numpy(prescribed_spectrum(5, 20, condition))
        ratios = []
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            b = A @ torch.randn(20, dtype=F64, generator=generator)
            x0 = torch.randn(20, dtype=F64, generator=generator)
            solution = exact.projection(exact.matrix(A), exact.vector(b), exact.vector(x0))
            point = exact.vector(x0)
            size = exact.norm(point) + exact.norm(exact.subtract(point, solution))
            bound = size * forward_error_bound(
                variant, u=2**-53, m=5, n=20, condition=condition, amplification=1.0
            )
            ratios.append(exact.distance(projlab.projector(A, b, variant)(x0), solution) / bound)
        assert np.median(ratios) <= 1


def test_variants_are_names():
    assert isinstance(projlab.variants(), tuple)
    assert {"single_row", "pinv", "qr", "cholesky"} <= set(projlab.variants())
    assert (*projlab.variants(), "auto") == CHOICES
    for name in projlab.variants():
        assert by_name(name).summary
