"""Runs tasks in worker processes of one thread, each of which can be ended at any moment.

A task is one problem with the variants to measure on it; for a subject it is all problems of one
shape, since what a subject keeps between calls must meet the next problem.

A worker tells as it goes whom it is asking for what, see :mod:`projlab_validation.watch`. One that
takes longer than the time limit over a record is killed, with everything it started; one may also
die by itself (a crash, out of memory). Either way the record in work becomes an "error", what was
finished before it stands, and the rest of the task goes on in a new process. Records are written
problem by problem: a kill of the runner loses those of the problems in work, and its workers end
with it. A resumed run enters the problems of a shape again with those that are left; what took too
long or died is no measurement, and is asked again.

Workers are plain processes and no pool of joblib's: a pool does not tell which worker is at which
task, and ends all of them or none. The number of threads is one whatever the number of workers, so
that figures do not depend on it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

import joblib

from projlab_validation.environment import THREAD_VARIABLES, THREADS_PER_WORKER, WAITING
from projlab_validation.measure import faulty, measure
from projlab_validation.profiles import Profile
from projlab_validation.progress import progress_bar
from projlab_validation.record import Record, blank_record
from projlab_validation.store import Key, Store
from projlab_validation.subjects import is_subject
from projlab_validation.watch import Answered, Asked, Tell

if TYPE_CHECKING:
    from projlab_validation.problems import Problem

PATIENCE = 20
"""Workers that are lost before a run is given up: what hangs every time would take hours."""

TICK = 0.2
"""Seconds between two looks at the clock."""

FLOPS_PER_PROBLEM = 5e8
"""What a problem costs whatever its size, as m² n: its oracles take about as long."""


class GivenUp(Exception):  # noqa: N818  the end of a run, which is no error of the runner
    """A run ended before everything was measured; the message says why."""


class WorkerDied(Exception):  # noqa: N818  named for what a record's exception column says
    """A worker ended in the midst of its work; the message says how."""


@dataclass(frozen=True)
class Task:
    """Problems, each in its dtype, and the variants to measure on them, in one process.

    Variants are measured on one problem a task, subjects on all problems of one shape.
    """

    problems: tuple[Problem, ...]
    variants: tuple[str, ...]
    profile: Profile
    device: str
    environment: str

    def rows(self, tell: Tell) -> Iterator[list[Record]]:
        """Measure here and now: yield the records of one problem after the other."""
        for problem in self.problems:
            yield measure(
                problem,
                self.variants,
                self.profile,
                device=self.device,
                environment=self.environment,
                tell=tell,
            )

    @property
    def flops(self) -> int:
        """m² n, of the largest problem."""
        return max(p.m * p.m * p.n for p in self.problems)

    @property
    def cost(self) -> float:
        """How long it takes, in no unit."""
        return sum(cost(p.m, p.n, self.profile) for p in self.problems) * len(self.variants)


Elsewhere = Callable[[Sequence[Task], float | None], Generator[list[Record], None, None]]
"""What measures tasks with a time limit, in place of `measured`."""


def cost(m: int, n: int, profile: Profile) -> float:
    """How long a variant takes on a problem of this shape, its share of the oracles included."""
    flops = float(m * m * n)
    return FLOPS_PER_PROBLEM + (flops if flops <= profile.flops else 0.0)


def run(
    problems: Iterable[Problem],
    variants: Sequence[str],
    profile: Profile,
    store: Store,
    *,
    environment: str,
    jobs: int | None = None,
    device: str = "cpu",
    smallest_first: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Generator[list[Record], None, None]:
    """Measure what the store does not hold yet; yield records when they are written.

    By default there are as many workers as this process may use processors. Closing the generator
    ends the workers. With `elsewhere`, a cluster's, no process is started here.

    Raises
    ------
    GivenUp
        Workers were lost `PATIENCE` times. What was measured until then is in the store.
    """
    done = store.done()
    tasks = []
    for problem in problems:
        missing = tuple(
            v
            for v in variants
            if Key(problem.content_hash, problem.dtype, v, environment) not in done
        )
        if missing:
            tasks.append(Task((problem,), missing, profile, device, environment))
    tasks = by_shape(tasks)
    if smallest_first:
        tasks.sort(key=lambda task: task.flops)
    else:
        tasks.sort(key=lambda task: task.cost, reverse=True)  # the longest last would run alone
    rows = (
        elsewhere(tasks, profile.record_seconds)
        if elsewhere
        else measured(tasks, jobs or joblib.cpu_count(), profile.record_seconds)
    )
    with progress_bar(sum(task.cost for task in tasks)) as (bar, line), contextlib.closing(rows):
        for records in rows:
            store.write(records)
            first, asked = records[0], {record.variant for record in records}
            share = cost(first.m, first.n, profile) * len(asked)
            bar.update(line, advance=share, description=f"{first.problem} {first.dtype}")
            yield records


def by_shape(tasks: Sequence[Task]) -> list[Task]:
    """Join the tasks of a subject whose problems have one shape, whatever their dtype."""
    joined: dict[object, Task] = {}
    for i, task in enumerate(tasks):
        shape = (task.problems[0].m, task.problems[0].n, task.variants)
        key = shape if is_subject(task.variants[0]) else i
        before = joined[key].problems if key in joined else ()
        joined[key] = replace(task, problems=before + task.problems)
    return list(joined.values())


def measured(
    tasks: Iterable[Task], jobs: int, limit: float | None
) -> Generator[list[Record], None, None]:
    """Yield the records of one problem at a time, all that it has for a variant together.

    Parameters
    ----------
    tasks
        What to measure, begun in this order.
    jobs
        Number of workers.
    limit
        Seconds that a record may take; None for no limit.
    """
    waiting = deque(tasks)
    workers: list[Worker] = []
    lost = 0
    try:
        while waiting or any(worker.task for worker in workers):
            for worker in [worker for worker in workers if not worker.task]:
                if worker.process.poll() is not None:  # between tasks: nobody's record is lost
                    worker.end()
                    workers.remove(worker)
                elif waiting:
                    worker.begin(waiting.popleft())
            while waiting and len(workers) < jobs:
                workers.append(Worker())
                workers[-1].begin(waiting.popleft())
            busy = [worker for worker in workers if worker.task]
            wait([worker.inbox for worker in busy], TICK)
            for worker in busy:
                yield from worker.finished()
                fault = worker.fault(limit)
                if fault:
                    worker.end()
                    workers.remove(worker)
                    records, rest = worker.lost(fault)
                    waiting.extendleft(reversed(rest))
                    yield records
                    lost += 1
                    if lost >= PATIENCE:
                        raise GivenUp(f"given up after {lost} time-outs and crashes")
    finally:
        for worker in workers:
            worker.end()


class Worker:
    """A process that measures one task at a time, as its runner sees it.

    Attributes
    ----------
    task
        What it is at, less what is finished; None when it is idle.
    asked
        Whom it asks, and for what, if it is asking.
    since
        When it began to ask, by the monotonic clock.
    standing
        The records of the problem in work that stand whatever becomes of the worker.
    """

    def __init__(self) -> None:
        self.process = start_process()
        self.outbox = Connection(os.dup(self.process.stdin.fileno()), readable=False)
        self.inbox = Connection(os.dup(self.process.stdout.fileno()), writable=False)
        self.task: Task | None = None
        self.asked: Asked | None = None
        self.since = 0.0
        self.standing: list[Record] = []
        self.gone = False

    def begin(self, task: Task) -> None:
        """Hand it a task; it must be idle."""
        self.task = task
        try:
            self.outbox.send(task)
        except BrokenPipeError:
            self.gone = True

    def finished(self) -> Iterator[list[Record]]:
        """Hear what it has told so far; yield the records of each problem that it is done with."""
        try:
            while self.task and self.inbox.poll():
                match self.inbox.recv():
                    case Asked() as asked:
                        self.asked, self.since = asked, time.monotonic()
                    case Answered(records):
                        self.asked = None
                        self.standing.extend(records)
                    case records:
                        left = self.task.problems[1:]
                        self.task = replace(self.task, problems=left) if left else None
                        self.asked, self.standing = None, []
                        yield records
        except (EOFError, OSError):
            self.gone = True

    def fault(self, limit: float | None) -> Exception | None:
        """Say why the record in work will not come; None while it may."""
        if not self.task:
            return None
        # What it started may hold its pipe open, so an open pipe does not show that it lives.
        if self.gone or (self.process.poll() is not None and not self.inbox.poll()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
            return WorkerDied(f"the worker process {_how_it_ended(self.process.poll())}")
        if self.asked and limit is not None and time.monotonic() - self.since > limit:
            return TimeoutError(f"took longer than the time limit of {limit:g} s (--time-limit)")
        return None

    def lost(self, fault: Exception) -> tuple[list[Record], list[Task]]:
        """Return the records of the problem in work, and what is left of the task.

        The one that was being asked is at fault, and loses what it had not answered yet; others are
        asked again. Where nobody was, the problem cannot be measured at all.
        """
        assert self.task
        first, later = self.task.problems[0], self.task.problems[1:]
        rest = [replace(self.task, problems=later)] if later else []
        blank = blank_record(first, self.task.device, self.task.environment)
        if not self.asked:
            return faulty(blank, self.task.variants, fault), rest
        guilty, check = self.asked.variant, self.asked.check
        record = replace(
            blank,
            variant=guilty,
            check=check,
            status="error",
            reason=str(fault),
            exception=type(fault).__name__,
        )
        others = tuple(v for v in self.task.variants if v != guilty)
        if others:
            rest.insert(0, replace(self.task, problems=(first,), variants=others))
        return [*(r for r in self.standing if r.variant == guilty), record], rest

    def end(self) -> None:
        """Kill it and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.outbox, self.inbox, self.process.stdin, self.process.stdout):
            pipe.close()


def start_process() -> Any:
    """Start a worker process, in a session of its own: Ctrl-C is the runner's to hear."""
    program = (
        f"import sys; sys.path[:] = {[*map(str, sys.path)]!r}; "
        f"from {__name__} import serve; serve()"
    )
    threads = dict.fromkeys(THREAD_VARIABLES, str(THREADS_PER_WORKER))
    return subprocess.Popen(
        [sys.executable, "-c", program],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **WAITING, **threads},
        start_new_session=True,
    )


def serve() -> None:
    """Measure the tasks that come on stdin, tell about them on stdout: what a worker does.

    Subjects and solvers get no input, and what they print is dropped.
    """
    import torch

    inbox, outbox = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    torch.set_num_threads(THREADS_PER_WORKER)
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(inbox, tasks), daemon=True).start()
    while True:
        for records in tasks.get().rows(outbox.send):
            outbox.send(records)


def _listen(inbox: Connection[Any, Task], tasks: queue.SimpleQueue[Task]) -> None:
    """Take in tasks; end the process with its runner, in the midst of whatever it is at."""
    try:
        while True:
            tasks.put(inbox.recv())
    finally:
        os._exit(1)


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "closed its connection"
    if code >= 0:
        return f"ended with exit code {code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{hint}"
