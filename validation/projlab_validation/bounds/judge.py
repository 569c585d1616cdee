"""Holds projections onto polyhedra against theory: pass, expected limitation, skip or fail.

On the face where x* lies the projection is one onto an affine set, of condition κ_F, so that a
backward-stable answer has a forward error up to a modest function of m and n, times κ_F u, times
(‖x₀‖ + ‖x₀ − x*‖)/‖x*‖. Where x* is not known, what the certificate proves stands in for it. An
empty set has to be refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from projlab import tolerance
from projlab_validation.judge import Verdict

if TYPE_CHECKING:
    import pandas as pd

U = tolerance.unit_roundoff("float64")

UNKNOWN = 1e-9
"""What the certificate has to prove where x* is not known."""


def judge(frame: pd.DataFrame) -> pd.DataFrame:
    """The records with verdict, why, and the distance allowed; solvers' are shown, not judged."""
    import pandas as pd

    judged = []
    for row in cast("list[Mapping[str, Any]]", frame.to_dict("records")):
        bound = allowed(row)
        verdict, why = verdict_of(row, bound)
        judged.append({"verdict": verdict, "why": why, "allowed": bound})
    columns = ["verdict", "why", "allowed"]
    return frame.join(pd.DataFrame(judged, columns=columns, index=frame.index))


def allowed(row: Mapping[str, Any]) -> float:
    """How far from x* theory lets an answer be; NaN where x* is not known."""
    if math.isnan(row["distance"]):
        return math.nan
    factor = tolerance.dimension_factor(max(1, row["m"]), row["n"])
    return float(factor * row["condition"] * U * row["amplification"] + row["radius"])


def verdict_of(row: Mapping[str, Any], bound: float) -> tuple[Verdict, str]:
    """Judge one record."""
    if row["role"] == "solver":
        return "skip", row["reason"] or "a solver, shown beside the answers"
    if row["status"] == "skip":
        return "skip", row["reason"]
    if row["empty"]:
        if row["status"] == "refused":
            return "pass", row["reason"]
        return "fail", f"the set is empty, and the answer is {row['status']}: {row['reason']}"
    if row["status"] != "ok":
        return "fail", row["reason"]
    feasible = tolerance.feasibility_bound(u=U, m=max(1, row["m"]), n=row["n"])
    figures = f"rows and bounds missed by {row['feasibility']:.1e}, {feasible:.1e} allowed"
    if not row["feasibility"] <= feasible:
        return "fail", figures
    if math.isnan(bound):
        return _by_certificate(row, figures)
    figures = f"distance {row['distance']:.1e}, {bound:.1e} allowed; {figures}"
    return ("pass" if row["distance"] <= bound else "fail"), figures


def _by_certificate(row: Mapping[str, Any], figures: str) -> tuple[Verdict, str]:
    """Where x* is not known."""
    if math.isnan(row["bound"]):
        return "skip", f"x* is not known, and nothing is proven of it; {figures}"
    figures = f"the certificate proves {row['bound']:.1e}; {figures}"
    if row["claimed"] == "not polished":
        return "expected", f"the active set was not settled, as a warning said: {figures}"
    return ("pass" if row["bound"] <= UNKNOWN else "expected"), figures
