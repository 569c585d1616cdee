"""Measures tasks on the machines of a Dask cluster, each as `runner` would here.

A task goes to one Dask worker, which hands it to a worker process of its own: time limits, threads
and what a crash costs are the same as on one machine, and a subject that crashes takes no Dask
worker with it. A Dask worker that dies itself, with its machine, has its task measured again on
another one, as often as the scheduler allows (`distributed.scheduler.allowed-failures`, three by
default); after that the task's records say so.

Nothing is written where a task is measured: records come back, and the caller stores them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from projlab import InputError
from projlab_validation import environment
from projlab_validation.measure import faulty
from projlab_validation.record import Record, blank_record
from projlab_validation.runner import GivenUp, Task, measured
from projlab_validation.subjects import PeerSubject

PATIENCE = 30.0
"""Seconds in which a scheduler answers, and has a worker."""

APART = frozenset({"cpu", "cores", "commit", "device"})
"""Of `environment.describe`: what may be another on each machine."""


class WorkersDied(Exception):  # noqa: N818  named for what a record's exception column says
    """Dask workers ended in the midst of a task, one after the other."""


@dataclass(frozen=True)
class Wanted:
    """What a worker must have, so that its records are those of this machine."""

    subject: str | None
    peers: tuple[PeerSubject, ...]
    description: dict[str, str]

    @staticmethod
    def here(subject: str | None, peers: Sequence[PeerSubject]) -> Wanted:
        """As it is in this process."""
        return Wanted(subject, tuple(peers), environment.describe("cpu", subject, peers))

    def differences(self, found: Mapping[str, str]) -> str:
        """Say in what a description differs; "" where it does not."""
        return ", ".join(
            f"{name} {found.get(name, 'none')} ({value} here)"
            for name, value in self.description.items()
            if name not in APART and found.get(name) != value
        )


@dataclass(frozen=True)
class Cluster:
    """A cluster whose workers are all fit to measure.

    Attributes
    ----------
    client
        Connected to its scheduler.
    wanted
        What each worker has, and one that comes later must have.
    hosts, cpus
        Of each worker, as they were when the cluster was reached.
    """

    client: Any
    wanted: Wanted
    hosts: tuple[str, ...]
    cpus: tuple[str, ...]

    def describe(self, description: Mapping[str, str]) -> dict[str, str]:
        """Say in a description of this environment where it is measured instead."""
        count = f"{len(self.hosts)} worker{'s' if len(self.hosts) > 1 else ''}"
        where = ", ".join(sorted(set(self.hosts)))
        cpus = ", ".join(sorted(set(self.cpus)))
        return dict(description) | {"cpu": cpus, "cluster": f"{count} on {where}"}

    def measured(
        self, tasks: Sequence[Task], limit: float | None
    ) -> Generator[list[Record], None, None]:
        """Yield the records of one problem at a time, as `runner.measured` does.

        Raises
        ------
        GivenUp
            The scheduler is gone, or processes of one task were lost too often. What was measured
            until then has been yielded.
        InputError
            A worker that came later is not fit to measure.
        """
        from distributed import KilledWorker, as_completed
        from distributed.client import FutureCancelledError

        submit = self.client.submit
        waiting = {
            submit(measured_there, task, limit, self.wanted, pure=False, priority=-place): task
            for place, task in enumerate(tasks)
        }
        try:
            for future in as_completed(list(waiting), loop=self.client.loop):
                task = waiting.pop(future)
                try:
                    yield from future.result()
                except KilledWorker as fault:
                    yield from _left(task, fault)
                except (asyncio.CancelledError, FutureCancelledError, OSError) as fault:
                    raise GivenUp("given up: the cluster's scheduler is gone") from fault
        finally:
            with contextlib.suppress(Exception):  # a scheduler that is gone cancels nothing
                self.client.cancel(list(waiting), force=True)


def _left(task: Task, fault: Exception) -> Iterator[list[Record]]:
    """Yield records that say why a task was not measured, a problem at a time."""
    died = WorkersDied(f"workers of the cluster ended at it, one after the other: {fault}")
    for problem in task.problems:
        blank = blank_record(problem, task.device, task.environment)
        yield faulty(blank, task.variants, died)


@contextlib.contextmanager
def reached(
    address: str, subject: str | None = None, peers: Sequence[PeerSubject] = ()
) -> Iterator[Cluster]:
    """Connect to the scheduler at an address, and see that its workers are fit to measure.

    Raises
    ------
    InputError
        dask.distributed is not installed, no scheduler answers there, it has no worker, or a worker
        lacks what is to be measured or has it in another version.
    """
    if importlib.util.find_spec("distributed") is None:
        raise InputError(
            "--cluster needs dask.distributed; install it by `pip install projlab[cluster]`"
        )
    from distributed import Client

    try:
        asyncio.run(_answered(address))
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except Exception as fault:  # whatever is wrong with an address, or with dask's settings of TLS
        raise InputError(
            f"--cluster {address}: no Dask scheduler answers there ({fault}); `dask scheduler` "
            "says where it listens"
        ) from fault
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as fault:
            raise InputError(
                f"--cluster {address}: the scheduler has no worker; `dask worker {address} "
                "--nthreads 1` starts one"
            ) from fault
        wanted = Wanted.here(subject, peers)
        try:
            found = client.run(description_there, wanted)
        except Exception as fault:  # whatever a worker lacks
            raise InputError(
                f"--cluster {address}: a worker cannot measure ({type(fault).__name__}: {fault}); "
                "it needs this projlab with its suite, and the subject's module, on its path"
            ) from fault
        for worker, (_, description) in sorted(found.items()):
            if apart := wanted.differences(description):
                raise InputError(f"--cluster {address}: worker {worker} has {apart}")
        hosts = tuple(host for host, _ in found.values())
        yield Cluster(client, wanted, hosts, tuple(d["cpu"] for _, d in found.values()))


async def _answered(address: str) -> None:
    """Connect once: a client that fails over its address waits a minute for itself at its end."""
    from distributed.comm.core import connect
    from distributed.security import Security

    settings = Security().get_connection_args("client")
    await (await connect(address, timeout=PATIENCE, **settings)).close()


def description_there(wanted: Wanted) -> tuple[str, dict[str, str]]:
    """Return the name of the machine that this process runs on, and its environment."""
    return socket.gethostname(), environment.describe("cpu", wanted.subject, wanted.peers)


def measured_there(task: Task, limit: float | None, wanted: Wanted) -> list[list[Record]]:
    """Measure a task in a process of this machine: what a Dask worker runs."""
    host, description = description_there(wanted)
    if apart := wanted.differences(description):
        raise InputError(f"--cluster: a worker that came later, at {host}, has {apart}")
    return list(measured([task], 1, limit))
