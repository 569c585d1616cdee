"""What projlab promises of its speed, as data, and how each promise is measured.

`projlab bench --targets [ID ...]` measures and prints the table. Ratios are of times taken in turn
in one process (`interleave`); a target is met when every one of its cells meets it, and the worst
is what the table shows. Every answer is checked before it is timed.
"""

import argparse
import gc
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import projlab
from benchmarks import (
    bounds,
    common,
    iterative,
    kernels,
    layer,
    one_off,
    scaling,
    sparse,
    structured,
    yardstick,
)
from benchmarks.interleave import Times, interleaved
from benchmarks.memory import held_bytes
from benchmarks.parameters import DTYPES
from benchmarks.peers import PEERS, NotApplicable, nonnegative
from benchmarks.systems import Exact
from benchmarks.table import PACKAGES, installed
from benchmarks.training import ROWS, TOKENS, Training, Transformer


@dataclass(frozen=True)
class Cell:
    """One figure: what it was measured on, and the figure."""

    label: str
    value: float


@dataclass(frozen=True)
class Target:
    """A row of the table."""

    id: str
    regime: str
    claim: str
    figure: str
    """What the measured number is."""
    better: Literal["at most", "at least"]
    bound: float
    cells: Callable[[], Iterator[Cell]]
    """Raises NotImplementedError with the reason where something of it cannot be measured."""

    def holds(self, value: float) -> bool:
        """Whether a figure meets the target."""
        return value <= self.bound if self.better == "at most" else value >= self.bound


