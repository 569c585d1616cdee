"""Comparing two of asv's result files: what counts as a regression."""

import json

import pytest

from projlab_reports import asv, regressions
from tests.reports.asv_results import MACHINE, result, row

TIME = "projection.Projection.time_call"
ERROR = "projection.Quality.track_forward_error"
RATIO = "ratios.Peers.track_ratio"


@pytest.fixture
def compared(tmp_path):
    def both(before, after, margin=1.1, old=None, new=None):
        one = result(tmp_path / "before.json", before, **(old or {}))
        other = result(tmp_path / "after.json", after, **(new or {}))
        return regressions.compare(asv.read(one), asv.read(other), margin)

    return both


def names(changes):
    return [change.name for change in changes]


def test_equal_results_hold(compared):
    comparison = compared({TIME: row(1e-6)}, {TIME: row(1e-6)})
    assert (comparison.exit_code, comparison.compared, comparison.regressions) == (0, 1, ())


def test_slower_than_noise_and_margin_is_a_regression(compared):
    comparison = compared({TIME: row(1e-6, spread=0.05)}, {TIME: row(1.5e-6, spread=0.05)})
    assert comparison.exit_code == 1
    assert names(comparison.regressions) == [TIME]
    assert "1.50x" in regressions.text(comparison)


def test_slower_within_the_noise_that_was_seen_is_none(compared):
    comparison = compared({TIME: row(1e-6, spread=0.3)}, {TIME: row(1.5e-6, spread=0.05)})
    assert comparison.exit_code == 0
    comparison = compared({TIME: row(1e-6, spread=0.05)}, {TIME: row(1.5e-6, spread=0.3)})
    assert comparison.exit_code == 0


def test_margin_is_the_callers(compared):
    before, after = {TIME: row(1e-6)}, {TIME: row(1.5e-6)}
    assert compared(before, after, margin=1.4).exit_code == 1
    assert compared(before, after, margin=1.6).exit_code == 0


def test_a_machine_that_became_slower_excuses_times_and_nothing_else(compared):
    before = {TIME: row(1e-6), RATIO: row(0.5)}
    after = {TIME: row(1.5e-6), RATIO: row(0.75)}
    comparison = compared(before, after, new={"yardstick": 1.6e-6})
    assert names(comparison.regressions) == [RATIO]
    assert comparison.drift == pytest.approx(1.6)


def test_a_machine_that_became_faster_hides_nothing(compared):
    comparison = compared({TIME: row(1e-6)}, {TIME: row(1.5e-6)}, new={"yardstick": 0.5e-6})
    assert names(comparison.regressions) == [TIME]
    comparison = compared({TIME: row(1e-6)}, {TIME: row(0.6e-6)}, new={"yardstick": 0.5e-6})
    assert not comparison.improvements


def test_rounding_level_is_no_regression_and_lost_digits_are(compared):
    assert compared({ERROR: row(1.0)}, {ERROR: row(3.5)}).exit_code == 0
    assert names(compared({ERROR: row(1.0)}, {ERROR: row(30.0)}).regressions) == [ERROR]


def test_failed_after_is_a_regression(compared):
    comparison = compared({TIME: row(1e-6)}, {TIME: row(None)})
    assert comparison.exit_code == 1
    assert "failed" in regressions.text(comparison)


def test_a_benchmark_that_failed_as_a_whole_fails_for_each_parameter(compared):
    params = (("'qr'", "'pinv'"),)
    whole = row([1e-6, 2e-6], params=params)
    whole[0] = None
    comparison = compared({TIME: row([1e-6, 2e-6], params=params)}, {TIME: whole})
    assert set(names(comparison.regressions)) == {f"{TIME}('qr')", f"{TIME}('pinv')"}


def test_not_applicable_is_neither_compared_nor_a_regression(compared):
    params = (("'cpu'", "'cuda'"),)
    before = {TIME: row([1e-6, 1e-6], params=params)}
    comparison = compared(before, {TIME: row([1e-6, float("nan")], params=params)})
    assert (comparison.exit_code, comparison.compared) == (0, 1)
    assert comparison.gone == (f"{TIME}('cuda')",)


