"""The pictures of a run's page, each with the numbers behind it as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from projlab_reports import bounded, figures, profiles
from projlab_reports.figures import MARKERS, PALETTE
from projlab_reports.inline import Chart
from projlab_reports.pareto import methods
from projlab_reports.summary import ERROR, Summary, rows
from projlab_reports.tables import peer_name
from projlab_reports.units import MISSING, UNIT_ROUNDOFF, error

WIDEST_RATIO = 1e3

MODES = ("tangent", "post", "metric")

FARTHEST = 1e2
"""A run that ended further off than this is drawn here: it has nothing to do with p*."""


def forward_errors(summary: Summary) -> list[Chart]:
    """Forward error against κ: variants, and oracles and peers where there are any."""
    charts = []
    for dtype in UNIT_ROUNDOFF:
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
    asked: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows(frame):
        asked.setdefault((row["problem"], row["check"]), []).append(row)
    for (problem, _), group in asked.items():
        by_name = {row["variant"]: row["forward_error"] for row in group}
        first = group[0]
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
            _shares(axes, profiles.profile(times, ratios), len(times), summary.variants)
            axes.set_title(what)
            axes.set_xlabel("time over that of the quickest variant on the problem, ratio")

        charts.append(Chart(f"Performance profile: {what}", f"profile-{i}", draw))
    return charts


def bounds(summary: Summary) -> list[Chart]:
    """Of the problems with bounds, how many each solver answers how exactly, and how quickly."""
    asked = bounded.asked(summary)
    if len(asked.distances) < 2 or len(asked.distances.columns) < 2:
        return []

    def exactly(axes: Axes) -> None:
        reached = np.geomspace(bounded.EXACT, 1, 200)
        shares = {v: [float((d <= r).mean()) for r in reached] for v, d in asked.distances.items()}
        _shares(axes, pd.DataFrame(shares, index=reached), len(asked.distances), ())
        axes.set_title("how exactly")
        axes.set_xlabel("‖x − x*‖ / ‖x*‖ at most, dimensionless")

    def quickly(axes: Axes) -> None:
        ratios = np.geomspace(1, WIDEST_RATIO, 200)
        _shares(axes, profiles.profile(asked.times, ratios), len(asked.times), ())
        axes.set_title(f"how quickly to {error(bounded.RIGHT)}")
        axes.set_xlabel("time over that of the quickest on the problem, ratio")

    return [
        Chart("Bounds: problems by distance to x*", "bounds-distance", exactly),
        Chart("Bounds: performance profile", "bounds-profile", quickly),
    ]


def _shares(axes: Axes, shares: pd.DataFrame, problems: int, known: Sequence[str]) -> None:
    """One rising curve a column; those that are `known` keep their colours."""
    places = {v: i for i, v in enumerate(known)}
    for k, name in enumerate(shares.columns):
        i = places.setdefault(name, len(places))
        # colours and markers come round again dashed and hollow
        again = i >= len(PALETTE)
        axes.step(
            shares.index,
            100 * shares[name],
            where="post",
            color=PALETTE[i % len(PALETTE)],
            marker=MARKERS[i % len(MARKERS)],
            markevery=(10 * k, 40),
            markersize=5,
            linestyle="--" if again else "-",
            markerfacecolor="none" if again else PALETTE[i % len(PALETTE)],
            label=name,
        )
    axes.set_xscale("log")
    axes.set_ylim(-3, 103)
    axes.set_ylabel(f"of {problems} problems, percent")
    figures.legend(axes)


def drift(summary: Summary) -> list[Chart]:
    """Distance to the exact trajectory against steps, with the lines √k·u and k·u."""
    frame = summary.verdicts
    frame = frame[(frame["check"] == "drift") & frame["forward_error"].notna()]
    charts = []
    for dtype in UNIT_ROUNDOFF:
        drifted = frame[frame["dtype"] == dtype]
        if drifted.empty:
            continue

        def draw(axes: Axes, drifted: pd.DataFrame = drifted, dtype: str = dtype) -> None:
            u = UNIT_ROUNDOFF[dtype]
            runs = drifted.groupby(["variant", "problem"], sort=False)
            places = {v: i for i, v in enumerate(summary.variants)}
            ends: dict[str, list[float]] = {}
            for (variant, problem), run in runs:
                i = places[str(variant)]
                ordered = run.sort_values("steps")
                end = max(float(ordered["forward_error"].iloc[-1]), u / 100)
                ends.setdefault(str(problem), []).append(end)
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
            last = float(drifted["steps"].max())
            steps = np.array([float(drifted["steps"].min()), last * ROOM_FOR_NAMES])
            for label, values, style in (
                ("√k·u", np.sqrt(steps) * u, "--"),
                ("k·u", steps * u, ":"),
            ):
                axes.plot(steps, values, style, color="0.55", linewidth=1, zorder=1)
                axes.annotate(
                    label,
                    (steps[-1], values[-1]),
                    xytext=(3, 0),
                    textcoords="offset points",
                    color="0.35",
                    va="center",
                )
            _label_ends(axes, last, ends)
            axes.set_title(dtype)
            axes.set_xlabel("steps k, count")
            axes.set_ylabel("distance to the exact trajectory over ‖x*‖, dimensionless")
            figures.legend(axes)

        charts.append(Chart(f"Drift over steps, {dtype}", f"drift-{dtype}", draw))
    return charts


ROOM_FOR_NAMES = 60.0
"""What the axis of steps goes beyond the last of them, as a factor."""

LABEL_HEIGHT = 0.03
"""Of the height of a picture, for one name."""


def _label_ends(axes: Axes, last: float, ends: Mapping[str, Sequence[float]]) -> None:
    """Name each problem where its curves end, apart from one another."""
    low, high = np.log(axes.get_ylim())
    apart, lowest = np.exp(LABEL_HEIGHT * (high - low)), 0.0
    for name, heights in sorted(ends.items(), key=lambda item: np.mean(np.log(item[1]))):
        height = float(np.exp(np.mean(np.log(heights))))
        lowest = max(height, lowest * apart)
        axes.annotate(
            name.removeprefix("drift_"),
            (last, height),
            xytext=(last * 1.6, lowest),
            color="0.35",
            fontsize=7,
            va="center",
            arrowprops={"arrowstyle": "-", "color": "0.7", "linewidth": 0.5},
        )


def pareto(summary: Summary) -> list[Chart]:
    """Forward error against time, a point a method: left and down is better."""
    charts = []
    for dtype in UNIT_ROUNDOFF:
        compared = methods(summary, dtype)
        compared = compared[compared["over"] > 0] if len(compared) else compared
        if len(compared) < 2:
            continue

        def draw(axes: Axes, compared: pd.DataFrame = compared, dtype: str = dtype) -> None:
            places = {v: i for i, v in enumerate(summary.variants)}
            for row in rows(compared):
                i = places.setdefault(row["method"], len(places))
                colour = PALETTE[i % (len(PALETTE) - 1)]  # the last is black: a dark page hides it
                kept = row["once"] > row["seconds"]
                if kept:
                    ends = ([row["seconds"], row["once"]], [row["error"]] * 2)
                    axes.loglog(*ends, "|-", color=colour, linewidth=0.8, markersize=9)
                axes.loglog(
                    [row["seconds"]],
                    [row["error"]],
                    MARKERS[i % len(MARKERS)],
                    color=colour,
                    markerfacecolor=colour if kept else "none",
                    markersize=7,
                    label=row["method"],
                )
            axes.axhline(1, color="0.55", linewidth=1, linestyle="--", zorder=1)
            where: Any = ("axes fraction", "data")
            axes.annotate("κu", (0.995, 1), color="0.35", xycoords=where, ha="right", va="bottom")
            axes.margins(0.1, 0.15)
            axes.set_title(f"{int(compared['over'].max())} problems, {dtype}")
            axes.set_xlabel("time of one projection, seconds")
            axes.set_ylabel("forward error, units of κu")
            figures.legend(axes, columns=3)

        charts.append(Chart(f"Forward error against time, {dtype}", f"pareto-{dtype}", draw))
    return charts


def training(summary: Summary) -> list[Chart]:
    """Each optimizer's distance to the constrained optimum, by mode, beside what is allowed."""
    charts: list[Chart] = []
    if summary.training.empty:
        return charts
    measured = summary.training[summary.training["distance"].notna()]
    for dtype, frame in measured.groupby("dtype", sort=False):

        def draw(axes: Axes, frame: pd.DataFrame = frame, dtype: str = str(dtype)) -> None:
            least = UNIT_ROUNDOFF[dtype] / 100
            names = list(dict.fromkeys(frame["optimizer"]))[::-1]
            worst = frame.groupby(["mode", "optimizer"], sort=False)[["distance", "allowed"]].max()
            for i, mode in enumerate(m for m in MODES if m in set(frame["mode"])):
                own = worst.loc[mode]
                # Side by side, so that no point covers another.
                axes.semilogx(
                    own["distance"].clip(lower=least, upper=FARTHEST),
                    [names.index(name) + 0.2 * (1 - i) for name in own.index],
                    MARKERS[i],
                    color=PALETTE[i],
                    markersize=5,
                    label=mode,
                )
            allowed = worst["allowed"].dropna()
            allowed = allowed[allowed.index.get_level_values("mode") == "tangent"]
            if len(allowed):
                axes.plot(
                    allowed.clip(lower=least, upper=FARTHEST),
                    [names.index(name) + 0.2 for _, name in allowed.index],
                    "|",
                    color="0.55",
                    markersize=12,
                    markeredgewidth=1.5,
                    label="allowed, tangent",
                )
            figures.categories(axes, names)
            axes.set_title(dtype)
            axes.set_xlabel("worst ‖p − p*‖ / max(‖p*‖, ‖p₀ − p*‖), dimensionless")
            figures.legend(axes)

        charts.append(Chart(f"Distance to the optimum, {dtype}", f"training-{dtype}", draw))
    return charts
