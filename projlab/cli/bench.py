"""`projlab bench`: hand over to the checkout's benchmarks."""

import argparse
import math
import sys
from pathlib import Path

from projlab.cli.common import (
    BROKE_CODE,
    Command,
    named_path,
    positive_integer,
    require_suite,
)
from projlab.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[2]
"""Where `benchmarks/` is, if projlab is imported from a checkout."""

EPILOG = (
    """
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

It needs a checkout, whose folder benchmarks/ no wheel contains, and works from any folder. Every
library runs with --threads threads. A regression is a figure beyond the noise of both results; a
figure that failed, because an answer was wrong say, is one too. Where the machine's own benchmarks
differ, or two results of one commit do, it is too noisy to tell.

exit codes: 0 all held; 1 a benchmark failed, a figure regressed or a target was missed; 2 bad usage
or bad input; 3 nothing was measured, nothing can be compared, or it is too noisy to tell;
"""
    + BROKE_CODE
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `projlab bench`."""
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--quick", action="store_true", help="the suite on small systems (minutes)")
    what.add_argument("--full", action="store_true", help="the whole suite (an hour or more)")
    what.add_argument(
        "--compare",
        nargs=2,
        type=named_path,
        metavar=("BEFORE", "AFTER"),
        help="compare two of asv's results",
    )
    what.add_argument(
        "--targets", nargs="*", metavar="ID", help="measure the target table, or these rows of it"
    )
    add("--out", type=named_path, metavar="DIR", help="folder for the results (default: .asv)")
    add("--filter", metavar="REGEX", help="only benchmarks whose name and parameters match")
    add("--verbose", action="store_true", help="show why benchmarks fail or are skipped")
    add(
        "--threads",
        type=positive_integer,
        default=1,
        metavar="N",
        help="of every library (default: 1)",
    )
    add(
        "--margin",
        type=_factor,
        metavar="FACTOR",
        help="with --compare: how much more than the noise seen is a regression (default: 1.15)",
    )
    add(
        "--write",
        type=named_path,
        metavar="FILE",
        help="with --targets: put the table into this file",
    )
    add("--json", action="store_true", help="print the outcome as JSON instead of text")


def run(options: argparse.Namespace) -> int:
    """Hand over to the checkout's benchmarks."""
    if not (CHECKOUT / "benchmarks" / "command.py").is_file():
        raise InputError(
            "bench needs a checkout of projlab, with git: the suite is its folder benchmarks/, "
            f"which an installed wheel does not contain (projlab is imported from {CHECKOUT}). "
            "Clone it, `pip install -e '.[suite,bench]'` there, and call `projlab bench` from any "
            "folder"
        )
    require_suite("bench")
    if str(CHECKOUT) not in sys.path:  # the console script's path has only what is installed
        sys.path.insert(0, str(CHECKOUT))
    from benchmarks import command

    return command.run(options)


def _factor(text: str) -> float:
    factor = float(text)
    if not 1 <= factor < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no factor of at least 1")
    return factor


COMMAND = Command(
    name="bench",
    help="measure times, memory and ratios to peers, and compare two such results",
    description="Measure times, memory and ratios to peers, and compare two such results.",
    epilog=EPILOG,
    add_arguments=add_arguments,
    run=run,
    interrupted="nothing was stored",
    no_room="what was stored before is whole; measure again once there is room",
)
