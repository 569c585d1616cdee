"""One training run under a constraint, measured."""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from projlab import tolerance
from projlab_validation.norms import norm
from projlab_validation.training.optimizers import Choice
from projlab_validation.training.problems import Sides, TrainingProblem, Vector

Mode = Literal["tangent", "post", "metric"]
"""Of `projlab.constrain`."""

Way = Mode | Literal["layer", "penalty", "unconstrained"]
"""Of networks: a layer that projects, a penalty in its place, nothing."""

DECAY = 0.05
"""Coupled weight decay, beside losses whose curvature is near one."""

CLOSE = 1e-6
"""Relative distance to the optimum whose step is counted."""

NAN = float("nan")


@dataclass(frozen=True)
class TrainingRecord:
    """One (problem, optimizer, mode, weight decay), trained; no verdict.

    Attributes
    ----------
    distance
        ‖p − p*‖ at the end, relative to max(‖p*‖, ‖p_start − p*‖).
    kkt
        ‖T(∇f(p) + λp)‖ over the same at the start, T the projection onto the null space of A; of
        problems with inequalities, what multipliers of right signs leave of the gradient.
    prices
        What the multipliers that `projlab` names leave of the gradient at the end, less what the
        best ones do, relative to κ₂(A) times the gradient's parts; infinite where an inequality's
        is negative, NaN where the equations are stated in another order.
    feasibility
        The largest of max_i |A p − b|_i / (Σ_j |a_ij p_j| + |b_i|) after any step.
    steps_to
        The first step from which on the distance stays within 1e-6; None where it never does.
    rate_sum, last_rate
        Sum of the learning rates over the steps, and the last.
    curvature_min, curvature_max
        Of the loss on the null space of A, at the optimum, weight decay included.
    scale
        What `distance` is relative to.
    loss, free_loss, noise
        Of networks, means over seeds: the loss, that of the unconstrained network, and the standard
        deviation of the latter's.
    """

    problem: str
    optimizer: str
    mode: Way
    weight_decay: float
    dtype: str
    environment: str
    m: int
    n: int
    steps: int
    status: Literal["ok", "refused", "error", "skip"]
    reason: str = ""
    distance: float = NAN
    kkt: float = NAN
    prices: float = NAN
    feasibility: float = NAN
    steps_to: int | None = None
    seconds: float = NAN
    rate_sum: float = NAN
    last_rate: float = NAN
    curvature_min: float = NAN
    curvature_max: float = NAN
    scale: float = NAN
    loss: float = NAN
    free_loss: float = NAN
    noise: float = NAN


def takes(choice: Choice, problem: TrainingProblem) -> bool:
    """Whether an optimizer can be given a problem's parameters."""
    if choice.closure and problem.sides is not None:
        return False  # LBFGS beside inequalities is refused
    return not choice.matrices or all(len(shape) == 2 for shape in problem.shapes)


def runs(choice: Choice, *, brief: bool) -> Iterator[tuple[Mode, float]]:
    """Yield how an optimizer is asked: every mode, and the default one with weight decay too.

    In brief, the default and the textbook's.
    """
    yield "tangent", 0.0
    yield "post", 0.0
    if not brief:
        yield "metric", 0.0
        if choice.decays:
            yield "tangent", DECAY


def train(
    problem: TrainingProblem,
    choice: Choice,
    mode: Mode,
    weight_decay: float,
    *,
    steps: int,
    dtype: str = "float64",
    environment: str = "",
) -> TrainingRecord:
    """Train one problem with one optimizer; what goes wrong is a finding, not an exception."""
    from projlab import ProjlabError

    facts: dict[str, Any] = {
        "problem": problem.name,
        "optimizer": choice.name,
        "mode": mode,
        "weight_decay": weight_decay,
        "dtype": dtype,
        "environment": environment,
        "m": problem.A.shape[0],
        "n": problem.A.shape[1],
        "steps": steps,
    }
    try:
        return TrainingRecord(**facts, status="ok", **_measure(problem, choice, mode, facts))
    except ProjlabError as refusal:
        return TrainingRecord(**facts, status="refused", reason=str(refusal))
    except Exception as fault:  # the other runs go on
        return TrainingRecord(**facts, status="error", reason=f"{type(fault).__name__}: {fault}")


def _measure(
    problem: TrainingProblem, choice: Choice, mode: Mode, facts: dict[str, Any]
) -> dict[str, Any]:
    from projlab import constrain

    steps, decay = facts["steps"], facts["weight_decay"]
    u = tolerance.unit_roundoff(facts["dtype"])
    total_decay = decay + choice.own_decay
    optimum, low, high = _solution(problem, total_decay)
    parameters = _parameters(problem, getattr(torch, facts["dtype"]))
    optimizer = choice.make(parameters, decay)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # mode "post" says where it ends; so do we
        handle = constrain(optimizer, *problem.equations(parameters), mode=mode, log=0)
    closure = _closure(problem, parameters)

    entries = [p.detach().flatten() for p in parameters]
    began = torch.cat(entries).double().numpy()
    path = entries[0].new_empty(steps, len(began))
    first = float(optimizer.param_groups[0]["lr"])
    rates = [first * choice.factor(k, steps) for k in range(steps)]
    start = time.perf_counter()
    for k, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        if choice.closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        torch.cat(entries, out=path[k])
    seconds = time.perf_counter() - start

    def kkt(p: Any) -> float:
        gradient = problem.loss.gradient(p) + total_decay * p
        return norm(gradient + _rows(problem).T @ _best(problem, p, gradient, u))

    closure()
    prices = torch.cat([y.flatten() for y in handle.multipliers()]).double().numpy()
    points = path.double().numpy()
    scale = max(norm(optimum), norm(began - optimum)) or 1.0
    away = np.linalg.norm(points - optimum, axis=1) / scale
    return {
        "distance": float(away[-1]),
        "kkt": kkt(points[-1]) / (kkt(began) or 1.0),
        "prices": _excess(problem, points[-1], prices, decay, u),
        "feasibility": feasibility(problem.A, problem.b, points, problem.sides),
        "steps_to": _settled(away),
        "seconds": seconds,
        "rate_sum": sum(rates),
        "last_rate": rates[-1],
        "curvature_min": low,
        "curvature_max": high,
        "scale": scale,
    }


