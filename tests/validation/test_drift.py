"""Drift: what many perturbed projections add up to."""

import itertools
from dataclasses import replace

import projlab
from projlab_validation import drift
from projlab_validation.drift import trajectory
from projlab_validation.judge import judge
from projlab_validation.measure import measure
from projlab_validation.profiles import PROFILES
from projlab_validation.record import table
from tests.validation.planted import problem


def test_drift_sees_what_adds_up(monkeypatch):
    """Moved along the null space a little each time, which the next projection leaves alone."""
    honest = projlab.projector

    class Drifting:
        def __init__(self, *arguments):
            self.P = honest(*arguments)

        def project_(self, x):
            return x.copy_(self.P(self.P(x) + 1e-14))

    monkeypatch.setattr(drift, "projector", Drifting)
    system = problem("drift_1_10x20")
    frame = judge(table(measure(system, ("qr",), PROFILES["quick"])).to_pandas())
    verdicts = frame[frame["check"] == "drift"].set_index("steps")["verdict"]
    assert (verdicts[verdicts.index >= 100] == "fail").all()
    assert (frame["verdict"][frame["check"] == "projection"] == "pass").all()


def test_some_problems_are_followed_further():
    system = problem("drift_1_10x20")
    stops = {}
    for long in ((), (system.name,)):
        profile = replace(PROFILES["quick"], drift_exponent=1, drift_long=long)
        followed = trajectory(system, "qr", profile, "cpu")
        stops[long] = [steps for steps, *_ in itertools.islice(followed, 3)]
    assert list(stops.values()) == [[1, 10], [1, 10, 100]]
    assert PROFILES["standard"].drift_long
    assert PROFILES["full"].drift_exponent == 6


def test_an_iteration_is_followed_for_fewer_steps_and_says_so():
    profile = replace(PROFILES["quick"], drift_exponent=2, drift_iterated=1)
    records = measure(problem("drift_1_10x20"), ("iterative",), profile)
    drifts = [record for record in records if record.check == "drift"]
    assert [(r.status, r.steps) for r in drifts[:-1]] == [("ok", 1), ("ok", 10)]
    assert drifts[-1].status == "skip"
    assert drifts[-1].reason == (
        "each step is an iteration, and the quick profile follows those for 10^1 steps, where "
        "other variants take 10^2"
    )
