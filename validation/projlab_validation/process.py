"""Runs work in a process of its own, which reports as it goes and is ended at a time limit."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from projlab_validation.environment import THREAD_VARIABLES
from projlab_validation.outcome import described

STARTING = 300.0
"""Seconds that a process may take to import what it needs, on a machine that does much else."""

GRACE = 10.0
"""Seconds after its limit at which a process ends itself, whoever started it being gone."""

LONGEST_WAIT, LONGEST_TIMER = 3600.0, 1e8
"""Seconds that one call of the system's may wait, and that its timer may count."""

STOPPED = "stopped at the time limit"

BEGUN = "begun"
"""What a process says when it has imported torch, which no time limit is for."""


def reports(
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    first: Any,
    *,
    time_limit: float,
    threads: int | None = None,
) -> Iterator[tuple[Any, str]]:
    """Run `work(report, *arguments)` in a process of its own, and yield what it reports.

    Parameters
    ----------
    work
        Calls its `report` with anything that can be pickled, but no string.
    first
        Stands for a report where the process makes none.
    time_limit
        Seconds after which the process is ended; starting it does not count.
    threads
        Of every library in it; None for as many as each chooses.

    Yields
    ------
    a report, ""
        As often as the process reports.
    the latest report, why
        Once, at the end: "" where the process came to its own end, else why it did not.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, work, arguments, threads, time_limit))
    latest, why = first, ""
    with _thread_count(threads):
        process.start()
    theirs.close()
    try:
        deadline = time.monotonic() + STARTING  # until it has begun
        while not why:
            if not _heard(ours, deadline):
                why = f"{STOPPED} of {time_limit:g} s"
                break
            match ours.recv():
                case str(word) if word == BEGUN:
                    deadline = time.monotonic() + time_limit
                case str(word):
                    why = word
                case report:
                    latest = report
                    yield latest, ""
    except EOFError:
        process.join()
        code = process.exitcode
        why = "" if code == 0 else f"its process ended with exit code {code}: out of memory?"
    finally:
        process.kill()
        process.join()
        ours.close()
    yield latest, why


def _heard(connection: Connection, deadline: float) -> bool:
    """Wait for something to read until the deadline, however far that is."""
    while not connection.poll(max(0.0, min(deadline - time.monotonic(), LONGEST_WAIT))):
        if time.monotonic() >= deadline:
            return False
    return True


@contextlib.contextmanager
def _thread_count(count: int | None) -> Iterator[None]:
    """Let a process that is started inside begin with this many threads in every library."""
    if count is None:
        yield
        return
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(
    connection: Connection,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    threads: int | None,
    time_limit: float,
) -> None:
    """Run the work and send what it reports, after `BEGUN`; a string at the end is an error."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this process ends it
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, min(time_limit + GRACE, LONGEST_TIMER))
    if threads is not None:
        torch.set_num_threads(threads)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what solvers print
    connection.send(BEGUN)
    try:
        work(connection.send, *arguments)
    except Exception as fault:  # whatever goes wrong, the page says so
        connection.send(f"it could not be measured: {described(fault)}")
