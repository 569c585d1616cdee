"""What a process reported is kept, however it ends."""

import time

import peers_at_fault
import pytest

from projlab_validation import process


@pytest.mark.parametrize(
    ("work", "latest", "why"),
    [
        (peers_at_fault.reports_and_sleeps, 2, "stopped at the time limit of 0.5 s"),
        (peers_at_fault.reports_and_dies, 1, "exit code 9"),
        (peers_at_fault.reports_and_raises, 1, "ArithmeticError: no idea"),
    ],
)
def test_what_a_process_reported_is_kept_however_it_ends(work, latest, why):
    start = time.monotonic()
    reports = list(process.reports(work, (), 0, time_limit=0.5))
    assert time.monotonic() - start < 30
    assert reports[-1][0] == latest
    assert why in reports[-1][1]


@pytest.mark.parametrize("limit", [1e8, 1e300, float("inf")])
def test_a_limit_that_no_clock_of_the_systems_can_count_is_none(limit):
    reports = list(process.reports(peers_at_fault.reports_and_dies, (), 0, time_limit=limit))
    assert reports[-1][0] == 1
