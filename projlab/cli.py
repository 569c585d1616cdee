"""The command line: it starts without torch, and imports the suite where a command needs it."""

import argparse
import contextlib
import importlib.metadata
import json
import math
import re
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from projlab import __version__

if TYPE_CHECKING:
    from projlab_reports.summary import Summary
    from projlab_validation.compare import Comparison
    from projlab_validation.problems import Problem
    from projlab_validation.problems.problem import Dtype
    from projlab_validation.record import Record
    from projlab_validation.store import Store

HELD, FAILED, BAD_INPUT, NOTHING_CHECKED = range(4)
TRAINING = "training"
"""A group of its own: optimizers in the place of variants."""

INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended

EXIT_CODES = (
    "exit codes: 0 all held; 1 a check failed; 2 bad usage or bad input; 3 nothing was checked"
)

TOP = f"""
examples:
  projlab variants
  projlab validate --profile quick
  projlab compare system.npz
  projlab report runs/quick

{EXIT_CODES}
"""

VALIDATE = f"""
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
  projlab validate --peers --out DIR
      and, beside the variants, what people use today, as far as it is installed
  projlab validate --subject mypackage.layers:project --out DIR
      somebody else's project(x, A, b), with the same problems, oracles and judge: dense tensors A
      (m, n), b (m,), x (n,) or (k, n); the module is looked for in the current folder too
  projlab validate --subject mypackage.layers:project --fail-fast --time-limit 5 --out DIR
      the smallest problems first, and no further than to the first check that fails

What takes longer than the time limit over one check of one problem is ended, and what crashes is
noticed: that check failed, and the rest goes on in a new process; after 20 of these the run ends.
A run that is interrupted or killed loses the problems in work; --resume goes on from there, and
asks again for what took too long or crashed, with the --time-limit that it is given.

DIR then holds report.html, report.md, figures, verdicts.parquet (every record with its verdict) and
what a resumed run needs. A DIR that holds a run already is refused without --resume or --overwrite.

{EXIT_CODES}
"""

COMPARE = """
examples:
  projlab compare system.npz
      every variant on your own A x = b, and which one to use
  projlab compare system.npz --accuracy 1e-10 --peers --out DIR
      for a forward error of 1e-10, beside what else is installed; compare.html and compare.json
  projlab compare A.mtx --b b.mtx --x0 x0.npy
  projlab compare netlib/afiro.mps.gz --dtype float64 --dtype float32
  projlab compare FOLDER --time-limit 30 --json
      every system of a folder, as JSON for a program

formats, of which nothing is ever executed:
  .npz           dense: A, b, optionally x0 (or x) and names (of the rows); or scipy's CSR parts
                 data, indices, indptr, shape, with b and optionally x0 and names
  .npy           A; b by --b
  .csv           a line a row; with a header line, a column b, and a column name if wanted
  .mtx[.gz]      A; b by --b
  .mps[.gz]      the rows of type E, by their names
  .pt            a dict of tensors as in npz, loaded with weights_only
  .safetensors   as npz, without names
NAME_b.* and NAME_x0.* beside NAME.* are its b and x0 where nothing else says.

exit codes: 0 every answer is within its own theory; 1 one is not; 2 bad usage or bad input;
3 nothing was checked
"""

BENCH = """
examples:
  projlab bench --quick
      the asv suite on small systems (minutes); its result is asv's own JSON, under .asv/results
  projlab bench --full --out DIR --filter 'projection|batched'
      every size, only of these modules
  projlab bench --compare BEFORE AFTER
      what regressed between two results (files, or folders that hold one each)
  projlab bench --targets
      measure the table of what projlab promises of its speed, beside its peers
  projlab bench --targets cached-torch jaxopt
  projlab bench --targets --write benchmarks/README.md

It works from a checkout: the suite is its folder benchmarks/, which no wheel contains. Every
library runs with --threads threads. A regression is a figure beyond the noise of both results; a
figure that failed, because an answer was wrong say, is one too.

exit codes: 0 all held; 1 a benchmark failed, a figure regressed or a target was missed; 2 bad usage
or bad input; 3 nothing was measured, or nothing can be compared
"""

