"""Faults planted into projlab's own projector, and the verdicts that they lead to."""

import projlab
from projlab_validation.judge import judge
from projlab_validation.measure import measure
from projlab_validation.problems import catalogue
from projlab_validation.profiles import PROFILES
from projlab_validation.record import table


class Sabotaged:
    """A projector whose answers go through a planted fault."""

    def __init__(self, P, answer=lambda P, x: P(x), rank=0):
        self.P, self.answer, self.rank = P, answer, P.rank + rank
        self.variant, self.condition = P.variant, P.condition

    def to(self, device):
        return self

    def __call__(self, x):
        return self.answer(self.P, x)


def sabotage(monkeypatch, answer=lambda P, x: P(x), rank=0):
    """Let every projector answer through a planted fault, or claim another rank."""
    honest = projlab.projector
    monkeypatch.setattr(
        projlab, "projector", lambda *a, **k: Sabotaged(honest(*a, **k), answer, rank)
    )


def problem(name, dtype="float64"):
    return next(iter(catalogue(names=[name], dtypes=[dtype])))


def frame_of(records):
    """The records as a frame, by variant and check."""
    return table(records).to_pandas().set_index(["variant", "check"])


def verdicts_of(name, check="projection"):
    """The verdicts on three variants, in one check of one problem."""
    records = measure(problem(name), ("cholesky", "qr", "pinv"), PROFILES["quick"])
    frame = judge(table(records).to_pandas())
    return set(frame["verdict"][frame["check"] == check])
