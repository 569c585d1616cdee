"""The page on what programs read names every key and column that is written, and no other."""

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from projlab.cli import validate
from projlab_reports import asv, difference, publish, regressions
from projlab_validation import compare, compare_bounds, describe, lines, recommend, store
from projlab_validation.bounds.judge import judge as judge_bounds
from projlab_validation.bounds.section import BoundsRecord
from projlab_validation.judge import judge
from projlab_validation.record import ORACLE_COLUMNS, Check, table
from projlab_validation.training.judge import judge as judge_training
from projlab_validation.training.train import TrainingRecord
from tests.reports.asv_results import result, row
from tests.reports.runs import BASE, TRAINING, summary_of, write_run

from .pages import ROOT

TEXT = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
WORD = re.compile(r"`([^`]+)`")


def section(title):
    return re.split(r"^## ", TEXT.partition(f"## {title}\n")[2], flags=re.MULTILINE)[0]


def tables(title):
    """The tables of a section: a list of rows of cells each."""
    blocks = re.findall(r"(?:^\|.*\n)+", section(title), flags=re.MULTILINE)
    split = [[line.strip("|\n").split(" | ") for line in b.splitlines()] for b in blocks]
    return [[[cell.strip() for cell in cells] for cells in b[2:]] for b in split]


def keys(of_table):
    return [word for cells in of_table for word in WORD.findall(cells[0])]


def listed(title, key):
    """What the list of a section says that a key holds."""
    item = re.search(
        rf"^- `{key}`[^:]*: (.*?)(?=^- |^$)", section(title) + "\n", re.MULTILINE | re.DOTALL
    )
    return WORD.findall(item[1])


def typed(of_table):
    return {word: cells[1] for cells in of_table for word in WORD.findall(cells[0])}


def written(frame, tmp_path):
    """Columns and types as a parquet file has them, and its format."""
    path = tmp_path / "written.parquet"
    path.write_bytes(store.parquet(frame))
    schema = pq.read_schema(path)
    assert schema.metadata[store.FORMAT_KEY.encode()] == b"1"
    return {f.name: str(f.type).removeprefix("large_") for f in schema}


def test_the_json_of_a_run():
    summary = summary_of(BASE)
    told = validate._outcome(summary, (Path("a"), Path("b")), Path("c"))
    (table_,) = tables("`validate --json`")
    assert list(told) == keys(table_)
    assert (told["format"], told["kind"]) == (1, "validation")
    counted = {*summary.totals}
    assert {*listed("`validate --json`", "variants")} | counted == {*told["variants"][0]}
    assert listed("`validate --json`", "failures") == list(summary.failures)


def test_the_columns_of_verdicts_and_the_checks(tmp_path):
    records, checks, *_ = tables("The folder of a run")
    frame = judge(table([BASE]).to_pandas())
    oracles = tuple(f"{prefix}{name}" for prefix in ORACLE_COLUMNS for name in BASE.oracles)
    rest = section("The folder of a run")
    for prefix in ORACLE_COLUMNS:
        assert f"`{prefix}NAME`" in rest
    found = written(frame, tmp_path)
    # pandas has no integer that may be missing: a column that is null throughout is no int64 there
    part = {f.name: str(f.type) for f in table([BASE]).schema}
    assert {c: t for c, t in (found | part).items() if c not in oracles} == typed(records)
    assert sorted(keys(checks)) == sorted(Check.__args__)


def test_the_columns_of_training():
    *_, training, _ = tables("The folder of a run")
    fields = [f.name for f in dataclasses.fields(TrainingRecord)]
    assert sorted(typed(training)) == sorted([*fields, "verdict", "why", "allowed"])
    frame = judge_training(pd.DataFrame(columns=fields))
    assert set(frame) == set(typed(training))


def test_the_columns_of_bounds():
    *_, bounds = tables("The folder of a run")
    fields = [f.name for f in dataclasses.fields(BoundsRecord)]
    assert sorted(typed(bounds)) == sorted([*fields, "verdict", "why", "allowed"])
    frame = judge_bounds(pd.DataFrame(columns=fields))
    assert set(frame) == set(typed(bounds))


