"""`projlab compare`: what it finds, what it recommends, and that nothing keeps it from ending."""

import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import projlab
from projlab import AffineConstraint
from projlab_validation import compare, describe, formats
from projlab_validation.describe import System
from projlab_validation.lines import Line, lines
from projlab_validation.recommend import Question, recommend
from projlab_validation.record import Record

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # where the peers are, for processes that are started from here

import peers_at_fault  # noqa: E402  found by the line above

ALL = compare.Options(projlab.variants())
A = np.array([[1.0, 2.0, 0.0, 1.0], [0.0, 1.0, -1.0, 3.0], [1.0, 3.0, -1.0, 4.0]])
B = np.array([1.0, 2.0, 3.0])  # the third row is the sum of the first two
NAMES = ("in", "out", "total")


def given(A, b, names=None, dtype="float64"):
    return formats.Given(Path("system.npz"), A, b, names=names, dtype=dtype)


def run_code(advice, A, b):
    """Run the line that is recommended, and return what it projects the origin to."""
    names = {"projector": projlab.projector, "A": A, "b": b}
    exec(advice["code"], names)  # noqa: S102  what users are told to paste
    return names["P"](torch.zeros(A.shape[1], dtype=torch.float64)).numpy()


def test_rows_that_contradict_each_other_are_named_and_least_squares_is_offered():
    b = B + np.array([0, 0, 0.25])
    found = compare.compare(given(A, b, NAMES), "float64", ALL)
    assert found.checked
    assert not found.failed
    assert found.check == "least_squares"
    (row,) = found.system.conflicting
    assert row.startswith("total = in + out on the left, but its b is 3.25")
    assert found.system.off == 0.25
    assert {line.check for line in found.lines} == {"least_squares"}
    advice = found.recommendation
    assert "No x satisfies these equations: 1 row contradicts the others, by up to 0.25" in (
        advice.text
    )
    x = run_code({"code": advice.code}, A, b)
    np.testing.assert_allclose(x, np.linalg.lstsq(A, b)[0], atol=1e-14)


@pytest.mark.slow
def test_peers_of_all_kinds_stand_beside_the_variants():
    names = ("right", "wrong", "raises", "dies", "sleeps", "stacks_badly", "missing")
    specs = tuple(f"{peers_at_fault.__name__}:{name}" for name in names)
    options = compare.Options(("qr",), specs, time_limit=8.0)
    found = compare.compare(given(A, B), "float64", options)
    line = {name: one for name, one in zip(names, found.lines[1:], strict=True)}  # noqa: C416
    assert line["right"].verdict == "pass"
    assert line["right"].stacked_s > 0
    assert line["wrong"].verdict == "fail"
    assert line["wrong"].forward_error > 1e-4
    assert "no idea" in line["raises"].why
    assert "exit code 9" in line["dies"].why
    assert line["sleeps"].why == "stopped at the time limit of 8 s"
    assert "the answer has shape (1, 4)" in line["stacks_badly"].why
    assert "has no 'missing'" in line["missing"].why
    assert not found.failed, "a peer's failure is no fault of a variant"
    assert found.recommendation.variant == "qr"


@pytest.mark.parametrize(
    ("work", "latest", "why"),
    [
        (peers_at_fault.reports_and_sleeps, 2, "stopped at the time limit of 0.5 s"),
        (peers_at_fault.reports_and_dies, 1, "exit code 9"),
        (peers_at_fault.reports_and_raises, 1, "ArithmeticError: no idea"),
    ],
)
def test_what_a_process_reported_is_kept_however_it_ends(work, latest, why):
    options = compare.Options((), time_limit=0.5)
    start = time.monotonic()
    reports = list(compare._reports(work, (), options, 0))
    assert time.monotonic() - start < 30
    assert reports[-1][0] == latest
    assert why in reports[-1][1]


def test_what_was_measured_before_a_stop_is_shown_and_the_rest_says_why():
    problem = given(A, B).problem()
    known = compare.Snapshot(
        replace(describe.structure(problem), rank=2),
        records=(replace(RECORD, variant="qr", status="ok"),),
    )
    after = compare._stopped(problem, known, ALL, "stopped at the time limit of 1 s")
    assert [r.variant for r in after.records] == ["qr", "single_row", "cholesky", "pinv"]
    assert {r.reason for r in after.records[1:]} == {"stopped at the time limit of 1 s"}
    assert after.system.unknown == ""