def _both(sizes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    return ((size, dtype) for size in sizes for dtype in DTYPES)


def _in_place(case: Exact, variant: str = "auto") -> Callable[[], object]:
    P, x = common.projector(case, variant), case.x0.clone()
    return lambda: P.project_(x)


def _fastest(times: Times, prefix: str) -> str:
    return min((name for name in times.samples if name.startswith(prefix)), key=times.best)


def _small(kernel: str) -> Iterator[Cell]:
    with kernels.using(kernel):
        for size, dtype in _both(("1x10", "3x10", "10x100", "64x128")):
            case = common.system(size, dtype)
            n = case.shape[1]
            M, v = torch.eye(n, dtype=case.A.dtype), torch.ones(n, dtype=case.A.dtype)
            out = torch.empty_like(v)
            times = interleaved(
                {
                    "projlab": _in_place(case),
                    "addmv": partial(torch.addmv, v, M, v, out=out),
                }
            )
            yield Cell(f"{size} {dtype}", times.ratio("projlab", "addmv"))


def _call() -> Iterator[Cell]:
    for size, dtype in _both(("1x10", "3x10", "10x100", "64x128")):
        case = common.system(size, dtype)
        P, x = common.projector(case, "auto"), case.x0.clone()
        in_place = partial(P.project_, case.x0.clone())
        times = interleaved({"call": partial(P, x), "in place": in_place}, budget=0.6)
        yield Cell(f"{size} {dtype}", 1e6 * (times.best("call") - times.best("in place")))


def _reads(kernel: str | None, sizes: tuple[tuple[str, str], ...], of: int = 1) -> Iterator[Cell]:
    with kernels.using(kernel):
        for size, dtype in sizes:
            case = common.system(size, dtype)
            calls = {"projlab": _in_place(case), **yardstick.reads(case.A)}
            times = interleaved(calls, budget=1.5)
            value = times.ratio("projlab", _fastest(times, "read")) / of
            yield Cell(f"{size} {dtype}", value)


TWO_PASSES = {
    "3x10": 0.5,
    "10x100": 0.7,
    "500x2000": 0.65,
    "1000x5000": 0.65,
    "100x100000": 1.0,
}
"""What `project_` may take of the time of two products with W, by size."""

SEVERAL_CALLS = 4e-3
"""Seconds of a sample in which what is in the cache is the call's own."""


def _two_passes() -> Iterator[Cell]:
    """By default, float64: what a user would write with orthonormal rows, and what projlab takes.

    Each figure is over the bound of its size. Samples are of several calls: of single ones, each
    finds in a shared cache what the other's matrix left of its own, and at 500 x 2000 one read of W
    from memory takes as long as two from the cache.
    """
    for size, bound in TWO_PASSES.items():
        case = common.system(size, "float64")
        P, x, z = common.projector(case, "auto"), case.x0.clone(), case.x0.clone()
        Q, R = torch.linalg.qr(case.A.mT)
        W = Q.mT.contiguous()
        c = -torch.linalg.solve_triangular(R.mT, case.b.unsqueeze(-1), upper=False).squeeze(-1)
        passes = partial(_in_two_passes, z, W, c)
        passes()
        common.require_exact(z, case, P)
        times = interleaved({"projlab": partial(P.project_, x), "passes": passes}, 2, SEVERAL_CALLS)
        value = times.ratio("projlab", "passes")
        yield Cell(f"{size} float64: {value:.3g} of at most {bound}", value / bound)


def _in_two_passes(x: torch.Tensor, W: torch.Tensor, c: torch.Tensor) -> None:
    x.addmv_(W.mT, torch.addmv(c, W, x), alpha=-1)


CACHED = (("100x1000", "float64"), ("500x2000", "float64"), ("500x2000", "float32"))
BEYOND = (("1000x5000", "float64"),)
LONG = (("4x1000000", "float64"), ("10x1000000", "float64"))


def _one_row() -> Iterator[Cell]:
    for size, dtype in _both(("1x1000000", "1x10000000")):
        if (size, dtype) == ("1x10000000", "float32"):
            continue  # sums of so many integers are not exact in float32
        case = common.system(size, dtype)
        calls = {"projlab": _in_place(case), "pass": yardstick.pass_through(case.x0.clone())}
        times = interleaved(calls, budget=1.5)
        yield Cell(f"{size} {dtype}", times.ratio("projlab", "pass"))


@cache
def _against(names: tuple[str, ...], size: str, dtype: str, vectors: str) -> dict[str, float | str]:
    """How many times faster than each peer; or why there is no figure."""
    case = common.system(
        size,
        dtype,
        points=256 if vectors == "shared" else None,
        batch=1024 if vectors == "distinct" else None,
    )
    calls = {"projlab": _in_place(case)}
    found: dict[str, float | str] = {}
    for name in names:
        try:
            calls[name] = PEERS[name].prepare(case)
        except NotApplicable as reason:
            found[name] = str(reason)
    if len(calls) > 1:
        times = interleaved(calls, budget=0.4 * len(calls))
        found.update({name: times.ratio(name, "projlab") for name in calls if name != "projlab"})
    return found


SINGLE = ("1x10", "3x10", "10x100", "10x10000", "100x1000", "500x2000")
XLA_AND_NUMPY = ("jax_jit", "pinet_like", "numpy")
CVXPY = ("cvxpy_osqp", "cvxpy_clarabel")
KEPT = ("osqp", "piqp")


def _faster(
    names: tuple[str, ...],
    sizes: tuple[str, ...],
    dtypes: tuple[str, ...] = DTYPES,
    vectors: tuple[str, ...] = ("one",),
    *,
    best: bool = False,
    kernel: str | None = None,
) -> Iterator[Cell]:
    """Cells against each peer, or against the fastest of them (`best`)."""
    reasons = set()
    for kind in vectors:
        for size in sizes:
            if kind == "distinct" and common.shape_of(size)[1] > 100:
                continue
            for dtype in dtypes:
                with kernels.using(kernel):
                    found = _against(names, size, dtype, kind)
                reasons |= {r for r in found.values() if isinstance(r, str)}
                figures = {n: v for n, v in found.items() if not isinstance(v, str)}
                if best and figures:
                    name = min(figures, key=figures.__getitem__)
                    figures = {name: figures[name]}
                where = size if kind == "one" else f"{size} {kind}"
                for name, value in figures.items():
                    yield Cell(f"{where} {dtype} {name}", value)
    if reasons:
        raise NotImplementedError("; ".join(sorted(reasons)))


def _of_size(sizes: tuple[str, ...], least: float) -> tuple[str, ...]:
    return tuple(s for s in sizes if common.shape_of(s)[0] * common.shape_of(s)[1] >= least)


def _step_overhead(parameters: str, numbers: tuple[int, ...] = (64, 256, 1024)) -> Iterator[Cell]:
    for examples in numbers:
        for equations in ("column sums", "total"):
            with_them, without = (Training(parameters, examples=examples) for _ in range(2))
            with_them.constrain(equations)
            calls = {"with": with_them.step, "without": without.step}
            times = interleaved(calls, budget=2 if parameters == "1e5" else 8)
            with_them.require_feasible()
            value = 100 * (times.ratio("with", "without") - 1)
            yield Cell(f"{equations}, {examples} examples", value)


def _dense_rows() -> Iterator[Cell]:
    training = Training("1e7")
    training.constrain("ten rows")
    n = sum(W.numel() for W in training.weights)
    source = torch.ones(ROWS, n)
    target = torch.empty_like(source)
    calls = {"projection": training.apply_from_infeasible, "copy": lambda: target.copy_(source)}
    times = interleaved(calls, budget=5)
    training.require_feasible()
    # A is read for the residual and W for the correction; x is read twice and written once
    moved = (2 * ROWS + 3) * n * 4 / times.best("projection")
    copied = 2 * ROWS * n * 4 / times.best("copy")
    yield Cell(f"{ROWS} rows, {n} parameters", 100 * moved / copied)


def _sums_step() -> Iterator[Cell]:
    for n in (512, 4096):
        times = structured.sums_step(n)
        yield Cell(f"{n} x {n} float32", times.ratio("projlab", "passes"))


@cache
def _beyond_passes(count: int) -> float:
    """Microseconds that hooks take for so many equal matrices beside the bare passes."""
    times = structured.equal_matrices(count)
    return 1e6 * (times.best("with") - times.best("without") - times.best("passes"))


def _hooks() -> Iterator[Cell]:
    for count in (1, 8, 48):
        yield Cell(f"{count} of 64 x 64 float32", _beyond_passes(count))


def _hooks_of_many() -> Iterator[Cell]:
    yield Cell("48 of 64 x 64 float32", _beyond_passes(48) / _beyond_passes(1))


def _structured_set_up(*sizes: tuple[int, structured.Equations]) -> Iterator[Cell]:
    for n, equations in sizes:
        yield Cell(f"{equations.__name__}, {n} x {n}", structured.set_up(n, equations))


def _structured_memory() -> Iterator[Cell]:
    for n in (512, 4096):
        value = structured.held(n, structured.row_and_column_sums)
        yield Cell(f"{n} x {n} float32", value)


def _channels_last() -> Iterator[Cell]:
    by_format = {
        name: structured.convolutions(memory_format).ratio("with", "without")
        for name, memory_format in (
            ("channels_last", torch.channels_last),
            ("contiguous", torch.contiguous_format),
        )
    }
    label = ", ".join(f"{name} {value:.2f} steps without" for name, value in by_format.items())
    yield Cell(label, by_format["channels_last"] / by_format["contiguous"])


def _flow_step(dtype: torch.dtype) -> Iterator[Cell]:
    """What conserving a flow adds to a step, in units of one solve and four products."""
    k = 224
    times = structured.flow_step(k, dtype)
    added = times.best("with") - times.best("without")
    yield Cell(f"{2 * k * (k - 1)} edges {dtype}", added / times.best("passes"))


def _transformer() -> Iterator[Cell]:
    """What equations add to the optimizer's step, over the whole step without them.

    Whole steps take a second or more, and differ by more than equations make of them.
    """
    free, held = Transformer(constrained=False), Transformer(constrained=True)
    calls = {
        "step": free.step,
        "without": free.optimizer.step,
        "with": held.optimizer.step,
    }
    times = interleaved(calls, budget=30)
    added = times.best("with") - times.best("without")
    count = sum(p.numel() for p in free.model.parameters())
    tokens = math.prod(TOKENS)
    yield Cell(f"{count} parameters, {tokens} tokens", 100 * added / times.best("step"))


def _sharded() -> Iterator[Cell]:
    """What a step on two ranks adds, over the same entries on one and bare all-reduces."""
    names = list(scaling.SHAPES)
    alone, _ = scaling.on(1, names)
    together, bare = scaling.on(2, names)
    network = scaling.fitted(bare)
    for one, two in zip(alone, together, strict=True):
        scaling.check(two)
        sending = network.seconds(two.world, two.calls, two.sent)
        added = [row.constrained - row.plain for row in (one, two)]
        yield Cell(f"{two.shape}, 2 ranks", added[1] / (added[0] + sending))


def _set_up(*sizes: str) -> Iterator[Cell]:
    for size in sizes:
        case = common.system(size, "float64")
        common.projector(case, "auto")
        columns = case.A.mT.contiguous()
        times = interleaved(
            {
                "projlab": partial(projlab.projector, case.A, case.b),
                "LAPACK": partial(torch.linalg.qr, columns),
            },
            budget=1.5,
        )
        yield Cell(f"{size} float64", times.ratio("projlab", "LAPACK"))


def _one_off(
    measured: Callable[[str, int | None], Times], sizes: tuple[tuple[str, int | None], ...]
) -> Iterator[Cell]:
    for size, batch in sizes:
        name = size if batch is None else f"{batch} of {size}"
        yield Cell(f"{name} float64", measured(size, batch).ratio("projlab", "lines"))


def _layer() -> Iterator[Cell]:
    for size, dtype in _both(layer.SIZES):
        for rows in layer.ROWS:
            ratio = layer.times(size, dtype, rows).ratio("projlab", "lines")
            yield Cell(f"{rows} rows, {size} {dtype}", ratio)


def _iterative() -> Iterator[Cell]:
    times = interleaved(iterative.calls(1_000_000), budget=60.0)
    yield Cell("300000 rows, 1000000 columns, float64", times.ratio("projlab", "scipy"))


def _sparse_real() -> Iterator[Cell]:
    wrong = []
    for name in sparse.names():
        case = sparse.real(name)
        if not sparse.peer_holds(case):
            wrong.append(name)
            continue
        yield Cell(name, sparse.set_up(case, budget=0.5).ratio("projlab", "splu"))
    if wrong:
        raise NotImplementedError(f"the peer's rows do not hold: {', '.join(wrong)}")


def _sparse_corrections() -> Iterator[Cell]:
    cases = {name: sparse.real(name) for name in sparse.SOLVED}
    cases["grid 100 x 100"] = sparse.grid(100)
    for name, case in cases.items():
        times, solves = sparse.projections(case, budget=1.0)
        if solves:
            value = times.ratio("projlab", "correction") / solves
            yield Cell(f"{name}, {solves} solves", value)


@cache
def _against_solver(name: str, solver: str) -> tuple[float, float] | None:
    return sparse.against(sparse.real(name), solver, budget=1.0)


def _sparse_solvers(which: int) -> Iterator[Cell]:
    wrong = []
    for solver in sparse.SOLVERS:
        for name in sparse.SOLVED:
            try:
                found = _against_solver(name, solver)
            except ImportError as missing:
                raise NotImplementedError(f"{solver} is not installed") from missing
            if found is None:
                wrong.append(f"{solver} on {name}")
            else:
                yield Cell(f"{name} {solver}", found[which])
    if wrong:
        raise NotImplementedError(f"no right answer from {', '.join(wrong)}")


def _sparse_metric() -> Iterator[Cell]:
    for name in ("netlib_cycle", "metab_yeast_gem", "mm_cont_050", "hier_tourism_grouped"):
        times = sparse.weighed(sparse.real(name), budget=2.0)
        yield Cell(name, times.ratio("metric", "plain"))
    yield Cell("flow on 100 x 100", sparse.weighed(sparse.grid(100), 4.0).ratio("metric", "plain"))


def _sparse_batch() -> Iterator[Cell]:
    for m, systems in ((300, 64), (3000, 8)):
        times = sparse.stacked(sparse.banded(m), systems, budget=2.0)
        yield Cell(f"{systems} of {m} rows", times.ratio("batch", "each"))


def _sparse_grid_set_up() -> Iterator[Cell]:
    times = sparse.factored(sparse.grid(300), budget=10.0)
    yield Cell("90000 nodes", times.ratio("projlab", "splu"))


def _sparse_grid() -> Iterator[Cell]:
    times, solves = sparse.projections(sparse.grid(300), budget=5.0)
    yield Cell(f"90000 nodes, {solves} solves", times.ratio("projlab", "correction"))


def _sparse_trees() -> Iterator[Cell]:
    cases = {
        "tree of 1e5": sparse.tree(100_000),
        "tree of 1e6": sparse.tree(1_000_000),
        "chain of 1e5": sparse.chain(100_000),
    }
    for name, case in cases.items():
        times, _ = sparse.projections(case, budget=2.0)
        yield Cell(name, times.ratio("projlab", "products"))


def _memory() -> Iterator[Cell]:
    for size in ("100x1000", "10x10000", "500x2000"):
        case = common.system(size, "float64")
        P = common.projector(case, "auto")
        matrix = case.A.numel() * case.A.element_size()
        yield Cell(f"{size} float64", held_bytes(P, besides=(P.A, P.b)) / matrix)


GROWTH = ("2x50", "5x200", "10x1000", "25x4000", "50x20000", "100x100000", "10x10000000")


def growth() -> list[tuple[str, int, float]]:
    """Seconds a projection from m n = 1e2 to 1e8, one after the other, the largest in float64."""
    points = []
    for size in GROWTH:
        m, n = common.shape_of(size)
        if 40 * m * n > _free_memory():
            break
        times = interleaved({"projlab": _in_place(common.system(size, "float64"))}, budget=1)
        points.append((size, m * n, times.best("projlab")))
    return points


def _growth() -> Iterator[Cell]:
    points = growth()
    logs = np.log10([[entries, seconds] for _, entries, seconds in points])
    exponent = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    yield Cell(f"fitted to {', '.join(f'{s}: {t:.3g} s' for s, _, t in points)}", exponent)


def _free_memory() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        kibibytes = {name: line.split()[0] for name, _, line in (x.partition(":") for x in lines)}
        return 1024.0 * int(kibibytes["MemAvailable"])
    except (OSError, KeyError):
        return float("inf")


def _simplex() -> Iterator[Cell]:
    for label, times in bounds.against_sort(10**6):
        yield Cell(label, times.ratio("projlab", "sort"))


def _simplexes() -> Iterator[Cell]:
    times = bounds.batched(4096, 100)
    yield Cell("sorting lines", 1 / times.ratio("projlab", "lines"))


def _training_step() -> Iterator[Cell]:
    yield Cell("n = 1e5", bounds.training(10**5).ratio("simplex", "sum"))


def _nonnegative_first() -> Iterator[Cell]:
    """Ahead of Clarabel on nine tenths of them, and nowhere behind by two."""
    found = []
    for name in bounds.EASY:
        P, A, b, x = bounds.nonnegative(name)
        calls: dict[str, Callable[[], object]] = {"first": partial(bounds.cold, P, x)}
        try:
            calls["clarabel"] = nonnegative("clarabel", A, b, x.numpy())
        except NotApplicable as reason:
            raise NotImplementedError(str(reason)) from reason
        found.append((1 / interleaved(calls).ratio("first", "clarabel"), name))
    for i, (value, name) in enumerate(sorted(found)):
        bound = 0.5 if i < len(found) // 10 else 1.0
        yield Cell(f"{name}: {value:.3g} of at least {bound:g}", value / bound)


def _nonnegative_again() -> Iterator[Cell]:
    for name in bounds.EASY:
        P, _, _, x = bounds.nonnegative(name)
        first = interleaved({"first": partial(bounds.cold, P, x)}).best("first")
        yield Cell(name, first / interleaved({"again": partial(P, x)}).best("again"))


MOST: Literal["at most"] = "at most"
LEAST: Literal["at least"] = "at least"

TIMES_ADDMV = "`project_` over one n × n `addmv(out=)`"
TIMES_READ = "`project_` over reading W once"
TIMES_FASTER = "peer's time over `project_`'s"
TIMES_LINES = "`project` over four lines of Cholesky"

# fmt: off
TARGETS: tuple[Target, ...] = (
    Target("small-torch", "n ≤ 128, pure torch", "≤ 1.8", TIMES_ADDMV, MOST, 1.8,
           lambda: _small("torch")),
    Target("small-native", "n ≤ 128, native kernel", "≤ 1.2", TIMES_ADDMV, MOST, 1.2,
           lambda: _small("native")),
    Target("call", "n ≤ 128, `P(x)` without grad", "≤ 3 µs", "µs more than `project_`", MOST, 3,
           _call),
    Target("cached-torch", "W in L2/L3, pure torch", "≤ 3.5", TIMES_READ, MOST, 3.5,
           lambda: _reads("torch", CACHED)),
    Target("cached-native", "W in L2/L3, native kernel", "≤ 2.2", TIMES_READ, MOST, 2.2,
           lambda: _reads("native", CACHED)),
    Target("beyond-torch", "W beyond L3, block and x in cache, pure torch", "≤ 1.9", TIMES_READ,
           MOST, 1.9, lambda: _reads("torch", BEYOND)),
    Target("beyond-native", "W beyond L3, block and x in cache, native kernel", "≤ 1.25",
           TIMES_READ, MOST, 1.25, lambda: _reads("native", BEYOND)),
    Target("two-passes", "`project_` as it is by default", "≤ 0.5, 0.7, 0.65, 0.65, 1.0",
           "of the time of two passes with W, over the bound of the size", MOST, 1, _two_passes),
    Target("long", "n ≥ 1e6, several rows", "≤ 1.15", "`project_` over reading W twice", MOST, 1.15,
           lambda: _reads(None, LONG, of=2)),
    Target("one-row", "one row, large n", "≤ 1.3", "`project_` over reading and writing x once",
           MOST, 1.3, _one_row),
    Target("jaxopt", "jaxopt's affine projection, every cell", "≥ 50 ×", TIMES_FASTER, LEAST, 50,
           lambda: _faster(("jaxopt",), SINGLE)),
    Target("jaxopt-large", "the same, m·n ≥ 1e4", "≥ 100 ×", TIMES_FASTER, LEAST, 100,
           lambda: _faster(("jaxopt",), _of_size(SINGLE, 1e4))),
    Target("jaxopt-vmap", "its vmap, A shared or distinct", "≥ 80 ×", TIMES_FASTER, LEAST, 80,
           lambda: _faster(("jaxopt",), ("3x10", "10x100", "100x1000"), ("float64",),
                           ("shared", "distinct"))),
    Target("ahead", "hand-written jax jit, Pi-net's form, numpy with the same W: one vector, 256 "
           "sharing A, 1024 with an A each; native kernel", "> 1 ×", TIMES_FASTER, LEAST, 1,
           lambda: _faster(XLA_AND_NUMPY, SINGLE, vectors=("one", "shared", "distinct"),
                           kernel="native")),
    Target("cvxpy-tiny", "cvxpy, parametrised, its faster solver, tiny", "≥ 200 ×", TIMES_FASTER,
           LEAST, 200, lambda: _faster(CVXPY, ("1x10", "3x10"), ("float64",), best=True)),
    Target("cvxpy-large", "the same, m·n ≥ 1e5", "≥ 1500 ×", TIMES_FASTER, LEAST, 1500,
           lambda: _faster(CVXPY, _of_size(SINGLE, 1e5), ("float64",), best=True)),
    Target("kept-large", "OSQP and PIQP, factors kept, m·n ≥ 1e4", "≥ 50 ×", TIMES_FASTER, LEAST,
           50, lambda: _faster(KEPT, _of_size(SINGLE, 1e4), ("float64",))),
    Target("kept", "the same, every cell", "> 1 ×", TIMES_FASTER, LEAST, 1,
           lambda: _faster(KEPT, SINGLE, ("float64",))),
    Target("article-row", "the article's recipe, one row", "≥ 5 ×", TIMES_FASTER, LEAST, 5,
           lambda: _faster(("article",), ("1x10",))),
    Target("article-small", "the same, several rows, small", "≥ 20 ×", TIMES_FASTER, LEAST, 20,
           lambda: _faster(("article",), ("3x10", "10x100"))),
    Target("article-large", "the same, larger", "≥ 75 ×", TIMES_FASTER, LEAST, 75,
           lambda: _faster(("article",), ("10x10000", "100x1000", "500x2000"))),
    Target("training-1e5", "training step, column sums or a total, 1e5 parameters", "≤ 4 %",
           "% more than the step without", MOST, 4, lambda: _step_overhead("1e5")),
    Target("training-64", "the same, 64 examples", "≤ 15 %", "% more than the step without", MOST,
           15, lambda: _step_overhead("1e5", (64,))),
    Target("training-1e7", "the same, 1e7 parameters", "≤ 2 %", "% more than the step without",
           MOST, 2, lambda: _step_overhead("1e7")),
    Target("training-rows", "10 dense rows over 1e7 parameters, `handle.apply()`", "≥ 80 %",
           "% of copy bandwidth", LEAST, 80, _dense_rows),
    Target("sums", "row and column sums of one weight, a step", "≤ 1.3",
           "step over one with the bare passes", MOST, 1.3, _sums_step),
    Target("sharded", "parameters that two ranks share, a step", "≤ 1.2",
           "what equations add, over that on one rank and the all-reduces", MOST, 1.2, _sharded),
    Target("transformer", "a transformer of 1e7 parameters, columns of its weights", "≤ 1.5 %",
           "% more than the step without", MOST, 1.5, _transformer),
    Target("hooks", "column sums of equal matrices, a step", "≤ 40 µs",
           "µs of hooks beside the bare passes", MOST, 40, _hooks),
    Target("hooks-many", "the same, 48 matrices", "≤ 3", "over that of one", MOST, 3,
           _hooks_of_many),
    Target("sums-set-up", "the same, `constrain`", "≤ 0.1 s", "seconds, best of three", MOST, 0.1,
           lambda: _structured_set_up(*((n, structured.row_and_column_sums)
                                        for n in (512, 4096)))),
    Target("sums-memory", "the same, memory", "≤ 0.05", "bytes kept over those of the weight", MOST,
           0.05, _structured_memory),
    Target("ties", "skew-symmetric and circulant weights, `constrain`", "≤ 1 s",
           "seconds, best of three", MOST, 1, lambda: _structured_set_up(
               (200, structured.skew_symmetric), (512, structured.circulant))),
    Target("channels-last", "50 convolutions, filters of mean zero", "≤ 1.3",
           "what equations make of a step, over the same in contiguous weights", MOST, 1.3,
           _channels_last),
    Target("flow", "flow conserved on a grid of 1e5 edges, a step of Adam, float32", "≤ 3",
           "what it adds, over one sparse solve and four products", MOST, 3,
           lambda: _flow_step(torch.float32)),
    Target("flow-float64", "the same, float64, which takes four solves", "≤ 3",
           "what it adds, over one sparse solve and four products", MOST, 3,
           lambda: _flow_step(torch.float64)),
    Target("set-up-small", "set-up, 10 × 100", "≤ 15", "`projector` over LAPACK's QR of Aᵀ", MOST,
           15, lambda: _set_up("10x100")),
    Target("set-up-large", "the same, 500 × 2000", "≤ 1.2", "`projector` over LAPACK's QR of Aᵀ",
           MOST, 1.2, lambda: _set_up("500x2000")),
    Target("set-up-long", "the same, 10 × 1e4", "≤ 3", "`projector` over LAPACK's QR of Aᵀ",
           MOST, 3, lambda: _set_up("10x10000")),
    Target("one-off", "`project`, one small system", "≤ 4", TIMES_LINES, MOST, 4,
           lambda: _one_off(one_off.forward, one_off.SINGLE)),
    Target("one-off-large", "the same, 100 × 1000", "≤ 2.2", TIMES_LINES, MOST, 2.2,
           lambda: _one_off(one_off.forward, one_off.LARGE)),
    Target("one-off-batch", "the same, 64 to 1024 systems", "≤ 3", TIMES_LINES, MOST, 3,
           lambda: _one_off(one_off.forward, one_off.BATCHES)),
    Target("one-off-backward", "with gradients of x, A and b: small, and batches", "≤ 3",
           TIMES_LINES, MOST, 3,
           lambda: _one_off(one_off.backward, one_off.SINGLE + one_off.BATCHES)),
    Target("one-off-backward-large", "the same, 100 × 1000", "≤ 1.8", TIMES_LINES, MOST, 1.8,
           lambda: _one_off(one_off.backward, one_off.LARGE)),
    Target("iterative", "random sparse, 1e6 columns, to 1e-12, by iteration", "≤ 1",
           "`P(x)` over Jacobi-CG in scipy", MOST, 1, _iterative),
    Target("sparse-real", "real systems as sparse, where the peer answers", "≤ 2",
           "set-up and one projection over splu and six corrections", MOST, 2, _sparse_real),
    Target("sparse-corrections", "real systems and a flow, a projection", "≤ 1.3",
           "over its solves × (a solve and two products)", MOST, 1.3, _sparse_corrections),
    Target("sparse-first", "sparse systems, Clarabel, OSQP, PIQP, cvxpy: first answer", "≥ 1",
           "solver's time over ours", LEAST, 1, lambda: _sparse_solvers(0)),
    Target("sparse-further", "the same: each further answer", "≥ 20",
           "solver's time over ours", LEAST, 20, lambda: _sparse_solvers(1)),
    Target("sparse-metric", "sparse systems in a diagonal metric, set-up", "≤ 2",
           "over set-up without", MOST, 2, _sparse_metric),
    Target("sparse-batch", "batches of sparse systems in one pattern, the first answer", "≤ 1",
           "over each system by itself", MOST, 1, _sparse_batch),
    Target("sparse-grid-set-up", "flow on 300 × 300, set-up", "≤ 1.5", "over splu", MOST, 1.5,
           _sparse_grid_set_up),
    Target("sparse-grid", "flow on 300 × 300, a projection", "≤ 3",
           "over a solve and two products", MOST, 3, _sparse_grid),
    Target("sparse-trees", "trees and a chain, a projection", "≤ 2.5",
           "over two sparse products", MOST, 2.5, _sparse_trees),
    Target("layer", "forward and backward of a layer, 32 to 256 rows", "≤ 1.5",
           "`nn.AffineProjection` over x − (x Q − c) Qᵀ", MOST, 1.5, _layer),
    Target("simplex", "the simplex, n = 1e6", "≤ 1.5", "over `torch.sort`", MOST, 1.5, _simplex),
    Target("simplex-batch", "4096 vectors of 100 onto the simplex", "≥ 5 ×", TIMES_FASTER, LEAST,
           5, _simplexes),
    Target("simplex-step", "a training step on a simplex, n = 1e5", "≤ 2",
           "over that of the sum alone", MOST, 2, _training_step),
    Target("bounds-first", "real systems with x ≥ 0, Clarabel at 1e-12",
           "≥ 1 on nine tenths, ≥ 0.5 on all", "times faster, over the bound of the place", LEAST,
           1, _nonnegative_first),
    Target("bounds-again", "the same: the next projection", "≥ 10", "first over next", LEAST, 10,
           _nonnegative_again),
    Target("memory", "memory held besides A and b", "≤ 1.2", "bytes over those of W", MOST, 1.2,
           _memory),
    Target("growth", "time per projection, m·n from 1e2 to 1e8", "linear",
           "fitted exponent of m·n, at most 1.1", MOST, 1.1, _growth),
)
# fmt: on


def measure(target: Target) -> dict[str, Any]:
    """One row, as data: its cells, the worst of them, and why some are missing."""
    cells: list[Cell] = []
    missing = wrong = None
    try:
        for cell in target.cells():
            cells.append(cell)
            gc.collect()
    except NotImplementedError as reason:
        missing = str(reason)
    except AssertionError as reason:  # an answer was wrong: whatever the times are
        wrong = str(reason)
    pick = max if target.better == "at most" else min
    worst = pick(cells, key=lambda cell: cell.value) if cells else None
    return {
        "id": target.id,
        "regime": target.regime,
        "target": target.claim,
        "figure": target.figure,
        "worst": worst and worst.value,
        "worst_at": worst and worst.label,
        "met": not wrong and all(target.holds(cell.value) for cell in cells),
        "cells_met": sum(target.holds(cell.value) for cell in cells),
        "cells": [vars(cell) for cell in cells],
        "missing": missing,
        "wrong": wrong,
        "command": f"projlab bench --targets {target.id}",
    }


def describe(threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "caches": _caches(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        **dict.fromkeys(PACKAGES) | installed(),
        "kernels": list(kernels.KERNELS),
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _caches() -> str:
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level = (index / "level").read_text(encoding="utf-8").strip()
            found[level] = (index / "size").read_text(encoding="utf-8").strip()
        except OSError:
            continue
    return ", ".join(f"L{level} {found[level]}" for level in ("2", "3") if level in found)


def _commit() -> str | None:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None


def use_threads(threads: int) -> None:
    """Run on as many threads, in every library.

    A pool has as many threads as there are cores to run on, whatever a library's own setting.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    torch.set_num_threads(threads)


def main() -> int:
    """Measure the targets named, or all, and print them as JSON; progress on standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("ids", nargs="*")
    options = parser.parse_args()
    known = {target.id: target for target in TARGETS}
    if unknown := [name for name in options.ids if name not in known]:
        print(
            f"projlab: no target is called {unknown[0]!r}; there are {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    use_threads(options.threads)
    environment, rows = describe(options.threads), []
    for target in [known[name] for name in options.ids] or TARGETS:
        if sys.stderr.isatty():
            print(f"measuring {target.id}", file=sys.stderr)
        rows.append(measure(target))
    print(json.dumps({"environment": environment, "rows": rows}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