def test_parts_and_verdicts_of_a_run_carry_the_format(tmp_path):
    write_run(tmp_path / "run", BASE, training=TRAINING)
    assert store.read_header(tmp_path / "run")["format"] == 1
    opened = store.Store.create(tmp_path / "other", {"profile": "quick", "device": "cpu"})
    parts = [opened.write([BASE]), *(tmp_path / "run").glob("*.parquet")]
    assert len(parts) == 3
    for part in parts:
        assert pq.read_schema(part).metadata[store.FORMAT_KEY.encode()] == b"1"


def test_the_json_of_reports(tmp_path):
    run = write_run(tmp_path / "run", BASE)
    always = WORD.findall(section("`report --json`").partition("always")[0])
    one = publish.publish([run]).outcome
    assert set(always) <= set(one)
    of_run = keys(tables("`validate --json`")[0])
    of_run = of_run[of_run.index("profile") : of_run.index("totals") + 1]
    assert set(one) == {*always, *of_run, "decision", "failures"}
    several = publish.publish([run, run]).outcome
    outer, inner = tables("`report --json`")
    assert set(several) == {*always, *keys(outer)}
    (told,) = several["differences"]
    assert list(told) == keys(inner)
    changed = difference.Difference(
        difference.Side("a", summary_of(BASE)),
        difference.Side("b", summary_of(dataclasses.replace(BASE, forward_error=1.0))),
    )
    assert sorted(listed("`report --json`", "changes")) == sorted(changed.changes)


def test_the_json_of_comparisons():
    title = "`compare --json`"
    (outer,) = tables(title)
    options = compare.ComparisonOptions(variants=("qr",))
    assert list(compare.payload([], options, {}, 0)) == keys(outer)
    loose = section(title).partition("Each system has")[2].partition("\n\n")[0]
    parts = {
        "system": describe.SystemDescription,
        "lines": lines.Line,
        "recommendation": recommend.Recommendation,
    }
    of_one = [f.name for f in dataclasses.fields(compare.Comparison)]
    assert sorted([*WORD.findall(loose), *parts]) == sorted(of_one)
    for name, kind in parts.items():
        assert listed(title, name) == [f.name for f in dataclasses.fields(kind)], name
    loose, _, rest = section(title).partition("Each of `bounded` has")[2].partition("\n\n")
    of_bounded = [f.name for f in dataclasses.fields(compare_bounds.BoundedComparison)]
    assert sorted([*WORD.findall(loose), "lines"]) == sorted(of_bounded)
    of_line = [f.name for f in dataclasses.fields(compare_bounds.BoundedLine)]
    assert WORD.findall(rest)[1:] == of_line


def test_the_json_of_benchmarks(tmp_path):
    one = asv.read(result(tmp_path / "one.json", {"projection.P.time_call": row(1e-6)}))
    told = regressions.plain(regressions.compare(one, one))
    (table_,) = tables("`bench --json`")
    assert sorted(told) == sorted(keys(table_))


def test_every_json_says_its_format(tmp_path):
    run = write_run(tmp_path / "run", BASE)
    one = asv.read(result(tmp_path / "one.json", {"projection.P.time_call": row(1e-6)}))
    told = {
        "validate": validate._outcome(summary_of(BASE), (Path("a"), Path("b")), Path("c")),
        "report": publish.publish([run]).outcome,
        "report of several": publish.publish([run, run]).outcome,
        "compare": compare.payload([], compare.ComparisonOptions(variants=("qr",)), {}, 0),
        "bench": regressions.plain(regressions.compare(one, one)),
    }
    assert {name: payload["format"] for name, payload in told.items()} == dict.fromkeys(told, 1)


@pytest.mark.parametrize("command", ["validate", "report", "compare", "bench", "variants"])
def test_each_format_is_said(command):
    assert "Format 1" in section(f"`{command} --json`")
