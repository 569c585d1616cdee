"""The pictures of a run's page, each with the numbers behind it as a table."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from projlab_reports import figures, profiles
from projlab_reports.figures import MARKERS, PALETTE, UNIT_ROUNDOFF
from projlab_reports.inline import Chart
from projlab_reports.summary import ERROR, Summary, rows
from projlab_reports.tables import peer_name
from projlab_reports.units import MISSING, error

WIDEST_RATIO = 1e3

DTYPES = ("float64", "float32")


def forward_errors(summary: Summary) -> list[Chart]:
    """Forward error against κ: variants, and oracles and peers where there are any."""
    charts = []
    for dtype in DTYPES:
        frame = figures.points(summary, dtype)
        if frame.empty:
            continue
        panels: dict[str, figures.Panel] = {"variants": figures.variants_panel}
        if dtype == "float64" and summary.oracles:
            panels["oracles"] = figures.oracles_panel
        if len(summary.peer_verdicts) and (summary.peer_verdicts["dtype"] == dtype).any():
            panels["peers"] = figures.peers_panel
        kappa = frame["reference_condition"]
        for whose, panel in panels.items():

            def draw(axes: Axes, panel: figures.Panel = panel, dtype: str = dtype) -> None:
                panel(axes, summary, figures.points(summary, dtype), dtype)
                axes.set_ylabel(figures.Y_LABEL)
                # One window for all, so that the eye can go from one to the next.
                axes.set_ylim(UNIT_ROUNDOFF[dtype] / 300, 5 * figures.TOP)

            name = f"Forward error against condition number: {whose}, {dtype}"
            if kappa.notna().any():
                charts.append(Chart(name, f"error-{whose}-{dtype}", draw))
    return charts


def forward_error_numbers(summary: Summary, dtype: str) -> pd.DataFrame:
    """One row a problem: κ, and the forward error of every variant, oracle and peer."""
    frame = figures.points(summary, dtype)
    beside = summary.peer_verdicts
    if len(beside):
        beside = beside[
            (beside["dtype"] == dtype) & beside["content_hash"].isin(frame.content_hash)
        ]
        frame = pd.concat([frame, beside])
    oracles = summary.oracles if dtype == "float64" else ()
    names = list(dict.fromkeys(frame["variant"]))
    table = []
    for (problem, _), found in frame.groupby(["problem", "check"], sort=False):
        by_name = {row["variant"]: row["forward_error"] for row in rows(found)}
        first = rows(found)[0]
        table.append(
            {
                "problem": problem,
                "κ": error(first["reference_condition"]),
                **{peer_name(v): error(by_name[v]) if v in by_name else MISSING for v in names},
                **{o.replace("_", " "): error(first[ERROR + o]) for o in oracles},
            }
        )
    return pd.DataFrame(table)


def performance(summary: Summary) -> list[Chart]:
    """Performance profiles, where more than one variant is compared."""
    charts = []
    for i, what in enumerate(profiles.TIMES):
        times = profiles.seconds(summary.verdicts, what)
        if times.empty or len(times.columns) < 2:
            continue

        def draw(axes: Axes, times: pd.DataFrame = times, what: str = what) -> None:
            ratios = np.geomspace(1, WIDEST_RATIO, 200)
            table = profiles.profile(times, ratios)
            for k, variant in enumerate(table.columns):
                axes.step(
                    ratios,
                    100 * table[variant],
                    where="post",
                    color=PALETTE[k % len(PALETTE)],
                    marker=MARKERS[k % len(MARKERS)],
                    markevery=(10 * k, 40),
                    markersize=5,
                    label=variant,
                )
            axes.set_xscale("log")
            axes.set_ylim(-3, 103)
            axes.set_title(what)
            axes.set_xlabel("time over that of the quickest variant on the problem, ratio")
            axes.set_ylabel(f"of {len(times)} problems, percent")
            figures.legend(axes)

        charts.append(Chart(f"Performance profile: {what}", f"profile-{i}", draw))
    return charts


def drift(summary: Summary) -> list[Chart]:
    """Distance to the exact trajectory against steps, with the lines √k·u and k·u."""
    frame = summary.verdicts
    frame = frame[(frame["check"] == "drift") & frame["forward_error"].notna()]
    charts = []
    for dtype in DTYPES:
        found = frame[frame["dtype"] == dtype]
        if found.empty:
            continue

        def draw(axes: Axes, found: pd.DataFrame = found, dtype: str = dtype) -> None:
            u = UNIT_ROUNDOFF[dtype]
            runs = found.groupby(["variant", "problem"], sort=False)
            places = {v: i for i, v in enumerate(summary.variants)}
            for (variant, _), run in runs:
                i = places[str(variant)]
                ordered = run.sort_values("steps")
                axes.loglog(
                    ordered["steps"],
                    ordered["forward_error"].clip(lower=u / 100),
                    color=PALETTE[i % len(PALETTE)],
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=4,
                    linewidth=1,
                    alpha=0.8,
                    label=variant,
                )
            steps = np.array([found["steps"].min(), found["steps"].max()], dtype=float)
            for label, values, style in (
                ("√k·u", np.sqrt(steps) * u, "--"),
                ("k·u", steps * u, ":"),
            ):
                axes.plot(steps, values, style, color="0.55", linewidth=1, zorder=1)
                axes.annotate(
                    label,
                    (steps[-1], values[-1]),
                    xytext=(3, 2),
                    textcoords="offset points",
                    color="0.35",
                )
            axes.set_title(dtype)
            axes.set_xlabel("steps k, count")
            axes.set_ylabel("distance to the exact trajectory over ‖x*‖, dimensionless")
            figures.legend(axes)

        charts.append(Chart(f"Drift over steps, {dtype}", f"drift-{dtype}", draw))
    return charts
