"""The table of targets, as it is written into a file."""

import pytest

from benchmarks import command, table, targets
from projlab.errors import InputError
from tests.benchmarks.target_rows import a_row, found


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
