"""What every test starts from."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import settings

# Small systems gain nothing from threads, and bits are comparable only at one thread count.
torch.set_num_threads(1)

# Deadlines measure the machine. In CI every run draws the same examples, so that a red one can be
# repeated.
settings.register_profile("projlab", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("projlab")


@pytest.fixture(autouse=True)
def torch_seed() -> None:
    """Each test draws the same numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def projlab_program():
    """The argument list that starts `projlab`; Python code may be run `before` it."""

    def program(before: str = "") -> list[str]:
        start = "import sys; from projlab.cli import main; sys.exit(main(sys.argv[1:]))"
        return [sys.executable, "-c", f"{before}\n{start}"]

    return program


@pytest.fixture(scope="session")
def projlab_command(projlab_program):
    """Run `projlab` as its users do, in a process of its own and in the folder `cwd`."""

    def run(*arguments, cwd, before: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*projlab_program(before), *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run
