"""Asking a variant: it is warmed up untimed, and what goes wrong is its own."""

from dataclasses import replace

import projlab
from projlab_validation import outcome
from projlab_validation.measure import measure
from projlab_validation.outcome import timed
from projlab_validation.profiles import PROFILES
from tests.validation.planted import problem

QUICK = PROFILES["quick"]
VARIANTS = projlab.variants()


def test_timing_warms_up_untimed_and_then_repeats_until_the_time_is_up(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(outcome.time, "perf_counter", lambda: clock[0])
    calls, synchronised = [], []

    def work():
        calls.append(clock[0])
        clock[0] += 1.0
        return len(calls)

    profile = replace(QUICK, repeats=5, repeat_seconds=10.0)
    result, seconds = timed(work, lambda: synchronised.append(1), profile)
    assert (result, seconds, len(synchronised)) == (6, [1.0] * 5, 6)
    assert len(timed(work, lambda: None, replace(profile, repeat_seconds=2.5))[1]) == 3
    brief = replace(profile, repeat_seconds=0.0)
    assert len(timed(work, lambda: None, brief)[1]) == 1
    calls.clear()
    assert timed(work, lambda: None, brief, lasting=True) == (1, [1.0])


def test_a_failing_variant_is_an_error_of_its_own(monkeypatch):
    honest = projlab.projector

    def broken(constraint, variant, **keywords):
        if variant == "qr":
            raise KeyError("planted")
        return honest(constraint, variant=variant, **keywords)

    monkeypatch.setattr(projlab, "projector", broken)
    statuses = {r.variant: r.status for r in measure(problem("article_1"), VARIANTS, QUICK)}
    assert statuses == dict.fromkeys(VARIANTS, "ok") | {"qr": "error"}
