"""Whether the tests notice small faults: `python -m tests.mutants MODULE... --tests PATH...`.

    python -m tests.mutants projlab/tolerance.py --tests tests/projlab/test_tolerance.py --count 20
    python -m tests.mutants proof  # a group of modules, and the tests that go with it

cosmic-ray (`pip install cosmic-ray`, in no extra) makes the faults: a comparison turned round, a
number off by one, a `not` more. A sample of them, drawn by seed from all modules together, is
planted one by one in a copy of the package; the tests that are named must fail or hang. Faults that
keep the module from being imported, as most in annotations do, say nothing of tests: others are
drawn instead. Survivors are shown as a difference, and the exit code is 1 where there are any.
"""

import argparse
import difflib
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SKIPPED = ("core/NumberReplacer", "core/RemoveDecorator")
"""Left to `--all`: a digit in a derived constant, and the order in which classes are decorated."""

COSTLY = ("pytest", "torch", "scipy.sparse.linalg", "numba", "mpmath")
"""Imported once, before a process is forked for each fault."""


GROUPS = {
    "tolerance": (["projlab/tolerance.py"], ["test_tolerance.py"]),
    "rank": (["projlab/system/rank.py"], ["system/test_rank.py"]),
    "proof": (["projlab/proof/*.py"], ["proof", "engine/polyhedra/test_general.py"]),
    "variants": (
        ["projlab/engine/variants/*.py"],
        [
            "engine/variants",
            "engine/test_sparse.py",
            "engine/test_autograd.py::test_gradients_in_batches_and_again",
        ],
    ),
    "partition": (
        ["projlab/training/partition.py"],
        ["training/test_partition.py", "training/test_sparse_blocks.py", "training/blocks"],
    ),
    "hooks": (
        ["projlab/training/hooks.py"],
        [
            "training/test_hooks.py",
            "training/test_handle.py",
            "training/test_wrappers.py",
            "training/test_several_optimizers.py",
            "training/test_copies.py",
            "training/test_sleeping.py",
            "training/test_residual_log.py",
            "training/test_inequalities.py::test_decay_and_ascent_are_taken_into_account",
            "training/test_multipliers.py::test_ascent_prices_minus_the_objective",
            "training/test_multipliers.py::test_before_any_gradient_and_after_a_step_is_refused",
            "training/test_multipliers.py::test_several_optimizers_and_handles",
            "training/test_multipliers.py::"
            "test_modes_that_leave_gradients_alone_are_asked_at_any_time",
        ],
    ),
}
"""Modules, and the quickest tests (in `tests/projlab`) of most that they do."""


class Fault(NamedTuple):
    """One that can be planted."""

    module: Path
    operator: str
    place: int
    """Number of the place among those where the operator applies."""


class Outcome(IntEnum):
    """What became of a module with a fault; the exit code of the process that tried it."""

    SURVIVED = 0
    KILLED = 1
    STILLBORN = 2


def faults(module: Path, *, every: bool) -> list[Fault]:
    """All that can be planted in a module."""
    from cosmic_ray.ast import get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    tree = nodes(get_ast((ROOT / module).read_text(encoding="utf-8")))
    found = []
    for name in sorted(operator_names()):
        kind = get_operator(name)
        # those with arguments are told which names to put where
        if kind.arguments() or (name in SKIPPED and not every):
            continue
        operator = kind()
        places = sum(len(list(operator.mutation_positions(node))) for node in tree)
        found += [Fault(module, name, i) for i in range(places)]
    return found


def planted(code: str, fault: Fault) -> str:
    """The module's text with one fault."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    mutant = mutate_code(code.encode(), get_operator(fault.operator)(), fault.place)
    assert mutant is not None
    return mutant.decode() if isinstance(mutant, bytes) else str(mutant)


def nodes(tree: object) -> list[object]:
    """The tree's nodes, outermost first."""
    return [tree, *(n for child in getattr(tree, "children", ()) for n in nodes(child))]


