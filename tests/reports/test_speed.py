"""What asv's results say: growth, failures, history."""

import math
import re

import pytest

from benchmarks import ratios, yardstick
from projlab_reports import asv, speed
from projlab_reports.speed import Speed
from tests.reports.asv_results import MACHINE, result, suite


def test_the_names_of_the_suite_are_its_names():
    def named(of, method):
        return f"{of.__module__.rpartition('.')[2]}.{of.__name__}.{method.__name__}"

    assert named(ratios.Peers, ratios.Peers.track_ratio) == speed.PEERS
    assert named(ratios.Bandwidth, ratios.Bandwidth.track_reads) == speed.READS
    assert named(yardstick.Machine, yardstick.Machine.time_read) == speed.READ
    machine = yardstick.Machine()
    machine.setup()
    assert machine.large.nbytes == speed.READ_BYTES


def test_growth_is_fitted_and_bandwidth_taken_from_the_yardstick(results):
    measured = Speed(asv.read_all(results))
    assert measured.latest.commit == "b" * 40
    growth = measured.growth(speed.PROJECTION).set_index(["series", "dtype"])
    assert growth.loc[("qr", "float64"), "exponent of m·n"] == "1.00"
    assert growth.loc[("qr", "float64"), "sizes"] == 3
    assert growth.loc[("qr", "float32"), "sizes"] == 2
    assert measured.bandwidth == pytest.approx(8e9)


def test_what_failed_and_what_does_not_apply_are_told_apart(results):
    measured = Speed(asv.read_all(results))
    assert measured.counts == {"measured": 16, "failed": 2, "n/a": 13}
    numbers = measured.numbers(speed.PROJECTION).set_index(["size", "dtype"])
    assert numbers.loc[("100x1000", "float32"), "qr"] == "failed"
    assert numbers.loc[("100x1000", "float64"), "qr"] == "100 µs"
    coverage = measured.coverage.set_index("benchmark")
    assert coverage.loc[speed.PROJECTION, "nothing at"] == "device cuda"
    assert list(measured.peers["10x100"]) == ["2 ×", "0.5 ×", "100 ×"]


def test_history_is_relative_to_the_oldest_commit_without_the_machines_drift(results):
    machine = results / "results" / "here"
    result(machine / "ccc-env.json", suite(2.0), commit_hash="c" * 40, date=3_000, yardstick=2e-6)
    measured = Speed(asv.read_all(results))
    history = measured.history.set_index("benchmark")
    assert history.loc[speed.PROJECTION, "b" * 8] == "0.50"
    # time_addmv took twice as long, time_read as long as before: sqrt(2) of drift
    assert history.loc[speed.PROJECTION, "c" * 8] == f"{1 / math.sqrt(2):.2f}"
    assert measured.since is not None
    assert measured.since.before.commit == "b" * 40


def test_results_of_another_processor_stand_in_no_history(results):
    machine = results / "results" / "here"
    result(machine / "zzz-env.json", suite(), date=500, machine={**MACHINE, "cpu": "another"})
    measured = Speed(asv.read_all(results))
    assert len(measured.comparable) == 2
    assert "another" in measured.left_out[0]


def test_the_command_of_a_failure_selects_its_figure():
    figure = "projection.Projection.time_call('qr', '1x10', 'float64', 'cpu')"
    pattern = speed.command(figure).partition("--filter '")[2].rstrip("'")
    assert re.search(pattern, figure)
    assert not re.search(pattern, figure.replace("1x10", "3x10"))
