"""Every command of the documentation is understood, and prints what the page says where it does.

In a `console` block each `$ ` line is run, with what stands below it as its output.
"""

import contextlib
import functools
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from projlab.cli import build_parser

from .outputs import holds
from .pages import PAGES, ROOT, blocks, name, prose, texts


@functools.cache
def output_of(command: str) -> str:
    program = "import sys; from projlab.cli import main; sys.exit(main())"
    first, *arguments = shlex.split(command)
    assert first == "projlab"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "118"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "shown"),
    [
        pytest.param(*part.split("\n", 1), id=f"{name(page)}:{part.splitlines()[0]}")
        for page in PAGES
        for block in blocks(page, "console")
        for part in block.content.removeprefix("$ ").split("\n$ ")
    ],
)
def test_command_prints_what_is_shown(command, shown):
    holds(shown, output_of(command))


def commands(page: Path, program: str) -> list[str]:
    """What the page tells its reader to run; of prose, what has an option or an argument."""
    fenced = "\n".join(b.content for kind in ("sh", "console") for b in blocks(page, kind))
    found = re.findall(rf"^(?:\$ )?({program} [^#\n]*)", fenced, flags=re.MULTILINE)
    found += re.findall(rf"`({program} [^`…]*)`", prose(page).replace("\n", " "))
    return [command.strip() for command in found]


def understood(command: str) -> bool:
    """Whether the command line takes it; of a command alone, whether there is one of that name."""
    _, subcommand, *arguments = shlex.split(command)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            build_parser().parse_args([subcommand, *(arguments or ["--help"])])
    except SystemExit as end:
        return not end.code
    return True


@texts
def test_commands_are_understood(page):
    assert [command for command in commands(page, "projlab") if not understood(command)] == []


@pytest.mark.parametrize("command", ["projlab observe", "projlab validate --quick"])
def test_a_command_that_is_not_understood_is_told(command):
    assert not understood(command)


def test_commands_were_found():
    assert sum(len(commands(page, "projlab")) for page in PAGES) > 25
    assert sum(len(blocks(page, "console")) for page in PAGES) >= 3


@texts
def test_commands_are_make_targets(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands(page, "make"):
        target = command.split()[1]
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), command


def test_the_two_commands_are_shown():
    assert {"make validate", "make test"} <= set(commands(ROOT / "README.md", "make"))


@texts
def test_extras_exist(page):
    project_table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in re.findall(r"\.\[([\w,-]+)\]'", page.read_text(encoding="utf-8")):
        assert set(extras.split(",")) <= set(project_table["optional-dependencies"]), extras


def test_the_workflow_to_copy_runs_a_command_that_is_understood():
    (workflow,) = blocks(ROOT / "docs" / "validate.md", "yaml")
    (folded,) = re.findall(r"- run: >\n((?: {10}\S.*\n)+)", workflow.content)
    first, *arguments = folded.split()
    assert first == "projlab"
    options = build_parser().parse_args(arguments)
    assert (options.junit, options.minimum_records) == (Path("report/results.xml"), 1000)
    assert str(options.junit).startswith(str(options.out))
