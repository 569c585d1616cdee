"""Whether a target is met, missed, or could not be measured."""

import math

from benchmarks import command, table, targets
from tests.benchmarks.target_rows import found


def target(cells, better="at most", bound=2.0):
    return targets.Target("t", "regime", "claim", "figure", better, bound, cells)


def test_a_target_is_met_where_every_cell_meets_it():
    row = targets.measure(target(lambda: iter([targets.Cell("a", 1.0), targets.Cell("b", 2.0)])))
    assert (row["met"], row["worst"], row["worst_at"]) == (True, 2.0, "b")
    row = targets.measure(target(lambda: iter([targets.Cell("a", 1.0), targets.Cell("b", 2.1)])))
    assert (row["met"], row["cells_met"], row["worst"]) == (False, 1, 2.1)
    row = targets.measure(
        target(lambda: iter([targets.Cell("a", 1.0), targets.Cell("b", 3.0)]), "at least")
    )
    assert (row["met"], row["worst"]) == (False, 1.0)


def test_what_cannot_be_measured_says_why_and_keeps_what_could():
    def some():
        yield targets.Cell("a", 1.0)
        raise NotImplementedError("no such peer")

    row = targets.measure(target(some))
    assert (row["worst"], row["missing"]) == (1.0, "no such peer")
    assert table.verdict(row) == "met; not measured: no such peer"


def test_a_wrong_answer_misses_the_target():
    def wrong():
        yield targets.Cell("a", 1.0)
        raise AssertionError("off by 1")

    row = targets.measure(target(wrong))
    assert not row["met"]
    assert table.verdict(row) == "WRONG: off by 1"
    assert command.target_code(found(row)) == 1


def test_ids_are_unique_and_lower_bounds_are_positive():
    ids = [t.id for t in targets.TARGETS]
    assert len(set(ids)) == len(ids)
    assert all(math.isfinite(t.bound) and t.bound > 0 for t in targets.TARGETS)
