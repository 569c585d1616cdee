"""What became better, worse, newly failing, newly passing, missing or new between two runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from projlab_reports import markdown, page
from projlab_reports.summary import CHECKED, Summary
from projlab_reports.units import MISSING, UNIT_ROUNDOFF, duration, figure

NAME = "difference.html"

RANK = {"fail": 0, "skip": 1, "expected": 2, "pass": 3}
"""From the worst verdict to the best."""

NOISE = 10.0
"""A forward error that changed by no more than this factor is taken for the same."""

FLOOR = 10.0
"""In units of u: a forward error below is taken for rounding, whatever it was before."""

RULE = (
    "A regression is a record that fails, and did not before or is new; a verdict that became "
    "worse, in the order pass, expected, skip, fail; or a forward error (in training the distance "
    f"to the optimum) that is more than {NOISE:g} times what it was and above {FLOOR:g} u. "
    "Times are shown and count for nothing; nor do records that are missing."
)

KINDS = ("newly failing", "worse", "newly passing", "better", "missing", "new")
REGRESSIONS = KINDS[:2]

BACKWARD_STABLE = "qr"
"""The variant whose law, c·κ·u, a subject is held to."""

KEY = ["problem", "dtype", "device", "variant", "check", "steps"]
USUAL = {"device": "cpu", "steps": MISSING}
FIGURES = ["verdict", "why", "distance", "content_hash"]


@dataclass(frozen=True)
class Side:
    """A run by the name that it is shown under."""

    name: str
    summary: Summary


@dataclass(frozen=True)
class Difference:
    """A run held against the one before."""

    before: Side
    after: Side

    @cached_property
    def stands_for(self) -> tuple[str, str] | None:
        """The names under which two runs of different things are compared; None where it is one.

        A subject is held against another, or against the variant of projlab's that is held to the
        same law.
        """
        sides = [side.summary for side in self._sides]
        if not any(summary.subject for summary in sides):
            return None
        one, other = (summary.subject or _counterpart(summary) for summary in sides)
        return None if one == other or not (one and other) else (one, other)

    @cached_property
    def paired(self) -> pd.DataFrame:
        """One row a record of either run, the figures of both side by side."""
        sides = [records(self.before.summary), records(self.after.summary)]
        if names := self.stands_for:
            sides = [
                frame[frame["variant"] == name].assign(variant=" → ".join(names))
                for frame, name in zip(sides, names, strict=True)
            ]
            # What only one of them is asked is missing from neither.
            both = set(sides[0]["check"]) & set(sides[1]["check"])
            sides = [frame[frame["check"].isin(both)] for frame in sides]
        return sides[0].merge(sides[1], on=KEY, how="outer", suffixes=("", "_after"), sort=False)

    @cached_property
    def compared(self) -> int:
        """Number of records that both runs hold, and one of them checked."""
        both = self.paired[["verdict", "verdict_after"]].dropna()
        return int(both.isin(CHECKED).any(axis=1).sum())

    @cached_property
    def changes(self) -> pd.DataFrame:
        """One row a record that changed, the worst kind of change first."""
        changed = [(kind, row) for row in self.paired.to_dict("records") if (kind := kind_of(row))]
        changed.sort(key=lambda pair: KINDS.index(pair[0]))
        columns = ["change", *KEY, "before", "after", "error before", "error after", "why"]
        return pd.DataFrame([_change(kind, row) for kind, row in changed], columns=columns)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of changes by kind."""
        counted = self.changes["change"].value_counts()
        return {kind: int(counted.get(kind, 0)) for kind in KINDS}

    def shown(self, kind: str) -> pd.DataFrame:
        """The changes of one kind, written out, less columns that say the same in every row."""
        table = self.changes[self.changes["change"] == kind].drop(columns="change")
        for column in ("error before", "error after"):
            table[column] = table[column].map(figure)
        table["steps"] = [MISSING if math.isnan(k) else f"{k:.0f}" for k in table["steps"]]
        same = [c for c, usual in USUAL.items() if (table[c] == usual).all()]
        return table.drop(columns=same)

    def by_problem(self, kind: str) -> pd.DataFrame:
        """One row a problem and dtype: the number of records that changed in this way."""
        changed = self.changes[self.changes["change"] == kind]
        return changed.groupby(["problem", "dtype"], sort=False).size().reset_index(name="records")

    @property
    def regressions(self) -> int:
        """Number of changes that count against the later run."""
        return sum(self.counts[kind] for kind in REGRESSIONS)

    @property
    def headline(self) -> str:
        """The difference in a sentence."""
        if not self.compared:
            return "Nothing to compare: the two runs share no record that was checked."
        numbers = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
        if names := self.stands_for:
            numbers += f"; {names[1]} is held against {names[0]}"
        begin = f"{self.regressions} regressions" if self.regressions != 1 else "One regression"
        if not self.regressions:
            begin = "No regression"
        return f"{begin} in {self.compared} records compared: {numbers}."

    @property
    def exit_code(self) -> int:
        """0 no regression, 1 a regression, 3 nothing to compare."""
        if self.regressions:
            return 1
        return 0 if self.compared else 3

    @property
    def ran_on(self) -> pd.DataFrame:
        """What differs in what was asked for and what it ran on."""
        old, new = ({**s.summary.header, **s.summary.environment} for s in self._sides)
        return pd.DataFrame(
            [
                {"what": name, "before": old.get(name, MISSING), "after": new.get(name, MISSING)}
                for name in dict.fromkeys((*old, *new))
                if old.get(name) != new.get(name)
            ]
        )

    @property
    def times(self) -> pd.DataFrame:
        """One row a variant: median seconds over the answers that both have."""
        names = ["problem", "dtype", "device", "variant"]
        seconds = ["setup_s_median", "project_s_median"]
        old, new = (
            s.summary.verdicts[s.summary.verdicts["check"] == "projection"][[*names, *seconds]]
            for s in self._sides
        )
        if stand := self.stands_for:
            old, new = (
                frame[frame["variant"] == name].assign(variant=" → ".join(stand))
                for frame, name in zip((old, new), stand, strict=True)
            )
        both = old.merge(new, on=names, suffixes=("", "_after")).dropna()
        table = []
        for variant, group in both.groupby("variant", sort=False):
            row: dict[str, Any] = {"variant": variant, "problems": len(group)}
            for what, column in zip(("set-up", "projection"), seconds, strict=True):
                before, after = group[column], group[f"{column}_after"]
                row[f"{what} before, s"] = float(before.median())
                row[f"{what} after, s"] = float(after.median())
                row[f"{what}, ratio"] = float((after / before).median())
            table.append(row)
        return pd.DataFrame(table)

    @property
    def times_shown(self) -> pd.DataFrame:
        """`times` with its figures written out."""
        shown = self.times
        for column in shown.columns[2:]:
            plain = str(column).removesuffix(", s")
            write = "{:.2f}".format if plain == column else duration
            shown[column] = shown[column].map(write)
            shown = shown.rename(columns={column: plain})
        return shown

    @property
    def _sides(self) -> tuple[Side, Side]:
        return self.before, self.after


