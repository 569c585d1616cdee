"""What asv's results say: small tables that the page of benchmarks and its twin share.

Takes results as `projlab_reports.asv` reads them and imports no benchmark: a benchmark is known by
its name, and a parameter by its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from projlab_reports import units
from projlab_reports.asv import SIZE, YARDSTICK, Result
from projlab_reports.regressions import BenchmarkComparison, compare, incomparable, machine_drift
from projlab_reports.summary import rows

PROJECTION = "projection.Projection.time_in_place"
PEERS = "ratios.Peers.track_ratio"
READS = "ratios.Bandwidth.track_reads"
READ = YARDSTICK + "time_read"
READ_BYTES = 8e6
"""What `READ` passes over: a million float64."""

BYTES = {"float64": 8, "float32": 4}
ROLES = ("size", "dtype", "device")
STATES = ("measured", "failed", "n/a")
SHORT_COMMIT = 8
OURS = "auto"
"""The variant that a sentence speaks of."""


@dataclass(frozen=True)
class Speed:
    """One or more results of one machine, the oldest commit first; the last is what is shown."""

    results: tuple[Result, ...]

    @property
    def latest(self) -> Result:
        """The result that the page is about."""
        return self.results[-1]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a figure of the last result, those that failed or do not apply among them."""
        table = []
        for benchmark in self.latest.benchmarks:
            for name, choice in benchmark.figures():
                figure = self.latest.figures.get(name)
                value = None if figure is None else figure.value
                size = SIZE.fullmatch(choice.get("size", ""))
                others = [v for parameter, v in choice.items() if parameter not in ROLES]
                table.append(
                    {
                        "figure": name,
                        "benchmark": benchmark.name,
                        "unit": benchmark.unit,
                        "series": ", ".join(others),
                        **{role: choice.get(role, "") for role in ROLES},
                        "entries": int(size[1]) * int(size[2]) if size else 0,
                        "value": math.nan if value is None else value,
                        "low": math.nan if figure is None else figure.low,
                        "high": math.nan if figure is None else figure.high,
                        "state": "n/a" if figure is None else STATES[value is None],
                    }
                )
        columns = ("figure", "benchmark", "unit", "series", *ROLES, "entries", "value", "low")
        return pd.DataFrame(table, columns=[*columns, "high", "state"])

    def of(self, benchmark: str) -> pd.DataFrame:
        """The measured figures of one benchmark that a logarithmic axis can show."""
        frame = self.frame
        shown = (frame["benchmark"] == benchmark) & np.isfinite(frame["value"])
        positive: pd.DataFrame = frame[shown & (frame["value"] > 0)]
        return positive

    @cached_property
    def against_size(self) -> tuple[str, ...]:
        """Benchmarks measured at two sizes or more, the projection first."""
        measured = self.frame[(self.frame["state"] == "measured") & (self.frame["entries"] > 0)]
        sizes = measured.groupby("benchmark", sort=False)["size"].nunique()
        names = [str(name) for name in sizes.index[sizes > 1] if name not in (PEERS, READS)]
        return tuple(sorted(names, key=lambda name: name != PROJECTION))

    def unit(self, benchmark: str) -> str:
        """A benchmark's unit, "" where none was said."""
        return next(b.unit for b in self.latest.benchmarks if b.name == benchmark)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of figures by what became of them, the yardsticks aside."""
        counted = self._own["state"].value_counts()
        return {state: int(counted.get(state, 0)) for state in STATES}

    @property
    def _own(self) -> pd.DataFrame:
        return self.frame[~self.frame["benchmark"].str.startswith(YARDSTICK)]

    @property
    def exit_code(self) -> int:
        """0 everything that applies was measured, 1 something failed, 3 nothing was measured."""
        if self.counts["failed"]:
            return 1
        return 0 if self.counts["measured"] else 3

    @property
    def headline(self) -> str:
        """The result in a sentence and numbers."""
        counts = self.counts
        if not counts["measured"] and not counts["failed"]:
            return "Nothing was measured."
        tail = f"{counts['n/a']} do not apply or were not asked for"
        if counts["failed"]:
            tried = counts["failed"] + counts["measured"]
            begin = f"{counts['failed']} of {tried} figures failed; {tail}."
        else:
            begin = f"All {counts['measured']} figures were measured; {tail}."
        return " ".join([begin, *self.sentences])

    @property
    def sentences(self) -> list[str]:
        """How fast, how near the machine's limit, beside the peers, and since the commit before."""
        said = []
        ours = self.of(PROJECTION)
        ours = ours[(ours["series"] == OURS) & (ours["dtype"] == "float64")]
        ours = ours.sort_values("entries")
        if len(ours):
            first, last = ours.iloc[0], ours.iloc[-1]
            slope = exponent(ours)
            grows = "" if math.isnan(slope) else f", growing like (m·n)^{slope:.2f}"
            said.append(
                f"A projection in float64 takes {units.duration(first['value'])} at "
                f"{first['size']} and {units.duration(last['value'])} at {last['size']}{grows}."
            )
        reads = self.of(READS)
        reads = reads[reads["series"] == OURS]
        if len(reads):
            best = rows(reads.nsmallest(1, "value"))[0]
            said.append(
                f"At best it takes {best['value']:.2g} times as long as reading A once "
                f"({best['size']}, {best['dtype']})."
            )
        peers = self.of(PEERS)
        if len(peers):
            worst = rows(peers.nlargest(1, "value"))[0]
            said.append(
                f"It is ahead of the peers in {int((peers['value'] < 1).sum())} of {len(peers)} "
                f"cells, least of {worst['series']} ({worst['size']}, {worst['dtype']}): their "
                f"time is {1 / worst['value']:.2g} times projlab's."
            )
        if self.since is not None:
            before = self.since.before.commit[:SHORT_COMMIT]
            said.append(
                f"Since {before} {len(self.since.regressions)} of {self.since.compared} figures "
                f"regressed and {len(self.since.improvements)} improved."
            )
        return said

    @property
    def ran_on(self) -> pd.DataFrame:
        """The machine, the versions and the commit."""
        last = self.latest
        threads = "not recorded" if last.threads is None else f"{last.threads:.0f}"
        versions = last.versions or {"versions": "not recorded in this result"}
        facts = {
            **{k: v for k, v in last.machine.items() if k not in ("python", "ram", *versions)},
            "ram": units.size(_number(last.machine.get("ram"))),
            "threads": threads,
            "devices": ", ".join(sorted({d for d in self._measured("device") if d})) or "cpu",
            **versions,
            "commit": last.commit,
            "committed on": _day(last.date),
            "result": str(last.path),
        }
        if "cuda" not in facts["devices"]:
            facts["GPU"] = "not measured"
        return pd.DataFrame({"what": facts.keys(), "is": facts.values()})

    def _measured(self, column: str) -> Iterable[str]:
        return map(str, self.frame[self.frame["state"] == "measured"][column].unique())

    @property
    def bandwidth(self) -> float:
        """Bytes a second that a sum over a vector reads, NaN where it was not measured."""
        figure = self.latest.figures.get(READ)
        return READ_BYTES / figure.value if figure is not None and figure.value else math.nan

    def growth(self, benchmark: str) -> pd.DataFrame:
        """One row a dtype, device and variant: how its time grows with m·n."""
        table = []
        for (device, dtype, series), group in self.of(benchmark).groupby(
            ["device", "dtype", "series"], sort=False
        ):
            ordered = group.sort_values("entries", kind="stable")
            first, last = ordered.iloc[0], ordered.iloc[-1]
            table.append(
                {
                    "series": str(series) or "all",
                    "dtype": dtype,
                    "device": device,
                    "sizes": len(ordered),
                    "smallest": f"{first['size']}: {written(first['value'], first['unit'])}",
                    "largest": f"{last['size']}: {written(last['value'], last['unit'])}",
                    "exponent of m·n": _slope(exponent(ordered)),
                    "between the two largest": _slope(exponent(_largest_two(ordered))),
                }
            )
        return pd.DataFrame(table)

    def numbers(self, benchmark: str) -> pd.DataFrame:
        """One row a size, dtype and device, one column a series, with failures and n/a shown.

        Rows and columns that do not apply at all are left to `coverage`.
        """
        frame = self.frame[self.frame["benchmark"] == benchmark]
        frame = frame.sort_values("entries", kind="stable")
        known = frame[frame["state"] != "n/a"]
        series = [s for s in self._order(benchmark) if s in set(known["series"])]
        table = []
        for key, group in frame.groupby(["dtype", "device", "size"], sort=False):
            if (group["state"] == "n/a").all():
                continue
            cells = {row["series"]: _cell(row) for row in rows(group)}
            named = {
                role: k
                for role, k in zip(("dtype", "device", "size"), map(str, key), strict=True)
                if k
            }
            table.append(
                {
                    "size": named.pop("size", "all"),
                    **named,
                    **{s or "value": cells.get(s, "n/a") for s in series},
                }
            )
        return pd.DataFrame(table)

    def _order(self, benchmark: str) -> list[str]:
        frame = self.frame[self.frame["benchmark"] == benchmark]
        return [str(series) for series in frame["series"].unique()]

    @property
    def peers(self) -> pd.DataFrame:
        """One row a peer and dtype, one column a size: the peer's time over `project_`'s."""
        frame = self.frame[self.frame["benchmark"] == PEERS]
        frame = frame[frame["state"] != "n/a"].sort_values("entries", kind="stable")
        sizes = [str(size) for size in frame["size"].unique()]
        order = {series: i for i, series in enumerate(self._order(PEERS))} if len(frame) else {}
        table = []
        for (series, dtype, device), group in sorted(
            frame.groupby(["series", "dtype", "device"], sort=False),
            key=lambda pair: order[str(pair[0][0])],
        ):
            cells = {
                row["size"]: "failed" if row["state"] == "failed" else _times(row["value"])
                for row in rows(group)
            }
            name, _, vectors = str(series).partition(", ")
            table.append(
                {
                    "peer": name,
                    "vectors": vectors,
                    "dtype": dtype,
                    "device": device,
                    **{size: cells.get(size, "n/a") for size in sizes},
                }
            )
        return pd.DataFrame(table)

    @property
    def coverage(self) -> pd.DataFrame:
        """One row a benchmark: figures by what became of them, and where there is nothing."""
        table = []
        for benchmark in self.latest.benchmarks:
            figures = self.frame[self.frame["benchmark"] == benchmark.name]
            counts = figures["state"].value_counts()
            nothing = [
                f"{parameter} {value}"
                for i, parameter in enumerate(benchmark.parameters)
                for value in dict.fromkeys(benchmark.values[i])
                if (figures["state"][_at(benchmark.values, i, value)] == "n/a").all()
            ]
            table.append(
                {
                    "benchmark": benchmark.name,
                    **{state: int(counts.get(state, 0)) for state in STATES},
                    "nothing at": "; ".join(nothing).replace("'", "") or units.MISSING,
                }
            )
        return pd.DataFrame(table)

    @property
    def failures(self) -> pd.DataFrame:
        """Every figure that failed, with the command that shows why."""
        failed = self.frame[self.frame["state"] == "failed"]
        return pd.DataFrame(
            {"figure": failed["figure"], "reproduce": [command(name) for name in failed["figure"]]}
        )

    @cached_property
    def comparable(self) -> tuple[Result, ...]:
        """The results whose times can be held against the last one's, the last one among them."""
        return tuple(r for r in self.results if r is self.latest or not self._reason(r))

    @property
    def left_out(self) -> list[str]:
        """The results that stand in no history, and why."""
        return [
            f"{result.commit[:SHORT_COMMIT]} ({reason})"
            for result in self.results[:-1]
            if (reason := self._reason(result))
        ]

    def _reason(self, result: Result) -> str | None:
        return incomparable(result, self.latest)

    @cached_property
    def relative(self) -> pd.DataFrame:
        """One row a benchmark and commit: the geometric mean of its figures over the oldest one's.

        Over figures that both hold and that mean the same in both; times are divided by how much
        slower the machine itself was.
        """
        first = self.comparable[0]
        table = []
        for benchmark in self.latest.benchmarks:
            if benchmark.name.startswith(YARDSTICK):
                continue
            timed = benchmark.name.rpartition(".")[2].startswith("time_")
            names = [name for name, _ in benchmark.figures()]
            for i, result in enumerate(self.comparable):
                ratios = _ratios(names, first, result)
                drift = machine_drift(first, result) if timed else 1.0
                mean = float(np.exp(np.mean(np.log(ratios)))) / drift if ratios else math.nan
                table.append(
                    {
                        "benchmark": benchmark.name,
                        "place": i,
                        "commit": result.commit[:SHORT_COMMIT],
                        "ratio": mean,
                        "figures": len(ratios),
                    }
                )
        return pd.DataFrame(table, columns=["benchmark", "place", "commit", "ratio", "figures"])

    @property
    def history(self) -> pd.DataFrame:
        """`relative` as a table: one column a commit."""
        table = []
        for name, group in self.relative.groupby("benchmark", sort=False):
            table.append(
                {
                    "benchmark": name,
                    **{row["commit"]: _slope(row["ratio"]) for row in rows(group)},
                    "figures": int(group["figures"].iloc[-1]),
                }
            )
        return pd.DataFrame(table)

    @cached_property
    def since(self) -> BenchmarkComparison | None:
        """The last result against the one before it, where there is one."""
        return compare(self.comparable[-2], self.latest) if len(self.comparable) > 1 else None


