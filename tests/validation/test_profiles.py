"""What each profile takes, and what it skips with a reason."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from projlab import variants
from projlab.engine.variants import get
from projlab_validation.problems.problem import Problem
from projlab_validation.profiles import PROFILES, over_budget
from tests.validation.problems.catalogued import problem

QUICK, STANDARD, FULL = PROFILES.values()


def shaped(m, n, *, overlap, stays_sparse=False):
    """A system of that shape, its first two rows sharing a column or not."""
    second = 0 if overlap else 1
    A = sp.csr_array((np.ones(2), ([0, 1], [0, second])), shape=(m, n))
    nothing = np.zeros(n)
    return Problem("p", "g", A, nothing[:m], nothing, "float64", 0, "", stays_sparse=stays_sparse)


def test_each_profile_takes_at_least_what_the_one_before_takes():
    assert list(PROFILES) == ["quick", "standard", "full"]
    for smaller, larger in itertools.pairwise(PROFILES.values()):
        assert smaller.flops < larger.flops
        assert smaller.repeats < larger.repeats
        assert set(smaller.dtypes) <= set(larger.dtypes)


def test_full_takes_everything():
    assert not over_budget(FULL, "qr", shaped(8455, 12971, overlap=True))


def test_a_skip_says_what_it_needs_and_a_profile_that_runs_it():
    reason = over_budget(QUICK, "qr", shaped(2806, 4131, overlap=True))
    assert reason == (
        "needs 32.5 GFlop of dense factorisation, the quick profile stops at 1; "
        "`projlab validate --profile standard` runs it"
    )
    assert over_budget(STANDARD, "qr", shaped(2806, 4131, overlap=True)) is None


@pytest.mark.parametrize("variant", variants())
def test_only_what_keeps_rows_sparse_is_asked_beyond_a_dense_factorisation(variant):
    largest = shaped(8455, 12971, overlap=True)
    assert over_budget(QUICK, variant, largest)
    asked = over_budget(STANDARD, variant, largest) is None
    assert asked == (get(variant).keeps_sparse and not get(variant).iterates)
    assert over_budget(FULL, variant, largest) is None


def test_an_iteration_is_asked_where_as_many_steps_as_rows_are_affordable():
    middle = shaped(700, 1600, overlap=True)
    assert over_budget(QUICK, "iterative", shaped(200, 300, overlap=True)) is None
    assert over_budget(QUICK, "qr", middle) is None
    reason = over_budget(QUICK, "iterative", middle)
    assert reason == (
        "iterations of 700 steps may take 25.1 GFlop, the quick profile stops at 1; "
        "`projlab validate --profile standard` runs it"
    )


@pytest.mark.parametrize("variant", variants())
def test_what_stays_sparse_is_for_variants_that_keep_it_so(variant):
    middle = shaped(5000, 9000, overlap=True, stays_sparse=True)
    reason = over_budget(STANDARD, variant, middle)
    assert (reason is None) == get(variant).keeps_sparse
    assert reason is None or reason.startswith("makes a sparse system dense, 225 GFlop")
    huge = shaped(100_000, 200_000, overlap=True, stays_sparse=True)
    assert "`projlab validate --profile full` runs it" in over_budget(STANDARD, variant, huge)
    assert (over_budget(FULL, variant, huge) is None) == get(variant).keeps_sparse


def test_the_quick_profile_names_the_sparse_systems_that_it_takes():
    for name in QUICK.sparse:
        assert over_budget(QUICK, "sparse_cholesky", problem(name)) is None
    other = over_budget(QUICK, "sparse_cholesky", problem("sparse_flow_40x40"))
    assert other.startswith("the quick profile takes 4 sparse systems, and this is none of them")


def test_rows_that_share_no_column_are_no_dense_matter_for_single_row():
    assert over_budget(QUICK, "single_row", shaped(10_000, 100_000, overlap=False)) is None
    assert over_budget(QUICK, "qr", shaped(10_000, 100_000, overlap=False))
