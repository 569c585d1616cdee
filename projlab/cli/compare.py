"""`projlab compare`: every variant on somebody's own systems."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from projlab.cli.common import (
    BAD_INPUT,
    BROKE_CODE,
    FAILED,
    HELD,
    NOTHING_CHECKED,
    Command,
    chosen_variants,
    named_path,
    positive_integer,
    positive_number,
    print_json,
    require_suite,
    require_writable_folder,
    usable_device,
)
from projlab.errors import InputError

if TYPE_CHECKING:
    from projlab_validation.compare import Comparison, ComparisonOptions
    from projlab_validation.compare_bounds import BoundedComparison
    from projlab_validation.formats import StoredSystem
    from projlab_validation.problems.problem import Dtype

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
  .npz           dense: A, b, optionally x0 (or x) and names (of the rows); or what
                 scipy.sparse.save_npz writes (csr, csc, bsr, coo, dia), with b or --b
  .npy           A; b by --b
  .csv .tsv      a line a row; with a header line, a column b, and a column name if wanted
  .mtx           A; b by --b
  .mps           rows of type E, L and G by their names, RANGES and BOUNDS
  .mat           as npz, of version 7 or older; a struct by --key
  .pt .pth       a dict of tensors as in npz, loaded with weights_only; one inside by --key
  .safetensors   as npz, without names
csv, tsv, mtx and mps also with .gz or .bz2. Where a file has Aeq and beq, these are read.
Where it has G and h, lb or ub (an mps file has), the projection onto {{x : A x = b, G x <= h,
lb <= x <= ub}} is compared, in float64, with the solvers that are installed beside it by --peers.
NAME_b.* and NAME_x0.* beside NAME.* are its b and x0 where nothing else says.
A file that cannot be read is reported, and the others go on.

exit codes: 0 every answer is within its own theory; 1 one is not, or no variant reaches the
--accuracy asked for, here and in theory; 2 bad usage or bad input, a file that could not be read
among others included; 3 nothing was checked; {BROKE_CODE}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `projlab compare`."""
    add = parser.add_argument
    add("files", nargs="+", type=named_path, metavar="FILE", help="a system, or a folder of them")
    add(
        "--b",
        type=_file_or_number,
        metavar="FILE",
        help="the right-hand side, in any of the formats, or one number for every row",
    )
    add(
        "--b-error",
        type=_file_or_number,
        metavar="FILE",
        help="by how much b may be off, absolute, in a file or one number for every row "
        "(default: by its rounding)",
    )
    add(
        "--x0",
        type=_file_or_number,
        metavar="FILE",
        help="the point to project, or one number (default: the file's own, else standard normal)",
    )
    add(
        "--key",
        metavar="NAME",
        help="where in a file of named parts A and b are, as model or state.equations",
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
    add(
        "--equations",
        action="store_true",
        help="of a file with inequalities or bounds compare the variants on its equations alone",
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
        type=named_path,
        metavar="DIR",
        help="write compare.html and compare.json there (default: nothing is written)",
    )


def run(options: argparse.Namespace) -> int:
    """Read everything, compare file by file, and show."""
    require_suite("compare")
    from projlab.files.find import find
    from projlab_reports import comparison
    from projlab_validation import compare, environment
    from projlab_validation.progress import progress_bar

    files = find(options.files)
    if len(files) > 1 and (options.b is not None or options.x0 is not None):
        raise InputError(f"--b and --x0 belong to one system, and {len(files)} are given")
    if len(files) > 1 and isinstance(options.b_error, Path):
        raise InputError(f"a --b-error file belongs to one system, and {len(files)} are given")
    if options.out:
        require_writable_folder(options.out, "--out")
    asked = _asked(options)
    # The whole input is checked before anything is measured.
    jobs, unread = _jobs(files, options)
    for why in unread:
        print(f"projlab: {why}", file=sys.stderr)
    if not jobs:
        return BAD_INPUT
    comparisons, bounded = [], []
    with progress_bar(len(jobs)) as (bar, line):
        for system, dtype in jobs:
            bar.update(line, description=f"{system.path.name} {dtype}")
            if system.loaded.bounded:
                bounded.append(_compare_bounded(system, options))
            else:
                comparisons.append(compare.compare(system, dtype, asked))
            bar.update(line, advance=1)
    code = _exit_code([*comparisons, *bounded], unread)
    described = environment.describe(asked.device)
    described["threads per worker"] = str(options.threads or "as torch chooses")
    payload = compare.payload(comparisons, asked, described, code, unread, bounded)
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
        peers=tuple(p.spec for p in subjects.installed_peers() if p.equations)
        if options.peers
        else (),
        device=usable_device(options.device),
        accuracy=options.accuracy,
        threads=options.threads,
        time_limit=options.time_limit,
    )


def _jobs(
    files: Sequence[Path], options: argparse.Namespace
) -> "tuple[list[tuple[StoredSystem, Dtype]], list[str]]":
    """Return what is to be compared, in which dtype, and why each other file is not."""
    from projlab_validation import formats

    jobs, unread = [], []
    for file in files:
        try:
            system = formats.read(file, options.b, options.x0, options.key, options.b_error)
            if options.equations:
                system = system.equations_alone()
            if system.loaded.bounded:
                _require_plain(system, options)
                dtypes: Sequence[Dtype] = ("float64",)
            else:
                dtypes = options.dtype or (system.dtype,)
                for dtype in dtypes:
                    system.problem(dtype)
        except InputError as refusal:
            unread.append(str(refusal))
        else:
            jobs += [(system, dtype) for dtype in dtypes]
    return jobs, unread


def _require_plain(system: "StoredSystem", options: argparse.Namespace) -> None:
    """Refuse what is asked of equations alone, and a set that cannot be compared."""
    from projlab_validation.compare_bounds import problem_of

    said = {
        "--variants": options.variants is not None,
        "--b-error": options.b_error is not None,
        "--dtype float32": "float32" in (options.dtype or ()),
        f"--device {options.device}": options.device != "cpu",
    }
    for name, is_said in said.items():
        if is_said:
            raise InputError(
                f"{system.path} holds inequalities or bounds, which {name} is not for; "
                "--equations compares its equations alone"
            )
    problem_of(system)


def _compare_bounded(system: "StoredSystem", options: argparse.Namespace) -> "BoundedComparison":
    from projlab_validation.compare_bounds import compare

    return compare(
        system,
        peers=options.peers,
        accuracy=options.accuracy,
        threads=options.threads,
        time_limit=options.time_limit,
    )


def _exit_code(
    comparisons: "Sequence[Comparison | BoundedComparison]", unread: Sequence[str]
) -> int:
    if any(comparison.failed for comparison in comparisons):
        return FAILED
    if unread:
        return BAD_INPUT
    return HELD if any(comparison.checked for comparison in comparisons) else NOTHING_CHECKED


def _file_or_number(text: str) -> float | Path:
    """Return a number where the text is one: no file of a known format has such a name."""
    from projlab.files.tokens import number

    try:
        return number(text)
    except ValueError:
        return Path(text)


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
    no_room="no part of a page is left behind; compare again once there is room",
)
