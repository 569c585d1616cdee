"""Scaling over ranks: the fit finds a network that is one, and what is sent is checked."""

from dataclasses import replace

import pytest

from benchmarks.scaling import SHAPES, SIZES, Measured, Network, check, fitted


def test_a_network_is_found_from_its_all_reduces():
    network = Network(latency=2e-5, bandwidth=3e9)
    taken = [(w, s, network.seconds(w, 1, s)) for w in (2, 4, 8) for s in SIZES]
    found = fitted(taken)
    assert found.latency == pytest.approx(2e-5, rel=1e-9)
    assert found.bandwidth == pytest.approx(3e9, rel=1e-9)


def test_one_rank_sends_nothing_and_a_doubling_is_two_hops_more():
    network = Network(latency=1.0, bandwidth=1.0)
    assert network.seconds(1, 2, 100.0) == 0
    assert network.seconds(4, 3, 0.0) - network.seconds(2, 3, 0.0) == 3 * 2


def test_more_than_one_number_a_row_is_an_error():
    row = Measured("columns", 2, 1.0, 2.0, calls=2, sent=2 * 4 * SHAPES["columns"].numbers(2))
    check(row)
    with pytest.raises(ValueError, match="more is sent"):
        check(replace(row, sent=row.sent + 4))
    with pytest.raises(ValueError, match="more is sent"):
        check(replace(row, calls=4))


def test_rows_of_one_rank_send_nothing():
    row = Measured("rows", 2, 1.0, 2.0, calls=0, sent=0)
    check(row)
    with pytest.raises(ValueError, match="more is sent"):
        check(replace(row, calls=2, sent=8))