def records(summary: Summary) -> pd.DataFrame:
    """One row a record of a run, training runs among them, by what makes it the same record."""
    frame = summary.verdicts
    # Without an oracle the certificate's bound stands for the forward error.
    distance = frame["forward_error"].fillna(frame["proven_at_most"])
    table = frame.assign(distance=distance)[[*KEY, *FIGURES]]
    if len(summary.training):
        trained = summary.training
        run = trained["optimizer"] + ", " + trained["mode"] + ", decay "
        trained = trained.assign(
            variant=run + trained["weight_decay"].map("{:g}".format),
            check="training",
            device="cpu",
            steps=math.nan,
            content_hash="",
        )
        parts = [part for part in (table, trained[[*KEY, *FIGURES]]) if len(part)]
        table = pd.concat(parts, ignore_index=True)
    return table.astype({"steps": float})


def _counterpart(summary: Summary) -> str:
    """The variant that a subject is held against; "" where the run has none that answered."""
    variants = summary.variants
    return BACKWARD_STABLE if BACKWARD_STABLE in variants else next(iter(variants), "")


def kind_of(row: Mapping[Any, Any]) -> str:
    """Return how a record changed, "" where it did not."""
    before, after = row["verdict"], row["verdict_after"]
    if not isinstance(after, str):
        return "missing"
    if not isinstance(before, str):
        return "newly failing" if after == "fail" else "new"
    if before != after:
        if "fail" in (before, after):
            return "newly failing" if after == "fail" else "newly passing"
        return "better" if RANK[after] > RANK[before] else "worse"
    if row["content_hash"] != row["content_hash_after"]:
        return ""  # another problem under the same name: its forward error is another one too
    old, new = row["distance"], row["distance_after"]
    floor = FLOOR * UNIT_ROUNDOFF[row["dtype"]]
    if new > NOISE * old and new > floor:
        return "worse"
    return "better" if old > NOISE * new and old > floor else ""


def _change(kind: str, row: Mapping[Any, Any]) -> dict[str, Any]:
    whys = [row[name] for name in ("why_after", "why") if isinstance(row[name], str)]
    return {
        "change": kind,
        **{name: row[name] for name in KEY},
        "before": row["verdict"] if isinstance(row["verdict"], str) else MISSING,
        "after": row["verdict_after"] if isinstance(row["verdict_after"], str) else MISSING,
        "error before": float(row["distance"]),
        "error after": float(row["distance_after"]),
        "why": whys[0],
    }


def exit_code(differences: Sequence[Difference]) -> int:
    """Return 1 where there is a regression, else 0 where anything was compared, else 3."""
    return worst_code(difference.exit_code for difference in differences)


def worst_code(codes: Iterable[int]) -> int:
    """Return the exit code of several differences: 3 where none had anything to compare."""
    distinct = set(codes)
    return 1 if 1 in distinct else min(distinct)


def render(differences: Sequence[Difference]) -> str:
    """Return the page."""
    template = page.environment().get_template("difference.html.j2")
    return template.render(differences=differences, rule=RULE, kinds=KINDS)


def render_markdown(differences: Sequence[Difference]) -> str:
    """Return the same as Markdown."""
    template = markdown.environment().get_template("difference.md.j2")
    return template.render(differences=differences, rule=RULE, kinds=KINDS)


def outcome(differences: Sequence[Difference]) -> dict[str, Any]:
    """Return what a program reads of it."""
    return {
        "exit_code": exit_code(differences),
        "rule": RULE,
        "differences": [
            {
                "before": d.before.name,
                "after": d.after.name,
                "headline": d.headline,
                "exit_code": d.exit_code,
                "compared": d.compared,
                "counts": d.counts,
                "changes": d.changes.to_dict("records"),
                "ran_on": d.ran_on.to_dict("records"),
                "times": d.times.to_dict("records"),
            }
            for d in differences
        ],
    }
