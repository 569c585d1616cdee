"""What surrounds a command: output that degrades, an end in a sentence with its own code."""

import errno
import io
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from projlab import InputError, MemoryLimitError
from projlab.cli import COMMANDS, frame, main, variants
from projlab.cli.common import Command

ASKED = ["variants"]


@pytest.fixture
def ends(monkeypatch, tmp_path):
    """Let `projlab variants` end as is asked for, with a folder of its own for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def with_(fault):
        def run(_):
            if isinstance(fault, BaseException):
                raise fault
            return fault

        command = Command("variants", "", "", "", variants.add_arguments, run, "kept")
        monkeypatch.setattr("projlab.cli.COMMANDS", (command,))
        return main(ASKED)

    return with_


def test_a_crash_is_code_70_one_line_and_a_traceback_in_a_file(ends, capsys):
    assert ends(KeyError("nobody\nexpected this")) == 70
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    found = re.fullmatch(
        r"projlab: broke, which is a mistake of projlab's: KeyError: .*; "
        r"the traceback is in (.*)\s",
        error,
    )
    text = Path(found[1]).read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text
    assert "KeyError" in text


def test_where_no_file_can_be_written_the_traceback_is_shown(ends, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    assert ends(ZeroDivisionError("division")) == 70
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1].endswith("ZeroDivisionError: division; the traceback follows")


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        (InputError("A is wrong"), 2, "A is wrong"),
        (MemoryLimitError("needs 8 TB"), 2, "needs 8 TB"),
        (MemoryError("Unable to allocate 8 TiB"), 2, "more memory than there is (Unable to alloc"),
        (OSError(errno.ENOSPC, "No space left on device", "run/a"), 2, "run/a cannot be written"),
        (OSError(errno.EROFS, "Read-only file system", "run/a"), 2, "run/a: read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied", "run"), 2, "run: permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 2, "x: no such file"),
        (OSError(errno.EIO, "Input/output error"), 70, "broke"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (KeyboardInterrupt(), 130, "interrupted; kept"),
        (1, 1, ""),
        (3, 3, ""),
    ],
    ids=repr,
)
def test_each_end_has_a_code_and_a_sentence(fault, code, says, ends, capsys):
    assert ends(fault) == code
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == bool(says)
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "asked", [("compare", ""), ("report", ""), ("validate", "--out", ""), ("bench", "--out", "")]
)
def test_an_empty_path_is_a_slip(asked, capsys):
    with pytest.raises(SystemExit) as ended:
        main(list(asked))
    assert ended.value.code == 2
    assert "it is empty; a variable of the shell may not be set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "advice"),
    [
        (ASKED, "ask again once there is room"),
        (
            ["compare", "system.npz", "--json"],
            "no part of a page is left behind; compare again once there is room",
        ),
    ],
)
def test_a_full_output_is_a_sentence_with_the_advice_of_its_command(
    asked, advice, projlab_program, tmp_path
):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    np.savez(tmp_path / "system.npz", A=np.ones((1, 3)), b=np.ones(1))
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*projlab_program(""), *asked],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 2
    assert ended.stderr == (
        f"projlab: a file cannot be written: no space left on device; {advice}\n"
    )


def test_only_what_can_be_resumed_is_advised_to_be():
    advised = {command.name: command.no_room for command in COMMANDS}
    assert [name for name, said in advised.items() if "--resume" in said] == ["validate"]
    assert all(said.endswith("once there is room") for said in advised.values())


def test_a_reader_that_leaves_is_no_crash(projlab_program):
    command = [*projlab_program(""), "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        assert running.stderr.read() == b""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
@pytest.mark.parametrize("command", ["--help", "compare --help", "validate --help", "variants"])
def test_any_encoding_of_the_output_will_do(command, encoding, projlab_program, tmp_path):
    ended = subprocess.run(
        [*projlab_program(""), *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.decode(encoding)


def test_what_an_encoding_lacks_is_written_otherwise():
    text = "κu ≤ 3 × 10⁻¹ … ‖x‖ ─┃ 中 \udcff"
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="projlab")
    frame.let_output_degrade()
    stream.write(text)
    stream.flush()
    assert stream.buffer.getvalue() == rb"ku <= 3 x 10-1 ... ||x|| -- ? \udcff"
    assert text.encode("latin-1", "projlab").startswith(b"ku <= 3 \xd7 10")


def test_what_stands_in_a_table_keeps_its_width():
    letters = "κ×·−–µμ₀ᵢ"
    assert all(len(frame.PLAIN[letter]) == 1 for letter in letters)
