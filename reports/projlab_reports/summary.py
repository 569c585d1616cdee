"""What a run's judged records say: small tables that terminal, Markdown and figures share.

Takes the frame of verdicts (a row is a record of the validation suite with the judge's columns) and
imports no engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import pandas as pd

from projlab_reports import decision, tables
from projlab_reports.units import MISSING, digits, duration, error, integer

VERDICTS = ("pass", "expected", "skip", "fail")
CHECKED = ("pass", "expected", "fail")
"""A skip is no check."""

KAPPA_EDGES = (0.0, 1e2, 1e4, 1e7, 1e10, math.inf)
KAPPA_LABELS = ("κ < 1e2", "1e2 … 1e4", "1e4 … 1e7", "1e7 … 1e10", "κ ≥ 1e10")

ANSWERS = ("projection", "least_squares")
"""The checks that hold an answer against the problem's own x*: what tables and figures show."""

FIGURES = (
    "worst units of κu",
    "worst of bound",
    "worst on",
    "median set-up, s",
    "median projection, s",
)
"""What is shown of each variant besides its verdicts."""

CLAIMS = ("optimal", "ok")
"""Words by which an oracle claims that its answer is right."""

ERROR = "oracle_error_"
STATUS = "oracle_status_"


@dataclass(frozen=True)
class Summary:
    """One run, ready to be shown.

    Attributes
    ----------
    verdicts
        The judged records.
    header
        What the run was asked for: profile, device, the subject where it was one, and the time
        limit where one was given.
    environment
        What it ran on, by name.
    peer_verdicts
        The judged records of peers, which count in no total: they are not what is validated.
    training
        The judged training runs.
    bounds
        The judged records of the bounds section, and solvers' beside them.
    least
        Records that must have been checked for the run to hold; 0 for no demand.
    """

    verdicts: pd.DataFrame
    header: Mapping[str, str]
    environment: Mapping[str, str]
    peer_verdicts: pd.DataFrame = field(default_factory=pd.DataFrame)
    training: pd.DataFrame = field(default_factory=pd.DataFrame)
    bounds: pd.DataFrame = field(default_factory=pd.DataFrame)
    least: int = 0

    @property
    def asked(self) -> dict[str, Any]:
        """`header` for a program: numbers as numbers, and why the run stopped, if it did."""
        limit, peers = self.header.get("time_limit"), self.header.get("peers")
        return {
            **{name: value for name, value in self.header.items() if name != "peers"},
            "time_limit": None if limit is None else float(limit),
            "peers_asked": peers.split(", ") if peers else [],
            "stopped": self.incomplete or None,
            "minimum_records": self.least or None,
            "checked": self.checked,
        }

    @property
    def subject(self) -> str | None:
        """Whose code was validated in place of the variants, if it was."""
        return self.header.get("subject")

    @cached_property
    def totals(self) -> dict[str, int]:
        """Number of records by verdict."""
        frames = (self.verdicts, self.training, self.bounded)
        counts = [_by_verdict(frame) for frame in frames if len(frame)]
        return {verdict: sum(count[verdict] for count in counts) for verdict in VERDICTS}

    @property
    def checked(self) -> int:
        """Number of records that were held against theory."""
        return sum(self.totals[verdict] for verdict in CHECKED)

    @property
    def incomplete(self) -> str:
        """Why the run ended before everything was measured, "" where it did not."""
        return self.header.get("stopped", "")

    @property
    def too_few(self) -> str:
        """Why the records that were checked are too few, "" where they are not."""
        if self.checked >= self.least:
            return ""
        return f"{self.checked:,} records were checked, and {self.least:,} are demanded"

    @property
    def exit_code(self) -> int:
        """0 all held, 1 a check failed or the run is not whole, 3 nothing was checked."""
        if self.totals["fail"] or self.incomplete or self.too_few:
            return 1
        return 0 if self.checked else 3

    @property
    def headline(self) -> str:
        """The run in a sentence or two."""
        if self.incomplete:
            until = f"Of what was measured until then: {self._outcome}"
            return f"Incomplete: {self.incomplete}. {until}"
        return f"Too few: {self.too_few}. {self._outcome}" if self.too_few else self._outcome

    @property
    def _outcome(self) -> str:
        if not self.checked:
            return f"Nothing was checked: {_count(self.totals['skip'], 'skip')}, nothing else."
        numbers = (
            f"{self.totals['pass']} passed, {self.totals['expected']} met an expected limitation, "
            f"{self.totals['skip']} were skipped, {self.totals['fail']} failed"
        )
        if self.totals["fail"]:
            return f"{_count(self.totals['fail'], 'check')} failed: {numbers}."
        if self.incomplete or self.too_few:
            return f"{numbers}."
        return f"Every check held: {numbers}."

    @property
    def environment_shown(self) -> pd.DataFrame:
        """`environment` as a table."""
        shown = dict(self.environment)
        if self.header["device"] == "cpu":
            shown["GPU"] = "not measured"
        return pd.DataFrame({"what": shown.keys(), "is": shown.values()})

    @cached_property
    def how_many_problems(self) -> str:
        """Count the problems that were measured, and say how many were not."""
        measured = self.verdicts[self.verdicts["verdict"] != "skip"]["problem"].nunique()
        skipped = self.verdicts["problem"].nunique() - measured
        return f"{measured} problems" + (f", and {skipped} that were skipped," if skipped else "")

    @cached_property
    def what_was_run(self) -> str:
        """Count what each section of the run held; sections that it left out are not named."""
        held = []
        if len(self.verdicts):
            groups = ", ".join(self.verdicts["group"].unique())
            dtypes = " and ".join(self.verdicts["dtype"].unique())
            asked = "one subject" if self.subject else f"{len(self.variants)} variants"
            held.append(
                f"{self.how_many_problems} ({groups}) in {dtypes}, {asked}, "
                f"{len(self.oracles)} oracles, {len(self.verdicts)} records"
            )
        if len(self.training):
            held.append(f"{len(self.training)} training runs")
        if len(self.bounds):
            held.append(f"{self.bounds['problem'].nunique()} problems with inequalities or bounds")
        return "; ".join(held) + "."

    @cached_property
    def by_variant(self) -> pd.DataFrame:
        """One row a variant: verdicts counted apart, worst error that passed, median seconds."""
        table = []
        for variant, group in self.verdicts.groupby("variant", sort=False):
            answers = group[group["check"].isin(ANSWERS)]
            passed = answers[answers["verdict"] == "pass"]
            table.append(
                {
                    "variant": variant,
                    **_by_verdict(group),
                    "worst units of κu": passed["units_of_kappa_u"].max(),
                    "worst of bound": passed["ratio"].max(),
                    "worst on": _where_worst(passed),
                    "median set-up, s": answers["setup_s_median"].median(),
                    "median projection, s": answers["project_s_median"].median(),
                }
            )
        columns = ["variant", *VERDICTS, *FIGURES]
        return pd.DataFrame(table, columns=columns)

    @cached_property
    def decision(self) -> pd.DataFrame:
        """See `projlab_reports.decision.decide`."""
        return decision.decide(self.verdicts, self.subject)

    @cached_property
    def by_check(self) -> pd.DataFrame:
        """One row a check: verdicts counted apart, and what came nearest to its bound."""
        table = []
        for check, group in self.verdicts.groupby("check", sort=False):
            judged = group["verdict"].isin(("pass", "fail"))
            proven = group["proven_at_most"] / group["proven_accuracy"]
            table.append(
                {
                    "check": check,
                    **_by_verdict(group),
                    "worst of bound": group["ratio"].fillna(proven)[judged].max(),
                    "worst on": _named(group, group["ratio"].fillna(proven)[judged]),
                }
            )
        return pd.DataFrame(table, columns=["check", *VERDICTS, "worst of bound", "worst on"])

    @cached_property
    def checks(self) -> pd.DataFrame:
        """See `projlab_reports.tables.checks`."""
        return tables.checks(self.verdicts)

    @cached_property
    def certificates(self) -> pd.DataFrame:
        """See `projlab_reports.tables.certificates`."""
        return tables.certificates(self.verdicts)

    @cached_property
    def uncertifiable(self) -> pd.DataFrame:
        """See `projlab_reports.tables.uncertifiable`."""
        return tables.uncertifiable(self.verdicts)

    @cached_property
    def judged_by(self) -> pd.DataFrame:
        """See `projlab_reports.tables.judged_by`."""
        return tables.judged_by(self.verdicts)

    @cached_property
    def drift(self) -> pd.DataFrame:
        """See `projlab_reports.tables.drift`."""
        return tables.drift(self.verdicts)

    @cached_property
    def convex(self) -> pd.DataFrame:
        """The training runs on convex problems, whose optimum is known: all but networks."""
        if self.training.empty:
            return self.training
        return self.training[~tables.of_network(self.training)]

    @cached_property
    def trained(self) -> pd.DataFrame:
        """See `projlab_reports.tables.training`."""
        return tables.training(self.convex) if len(self.convex) else pd.DataFrame()

    @cached_property
    def networks(self) -> pd.DataFrame:
        """See `projlab_reports.tables.networks`."""
        return tables.networks(self.training) if len(self.training) else pd.DataFrame()

    @cached_property
    def peers(self) -> pd.DataFrame:
        """See `projlab_reports.tables.peers`."""
        if self.peer_verdicts.empty:
            return pd.DataFrame()
        return tables.peers(self.peer_verdicts, self.verdicts)

    @property
    def peers_shown(self) -> pd.DataFrame:
        """`peers` with its figures written out."""
        return tables.peers_shown(self.peers)

    @property
    def variants_shown(self) -> pd.DataFrame:
        """`by_variant` with its figures written out."""
        shown = self.by_variant.rename(
            columns={"worst units of κu": "worst, κu", "worst of bound": "of bound"}
        )
        for what in ("set-up", "projection"):
            shown[what] = shown.pop(f"median {what}, s").map(duration)
        return shown

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """The variants that were asked, in the registry's order as far as records tell it."""
        return tuple(self.by_variant["variant"])

    @cached_property
    def oracles(self) -> tuple[str, ...]:
        """Every oracle that was asked."""
        return tuple(c.removeprefix(ERROR) for c in map(str, self.verdicts) if c.startswith(ERROR))

    @cached_property
    def main_oracles(self) -> tuple[str, ...]:
        """Of each family of oracles (clarabel, …) the setting that is within c·κ·u most often."""
        best: dict[str, str] = {}
        frame = self.problems
        right = {o: int((frame[ERROR + o] <= frame["stable_bound"]).sum()) for o in self.oracles}
        for oracle in sorted(self.oracles, key=lambda o: (-right[o], o)):
            best.setdefault(family(oracle), oracle)
        return tuple(best.values())

    @cached_property
    def problems(self) -> pd.DataFrame:
        """One row a float64 problem with an unambiguous x*: what the oracles are compared on."""
        frame = self.verdicts
        known = (
            (frame["dtype"] == "float64")
            & (frame["check"] == "projection")
            & frame["reference_kind"].notna()
            & (frame["reference_kind"] != "unavailable")
            & (frame["reference_ambiguous"] == False)  # noqa: E712 - may hold None
        )
        return frame[known].drop_duplicates("content_hash")

    @cached_property
    def oracle_errors(self) -> pd.DataFrame:
        """One row an oracle: median and worst error by κ, and where its status misleads."""
        frame = self.problems
        bins = pd.cut(frame["reference_condition"], KAPPA_EDGES, labels=KAPPA_LABELS, right=False)
        table = []
        for oracle in self.oracles:
            errors, statuses = frame[ERROR + oracle], frame[STATUS + oracle]
            asked, claims = statuses.notna(), statuses.isin(CLAIMS)
            within = errors <= frame["stable_bound"]
            by_kappa = {
                label: median_and_worst(errors[asked & (bins == label)]) for label in KAPPA_LABELS
            }
            table.append(
                {
                    "oracle": oracle,
                    **by_kappa,
                    "claims success": f"{int(claims.sum())} of {int(asked.sum())}",
                    "of these beyond c·κ·u": int((claims & ~within).sum()),
                    "claims none, yet within": int((asked & ~claims & within).sum()),
                }
            )
        return pd.DataFrame(table)

    @cached_property
    def oracle_verdicts(self) -> list[str]:
        """A sentence for each family at its best: where it is an oracle, and where not."""
        return [oracle_sentence(oracle, self.problems) for oracle in self.main_oracles]

    def real_systems(self, dtype: str) -> pd.DataFrame:
        """One row a real system: forward errors of variants and main oracles, reference."""
        frame = self.verdicts
        real = (frame["group"] == "real") & (frame["dtype"] == dtype)
        chosen = frame[real & frame["check"].isin(ANSWERS)].sort_values("problem", kind="stable")
        systems: dict[str, dict[str, dict[str, Any]]] = {}
        for row in rows(chosen):
            systems.setdefault(row["problem"], {})[row["variant"]] = row
        oracles = self.main_oracles if dtype == "float64" else ()
        return pd.DataFrame([self._system(answers, oracles) for answers in systems.values()])

    def _system(
        self, answers: Mapping[str, Mapping[str, Any]], oracles: Iterable[str]
    ) -> dict[str, str]:
        """One row of `real_systems`, from the records of one system by variant."""
        # A skipped record knows nothing of x*; the others know the same.
        first = max(answers.values(), key=lambda row: isinstance(row["reference_kind"], str))
        known = isinstance(first["reference_kind"], str)
        errors = [row["forward_error"] for row in answers.values()]
        right = [e for e in errors if not math.isnan(e)]
        least_squares = " (least squares)" if first["check"] == "least_squares" else ""
        return {
            "system": first["problem"] + least_squares,
            "m × n": f"{first['m']} × {first['n']}",
            "rank": integer(first["reference_rank"])
            + ("?" if first["reference_ambiguous"] else ""),
            "κ": error(first["reference_condition"]),
            **{v: _cell(answers[v]) if v in answers else MISSING for v in self.variants},
            "digits": digits(min(right, default=math.nan)),
            **{o: error(first[ERROR + o]) for o in oracles},
            "x* by": first["reference_kind"] if known else "not computed",
        }

    @cached_property
    def expected(self) -> pd.DataFrame:
        """Every expected limitation, by name."""
        frame = self.verdicts[self.verdicts["verdict"] == "expected"]
        return frame[["variant", "problem", "dtype", "check", "why"]].sort_values(
            ["variant", "dtype", "problem"]
        )

    @cached_property
    def skips(self) -> pd.DataFrame:
        """Skips by reason."""
        frame = self.verdicts[self.verdicts["verdict"] == "skip"]
        return pd.DataFrame(
            [
                {
                    "reason": reason,
                    "variants": _list(group["variant"]),
                    "records": len(group),
                    "problems": _list(group["problem"]),
                }
                for reason, group in frame.groupby("why", sort=False)
            ]
        )

    @cached_property
    def failures(self) -> pd.DataFrame:
        """Every failure with the command that reproduces just it."""
        frame = self.verdicts[self.verdicts["verdict"] == "fail"]
        failures = frame[["variant", "problem", "dtype", "check", "why"]].copy()
        failures["reproduce"] = [self.command(row) for row in rows(frame)]
        found = [failures, self._training_failures(), self._bounds_failures()]
        return pd.concat(found, ignore_index=True)

    @property
    def bounded(self) -> pd.DataFrame:
        """The judged answers of the bounds section."""
        if self.bounds.empty:
            return self.bounds
        return self.bounds[self.bounds["role"] == "answer"]

    @cached_property
    def table_of_bounds(self) -> pd.DataFrame:
        """See `projlab_reports.tables.bounds`."""
        return tables.bounds(self.bounds) if len(self.bounds) else pd.DataFrame()

    def _bounds_failures(self) -> pd.DataFrame:
        """The answers on polyhedra that failed, in the columns of `failures`."""
        columns = ["variant", "problem", "dtype", "check", "why", "reproduce"]
        asked = f"--subject {self.subject} " if self.subject else ""
        failures = [
            (
                row["variant"],
                row["problem"],
                "float64",
                "projection",
                row["why"],
                f"projlab validate --profile {self.header['profile']} --problem {row['problem']} "
                f"{asked}--out reproduce/{row['problem']} --overwrite",
            )
            for row in rows(self.bounded)
            if row["verdict"] == "fail"
        ]
        return pd.DataFrame(failures, columns=columns)

    def _training_failures(self) -> pd.DataFrame:
        """The training runs that failed, in the columns of `failures`."""
        columns = ["variant", "problem", "dtype", "check", "why", "reproduce"]
        profile = self.header["profile"]
        failures = [
            (
                f"{row['optimizer']} ({row['mode']}, decay {row['weight_decay']:g})",
                row["problem"],
                row["dtype"],
                "training",
                row["why"],
                f"projlab validate --profile {profile} --problem {row['problem']} "
                f"--dtype {row['dtype']} --out reproduce/{row['problem']}-{row['dtype']} "
                "--overwrite",
            )
            for row in rows(self.training)
            if row["verdict"] == "fail"
        ]
        return pd.DataFrame(failures, columns=columns)

    def command(self, row: Mapping[str, object]) -> str:
        """Return the command that measures and judges one record again, by itself."""
        asked = "subject" if self.subject else "variant"
        what = {"problem": row["problem"], asked: row["variant"], "dtype": row["dtype"]}
        options = {"profile": self.header["profile"], **what}
        if row["device"] != "cpu":
            options["device"] = row["device"]
        if "time_limit" in self.header:
            options["time-limit"] = self.header["time_limit"]
        options["out"] = "reproduce/" + "-".join(map(str, what.values())).replace(":", ".")
        given = " ".join(f"--{name} {v}" for name, v in options.items())
        return f"projlab validate {given} --overwrite"

    @cached_property
    def unknown(self) -> pd.DataFrame:
        """Problems whose answer cannot be judged: the rank is ambiguous, or there is no x*."""
        frame = self.verdicts
        ambiguous = frame["reference_ambiguous"].eq(True)
        nothing = frame["reference_kind"].eq("unavailable")
        asked = frame["check"].isin(ANSWERS)
        return frame[asked & (ambiguous | nothing)].drop_duplicates(["problem", "dtype"])

    @property
    def unknown_shown(self) -> str:
        """`unknown` in a sentence, with reasons."""
        return "; ".join(
            f"{row['problem']} in {row['dtype']} ("
            + ("the rank is ambiguous" if row["reference_ambiguous"] else row["reference_reason"])
            + ")"
            for row in rows(self.unknown)
        )


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame's rows, each by column name."""
    return cast("list[dict[str, Any]]", frame.to_dict("records"))


