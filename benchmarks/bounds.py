"""Projection onto the simplex, and onto {A x = b, x >= 0} of the real systems.

`python -m benchmarks.bounds [NAME ...]` prints a row a system: times of a first projection, of the
next one nearby, and of solvers at their tightest, with each one's distance to the answer whose
duality gap is proven. Right sides come from a point that is half zeros, so that every set has one.

`python -m benchmarks.bounds --states [NAME ...]` prints what became of the active set instead, of
every real system where none is named: its status, what was searched, what the engine for equations
says of the rows, the condition of the columns that are free where the search ends, and the warning
where there was one.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

import projlab
from benchmarks import peers
from benchmarks.interleave import Times, interleaved

SOLVERS = ("clarabel", "osqp", "piqp")
EASY = (
    "netlib_afiro", "netlib_adlittle", "netlib_brandy", "netlib_degen3", "netlib_wood1p",
    "mm_boyd2", "mm_huestis", "water_net3", "io_chile_ras", "graph_les_miserables",
)  # fmt: skip
"""Systems that take seconds at most, of each kind."""


def simplex_lines(x: Tensor) -> Tensor:
    """The projection onto the simplex as it is written by hand: one sort, and sums of it."""
    ordered = x.sort(dim=-1, descending=True).values
    sums = ordered.cumsum(-1) - 1
    count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    kept = (ordered * count > sums).sum(-1, keepdim=True)
    return (x - sums.gather(-1, kept - 1) / kept).clamp_min(0)


def points(n: int) -> Iterator[tuple[str, Tensor]]:
    """One vector of each kind: how many entries stay decides what a search costs."""
    generator = torch.Generator().manual_seed(n)
    normal = torch.randn(n, generator=generator, dtype=torch.float64)
    yield "normal", normal
    yield "normal / n", normal / n
    yield "uniform", torch.rand(n, generator=generator, dtype=torch.float64) * 10 / n
    yield "inside", normal.abs() / normal.abs().sum()


def against_sort(n: int) -> Iterator[tuple[str, Times]]:
    """One long vector, and `torch.sort` of it."""
    P = projlab.projector(torch.ones(n, dtype=torch.float64), 1.0, lb=0)
    for label, x in points(n):
        found = P(x)
        if not float((found - simplex_lines(x)).abs().max()) <= 1e-12:
            raise AssertionError(f"an answer for {label} is off")
        yield label, interleaved({"projlab": partial(P, x), "sort": partial(torch.sort, x)}, 2.0)


def batched(k: int, n: int) -> Times:
    """k vectors at once, and the lines that people write."""
    x = torch.randn(k, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    P = projlab.projector(torch.ones(n, dtype=torch.float64), 1.0, lb=0)
    if not float((P(x) - simplex_lines(x)).abs().max()) <= 1e-12:
        raise AssertionError("an answer is off")
    return interleaved({"projlab": partial(P, x), "lines": partial(simplex_lines, x)}, 2.0)


def nonnegative(name: str) -> tuple[projlab.PolyhedralProjector, Any, Any, Tensor]:
    """A real system with x >= 0: its projector, A and b for scipy, and a point."""
    from benchmarks.real_systems import DATA, read  # imports the targets, which import this module

    constraint = read(DATA / f"{name}.npz")
    n = constraint.n
    generator = torch.Generator().manual_seed(0)
    inside = torch.randn(n, generator=generator, dtype=torch.float64).clamp_min(0)
    b = constraint.rows.matvec(inside)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    i, j, values = (t.numpy() for t in constraint.rows.triplets())
    A = sparse.csc_array((values, (i, j)), shape=constraint.rows.shape)
    return projlab.projector(A, b, lb=0), A, b.numpy(), x


def _timed(call: Callable[[], Any], rounds: int = 3) -> tuple[Any, float]:
    best, found = float("inf"), None
    for _ in range(rounds):
        start = time.perf_counter()
        found = call()
        best = min(best, time.perf_counter() - start)
        if best > 2:
            break
    return found, best


def cold(P: projlab.PolyhedralProjector, x: Tensor) -> Tensor:
    """A projection that remembers nothing."""
    P.forget()
    return P(x)


def training(n: int) -> Times:
    """A training step of n weights: with their sum kept, and on the simplex; float32, Adam."""
    steps: dict[str, Callable[[], object]] = {}
    for label in ("sum", "simplex"):
        draw = torch.Generator().manual_seed(0)
        target = torch.randn(n, generator=draw) / n * 2
        w = torch.nn.Parameter(torch.full((n,), 1 / n))
        optimizer = torch.optim.Adam([w], lr=1e-2 / n, fused=True)
        kept = [projlab.expr(w).sum() == 1]
        if label == "simplex":
            kept.append(projlab.expr(w) >= 0)
        projlab.constrain(optimizer, *kept)
        steps[label] = partial(_step, optimizer, w, target)
        for _ in range(WARM):
            steps[label]()
        if abs(float(w.detach().double().sum()) - 1) > 1e-5:
            raise AssertionError("the weights do not sum to one")
    return interleaved(steps)


WARM = 20
"""Steps before those that are timed: entries that end at zero are there by then."""


def _step(optimizer: torch.optim.Optimizer, w: Tensor, target: Tensor) -> None:
    optimizer.zero_grad()
    (w - target).square().sum().backward()
    optimizer.step()


def row(name: str) -> str:
    """Times in ms, and distances to the answer, relative to its norm."""
    P, A, b, x = nonnegative(name)
    ours, first = _timed(partial(cold, P, x))
    effort = P.effort
    proof = P.certify(x, ours)
    _, again = _timed(partial(P, x))
    parts = [
        f"{name:26s} {str(P.polyhedron.m) + ' x ' + str(P.polyhedron.n):>14s} {P.status:12s}"
        f" first {first * 1e3:8.1f} ms ({effort.factorisations if effort else 0:3d})"
        f" again {again * 1e3:7.2f} ms bound {float(proof.forward_error_bound):.0e}"
        f" feasible {float(proof.feasibility):.0e}"
    ]
    for solver in SOLVERS:
        try:
            theirs, taken = _timed(peers.nonnegative(solver, A, b, x.numpy()))
        except peers.NotApplicable:
            continue
        off = np.linalg.norm(np.asarray(theirs, dtype=float) - ours.numpy())
        parts.append(f"{solver} {taken * 1e3:8.1f} ms off {off / float(ours.norm()):.0e}")
    return "  ".join(parts)


def _real() -> tuple[str, ...]:
    """Every real system, the smallest file first."""
    from benchmarks.real_systems import DATA  # as in `nonnegative`

    return tuple(p.stem for p in sorted(DATA.glob("*.npz"), key=lambda p: p.stat().st_size))


def state(name: str) -> str:
    """What became of an active set, and what may be the cause."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        P, A, b, x = nonnegative(name)
        said.clear()
        ended, taken = _timed(partial(cold, P, x), 1)
        warned = [str(w.message) for w in said if w.category is projlab.NotPolishedWarning]
        try:
            Q = projlab.projector(A, b)
            rows = f"rank {Q.rank} of {P.polyhedron.m}, condition at most {float(Q.condition):.0e}"
        except projlab.ProjlabError as refusal:
            rows = f"{type(refusal).__name__}: {refusal}"
    effort = P.effort
    steps = f"{effort.newton_steps} + {effort.interior_steps}" if effort else "none"
    shape = f"{P.polyhedron.m} x {P.polyhedron.n}"
    parts = (f"{name:26s} {shape:>14s}", f"{P.status:12s}", f"{taken * 1e3:8.1f} ms")
    return "  ".join([*parts, f"steps {steps:8s}", rows, _free_columns(A, ended), *warned])


def _free_columns(A: Any, x: Tensor) -> str:
    """The condition of equilibrated rows in the columns where x is not zero, by their rank."""
    if A.shape[0] * A.shape[1] > DENSE:
        return "columns not looked at"
    dense = A.toarray()
    norms = np.linalg.norm(dense, axis=1, keepdims=True)
    free = x.numpy() > 1e-12 * float(x.abs().max())
    sigma = np.linalg.svd(dense[:, free] / np.where(norms > 0, norms, 1), compute_uv=False)
    sigma = sigma[sigma > 1e-13 * sigma[0]]
    return f"{free.sum()} free columns, condition {sigma[0] / sigma[-1]:.0e} at rank {len(sigma)}"


DENSE = 2**22
"""Entries up to which singular values are a matter of seconds."""


def main(arguments: list[str] | None = None) -> int:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--states", action="store_true", help="what became of active sets")
    torch.set_num_threads(1)
    asked = parser.parse_args(arguments)
    line, every = (state, _real()) if asked.states else (row, EASY)
    for name in asked.names or every:
        print(line(name), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
