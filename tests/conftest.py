"""What every test starts from, and the marker of tests that need more than `make setup` brings."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from typing import Any

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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make test-all` insist on what it has installed."""
    parser.addoption(
        "--nothing-missing",
        action="store_true",
        help="fail a test marked `needs` that would be skipped, instead of skipping it",
    )
    parser.addoption(
        "--device",
        default="cuda",
        choices=("cuda", "pretended"),
        help="what tests marked `gpu` run on; a pretended device changes the process: -m gpu",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need what is not here, and those of hours that nobody asked for."""
    without_device = ""
    if any(item.get_closest_marker("gpu") for item in items):
        from tests.projlab.devices.device import unavailable

        without_device = unavailable(items[0].config.getoption("device")) or ""
    for item in items:
        if without_device and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=without_device))
        if item.get_closest_marker("full") and "full" not in item.config.option.markexpr:
            item.add_marker(pytest.mark.skip(reason="takes hours; -m full asks for it"))
        missing = [name for marker in item.iter_markers("needs") for name in _missing(marker)]
        if missing:
            reason = f"{', '.join(missing)} not installed; `make test-all` installs it"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    """Where nothing may be missing, a test marked `needs` that is skipped has failed."""
    report = yield
    insists = item.config.getoption("nothing_missing") and item.get_closest_marker("needs")
    if insists and report.skipped and not hasattr(report, "wasxfail"):
        assert isinstance(report.longrepr, tuple)  # file, line and reason
        report.outcome = "failed"
        report.longrepr = f"skipped, where nothing may be missing: {report.longrepr[-1]}"
    return report


def _missing(marker: pytest.Mark) -> list[str]:
    """Of `needs("package", ..., programs=("name", "other name of it"))`, what is not here."""
    missing = [name for name in marker.args if importlib.util.find_spec(name) is None]
    programs: tuple[str, ...] = marker.kwargs.get("programs", ())
    return missing if not programs or any(map(shutil.which, programs)) else [*missing, programs[0]]