def test_missing_and_new_benchmarks_are_named(compared):
    comparison = compared({TIME: row(1e-6), ERROR: row(1.0)}, {ERROR: row(1.0), RATIO: row(0.1)})
    assert (comparison.gone, comparison.new) == ((TIME,), (RATIO,))
    assert TIME in regressions.text(comparison)
    assert RATIO in regressions.text(comparison)


def test_a_rewritten_benchmark_is_not_compared(compared):
    comparison = compared({TIME: row(1e-6)}, {TIME: row(9e-6, version="w")})
    assert (comparison.exit_code, comparison.rewritten) == (3, (TIME,))


@pytest.mark.parametrize(
    "new", [{"threads": 2.0}, {"machine": {**MACHINE, "cpu": "another"}}], ids=["threads", "cpu"]
)
def test_times_of_unlike_machines_are_not_compared_and_ratios_are(compared, new):
    before = {TIME: row(1e-6), RATIO: row(0.5)}
    comparison = compared(before, {TIME: row(9e-6), RATIO: row(0.9)}, new=new)
    assert names(comparison.regressions) == [RATIO]
    assert comparison.not_comparable
    assert comparison.not_comparable in regressions.text(comparison)


def test_nothing_in_common_is_code_3(compared):
    assert compared({TIME: row(1e-6)}, {}).exit_code == 3
    assert compared({}, {}).exit_code == 3


def test_improvements_are_told(compared):
    assert names(compared({TIME: row(1e-6)}, {TIME: row(0.5e-6)}).improvements) == [TIME]


def test_plain_has_no_nan(compared):
    comparison = compared({TIME: row(1e-6), ERROR: row(1.0)}, {TIME: row(None), ERROR: row(1.0)})
    assert json.loads(json.dumps(regressions.plain(comparison), allow_nan=False))["exit_code"] == 1


CLEAN = {"requirements": {asv.CHANGES: asv.CLEAN}}


def test_differences_between_results_of_one_commit_are_noise(compared):
    before, after = {TIME: row(1e-6)}, {TIME: row(1.5e-6)}
    comparison = compared(before, after, old=CLEAN, new=CLEAN)
    assert comparison.exit_code == 3
    assert "Too noisy: 1 figures of the same commit differ" in regressions.text(comparison)
    assert regressions.plain(comparison)["too_noisy"].startswith("1 figures of the same commit")
    assert compared(before, before, old=CLEAN, new=CLEAN).exit_code == 0
    failed = {TIME: row(None)}
    assert compared(before, failed, old=CLEAN, new=CLEAN).exit_code == 1
    for other in ({"requirements": {asv.CHANGES: "0123456789ab"}}, {"commit_hash": "d" * 40}, {}):
        assert compared(before, after, old=CLEAN, new=other).exit_code == 1


def yardsticks(*values):
    names = ("time_read", "time_gemv", "time_call")
    return {f"yardstick.Machine.{n}": row(v) for n, v in zip(names, values, strict=True)}


def test_noise_of_the_machine_widens_the_margin_and_too_much_is_no_verdict(compared):
    def of(yardstick, slower):
        before = {TIME: row(1e-6), ERROR: row(1.0), **yardsticks(1e-3, 1e-3, 1e-3)}
        after = {TIME: row(slower), ERROR: row(1.0), **yardsticks(1e-3, 1e-3, yardstick)}
        return compared(before, after)

    assert of(1.3e-3, 1.25e-6).exit_code == 0
    assert of(1.3e-3, 1.35e-6).exit_code == 1
    noisy = of(1.6e-3, 2e-6)
    assert noisy.exit_code == 3
    assert noisy.noise == pytest.approx(1.6)
    assert "the machine's own benchmarks" in regressions.text(noisy)
