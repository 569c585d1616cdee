"""How figures are written."""

import pytest

from projlab_reports import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.34, "12.3 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 µs"), (float("nan"), "–")],
)
def test_durations_are_written_in_the_unit_that_fits(seconds, text):
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("error", "text"), [(0.0, "all"), (1e-14, "14.0"), (3.0, "0.0"), (float("nan"), "–")]
)
def test_digits_right_are_those_of_the_forward_error(error, text):
    assert units.digits(error) == text
