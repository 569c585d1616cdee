"""Calls that are timed in turn."""

from benchmarks import interleave


def test_interleaved_calls_alternate(monkeypatch):
    monkeypatch.setattr(interleave, "FEWEST", 3)
    called = []
    times = interleave.interleaved(
        {"a": lambda: called.append("a"), "b": lambda: called.append("b")}, budget=0.0, shortest=0.0
    )
    last = called[-6:]
    rounds = [tuple(last[i : i + 2]) for i in (0, 2, 4)]
    assert set(rounds) == {("a", "b"), ("b", "a")}, "neither always follows the other"
    assert times.ratio("a", "b") == times.best("a") / times.best("b")
    assert len(times.ratios("a", "b")) == 3
