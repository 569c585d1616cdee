"""The bounds section of a run: every problem, by projlab or a subject, with solvers beside it.

A process of its own measures problem after problem and reports each; where it crashes, or they take
longer than the time limit, the one in work has failed and the next begins in a new process. The
records lie beside the run's, in `bounds/`: one part for each problem and subject.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from projlab_validation import subjects
from projlab_validation.bounds import oracle, problems, solvers
from projlab_validation.bounds.problems import BoundedProblem
from projlab_validation.norms import norm
from projlab_validation.process import reports
from projlab_validation.progress import progress_bar
from projlab_validation.store import BOUNDS, parquet, write_whole

if TYPE_CHECKING:
    import pandas as pd

Vector = NDArray[np.float64]
NAN = math.nan
PROJLAB = "auto"
"""What the records call projlab's own answer."""

PROVEN = 1e-9
"""What a certificate has to prove of projlab's answer for others to be held against that."""

GIVE_UP = 20
"""Problems that crashed or took too long, after which the section ends."""


Role = Literal["answer", "solver"]


@dataclass(frozen=True)
class BoundsRecord:
    """One problem, answered by one way or solver; no verdict.

    Attributes
    ----------
    role
        "answer": judged; "solver": a solver or peer, shown beside it and never judged.
    variant
        projlab's way ("box", "disjoint_rows", "active_set"), the subject, the solver or the peer.
    status
        What came back: an answer, a refusal of an empty set, an exception, or no answer asked for.
    claimed
        The answer's own status: projlab's "polished", a solver's.
    reference
        How x* is known: "sorted", "active set", "certificate", or "" where it is not.
    radius
        What that may be off by, relative to its size.
    distance
        ‖x − x*‖ / ‖x*‖.
    feasibility
        The largest |A x − b| and G x − h over ‖a‖ (‖x‖ + ‖x₀‖) + |b|, and of bounds likewise.
    bound
        What the certificate proves of `distance`; NaN where it was not asked.
        Like it relative to ‖x₀‖ where x is zero to rounding.
    condition
        κ₂ of the active rows on the free variables.
    amplification
        (‖x₀‖ + ‖x₀ − x*‖) / ‖x*‖.
    """

    problem: str
    variant: str
    role: Role
    environment: str
    m: int
    n: int
    empty: bool
    status: Literal["ok", "refused", "error", "skip"]
    reason: str = ""
    claimed: str = ""
    reference: str = ""
    radius: float = NAN
    distance: float = NAN
    feasibility: float = NAN
    bound: float = NAN
    condition: float = NAN
    amplification: float = NAN
    seconds: float = NAN


def run(
    folder: Path,
    names: Sequence[str],
    variant: str,
    *,
    environment: str,
    time_limit: float,
    role: Role = "answer",
) -> Iterator[list[BoundsRecord]]:
    """Measure what the folder does not hold yet; yield records when they are written."""
    (folder / BOUNDS).mkdir(exist_ok=True)
    todo = [name for name in names if not _part(folder, name, variant, environment).exists()]
    total, given_up = len(todo), 0
    with progress_bar(total) as (bar, line):
        while todo and given_up < GIVE_UP:
            began = 0
            for report, why in reports(
                _measure,
                (todo, variant, environment, role),
                None,
                time_limit=time_limit,
                threads=1,
            ):
                if isinstance(report, list) and not why and began < len(todo):
                    name = todo[began]
                    if report[0].problem != name:
                        continue
                    write_whole(_part(folder, name, variant, environment), parquet(_frame(report)))
                    bar.update(line, advance=1, description=name)
                    began += 1
                    yield report
                elif why and began < len(todo):
                    given_up += 1
                    name = todo[began]
                    record = [_failed(name, variant, environment, role, why)]
                    write_whole(_part(folder, name, variant, environment), parquet(_frame(record)))
                    began += 1
                    yield record
            todo = todo[began:] if began else todo[1:]


def missing(folder: Path, names: Sequence[str], variant: str, *, environment: str) -> list[str]:
    """Name the parts that a run would still have to measure."""
    parts = [_part(folder, name, variant, environment) for name in names]
    return [path.name for path in parts if not path.exists()]


