"""Tests that need what `make setup` leaves out are skipped by name; `make test-all` runs them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
TESTS = """
import pytest

@pytest.mark.needs("no_such_package", "pytest", programs=("no-such-program", "nor-this"))
def test_absent():
    raise AssertionError("it was run")

@pytest.mark.needs("pytest", programs=("no-such-program", "sh"))
def test_present():
    pass

@pytest.mark.needs("pytest")
def test_that_skips_itself():
    pytest.skip("of its own accord")

def test_that_needs_nothing():
    pytest.skip("no CUDA here")
"""


def outcomes(folder: Path, *options: str) -> str:
    (folder / "conftest.py").write_text((HERE / "conftest.py").read_text("utf-8"), "utf-8")
    (folder / "test_some.py").write_text(TESTS, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = needs: as in pyproject.toml\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", *options, folder]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_what_is_missing_is_skipped_by_name(tmp_path):
    said = outcomes(tmp_path)
    assert "1 passed, 3 skipped" in said
    assert "no_such_package, no-such-program not installed; `make test-all` installs it" in said


def test_where_nothing_may_be_missing_it_fails(tmp_path):
    said = outcomes(tmp_path, "--nothing-missing")
    assert "1 failed, 1 passed, 1 skipped, 1 error" in said
    assert "no_such_package, no-such-program not installed" in said
    assert re.search(r"^ERROR .*::test_absent( - .*)?$", said, re.MULTILINE)
    assert re.search(r"^FAILED .*::test_that_skips_itself( - .*)?$", said, re.MULTILINE)
    assert "no CUDA here" in said


def packages(extra: str) -> set[str]:
    pyproject = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))
    listed = pyproject["project"]["optional-dependencies"][extra]
    return {re.split(r"[^\w.-]", requirement)[0] for requirement in listed}


def test_test_all_installs_every_extra():
    pyproject = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))
    extras = set(pyproject["project"]["optional-dependencies"]) - {"test-all"}
    (own,) = (x for x in pyproject["project"]["optional-dependencies"]["test-all"] if "[" in x)
    assert set(own[own.index("[") + 1 : -1].split(",")) == extras


def test_what_make_setup_leaves_out_is_asked_for_by_the_marker():
    left_out = packages("peers") | packages("test-all")
    files = sorted(HERE.rglob("test_*.py"))
    asked = {
        (name, file.name)
        for file in files
        for name in re.findall(r"importorskip\(\"(\w+)", file.read_text("utf-8"))
    }
    assert len(files) > 50
    assert [(name, file) for name, file in asked if name in left_out] == []
