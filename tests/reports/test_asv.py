"""asv's result files are read, and what is no result is refused by name."""

import json

import pytest

from projlab.errors import InputError
from projlab_reports import asv
from tests.reports.asv_results import COLUMNS, result, row

TIME = "projection.Projection.time_call"


def test_a_folder_with_one_result_stands_for_it(tmp_path):
    machine = tmp_path / "results" / "here"
    machine.mkdir(parents=True)
    machine.joinpath("machine.json").write_text("{}")
    tmp_path.joinpath("results", "benchmarks.json").write_text('{"version": 2}')
    with pytest.raises(InputError, match="found: none"):
        asv.read(tmp_path)
    file = result(machine / "abc-existing-python.json", {TIME: row(1e-6)})
    assert asv.read(tmp_path).path == file
    result(machine / "def-existing-python.json", {TIME: row(1e-6)})
    with pytest.raises(InputError, match=r"abc-existing.*def-existing"):
        asv.read(tmp_path)


def test_truncated_file_is_named(tmp_path):
    file = result(tmp_path / "result.json", {TIME: row(1e-6)})
    file.write_text(file.read_text()[:-20])
    with pytest.raises(InputError, match=r"result\.json.*cut off"):
        asv.read(file)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"version": 2},
        {"version": 2, "commit_hash": "c", "params": {}, "result_columns": COLUMNS, "results": []},
        {
            "version": 2,
            "commit_hash": "c",
            "params": {},
            "result_columns": COLUMNS,
            "results": {TIME: row([1.0, 2.0], params=(("1",),))},
        },
    ],
)
def test_other_json_is_refused(tmp_path, content):
    file = tmp_path / "result.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="no result file of asv's"):
        asv.read(file)


def test_another_format_is_refused(tmp_path):
    file = result(tmp_path / "result.json", {}, version=3)
    with pytest.raises(InputError, match="format 3"):
        asv.read(file)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        asv.read(tmp_path / "none.json")
