"""Which variant "auto" takes, what `accuracy` asks for, and the sentence that says why."""

import pytest
import torch

import projlab
from projlab import tolerance
from tests.projlab import exact
from tests.projlab.systems import (
    CASES,
    DISJOINT_VARIANTS,
    OVERLAPPING_VARIANTS,
    RUNS,
    SYSTEMS,
    by_name,
    case,
    prescribed_spectrum,
    refused_if,
)

F64 = torch.float64


def system(condition, m=5, n=20, dtype=F64):
    A = torch.from_numpy(prescribed_spectrum(m, n, condition)).to(dtype)
    return A, torch.zeros(m, dtype=dtype)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_auto_says_what_it_took_and_why(name, dtype):
    given = case(name, dtype)
    P = projlab.projector(given.A, given.b)
    assert P.variant in projlab.variants()
    assert P.reason.startswith(f"{P.variant}: ")
    assert "\n" not in P.reason
    assert len(P.reason) > len(P.variant) + 20
    # that rows are copies of one is found out only where somebody asks for the rank
    if SYSTEMS[name][1] == "disjoint" and 0 < given.rank == P.constraint.m:
        assert P.variant in DISJOINT_VARIANTS


@pytest.mark.parametrize(("name", "dtype", "variant"), RUNS)
def test_a_variant_asked_for_by_name_is_the_one_used(name, dtype, variant):
    given = case(name, dtype)
    with refused_if(given.may_refuse(variant), variant):
        P = projlab.projector(given.A, given.b, variant)
        assert P.variant == variant or variant == "auto"
        assert P.reason.startswith(f"{P.variant}: ")


def test_auto_avoids_a_variant_that_its_own_theory_rules_out():
    for condition in (1.0, 1e3, 1e6, 1e9, 1e12):
        A, b = system(condition)
        P = projlab.projector(A, b)
        limit = by_name(P.variant).limitation(m=5, n=20, condition=P.condition, u=2**-53)
        assert limit is None
    assert projlab.projector(*system(1e9)).variant != "cholesky"


def test_auto_takes_the_cheapest_of_those_that_reach_the_accuracy():
    """By the variants' own predictions and operation counts."""
    for condition in (1.0, 1e2, 1e4, 1e6, 1e9):
        A, b = system(condition)
        kappa = projlab.diagnose(A, b).condition
        for accuracy in (1e-13, 1e-10, 1e-6, 1e-2):
            predicted = {
                v: tolerance.predicted_accuracy(by_name(v).error_growth(kappa, 2**-53), 5, 20)
                for v in OVERLAPPING_VARIANTS
                if not by_name(v).limitation(m=5, n=20, condition=kappa, u=2**-53)
            }
            reaching = [v for v, reach in predicted.items() if reach <= accuracy]
            if not reaching:
                with pytest.raises(projlab.AccuracyError, match="no variant is predicted"):
                    projlab.projector(A, b, accuracy=accuracy)
                continue
            variant = projlab.projector(A, b, accuracy=accuracy).variant
            assert variant in reaching
            setup, apply = by_name(variant).flops(5, 20)
            for other in reaching:
                other_setup, other_apply = by_name(other).flops(5, 20)
                # many applications: never one that is dearer in both
                assert setup <= other_setup or apply <= other_apply


@pytest.mark.parametrize(
    ("condition", "accuracy"), [(1.0, 1e-6), (1.0, 1e-12), (1e3, 1e-6), (1e3, 1e-10), (1e6, 1e-7)]
)
def test_the_accuracy_asked_for_is_reached(condition, accuracy):
    A, _ = system(condition)
    b = A @ torch.randn(20, dtype=F64)
    x0 = torch.randn(20, dtype=F64)
    solution = exact.projection(exact.matrix(A), exact.vector(b), exact.vector(x0))
    size = max(exact.norm(exact.vector(x0)), exact.norm(solution))
    for x in (
        projlab.projector(A, b, accuracy=accuracy)(x0),
        projlab.project(x0, A, b, accuracy=accuracy),
    ):
        assert exact.distance(x, solution) <= accuracy * size


def test_what_cannot_be_reached_is_refused_with_what_can():
    A, b = system(1e9)
    with pytest.raises(projlab.AccuracyError, match=r"accuracy=1e-12.*condition number") as caught:
        projlab.projector(A, b, accuracy=1e-12)
    message = str(caught.value)
    reachable = float(message.split(";")[1].split()[0])
    assert projlab.projector(A, b, accuracy=2 * reachable).rank == 5
    with pytest.raises(projlab.AccuracyError, match="accuracy=1e-12"):
        projlab.project(torch.zeros(20, dtype=F64), A, b, accuracy=1e-12)


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_a_variant_by_name_is_held_to_the_accuracy_too(variant):
    A, b = system(10.0)
    assert projlab.projector(A, b, variant, accuracy=1e-9).variant == variant
    with pytest.raises(projlab.AccuracyError, match=variant):
        projlab.projector(A, b, variant, accuracy=1e-17)


def test_float32_is_told_that_float64_reaches_further():
    A, b = system(10.0, dtype=torch.float32)
    with pytest.raises(projlab.AccuracyError, match=r"in float32 .*float64"):
        projlab.projector(A, b, accuracy=1e-9)
    assert projlab.projector(A.double(), b.double(), accuracy=1e-9).rank == 5


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_a_refusal_is_never_a_silent_change_of_variant(variant):
    """At 1e12 a variant does what was asked, or says that it cannot."""
    A, b = system(1e12)
    condition = projlab.diagnose(A, b).condition
    limit = by_name(variant).limitation(m=5, n=20, condition=condition, u=2**-53)
    with refused_if(limit is not None, variant):
        assert projlab.projector(A, b, variant).variant == variant
