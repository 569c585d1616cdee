"""Times of several calls that can be compared: in turn, in one process, many times."""

import gc
import math
import random
import time
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHORTEST = 2e-4
"""Seconds that one sample takes at least, by repeating the call: 1e4 times the clock's resolution,
and less than a scheduler's slice, so that some samples are undisturbed."""

FEWEST, MOST = 5, 400


@dataclass(frozen=True)
class Times:
    """Seconds a call, by name; sample i of each was taken in the same round."""

    samples: Mapping[str, NDArray[np.float64]]

    def best(self, name: str) -> float:
        """The least of the samples: what is left when nothing else ran."""
        return float(self.samples[name].min())

    def ratio(self, ours: str, theirs: str) -> float:
        """Best of ours over best of theirs."""
        return self.best(ours) / self.best(theirs)

    def ratios(self, ours: str, theirs: str) -> list[float]:
        """Round by round; their spread is the measurement's noise."""
        return [float(r) for r in self.samples[ours] / self.samples[theirs]]


def interleaved(
    calls: Mapping[str, Callable[[], object]], budget: float = 0.3, shortest: float = SHORTEST
) -> Times:
    """Time each call in turn, round after round, for about `budget` seconds in all.

    Every round has an order of its own, so that none always follows the same one and finds the
    same data in the caches. A call is repeated until `shortest` seconds have passed.
    """
    names = list(calls)
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        first = time.perf_counter() - start
        repeats[name] = max(1, math.ceil(shortest / max(first, 1e-8)))
        if repeats[name] > 1:
            # a second call may still be a slow one: calibrate over enough of them
            each = timeit.timeit(call, number=repeats[name]) / repeats[name]
            repeats[name] = max(1, math.ceil(shortest / max(each, 1e-8)))
    taken: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)  # noqa: S311  # nothing secret
    collecting = gc.isenabled()
    gc.disable()
    try:
        begin, done = time.perf_counter(), 0
        while done < FEWEST or (done < MOST and time.perf_counter() - begin < budget):
            for name in order.sample(names, len(names)):
                number = repeats[name]
                taken[name].append(timeit.timeit(calls[name], number=number) / number)
            done += 1
    finally:
        if collecting:
            gc.enable()
    return Times({name: np.array(samples) for name, samples in taken.items()})