REPORT = """
examples:
  projlab report runs/quick
      the page of a run that `projlab validate` wrote, runs/quick/report.html, and report.md
  projlab report runs/quick --out quick.html
      the page somewhere else, and quick.md beside it; --out DIR writes DIR/report.html
  projlab report runs/before runs/after
      what became better, worse, newly failing, newly passing, missing or new: difference.html and
      difference.md in the last run's folder; with more runs, each against the first
  projlab report runs/before runs/after --json
  projlab report out/compare.json
      the page of what `projlab compare --out` wrote, again
  projlab report .asv
      the page of what `projlab bench` measured, with the history of every commit in that folder:
      benchmarks.html and benchmarks.md; asv's own JSON, a results folder or one file
  projlab report BEFORE.json AFTER.json
      what regressed between two of asv's results, as `projlab bench --compare` decides it

A page is one file that needs no network, and scripts only to sort and filter a difference. A
regression is a record that fails and did not, or is new; a verdict that became worse (pass,
expected, skip, fail); a forward error more than 10 times what it was and above 10 u. Times and
missing records are shown and count for nothing.

exit codes: 0 all held, or no regression; 1 the run has a failure, or there is a regression; 2 bad
usage or bad input, and nothing was written; 3 nothing was checked, or there is nothing to compare
"""