def read(folder: Path, environment: str) -> pd.DataFrame:
    """Read every record of a run that was measured in this environment."""
    import pandas as pd

    parts = [pd.read_parquet(path) for path in sorted((folder / BOUNDS).glob("*.parquet"))]
    frame = pd.concat(parts, ignore_index=True) if parts else _frame([])
    return frame[frame["environment"] == environment].reset_index(drop=True)


def _part(folder: Path, name: str, variant: str, environment: str) -> Path:
    asked = "".join(c if c.isalnum() else "-" for c in variant)
    return folder / BOUNDS / f"{name}.{asked}.{environment}.parquet"


def _frame(records: Sequence[BoundsRecord]) -> pd.DataFrame:
    import pandas as pd

    columns = [field.name for field in dataclasses.fields(BoundsRecord)]
    return pd.DataFrame([dataclasses.asdict(record) for record in records], columns=columns)


def _failed(name: str, variant: str, environment: str, role: Role, why: str) -> BoundsRecord:
    problem = problems.build(name)
    return BoundsRecord(
        name, variant, role, environment, problem.m, problem.n, problem.empty, "error", why
    )


FIRST = ("bounds_box", "bounds_simplex_3", "bounds_vertex")
"""Answered before anything is timed: what the first call imports and compiles is paid once."""


def _measure(
    report: Callable[[list[BoundsRecord]], None],
    names: Sequence[str],
    variant: str,
    environment: str,
    role: Role,
) -> None:
    subject = None if variant == PROJLAB else subjects.load(variant)
    for name in FIRST:
        measured(problems.build(name), subject, variant, environment, role)
    for name in names:
        report(measured(problems.build(name), subject, variant, environment, role))


MOST_OF_PEERS = 200
"""Variables up to which peers are asked: most of them make bounds dense rows, and compile anew for
each shape."""


def measured(
    problem: BoundedProblem,
    subject: Callable[..., Any] | None,
    variant: str,
    environment: str = "",
    role: Role = "answer",
) -> list[BoundsRecord]:
    """Answer one problem, by projlab where no subject is given, and hold it against x*."""
    blank = BoundsRecord(
        problem.name, variant, role, environment, problem.m, problem.n, problem.empty, "skip"
    )
    if subject is not None and problem.empty:
        return [dataclasses.replace(blank, reason="a subject is asked where there is an answer")]
    if role == "solver" and problem.n > MOST_OF_PEERS:
        why = f"peers are asked up to {MOST_OF_PEERS} variables, and this has {problem.n}"
        return [dataclasses.replace(blank, reason=why)]
    record, x = _asked(problem, subject, blank)
    alone = problem.empty or role == "solver"
    others = [] if alone else [of_solver(problem, name, blank) for name in _solvers(problem)]
    answers = [x, *(answer for _, answer in others)]
    ours, projected = (record, x) if subject is None else _asked(problem, None, blank)
    found = oracle.exact(problem, [a for a in (*answers, projected) if a is not None])
    first = compared(problem, record, x, found)
    if found is None and projected is not None and ours.bound <= PROVEN:
        found = oracle.certified(problem, projected, ours.bound)
        first = compared(problem, record, x, found if subject is not None else None)
    return [first, *(compared(problem, other, answer, found) for other, answer in others)]


def _solvers(problem: BoundedProblem) -> tuple[str, ...]:
    return solvers.installed() if problem.n <= solvers.MOST else ()


def _asked(
    problem: BoundedProblem, subject: Callable[..., Any] | None, blank: BoundsRecord
) -> tuple[BoundsRecord, Vector | None]:
    import torch

    from projlab import projector

    def tensor(part: Vector | None) -> Any:
        """A copy: a subject may write into what it is given."""
        return None if part is None else torch.tensor(part, dtype=torch.float64)

    parts = {name: tensor(getattr(problem, name)) for name in ("A", "b", "G", "h", "lb", "ub")}
    if subject is None:
        record, x, times = own(problem, lambda: projector(**parts), blank)
        return dataclasses.replace(record, seconds=sum(times[:2])), x
    x0 = tensor(problem.x0)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = subject(x0, *parts.values())
            seconds = time.perf_counter() - start
            x = torch.as_tensor(answer).detach().double().numpy().copy()
    except Exception as fault:  # what goes wrong is a finding
        return _went_wrong(blank, fault), None
    if x.shape != problem.x0.shape:
        why = f"the answer has shape {x.shape}, x0 {problem.x0.shape}"
        return dataclasses.replace(blank, status="error", reason=why), None
    return dataclasses.replace(blank, status="ok", seconds=seconds), x


