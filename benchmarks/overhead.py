"""What equations add to a training step, beside the textbook recipe, as one table.

`python -m benchmarks.overhead [--write FILE]`. Steps with equations, without, and with the recipe
are timed in turn in one process. The recipe is what people write after `optimizer.step()`:
concatenate the parameters, x - pinv(A) (A x - b), copy back, here with pinv(A) kept; where a dense
A does not fit, its form for column sums, W -= (sums - b) / rows.
"""

import argparse
import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import table, targets
from benchmarks.interleave import interleaved
from benchmarks.training import ADAM, EQUATIONS, WIDTHS, Training

BEGIN = "<!-- overhead: written by `python -m benchmarks.overhead --write FILE` -->"
END = "<!-- end of overhead -->"
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": partial(torch.optim.SGD, lr=1e-4),
    "Adam, fused": ADAM,
}
EXAMPLES = (64, 256)
SECONDS = {"1e5": 2.0, "1e7": 4.0}
"""Of measuring one row."""

DENSE = 2**29
"""Bytes of a dense A beyond which the recipe is measured in its form for column sums."""


class Row(NamedTuple):
    """Percent of a step without equations that each adds to it."""

    parameters: str
    optimizer: str
    examples: int
    equations: str
    constrained: float
    passes: float
    """The reads and writes that such a step cannot do without, by plain torch operators."""
    recipe: float
    form: str


def measure(parameters: str, optimizer: str, examples: int, equations: str) -> Row:
    """Time steps in turn."""
    make = partial(Training, parameters, examples=examples, optimizer_of=OPTIMIZERS[optimizer])
    constrained, plain, textbook = make(), make(), make()
    constrained.constrain(equations)
    after, form = recipe(textbook, equations)

    def with_recipe() -> None:
        textbook.step()
        after()

    plain.step()
    calls: dict[str, Callable[[], object]] = {
        "with": constrained.step,
        "without": plain.step,
        "recipe": with_recipe,
        "passes": partial(pass_over, plain.weights),
    }
    times = interleaved(calls, budget=SECONDS[parameters])
    constrained.require_feasible()
    return Row(
        parameters,
        optimizer,
        examples,
        equations,
        100 * (times.ratio("with", "without") - 1),
        100 * times.ratio("passes", "without"),
        100 * (times.ratio("recipe", "without") - 1),
        form,
    )


def pass_over(weights: Sequence[Tensor]) -> None:
    """Gradients summed and changed; parameters summed, changed, and summed again for the log."""
    for W in weights:
        x, g = W.detach(), W.grad
        assert g is not None
        g.sum()
        g.mul_(1.0)
        x.sum()
        x.mul_(1.0)
        x.sum()


def recipe(training: Training, equations: str) -> tuple[Callable[[], None], str]:
    """The textbook projection after a step, and in what form."""
    weights = [W.detach() for W in training.weights]
    n = sum(W.numel() for W in weights)
    if equations == "column sums" and 4 * n * sum(W.shape[1] for W in weights) > DENSE:

        def columns() -> None:
            for W in weights:
                W -= W.sum(0) / len(W)

        return columns, "by columns: a dense A does not fit"
    A, b = dense_system(weights, equations)
    # rows that share no entry have this pseudo-inverse: an SVD of A would take minutes
    disjoint = A.mT / A.square().sum(1)
    inverse = torch.linalg.pinv(A) if equations == "ten rows" else disjoint

    def concatenated() -> None:
        x = torch.cat([W.flatten() for W in weights])
        x = x - inverse @ (A @ x - b)
        for W, part in zip(weights, x.split([W.numel() for W in weights]), strict=True):
            W.copy_(part.view_as(W))

    return concatenated, "dense A"


def dense_system(weights: list[Tensor], equations: str) -> tuple[Tensor, float]:
    """A (m, n) and b of the equations, x being the weights one after the other."""
    n = sum(W.numel() for W in weights)
    if equations == "ten rows":
        return Training.ten_rows(n), 0.0
    if equations == "total":
        return torch.ones(1, n), 1.0
    rows = [torch.eye(W.shape[1]).repeat(1, W.shape[0]) for W in weights]
    return torch.block_diag(*rows), 0.0


def rows(sizes: list[str]) -> Iterator[Row]:
    """Every cell; dense rows with the smallest mini-batch alone, for the set-up they take."""
    for parameters in sizes:
        for equations in EQUATIONS:
            for optimizer in OPTIMIZERS:
                for examples in EXAMPLES[:1] if equations == "ten rows" else EXAMPLES:
                    yield measure(parameters, optimizer, examples, equations)
                    gc.collect()


def markdown(found: list[Row], environment: str) -> str:
    """The table for a file."""
    lines = [
        "| parameters | optimizer | examples | equations | `constrain` | the passes alone "
        "| textbook recipe | in the form |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.parameters} | {r.optimizer} | {r.examples} | {r.equations} "
        f"| {_percent(r.constrained)} | {_percent(r.passes)} | {_percent(r.recipe)} | {r.form} |"
        for r in found
    ]
    return "\n".join([*lines, "", environment])


def _percent(value: float) -> str:
    return f"{value:+.1f} %" if abs(value) < 100 else f"{value:+.0f} %"


def main() -> int:
    """Measure, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("sizes", nargs="*", default=list(WIDTHS), metavar="SIZE", help="1e5, 1e7")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    if unknown := [size for size in options.sizes if size not in WIDTHS]:
        parser.error(f"no network has {unknown[0]} parameters; there are {', '.join(WIDTHS)}")
    targets.use_threads(options.threads)
    environment = table.environment({"environment": targets.describe(options.threads)})
    found = []
    for row in rows(options.sizes):
        print(*row, file=sys.stderr)
        found.append(row)
    text = markdown(found, environment)
    print(text)
    if options.write is not None:
        table.put(options.write, text, BEGIN, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
