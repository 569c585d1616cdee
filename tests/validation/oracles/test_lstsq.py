"""LAPACK's least squares."""

from dataclasses import replace

import numpy as np
import pytest

from projlab_validation.oracles import lstsq, reference
from tests.validation.oracles.cases import EPS, make, named, nearly_redundant, random_rows


class TestLstsq:
    def test_is_the_minimum_norm_correction(self):
        for answer in lstsq.answers(make([[1, 1], [1, 1]], [2, 2], [3, -1])):
            assert answer.status == "ok"
            assert answer.x == pytest.approx([3, -1], abs=8 * EPS)

    def test_names(self):
        names = [a.oracle for a in lstsq.answers(named("article_1"))]
        assert names == ["lstsq_gelsd", "lstsq_gelsy", "lstsq_gelsd_scaled"]

    def test_scaling_rows_is_worth_digits(self):
        A = random_rows(6, 12, seed=3) * np.logspace(0, 9, 6)[:, None]
        problem = make(A, A @ np.ones(12))
        truth = reference(problem)
        error = {a.oracle: truth.forward_error(a.x) for a in lstsq.answers(problem)}
        assert error["lstsq_gelsd_scaled"] < 1e-14 < error["lstsq_gelsd"]

    def test_uses_the_cutoff_of_the_problem_s_dtype(self):
        problem = nearly_redundant(0, "float32")
        truth = reference(problem)
        for answer in lstsq.answers(problem):
            assert truth.forward_error(answer.x) < 1e-5
        for answer in lstsq.answers(replace(problem, dtype="float64")):
            assert truth.forward_error(answer.x) > 1e-3
