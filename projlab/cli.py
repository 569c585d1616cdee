"""The command line: it starts without torch, and imports the suite where a command needs it."""

import argparse
import importlib.metadata
import json
import math
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projlab import __version__

if TYPE_CHECKING:
    from projlab_reports.summary import Summary
    from projlab_validation.problems import Problem
    from projlab_validation.problems.problem import Dtype

HELD, FAILED, BAD_INPUT, NOTHING_CHECKED = range(4)
INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended

EXIT_CODES = (
    "exit codes: 0 all held; 1 a check failed; 2 bad usage or bad input; 3 nothing was checked"
)

TOP = f"""
examples:
  projlab variants
  projlab validate --profile quick

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
  projlab validate --subject mypackage.layers:project --out DIR
      somebody else's project(x, A, b), with the same problems, oracles and judge: dense tensors A
      (m, n), b (m,), x (n,) or (k, n); the module is looked for in the current folder too

DIR then holds report.md, its figures, verdicts.parquet (every record with its verdict) and what a
resumed run needs. A DIR that holds a run already is refused without --resume or --overwrite.

{EXIT_CODES}
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
        hint = "; --resume goes on with what is measured already"
        print(f"projlab: interrupted{hint if hasattr(options, 'resume') else ''}", file=sys.stderr)
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
        help="how much (default: quick)",
    )
    add("--out", type=Path, metavar="DIR", help="folder for the results (default: runs/PROFILE)")
    add("--jobs", type=_positive, metavar="N", help="worker processes (default: all cores)")
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
    add("--device", default="cpu", help="torch device that the variants run on (default: cpu)")
    add("--json", action="store_true", help="print the outcome as JSON instead of a table")
    validate.set_defaults(command=_validate)

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
    bench.set_defaults(command=_bench)

    variants = commands.add_parser(
        "variants",
        help="list the ways to project",
        description="List the ways to project, by the name that `variant=` takes.",
        epilog=VARIANTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    variants.add_argument("--json", action="store_true", help="print JSON instead of a table")
    variants.set_defaults(command=_variants)
    return parser


def _validate(options: argparse.Namespace) -> int:
    """Measure, judge and report."""
    if missing := _missing_from_suite():
        print(
            f"projlab: validate needs the suite ({', '.join(missing)} missing); "
            "install it by `pip install projlab[suite]`",
            file=sys.stderr,
        )
        return BAD_INPUT
    from projlab_reports import markdown, terminal
    from projlab_reports.summary import Summary
    from projlab_validation import environment, judge, runner, store, subjects
    from projlab_validation.profiles import PROFILES

    profile = PROFILES[options.profile]
    if options.subject:
        subjects.load(options.subject)
        variants: tuple[str, ...] = (options.subject,)
    else:
        variants = _chosen_variants(options.variant)
    device = _usable_device(options.device)
    problems = _chosen_problems(options)
    if not problems:
        print("projlab: nothing to check: no problem is in all of these at once", file=sys.stderr)
        return NOTHING_CHECKED

    folder = options.out or Path("runs") / profile.name
    header = {"profile": profile.name, "device": device}
    if options.subject:
        header["subject"] = options.subject
    opened = store.Store.create(folder, header, resume=options.resume, overwrite=options.overwrite)
    description = environment.describe(device, options.subject)
    identity = environment.identity(description)
    opened.describe_environment(identity, description)
    runner.run(
        problems, variants, profile, opened, jobs=options.jobs, environment=identity, device=device
    )

    records = store.read(folder)
    verdicts = judge.judge(records[records["environment"] == identity])
    verdicts_path = opened.write_verdicts(verdicts)
    summary = Summary(verdicts, header, description)
    report = markdown.write(summary, folder)
    code = _exit_code(summary)
    if options.json:
        print(
            json.dumps(_outcome(summary, code, report, verdicts_path), indent=2, ensure_ascii=False)
        )
    else:
        terminal.show(summary, report)
    return code


def _exit_code(summary: "Summary") -> int:
    if summary.totals["fail"]:
        return FAILED
    return HELD if summary.checked else NOTHING_CHECKED


def _outcome(summary: "Summary", code: int, report: Path, verdicts: Path) -> dict[str, Any]:
    """What a program reads of a run; a missing figure is null."""

    def plain(rows: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
        return [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
            for row in rows
        ]

    return {
        "headline": summary.headline,
        "exit_code": code,
        **summary.header,
        "totals": summary.totals,
        "variants": plain(summary.by_variant.to_dict("records")),
        "failures": plain(summary.failures.to_dict("records")),
        "report": str(report),
        "verdicts": str(verdicts),
    }


def _variants(options: argparse.Namespace) -> int:
    """List the registry."""
    from projlab.variants import REGISTRY

    if options.json:
        listed = [{"name": variant.name, "summary": variant.summary} for variant in REGISTRY]
        print(json.dumps(listed, indent=2, ensure_ascii=False))
    else:
        width = max(len(variant.name) for variant in REGISTRY)
        for variant in REGISTRY:
            print(f"{variant.name:<{width}}  {variant.summary}")
    return HELD


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
    from projlab.variants import get, variants

    return tuple(get(name).name for name in names) if names else variants()


def _chosen_problems(options: argparse.Namespace) -> "list[Problem]":
    from projlab.errors import InputError
    from projlab_validation.problems import catalogue
    from projlab_validation.profiles import PROFILES

    dtypes: Sequence[Dtype] = options.dtype or PROFILES[options.profile].dtypes
    try:
        return list(catalogue(options.group, options.problem, dtypes))
    except ValueError as error:
        raise InputError(str(error)) from error


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


def _factor(text: str) -> float:
    factor = float(text)
    if not 1 <= factor < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no factor of at least 1")
    return factor
