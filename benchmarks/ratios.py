"""Ratios, measured in one process: to the machine's limit and to every peer. Less is better.

A ratio survives what its two times do not: another load, another clock. asv stores the rounds'
ratios as samples, so that a comparison knows the noise.
"""

from benchmarks import common, parameters, yardstick
from benchmarks.interleave import Times, interleaved
from benchmarks.peers import PEERS


def _samples(times: Times, ours: str, theirs: str) -> dict[str, object]:
    return {"samples": times.ratios(ours, theirs), "number": 1}


class Bandwidth:
    """`project_` over the time of reading A's bytes once."""

    params = (common.VARIANTS, parameters.SIZES, parameters.DTYPES, parameters.DEVICES)
    param_names = ("variant", "size", "dtype", "device")
    unit = "reads"

    def setup(self, variant, size, dtype, device):
        self.case = common.system(size, dtype, device)
        self.P = common.projector(self.case, variant)

    def track_reads(self, variant, size, dtype, device):
        x, synchronize = self.case.x0.clone(), common.synchroniser(device)
        calls = {"projlab": lambda: self.P.project_(x), **yardstick.reads(self.case.A)}
        times = interleaved({name: _then(call, synchronize) for name, call in calls.items()})
        fastest = min((name for name in calls if name != "projlab"), key=times.best)
        return _samples(times, "projlab", fastest)


class Peers:
    """`project_` over a peer's projection of the same vectors, both with what they keep."""

    params = (
        tuple(PEERS),
        ("1x10", "3x10", "10x100", "100x1000", "500x2000"),
        ("one", "shared", "distinct"),
        parameters.DTYPES,
        parameters.DEVICES,
    )
    param_names = ("peer", "size", "vectors", "dtype", "device")
    unit = "peer"

    def setup(self, peer, size, vectors, dtype, device):
        if vectors == "distinct" and common.shape_of(size)[1] > 100:
            raise NotImplementedError("a batch of such systems does not fit a short run")
        self.case = common.system(
            size,
            dtype,
            device,
            points=256 if vectors == "shared" else None,
            batch=256 if vectors == "distinct" else None,
        )
        self.theirs = PEERS[peer].prepare(self.case)
        self.P = common.projector(self.case, "auto")

    def track_ratio(self, peer, size, vectors, dtype, device):
        x, synchronize = self.case.x0.clone(), common.synchroniser(device)
        calls = {"projlab": lambda: self.P.project_(x), "peer": self.theirs}
        times = interleaved({name: _then(call, synchronize) for name, call in calls.items()})
        return _samples(times, "projlab", "peer")


def _then(call, synchronize):
    def both():
        call()
        synchronize()

    return both
