"""`projlab compare`: every variant on somebody's own systems."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from projlab.cli.common import (
    BROKE_CODE,
    FAILED,
    HELD,
    NOTHING_CHECKED,
    Command,
    chosen_variants,
    positive_integer,
    positive_number,
    print_json,
    require_suite,
    usable_device,
)
from projlab.errors import InputError

if TYPE_CHECKING:
    from projlab_validation.compare import Comparison, ComparisonOptions

EPILOG = f"""
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

exit codes: 0 every answer is within its own theory; 1 one is not, or no variant reaches the
--accuracy asked for, here and in theory; 2 bad usage or bad input;
3 nothing was checked; {BROKE_CODE}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `projlab compare`."""
    add = parser.add_argument
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
        type=positive_number,
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
    add("--threads", type=positive_integer, metavar="N", help="threads (default: as torch chooses)")
    add(
        "--time-limit",
        type=positive_number,
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


def run(options: argparse.Namespace) -> int:
    """Read everything, compare file by file, and show."""
    require_suite("compare")
    from projlab_reports import comparison
    from projlab_validation import compare, environment, formats
    from projlab_validation.progress import progress_bar

    files = formats.find(options.files)
    if len(files) > 1 and (options.b or options.x0):
        raise InputError(f"--b and --x0 belong to one system, and {len(files)} are given")
    if options.out and options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file; it takes a folder")
    asked = _asked(options)
    systems = [formats.read(file, options.b, options.x0) for file in files]
    # The whole input is checked before anything is measured.
    jobs = [(system, dtype) for system in systems for dtype in options.dtype or (system.dtype,)]
    for system, dtype in jobs:
        system.problem(dtype)
    comparisons = []
    with progress_bar(len(jobs)) as (bar, line):
        for system, dtype in jobs:
            bar.update(line, description=f"{system.path.name} {dtype}")
            comparisons.append(compare.compare(system, dtype, asked))
            bar.update(line, advance=1)
    code = _exit_code(comparisons)
    described = environment.describe(asked.device)
    described["threads per worker"] = str(options.threads or "as torch chooses")
    payload = compare.payload(comparisons, asked, described, code)
    if options.json:
        print_json(payload)
    else:
        comparison.show(payload)
    if options.out:
        page = comparison.write(payload, options.out)
        print(f"Page: {page}", file=sys.stderr if options.json else sys.stdout)
    return code


def _asked(options: argparse.Namespace) -> "ComparisonOptions":
    """Return what every system is to be compared by."""
    from projlab_validation import compare, subjects

    return compare.ComparisonOptions(
        variants=chosen_variants(options.variants),
        peers=tuple(p.spec for p in subjects.installed_peers()) if options.peers else (),
        device=usable_device(options.device),
        accuracy=options.accuracy,
        threads=options.threads,
        time_limit=options.time_limit,
    )


def _exit_code(comparisons: "Sequence[Comparison]") -> int:
    if any(comparison.failed for comparison in comparisons):
        return FAILED
    return HELD if any(comparison.checked for comparison in comparisons) else NOTHING_CHECKED


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


COMMAND = Command(
    name="compare",
    help="compare the variants on your own system, and say which one to use",
    description="Compare the variants on your own system A x = b, and say which one to use.",
    epilog=EPILOG,
    add_arguments=add_arguments,
    run=run,
    interrupted="nothing was written",
)
