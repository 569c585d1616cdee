"""Tables of what is checked beyond the answer for x₀: by check, certificates, drift, peers.

Each takes the frame of verdicts and returns a frame to be shown, empty where there is nothing.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from projlab_reports.units import MISSING, UNIT_ROUNDOFF, digits, duration, error

COUNTED = ("pass", "expected", "fail")


def checks(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a check, one column a variant: passed / expected / failed."""
    counted = frame[frame["verdict"].isin(COUNTED)]
    table = []
    for check, rows in counted.groupby("check", sort=False):
        cells = {v: _counts(rows[rows["variant"] == v]) for v in counted["variant"].unique()}
        table.append({"check": check, **cells})
    return pd.DataFrame(table)


def groups(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a group of problems, one column a variant: passed / expected / failed."""
    counted = frame[frame["verdict"].isin(COUNTED)]
    variants = counted["variant"].unique()
    table = []
    for group, rows in counted.groupby("group", sort=False):
        cells = {v: _counts(rows[rows["variant"] == v]) for v in variants}
        table.append({"group": group, "problems": rows["problem"].nunique(), **cells})
    return pd.DataFrame(table)


def _counts(rows: pd.DataFrame) -> str:
    if rows.empty:
        return MISSING
    verdicts = rows["verdict"].value_counts()
    return " / ".join(str(int(verdicts.get(verdict, 0))) for verdict in COUNTED)


def certificates(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a dtype: outcomes, and how far a bound that certifies was from the truth."""
    table = []
    proofs = frame[(frame["check"] == "certificate") & frame["proof"].notna()]
    for dtype, rows in proofs.groupby("dtype"):
        outcomes = rows["proof"].value_counts()
        known = rows[rows["forward_error"].notna() & (rows["proof"] == "certified")]
        least = known["proven_at_least"] <= known["forward_error"] + known["reference_radius"]
        most = known["forward_error"] <= known["proven_at_most"] + known["reference_radius"]
        ratio = _looseness(known, UNIT_ROUNDOFF[str(dtype)])
        worst = known.iloc[int(ratio.argmax())] if len(known) else None
        table.append(
            {
                "dtype": dtype,
                **{word: int(outcomes.get(word, 0)) for word in OUTCOMES},
                "x* known": len(known),
                "bounds that held": int((least & most).sum()),
                "worst bound / truth": float(ratio.max()) if len(known) else math.nan,
                "on": MISSING if worst is None else f"{worst['problem']} by {worst['variant']}",
            }
        )
    return pd.DataFrame(table)


OUTCOMES = ("certified", "failed", "uncertifiable")


def _looseness(rows: pd.DataFrame, u: float) -> pd.Series:
    """The bound less ten roundings, over the true forward error: 100 is promised."""
    beyond = (rows["proven_at_most"] - 10 * u).clip(lower=0.0)
    return (beyond / rows["forward_error"]).where(beyond > 0, 0.0)


def uncertifiable(frame: pd.DataFrame) -> pd.DataFrame:
    """The problems whose answers could not be certified, and why."""
    rows = frame[(frame["check"] == "certificate") & (frame["proof"] == "uncertifiable")]
    rows = rows.drop_duplicates(["problem", "dtype"])
    return rows[["problem", "dtype", "proof_reason"]].rename(columns={"proof_reason": "why"})


def judged_by(frame: pd.DataFrame) -> pd.DataFrame:
    """How many answers for x₀ were judged by which kind of truth."""
    answers = frame[frame["check"].isin(("projection", "least_squares"))]
    answers = answers[answers["verdict"].isin(COUNTED) & answers["x_norm"].notna()]
    judges = answers["reference_kind"].where(
        answers["reference_kind"] != "unavailable",
        answers["proof"].map({"certified": "certificate", "failed": "certificate"}),
    )
    named = judges.fillna("feasibility alone").rename("judged by")
    counts = answers.groupby(named)["problem"].agg(["size", "nunique"])
    shown = counts.rename(columns={"size": "answers", "nunique": "problems"})
    return shown.sort_values("answers", ascending=False).reset_index()


def drift(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a problem and variant: distance by steps, how it grows, and the single shot."""
    rows = frame[frame["check"] == "drift"]
    single = frame[frame["check"] == "projection"]
    shots = {
        (row["problem"], row["dtype"], row["variant"]): float(row["forward_error"])
        for _, row in single.iterrows()
    }
    stops = sorted(rows["steps"].unique())
    table: list[dict[str, Any]] = []
    for (problem, dtype, variant), run in rows.groupby(["problem", "dtype", "variant"], sort=False):
        ordered = run.sort_values("steps")
        distances = ordered.set_index("steps")["forward_error"].reindex(stops)
        last = ordered.iloc[-1]
        shot = shots[str(problem), str(dtype), str(variant)]
        grown = max(float(last["forward_error"]) - shot, 0.0)
        table.append(
            {
                "problem": problem,
                "dtype": dtype,
                "variant": variant,
                "single shot": error(shot),
                **{
                    f"10^{math.log10(steps):.0f} steps": error(distance)
                    for steps, distance in zip(stops, distances, strict=True)
                },
                "bound": error(last["bound"]),
                "grown by, √k·u": f"{grown / _rounding(last):.1f}",
                "feasibility, worst": error(ordered["feasibility"].max()),
                "its bound": error(last["feasibility_bound"]),
            }
        )
    return pd.DataFrame(table)


def _rounding(row: pd.Series) -> float:
    """What independent roundings of x add up to."""
    return math.sqrt(row["steps"]) * UNIT_ROUNDOFF[row["dtype"]]


def peers(frame: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """One row a peer, and one a variant beside it: on the problems that every peer was given."""
    answers = frame[frame["check"] == "projection"]
    asked = answers[answers["verdict"] != "skip"]
    problems_of = asked.groupby("variant")["content_hash"].agg(set)
    if problems_of.empty:
        return pd.DataFrame()
    common = set.intersection(*problems_of)
    beside = ours[(ours["check"] == "projection") & ours["content_hash"].isin(common)]
    table = []
    for whose, rows in (("peer", asked), ("projlab", beside)):
        for name, records in rows[rows["content_hash"].isin(common)].groupby("variant", sort=False):
            table.append(_peer(peer_name(str(name)), whose, records, len(common)))
    return pd.DataFrame(table)


def peer_name(spec: str) -> str:
    """Name a peer by its module, a variant by itself."""
    return spec.partition(":")[0].rpartition(".")[2]


def _peer(name: str, whose: str, records: pd.DataFrame, asked: int) -> dict[str, Any]:
    """Return how far a method's answers were within c·κ·u, in both precisions."""
    within = records["forward_error"] <= records["stable_bound"]
    largest = {
        f"largest forward error, {dtype}": float(
            records[records["dtype"] == dtype]["forward_error"].max()
        )
        for dtype in UNIT_ROUNDOFF
    }
    return {
        "method": name,
        "whose": whose,
        "asked": asked,
        "within": int(within.sum()),
        "beyond": int((~within & records["forward_error"].notna()).sum()),
        "no answer": int(records["forward_error"].isna().sum()) + asked - len(records),
        "median error, units of κu": float(records["units_of_kappa_u"].median()),
        **largest,
        "median call, s": float(records["project_s_median"].median()),
    }


def peers_shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `peers` with its figures written out."""
    return pd.DataFrame(
        [
            {
                "method": row["method"],
                "": row["whose"],
                "within c·κ·u": f"{row['within']} of {row['asked']}",
                "beyond": row["beyond"],
                "no answer": row["no answer"],
                "median error, units of κu": row["median error, units of κu"],
                **{
                    f"fewest digits, {dtype}": digits(row[f"largest forward error, {dtype}"])
                    for dtype in UNIT_ROUNDOFF
                },
                "median call": duration(row["median call, s"]),
            }
            for row in frame.to_dict("records")
        ]
    )


def training(frame: pd.DataFrame) -> pd.DataFrame:
    """One row an optimizer and dtype: the worst of its runs in each mode."""
    table = []
    for (optimizer, dtype), runs in frame.groupby(["optimizer", "dtype"], sort=False):
        row: dict[str, Any] = {"optimizer": optimizer, "dtype": dtype}
        for mode in ("tangent", "post", "metric"):
            asked = runs[(runs["mode"] == mode) & (runs["verdict"] != "skip")]
            row[f"{mode}: distance"] = error(float(asked["distance"].max()))
            row[f"{mode}: held"] = (
                f"{int((asked['verdict'] == 'pass').sum())} of {len(asked)}"
                if len(asked)
                else MISSING
            )
        ours = runs[runs["mode"] == "tangent"]
        row["allowed"] = error(float(ours["allowed"].max()))
        row["KKT residual"] = error(float(ours["kkt"].max()))
        row["largest residual, u"] = f"{runs['feasibility'].max() / UNIT_ROUNDOFF[str(dtype)]:.1f}"
        settled = ours["steps_to"]
        row["steps to 1e-6"] = (
            f"{settled.median():.0f}" if settled.notna().all() else f"{settled.isna().sum()} never"
        )
        table.append(row)
    return pd.DataFrame(table)


FAMILIES = ("simplex", "nonneg", "box_", "polyhedron", "empty")
"""How names of bounded problems begin, in the order of the table; the others are one family."""


def bounds(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a family of bounded problems and who answered: judged answers, solvers and peers."""
    # what a peer was not asked is no row of its
    frame = frame[(frame["role"] == "answer") | (frame["status"] != "skip")]
    short = frame["problem"].str.removeprefix("bounds_")

    def family(name: str) -> str:
        return next((f.rstrip("_") for f in FAMILIES if name.startswith(f)), "others")

    table = []
    for (kind, role), group in frame.groupby([short.map(family), "role"], sort=False):
        answers = group.groupby("variant", sort=False) if role == "solver" else [("", group)]
        for variant, own in answers:
            known = own["distance"].notna()
            counts = own["verdict"].value_counts()
            judged = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
            table.append(
                {
                    "family": kind,
                    "answered by": peer_name(str(variant))
                    or ", ".join(sorted(own["variant"].unique())),
                    "problems": len(own),
                    "x* known": int(known.sum()),
                    "worst distance": error(float(own["distance"].max())),
                    "median distance": error(float(own["distance"].median())),
                    "worst row or bound": error(float(own["feasibility"].max())),
                    "median ms": _milliseconds(float(own["seconds"].median())),
                    "verdicts": judged if role == "answer" else MISSING,
                }
            )
    return pd.DataFrame(table)


def _milliseconds(seconds: float) -> str:
    """Where nothing answered, as of a set that is refused, there is no time."""
    return MISSING if math.isnan(seconds) else f"{1e3 * seconds:.3g}"


def networks(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a network and how it was constrained: its loss, and how well its rows held."""
    table = []
    for _, run in frame[of_network(frame) & frame["verdict"].isin(COUNTED)].iterrows():
        free = f"{run['free_loss']:.3g} ± {run['noise']:.1g}"
        table.append(
            {
                "network": run["problem"].removeprefix("network_"),
                "constrained by": run["mode"],
                "optimizer": run["optimizer"],
                "dtype": run["dtype"],
                "steps": run["steps"],
                "loss": MISSING if math.isnan(run["loss"]) else f"{run['loss']:.3g}",
                "unconstrained": MISSING if math.isnan(run["noise"]) else free,
                "largest residual, u": f"{run['feasibility'] / UNIT_ROUNDOFF[run['dtype']]:.2g}",
                "verdict": run["verdict"],
            }
        )
    return pd.DataFrame(table)


def of_network(frame: pd.DataFrame) -> pd.Series:
    """Tell the training runs of networks from those on convex problems."""
    return frame["problem"].str.startswith("network_")