VARIANTS = """
examples:
  projlab variants
  projlab variants --json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = build_parser().parse_args(arguments)
    from projlab.errors import InputError

    # `timeout`, CI and `kill` end a run as Ctrl-C does, so that no worker goes on without it.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code: int = options.command(options)
    except InputError as error:
        print(f"projlab: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"projlab: interrupted; {options.interrupted}", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(
        prog="projlab",
        description="Projection onto {x : A x = b}: which method is right to how many digits.",
        epilog=TOP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"projlab {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    validate = commands.add_parser(
        "validate",
        help="measure every variant against exact solutions, cvxpy and scipy",
        description="Measure every variant against exact solutions, cvxpy and scipy.",
        epilog=VALIDATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = validate.add_argument
    add(
        "--profile",
        choices=("quick", "standard", "full"),
        default="quick",
        help="how much: minutes, a quarter of an hour, over an hour (default: quick)",
    )
    add("--out", type=Path, metavar="DIR", help="folder for the results (default: runs/PROFILE)")
    add("--jobs", type=_positive, metavar="N", help="worker processes (default: all cores)")
    add(
        "--time-limit",
        type=_positive_float,
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
    asked = validate.add_mutually_exclusive_group()
    asked.add_argument(
        "--variant", action="append", metavar="V", help="only this variant; may be repeated"
    )
    asked.add_argument(
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
    add("--json", action="store_true", help="print the outcome as JSON instead of a table")
    validate.set_defaults(
        command=_validate, interrupted="--resume goes on with what is measured already"
    )

    compare = commands.add_parser(
        "compare",
        help="compare the variants on your own system, and say which one to use",
        description="Compare the variants on your own system A x = b, and say which one to use.",
        epilog=COMPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = compare.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="a system, or a folder of them")
    add("--b", type=Path, metavar="FILE", help="the right-hand side, in any of the formats")
    add(
        "--x0",
        type=Path,
        metavar="FILE",
        help="the point to project (default: the file's own, else standard normal)",
    )
    add(
        "--dtype",
        action="append",
        choices=("float64", "float32"),
        help="compare in this dtype (default: the file's own); may be repeated",
    )
    add("--device", default="cpu", help="torch device that the variants run on (default: cpu)")
    add(
        "--accuracy",
        type=_positive_float,
        metavar="E",
        help="the forward error wanted, as 1e-10 (default: what a backward-stable method reaches)",
    )
    add(
        "--variants",
        type=_names,
        metavar="V,V",
        help="only these variants, separated by commas (default: all)",
    )
    add("--peers", action="store_true", help="compare with what else is installed, on the CPU")
    add("--threads", type=_positive, metavar="N", help="threads (default: as torch chooses)")
    add(
        "--time-limit",
        type=_positive_float,
        default=120.0,
        metavar="S",
        help="seconds that a file, and again each peer, may take (default: 120)",
    )
    add("--json", action="store_true", help="print JSON instead of tables")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="write compare.html and compare.json there (default: nothing is written)",
    )
    compare.set_defaults(command=_compare, interrupted="nothing was written")

    bench = commands.add_parser(
        "bench",
        help="measure times, memory and ratios to peers, and compare two such results",
        description="Measure times, memory and ratios to peers, and compare two such results.",
        epilog=BENCH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = bench.add_argument
    what = bench.add_mutually_exclusive_group(required=True)
    what.add_argument("--quick", action="store_true", help="the suite on small systems (minutes)")
    what.add_argument("--full", action="store_true", help="the whole suite (an hour or more)")
    what.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("BEFORE", "AFTER"),
        help="compare two of asv's results",
    )
    what.add_argument(
        "--targets", nargs="*", metavar="ID", help="measure the target table, or these rows of it"
    )
    add("--out", type=Path, metavar="DIR", help="folder for the results (default: .asv)")
    add("--filter", metavar="REGEX", help="only benchmarks whose name and parameters match")
    add("--verbose", action="store_true", help="show why benchmarks fail or are skipped")
    add("--threads", type=_positive, default=1, metavar="N", help="of every library (default: 1)")
    add(
        "--margin",
        type=_factor,
        metavar="FACTOR",
        help="with --compare: how much more than the noise seen is a regression (default: 1.15)",
    )
    add("--write", type=Path, metavar="FILE", help="with --targets: put the table into this file")
    add("--json", action="store_true", help="print the outcome as JSON instead of text")
    bench.set_defaults(command=_bench, interrupted="nothing was stored")

    report = commands.add_parser(
        "report",
        help="render a run or benchmarks as a page, or the difference between several",
        description="Render a run, a comparison or benchmark results as a self-contained page, or "
        "the difference between several.",
        epilog=REPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = report.add_argument
    add(
        "runs",
        nargs="+",
        type=Path,
        metavar="RESULT",
        help="a run's folder, compare.json, or asv's results: a folder of them or one file",
    )
    add("--out", type=Path, metavar="FILE|DIR", help="where to (default: the last one's folder)")
    add("--json", action="store_true", help="print the outcome as JSON")
    report.set_defaults(command=_report, interrupted="")

    variants = commands.add_parser(
        "variants",
        help="list the ways to project",
        description="List the ways to project, by the name that `variant=` takes.",
        epilog=VARIANTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    variants.add_argument("--json", action="store_true", help="print JSON instead of a table")
    variants.set_defaults(command=_variants, interrupted="")
    return parser


def _validate(options: argparse.Namespace) -> int:
    """Measure, judge and report."""
    _require_suite("validate")
    from projlab.errors import InputError
    from projlab_reports import publish, terminal
    from projlab_reports.summary import Summary
    from projlab_validation import environment, judge, runner, store, subjects
    from projlab_validation.profiles import PROFILES
    from projlab_validation.training import section
    from projlab_validation.training.judge import judge as judge_training

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
        variants = _chosen_variants(options.variant)
    device = _usable_device(options.device)
    problems, training = _chosen_problems(options), _chosen_training(options)
    if not problems and not training:
        print("projlab: nothing to check: no problem is in all of these at once", file=sys.stderr)
        return NOTHING_CHECKED

    folder = options.out or Path("runs") / profile.name
    header = {"profile": profile.name, "device": device}
    if options.subject:
        header["subject"] = options.subject
    if options.time_limit:
        header[store.TIME_LIMIT] = f"{options.time_limit:g}"
    if peers:
        header["peers"] = ", ".join(peer.name for peer in peers)
    opened = store.Store.create(folder, header, resume=options.resume, overwrite=options.overwrite)
    description = environment.describe(device, options.subject, peers)
    identity = environment.identity(description)
    opened.describe_environment(identity, description)
    rows = runner.run(
        problems,
        variants,
        profile,
        opened,
        jobs=options.jobs,
        environment=identity,
        device=device,
        smallest_first=options.fail_fast,
    )
    stopped = _measure(rows, fail_fast=options.fail_fast)
    if training and not stopped:
        _train(training, options, opened, identity)
    if peers and not stopped:
        beside = runner.run(
            [p for p in problems if p.m * p.m * p.n <= profile.subject_flops],
            tuple(peer.spec for peer in peers),
            replace(profile, subject_flops=0.0),  # the answer for x0 alone
            opened,
            jobs=options.jobs,
            environment=identity,
            device=device,
        )
        stopped = _measure(beside, fail_fast=False)
    if stopped:
        print(f"projlab: {stopped}; --resume goes on", file=sys.stderr)

    records = store.read(folder)
    verdicts = judge.judge(records[records["environment"] == identity])
    verdicts_path = opened.write_verdicts(verdicts)
    theirs = verdicts["variant"].isin([peer.spec for peer in peers])
    trained = judge_training(section.read(folder, identity))
    opened.write_verdicts(trained, store.TRAINING_VERDICTS)
    opened.end(stopped)
    header |= {store.STOPPED: stopped} if stopped else {}
    summary = Summary(verdicts[~theirs], header, description, verdicts[theirs], trained)
    html, report = publish.write_run(summary, folder)
    code = _exit_code(summary)
    if options.json:
        print(
            json.dumps(
                _outcome(summary, code, stopped, (html, report), verdicts_path),
                indent=2,
                ensure_ascii=False,
            )
        )
    else:
        terminal.show(summary, report)
        print(f"Page: {html}")
    return code


def _train(
    names: Sequence[str], options: argparse.Namespace, opened: "Store", environment: str
) -> None:
    """Run the training section to its end."""
    from projlab_validation.profiles import PROFILES
    from projlab_validation.training import section

    profile = PROFILES[options.profile]
    rows = section.run(
        opened.folder,
        names,
        profile,
        options.dtype or profile.dtypes,
        environment=environment,
        jobs=options.jobs,
    )
    for _ in rows:
        pass


def _measure(rows: "Generator[list[Record], None, None]", *, fail_fast: bool) -> str:
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


def _exit_code(summary: "Summary") -> int:
    if summary.totals["fail"]:
        return FAILED
    return HELD if summary.checked else NOTHING_CHECKED


def _outcome(
    summary: "Summary", code: int, stopped: str, pages: tuple[Path, Path], verdicts: Path
) -> dict[str, Any]:
    """What a program reads of a run."""
    html, report = pages
    outcome = {
        "headline": summary.headline,
        "exit_code": code,
        "stopped": stopped or None,
        **summary.header,
        "totals": summary.totals,
        "variants": summary.by_variant.to_dict("records"),
        "failures": summary.failures.to_dict("records"),
        "peers": summary.peers.to_dict("records"),
        "page": str(html),
        "report": str(report),
        "verdicts": str(verdicts),
    }
    return cast("dict[str, Any]", _plain(outcome))


def _plain(found: object) -> object:
    """Return what JSON can say: a missing figure is null."""
    if isinstance(found, Mapping):
        return {str(name): _plain(value) for name, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_plain(value) for value in found]
    return None if isinstance(found, float) and math.isnan(found) else found


def _compare(options: argparse.Namespace) -> int:
    """Read everything, compare file by file, and show."""
    from projlab.errors import InputError

    _require_suite("compare")
    from projlab_reports import comparison
    from projlab_validation import compare, environment, formats, subjects
    from projlab_validation.runner import progress_bar

    files = formats.find(options.files)
    if len(files) > 1 and (options.b or options.x0):
        raise InputError(f"--b and --x0 belong to one system, and {len(files)} are given")
    if options.out and options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file; it takes a folder")
    asked = compare.Options(
        variants=_chosen_variants(options.variants),
        peers=tuple(p.spec for p in subjects.installed_peers()) if options.peers else (),
        device=_usable_device(options.device),
        accuracy=options.accuracy,
        threads=options.threads,
        time_limit=options.time_limit,
    )
    systems = [formats.read(file, options.b, options.x0) for file in files]
    # The whole input is checked before anything is measured.
    jobs = [(given, dtype) for given in systems for dtype in options.dtype or (given.dtype,)]
    for given, dtype in jobs:
        given.problem(dtype)
    comparisons = []
    with progress_bar(len(jobs)) as (bar, line):
        for given, dtype in jobs:
            bar.update(line, description=f"{given.path.name} {dtype}")
            comparisons.append(compare.compare(given, dtype, asked))
            bar.update(line, advance=1)
    code = _comparison_code(comparisons)
    described = environment.describe(asked.device)
    described["threads per worker"] = str(options.threads or "as torch chooses")
    found = compare.payload(comparisons, asked, described, code)
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        comparison.show(found)
    if options.out:
        page = comparison.write(found, options.out)
        print(f"Page: {page}", file=sys.stderr if options.json else sys.stdout)
    return code


def _comparison_code(comparisons: "Sequence[Comparison]") -> int:
    if any(comparison.failed for comparison in comparisons):
        return FAILED
    return HELD if any(comparison.checked for comparison in comparisons) else NOTHING_CHECKED


def _report(options: argparse.Namespace) -> int:
    """Render, write, and say where."""
    _require_suite("report")
    from projlab_reports import publish

    published = publish.publish(options.runs, options.out)
    if options.json:
        print(json.dumps(_plain(published.outcome), indent=2, ensure_ascii=False))
    else:
        print(published.headline)
        print("\n".join(f"Page: {path}" for path in published.pages))
    return published.exit_code


def _variants(options: argparse.Namespace) -> int:
    """List the registry."""
    from projlab.engine.variants import REGISTRY

    if options.json:
        listed = [{"name": variant.name, "summary": variant.summary} for variant in REGISTRY]
        print(json.dumps(listed, indent=2, ensure_ascii=False))
    else:
        width = max(len(variant.name) for variant in REGISTRY)
        for variant in REGISTRY:
            print(f"{variant.name:<{width}}  {variant.summary}")
    return HELD


def _require_suite(command: str) -> None:
    """Raise `InputError` with what to install."""
    from projlab.errors import InputError

    if missing := _missing_from_suite():
        raise InputError(
            f"{command} needs the suite ({', '.join(missing)} missing); "
            "install it by `pip install projlab[suite]`"
        )


def _bench(options: argparse.Namespace) -> int:
    """Hand over to the checkout's benchmarks."""
    from projlab.errors import InputError

    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "benchmarks" / "command.py").is_file():
        raise InputError(
            "bench works from a checkout of projlab: the suite is its folder benchmarks/, which an "
            "installed wheel does not contain"
        )
    if str(checkout) not in sys.path:  # the console script's path has only what is installed
        sys.path.insert(0, str(checkout))
    from benchmarks import command

    return command.run(options)


