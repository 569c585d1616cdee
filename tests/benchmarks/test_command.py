"""`projlab bench`: the command line, and one run of asv."""

import json
import re

import pytest

from benchmarks import command
from projlab import cli
from projlab_reports import asv
from tests.benchmarks.target_rows import a_row, found


def test_exit_code_of_the_table():
    absent = a_row(worst=None, worst_at=None, met=True, cells=[], missing="no kernel")
    assert command.target_code(found(a_row(), absent)) == 0
    assert command.target_code(found(a_row(), a_row(met=False))) == 1
    assert command.target_code(found(absent)) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--quick", "--margin", "1.2"],
        ["--quick", "--write", "x.md"],
        ["--targets", "--out", "x"],
        ["--targets", "call", "--write", "x.md"],
        ["--quick", "--filter", "("],
        ["--compare", "none.json", "neither.json"],
    ],
    ids=" ".join,
)
def test_bad_input_is_code_2(arguments, capsys):
    assert cli.main(["bench", *arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_unknown_target_is_code_2(capfd):
    assert cli.main(["bench", "--targets", "frobnicate"]) == 2
    assert "frobnicate" in capfd.readouterr().err


def test_quick_selects_small_cells_and_always_the_yardsticks():
    chosen = re.compile(command.selection(quick=True, pattern="projection"))
    assert chosen.search("projection.Projection.time_call('qr', '10x100', 'float64', 'cpu')")
    assert not chosen.search("projection.Projection.time_call('qr', '10x10000', 'float64', 'cpu')")
    assert not chosen.search("batched.Shared.time_in_place('qr', '1x10', 32, 'float64', 'cpu')")
    assert chosen.search("yardstick.Machine.time_addmv")
    everything = re.compile(command.selection(quick=False, pattern=None))
    assert everything.search("training.Step.time_step('1e7', 'total', 'cuda')")


def test_asv_runs_and_two_results_compare(tmp_path, monkeypatch, capfd):
    pytest.importorskip("asv")
    monkeypatch.setenv("HOME", str(tmp_path))  # asv keeps its description of the machine there
    monkeypatch.chdir(tmp_path)  # outside the checkout
    only = r"projection\.Projection\.time_in_place\('qr', '3x10', 'float64'"
    out = tmp_path / "out"
    assert cli.main(["bench", "--quick", "--filter", only, "--out", str(out), "--json"]) == 0
    outcome = json.loads(capfd.readouterr().out)
    assert outcome["failed"] == []
    name = "projection.Projection.time_in_place('qr', '3x10', 'float64', 'cpu')"
    result = asv.read(out)
    assert str(result.path) == outcome["result"]
    assert result.commit == outcome["commit"]
    assert name in result.figures
    assert result.threads == 1

    assert cli.main(["bench", "--compare", str(out), str(out)]) == 0
    slower = tmp_path / "slower.json"
    content = json.loads(result.path.read_text())
    row = content["results"]["projection.Projection.time_in_place"]
    for i, column in enumerate(content["result_columns"]):
        if column == "result" or column.startswith(("stats_ci", "stats_q_")):
            row[i] = [v and 100 * v for v in row[i]]
    slower.write_text(json.dumps(content))
    assert cli.main(["bench", "--compare", str(out), str(slower)]) == 3
    assert "Too noisy: 1 figures of the same commit differ" in capfd.readouterr().out
    slower.write_text(json.dumps(content | {"commit_hash": "f" * 40}))
    assert cli.main(["bench", "--compare", str(out), str(slower), "--json"]) == 1
    text = capfd.readouterr().out
    assert name in text

    assert cli.main(["bench", "--quick", "--filter", "no such", "--out", str(out / "none")]) == 3


def test_a_machine_that_asv_cannot_describe_is_a_sentence(tmp_path, monkeypatch, capfd):
    pytest.importorskip("asv")
    (tmp_path / "asv-machine").mkdir()
    (tmp_path / ".asv-machine.json").mkdir()  # asv keeps its description of the machine there
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["bench", "--quick", "--out", str(tmp_path / "out")]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("projlab: asv cannot describe the machine")


def test_samples_are_taken_in_two_processes():
    assert "--attribute=rounds=2" in command.QUICK
