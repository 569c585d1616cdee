"""Holds training runs against theory: pass, expected limitation, skip or fail, and why.

With μ and L the extreme curvatures of the loss on the null space of A, κ = L/μ, η the learning
rates and c·u the rounding of one step:

- a step along the gradient shrinks the distance by 1 − η μ, so that e^(−μ Σ η) of it is left,
  times the steps over which gradients are averaged;
- an optimizer whose entries move by about η whatever the gradient's size ends within the ball that
  its last steps, summed over its averages, can leave: √n · η · κ;
- one that searches for its own step ends within √n · κ of the smallest it takes;

and roundings add up to √steps · c · u · κ. In mode "post" this is promised only where the step is
along the gradient; elsewhere the limit is that of another problem.

Multipliers leave of the gradient what the best ones do, but for κ₂(A) c·u of it.

A network's rows hold at every step, however many, and its loss is no larger than that of the
unconstrained network, up to the noise between seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from projlab import tolerance
from projlab_validation.judge import Verdict
from projlab_validation.training.networks import NETWORKS
from projlab_validation.training.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]
BY_NAME = {choice.name: choice for choice in OPTIMIZERS}

FEASIBLE = 8.0
"""In units of u (Σ|a_i p_i| + |b|): the parameters are rounded once, the residual is evaluated and
the correction computed with a few more; and the same again where a row's correction moves others.
"""

NOISES = 2.0
"""Standard deviations of one run's loss that two means over five seeds may be apart: they differ by
√(2/5) = 0.6 of one by chance, so this is three times as far."""


def allowed(row: Row) -> float:
    """Return how far from the optimum theory lets a run end; NaN for a network."""
    if row["problem"] in NETWORKS:
        return math.nan
    choice, u = BY_NAME[row["optimizer"]], tolerance.unit_roundoff(row["dtype"])
    low, high, n = row["curvature_min"], row["curvature_max"], row["n"]
    if math.isnan(low):
        return math.nan
    ratio = high / low
    rounding = math.sqrt(row["steps"]) * tolerance.dimension_factor(row["m"], n) * u * ratio
    if choice.moves == "gradient":
        left = choice.memory * math.exp(-low * row["rate_sum"])
    else:
        last = choice.floor if choice.moves == "search" else choice.memory * row["last_rate"]
        left = math.sqrt(n) * last * ratio / row["scale"]
    return float(left + rounding)


def judge(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the records with verdict, why and the distance allowed."""
    import pandas as pd

    judged = []
    for row in cast("list[Row]", frame.to_dict("records")):
        bound = allowed(row)
        verdict, why = verdict_of(row, bound)
        judged.append({"verdict": verdict, "why": why, "allowed": bound})
    columns = ["verdict", "why", "allowed"]
    return frame.join(pd.DataFrame(judged, columns=columns, index=frame.index))


def verdict_of(row: Row, bound: float) -> tuple[Verdict, str]:
    """Judge one run."""
    if row["status"] == "skip":
        return "skip", row["reason"]
    if row["status"] == "refused" and row["mode"] == "metric":
        return "skip", "no diagonal metric, or rows that overlap: mode metric does not apply"
    if row["status"] != "ok":
        return "fail", row["reason"]
    u = tolerance.unit_roundoff(row["dtype"])
    feasible = row["feasibility"] <= FEASIBLE * u
    if row["problem"] in NETWORKS:
        return _network(row, u, feasible=feasible)
    figures = (
        f"distance {row['distance']:.1e}, {bound:.1e} allowed; "
        f"largest residual {row['feasibility'] / u:.1f} u"
    )
    if not feasible:
        return "fail", figures
    if row.get("prices", math.nan) > tolerance.dimension_factor(row["m"], row["n"]) * u:
        return "fail", f"multipliers that are not: {row['prices']:.1e} is left of the gradient"
    if row["distance"] <= bound:
        return "pass", figures
    if row["mode"] == "post" and BY_NAME[row["optimizer"]].moves != "gradient":
        return "expected", (
            f"projecting after the step alone ends elsewhere under {row['optimizer']}: {figures}"
        )
    return "fail", figures


def _network(row: Row, u: float, *, feasible: bool) -> tuple[Verdict, str]:
    """Judge a network by its rows at every step, and by its loss where it has one."""
    figures = f"largest residual {row['feasibility'] / u:.2g} u"
    if row["problem"] == "network_noise":
        return ("pass" if feasible else "fail"), f"after {row['steps']} steps: {figures}"
    figures += (
        f"; loss {row['loss']:.3g}, unconstrained {row['free_loss']:.3g} with a noise of "
        f"{row['noise']:.2g}"
    )
    if row["mode"] in ("penalty", "unconstrained"):
        return "expected", f"for comparison, nothing makes its rows hold: {figures}"
    within = row["loss"] <= row["free_loss"] + NOISES * row["noise"]
    return ("pass" if feasible and within else "fail"), figures