class TestDescription:
    @pytest.mark.parametrize(
        ("A", "says"),
        [
            ([[1.0, 2.0, 3.0]], "dense; one row"),
            (
                [[1, 1, 0, 0], [0, 0, 1, -1]],
                "no two rows share a column; every entry is 0, 1 or −1",
            ),
            ([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], "every entry is 0 or 1; 1 row is zero"),
            ([[1, 1, 0, 0], [1, 0, 0, 0]], "2 variables are in no equation"),
            (
                np.kron(np.eye(3), [[1.0, 2.0], [3.0, 4.0]]),
                "3 blocks that share no variable, the largest of 2 rows in 2 variables",
            ),
        ],
    )
    def test_structure_is_said_in_words(self, A, says):
        A = np.array(A, dtype=np.float64)
        found = describe.structure(given(A, np.zeros(len(A))).problem())
        assert says in "; ".join(found.structure)

    def test_condition_is_known_before_and_after_equilibration(self):
        rows = np.diag([1.0, 1000.0, 1.0]) @ A
        problem = given(rows, rows @ np.ones(4)).problem()
        constraint = AffineConstraint(rows, problem.b)
        found = describe.analysed(describe.structure(problem), constraint)
        found = describe.with_condition_as_given(found, problem)
        values = np.linalg.svd(rows, compute_uv=False)
        assert found.condition_as_given == pytest.approx(values[0] / values[1])
        assert not found.condition_is_least
        assert found.condition < 10 < found.condition_as_given
        assert found.row_norms == pytest.approx((np.linalg.norm(A[0]), 1000 * np.linalg.norm(A[1])))

    def test_a_condition_that_float64_cannot_tell_is_a_lower_bound(self):
        rows = np.diag([1e-20, 1.0]) @ A[:2]
        problem = given(rows, np.zeros(2)).problem()
        found = replace(describe.structure(problem), rank=2)
        found = describe.with_condition_as_given(found, problem)
        assert found.condition_is_least
        assert 1e15 < found.condition_as_given < 1e16

    def test_sparse_rows_without_a_common_column_need_no_dense_analysis(self):
        wide = sp.csr_array(np.kron(np.eye(2), np.ones((1, 50))))
        assert describe.predicted_seconds(given(wide, np.ones(2)).problem()) == 0
        assert describe.predicted_seconds(given(A, B).problem()) > 0

    def test_an_ambiguous_rank_gets_a_cutoff_that_decides_it(self):
        rng = np.random.default_rng(0)
        left = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        right = np.linalg.qr(rng.standard_normal((40, 3)))[0]
        rows = left @ np.diag([1, 1, 3e-14]) @ right.T
        constraint = AffineConstraint(rows, np.zeros(3))
        found = describe.analysed(
            describe.structure(given(rows, np.zeros(3)).problem()), constraint
        )
        assert found.ambiguous
        found = describe.with_clear_cutoff(found, constraint, time.monotonic() + 60)
        decided = projlab.diagnose(constraint, rank=found.clear_cutoff)
        assert (decided.rank, decided.ambiguous, decided.consistent) == (2, False, True)
        question = Question(found, "float64", "cpu", None, 60.0)
        advice = recommend(question, [line("qr", 1e-3, 1e-5, math.nan, verdict="expected")])
        assert "The numerical rank is ambiguous" in advice.text
        assert f"rank={found.clear_cutoff:.0e}" in advice.code
        run_code({"code": advice.code}, rows, np.zeros(3))


RECORD = Record(
    problem="system.npz", group="compare", content_hash="", seed=0, m=3, n=4, nnz=10, density=0.8,
    rows_overlap=True, dtype="float64", device="cpu", variant="qr", check="projection",
    environment="", status="ok", computed_by="qr", rank=2, condition=3.0, x_norm=1.0,
    reference_kind="unavailable", reference_reason="no time", reference_ambiguous=False,
    feasibility=1e-17, setup_s_min=1e-3, project_s_min=1e-5, proven_at_least=0.0,
    proven_at_most=3e-16, proven_accuracy=1e-14, proof="certified",
)  # fmt: skip


def test_where_no_oracle_knows_the_certificate_judges():
    (found,) = lines([RECORD], {})
    assert (found.verdict, found.judged_by, found.nearness) == ("pass", "certificate", 3e-16)
    open_, failed = lines(
        [
            replace(RECORD, proof="uncertifiable", proven_at_most=math.inf),
            replace(RECORD, proof="failed", proven_at_least=1e-3, proven_at_most=2e-3),
        ],
        {},
    )
    assert (open_.verdict, open_.judged_by) == ("expected", "nothing")
    assert math.isnan(open_.nearness)
    assert failed.verdict == "fail"


def line(name, setup, project, error, **other):
    return Line(
        name=name,
        kind=other.pop("kind", "variant"),
        check="projection",
        status=other.pop("status", "ok"),
        verdict=other.pop("verdict", "pass"),
        why=other.pop("why", ""),
        reason="",
        forward_error=error,
        at_most=math.nan,
        judged_by="exact",
        bound=other.pop("bound", 1e-10),
        stable_bound=1e-12,
        feasibility=0.0,
        stationarity=0.0,
        setup_s=setup,
        project_s=project,
        stack=64,
        stacked_s=project,
        held_bytes=0,
    )