def _rows(problem: TrainingProblem) -> Vector:
    """Return the rows of equations, and below them those of inequalities."""
    if problem.sides is None:
        return problem.A
    return np.concatenate([problem.A, problem.sides.rows[0]])


def _best(problem: TrainingProblem, p: Vector, gradient: Vector, u: float) -> Vector:
    """Return the multipliers that leave least of a gradient.

    Those of inequalities that are active at p, for data of unit roundoff u, are not negative, and
    of the others zero.
    """
    from scipy.optimize import lsq_linear

    if problem.sides is None:
        return np.asarray(np.linalg.lstsq(-problem.A.T, gradient)[0])
    rows, right = problem.sides.rows
    m, room = len(problem.A), right - rows @ p
    held = np.concatenate([np.arange(m), m + np.flatnonzero(room <= ACTIVE * u)])
    bounds = (np.where(held < m, -np.inf, 0.0), np.full(len(held), np.inf))
    y = np.zeros(m + len(rows))
    y[held] = lsq_linear(_rows(problem)[held].T, -gradient, bounds, method="bvls").x
    return y


ACTIVE = 16.0
"""Room of an active inequality, in units of u: entries and right sides are about one."""


def _excess(problem: TrainingProblem, p: Vector, y: Vector, decay: float, u: float) -> float:
    """Return by how much multipliers y leave more of the gradient; see `TrainingRecord.prices`.

    Decay that an optimizer adds unasked is no part of what it is asked to minimise.
    """
    if problem.stated is not None and problem.sides is None:
        return NAN
    if y[len(problem.A) :].min(initial=0.0) < 0:
        return math.inf
    gradient, rows = problem.loss.gradient(p) + decay * p, _rows(problem)
    size = norm(gradient) + norm(problem.loss.gradient(np.zeros_like(p))) + norm(p)
    left, least = (norm(gradient + rows.T @ z) for z in (y, _best(problem, p, gradient, u)))
    return (left - least) / (float(np.linalg.cond(problem.A)) * size)


def feasibility(A: Any, b: Any, points: Any, sides: Sides | None = None) -> float:
    """The largest |A p - b|_i / (Σ_j |a_ij p_j| + |b_i|) of several points p (k, n).

    Of inequalities what they are violated by, over the same; bounds of zero hold exactly.
    Evaluated in the longest float there is: in float64 the sum's own rounding would be the most.
    """
    size = np.abs(points) @ np.abs(A).T + np.abs(b)
    residual = np.abs(points.astype(np.longdouble) @ A.T - b)
    worst = float(np.max(residual / np.where(size > 0, size, 1.0)))
    if sides is not None:
        rows, right = sides.rows
        rows, right = rows[np.isfinite(right)], right[np.isfinite(right)]
        size = np.abs(points) @ np.abs(rows).T + np.abs(right)
        violated = np.maximum(points.astype(np.longdouble) @ rows.T - right, 0)
        worst = max(worst, float(np.max(violated / np.where(size > 0, size, 1.0))))
    return worst


@functools.cache  # for every optimizer and mode
def _solution(problem: TrainingProblem, decay: float) -> tuple[Vector, float, float]:
    """The constrained optimum, and the extreme curvatures there."""
    optimum = problem.optimum(decay)
    return optimum, *problem.curvature(optimum, decay)


def _parameters(problem: TrainingProblem, dtype: torch.dtype) -> list[torch.nn.Parameter]:
    sizes = [int(np.prod(shape)) for shape in problem.shapes]
    pieces = torch.tensor(problem.start, dtype=dtype).split(sizes)
    return [
        torch.nn.Parameter(piece.reshape(shape).clone())
        for piece, shape in zip(pieces, problem.shapes, strict=True)
    ]


def _closure(problem: TrainingProblem, parameters: list[torch.nn.Parameter]) -> Callable[[], float]:
    """Return what sets the gradients anew and returns the loss."""
    entries = [p.detach().flatten() for p in parameters]
    sizes = [len(piece) for piece in entries]

    def closure() -> Any:  # a tensor, where torch's annotation says float
        loss, gradient = problem.loss.of(torch.cat(entries))
        for p, piece in zip(parameters, gradient.split(sizes), strict=True):
            p.grad = piece.view_as(p)
        return loss

    return closure


def _settled(away: Vector) -> int | None:
    """Return the first step, counted from one, from which on the distance stays within `CLOSE`."""
    beyond = np.flatnonzero(~(away <= CLOSE))
    first = int(beyond[-1]) + 2 if len(beyond) else 1
    return first if first <= len(away) else None
