"""What each profile takes, and what it skips with a reason."""

import itertools

import pytest

from projlab import variants
from projlab_validation.profiles import PROFILES, over_budget

QUICK = PROFILES["quick"]


def test_each_profile_takes_at_least_what_the_one_before_takes():
    assert list(PROFILES) == ["quick", "standard", "full"]
    for smaller, larger in itertools.pairwise(PROFILES.values()):
        assert smaller.flops < larger.flops
        assert smaller.repeats < larger.repeats
        assert set(smaller.dtypes) <= set(larger.dtypes)


def test_full_takes_everything():
    assert not over_budget(PROFILES["full"], "qr", 8455, 12971, overlap=True)


def test_a_skip_says_what_it_needs_and_a_profile_that_runs_it():
    reason = over_budget(QUICK, "qr", 2806, 4131, overlap=True)
    assert reason == (
        "needs 32.5 GFlop of dense factorisation, the quick profile stops at 6; "
        "`projlab validate --profile standard` runs it"
    )
    assert over_budget(PROFILES["standard"], "qr", 2806, 4131, overlap=True) is None


@pytest.mark.parametrize("variant", variants())
def test_rows_that_overlap_need_their_rank_whatever_the_variant(variant):
    assert over_budget(QUICK, variant, 2806, 4131, overlap=True)


def test_rows_that_share_no_column_are_no_dense_matter_for_single_row():
    assert over_budget(QUICK, "single_row", 10_000, 100_000, overlap=False) is None
    assert over_budget(QUICK, "qr", 10_000, 100_000, overlap=False)
