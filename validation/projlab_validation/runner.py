"""Runs tasks: one problem in one dtype each, in worker processes of one thread.

For a subject a task is all problems of one shape: what it keeps between calls meets the next one.
The number of threads is one whatever the number of workers, so that figures do not depend on it. A
task that kills its worker (out of memory, a crash in a solver) becomes records of status "error"
and takes no other task with it.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import joblib
from joblib.externals.loky import ProcessPoolExecutor

from projlab_validation.environment import THREADS_PER_WORKER
from projlab_validation.examine import examine
from projlab_validation.measure import blank_record, faulty, measure
from projlab_validation.profiles import Profile
from projlab_validation.record import Record
from projlab_validation.store import Key, Store
from projlab_validation.subjects import is_subject

if TYPE_CHECKING:
    from rich.progress import Progress

    from projlab_validation.problems import Problem

ORPHANED_AFTER = 60.0
"""Seconds without work after which a worker ends: none outlives a runner that was killed."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclass(frozen=True)
class Task:
    """Problems, each in its dtype, and the variants to measure on them.

    Variants are measured on one problem a task, subjects on all problems of one shape.
    """

    problems: tuple[Problem, ...]
    variants: tuple[str, ...]
    profile: Profile
    device: str
    environment: str

    def run(self) -> list[Record]:
        """Measure here and now."""
        work = examine if is_subject(self.variants[0]) else measure
        where = {"device": self.device, "environment": self.environment}
        measured = [work(p, self.variants, self.profile, **where) for p in self.problems]
        return [record for records in measured for record in records]

    def lost(self, fault: BaseException) -> list[Record]:
        """Return the records of a task whose worker did not live to return any."""
        blanks = [blank_record(p, self.device, self.environment) for p in self.problems]
        return [record for blank in blanks for record in faulty(blank, self.variants, fault)]

    def cost(self) -> int:
        """Order of the floating-point operations ahead, to begin with the longest."""
        counts = [p.m**2 * p.n for p in self.problems]
        return sum(count for count in counts if count <= self.profile.flops)

    @property
    def name(self) -> str:
        """What the progress bar calls it."""
        first = self.problems[0]
        more = f" and {len(self.problems) - 1} more" if len(self.problems) > 1 else ""
        return f"{first.name} {first.dtype}{more}"


def run(
    problems: Iterable[Problem],
    variants: Sequence[str],
    profile: Profile,
    store: Store,
    *,
    environment: str,
    jobs: int | None = None,
    device: str = "cpu",
) -> int:
    """Measure what the store does not hold yet; return how many tasks that took.

    By default there are as many workers as this process may use processors.
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
    tasks.sort(key=Task.cost, reverse=True)
    with progress_bar(len(tasks)) as (bar, line):
        for task, records in finished(tasks, jobs or joblib.cpu_count()):
            store.write(records)
            bar.update(line, advance=1, description=task.name)
    return len(tasks)


def by_shape(tasks: Sequence[Task]) -> list[Task]:
    """Join the tasks of a subject whose problems have one shape, whatever their dtype."""
    joined: dict[object, Task] = {}
    for i, task in enumerate(tasks):
        shape = (task.problems[0].m, task.problems[0].n, task.variants)
        key = shape if is_subject(task.variants[0]) else i
        before = joined[key].problems if key in joined else ()
        joined[key] = replace(task, problems=before + task.problems)
    return list(joined.values())


def finished(tasks: Iterable[Task], jobs: int) -> Iterator[tuple[Task, list[Record]]]:
    """Yield each task with its records, as soon as it is done.

    No more tasks are handed out than there are workers, so that when a worker dies the suspects are
    few: they run again, each in a pool of its own, and the one that kills that pool too is recorded
    as an error.
    """
    waiting = deque(tasks)
    while waiting:
        suspects: list[Task] = []
        with _pool(min(jobs, len(waiting))) as pool:
            running: dict[Future[list[Record]], Task] = {}
            while running or (waiting and not suspects):
                while waiting and len(running) < jobs and not suspects:
                    task = waiting.popleft()
                    try:
                        running[pool.submit(task.run)] = task
                    except BrokenProcessPool:
                        suspects.append(task)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    try:
                        yield task, future.result()
                    except BrokenProcessPool:
                        suspects.append(task)
        for task in suspects:
            with _pool(1) as pool:
                try:
                    records = pool.submit(task.run).result()
                except BrokenProcessPool as fault:
                    records = task.lost(fault)
            yield task, records


@contextmanager
def _pool(workers: int) -> Iterator[Any]:
    """Open worker processes of one thread each; stop them at once on an exception."""
    pool = ProcessPoolExecutor(
        max_workers=workers,
        timeout=ORPHANED_AFTER,
        env=dict.fromkeys(THREAD_VARIABLES, str(THREADS_PER_WORKER)),
        initializer=_start_worker,
    )
    try:
        yield pool
    except BaseException:
        pool.shutdown(kill_workers=True)
        raise
    pool.shutdown()


def _start_worker() -> None:
    """Limit threads, and keep what solvers print away from the output, which may be JSON."""
    import torch

    torch.set_num_threads(THREADS_PER_WORKER)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextmanager
def progress_bar(total: int) -> Iterator[tuple[Progress, Any]]:
    """Open a progress bar on stderr, which draws nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as bar:
        yield bar, bar.add_task("starting", total=total)
