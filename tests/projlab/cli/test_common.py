"""What the commands share: types of options, what the suite needs, JSON."""

import argparse
import importlib.metadata
import io
import json
import math
import os

import pytest

from projlab import InputError
from projlab.cli import common, main


@pytest.mark.parametrize("text", ["0", "-1", "many"])
def test_an_integer_that_is_not_positive_is_refused(text):
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        common.positive_integer(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_a_number_that_is_not_positive_and_finite_is_refused(text):
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        common.positive_number(text)


def test_without_the_suite_a_command_says_what_to_install(capsys, monkeypatch):
    installed = importlib.metadata.version

    def version(name):
        if name == "cvxpy":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    for command in (["validate"], ["compare", "system.npz"], ["report", "runs/quick"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith(f"projlab: {command[0]} needs the suite (cvxpy missing)")
        assert "pip install projlab[suite]" in error


def test_a_device_that_is_not_there_is_bad_input():
    assert common.usable_device("cpu") == "cpu"
    with pytest.raises(InputError, match="--device abacus cannot be used here"):
        common.usable_device("abacus")


def test_a_figure_that_is_missing_or_infinite_is_null_in_json():
    outcome = {"error": math.nan, 1: (1.0, math.inf, {"bound": -math.inf})}
    assert common.plain(outcome) == {"error": None, "1": [1.0, None, {"bound": None}]}


def test_json_is_json_whatever_the_encoding_of_the_output(monkeypatch):
    for encoding in ("ascii", "cp1252", "latin-1", "utf-8"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="projlab")
        monkeypatch.setattr("sys.stdout", stream)
        common.print_json({"why": "κu “quoted” ≤ 1", "bound": math.inf})
        stream.flush()
        told = json.loads(stream.buffer.getvalue().decode(encoding))
        assert told == {"why": "κu “quoted” ≤ 1", "bound": None}


def test_where_a_file_cannot_be_written_is_said_before_anything_is_done(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    common.require_writable(tmp_path / "new" / "results.xml", "--junit")
    assert not (tmp_path / "new").exists()
    for wrong in (tmp_path / "folder", tmp_path / "file" / "results.xml"):
        with pytest.raises(InputError, match=r"--junit .* takes the name of a file"):
            common.require_writable(wrong, "--junit")


def test_where_a_folder_cannot_be_written_is_said_before_anything_is_done(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    common.require_writable_folder(tmp_path / "new" / "inner", "--out")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match=r"--out \S+file is a file; it takes a folder"):
        common.require_writable_folder(tmp_path / "file", "--out")
    with pytest.raises(
        InputError, match=r"--out \S+inner is in \S+file, which is a file; it takes"
    ):
        common.require_writable_folder(tmp_path / "file" / "inner", "--out")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        InputError, match=r"--out \S+new cannot be written there: permission denied"
    ):
        common.require_writable_folder(tmp_path / "new", "--out")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_what_is_no_regular_file_is_not_replaced_by_one(tmp_path):
    pipe = tmp_path / "results.xml"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match=r"--junit .* is no regular file"):
        common.require_writable(pipe, "--junit")
    assert pipe.is_fifo()
