"""Drift: what many perturbed projections in a row add up to.

x_k = P(x_{k−1} + d_k), from x_0 = P(x₀). P is affine, so that the exact trajectory at step k is the
exact projection of x₀ + d_1 + … + d_k: no step but the last needs an oracle. x₀ and the
perturbations are multiples of 2⁻³⁰, so that these sums are exact.

A fault along the null space does not show in the feasibility residual, and one in the row space is
corrected by the next projection. The forward error of a single projection is therefore judged
apart, in the problem's "projection" record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from projlab import projector, tolerance
from projlab.engine.variants import get
from projlab_validation.problems.drift import GRID
from projlab_validation.problems.problem import scattered
from projlab_validation.record import NAN, Record
from projlab_validation.tensors import sparse_tensor
from projlab_validation.truth import Truth

if TYPE_CHECKING:
    from torch import Tensor

    from projlab_validation.problems import Problem
    from projlab_validation.profiles import Profile

STEP = 2.0**-7
"""Size of a perturbation's entries: ten thousand of them move x about as far as its own size."""

LONG = 6
"""Of problems in `Profile.drift_long`: to 10 to the power of this many steps."""

CHUNK = 1000
"""Perturbations drawn at once."""


def drift_records(truth: Truth, base: Record, profile: Profile) -> Iterator[Record]:
    """Yield a record a power of ten of perturbed projections, `base` being that of x₀."""
    from projlab_validation.oracles import reference

    problem, exponent = truth.problem, exponent_of(truth.problem, base, profile)
    followed = trajectory(problem, base.variant, profile, base.device, exponent)
    for steps, moved, there, x in followed:
        here = Truth(there, "projection", reference(there), ())
        answer = x.cpu().numpy()
        yield replace(
            base,
            check="drift",
            steps=steps,
            oracles={},
            x0_norm=here.x0_norm,
            xstar_norm=here.xstar_norm,
            reference_radius=here.reference.radius,
            perturbation_scale=truth.perturbation_scale + here.xstar_norm + moved,
            x_norm=float(np.linalg.norm(answer)),
            forward_error=here.forward_error(answer),
            feasibility=here.feasibility(answer),
            stationarity=NAN,
        )
    if exponent < _longest(problem, profile):
        reason = (
            f"each step is an iteration, and the {profile.name} profile follows those for "
            f"10^{exponent} steps, where other variants take 10^{_longest(problem, profile)}"
        )
        yield replace(base, check="drift", status="skip", reason=reason, oracles={})


def exponent_of(problem: Problem, base: Record, profile: Profile) -> int:
    """To 10 to the power of how many steps a variant is followed.

    To few where each is an iteration: always, or where its theory expects it to be unable.
    """
    longest, variant = _longest(problem, profile), get(base.variant)
    u, condition = tolerance.unit_roundoff(base.dtype), base.reference_condition
    tries = variant.finds_out and variant.limitation(m=base.m, n=base.n, condition=condition, u=u)
    return min(longest, profile.drift_iterated) if variant.iterates or tries else longest


def _longest(problem: Problem, profile: Profile) -> int:
    return LONG if problem.name in profile.drift_long else profile.drift_exponent


def trajectory(
    problem: Problem, variant: str, profile: Profile, device: str, exponent: int | None = None
) -> Iterator[tuple[int, float, Problem, Tensor]]:
    """Follow one variant for as many steps as the profile asks for, or 10 to the power `exponent`.

    Yields
    ------
    k, ‖d_1‖ + … + ‖d_k‖, the problem whose x* is the exact trajectory's, x_k
        For k = 1, 10, 100, …
    """
    dtype = getattr(torch, problem.dtype)
    if problem.stays_sparse:
        A = sparse_tensor(scattered(problem.csr(), problem.seed), problem.dtype, device)
    else:
        A = torch.tensor(problem.dense(), dtype=dtype, device=device)
    P = projector(A, torch.tensor(problem.b, dtype=dtype, device=device), variant)
    rng = np.random.default_rng([problem.seed, 3])
    total = problem.x0.copy()
    x = torch.tensor(problem.x0, dtype=dtype, device=device)
    P.project_(x)
    exponent = _longest(problem, profile) if exponent is None else exponent
    stops = [10**k for k in range(exponent + 1)]
    done, moved = 0, 0.0
    for stop in stops:
        while done < stop:
            count = min(CHUNK, stop - done)
            moves = GRID * np.rint(STEP / GRID * rng.standard_normal((count, problem.n)))
            moves = moves.astype(problem.dtype).astype(np.float64)
            total += moves.sum(axis=0)
            moved += float(np.linalg.norm(moves, axis=1).sum())
            for move in torch.tensor(moves, dtype=dtype, device=device):
                P.project_(x.add_(move))
            done += count
        yield stop, moved, replace(problem, x0=total.copy()), x.clone()
