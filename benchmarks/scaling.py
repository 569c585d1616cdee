"""What a constrained step costs over ranks: measured on a few, fitted, and reckoned for many.

`python -m benchmarks.scaling` trains parameters that 1, 2 and 4 processes of gloo hold together,
with and without constraints, counts what is sent, fits a latency, a bandwidth and the time of the
own entries, and prints how far the fit holds and what it says of up to 4096 ranks on a network of
the latency and bandwidth given. Weak scaling: a rank holds as many entries whatever their number.
"""

import argparse
import math
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from projlab import constrain, expr

WORLDS = (1, 2, 4)
MANY = (8, 64, 512, 4096)
ROUNDS, STEPS = 15, 4
"""Rounds of so many steps each; the least counts."""

SIZES = tuple(8 * 4**k for k in range(8))
"""Bytes of the all-reduces that latency and bandwidth are fitted to."""


@dataclass(frozen=True)
class Shape:
    """Equations over one parameter, (ranks, width) times `entries`, divided along its rows."""

    entries: tuple[int, int]
    """Of each rank."""
    equations: Callable[[Tensor], Any]
    numbers: Callable[[int], int]
    """Rows in all, by the number of ranks."""
    own: bool = False
    """Whether one rank holds all entries of a row, so that nothing is sent."""

    def sent(self, world: int) -> int:
        """How many numbers an all-reduce adds up."""
        return 0 if self.own or world == 1 else self.numbers(world)


def _columns(W: Tensor) -> Any:
    return expr(W).sum(dim=0) == 1


def _rows(W: Tensor) -> Any:
    return expr(W).sum(dim=1) == 1


def _total(W: Tensor) -> Any:
    return expr(W).sum() == 1


def _dense(W: Tensor) -> Any:
    A = torch.randn(DENSE, W.numel(), generator=torch.Generator().manual_seed(0))
    return A @ expr(W).reshape(-1) == torch.zeros(DENSE)


DENSE = 20
SHAPES = {
    "one total": Shape((1024, 1024), _total, lambda _: 1),
    "columns": Shape((1024, 1024), _columns, lambda _: 1024),
    "rows": Shape((1024, 1024), _rows, lambda world: 1024 * world, own=True),
    "dense rows": Shape((256, 256), _dense, lambda _: DENSE),
}


@dataclass(frozen=True)
class Measured:
    """One shape on one number of ranks: seconds of a step with and without, and what is sent."""

    shape: str
    world: int
    plain: float
    constrained: float
    calls: float
    sent: float
    """Bytes a step that each rank gives to all-reduces."""


@dataclass(frozen=True)
class Network:
    """An all-reduce of s bytes on P ranks takes 2 log2(P) latency + 2 (P - 1) / P s / bandwidth.

    Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH",
    Int. J. High Performance Computing Applications 19 (2005), section 4.5.
    """

    latency: float
    """Seconds."""
    bandwidth: float
    """Bytes a second."""

    def seconds(self, world: int, calls: float, sent: float) -> float:
        """Of so many all-reduces that send so many bytes together."""
        hops = 2 * math.log2(world)
        return calls * hops * self.latency + 2 * (world - 1) / world * sent / self.bandwidth


@contextmanager
def counting() -> Iterator[list[int]]:
    """The bytes of every all-reduce within."""
    sizes: list[int] = []
    plain = torch.distributed.all_reduce

    def counted(t: Tensor, *rest: Any, **options: Any) -> Any:
        sizes.append(t.numel() * t.itemsize)
        return plain(t, *rest, **options)

    torch.distributed.all_reduce = counted  # type: ignore[assignment]  # as it is called here
    try:
        yield sizes
    finally:
        torch.distributed.all_reduce = plain


def _parameter(shape: Shape, world: int) -> nn.Parameter:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    rows, width = shape.entries
    mesh = init_device_mesh("cpu", (world,))
    return nn.Parameter(distribute_tensor(torch.zeros(rows * world, width), mesh, [Shard(0)]))


def measure(shape: Shape, world: int) -> tuple[float, float, float, float]:
    """Seconds of a step without and with, in turn; all-reduces and bytes of one with."""
    steps: list[Callable[[], None]] = []
    for constrained in (False, True):
        p = _parameter(shape, world)
        optimizer = torch.optim.SGD([p], lr=0.1)
        if constrained:
            constrain(optimizer, shape.equations(p), log=0)
        p.grad = torch.ones_like(p)
        optimizer.step()
        steps.append(optimizer.step)
    plain, constrained_step = steps
    with counting() as sizes:
        for _ in range(STEPS):
            constrained_step()
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for step, seconds in zip((plain, constrained_step), taken, strict=True):
            torch.distributed.barrier()
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            seconds.append((time.perf_counter() - start) / STEPS)
    return (
        min(taken[0]),
        min(taken[1]),
        len(sizes) / STEPS,
        sum(sizes) / STEPS,
    )