def _missing_from_suite() -> list[str]:
    """Name what the suite extra lists and this environment lacks."""
    missing = []
    for requirement in importlib.metadata.requires("projlab") or ():
        name, _, marker = requirement.partition(";")
        if re.search(r"extra == ['\"]suite['\"]", marker):
            distribution = re.split(r"[^\w.-]", name.strip(), maxsplit=1)[0]
            try:
                importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                missing.append(distribution)
    return missing


def _chosen_variants(names: Sequence[str] | None) -> tuple[str, ...]:
    from projlab.engine.variants import get, variants

    return tuple(get(name).name for name in names) if names else variants()


def _chosen_problems(options: argparse.Namespace) -> "list[Problem]":
    from projlab.errors import InputError
    from projlab_validation.problems import catalogue
    from projlab_validation.profiles import PROFILES
    from projlab_validation.training import section

    dtypes: Sequence[Dtype] = options.dtype or PROFILES[options.profile].dtypes
    groups, names = options.group, options.problem
    if groups is not None:
        groups = [group for group in groups if group != TRAINING]
    if names is not None:
        names = [name for name in names if name not in section.NAMES]
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


def _usable_device(name: str) -> str:
    import torch

    from projlab.errors import InputError

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise InputError(f"--device {name} cannot be used here: {error}") from error
    return name


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def _positive_float(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _factor(text: str) -> float:
    factor = float(text)
    if not 1 <= factor < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no factor of at least 1")
    return factor
