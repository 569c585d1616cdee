"""`projlab validate`: measure, judge and report."""

import argparse
import contextlib
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projlab.cli.common import (
    EXIT_CODES,
    FORMAT,
    NOTHING_CHECKED,
    Command,
    chosen_variants,
    named_path,
    positive_integer,
    positive_number,
    print_json,
    require_suite,
    require_writable,
    usable_device,
)
from projlab.errors import InputError

if TYPE_CHECKING:
    from projlab_reports.summary import Summary
    from projlab_validation.cluster import Cluster
    from projlab_validation.problems import Problem
    from projlab_validation.problems.problem import Dtype
    from projlab_validation.profiles import Profile
    from projlab_validation.record import Record
    from projlab_validation.store import Store
    from projlab_validation.subjects import PeerSubject

TRAINING = "training"
"""The group of the training section: optimizers in the place of variants."""

LONGEST = 3600.0
"""Seconds for the bounds section's problems together, where a profile has no limit."""

BOUNDS = "bounds"
"""The group of the bounds section: inequalities and bounds beside equations, or alone."""

EPILOG = f"""
examples:
  projlab validate
      measure everything of the quick profile (minutes) into runs/quick
  projlab validate --profile standard --jobs 8 --out DIR
  projlab validate --profile standard --jobs 8 --out DIR --resume
      go on after an interruption; what is measured already is only judged again
  projlab validate --problem ss_nnc1374 --variant qr --dtype float64 --out DIR
      one problem and one variant
  projlab validate --group article --group spectra --json
  projlab validate --group training --out DIR
      constraints under every optimizer of torch, against known constrained optima
  projlab validate --group bounds --subject mypackage.layers:project --out DIR
      project(x, A, b, G, h, lb, ub), onto simplices and polyhedra; None for what is not there
  projlab validate --peers --out DIR
      and, beside the variants, what people use today, as far as it is installed
  projlab validate --subject mypackage.layers:project --out DIR
      somebody else's project(x, A, b), with the same problems, oracles and judge: dense tensors A
      (m, n), b (m,), x (n,) or (k, n); the module is looked for in the current folder too
  projlab validate --subject mypackage.layers:project --fail-fast --time-limit 5 --out DIR
      the smallest problems first, and no further than to the first check that fails
  projlab validate --out DIR --junit results.xml --minimum-records 1000
      for CI: the outcome as JUnit XML, and a failure where fewer records were checked; with
      GITHUB_ACTIONS set, failures are annotations

What takes longer than the time limit over one check of one problem is ended, and what crashes is
noticed: that check failed, and the rest goes on in a new process; after 20 of these the run ends.
A run that is interrupted or killed loses the problems in work; --resume goes on from there, and
asks again for what took too long or crashed, with the --time-limit that it is given. A run that
lacks a measurement at its end is incomplete, which is a failure. One process at a time writes DIR.

DIR then holds report.html, report.md, figures, verdicts.parquet (every record with its verdict) and
what a resumed run needs. A DIR that holds a run already is refused without --resume or --overwrite.

{EXIT_CODES}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `projlab validate`."""
    add = parser.add_argument
    add(
        "--profile",
        choices=("quick", "standard", "full"),
        default="quick",
        help="how much: minutes, a quarter of an hour, over an hour (default: quick)",
    )
    add(
        "--out",
        type=named_path,
        metavar="DIR",
        help="folder for the results (default: runs/PROFILE)",
    )
    add("--jobs", type=positive_integer, metavar="N", help="worker processes (default: all cores)")
    add(
        "--time-limit",
        type=positive_number,
        metavar="SECONDS",
        help="for one check of one problem (default: 30 quick, 600 standard, 3600 full)",
    )
    add(
        "-x",
        "--fail-fast",
        action="store_true",
        help="the smallest problems first, and stop at the first check that fails",
    )
    add("--resume", action="store_true", help="go on with the run that DIR holds")
    add("--overwrite", action="store_true", help="replace the run that DIR holds")
    add(
        "--group", action="append", metavar="G", help="only problems of this group; may be repeated"
    )
    add("--problem", action="append", metavar="NAME", help="only this problem; may be repeated")
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--variant", action="append", metavar="V", help="only this variant; may be repeated"
    )
    who.add_argument(
        "--subject",
        metavar="PACKAGE.MODULE:CALLABLE",
        help="validate this project(x, A, b) instead of the variants",
    )
    add(
        "--dtype",
        action="append",
        choices=("float64", "float32"),
        help="only problems in this dtype; may be repeated",
    )
    add(
        "--peers",
        action="store_true",
        help="show the peers that are installed beside the variants: what people use today",
    )
    add("--device", default="cpu", help="torch device that the variants run on (default: cpu)")
    add(
        "--cluster",
        metavar="ADDRESS",
        help="measure on the workers of the Dask scheduler at ADDRESS; training and bounds "
        "are measured here",
    )
    add("--junit", type=named_path, metavar="FILE", help="write the outcome as JUnit XML too")
    add(
        "--minimum-records",
        type=positive_integer,
        metavar="N",
        help="fewer records that were checked than these are a failure",
    )
    add("--json", action="store_true", help="print the outcome as JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    """Measure, judge and report."""
    require_suite("validate")
    if options.junit:
        require_writable(options.junit, "--junit")
    request = _request(options)
    if not (request.problems or request.training or request.bounds):
        print("projlab: nothing to check: no problem is in all of these at once", file=sys.stderr)
        return NOTHING_CHECKED
    with _cluster(request, options) as cluster:
        return _run(request, options, cluster)


def _cluster(
    request: "_Request", options: argparse.Namespace
) -> "contextlib.AbstractContextManager[Cluster | None]":
    """Reach the cluster that the options name, if they name one."""
    from projlab_validation import cluster

    if options.cluster is None:
        return contextlib.nullcontext()
    if request.device != "cpu":
        raise InputError(f"--cluster measures on CPUs, and --device is {request.device}")
    return cluster.reached(options.cluster, options.subject, request.peers)


def _run(request: "_Request", options: argparse.Namespace, cluster: "Cluster | None") -> int:
    """Measure here or there, judge and report."""
    from projlab_reports import ci, publish, terminal
    from projlab_validation import environment
    from projlab_validation.store import Store

    folder = options.out or Path("runs") / request.profile.name
    store = Store.create(folder, request.header, resume=options.resume, overwrite=options.overwrite)
    for part in store.set_aside:
        print(f"projlab: {part} cannot be read; what it held is measured again", file=sys.stderr)
    description = environment.describe(request.device, options.subject, request.peers)
    if cluster:
        description = cluster.describe(description)
    identity = environment.identity(description)
    store.describe_environment(identity, description)

    stopped = _measure(request, options, store, identity, cluster)
    stopped = stopped or _missing(request, options, store, identity)
    summary, verdicts = _judge(request, store, description, stopped)
    summary = replace(summary, least=options.minimum_records or 0)
    if summary.incomplete:
        print(f"projlab: {summary.incomplete}; --resume goes on", file=sys.stderr)
    html, report = publish.write_run(summary, folder)
    if options.junit:
        ci.write_junit(summary, options.junit)
    if ci.annotated():
        print(ci.annotation_lines(summary), file=sys.stderr if options.json else sys.stdout, end="")
    if options.json:
        print_json(_outcome(summary, (html, report), verdicts))
    else:
        terminal.show(summary, report)
        print(f"Page: {html}")
    store.close()
    return summary.exit_code


@dataclass(frozen=True)
class _Request:
    """What the options ask for, checked before anything is written.

    Attributes
    ----------
    profile
        With the time limit of the options, where they have one.
    variants
        The variants, or the subject alone.
    peers
        Shown beside the variants.
    device
        Of the variants.
    problems, training, bounds
        The problems, and the names of those of the training and the bounds sections.
    header
        What the run's folder says that it was asked for.
    """

    profile: "Profile"
    variants: tuple[str, ...]
    peers: "tuple[PeerSubject, ...]"
    device: str
    problems: "list[Problem]"
    training: list[str]
    bounds: list[str]
    header: dict[str, str]

    @property
    def of_bounds(self) -> str:
        """Who answers in the bounds section: a subject, or projlab by its own choice."""
        return self.variants[0] if "subject" in self.header else "auto"

    @property
    def peers_of_bounds(self) -> list[str]:
        """Specs of the peers that take bounds."""
        return [peer.spec for peer in self.peers if peer.bounds]

    @property
    def peers_of_equations(self) -> list[str]:
        """Specs of the peers that are asked about equations."""
        return [peer.spec for peer in self.peers if peer.equations]

    @property
    def problems_of_peers(self) -> "list[Problem]":
        """Those that peers are asked about."""
        most = self.profile.subject_flops
        return [p for p in self.problems if p.m * p.m * p.n <= most]


def _request(options: argparse.Namespace) -> _Request:
    """Check the options against what there is."""
    from projlab_validation import subjects
    from projlab_validation.profiles import PROFILES
    from projlab_validation.store import TIME_LIMIT

    if options.peers and options.subject:
        raise InputError("--peers shows peers beside projlab's variants, not beside a --subject")
    peers = subjects.installed_peers() if options.peers else ()
    profile = PROFILES[options.profile]
    if options.time_limit:
        profile = replace(profile, record_seconds=options.time_limit)
    if options.subject:
        subjects.load(options.subject)
        variants: tuple[str, ...] = (options.subject,)
    else:
        variants = chosen_variants(options.variant)
    device = usable_device(options.device)
    header = {"profile": profile.name, "device": device}
    if options.subject:
        header["subject"] = options.subject
    if options.time_limit:
        header[TIME_LIMIT] = f"{options.time_limit:g}"
    if peers:
        header["peers"] = ", ".join(peer.name for peer in peers)
    return _Request(
        profile,
        variants,
        peers,
        device,
        _chosen_problems(options),
        _chosen_training(options),
        _chosen_bounds(options),
        header,
    )


def _chosen_problems(options: argparse.Namespace) -> "list[Problem]":
    from projlab_validation.bounds import problems as bounds
    from projlab_validation.problems import catalogue
    from projlab_validation.profiles import PROFILES
    from projlab_validation.training import section

    dtypes: Sequence[Dtype] = options.dtype or PROFILES[options.profile].dtypes
    groups, names = options.group, options.problem
    if groups is not None:
        groups = [group for group in groups if group not in (TRAINING, BOUNDS)]
    if names is not None:
        of_sections = (*section.NAMES, *bounds.NAMES)
        names = [name for name in names if name not in of_sections]
    if groups == [] or names == []:
        return []
    try:
        return list(catalogue(groups, names, dtypes))
    except ValueError as error:
        raise InputError(str(error)) from error


def _chosen_training(options: argparse.Namespace) -> list[str]:
    """Name the training problems that are asked for; subjects and single variants train none."""
    from projlab_validation.profiles import PROFILES
    from projlab_validation.training import section

    if options.subject or options.variant:
        return []
    if options.problem is not None:
        return [name for name in section.NAMES if name in options.problem]
    if options.group is not None and TRAINING not in options.group:
        return []
    of_profile = PROFILES[options.profile].training
    return list(section.NAMES if of_profile is None else of_profile)


def _chosen_bounds(options: argparse.Namespace) -> list[str]:
    """Name the bounded problems that are asked for; a subject has to be asked by their group.

    What takes equations alone takes no bounds, and single variants are of equations.
    """
    from projlab_validation.bounds import problems

    if options.variant or (options.dtype and "float64" not in options.dtype):
        return []
    if options.device != "cpu":
        return []
    if options.problem is not None:
        return [name for name in problems.NAMES if name in options.problem]
    if options.group is None and options.subject:
        return []
    if options.group is not None and BOUNDS not in options.group:
        return []
    return list(problems.names(quick=options.profile == "quick"))


def _measure(
    request: _Request,
    options: argparse.Namespace,
    store: "Store",
    environment: str,
    cluster: "Cluster | None",
) -> str:
    """Measure variants, training, then peers; return why it stopped before its end, if it did."""
    from projlab_validation import runner

    rows = runner.run(
        request.problems,
        request.variants,
        request.profile,
        store,
        jobs=options.jobs,
        environment=environment,
        device=request.device,
        smallest_first=options.fail_fast,
        elsewhere=cluster.measured if cluster else None,
    )
    stopped = _exhaust(rows, fail_fast=options.fail_fast)
    if request.training and not stopped:
        _train(request, options, store, environment)
    if request.bounds and not stopped:
        _bound(request, store, environment)
    if request.peers and not stopped:
        rows = runner.run(
            request.problems_of_peers,
            tuple(request.peers_of_equations),
            replace(request.profile, subject_flops=0.0),  # the answer for x0 alone
            store,
            jobs=options.jobs,
            environment=environment,
            device=request.device,
            elsewhere=cluster.measured if cluster else None,
        )
        stopped = _exhaust(rows, fail_fast=False)
    return stopped


def _exhaust(rows: "Generator[list[Record], None, None]", *, fail_fast: bool) -> str:
    """Let a run go on to its end; return why it stopped before, if it did."""
    from projlab_validation.judge import judge
    from projlab_validation.record import table
    from projlab_validation.runner import GivenUp

    with contextlib.closing(rows):
        try:
            for records in rows:
                if fail_fast and "fail" in set(judge(table(records).to_pandas())["verdict"]):
                    return "stopped at the first check that failed"
        except GivenUp as end:
            return str(end)
    return ""


def _missing(
    request: _Request, options: argparse.Namespace, store: "Store", environment: str
) -> str:
    """Say how many measurements the request demands and the folder lacks; "" where none."""
    from projlab_validation.bounds import section as bounded
    from projlab_validation.store import Key, read
    from projlab_validation.training import section

    asked = [(p, v) for p in request.problems for v in request.variants]
    asked += [(p, spec) for p in request.problems_of_peers for spec in request.peers_of_equations]
    columns = read(store.folder)[list(Key._fields)]
    there = {Key(*row) for row in columns.itertuples(index=False, name=None)}
    lacking = [
        f"{v} on {p.name} in {p.dtype}"
        for p, v in asked
        if Key(p.content_hash, p.dtype, v, environment) not in there
    ]
    if request.training:
        dtypes = options.dtype or request.profile.dtypes
        lacking += section.missing(
            store.folder, request.training, request.profile, dtypes, environment=environment
        )
    if request.bounds:
        for variant in (request.of_bounds, *request.peers_of_bounds):
            lacking += bounded.missing(
                store.folder, request.bounds, variant, environment=environment
            )
    return f"{len(lacking)} measurements are missing, {lacking[0]} the first" if lacking else ""


def _train(
    request: _Request, options: argparse.Namespace, store: "Store", environment: str
) -> None:
    """Run the training section to its end."""
    from projlab_validation.training import section

    rows = section.run(
        store.folder,
        request.training,
        request.profile,
        options.dtype or request.profile.dtypes,
        environment=environment,
        jobs=options.jobs,
    )
    for _ in rows:
        pass


def _bound(request: _Request, store: "Store", environment: str) -> None:
    """Run the bounds section to its end, then the peers of it."""
    from projlab_validation.bounds import section

    limit = request.profile.record_seconds or LONGEST
    asked: list[tuple[str, section.Role]] = [(request.of_bounds, "answer")]
    asked += [(spec, "solver") for spec in request.peers_of_bounds]
    for variant, role in asked:
        rows = section.run(
            store.folder,
            request.bounds,
            variant,
            environment=environment,
            time_limit=limit,
            role=role,
        )
        for _ in rows:
            pass


def _judge(
    request: _Request, store: "Store", description: Mapping[str, str], stopped: str
) -> "tuple[Summary, Path]":
    """Judge every record of this environment, write the verdicts, and end the run.

    Returns the run's summary and the file of its verdicts.
    """
    from projlab_reports.summary import Summary
    from projlab_validation.bounds import section as bounded
    from projlab_validation.bounds.judge import judge as judge_bounds
    from projlab_validation.environment import identity
    from projlab_validation.judge import judge
    from projlab_validation.store import BOUNDS_VERDICTS, STOPPED, TRAINING_VERDICTS, read
    from projlab_validation.training import section
    from projlab_validation.training.judge import judge as judge_training

    environment = identity(description)
    records = read(store.folder)
    verdicts = judge(records[records["environment"] == environment])
    path = store.write_verdicts(verdicts)
    of_peers = verdicts["variant"].isin([peer.spec for peer in request.peers])
    training = judge_training(section.read(store.folder, environment))
    store.write_verdicts(training, TRAINING_VERDICTS)
    bounds = judge_bounds(bounded.read(store.folder, environment))
    store.write_verdicts(bounds, BOUNDS_VERDICTS)
    store.end(stopped)
    header = request.header | ({STOPPED: stopped} if stopped else {})
    summary = Summary(
        verdicts[~of_peers], header, description, verdicts[of_peers], training, bounds
    )
    return summary, path


def _outcome(summary: "Summary", pages: tuple[Path, Path], verdicts: Path) -> dict[str, Any]:
    """What a program reads of a run."""
    html, report = pages
    return {
        "format": FORMAT,
        "kind": "validation",
        "headline": summary.headline,
        "exit_code": summary.exit_code,
        **summary.asked,
        "totals": summary.totals,
        "decision": summary.decision.to_dict("records"),
        "variants": summary.by_variant.to_dict("records"),
        "failures": summary.failures.to_dict("records"),
        "peers": summary.peers.to_dict("records"),
        "page": str(html),
        "report": str(report),
        "verdicts": str(verdicts),
    }


COMMAND = Command(
    name="validate",
    help="measure every variant against exact solutions, cvxpy and scipy",
    description="Measure every variant against exact solutions, cvxpy and scipy.",
    epilog=EPILOG,
    add_arguments=add_arguments,
    run=run,
    interrupted="--resume goes on with what is measured already",
    no_room="what was written before is whole, and `projlab validate --resume` goes on once there "
    "is room",
)
