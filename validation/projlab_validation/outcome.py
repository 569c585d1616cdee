"""Asks a variant for a projection: set-up and projection timed apart, and what came back."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from projlab_validation.profiles import Profile
from projlab_validation.record import NAN, Record, Status

if TYPE_CHECKING:
    from projlab import AffineConstraint, Projector
    from projlab_validation.problems import Problem

T = TypeVar("T")
Array = np.ndarray[Any, np.dtype[Any]]
Rule = Literal["raise", "least_squares"]
"""What `on_inconsistent` takes."""


@dataclass(frozen=True)
class Outcome:
    """What a variant did when it was asked: answered with x, refused, or failed."""

    status: Status
    x: Array | None = None
    reason: str = ""
    exception: str = ""
    computed_by: str = ""
    rank: int | None = None
    condition: float = NAN
    setup: tuple[float, ...] = ()
    project: tuple[float, ...] = ()
    stacked: tuple[float, ...] = ()
    """Seconds of projecting a stack of points, where one was asked for."""
    held: int | None = None
    """Bytes of what the projector keeps besides the constraint, where a stack was asked for."""

    @staticmethod
    def of_fault(fault: BaseException) -> Outcome:
        """Return the outcome of a call that raised: refused, if by an error of projlab's own."""
        from projlab import ProjlabError

        if isinstance(fault, ProjlabError):
            return Outcome("refused", reason=str(fault), exception=type(fault).__name__)
        return Outcome("error", reason=described(fault), exception=type(fault).__name__)

    def record(self, blank: Record, variant: str) -> Record:
        """Return its record without anything that needs x*."""
        return replace(
            blank,
            variant=variant,
            status=self.status,
            reason=self.reason,
            exception=self.exception,
            computed_by=self.computed_by,
            rank=self.rank,
            condition=self.condition,
            setup_s_median=median(self.setup) if self.setup else NAN,
            setup_s_min=min(self.setup, default=NAN),
            project_s_median=median(self.project) if self.project else NAN,
            project_s_min=min(self.project, default=NAN),
            repeats=len(self.project),
        )


@cache
def load_libraries(dtype: str) -> None:
    """Let small projectors import and compile what others of the dtype need, once a process.

    A first call that takes as long as many is a measurement, and must be one of projecting.
    """
    import torch

    from projlab import AffineConstraint, projector, variants

    rows = [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 2.0, 1.0]]
    A = torch.tensor(rows, dtype=getattr(torch, dtype))
    for variant in ("auto", *variants()):
        with contextlib.suppress(Exception):  # it is found, and said, when the variant is asked
            projector(AffineConstraint(A, 0.0), variant=variant)(A)


def ask(
    constraint: AffineConstraint,
    problem: Problem,
    variant: str,
    on_inconsistent: Rule,
    profile: Profile,
    device: str,
    *,
    stack: int = 0,
    decided: bool = False,
) -> Outcome:
    """Ask one variant to project x₀; set-up and projection are timed apart.

    With `stack`, that many points stacked as (stack, n) are timed besides. `decided`: the
    constraint has been asked before, and holds its rank.
    """
    import torch

    from projlab import projector

    load_libraries(problem.dtype)
    x0 = torch.from_numpy(problem.x0).to(device=device, dtype=getattr(torch, problem.dtype))
    synchronise = torch.get_device_module(device).synchronize
    try:
        P, setup = timed(
            lambda: projector(constraint, variant=variant, on_inconsistent=on_inconsistent).to(
                device
            ),
            synchronise,
            profile,
            lasting=decided,
        )
        with torch.no_grad():
            x, project = timed(lambda: P(x0), synchronise, profile)
            stacked: list[float] = []
            if stack:
                points = x0.repeat(stack, 1)
                stacked = timed(lambda: P(points), synchronise, profile)[1]
    except Exception as fault:  # whatever a variant raises is a finding about that variant
        return Outcome.of_fault(fault)
    return Outcome(
        "ok",
        x=x.cpu().numpy(),
        computed_by=P.variant,
        rank=int(P.rank),
        condition=float(P.condition),
        setup=tuple(setup),
        project=tuple(project),
        stacked=tuple(stacked),
        held=held_bytes(P) if stack else None,
    )


def held_bytes(P: Projector) -> int:
    """Bytes of the tensors that a projector keeps, without its constraint: its factors."""
    import torch

    sizes: dict[int, int] = {}
    seen = {id(P.constraint), id(P.A), id(P.b)}
    waiting: list[object] = [P]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, Mapping):
            waiting += thing.values()
        elif isinstance(thing, (list, tuple)):
            waiting += thing
        elif type(thing).__module__.startswith("projlab"):
            slots = getattr(type(thing), "__slots__", ())
            waiting += [getattr(thing, name) for name in slots] or vars(thing).values()
    return sum(sizes.values())


def timed(
    work: Callable[[], T],
    synchronise: Callable[[], None],
    profile: Profile,
    *,
    lasting: bool = False,
) -> tuple[T, list[float]]:
    """Do the work once untimed, to warm up, then repeatedly: what it returned, and the seconds.

    `lasting`: what the work leaves behind for the next call is there already. A warm-up that took
    as long as all repeats may is then the measurement.
    """
    start = time.perf_counter()
    result = work()
    synchronise()
    first = time.perf_counter() - start
    seconds = [first] if lasting and first >= profile.repeat_seconds else []
    while not seconds or (len(seconds) < profile.repeats and sum(seconds) < profile.repeat_seconds):
        start = time.perf_counter()
        result = work()
        synchronise()
        seconds.append(time.perf_counter() - start)
    return result, seconds


def described(fault: BaseException) -> str:
    """Return type, text and place of an exception, in one line."""
    frames = traceback.extract_tb(fault.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(fault).__name__}: {fault}{where}"