def family(oracle: str) -> str:
    """Return the solver that an oracle is a setting of."""
    return oracle.partition("_")[0]


def oracle_sentence(oracle: str, frame: pd.DataFrame) -> str:
    """Say on how many problems an oracle is one, and by how much it is none on the worst."""
    asked = frame[frame[STATUS + oracle].notna()]
    beyond = asked[~(asked[ERROR + oracle] <= asked["stable_bound"])]
    held = f"`{oracle}` is within c·κ·u on {len(asked) - len(beyond)} of {len(asked)} problems"
    if beyond.empty:
        return f"{held}, and so an oracle on all of them."
    sentence = f"{held}; on {len(beyond)} it is not an oracle"
    claiming = beyond[beyond[STATUS + oracle].isin(CLAIMS)]
    if claiming.empty:
        return f"{sentence}, and says so by its status."
    worst = max(rows(claiming), key=lambda row: row[ERROR + oracle] / row["stable_bound"])
    return (
        f"{sentence}, though on {len(claiming)} of these its status is success; worst of them "
        f"{worst['problem']} (κ = {worst['reference_condition']:.1e}): forward error "
        f"{worst[ERROR + oracle]:.1e}, where c·κ·u is {worst['stable_bound']:.1e}."
    )


def median_and_worst(errors: pd.Series) -> str:
    """Write the errors of several problems in one cell; a missing answer counts in neither."""
    answered = errors.dropna()
    if errors.empty:
        return "–"
    if answered.empty:
        return f"none of {len(errors)}"
    missing = len(errors) - len(answered)
    tail = f" (no answer: {missing})" if missing else ""
    return f"{answered.median():.0e} / {answered.max():.0e}{tail}"


