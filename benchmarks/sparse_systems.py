"""The real systems as sparse: what each takes, beside scipy's factor, and how exact it is.

`python -m benchmarks.sparse_systems [NAME ...]` prints a row a system, `--write FILE` puts the
table between its markers. Set-ups are timed in turn with the peer's of `benchmarks.sparse`, the
best of a few rounds each; peak memory is what one set-up and projection add to what the process
held before, where the system tells it.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import projlab
from benchmarks import sparse, table
from benchmarks.interleave import interleaved
from benchmarks.targets import describe, use_threads
from projlab import ProjlabError

BEGIN = "<!-- sparse: written by `python -m benchmarks.sparse_systems --write FILE` -->"
END = "<!-- end of sparse -->"

BUDGET = 0.3
"""Seconds that rounds of one measurement go on."""

COLUMNS = (
    ("system", "shape", "variant", "set-up", "splu", "ratio", "projection", "solves", "bound",
     "peak"),
    ("---", "---", "---", "--:", "--:", "--:", "--:", "--:", "---", "--:"),
)  # fmt: skip

LEGEND = (
    "set-up: `projector`; splu: scipy's factor of the shifted Gram matrix; ratio: set-up and one "
    "projection, over splu and six corrections; solves: with the sparse factor, in one projection; "
    "bound: the certificate's, on the forward error; peak: memory, in MB."
)


def row(name: str, case: sparse.Case) -> tuple[str, ...]:
    """One system."""
    shape = f"{case.A.shape[0]} × {case.A.shape[1]}"
    try:
        P, peak = _with_peak(case)
    except ProjlabError as refusal:
        return name, shape, type(refusal).__name__, *["–"] * 7
    times = interleaved(
        {
            "set-up": case.projector,
            "both": lambda: case.projector()(case.point),
            "splu": lambda: sparse.Splu(case),
            "peer": lambda: sparse.Splu(case).projected(case.x0),
        },
        budget=BUDGET,
    )
    x = case.point
    projection = interleaved({"P": lambda: P.project_(x)}, budget=BUDGET / 3).best("P")
    certificate = projlab.certify(case.point, P(case.point), case.A, case.b)
    solves = sparse.passes(P)
    return (
        name,
        shape,
        P.variant,
        _seconds(times.best("set-up")),
        _seconds(times.best("splu")),
        table.number(times.ratio("both", "peer")),
        _seconds(projection),
        str(solves) if solves else "–",
        f"{certificate.forward_error_bound:.1e} {certificate.verdict}",
        "–" if peak is None else f"{peak / 2**20:.1f}",
    )


def _with_peak(case: sparse.Case) -> tuple[projlab.Projector, int | None]:
    """A projector, and the bytes that setting it up and projecting took at their most."""
    before = _resident(reset=True)
    P = case.projector()
    P(case.point)
    after = _resident(reset=False)
    return P, None if before is None or after is None else max(0, after - before)


def _resident(*, reset: bool) -> int | None:
    """The most memory that was resident since the last reset; None where no file tells it."""
    own = Path("/proc/self")
    try:
        if reset:
            (own / "clear_refs").write_text("5", encoding="ascii")
        told = (own / "status").read_text(encoding="ascii")
        return 1024 * int(told.partition("VmHWM:")[2].split(maxsplit=1)[0])
    except (OSError, IndexError, ValueError):
        return None


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _lines(names: list[str]) -> Iterator[str]:
    for heading in COLUMNS:
        yield f"| {' | '.join(heading)} |"
    for name in names:
        yield f"| {' | '.join(row(name, sparse.real(name)))} |"


def main() -> int:
    """Print the table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sparse_systems", description=__doc__
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, metavar="FILE", help="where its markers stand")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    known = [path.stem for path in sorted(sparse.DATA.glob("*.npz"))]
    if unknown := [name for name in options.names if name not in known]:
        print(f"projlab: there is no system {unknown[0]!r} in {sparse.DATA}", file=sys.stderr)
        return 2
    if options.write is not None:
        table.split(options.write, BEGIN, END)
    use_threads(options.threads)
    sparse.chain(3).projector()  # imports, and what is made once
    lines = []
    for line in _lines(options.names or known):
        print(line, flush=True)
        lines.append(line)
    if options.write is not None:
        measured = table.environment({"environment": describe(options.threads)})
        text = "\n".join([*lines, "", LEGEND[0].upper() + LEGEND[1:], "", measured])
        table.put(options.write, text, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
