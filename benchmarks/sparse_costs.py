"""What `projlab.engine.sparse` reckons a dense and a sparse factor to cost, beside what they do.

`python -m benchmarks.sparse_costs [NAME ...]` prints a row for each real system that both take:
set-up and projection, measured and reckoned, and which of the two is taken. The constants that are
reckoned with are those of `projlab.numerics.tuning`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

from torch import Tensor

import projlab
from benchmarks import sparse
from benchmarks.interleave import interleaved
from benchmarks.targets import describe, use_threads
from projlab.engine.select import MANY, asked
from projlab.engine.sparse import cost_of, dearer, dense_cost
from projlab.errors import ProjlabError

SET_UP, PROJECTION = 0.04e-9, 0.057e-9
"""Seconds of a dense operation in factoring, and in a projection whose rows are in a cache."""

LARGEST = 2e9
"""Of min(m, n) m n: a dense QR of more takes longer than the table is worth."""

COLUMNS = (
    ("system", "dense set-up", "reckoned", "projection", "reckoned", "sparse set-up", "reckoned",
     "projection", "reckoned", "taken", "by what is measured"),
    ("---", *["--:"] * 8, "---", "---"),
)  # fmt: skip


def row(name: str, case: sparse.Case, budget: float = 0.2) -> tuple[str, ...] | None:
    """One system, or None where one of the two is refused."""
    m, n = case.A.shape
    if m * n * min(m, n) > LARGEST:
        return None
    try:
        made = {v: _set_up(case, v)() for v in ("qr", "sparse_cholesky")}
    except ProjlabError:
        return None
    factor = sparse.factor_of(made["sparse_cholesky"])
    assert factor is not None
    options = asked(n, "auto", {}, applications=MANY)
    set_up = interleaved({v: _set_up(case, v) for v in made}, budget=budget)
    call = interleaved({v: _call(P, case.point) for v, P in made.items()}, budget=budget / 3)
    dense = dense_cost(projlab.AffineConstraint(case.A, case.b).rows)
    costs = {"qr": dense, "sparse_cholesky": cost_of(factor.gram, options)}
    told = [name]
    for v, cost in costs.items():
        told += [f"{set_up.best(v) * 1e3:.2f} ms", f"{cost.set_up * SET_UP * 1e3:.2f}"]
        told += [f"{call.best(v) * 1e6:.1f} us", f"{cost.projection * PROJECTION * 1e6:.1f}"]
    products = {v: set_up.best(v) * call.best(v) for v in made}
    taken = "sparse_cholesky" if dearer(dense, costs["sparse_cholesky"], options) else "qr"
    return *told, taken, min(products, key=lambda v: products[v])


def _set_up(case: sparse.Case, variant: str) -> Callable[[], projlab.Projector]:
    return lambda: projlab.projector(case.A, case.b, variant)


def _call(P: projlab.Projector, x: Tensor) -> Callable[[], object]:
    return lambda: P.project_(x)


def _lines(names: list[str]) -> Iterator[str]:
    for heading in COLUMNS:
        yield f"| {' | '.join(heading)} |"
    for name in names:
        found = row(name, sparse.real(name))
        if found is not None:
            yield f"| {' | '.join(found)} |"


def main() -> int:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparse_costs", description=__doc__)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    use_threads(1)
    for line in _lines(options.names or list(sparse.names())):
        print(line, flush=True)
    print(f"\n{describe(1)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