Times = tuple[float, float, float]
"""Seconds of the set-up, the first projection, and one more from the same active set."""
NO_TIMES = (NAN, NAN, NAN)


def own(
    problem: BoundedProblem,
    made: Callable[[], Any],
    blank: BoundsRecord,
    *,
    proof: bool = True,
    again: bool = False,
) -> tuple[BoundsRecord, Vector | None, Times]:
    """projlab's answer, by a projector that is made here.

    With `proof` what its certificate proves, and with `again` the time of another projection. Also
    an empty set's refusal, or what else went wrong.
    """
    import torch

    from projlab import InconsistentError

    x0 = torch.tensor(problem.x0, dtype=torch.float64)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            P = made()
            set_up = time.perf_counter()
            x = P(x0)
            projected = time.perf_counter()
            status, more = P.status, NAN
            if again:
                P(x0)
                more = time.perf_counter() - projected
            bound = proven(problem, P.certify(x0, x), x) if proof else NAN
    except InconsistentError as refusal:
        return dataclasses.replace(blank, status="refused", reason=str(refusal)), None, NO_TIMES
    except Exception as fault:  # what goes wrong is a finding
        return _went_wrong(blank, fault), None, NO_TIMES
    record = dataclasses.replace(blank, variant=P.variant, status="ok", claimed=status, bound=bound)
    return record, x.numpy(), (set_up - start, projected - set_up, more)


def _went_wrong(blank: BoundsRecord, fault: Exception) -> BoundsRecord:
    why = f"{type(fault).__name__}: {fault}"
    return dataclasses.replace(blank, status="error", reason=why)


def proven(problem: BoundedProblem, proof: Any, x: Any) -> float:
    """What a certificate proves of `distance`; its own bound is relative to ‖x‖."""
    answer = x.numpy()
    return float(proof.forward_error_bound) * norm(answer) / oracle.scale(problem, answer)


def of_solver(
    problem: BoundedProblem, name: str, blank: BoundsRecord
) -> tuple[BoundsRecord, Vector | None]:
    """A solver's answer, timed with cvxpy's part."""
    start = time.perf_counter()
    x, claimed = solvers.solve(problem, name)
    seconds = time.perf_counter() - start
    status: Literal["ok", "error"] = "error" if x is None else "ok"
    record = dataclasses.replace(
        blank, variant=name, role="solver", status=status, claimed=claimed, seconds=seconds
    )
    return record, x


def compared(
    problem: BoundedProblem, record: BoundsRecord, x: Vector | None, found: oracle.Exact | None
) -> BoundsRecord:
    """The record with what is known of an answer beside x*."""
    if x is None:
        return record
    record = dataclasses.replace(record, feasibility=feasibility(problem, x))
    if found is None:
        return record
    size = oracle.scale(problem, found.x)
    return dataclasses.replace(
        record,
        reference=found.how,
        radius=found.radius,
        distance=norm(x - found.x) / size,
        condition=found.condition,
        amplification=(norm(problem.x0) + norm(problem.x0 - found.x)) / size,
    )


def feasibility(problem: BoundedProblem, x: Vector) -> float:
    """By how much the rows and bounds are missed, beside the sizes of their terms."""
    worst = [0.0]
    wide, length = x.astype(np.longdouble), norm(x) + norm(problem.x0)
    for rows, right, equal in ((problem.A, problem.b, True), (problem.G, problem.h, False)):
        if rows is None or right is None:
            continue
        off = rows.astype(np.longdouble) @ wide - right
        size = np.linalg.norm(rows, axis=1) * length + np.abs(right)
        worst.append(float(np.max((np.abs(off) if equal else off) / np.where(size > 0, size, 1))))
    lb, ub = problem.box
    for bound, beyond in ((lb, lb - x), (ub, x - ub)):
        there = np.isfinite(bound)
        if there.any():
            scale = np.abs(bound[there]) + (length or 1.0)
            worst.append(float(np.max(beyond[there] / scale)))
    return math.nan if np.isnan(worst).any() else max(worst)
