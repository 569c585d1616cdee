"""What a run says about the choice: for each need a variant, and the figures that say so.

Only what the run measured counts: forward errors against x*, refusals, and seconds over answers
that are within c·κ·u. Seconds of a run are indicative. Noise decides nothing: of those that are as
good the first in the order of the registry is taken, which begins with the simplest, and the others
are named.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from projlab_reports import profiles
from projlab_reports.units import duration, figure

ANSWERS = ("projection", "least_squares")
LARGE_KAPPA = 1e7
TIE = 1.2
"""Times that differ by less than this factor are the same."""

NEAR = 2.0
"""Worst errors that differ by less say nothing: another problem turns them round."""

COLUMNS = ("need", "take", "because")


def decide(verdicts: pd.DataFrame, subject: str | None) -> pd.DataFrame:
    """Return one row a need: what to take, and why; empty where nothing was answered."""
    answers = verdicts[verdicts["check"].isin(ANSWERS)]
    if answers.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    found = _of_subject(verdicts, subject) if subject else _of_variants(answers)
    return pd.DataFrame([dict(zip(COLUMNS, row, strict=True)) for row in found if row])


Row = tuple[str, str, str] | None


def _of_subject(verdicts: pd.DataFrame, subject: str) -> Iterator[Row]:
    checked = verdicts[verdicts["verdict"] != "skip"]
    failed = checked[checked["verdict"] == "fail"]
    if failed.empty:
        yield (
            "your projection",
            "it can be used",
            f"{subject} passed or met a stated limit in all of {len(checked):,} checks",
        )
        return
    by_check = failed["check"].value_counts()
    worst = ", ".join(f"{check} ({count})" for check, count in by_check.head(3).items())
    yield (
        "your projection",
        "not as it is",
        f"{subject} failed {len(failed):,} of {len(checked):,} checks: {worst}",
    )


def _of_variants(answers: pd.DataFrame) -> Iterator[Row]:
    sound = _sound(answers)
    general = [v for v in sound if _answered_share(answers, v) >= 0.5]
    yield _fastest(answers, general, profiles.PROJECT, "many projections of one system")
    yield _fastest(answers, general, profiles.SET_UP, "one projection of a system")
    yield _most_digits(answers, general, "the most digits whatever the system")
    hard = answers[answers["reference_condition"] >= LARGE_KAPPA]
    yield _most_digits(hard, sound, f"κ of {LARGE_KAPPA:.0e} and more")
    apart = answers[~answers["rows_overlap"].astype(bool)]
    yield _fastest(apart, sound, profiles.PROJECT, "rows that share no column")


def _sound(answers: pd.DataFrame) -> list[str]:
    """The variants that answered, and none of whose answers failed."""
    failed = set(answers[answers["verdict"] == "fail"]["variant"])
    right = answers[answers["verdict"].isin(("pass", "expected")) & answers["x_norm"].notna()]
    return [v for v in dict.fromkeys(right["variant"]) if v not in failed]


def _answered_share(answers: pd.DataFrame, variant: str) -> float:
    own = answers[answers["variant"] == variant]
    return float((own["status"] == "ok").mean())


def _fastest(answers: pd.DataFrame, among: list[str], what: str, need: str) -> Row:
    """The least geometric mean over the problems that all of these solve within c·κ·u."""
    times = profiles.seconds(answers, what)
    names = [v for v in among if v in times and np.isfinite(times[v]).any()]
    # One that solves few problems would leave none to compare on.
    most = max((int(np.isfinite(times[v]).sum()) for v in names), default=0)
    names = [v for v in names if np.isfinite(times[v]).sum() >= most / 2]
    common = times[np.isfinite(times[names]).all(axis=1)] if names else times
    if not names or common.empty:
        return None
    mean = {v: float(np.exp(np.log(common[v]).mean())) for v in names}
    least = min(mean.values())
    best, *near = [v for v in names if mean[v] <= TIE * least]  # of a tie the first: the simplest
    rest = ", ".join(f"{v} {duration(mean[v])}" for v in names if v != best)
    beside = f"; {rest}" if rest else ""
    tie = f"; as fast, within what times repeat to: {', '.join(near)}" if near else ""
    because = f"{duration(mean[best])}, the geometric mean over {len(common)} problems{beside}{tie}"
    return need, best, because


def _most_digits(answers: pd.DataFrame, among: list[str], need: str) -> Row:
    """The least worst forward error in units of κu, of those that are right on the most problems.

    Whoever is right on fewer is no choice for whatever system comes, however near it is there.
    """
    judged = answers[answers["verdict"] == "pass"]
    table = judged[judged["units_of_kappa_u"].notna()].pivot_table(
        index=["content_hash", "dtype", "check"], columns="variant", values="units_of_kappa_u"
    )
    right = {v: int(table[v].notna().sum()) for v in among if v in table}
    if not right:
        return None
    most = max(right.values())
    names = [v for v in right if right[v] == most]
    worst = {v: float(table[v].max()) for v in names}
    least = min(worst.values())
    best, *near = [v for v in names if worst[v] <= NEAR * least]
    content, dtype, check = table.index[int(np.nanargmax(table[best].to_numpy()))]
    same = (answers["content_hash"] == content) & (answers["check"] == check)
    where = f"{answers[same & (answers['dtype'] == dtype)]['problem'].iloc[0]}, {dtype}"
    rest = ", ".join(f"{v} {figure(worst[v])}" for v in names if v != best)
    beside = f"; {rest}" if rest else ""
    tie = f"; as near, within a factor {NEAR:g}: {', '.join(near)}" if near else ""
    fewer = ", ".join(f"{v} on {right[v]}" for v in right if v not in names)
    others = f"; right on fewer: {fewer}" if fewer else ""
    return (
        need,
        best,
        f"right on {most}, forward error {figure(worst[best])} κu at most, the worst "
        f"{where}{beside}{tie}{others}",
    )
