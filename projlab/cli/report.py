"""`projlab report`: render what was measured as a page."""

import argparse

from projlab.cli.common import (
    BROKE_CODE,
    Command,
    named_path,
    print_json,
    require_suite,
)

EPILOG = f"""
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
usage or bad input, and nothing was written; 3 nothing was checked, or there is nothing to compare;
{BROKE_CODE}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `projlab report`."""
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        type=named_path,
        metavar="RESULT",
        help="a run's folder, compare.json, or asv's results: a folder of them or one file",
    )
    add(
        "--out",
        type=named_path,
        metavar="FILE|DIR",
        help="where to (default: the last one's folder)",
    )
    add("--json", action="store_true", help="print the outcome as JSON")


def run(options: argparse.Namespace) -> int:
    """Render, write, and say where."""
    require_suite("report")
    from projlab_reports import publish

    published = publish.publish(options.runs, options.out)
    if options.json:
        print_json(published.outcome)
    else:
        print(published.headline)
        print("\n".join(f"Page: {path}" for path in published.pages))
    return published.exit_code


COMMAND = Command(
    name="report",
    help="render a run or benchmarks as a page, or the difference between several",
    description="Render a run, a comparison or benchmark results as a self-contained page, or "
    "the difference between several.",
    epilog=EPILOG,
    add_arguments=add_arguments,
    run=run,
    no_room="no part of a page is left behind, and what was measured is as it was; render it again "
    "once there is room",
)
