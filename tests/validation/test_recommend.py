"""The recommendation: the cheapest that is near enough, and what would change it."""

import math
from dataclasses import replace

import pytest
import torch

import projlab
from projlab_validation.describe import SystemDescription
from projlab_validation.recommend import Question, recommend
from tests.validation.compared import line


class TestRecommendation:
    KNOWN = SystemDescription(
        10, 100, 1000, 1.0, ("dense",), True, (1.0, 1.0), rank=10, condition=1e4
    )
    LINES = (
        line("cholesky", 1e-4, 3e-5, 1e-9),
        line("qr", 2e-4, 1e-5, 1e-13),
        line("pinv", 9e-4, 1e-5, 1e-13),
        line("single_row", math.nan, math.nan, math.nan, status="refused", verdict="skip"),
        line("peer", 0.0, 1e-9, 1e-16, kind="peer"),
    )

    def about(self, accuracy=None, dtype="float64", answers=LINES, **known):
        system = replace(self.KNOWN, **known)
        return recommend(Question(system, dtype, "cpu", accuracy, 120.0), answers)

    def test_the_cheapest_for_many_that_is_near_enough(self):
        assert self.about().variant == "qr"
        assert self.about(1e-8).variant == "qr"

    def test_a_dearer_set_up_waits_for_its_projections(self):
        answers = [line("cholesky", 1e-4, 1e-5, 1e-13), line("qr", 1.0, 0.5e-5, 1e-13)]
        advice = self.about(1e-10, answers=answers)
        assert advice.variant == "cholesky"
        assert any("Beyond 199,980 projections qr" in change for change in advice.changes)

    def test_few_projections_may_want_another(self):
        answers = [line("cholesky", 1e-4, 3e-5, 1e-13), line("qr", 3e-4, 1e-5, 1e-13)]
        advice = self.about(1e-10, answers=answers, condition=50.0)
        assert advice.variant == "qr"
        assert any("fewer than 10 projections cholesky" in change for change in advice.changes)

    def test_a_peer_that_is_faster_is_told_and_one_that_is_wrong_is_not(self):
        changes = self.about(1e-10).changes
        assert "Of the peers peer is faster: 0.001 µs a projection, forward error 1e-16." in changes
        answers = [*self.LINES[:2], line("peer", 0.0, 1e-9, 1e-3, kind="peer")]
        assert not any("peer" in change for change in self.about(1e-10, answers=answers).changes)

    def test_what_no_variant_reaches_is_said_with_kappa_u(self):
        advice = self.about(1e-14)
        assert advice.text.startswith("No variant reaches 1e-14 here: κu is 1.1e-12. The nearest")
        assert advice.variant == "qr"

    def test_what_projector_refuses_is_not_recommended(self):
        answers = [line("cholesky", 1e-4, 1e-5, 5e-15), line("qr", 2e-4, 1e-5, 2e-15)]
        advice = self.about(1e-14, answers=answers, condition=1.5)
        A = torch.linalg.qr(torch.randn(100, 10, dtype=torch.float64))[0].T
        with pytest.raises(projlab.AccuracyError):
            projlab.projector(A, torch.zeros(10, dtype=torch.float64), accuracy=1e-14)
        assert not advice.reached
        assert advice.text.startswith("No variant promises 1e-14 here, so projector(A, b, accuracy")
        assert "qr, which came nearer for this x₀ alone: forward error 2e-15" in advice.text
        assert self.about(1e-8, answers=answers, condition=1.5).reached

    def test_whether_what_was_asked_for_is_reached(self):
        assert self.about().reached
        assert self.about(1e-8).reached
        assert not self.about(1e-14).reached
        assert not self.about(1e-14, rank=None, unknown="no time").reached

    def test_noise_decides_nothing_and_that_is_said(self):
        answers = [line("cholesky", 1e-4, 1.1e-5, 1e-13), line("qr", 1.2e-4, 1.0e-5, 1.1e-13)]
        for order in (answers, [replace(answers[0], project_s=1e-5), answers[1]]):
            advice = self.about(1e-8, answers=order, condition=50.0)
            assert advice.variant == "cholesky"
            assert "with qr as fast within a factor of 1.2, which is noise" in advice.text

    def test_of_those_as_fast_one_that_is_much_nearer_is_taken(self):
        answers = [line("cholesky", 1e-4, 1e-5, 5e-12), line("qr", 1.2e-4, 1e-5, 1e-13)]
        assert self.about(1e-8, answers=answers, condition=50.0).variant == "qr"

    def test_one_solution_is_one_point(self):
        assert any("the set is one point" in c for c in self.about(m=100, rank=100).changes)
        assert not any("one point" in c for c in self.about().changes)

    def test_a_line_that_would_end_in_a_memory_error_is_not_given(self):
        # Not even its rank is known, and no dense factor of it fits: a variant that makes none.
        huge = {"m": 10**7, "n": 10**7, "rank": None, "unknown": "needs 32 TB"}
        advice = self.about(**huge)
        assert 'variant="sparse_cholesky"' in advice.code
        assert not any("longer --time-limit" in change for change in advice.changes)
        refused = line("qr", math.nan, math.nan, math.nan, status="refused", verdict="skip")
        answers = [replace(refused, exception="MemoryLimitError", why="needs 32 TB")]
        assert self.about(answers=answers).code == ""

    def test_the_other_precision_is_told(self):
        (told,) = [c for c in self.about(1e-10, condition=50.0).changes if "float32" in c]
        assert "no variant promises 1e-10" in told
        (told,) = [c for c in self.about(1e-2, condition=50.0).changes if "float32" in c]
        assert "would still be within 0.01" in told
        (told,) = [c for c in self.about(1e-2, condition=1e9).changes if "float32" in c]
        assert "the rank itself would be in doubt" in told
        assert any("At float64" in c for c in self.about(1e-2, "float32", condition=50.0).changes)

    def test_a_digit_that_theory_does_not_promise_is_no_digit(self):
        answers = [line("qr", 1e-4, 1e-5, 1e-3, bound=20.0)]
        assert "theory promises no digit" in self.about(1e-2, answers=answers, condition=1e14).text

    def test_what_broke_its_theory_is_not_recommended(self):
        answers = [line("cholesky", 1e-9, 1e-9, 1e-16, verdict="fail"), line("qr", 1.0, 1.0, 1e-13)]
        assert self.about(answers=answers).variant == "qr"

    def test_redundant_rows_are_told(self):
        assert any("2 rows follow" in c for c in self.about(redundant_count=2).changes)

    def test_a_system_that_was_not_analysed_still_gets_a_line_of_code(self):
        advice = self.about(rank=None, unknown="predicted to take 900 s")
        assert "predicted to take 900 s" in advice.text
        assert advice.code == "P = projector(A, b)"

    def test_where_nobody_answered_the_reason_is_told(self):
        answers = [
            line("qr", math.nan, math.nan, math.nan, status="skip", verdict="skip", why="no")
        ]
        assert self.about(answers=answers).text == "No variant answered (qr: no)."
