"""Whether the tests notice small faults: `python -m tests.mutants MODULE --tests PATH...`.

    python -m tests.mutants projlab/tolerance.py --tests tests/projlab/test_tolerance.py --count 20

cosmic-ray (`pip install cosmic-ray`, in no extra) makes the faults: a comparison turned round, a
number off by one, a `not` more. A sample of them, drawn by seed, is planted one by one in a copy of
the package; the tests that are named must fail or hang. Survivors are shown as a difference, and
the exit code is 1 where there are any.
"""

import argparse
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SKIPPED = ("core/NumberReplacer", "core/RemoveDecorator")
"""Left to `--all`: a digit in a derived constant, and the order in which classes are decorated."""


def faults(code: str, *, every: bool) -> list[tuple[str, int]]:
    """(operator, number of the place) for all faults that can be planted."""
    from cosmic_ray.ast import get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    tree = nodes(get_ast(code))
    found = []
    for name in sorted(operator_names()):
        kind = get_operator(name)
        # those with arguments are told which names to put where
        if kind.arguments() or (name in SKIPPED and not every):
            continue
        operator = kind()
        places = sum(len(list(operator.mutation_positions(node))) for node in tree)
        found += [(name, i) for i in range(places)]
    return found


def planted(code: str, name: str, place: int) -> str:
    """The module's text with one fault."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    mutant = mutate_code(code.encode(), get_operator(name)(), place)
    assert mutant is not None
    return mutant.decode() if isinstance(mutant, bytes) else str(mutant)


def nodes(tree: object) -> list[object]:
    """The tree's nodes, outermost first."""
    return [tree, *(n for child in getattr(tree, "children", ()) for n in nodes(child))]


def killed(folder: Path, tests: list[str], seconds: float) -> bool:
    """Whether the tests fail on the copy in a folder."""
    paths = [str(folder), str(ROOT / "validation"), str(ROOT / "reports"), str(ROOT)]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def main() -> int:
    """Plant a sample, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", type=Path)
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="after which a run hangs")
    parser.add_argument("--all", action="store_true", help="numbers and decorators as well")
    options = parser.parse_args()
    code = (ROOT / options.module).read_text(encoding="utf-8")
    sample = faults(code, every=options.all)
    total = len(sample)
    random.Random(options.seed).shuffle(sample)  # noqa: S311  nothing secret
    sample = sample[: options.count]
    survivors = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("projlab", "tests"):
            shutil.copytree(ROOT / name, folder / name)
        shutil.copy(ROOT / "pyproject.toml", folder)
        if killed(folder, options.tests, options.seconds):
            print("the tests fail without a fault")
            return 2
        for name, place in sample:
            text = planted(code, name, place)
            (folder / options.module).write_text(text, encoding="utf-8")
            if not killed(folder, options.tests, options.seconds):
                survivors += 1
                lines = difflib.unified_diff(
                    code.splitlines(), text.splitlines(), f"{name} {place}", n=0
                )
                print("\n".join(lines), flush=True)
    print(f"{options.module}: {len(sample) - survivors} of {len(sample)} killed, of {total}")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
