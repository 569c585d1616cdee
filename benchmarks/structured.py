"""Equations with structure over the parameters of an optimizer, beside what they cannot do without.

Row and column sums of one matrix, tied entries, weights whose dimensions lie in memory in another
order, and a flow that is conserved at every node of a grid. A step is one with the gradients at
hand, of SGD, and of Adam for the flow.
"""

import gc
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import splu
from torch import Tensor, nn

import projlab
from benchmarks.interleave import Times, interleaved
from benchmarks.memory import held_bytes
from projlab import expr, tolerance
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


def grid_flow(k: int) -> sp.csr_array:
    """What leaves each node of a k x k grid less what enters it, by the flow on its edges."""
    nodes = np.arange(k * k).reshape(k, k)
    tails = np.concatenate([nodes[:, :-1].ravel(), nodes[:-1].ravel()])
    heads = np.concatenate([nodes[:, 1:].ravel(), nodes[1:].ravel()])
    edges = np.arange(len(tails))
    entries = np.repeat([1.0, -1.0], len(edges))
    where = (np.concatenate([tails, heads]), np.concatenate([edges, edges]))
    return sp.csr_array((entries, where), shape=(k * k, len(edges)))


class Flow:
    """A flow on the edges of a k x k grid under Adam, conserved with given supplies or free."""

    def __init__(self, k: int, dtype: torch.dtype, *, conserved: bool) -> None:
        draw = torch.Generator().manual_seed(0)
        self.S = grid_flow(k)
        n = self.S.shape[1]
        self.flow = nn.Parameter(torch.randn(n, generator=draw, dtype=dtype))
        self.target = torch.randn(n, generator=draw, dtype=dtype)
        # supplies of some flow: they add up to zero, and one row follows from the others
        some = torch.randn(n, generator=draw, dtype=torch.float64).numpy()
        self.supplies = torch.from_numpy(self.S @ some)
        self.flow.grad = torch.zeros_like(self.flow)
        self.optimizer = torch.optim.Adam([self.flow], lr=1e-3)
        self.handle = None
        if conserved:
            equation = self.S @ expr(self.flow) == self.supplies
            self.handle = projlab.constrain(self.optimizer, equation)

    def step(self) -> None:
        """One step towards the target."""
        assert self.flow.grad is not None
        torch.sub(self.flow.detach(), self.target, out=self.flow.grad)
        self.optimizer.step()

    def require_feasible(self) -> None:
        """Rows hold to 8 u (sum |a_i x_i| + |b|)."""
        x = self.flow.detach().double().numpy()
        b = self.supplies.numpy()
        terms = abs(self.S) @ abs(x) + abs(b)
        u = torch.finfo(self.flow.dtype).eps / 2
        worst = float((abs(self.S @ x - b) / (u * terms)).max())
        if not worst <= 8:
            raise AssertionError(f"a row is off by {worst:.2g} u of its terms")


def flow_step(k: int, dtype: torch.dtype) -> Times:
    """A step that conserves a flow, the same without, and scipy's solve and four products.

    The solve is with `splu` of the Gram matrix, in symmetric mode and an order of minimum degree.
    """
    conserved, free = (Flow(k, dtype, conserved=c) for c in (True, False))
    S = conserved.S
    T = sp.csr_array(S.T)
    m, n = S.shape
    shift = tolerance.gram_shift(m) * sp.eye_array(m)
    factor = splu(
        sp.csc_array(S @ T + shift),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    x, y = np.random.default_rng(0).standard_normal(n), np.ones(m)

    def passes() -> None:
        factor.solve(y)
        S @ x, T @ y, S @ x, T @ y

    times = interleaved(
        {"with": conserved.step, "without": free.step, "passes": passes}, budget=2 * SECONDS
    )
    conserved.require_feasible()
    return times