def exponent(frame: pd.DataFrame) -> float:
    """The slope of log value against log m·n by least squares, NaN at fewer than two sizes."""
    if frame["entries"].nunique() < 2:
        return math.nan
    slope, _ = np.polyfit(np.log(frame["entries"].astype(float)), np.log(frame["value"]), 1)
    return float(slope)


def written(value: float, unit: str) -> str:
    """Write a figure in its unit."""
    if unit == "seconds":
        return units.duration(value)
    return units.size(value) if unit == "bytes" else f"{value:.3g}"


def _slope(value: float) -> str:
    return units.MISSING if math.isnan(value) else f"{value:.2f}"


def _largest_two(frame: pd.DataFrame) -> pd.DataFrame:
    largest = sorted(frame["entries"].unique())[-2:]
    return frame[frame["entries"].isin(largest)]


def _cell(row: Mapping[str, Any]) -> str:
    return written(row["value"], row["unit"]) if row["state"] == "measured" else str(row["state"])


def _times(ours: float) -> str:
    """Write a peer's time over `project_`'s, of which asv has the inverse."""
    if ours <= 0:
        return units.MISSING
    ratio = 1 / ours
    return f"{ratio:,.0f} ×" if ratio >= 100 else f"{ratio:.3g} ×"


def _at(values: Sequence[Sequence[str]], i: int, value: str) -> np.ndarray:
    """Which figures of a benchmark have this value of its parameter i, in asv's order."""
    shape = [len(among) for among in values]
    own = np.array([among == value for among in values[i]])
    along = own.reshape([-1 if k == i else 1 for k in range(len(shape))])
    return np.broadcast_to(along, shape).ravel()


def _ratios(names: Iterable[str], before: Result, after: Result) -> list[float]:
    pairs = [(before.figures.get(name), after.figures.get(name)) for name in names]
    return [
        new.value / old.value
        for old, new in pairs
        if old is not None and new is not None and old.version == new.version
        if old.value and new.value and old.value > 0 and new.value > 0
    ]


def command(figure: str) -> str:
    """Return the command that measures one figure again and shows its error."""
    pattern = figure.replace("(", ".").replace(")", ".").replace("'", ".")
    return f"projlab bench --full --verbose --filter '{pattern}'"


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _day(milliseconds: int) -> str:
    if not milliseconds:
        return units.MISSING
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date().isoformat()
