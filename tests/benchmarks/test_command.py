"""`projlab bench`: the command line, the target table, and one run of asv."""

import json
import math
import re

import pytest

from benchmarks import command, table, targets
from projlab import cli
from projlab.errors import InputError
from projlab_reports import asv


def cell(value, label="10x100 float64"):
    return {"label": label, "value": value}


def a_row(**changed):
    return {
        "id": "call",
        "regime": "n ≤ 128",
        "target": "≤ 3 µs",
        "figure": "µs",
        "worst": 2.0,
        "worst_at": "10x100 float64",
        "met": True,
        "cells_met": 1,
        "cells": [cell(2.0)],
        "missing": None,
        "wrong": None,
        "command": "projlab bench --targets call",
        **changed,
    }


def found(*rows):
    environment = {
        "cpu": "some",
        "cores": 2,
        "caches": "L2 1 MiB",
        "system": "Linux",
        "threads": 1,
        "load_before": 0.1,
        "python": "3.11",
        **dict.fromkeys(targets.PACKAGES, "1.0"),
        "kernels": ["torch"],
        "commit": "abc",
        "date": "2026-01-01",
    }
    return {"environment": environment, "rows": list(rows)}


def target(cells, better="at most", bound=2.0):
    return targets.Target("t", "regime", "claim", "figure", better, bound, cells)


def test_a_target_is_met_where_every_cell_meets_it():
    row = targets.measure(target(lambda: iter([targets.Cell("a", 1.0), targets.Cell("b", 2.0)])))
    assert (row["met"], row["worst"], row["worst_at"]) == (True, 2.0, "b")
    row = targets.measure(target(lambda: iter([targets.Cell("a", 1.0), targets.Cell("b", 2.1)])))
    assert (row["met"], row["cells_met"], row["worst"]) == (False, 1, 2.1)
    row = targets.measure(
        target(lambda: iter([targets.Cell("a", 1.0), targets.Cell("b", 3.0)]), "at least")
    )
    assert (row["met"], row["worst"]) == (False, 1.0)


def test_what_cannot_be_measured_says_why_and_keeps_what_could():
    def some():
        yield targets.Cell("a", 1.0)
        raise NotImplementedError("no such peer")

    row = targets.measure(target(some))
    assert (row["worst"], row["missing"]) == (1.0, "no such peer")
    assert table.verdict(row) == "met; not measured: no such peer"


def test_a_wrong_answer_misses_the_target():
    def wrong():
        yield targets.Cell("a", 1.0)
        raise AssertionError("off by 1")

    row = targets.measure(target(wrong))
    assert not row["met"]
    assert table.verdict(row) == "WRONG: off by 1"
    assert command.target_code(found(row)) == 1


def test_ids_are_unique_and_lower_bounds_are_positive():
    ids = [t.id for t in targets.TARGETS]
    assert len(set(ids)) == len(ids)
    assert all(math.isfinite(t.bound) and t.bound > 0 for t in targets.TARGETS)


def test_exit_code_of_the_table():
    absent = a_row(worst=None, worst_at=None, met=True, cells=[], missing="no kernel")
    assert command.target_code(found(a_row(), absent)) == 0
    assert command.target_code(found(a_row(), a_row(met=False))) == 1
    assert command.target_code(found(absent)) == 3


def test_table_is_written_between_the_markers_and_again(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(f"above\n\n{table.BEGIN}\nold\n{table.END}\nbelow\n", encoding="utf-8")
    table.write(file, found(a_row()))
    once = file.read_text(encoding="utf-8")
    assert once.startswith("above\n")
    assert once.endswith("\nbelow\n")
    assert "old" not in once
    assert "| n ≤ 128 | ≤ 3 µs | µs | 2.00 (10x100 float64) | met |" in once
    table.write(file, found(a_row()))
    assert file.read_text(encoding="utf-8") == once


def test_a_file_without_markers_is_refused(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("text\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no lines"):
        table.split(file)


def test_the_readme_has_the_table(capsys):
    readme = (command.ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for each in targets.TARGETS:
        assert f"`projlab bench --targets {each.id}`" in readme
    table.split(command.ROOT / "benchmarks" / "README.md")


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
    chosen = re.compile(command._selection(quick=True, pattern="projection"))
    assert chosen.search("projection.Projection.time_call('qr', '10x100', 'float64', 'cpu')")
    assert not chosen.search("projection.Projection.time_call('qr', '10x10000', 'float64', 'cpu')")
    assert not chosen.search("batched.Shared.time_in_place('qr', '1x10', 32, 'float64', 'cpu')")
    assert chosen.search("yardstick.Machine.time_addmv")
    everything = re.compile(command._selection(quick=False, pattern=None))
    assert everything.search("training.Step.time_step('1e7', 'total', 'cuda')")


def test_asv_runs_and_two_results_compare(tmp_path, monkeypatch, capfd):
    pytest.importorskip("asv")
    monkeypatch.setenv("HOME", str(tmp_path))  # asv keeps its description of the machine there
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
    assert cli.main(["bench", "--compare", str(out), str(slower), "--json"]) == 1
    text = capfd.readouterr().out
    assert name in text

    assert cli.main(["bench", "--quick", "--filter", "no such", "--out", str(out / "none")]) == 3
