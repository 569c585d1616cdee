"""Forward error and residuals against what is known of the answer."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import projlab
from projlab_validation import truth
from projlab_validation.measure import measure
from projlab_validation.oracles import reference
from projlab_validation.problems import catalogue
from projlab_validation.profiles import PROFILES
from projlab_validation.truth import Truth
from tests.validation.planted import frame_of, problem

QUICK = PROFILES["quick"]


def test_forward_error_is_the_distance_from_the_exact_projection():
    # Onto x1 + x2 = 1: x* = x0 − (x1 + x2 − 1)/2 · (1, 1), to be had in the head.
    article_1 = problem("article_1")
    x0 = torch.tensor(article_1.x0)
    by_hand = x0 - (x0.sum() - 1) / 2
    x = projlab.projector(article_1.A, article_1.b, variant="qr")(x0)
    row = frame_of(measure(article_1, ("qr",), QUICK)).loc[("qr", "projection")]
    reached = float((x - by_hand).norm() / by_hand.norm())
    assert row["forward_error"] == pytest.approx(reached, abs=2 * 2.0**-53)
    assert row["xstar_norm"] == pytest.approx(float(by_hand.norm()))
    assert row["correction_norm"] == pytest.approx(float((x0 - by_hand).norm()))


@pytest.mark.parametrize(
    ("fault", "seen_by"),
    [
        (lambda P, x: P(x) + 1e-3 * P.tangent(torch.ones_like(x)), "stationarity"),
        (lambda P, x: x - 0.999 * (x - P(x)), "feasibility"),
    ],
)
def test_each_residual_sees_its_own_half_of_a_fault(fault, seen_by, monkeypatch):
    honest = projlab.projector

    class Faulty:
        variant, rank, condition = "qr", 10, 1.0

        def __init__(self, *arguments, **keywords):
            self.P = honest(*arguments, **keywords)

        def to(self, device):
            return self

        def __call__(self, x):
            return fault(self.P, x)

    monkeypatch.setattr(projlab, "projector", Faulty)
    row = frame_of(measure(problem("spectra_1e3_10x20"), ("qr",), QUICK)).iloc[0]
    unseen = {"stationarity", "feasibility"} - {seen_by}
    assert row[seen_by] > 1e-6
    assert row[unseen.pop()] < 1e-13
    assert row["forward_error"] > 1e-6


def test_stationarity_that_is_too_dear_is_missing_with_its_reason(monkeypatch):
    monkeypatch.setattr(truth, "BASIS_FLOPS", 1.0)
    row = frame_of(measure(problem("article_3"), ("qr",), QUICK)).iloc[0]
    assert pd.isna(row["stationarity"])
    assert "GFlop" in row["stationarity_reason"]


def test_an_error_in_the_last_digits_of_a_tiny_answer_is_measured():
    (problem,) = catalogue(names=["starts_tiny_1e_minus_150"])
    x_star = reference(problem)
    truth = Truth(problem, "projection", x_star, [])
    for error in (1e-13, 1e-9):
        x = (1 + error) * x_star.x_high
        assert truth.forward_error(x) == pytest.approx(error, rel=1e-2)
        assert x_star.forward_error(x) == truth.forward_error(x)


@pytest.mark.parametrize("power", [2.0**-700, 2.0**700, 2.0**1000])
def test_residuals_are_those_of_rows_of_any_size(power):
    plain = problem("article_3")
    scaled = replace(plain, A=plain.A * power, b=plain.b * power)
    drawn = np.random.default_rng(0).standard_normal(plain.n)
    for x in (reference(plain).x_high, drawn):
        want, found = (Truth(each, "projection", reference(each), []) for each in (plain, scaled))
        assert found.feasibility(x) == pytest.approx(want.feasibility(x), rel=1e-10, abs=1e-14)
        assert found.stationarity(x)[0] == pytest.approx(want.stationarity(x)[0], abs=1e-14)
