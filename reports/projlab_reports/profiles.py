"""Times over answers within tolerance only: performance profiles and shifted geometric means.

The tolerance is one for all variants, the forward error c·κ·u that a backward-stable method
reaches: a quick wrong answer is no answer. A run's seconds are taken beside other work, so what
stands here is indicative.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from projlab_reports.units import MISSING, duration

SET_UP, PROJECT = "set-up and one projection", "one projection"
TIMES = (SET_UP, PROJECT)

RATIOS = (1.0, 1.5, 2.0, 5.0, 10.0, 100.0)

SHIFT = 1e-5
"""Seconds added before the mean is taken: what is quicker counts as alike."""


def seconds(frame: pd.DataFrame, what: str) -> pd.DataFrame:
    """One row a problem and dtype, one column a variant: seconds, inf where none is right.

    Problems that no variant solves within tolerance are left out.
    """
    answers = frame[frame["check"] == "projection"]
    taken = answers["project_s_median"]
    if what == SET_UP:
        taken = taken + answers["setup_s_median"]
    right = (answers["forward_error"] <= answers["stable_bound"]) & taken.notna()
    table: pd.DataFrame = (
        answers.assign(taken=taken.where(right, np.inf))
        .pivot_table(index=["content_hash", "dtype"], columns="variant", values="taken", sort=False)
        .reindex(columns=answers["variant"].unique())
        .fillna(np.inf)
    )
    solved: pd.DataFrame = table.loc[np.isfinite(table.to_numpy()).any(axis=1)]
    return solved


def profile(times: pd.DataFrame, ratios: Sequence[float] | np.ndarray) -> pd.DataFrame:
    """Dolan and Moré's profile: the part of problems within each ratio of the best time."""
    relative = times.div(times.min(axis=1), axis=0)
    parts = {v: [float((relative[v] <= r).mean()) for r in ratios] for v in times.columns}
    return pd.DataFrame(parts, index=list(ratios))


def shown(times: pd.DataFrame) -> pd.DataFrame:
    """`profile` at a few ratios, in percent: one row a variant."""
    table = profile(times, RATIOS)
    return pd.DataFrame(
        [
            {
                "variant": variant,
                **{f"within {r:g} ×": f"{100 * table[variant][r]:.0f} %" for r in RATIOS},
                "right at all": f"{100 * np.isfinite(times[variant]).mean():.0f} %",
            }
            for variant in times.columns
        ]
    )


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """Shifted geometric means of set-up and projection, one row a variant.

    They are taken over the problems that every variant which is right on at least half of them
    solves: over different problems they could not be compared.
    """
    once, repeated = (seconds(frame, what) for what in TIMES)
    if once.empty:
        return pd.DataFrame()
    right = once < np.inf
    compared = right.columns[right.mean() >= 0.5]
    common = right[compared].all(axis=1) & bool(len(compared))
    return pd.DataFrame(
        [
            {
                "variant": variant,
                "right on": f"{int(right[variant].sum())} of {len(right)}",
                **{
                    what: _mean(table.loc[common, variant]) if variant in compared else MISSING
                    for what, table in zip(TIMES, (once, repeated), strict=True)
                },
                "over": int(common.sum()) if variant in compared else 0,
            }
            for variant in once.columns
        ]
    )


def _mean(times: pd.Series[float]) -> str:
    if times.empty:
        return MISSING
    return duration(float(np.exp(np.log(times + SHIFT).mean()) - SHIFT))