def test_break_even_is_where_the_totals_meet():
    records = [
        replace(RECORD, variant="cholesky", computed_by="cholesky", project_s_min=2e-5),
        replace(RECORD, setup_s_min=2e-3, project_s_min=1e-5),
        replace(RECORD, variant="pinv", computed_by="pinv", setup_s_min=5e-3, project_s_min=3e-5),
    ]
    cholesky, qr, pinv = lines(records, {})
    assert (cholesky.pays_from, qr.pays_from, pinv.pays_from) == (1, 100, None)


class TestRecommendation:
    KNOWN = System(10, 100, 1000, 1.0, ("dense",), True, (1.0, 1.0), rank=10, condition=1e4)
    LINES = (
        line("cholesky", 1e-4, 3e-5, 1e-9),
        line("qr", 2e-4, 1e-5, 1e-13),
        line("pinv", 9e-4, 1e-5, 1e-13),
        line("single_row", math.nan, math.nan, math.nan, status="refused", verdict="skip"),
        line("peer", 0.0, 1e-9, 1e-16, kind="peer"),
    )

    def about(self, accuracy=None, dtype="float64", found=LINES, **known):
        system = replace(self.KNOWN, **known)
        return recommend(Question(system, dtype, "cpu", accuracy, 120.0), found)

    def test_the_cheapest_for_many_that_is_near_enough(self):
        assert self.about().variant == "qr"
        assert self.about(1e-8).variant == "qr"

    def test_a_dearer_set_up_waits_for_its_projections(self):
        found = [line("cholesky", 1e-4, 1e-5, 1e-13), line("qr", 1.0, 0.5e-5, 1e-13)]
        advice = self.about(1e-10, found=found)
        assert advice.variant == "cholesky"
        assert any("Beyond 199,980 projections qr" in change for change in advice.changes)

    def test_few_projections_may_want_another(self):
        found = [line("cholesky", 1e-4, 3e-5, 1e-13), line("qr", 3e-4, 1e-5, 1e-13)]
        advice = self.about(1e-10, found=found)
        assert advice.variant == "qr"
        assert any("fewer than 10 projections cholesky" in change for change in advice.changes)

    def test_a_peer_that_is_faster_is_told_and_one_that_is_wrong_is_not(self):
        changes = self.about(1e-10).changes
        assert "Of the peers peer is faster: 0.001 µs a projection, forward error 1e-16." in changes
        found = [*self.LINES[:2], line("peer", 0.0, 1e-9, 1e-3, kind="peer")]
        assert not any("peer" in change for change in self.about(1e-10, found=found).changes)

    def test_what_no_variant_reaches_is_said_with_kappa_u(self):
        advice = self.about(1e-14)
        assert advice.text.startswith("No variant reaches 1e-14 here: κu is 1.1e-12. The nearest")
        assert advice.variant == "qr"

    def test_the_other_precision_is_told(self):
        (told,) = [c for c in self.about(1e-10, condition=50.0).changes if "float32" in c]
        assert "no variant promises 1e-10" in told
        (told,) = [c for c in self.about(1e-2, condition=50.0).changes if "float32" in c]
        assert "cholesky, qr, pinv would still be within 0.01" in told
        (told,) = [c for c in self.about(1e-2, condition=1e9).changes if "float32" in c]
        assert "the rank itself would be in doubt" in told
        assert any("At float64" in c for c in self.about(1e-2, "float32", condition=50.0).changes)

    def test_a_digit_that_theory_does_not_promise_is_no_digit(self):
        found = [line("qr", 1e-4, 1e-5, 1e-3, bound=20.0)]
        assert "theory promises no digit" in self.about(1e-2, found=found, condition=1e14).text

    def test_what_broke_its_theory_is_not_recommended(self):
        found = [line("cholesky", 1e-9, 1e-9, 1e-16, verdict="fail"), line("qr", 1.0, 1.0, 1e-13)]
        assert self.about(found=found).variant == "qr"

    def test_redundant_rows_are_told(self):
        assert any("2 rows follow" in c for c in self.about(redundant_count=2).changes)

    def test_a_system_that_was_not_analysed_still_gets_a_line_of_code(self):
        advice = self.about(rank=None, unknown="predicted to take 900 s")
        assert "predicted to take 900 s" in advice.text
        assert advice.code == "P = projector(A, b)"

    def test_where_nobody_answered_the_reason_is_told(self):
        found = [line("qr", math.nan, math.nan, math.nan, status="skip", verdict="skip", why="no")]
        assert self.about(found=found).text == "No variant answered (qr: no)."
