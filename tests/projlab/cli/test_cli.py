"""The command line as a whole: it starts at once, explains itself, and refuses bad usage."""

import subprocess
import sys

import pytest

from projlab.cli import COMMANDS, main

NAMES = [command.name for command in COMMANDS]


def test_help_starts_without_anything_heavy(projlab_command, tmp_path):
    at_exit = (
        "import atexit, sys\n"
        "heavy = {'torch', 'numpy', 'scipy', 'pandas', 'rich', 'cvxpy', 'matplotlib'}\n"
        "atexit.register(lambda: print(*heavy & set(sys.modules), file=sys.stderr, end=''))\n"
    )
    ended = projlab_command("--help", cwd=tmp_path, before=at_exit)
    assert (ended.returncode, ended.stderr) == (0, "")
    for name in NAMES:
        assert f"\n    {name} " in ended.stdout


@pytest.mark.parametrize("command", NAMES)
def test_each_command_explains_itself_by_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"examples:\n  projlab {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["--frobnicate"]])
def test_bad_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: projlab ")


def test_python_runs_it_as_a_module(tmp_path):
    command = [sys.executable, "-m", "projlab", "variants"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0
    assert ended.stdout.startswith("single_row")
