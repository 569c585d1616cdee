"""The pictures of the page of benchmarks, each with the numbers behind it as a table."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from projlab_reports import figures
from projlab_reports.figures import MARKERS, PALETTE
from projlab_reports.inline import Chart
from projlab_reports.speed import BYTES, PEERS, Speed, exponent

LABELS = {"seconds": "time, seconds", "bytes": "peak memory, bytes", "u": "in units of u"}


def against_size(speed: Speed, benchmark: str) -> list[Chart]:
    """A benchmark against m·n on log axes, a picture a device and dtype.

    A projection's time has the machine's memory bandwidth beside it: what reading A once takes.
    """
    charts = []
    for (device, dtype), frame in speed.of(benchmark).groupby(["device", "dtype"], sort=False):
        name = ", ".join(part for part in map(str, (_short(benchmark), dtype, device)) if part)
        read = speed.bandwidth if _has_line(benchmark, str(device)) else math.nan

        def draw(
            axes: Axes,
            frame: pd.DataFrame = frame,
            name: str = name,
            read: float = read,
            bytes_each: int = BYTES.get(str(dtype), 8),
        ) -> None:
            unit = str(frame["unit"].iloc[0])
            for i, (series, group) in enumerate(frame.groupby("series", sort=False)):
                ordered = group.sort_values("entries")
                slope = exponent(ordered)
                grows = "" if math.isnan(slope) or unit == "u" else f", (m·n)^{slope:.2f}"
                style = _style(i)
                # An interval that reaches below zero has no lower end on this axis.
                low = ordered["low"].where(ordered["low"] > 0, ordered["value"])
                axes.vlines(
                    ordered["entries"], low, ordered["high"], color=style["color"], linewidth=1
                )
                label = (str(series) or _short(benchmark)) + grows
                axes.loglog(
                    ordered["entries"], ordered["value"], linewidth=0.8, label=label, **style
                )
            if not math.isnan(read):
                entries = np.array([frame["entries"].min(), frame["entries"].max()], dtype=float)
                axes.plot(
                    entries,
                    entries * bytes_each / read,
                    "--",
                    color="0.55",
                    label=f"reading A once, {read / 1e9:.3g} GB/s",
                )
            axes.set_title(name)
            axes.set_xlabel("entries of A, m·n, count")
            axes.set_ylabel(LABELS.get(unit, unit))
            figures.legend(axes, columns=2)

        where = _key(benchmark, str(dtype), str(device))
        charts.append(Chart(f"{benchmark} against size: {name}", where, draw))
    return charts


def peers(speed: Speed) -> list[Chart]:
    """Each peer's time over `project_`'s, a point a size, a picture a device and dtype."""
    charts = []
    for (device, dtype), frame in speed.of(PEERS).groupby(["device", "dtype"], sort=False):
        split = frame.assign(
            peer=frame["series"].str.partition(", ")[0],
            vectors=frame["series"].str.partition(", ")[2],
        )

        where = f"{dtype}, {device}"

        def draw(axes: Axes, frame: pd.DataFrame = split, where: str = where) -> None:
            names = list(dict.fromkeys(frame["peer"]))[::-1]
            kinds = list(dict.fromkeys(frame["vectors"]))
            for i, (vectors, group) in enumerate(frame.groupby("vectors", sort=False)):
                # Side by side, so that no point covers another.
                shift = 0.22 * (i - (len(kinds) - 1) / 2)
                heights = [names.index(name) - shift for name in group["peer"]]
                axes.semilogx(
                    1 / group["value"], heights, linestyle="none", label=vectors, **_style(i)
                )
            axes.axvline(1, color="0.55", linewidth=1)
            figures.categories(axes, names)
            axes.set_title(where)
            axes.set_xlabel("peer's time over project_'s, ratio")
            figures.legend(axes)

        charts.append(Chart(f"Ratios to peers: {where}", _key("peers", where), draw))
    return charts


def history(speed: Speed) -> list[Chart]:
    """Every benchmark's geometric mean over the oldest commit's, commit by commit."""
    frame = speed.relative.dropna()
    if len(speed.comparable) < 2 or frame.empty:
        return []
    charts = []
    timed = frame["benchmark"].str.rpartition(".")[2].str.startswith("time_")
    for what, part in (("times", frame[timed]), ("memory, errors and ratios", frame[~timed])):
        if part.empty:
            continue

        def draw(axes: Axes, part: pd.DataFrame = part, what: str = what) -> None:
            for i, (name, group) in enumerate(part.groupby("benchmark", sort=False)):
                axes.semilogy(
                    group["place"],
                    group["ratio"],
                    linewidth=1,
                    label=_short(str(name)),
                    **_style(i),
                )
            commits = [result.commit[:8] for result in speed.comparable]
            axes.axhline(1, color="0.55", linewidth=1, zorder=1)
            axes.set_xticks(range(len(commits)), commits, rotation=45 if len(commits) > 4 else 0)
            axes.set_title(what)
            axes.set_ylabel("geometric mean over the oldest commit's, ratio")
            axes.set_xlabel("commit")
            _plain_ratios(axes)
            figures.legend(axes, columns=2)

        charts.append(Chart(f"History over commits: {what}", _key("history", what), draw))
    return charts


def _plain_ratios(axes: Axes) -> None:
    """Write ratios near one as numbers, where a log axis has but powers of ten."""
    low, high = axes.get_ylim()
    low, high = min(low, 0.9), max(high, 1.1)
    ticks = [
        t for t in (0.01, 0.1, 0.2, 0.5, 0.7, 0.9, 1, 1.1, 1.4, 2, 5, 10, 100) if low <= t <= high
    ]
    axes.set_ylim(low, high)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)


def _has_line(benchmark: str, device: str) -> bool:
    """Whether the processor's bandwidth bounds it: one vector against an A that is read once."""
    return benchmark.startswith("projection.Projection.") and device in ("", "cpu")


def _style(i: int) -> dict[str, Any]:
    """The look of a kind of points: colours come again sooner than markers do."""
    colour = PALETTE[i % (len(PALETTE) - 1)]  # the last is black, which a dark page hides
    return {"color": colour, "marker": MARKERS[i % len(MARKERS)], "markersize": 5, "alpha": 0.85}


def _short(benchmark: str) -> str:
    return benchmark.partition(".")[2]


def _key(*words: str) -> str:
    return "-".join(re.findall(r"\w+", " ".join(words).lower()))
