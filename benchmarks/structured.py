"""Equations with structure over the parameters of an optimizer, beside what they cannot do without.

Row and column sums of one matrix, tied entries, and weights whose dimensions lie in memory in
another order. A step is one of SGD with the gradients at hand.
"""

import gc
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import projlab
from benchmarks.interleave import Times, interleaved
from benchmarks.memory import held_bytes
from projlab import expr
from projlab.training.expressions.expression import Equation

Equations = Callable[[nn.Parameter], list[Equation]]
CONVOLUTIONS, CHANNELS = 50, 64
SECONDS = 3.0
"""Of timing a step."""


def row_and_column_sums(W: nn.Parameter) -> list[Equation]:
    """Every row and every column adds up to one."""
    return [expr(W).sum(dim=0) == 1, expr(W).sum(dim=1) == 1]


def skew_symmetric(W: nn.Parameter) -> list[Equation]:
    """W = -W', every pair of entries stated twice."""
    return [expr(W) == -expr(W).T]


def circulant(W: nn.Parameter) -> list[Equation]:
    """Every entry is the one before it in the row above."""
    e = expr(W)
    return [e[:-1, :-1] == e[1:, 1:], e[:-1, -1] == e[1:, 0]]


class Stepping:
    """Parameters with gradients and an optimizer, with equations or without."""

    def __init__(self, weights: list[Tensor], equations: list[Equations]) -> None:
        draw = torch.Generator().manual_seed(1)
        self.weights = [nn.Parameter(W.clone()) for W in weights]
        self.gradients = [
            torch.empty_like(W).copy_(torch.randn(W.shape, generator=draw)) for W in self.weights
        ]
        for W, g in zip(self.weights, self.gradients, strict=True):
            W.grad = g.clone()
        self.optimizer = torch.optim.SGD(self.weights, lr=1e-3)
        stated = [e for W in self.weights for make in equations for e in make(W)]
        self.handle = projlab.constrain(self.optimizer, *stated) if stated else None

    def step(self) -> None:
        """One step, with gradients that are not feasible."""
        for W, g in zip(self.weights, self.gradients, strict=True):
            assert W.grad is not None
            W.grad.copy_(g)
        self.optimizer.step()

    def require_feasible(self) -> None:
        """Rows hold to 8 u of all entries that they may hold."""
        assert self.handle is not None
        size = max(float(W.detach().abs().sum(0).max()) for W in self.weights)
        off, u = float(self.handle.residual().abs().max()), 2.0**-24
        if not off <= 8 * u * (size + 1):
            raise AssertionError(f"an equation is off by {off:.2g}")


def matrix(n: int) -> Tensor:
    """(n, n), float32."""
    return torch.randn(n, n, generator=torch.Generator().manual_seed(0))


def sums_step(n: int) -> Times:
    """A step with row and column sums, and one with the bare passes over gradient and parameter."""
    constrained, plain = Stepping([matrix(n)], [row_and_column_sums]), Stepping([matrix(n)], [])
    (W,), g = plain.weights, plain.weights[0].grad
    assert g is not None

    def passes(t: Tensor) -> None:
        t.sub_(t.sum(1, keepdim=True) / n)
        t.sub_(t.sum(0, keepdim=True) / n)

    def bare() -> None:
        g.copy_(plain.gradients[0])
        passes(g)
        plain.optimizer.step()
        passes(W.detach())
        W.detach().sum(1), W.detach().sum(0)  # what the log of residuals reads

    times = interleaved({"projlab": constrained.step, "passes": bare}, budget=SECONDS)
    constrained.require_feasible()
    return times


def equal_matrices(count: int, n: int = 64) -> Times:
    """A step with column sums of equal matrices, one without, and the bare passes alone."""
    weights = [matrix(n)] * count
    constrained = Stepping(weights, [lambda W: [expr(W).sum(dim=0) == 0]])
    plain = Stepping(weights, [])
    tensors = [(W.detach(), W.grad) for W in plain.weights]

    def bare() -> None:
        for x, g in tensors:
            assert g is not None
            g.sub_(g.sum(0, keepdim=True) / n)
            x.sub_(x.sum(0, keepdim=True) / n)
            x.sum(0)

    calls = {"with": constrained.step, "without": plain.step, "passes": bare}
    times = interleaved(calls, budget=SECONDS)
    constrained.require_feasible()
    return times


def set_up(n: int, equations: Equations) -> float:
    """Seconds that `constrain` takes, and its first projection; the best of three."""
    best = float("inf")
    for _ in range(4):  # the first one imports
        W = nn.Parameter(matrix(n))
        optimizer = torch.optim.SGD([W], lr=1e-3)
        stated = equations(W)
        start = time.perf_counter()
        handle = projlab.constrain(optimizer, *stated)
        best = min(best, time.perf_counter() - start)
        del handle
        gc.collect()
    return best


def held(n: int, equations: Equations) -> float:
    """Bytes that equations keep, over those of the matrix."""
    stepping = Stepping([matrix(n)], [equations])
    assert stepping.handle is not None
    blocks = stepping.handle._active.system.blocks
    kept = held_bytes([vars(block) for block in blocks], besides=stepping.weights)
    return kept / stepping.weights[0].nbytes


def convolutions(memory_format: torch.memory_format) -> Times:
    """A step of 50 convolutions whose filters have mean zero, with and without."""
    weights = [
        torch.randn(CHANNELS, CHANNELS, 3, 3, generator=torch.Generator().manual_seed(i)).to(
            memory_format=memory_format
        )
        for i in range(CONVOLUTIONS)
    ]
    constrained = Stepping(weights, [lambda W: [expr(W).sum(dim=(1, 2, 3)) == 0]])
    plain = Stepping(weights, [])
    times = interleaved({"with": constrained.step, "without": plain.step}, budget=SECONDS)
    constrained.require_feasible()
    return times
