"""`projlab bench`: run asv here, compare two of its results, measure the target table."""

import argparse
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.parameters import LARGE
from projlab.cli.common import print_json
from projlab.errors import InputError
from projlab_reports import regressions
from projlab_reports.asv import CHANGES, CLEAN, YARDSTICK, read

ROOT = Path(__file__).resolve().parents[1]
HELD, FAILED, BAD_INPUT, NOTHING = range(4)

QUICK = [
    f"--attribute={setting}"
    for setting in ("rounds=2", "repeat=(2, 6, 0.1)", "sample_time=0.002", "warmup_time=0.01")
]
"""asv's own settings, for a run of minutes: fewer and shorter samples."""

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def run(options: argparse.Namespace) -> int:
    """Do what the options of `projlab bench` ask for."""
    _refuse_misplaced(options)
    if options.compare:
        return _compare(options)
    if options.targets is not None:
        return _targets(options)
    return _suite(options)


def _refuse_misplaced(options: argparse.Namespace) -> None:
    """An option that would be ignored is a mistake."""
    suite = options.quick or options.full
    for given, name, fits in (
        (options.out, "--out", suite),
        (options.filter, "--filter", suite),
        (options.verbose or None, "--verbose", suite),
        (options.margin, "--margin", options.compare),
        (options.write, "--write", options.targets is not None),
    ):
        if given is not None and not fits:
            raise InputError(f"{name} does nothing here; see `projlab bench --help`")
    if options.filter is not None:
        try:
            re.compile(options.filter)
        except re.error as error:
            raise InputError(f"--filter {options.filter!r}: {error}") from error
    if options.write is not None and options.targets:
        raise InputError("--write writes the whole table: name no rows of it")


def _compare(options: argparse.Namespace) -> int:
    before, after = (read(path) for path in options.compare)
    found = regressions.compare(before, after, options.margin or regressions.MARGIN)
    if options.json:
        print_json(regressions.plain(found))
    else:
        print(regressions.text(found))
    return found.exit_code


def _suite(options: argparse.Namespace) -> int:
    """Run the suite by asv, in this environment, at the commit that is checked out."""
    _require_asv()
    commit, changes = _commit()
    out = (options.out or ROOT / ".asv").resolve()
    out.mkdir(parents=True, exist_ok=True)
    configuration = _configure(out)
    environment = _environment(options.threads)
    if changes != CLEAN:
        print(
            f"projlab: uncommitted changes are measured too, and stored under {commit[:12]}",
            file=sys.stderr,
        )
    asv = [sys.executable, "-m", "asv"]
    # Standard output is for what a program reads.
    to = sys.stderr if options.json else None
    described = subprocess.run(
        [*asv, "machine", "--config", str(configuration), "--yes"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=out,
    )
    if described.returncode:
        said = (described.stderr or described.stdout).strip().splitlines()
        raise InputError(
            f"asv cannot describe the machine, which it keeps in ~/.asv-machine.json: "
            f"{said[-1] if said else 'it does not say why'}"
        )
    command = [*asv, "run", "--config", str(configuration), "--python=same"]
    command += ["--show-stderr"] if options.verbose else []
    command += ["--set-commit-hash", commit, "--machine", platform.uname().node]
    command += _pinned(options.threads)
    command += ["--bench", selection(options.quick, options.filter)]
    command += QUICK if options.quick else []
    stamp = _stamps(out)
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=to, check=False, cwd=out
    )
    written = [path for path, when in _stamps(out).items() if stamp.get(path) != when]
    if len(written) != 1:
        raise InputError(
            f"asv stored no result (exit code {done.returncode}); its messages say why"
        )
    _record_versions(written[0], changes)
    figures = read(written[0]).figures
    failed = sorted(name for name, figure in figures.items() if not figure.measured)
    measured = any(not name.startswith(YARDSTICK) for name in figures)
    code = FAILED if failed else HELD if measured else NOTHING
    if options.json:
        outcome = {
            "format": regressions.FORMAT,
            "exit_code": code,
            "result": str(written[0]),
            "commit": commit,
            "uncommitted_changes": changes != CLEAN,
            "threads": options.threads,
            "measured": len(figures) - len(failed),
            "failed": failed,
        }
        print_json(outcome)
    else:
        print(f"\n{len(figures) - len(failed)} figures measured, {len(failed)} failed")
        print("".join(f"  failed: {name}\n" for name in failed), end="")
        if failed and not options.verbose:
            print("  --verbose shows why")
        print(f"result: {written[0]}")
    return code


def _record_versions(result: Path, changes: str) -> None:
    """Put into asv's own field what is installed: in an existing environment it knows nothing.

    And whether it was the commit alone that was measured.
    """
    content = json.loads(result.read_text(encoding="utf-8"))
    content["requirements"] = {
        "Python": platform.python_version(),
        **table.installed(),
        CHANGES: changes,
    }
    whole = result.with_suffix(".part")
    whole.write_text(json.dumps(content) + "\n", encoding="utf-8")
    whole.replace(result)


