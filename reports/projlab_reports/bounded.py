"""The bounds section as tables of problems by who answered: projlab or a subject, and solvers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from projlab_reports.summary import Summary
from projlab_reports.tables import peer_name
from projlab_reports.units import MISSING, error

EXACT = 1e-18
"""A distance below this is drawn here: x* to the last bit has no logarithm."""

RIGHT = 1e-8
"""What an answer may be off by to count as one where times are compared: solvers need some room."""


class Asked(NamedTuple):
    """One row a problem that everybody was asked, one column who answered."""

    distances: pd.DataFrame
    """‖x − x*‖ / ‖x*‖, inf where nothing came back; of projlab's answers that no verified face
    gives, what their certificate proves."""
    times: pd.DataFrame
    """Seconds, inf where the answer is further off than `RIGHT`; problems that nobody solves so
    are left out."""


def asked(summary: Summary) -> Asked:
    """Of the problems that have an answer, by projlab (or the subject), solvers and peers."""
    frame = summary.bounds
    if frame.empty:
        return Asked(pd.DataFrame(), pd.DataFrame())
    frame = frame[~frame["empty"].astype(bool) & (frame["status"] != "skip")]
    answer = frame["role"] == "answer"
    frame = frame.assign(
        who=frame["variant"].map(peer_name).where(~answer, summary.subject or "projlab"),
        distance=frame["distance"].fillna(frame["bound"].where(answer)).fillna(np.inf),
    )
    names = list(dict.fromkeys(frame["who"]))
    distances = frame.pivot_table(index="problem", columns="who", values="distance", sort=False)
    # a solver that is not asked about problems of a size has no row of them
    distances = distances.reindex(columns=names).dropna()
    seconds = frame.pivot_table(index="problem", columns="who", values="seconds", sort=False)
    seconds = seconds.reindex(index=distances.index, columns=names)
    times = seconds.where(distances <= RIGHT, np.inf).fillna(np.inf)
    return Asked(distances, times[np.isfinite(times.to_numpy()).any(axis=1)])


def shown(summary: Summary) -> pd.DataFrame:
    """One row who answered: how often within a distance, and how often quickest."""
    distances, times = asked(summary)
    if distances.empty:
        return pd.DataFrame()
    quickest = times.idxmin(axis=1)
    return pd.DataFrame(
        [
            {
                "answered by": who,
                **{
                    f"within {error(r)}": f"{100 * (distances[who] <= r).mean():.0f} %"
                    for r in (1e-15, 1e-12, RIGHT, 1e-4)
                },
                "worst": error(worst) if np.isfinite(worst := distances[who].max()) else MISSING,
                f"quickest to {error(RIGHT)}": f"{int((quickest == who).sum())} of {len(times)}",
            }
            for who in distances.columns
        ]
    )
