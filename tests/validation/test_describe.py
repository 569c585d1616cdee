"""What a system is: structure in words, conditions, a cutoff that decides an ambiguous rank."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

import projlab
from projlab import AffineConstraint
from projlab_validation import describe
from projlab_validation.recommend import Question, recommend
from tests.validation.compared import A, B, line, run_code, stored


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
def test_structure_is_said_in_words(A, says):
    A = np.array(A, dtype=np.float64)
    description = describe.structure(stored(A, np.zeros(len(A))).problem())
    assert says in "; ".join(description.structure)


def test_condition_is_known_before_and_after_equilibration():
    rows = np.diag([1.0, 1000.0, 1.0]) @ A
    problem = stored(rows, rows @ np.ones(4)).problem()
    constraint = AffineConstraint(rows, problem.b)
    description = describe.analysed(describe.structure(problem), constraint)
    description = describe.with_condition_as_given(description, problem)
    values = np.linalg.svd(rows, compute_uv=False)
    assert description.condition_as_given == pytest.approx(values[0] / values[1])
    assert not description.condition_is_least
    assert description.condition < 10 < description.condition_as_given
    assert description.row_norms == pytest.approx(
        (np.linalg.norm(A[0]), 1000 * np.linalg.norm(A[1]))
    )


def test_a_condition_that_float64_cannot_tell_is_a_lower_bound():
    rows = np.diag([1e-20, 1.0]) @ A[:2]
    problem = stored(rows, np.zeros(2)).problem()
    description = replace(describe.structure(problem), rank=2)
    description = describe.with_condition_as_given(description, problem)
    assert description.condition_is_least
    assert 1e15 < description.condition_as_given < 1e16


def test_sparse_rows_without_a_common_column_need_no_dense_analysis():
    wide = sp.csr_array(np.kron(np.eye(2), np.ones((1, 50))))
    assert describe.predicted_seconds(stored(wide, np.ones(2)).problem()) == 0
    assert describe.predicted_seconds(stored(A, B).problem()) > 0


def test_a_system_of_blocks_is_described_block_by_block():
    rows = np.kron(np.diag([1.0, 10.0, 100.0] * 4), A)
    whole, split = (stored(form, np.tile(B, 12)).problem() for form in (rows, sp.csr_array(rows)))
    seconds = [describe.predicted_seconds(problem) for problem in (whole, split)]
    assert seconds[1] == pytest.approx(seconds[0] / 12**2)
    assert describe.set_up_share(whole) == 1
    assert describe.set_up_share(split) == pytest.approx(1 / 12**2)
    rank = 12 * int(np.linalg.matrix_rank(A))
    found = [
        describe.with_condition_as_given(replace(describe.structure(problem), rank=rank), problem)
        for problem in (whole, split)
    ]
    assert found[1].condition_as_given == pytest.approx(found[0].condition_as_given)
    assert not found[1].condition_is_least


def test_blocks_whose_whole_is_out_of_reach_are_analysed():
    rows = sp.csr_array(sp.kron(sp.eye_array(5_000), A))
    problem = stored(rows, np.tile(B, 5_000)).problem()
    assert describe.predicted_seconds(problem) < 1
    description = describe.analysed(describe.structure(problem), AffineConstraint(rows, problem.b))
    assert description.rank == 5_000 * int(np.linalg.matrix_rank(A))
    assert describe.with_condition_as_given(description, problem).condition_as_given > 1


def test_an_ambiguous_rank_gets_a_cutoff_that_decides_it():
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    right = np.linalg.qr(rng.standard_normal((40, 3)))[0]
    rows = left @ np.diag([1, 1, 3e-14]) @ right.T
    constraint = AffineConstraint(rows, np.zeros(3))
    description = describe.analysed(
        describe.structure(stored(rows, np.zeros(3)).problem()), constraint
    )
    assert description.ambiguous
    description = describe.with_clear_cutoff(description, constraint, time.monotonic() + 60)
    decided = projlab.diagnose(constraint, rank=description.clear_cutoff)
    assert (decided.rank, decided.ambiguous, decided.consistent) == (2, False, True)
    question = Question(description, "float64", "cpu", None, 60.0)
    advice = recommend(question, [line("qr", 1e-3, 1e-5, math.nan, verdict="expected")])
    assert "The numerical rank is ambiguous" in advice.text
    assert f"rank={description.clear_cutoff:.0e}" in advice.code
    run_code(advice.code, rows, np.zeros(3))
