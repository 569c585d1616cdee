"""Set-up of the real systems of the validation suite: the answer first, and the careful way.

`python -m benchmarks.real_systems [NAME ...]` prints a row a system, given sparse. Set-ups are
timed in turn in one process, the best of a few rounds each.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import scipy.sparse
import torch

import projlab
from benchmarks.targets import use_threads
from projlab import AffineConstraint, ProjlabError
from projlab.engine import careful
from projlab.system.options import Options

DATA = Path(__file__).parents[1] / "validation" / "projlab_validation" / "data"

ROUNDS, ENOUGH = 3, 1.0
"""Rounds of a system, fewer once they have taken so many seconds."""

OPERATIONS = 12 * 2e-10
"""Seconds that the careful way, or a certificate, takes for each of m^2 n: singular values, vectors
and a factor, on a slow core."""

COLUMNS = (
    ("system", "shape", "variant", "way", "set-up", "careful", "ratio", "projection", "bound"),
    ("---", "---", "---", "---", "--:", "--:", "--:", "--:", "--:"),
)


def read(path: Path) -> AffineConstraint:
    """The equations of a file, as they are stored."""
    with np.load(path) as stored:
        parts = stored["data"], stored["indices"], stored["indptr"]
        A = scipy.sparse.csr_array(parts, shape=tuple(stored["shape"]))
        return AffineConstraint(A, stored["b"])


def way(P: projlab.Projector) -> str:
    """How setting up came to its factor."""
    if P.constraint.decided:
        return "decided"
    told = {
        "blocks": "blocks",
        "carry the others": "some rows",
        "sparse factor": "sparse factor",
        "shift": "shift",
    }
    return next((kind for words, kind in told.items() if words in P.reason), "triangle")


def row(name: str, constraint: AffineConstraint, limit: float) -> tuple[str, ...]:
    """One system; the careful way, and a dense certificate, where that may take `limit` seconds."""
    _imported()
    m, n = constraint.m, constraint.n
    short, long = sorted((m, n))
    affordable = OPERATIONS * short * short * long <= limit
    made: list[tuple[projlab.Projector, str]] = []

    def answer_first() -> None:
        P = projlab.projector(constraint)
        made[:] = [(P, way(P))]

    calls: dict[str, Callable[[], object]] = {"auto": answer_first}
    if affordable:
        calls["careful"] = lambda: careful.decided(
            constraint, torch.float64, Options(), torch.float64
        )
    shape = f"{m} × {n}"
    try:
        best = _best(calls, constraint)
    except ProjlabError as refusal:
        return name, shape, type(refusal).__name__, *[""] * 6
    P, how = made[0]
    x0 = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = P(x0)
    projection = _best({"P": lambda: P(x0)}, constraint)["P"]
    bound = ""
    if affordable or how == "blocks" or constraint.rows.disjoint():
        certificate = projlab.certify(x0, x, constraint)
        bound = f"{certificate.forward_error_bound:.1e} {certificate.verdict}"
    before = best.get("careful")
    return (
        name,
        shape,
        P.variant,
        how,
        _seconds(best["auto"]),
        "" if before is None else _seconds(before),
        "" if before is None else f"{before / best['auto']:.1f}",
        _seconds(projection),
        bound,
    )


@cache
def _imported() -> None:
    """What the first set-up in a process loads, kernels too, is no system's own."""
    rows = scipy.sparse.csr_array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    projlab.projector(rows, 0.0)(torch.zeros(3, dtype=torch.float64))


def _best(calls: dict[str, Callable[[], object]], constraint: AffineConstraint) -> dict[str, float]:
    """Least seconds of each, in turn; nothing is remembered from one to the next."""
    best = dict.fromkeys(calls, float("inf"))
    begin = time.perf_counter()
    for done in range(ROUNDS):
        if done and time.perf_counter() - begin > ENOUGH:
            break
        for name, call in calls.items():
            constraint.decided.clear()
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def main() -> int:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_systems", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--limit",
        type=float,
        default=60.0,
        help="seconds that the careful way may be predicted to take (default: 60)",
    )
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    known = {path.stem: path for path in sorted(DATA.glob("*.npz"))}
    if unknown := [name for name in options.names if name not in known]:
        print(f"projlab: there is no system {unknown[0]!r} in {DATA}", file=sys.stderr)
        return 2
    use_threads(options.threads)
    for heading in COLUMNS:
        print("|", " | ".join(heading), "|")
    for name in options.names or known:
        print("|", " | ".join(row(name, read(known[name]), options.limit)), "|", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
