"""The registry: every variant is described, and errs as it declares."""

import numpy as np
import pytest
import torch

import projlab
from projlab import tolerance
from projlab.engine.variants import REGISTRY, drift_bound, forward_error_bound, get
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


COUNTS = {
    # per m^2 n, m^3 and n of factoring; per m n, m^2, n and m^2 n of one projection
    "single_row": ((0, 0, 2), (0, 0, 4, 0)),  # the norm; a product, and its multiple subtracted
    "cholesky": ((1, 2 / 3, 0), (8, 4, 0, 0)),  # Golub and Van Loan 5.3.2, L^-1; two passes
    "sparse_cholesky": ((2, 1, 0), tuple(tolerance.CORRECTIONS * k for k in (4, 4, 0, 0))),
    "qr": ((4, 0, 0), (4, 0, 0, 0)),  # R and W, 2 m^2 n each (Golub and Van Loan 5.2.2)
    "pinv": ((12, 20, 0), (4, 0, 0, 0)),  # Golub and Van Loan 8.6.3, and a QR
    "iterative": ((8, 0, 0), (0, 0, 0, 8)),  # 4 m n a step, m steps in two cycles
}


@pytest.mark.parametrize("variant", REGISTRY, ids=lambda variant: variant.name)
def test_operations_are_those_of_the_books(variant):
    setup, apply = COUNTS[variant.name]
    for m, n in ((1, 1), (1, 9), (7, 30), (200, 1000)):
        found = variant.flops(m, n)
        wanted = (
            setup[0] * m * m * n + setup[1] * m**3 + setup[2] * n,
            apply[0] * m * n + apply[1] * m * m + apply[2] * n + apply[3] * m * m * n,
        )
        assert found == pytest.approx(wanted, rel=1e-14)
    assert variant.flops(0, 9) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["cholesky", "sparse_cholesky", "iterative"])
def test_a_limitation_begins_where_its_figure_says(name):
    """Also between the last condition number without, and the first with one: it is a threshold."""
    variant, shape = get(name), {"m": 40, "n": 90, "u": 2.0**-53}
    least, most = 1.0, 1e30
    assert variant.limitation(condition=least, **shape) is None
    for _ in range(200):
        middle = (least * most) ** 0.5
        if variant.limitation(condition=middle, **shape) is None:
            least = middle
        else:
            most = middle
    beyond = variant.limitation(condition=most, **shape)
    assert f"{most:.2g}" in beyond
    if name == "cholesky":
        pivot = tolerance.gram_pivot_threshold(40, 2.0**-53)
        assert most**2 * pivot == pytest.approx(0.5, rel=1e-6)
        assert f"{pivot:.2g}" in beyond
    elif name == "sparse_cholesky":
        assert f"{tolerance.gram_shift(40):.1g}" in beyond
    else:
        limit = tolerance.iterated_condition_limit(40, 90, 2.0**-53)
        assert most == pytest.approx(limit, rel=1e-6)
        many = variant.limitation(m=10**7, n=2 * 10**7, condition=0.99 * limit / 1e4, u=2.0**-53)
        steps = tolerance.iterated_steps(10**7, 0.99 * limit / 1e4, 2.0**-53)
        assert (many is not None) == (steps > tolerance.STEPS)


def test_bounds_follow_the_law_of_the_variant():
    known = {"m": 5, "n": 20, "amplification": 3.0}
    for variant in REGISTRY:
        growth = variant.error_growth(1e3, 2.0**-53)
        law = {"u": 2.0**-53, "condition": 1e3, **known}
        assert forward_error_bound(variant.name, **law) == tolerance.forward_error_bound(
            growth, **known
        )
        assert drift_bound(variant.name, steps=10.0, **law) == tolerance.drift_bound(
            growth, u=2.0**-53, steps=10.0, **known
        )


@pytest.mark.parametrize("name", ["QR", "", None, ("qr",)])
def test_an_unknown_variant_is_refused_with_those_there_are(name):
    with pytest.raises(projlab.InputError, match=r'must be one of "auto", "single_row", "chol'):
        get(name)


@pytest.mark.parametrize("lead", [(), (4,)])
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("variant", projlab.variants())
def test_a_point_less_what_multipliers_say_is_its_projection(variant, m, lead):
    draw = torch.Generator().manual_seed(m)
    A = 7 * torch.randn(m, 9, dtype=F64, generator=draw)
    if variant == "single_row":
        A = A * torch.eye(m, dtype=F64).repeat_interleave(9 // m, 1)  # no column in common
    b = torch.randn(m, dtype=F64, generator=draw)
    x0 = torch.randn(*lead, 9, dtype=F64, generator=draw)
    P = projlab.projector(A, b, variant)
    y = torch.linalg.solve(A @ A.mT, (x0 @ A.mT - b).unsqueeze(-1)).squeeze(-1)
    # two ways to solve with a Gram matrix of condition kappa^2
    close = {"rtol": 0, "atol": 1e3 * 2.0**-53 * P.condition**2 * float(y.abs().max())}
    torch.testing.assert_close(P.multipliers(x0), y, **close)
    torch.testing.assert_close(P(x0), x0 - y @ A, rtol=0, atol=50 * close["atol"])