def outcome(folder: Path, module: Path, tests: list[str], seconds: float) -> Outcome:
    """Of the tests, on the copy in a folder, in a process of their own."""
    process = multiprocessing.get_context("fork").Process(
        target=_try, args=(folder, module, tests), daemon=False
    )
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return Outcome(process.exitcode) if process.exitcode in (0, 2) else Outcome.KILLED


def _try(folder: Path, module: Path, tests: list[str]) -> None:
    """Exit with the outcome."""
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    os.chdir(folder)
    paths = [str(folder), str(ROOT / "validation"), str(ROOT / "reports"), str(ROOT)]
    sys.path[:0] = paths
    sys.dont_write_bytecode = True
    # hypothesis draws the same examples for every fault, as it does in CI
    os.environ.update(PYTHONPATH=os.pathsep.join(paths), PYTHONDONTWRITEBYTECODE="1", CI="true")
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    try:
        importlib.import_module(".".join(module.with_suffix("").parts).removesuffix(".__init__"))
    except BaseException:  # whatever it is, no test was asked
        os._exit(Outcome.STILLBORN)
    import pytest

    failed = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests])
    os._exit(Outcome.KILLED if failed else Outcome.SURVIVED)


def nearest_first(module: Path, tests: list[str]) -> list[str]:
    """The tests, those in the file that mirrors the module before others."""
    mirror = "tests" / module.with_name(f"test_{module.name}")
    folders = [Path(test.partition("::")[0]) for test in tests]
    named = any(folder == mirror or folder in mirror.parents for folder in folders)
    return [str(mirror), *tests] if named and (ROOT / mirror).exists() else tests


def chosen(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> tuple[list[Path], list[str]]:
    """Modules and tests, those of groups written out."""
    modules: list[Path] = []
    tests: list[str] = list(options.tests)
    for name in options.modules:
        patterns, own = GROUPS.get(name, ([name], []))
        modules += [
            path.relative_to(ROOT) for pattern in patterns for path in sorted(ROOT.glob(pattern))
        ]
        tests += [f"tests/projlab/{test}" for test in own]
    if not modules or not tests:
        parser.error(f"no module, or no tests; groups are {', '.join(GROUPS)}")
    return modules, tests


def main() -> int:
    """Plant a sample, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="+", help=f"files, or {', '.join(GROUPS)}")
    parser.add_argument("--tests", nargs="+", default=[])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300.0, help="after which a run hangs")
    parser.add_argument("--all", action="store_true", help="numbers and decorators as well")
    options = parser.parse_args()
    modules, tests = chosen(parser, options)
    every = [fault for module in modules for fault in faults(module, every=options.all)]
    # a fault's turn is its own: it does not depend on what other modules hold
    every.sort(key=lambda fault: random.Random(f"{options.seed} {fault}").random())  # noqa: S311
    for name in COSTLY:
        importlib.import_module(name)
    tried = killed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("projlab", "tests"):
            shutil.copytree(ROOT / name, folder / name)
        shutil.copy(ROOT / "pyproject.toml", folder)
        if outcome(folder, modules[0], tests, options.seconds):
            print("the tests fail without a fault")
            return 2
        for fault in every:
            if tried == options.count:
                break
            code = (ROOT / fault.module).read_text(encoding="utf-8")
            text = planted(code, fault)
            if text.replace("strict=False", "strict=True") == code:
                continue  # what was asserted only
            (folder / fault.module).write_text(text, encoding="utf-8")
            order = nearest_first(fault.module, tests)
            found = outcome(folder, fault.module, order, options.seconds)
            (folder / fault.module).write_text(code, encoding="utf-8")
            if found is Outcome.STILLBORN:
                continue
            tried += 1
            killed += found is Outcome.KILLED
            if found is Outcome.SURVIVED:
                title = f"{fault.module} {fault.operator} {fault.place}"
                lines = difflib.unified_diff(code.splitlines(), text.splitlines(), title, n=0)
                print("\n".join(lines), flush=True)
    share = f"{killed / tried:.0%}" if tried else "none tried"
    print(f"{killed} of {tried} killed ({share}), of {len(every)} that could be planted")
    return int(killed < tried)


if __name__ == "__main__":
    sys.exit(main())
