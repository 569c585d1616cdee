"""One training run under a constraint, measured."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from projlab_validation.norms import norm
from projlab_validation.training.optimizers import Choice
from projlab_validation.training.problems import TrainingProblem

Mode = Literal["tangent", "post", "metric"]
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
        ‖T(∇f(p) + λp)‖ over the same at the start, T the projection onto the null space of A.
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
    """

    problem: str
    optimizer: str
    mode: Mode
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
    feasibility: float = NAN
    steps_to: int | None = None
    seconds: float = NAN
    rate_sum: float = NAN
    last_rate: float = NAN
    curvature_min: float = NAN
    curvature_max: float = NAN
    scale: float = NAN


def takes(choice: Choice, problem: TrainingProblem) -> bool:
    """Whether an optimizer can be given a problem's parameters."""
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
    from projlab import cat, constrain, expr

    steps, decay = facts["steps"], facts["weight_decay"]
    total_decay = decay + choice.own_decay
    optimum = problem.optimum(total_decay)
    low, high = problem.curvature(optimum, total_decay)
    parameters = _parameters(problem, getattr(torch, facts["dtype"]))
    optimizer = choice.make(parameters, decay)
    pieces = cat(*(expr(p) for p in parameters))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # mode "post" says where it ends; so do we
        constrain(optimizer, problem.A @ pieces == problem.b, mode=mode)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: choice.factor(k, steps))
    closure = _closure(problem, optimizer, parameters)

    began = _flat(parameters)
    scale = max(norm(optimum), norm(began - optimum)) or 1.0
    away: list[float] = []
    feasibility, rates, last = 0.0, 0.0, 0.0
    start = time.perf_counter()
    for _ in range(steps):
        last = float(optimizer.param_groups[0]["lr"])
        rates += last
        if choice.closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        schedule.step()
        p = _flat(parameters)
        away.append(norm(p - optimum) / scale)
        feasibility = max(feasibility, _feasibility(problem, p))
    seconds = time.perf_counter() - start

    def kkt(p: Any) -> float:
        gradient = problem.loss.gradient(p) + total_decay * p
        multipliers = np.linalg.lstsq(problem.A.T, gradient)[0]
        return norm(gradient - problem.A.T @ multipliers)

    return {
        "distance": away[-1],
        "kkt": kkt(_flat(parameters)) / (kkt(began) or 1.0),
        "feasibility": feasibility,
        "steps_to": _settled(away),
        "seconds": seconds,
        "rate_sum": rates,
        "last_rate": last,
        "curvature_min": low,
        "curvature_max": high,
        "scale": scale,
    }


def _parameters(problem: TrainingProblem, dtype: torch.dtype) -> list[torch.nn.Parameter]:
    sizes = [int(np.prod(shape)) for shape in problem.shapes]
    pieces = torch.tensor(problem.start, dtype=dtype).split(sizes)
    return [
        torch.nn.Parameter(piece.reshape(shape).clone())
        for piece, shape in zip(pieces, problem.shapes, strict=True)
    ]


def _closure(problem: TrainingProblem, optimizer: Any, parameters: list[Any]) -> Any:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss.of(torch.cat([p.flatten() for p in parameters]))
        loss.backward()
        return loss

    return closure


def _flat(parameters: list[torch.nn.Parameter]) -> Any:
    return torch.cat([p.detach().flatten() for p in parameters]).double().numpy()


def _feasibility(problem: TrainingProblem, p: Any) -> float:
    size = np.abs(problem.A) @ np.abs(p) + np.abs(problem.b)
    return float(np.max(np.abs(problem.A @ p - problem.b) / np.where(size > 0, size, 1.0)))


def _settled(away: list[float]) -> int | None:
    """Return the first step, counted from one, from which on the distance stays within `CLOSE`."""
    beyond = [k for k, distance in enumerate(away) if not distance <= CLOSE]
    first = beyond[-1] + 2 if beyond else 1
    return first if first <= len(away) else None
