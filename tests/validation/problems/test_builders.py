"""Families of one function each: rank and consistency are exact as claimed."""

import hashlib

import numpy as np
import pytest

from projlab_validation.oracles.exact import integers
from projlab_validation.oracles.system import equations, factor
from projlab_validation.problems import catalogue
from projlab_validation.problems.problem import rank_is_clear
from tests.validation.problems.catalogued import BUILT, names, problem


def integer_system(p):
    """A, b times a power of two, in Python's integers; sums of their products are exact."""
    A, e = integers(p.dense())
    b, s = integers(p.b)
    rows = [A[i : i + p.n] for i in range(0, p.m * p.n, p.n)]
    return [[v << s for v in row] for row in rows], [v << e for v in b]


def exact_rank(rows):
    """By elimination without fractions (Bareiss 1968)."""
    rows, rank, before = [list(row) for row in rows], 0, 1
    for column in range(len(rows[0])):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        top = rows[rank]
        for i in range(rank + 1, len(rows)):
            factor_ = rows[i][column]
            rows[i] = [
                (top[column] * v - factor_ * t) // before for v, t in zip(rows[i], top, strict=True)
            ]
        before, rank = top[column], rank + 1
    return rank


class TestBuilt:
    problems = tuple(catalogue(groups=BUILT))

    def test_every_problem_says_what_it_is(self):
        for p in self.problems:
            assert len(p.reference.split()) > 5, p.name
            assert p.name.startswith(f"{p.group}_")
            assert p.seed == int.from_bytes(hashlib.sha256(p.name.encode()).digest()[:4], "big")

    def test_the_rank_is_clear_in_the_dtype_that_it_is_offered_in(self):
        for p in self.problems:
            E, f = equations(p, equilibrate=True)
            system = factor(E, f, p.x0, float(np.finfo(p.dtype).eps))
            assert rank_is_clear(system.condition, p.m, p.n, p.dtype), p.name
            rest = system.singular_values[system.rank :]
            assert np.max(rest, initial=0) < system.cutoff / 5, p.name

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_rank_and_consistency_are_exact_as_claimed(self, dtype):
        ranks = {
            "deficient_duplicates": 4,
            "deficient_combinations": 5,
            "deficient_zero_rows": 4,
            "deficient_magic": 3,
            "deficient_transport": 7,
            "deficient_contradicting_duplicates": 4,
            "deficient_one_direction": 1,
            "deficient_flow": 3,
            "deficient_contradicting_combination": 5,
            "deficient_contradicting_zero_row": 4,
            "deficient_contradicting_transport": 7,
            "shapes_tall": 4,
        }
        met = 0
        for p in self.problems:
            if p.dtype == dtype and p.name in ranks:
                rows, b = integer_system(p)
                extended = [[*row, right] for row, right in zip(rows, b, strict=True)]
                assert exact_rank(rows) == ranks[p.name] < p.m, p.name
                assert (exact_rank(extended) == ranks[p.name]) is p.consistent, p.name
                met += 1
        offered = set(names(groups=BUILT, dtypes=[dtype]))
        assert met == len(offered & set(ranks)) >= 6

    def test_what_is_not_built_deficient_has_full_row_rank(self):
        for p in self.problems:
            if p.group != "deficient" and p.m <= p.n:
                assert p.consistent
                assert exact_rank(integer_system(p)[0]) == p.m, p.name

    def test_decimals_are_off_by_a_rounding(self):
        p = problem("deficient_decimals")
        assert exact_rank(integer_system(p)[0]) == 4
        assert np.array_equal(np.rint(10 * p.A[:3]).sum(0), np.rint(10 * p.A[3]))

    def test_starts_are_where_they_say(self):
        at = {p.name.removeprefix("starts_"): p for p in self.problems if p.group == "starts"}
        assert not (at["feasible"].A @ at["feasible"].x0 - at["feasible"].b).any()
        assert not at["zero"].x0.any()
        assert at["zero"].b.any()
        assert not at["origin"].x0.any()
        assert not at["origin"].b.any()
        assert np.linalg.norm(at["huge_1e150"].x0) > 1e150
        assert 0 < np.linalg.norm(at["tiny_1e_minus_150"].x0) < 1e-149
        for name in ("answer_zero", "answer_tiny"):
            p = at[name]
            outside = p.x0 - np.linalg.lstsq(p.A.T, p.x0)[0] @ p.A
            assert np.linalg.norm(outside) < 1e-13 * np.linalg.norm(p.x0)
            assert np.linalg.norm(p.b) < 1e-7

    def test_entries_reach_from_1e_minus_150_to_1e150(self):
        sizes = np.abs(np.concatenate([p.csr().data for p in catalogue(groups=["scaling"])]))
        assert sizes.max() > 1e149
        assert sizes.min() < 1e-149
        squares = sizes**2
        assert np.isfinite(squares).all()
        assert (squares > 0).all()

    def test_shapes_reach_from_one_entry_to_thousands_of_columns(self):
        shapes = {(p.m, p.n) for p in self.problems}
        assert {(1, 1), (1, 2), (8, 8), (12, 4), (3, 2000)} < shapes
        assert any(m > n for m, n in shapes)

    def test_many_share_a_shape_so_that_what_is_kept_between_calls_is_met(self):
        shapes = [(p.m, p.n) for p in self.problems if p.dtype == "float64" and p.consistent]
        assert shapes.count((4, 12)) > 10
