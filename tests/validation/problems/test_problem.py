"""What a problem is: its hash, whether its rows overlap, whether its rank is clear."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from projlab_validation.problems.problem import Problem, rank_is_clear
from tests.validation.problems.catalogued import problem


class TestContentHash:
    base = Problem("p", "g", np.array([[1.0, 0.0]]), np.array([2.0]), np.array([3.0, 4.0]),
                   "float64", 0, "")  # fmt: skip

    def test_is_sixteen_hex_digits_of_the_content_alone(self):
        assert len(self.base.content_hash) == 16
        assert int(self.base.content_hash, 16) >= 0
        assert replace(self.base, name="q", seed=1).content_hash == self.base.content_hash

    def test_does_not_depend_on_storage(self):
        stored = sp.csr_array(self.base.A)
        explicit_zero = sp.csr_array((np.array([1.0, 0.0]), np.array([0, 1]), np.array([0, 2])))
        for A in (stored, explicit_zero):
            assert replace(self.base, A=A).content_hash == self.base.content_hash

    @pytest.mark.parametrize(
        "change",
        [
            {"A": np.array([[1.0, 1e-300]])},
            {"A": np.array([[1.0]]), "x0": np.array([3.0])},
            {"b": np.array([np.nextafter(2.0, 3.0)])},
            {"x0": np.array([4.0, 3.0])},
            {"dtype": "float32"},
        ],
        ids=["A", "shape", "b", "x0", "dtype"],
    )
    def test_depends_on_every_number(self, change):
        assert replace(self.base, **change).content_hash != self.base.content_hash


def test_rank_is_clear_a_factor_of_ten_above_the_cutoff():
    eps = 2.0**-52
    assert rank_is_clear(0.09 / (50 * eps), 20, 50, "float64")
    assert not rank_is_clear(0.11 / (50 * eps), 20, 50, "float64")
    eps = 2.0**-23  # float32: five times the root of the shorter side
    assert rank_is_clear(0.09 / (10 * eps), 4, 10**6, "float32")
    assert not rank_is_clear(0.11 / (10 * eps), 4, 10**6, "float32")


def test_rows_overlap_where_a_column_has_two_nonzeros():
    assert problem("article_3").rows_overlap
    assert not problem("article_1").rows_overlap
