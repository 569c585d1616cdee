"""Forward error against time: every variant, peer and oracle on the same problems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from projlab_reports.summary import ERROR, Summary
from projlab_reports.tables import peer_name
from projlab_reports.units import MISSING, UNIT_ROUNDOFF, duration

SECONDS = "oracle_s_"
KINDS = ("variant", "peer", "oracle")

ENOUGH = 0.5
"""The part of the problems from which a method is compared: the others would leave too few."""


def methods(summary: Summary, dtype: str) -> pd.DataFrame:
    """One row a method: geometric means over the problems that every compared method answers.

    The forward error is in units of κ·u·(‖x₀‖ + ‖x₀ − x*‖)/‖x*‖; a variant's `seconds` are those
    of one projection with its factors kept, and `once` adds the set-up. Peers and oracles set up
    anew in every call. Methods that answer too few of the problems have no means.
    """
    answers = _answers(summary, dtype)
    if answers.empty:
        return pd.DataFrame()
    answered = {str(name): set(g["problem"]) for name, g in answers.groupby("method", sort=False)}
    asked = answers["problem"].nunique()
    compared = [name for name, problems in answered.items() if len(problems) >= ENOUGH * asked]
    common = set.intersection(*(answered[name] for name in compared)) if compared else set()
    table = []
    for method, group in answers.groupby("method", sort=False):
        among = group[group["problem"].isin(common)] if method in compared else group.iloc[:0]
        table.append(
            {
                "method": method,
                "kind": group["kind"].iloc[0],
                "answered": len(answered[str(method)]),
                "asked": asked,
                "over": len(among),
                **{name: _mean(among[name]) for name in ("error", "seconds", "once")},
            }
        )
    return pd.DataFrame(table)


def numbers(summary: Summary) -> dict[str, pd.DataFrame]:
    """What stands behind the pictures, by dtype; a dtype without answers is left out."""
    by_dtype = {dtype: methods(summary, dtype) for dtype in UNIT_ROUNDOFF}
    return {dtype: shown(frame) for dtype, frame in by_dtype.items() if len(frame)}


def shown(means: pd.DataFrame) -> pd.DataFrame:
    """`methods` with its figures written out."""
    return pd.DataFrame(
        {
            "method": means["method"],
            "kind": means["kind"],
            "answered": [f"{n} of {asked}" for n, asked in means[["answered", "asked"]].to_numpy()],
            "over": means["over"],
            "forward error, κu": [MISSING if np.isnan(e) else f"{e:.2g}" for e in means["error"]],
            "one projection": means["seconds"].map(duration),
            "set-up and one projection": means["once"].map(duration),
        }
    )


def _answers(summary: Summary, dtype: str) -> pd.DataFrame:
    """One row a method and problem, where there is an answer and an x* to hold it against."""
    columns = ["method", "kind", "problem", "error", "seconds", "once"]
    parts = []
    for kind, frame in zip(KINDS, (summary.verdicts, summary.peer_verdicts), strict=False):
        if frame.empty:
            continue
        own = frame[(frame["check"] == "projection") & (frame["dtype"] == dtype)]
        taken = own["project_s_median"]
        parts.append(
            own.assign(
                method=own["variant"].map(peer_name) if kind == "peer" else own["variant"],
                kind="subject" if summary.subject else kind,
                problem=own["content_hash"],
                error=own["forward_error"],
                seconds=taken,
                once=taken + own["setup_s_median"] if kind == "variant" else taken,
            )
        )
    problems = summary.problems if dtype == "float64" else summary.problems.iloc[:0]
    parts += [
        problems.assign(
            method=oracle.replace("_", " "),
            kind="oracle",
            problem=problems["content_hash"],
            error=problems[ERROR + oracle],
            seconds=problems[SECONDS + oracle],
            once=problems[SECONDS + oracle],
        )
        for oracle in summary.main_oracles
    ]
    parts = [_in_units(part, dtype)[columns] for part in parts if len(part)]
    if not parts:
        return pd.DataFrame(columns=columns)
    joined: pd.DataFrame = pd.concat(parts, ignore_index=True)
    figures = joined[["error", "seconds", "once"]].to_numpy(dtype=float)
    right = (np.isfinite(figures) & (figures > 0)).all(axis=1)
    answers: pd.DataFrame = joined.drop(index=joined.index[~right])
    return answers.drop_duplicates(["method", "problem"])


def _in_units(frame: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """Take an answer that is x* to the last bit for u/100 off: a geometric mean has no zeros."""
    u = UNIT_ROUNDOFF[dtype]
    unit = frame["reference_condition"] * u * frame["amplification"]
    return frame.assign(error=frame["error"].clip(lower=u / 100) / unit)


def _mean(values: pd.Series[Any]) -> float:
    return float(np.exp(np.log(values.astype(float)).mean())) if len(values) else float("nan")