def _cuda() -> bool:
    """Whether a CUDA device can be used; asked in another process, which may be left with one."""
    program = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    return asked.returncode == 0


def _stamps(out: Path) -> dict[Path, int]:
    """When each result was last written."""
    results = out.joinpath("results").rglob("*-existing-*.json")
    return {path: path.stat().st_mtime_ns for path in results}


def _require_asv() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import asv"], capture_output=True, check=False
    ).returncode
    if found:
        raise InputError("bench needs asv; install it by `pip install 'projlab[bench]'`")


def _commit() -> tuple[str, str]:
    """The commit checked out, and a hash of what differs from it; `CLEAN` where nothing does."""
    try:
        changed = _git("status", "--porcelain", "--untracked-files=all")
        differences = _git("diff", "HEAD", "--no-color")
        head = _git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"{ROOT} is no git checkout; asv stores what it measures by commit"
        ) from error
    if not changed:
        return head, CLEAN
    digest = hashlib.sha256(f"{changed}\n{differences}".encode())
    for line in changed.splitlines():
        path = ROOT / line[3:]
        if line.startswith("??") and path.is_file():
            digest.update(path.read_bytes())
    return head, digest.hexdigest()[:12]


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
    ).stdout.rstrip()


def _configure(out: Path) -> Path:
    """The project's asv.conf.json with absolute paths, its results under `out`."""
    settings = json.loads((ROOT / "asv.conf.json").read_text(encoding="utf-8"))
    settings["repo"] = str(ROOT)
    settings["benchmark_dir"] = str(ROOT / "benchmarks")
    for folder in ("results", "env", "html"):
        settings[f"{folder}_dir"] = str(out / folder)
    path = out / "asv.conf.json"
    path.write_text(json.dumps(settings, indent=4) + "\n", encoding="utf-8")
    return path


def _environment(threads: int) -> dict[str, str]:
    """Every library at the same number of threads, and this checkout first on the path."""
    environment = dict(os.environ)
    environment.update(dict.fromkeys(POOLS, str(threads)))
    if threads == 1:
        flags = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    paths = [str(ROOT), str(ROOT / "reports"), environment.get("PYTHONPATH", "")]
    # asv hands its processes the second one of these, and not the first.
    for name in ("PYTHONPATH", "ASV_PYTHONPATH"):
        environment[name] = os.pathsep.join(path for path in paths if path)
    return environment


def _pinned(threads: int) -> list[str]:
    """As many cores as threads, so that no library's pool has more, where the system can say so."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    return ["--cpu-affinity", ",".join(str(core) for core in cores)]


def selection(quick: bool, pattern: str | None) -> str:
    """A regular expression over asv's `module.Class.method(parameters)`."""
    wanted = f"(?=.*(?:{pattern}))" if pattern else ""
    # Without its yardsticks a result cannot be compared.
    if not quick:
        return rf"^(?:yardstick\.|{wanted})"
    left_out = [f"'{size}'" for size in LARGE]
    # What takes long, and seldom moves alone: wide batches, and all but a few cells of the peers.
    left_out += ["'1e7'", r"\b1024\b", r"ratios\.Peers.*'(?:float32|1x10|3x10)'"]
    left_out += [r"ratios\.Peers.*'100x1000', '(?:shared|distinct)'"]
    if not _cuda():
        left_out.append("'cuda'")
    return rf"^(?:yardstick\.|(?!.*(?:{'|'.join(left_out)})){wanted})"


def _targets(options: argparse.Namespace) -> int:
    """Measure the target table in a process of its own, with the threads asked for."""
    if options.write:
        table.split(options.write)
    command = [sys.executable, "-m", "benchmarks.targets", "--threads", str(options.threads)]
    measured = subprocess.run(
        [*command, *options.targets],
        env=_environment(options.threads),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if measured.returncode == BAD_INPUT:
        return BAD_INPUT  # it has said why
    try:
        found: dict[str, Any] = json.loads(measured.stdout)
    except ValueError as error:
        raise InputError(
            f"the targets' measurement ended with exit code {measured.returncode}"
        ) from error
    if options.write:
        table.write(options.write, found)
    code = target_code(found)
    told = {"format": regressions.FORMAT, "exit_code": code, **found}
    if options.json:
        print_json(told)
    else:
        print(table.text(found))
    return code


def target_code(found: Mapping[str, Any]) -> int:
    """0 every target met, 1 one missed, 3 none measured."""
    measured = [row for row in found["rows"] if row["wrong"] or row["worst"] is not None]
    if not measured:
        return NOTHING
    return HELD if all(row["met"] for row in measured) else FAILED