def _cell(row: Mapping[str, Any]) -> str:
    """One variant on one system: its forward error, or the word for what it did instead."""
    if row["status"] != "ok":
        return (
            "n/a" if (row["status"], row["verdict"]) == ("refused", "skip") else str(row["status"])
        )
    return "answered" if math.isnan(row["forward_error"]) else error(row["forward_error"])


def _where_worst(passed: pd.DataFrame) -> str:
    """Name the problem behind the largest forward error in units of κu."""
    return _named(passed, passed["units_of_kappa_u"])


def _named(frame: pd.DataFrame, figures: pd.Series) -> str:
    """Name the problem, and its dtype, behind the largest of these figures."""
    figures = figures.dropna()
    if figures.empty:
        return MISSING
    worst = frame.loc[figures.index].iloc[int(figures.to_numpy().argmax())]
    return f"{worst['problem']}, {worst['dtype']}"


def _list(values: Iterable[str], most: int = 6) -> str:
    distinct = list(dict.fromkeys(values))
    shown = ", ".join(distinct[:most])
    return shown + (f" and {len(distinct) - most} more" if len(distinct) > most else "")


def _by_verdict(frame: pd.DataFrame) -> dict[str, int]:
    counts = frame["verdict"].value_counts()
    return {verdict: int(counts.get(verdict, 0)) for verdict in VERDICTS}


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