def reduces(world: int) -> list[tuple[int, int, float]]:
    """Ranks, bytes and the least seconds of bare all-reduces."""
    found = []
    for size in SIZES:
        t = torch.zeros(size // 4)
        seconds = []
        for _ in range(ROUNDS * STEPS):
            torch.distributed.barrier()
            start = time.perf_counter()
            torch.distributed.all_reduce(t)
            seconds.append(time.perf_counter() - start)
        found.append((world, size, min(seconds)))
    return found


def fitted(taken: Sequence[tuple[int, int, float]]) -> Network:
    """Latency and bandwidth that explain bare all-reduces, by least relative squares."""
    rows = [
        (2 * math.log2(world) / seconds, 2 * (world - 1) / world * size / seconds)
        for world, size, seconds in taken
    ]
    M = torch.tensor(rows, dtype=torch.float64)
    scale = M.norm(dim=0)
    found = torch.linalg.lstsq(M / scale, torch.ones(len(M), 1, dtype=M.dtype)).solution[:, 0]
    latency, slowness = (found / scale).clamp_min(1e-15).tolist()
    return Network(latency, 1 / slowness)


def _rank(rank: int, world: int, port: int, names: Sequence[str], queue: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    rows = [Measured(name, world, *measure(SHAPES[name], world)) for name in names]
    bare = reduces(world) if world > 1 else []
    if rank == 0:
        queue.put((rows, bare))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def on(world: int, names: Sequence[str]) -> tuple[list[Measured], list[tuple[int, int, float]]]:
    """What so many processes measure together."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    spawn(_rank, args=(world, port, names, queue), nprocs=world)
    rows, bare = queue.get()
    return rows, bare


def check(row: Measured) -> None:
    """Two all-reduces a step, or three where a second correction is needed, of one number a row.

    None where a rank holds all entries of a row.
    """
    numbers = SHAPES[row.shape].sent(row.world)
    least, most = (2, 3) if numbers else (0, 0)
    if row.sent > row.calls * 4 * numbers or not least <= row.calls <= most:
        raise ValueError(f"{row}: more is sent than one number for each of {numbers} rows")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, fit and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), metavar="SHAPE")
    parser.add_argument("--latency", type=float, default=5e-6, help="of the network, seconds")
    parser.add_argument("--bandwidth", type=float, default=25e9, help="bytes a second of a rank")
    parser.add_argument("--step", type=float, default=0.1, help="seconds of an unconstrained step")
    options = parser.parse_args(arguments)
    if unknown := set(options.shapes) - set(SHAPES):
        parser.error(f"no shape {', '.join(sorted(unknown))}; there are {', '.join(SHAPES)}")
    rows: list[Measured] = []
    bare: list[tuple[int, int, float]] = []
    for world in WORLDS:
        own, more = on(world, options.shapes)
        for row in own:
            check(row)
        rows, bare = rows + own, bare + more
    here, cores = fitted(bare), len(os.sched_getaffinity(0))
    alone = {row.shape: row.constrained - row.plain for row in rows if row.world == 1}
    print(f"{cores} cores, torch {torch.__version__}, gloo, one thread a rank; float32\n")
    print(f"fitted: latency {1e6 * here.latency:.3g} us, {here.bandwidth / 1e9:.3g} GB/s\n")
    print("| shape | rows | ranks | all-reduces | bytes | step | constrained | more | fitted |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for row in sorted(rows, key=lambda row: list(SHAPES).index(row.shape)):
        turns = max(1, row.world / cores)  # of ranks that share a core
        reckoned = turns * alone[row.shape] + here.seconds(row.world, row.calls, row.sent)
        micro = [1e6 * s for s in (row.plain, row.constrained, row.constrained - row.plain)]
        print(
            f"| {row.shape} | {SHAPES[row.shape].numbers(row.world):,} | {row.world} "
            f"| {row.calls:g} | {row.sent:,.0f} | {micro[0]:.0f} us | {micro[1]:.0f} us "
            f"| {micro[2]:.0f} us | {1e6 * reckoned:.0f} us |"
        )
    network = Network(options.latency, options.bandwidth)
    print(
        f"\nreckoned: latency {1e6 * network.latency:g} us, {network.bandwidth / 1e9:g} GB/s, "
        f"beside a step of {1e3 * options.step:g} ms; own entries as measured here on one rank\n"
    )
    print("| shape | own entries | " + " | ".join(f"{world} ranks" for world in MANY) + " |")
    print("|---|--:|" + "--:|" * len(MANY))
    for name in options.shapes:
        last = next(row for row in rows if row.shape == name and row.world == WORLDS[-1])
        cells = []
        for world in MANY:
            sent = last.calls * 4 * SHAPES[name].sent(world)
            seconds = network.seconds(world, last.calls, sent)
            share = (alone[name] + seconds) / options.step
            cells.append(f"{1e6 * seconds:.0f} us, {100 * share:.2g} %")
        print(f"| {name} | {1e6 * alone[name]:.0f} us | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
