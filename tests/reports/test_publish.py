"""`projlab report`: what it writes where, its exit codes, and that bad input writes nothing."""

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace

import pytest

from projlab.cli import main
from projlab_validation.store import Store
from tests.reports.payloads import EVERYTHING
from tests.reports.runs import BASE, DRIFT, HEADER, RECORDS, TRAINING, contents, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", BASE)


def test_the_page_of_a_run_and_its_twin_stand_in_its_folder(run, capsys):
    assert main(["report", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "Every check held" in shown
    for name in ("report.html", "report.md"):
        assert (run / name).is_file()
        assert f"Page: {run / name}" in shown


def test_a_run_of_everything_is_read_as_it_was_written(tmp_path, capsys):
    peer = replace(BASE, variant="mypeers.article:project", computed_by="")
    run = write_run(tmp_path / "run", *RECORDS, *DRIFT, peer, training=TRAINING)
    assert main(["report", str(run), "--json"]) == 1
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["exit_code"] == 1
    failing = {(f["variant"], f["check"]) for f in outcome["failures"]}
    assert {("pinv", "projection"), ("SGD (tangent, decay 0)", "training")} <= failing
    text = (run / "report.html").read_text(encoding="utf-8")
    for heading in ("Drift", "Training", "Peers"):
        assert f">{heading}</h2>" in text
    assert "mypeers" not in json.dumps(outcome["failures"])


def test_pages_have_the_mode_of_any_new_file(run, tmp_path):
    data = tmp_path / "compare.json"
    data.write_text(json.dumps(EVERYTHING), encoding="utf-8")
    before = os.umask(0o022)
    try:
        for what in (run, data):
            main(["report", str(what), "--out", str(tmp_path / "pages")])
    finally:
        os.umask(before)
    files = [p for p in (tmp_path / "pages").rglob("*") if p.is_file()]
    assert {"report.html", "report.md", "compare.html"} <= {p.name for p in files}
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o644}


@pytest.mark.parametrize(
    ("out", "page", "twin"),
    [("new/x.html", "new/x.html", "new/x.md"), ("new", "new/report.html", "new/report.md")],
)
def test_out_names_a_page_or_a_folder(run, tmp_path, out, page, twin):
    before = contents(run)
    assert main(["report", str(run), "--out", str(tmp_path / out)]) == 0
    assert (tmp_path / page).is_file()
    assert (tmp_path / twin).is_file()
    assert contents(run) == before


def test_a_run_in_which_nothing_was_checked_ends_with_3(tmp_path):
    assert main(["report", str(write_run(tmp_path / "run", RECORDS[4]))]) == 3


def test_a_run_that_was_stopped_says_so_on_every_page(tmp_path, capsys):
    run = write_run(tmp_path / "run", BASE)
    Store(run).end("stopped at the first check that failed")
    assert main(["report", str(run)]) == 1
    said = "Incomplete: stopped at the first check that failed."
    assert said in capsys.readouterr().out
    for name in ("report.html", "report.md"):
        assert said in (run / name).read_text(encoding="utf-8")
    # Resumed, and killed before its end: the verdicts are those of before.
    Store.create(run, HEADER, resume=True)
    assert main(["report", str(run)]) == 1
    assert "Incomplete: interrupted before its end." in capsys.readouterr().out
    Store(run).end()
    assert main(["report", str(run)]) == 0
    assert "Incomplete" not in capsys.readouterr().out


def test_two_runs_give_a_difference_and_its_exit_code(run, tmp_path, capsys):
    worse = write_run(tmp_path / "worse", replace(BASE, forward_error=1e-3))
    other = write_run(tmp_path / "other", replace(BASE, problem="other"))
    assert main(["report", str(run), str(run)]) == 0
    assert main(["report", str(run), str(other)]) == 3
    capsys.readouterr()
    assert main(["report", str(run), str(worse), "--json"]) == 1
    (difference,) = json.loads(capsys.readouterr().out)["differences"]
    assert difference["counts"]["newly failing"] == 1
    assert difference["changes"][0]["problem"] == BASE.problem
    assert (worse / "difference.html").is_file()
    assert (worse / "difference.md").is_file()
    # The first is what the others are held against.
    assert main(["report", str(run), str(run), str(worse)]) == 1


def test_a_comparison_is_rendered_again(tmp_path):
    data = tmp_path / "compare.json"
    data.write_text(json.dumps(EVERYTHING), encoding="utf-8")
    assert main(["report", str(data)]) == EVERYTHING["exit_code"]
    assert (tmp_path / "compare.html").is_file()
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "b")]) == 1
    assert (tmp_path / "b" / "compare.html").is_file()


def spoil(run, how):
    match how:
        case "no header":
            (run / "run.json").unlink()
        case "another format":
            (run / "run.json").write_text('{"format": 99, "profile": "quick", "device": "cpu"}')
        case "broken header":
            (run / "run.json").write_text("{")
        case "header is a list":
            (run / "run.json").write_text("[]")
        case "no verdicts":
            (run / "verdicts.parquet").unlink()
        case "truncated":
            path = run / "verdicts.parquet"
            path.write_bytes(path.read_bytes()[:1000])
        case "training truncated":
            (run / "training.parquet").write_bytes(b"PAR1")
        case "another table":
            TRAINING.to_parquet(run / "verdicts.parquet")
        case "no environment":
            (run / "environment.json").unlink()
        case "environment is a list":
            (run / "environment.json").write_text('{"here": []}')


@pytest.mark.parametrize(
    "how",
    [
        "no header",
        "another format",
        "broken header",
        "header is a list",
        "no verdicts",
        "truncated",
        "training truncated",
        "another table",
        "no environment",
        "environment is a list",
    ],
)
def test_bad_input_ends_with_2_one_line_and_nothing_written(run, tmp_path, how, capsys):
    good = write_run(tmp_path / "good", BASE)
    spoil(run, how)
    before = contents(tmp_path)
    for arguments in ([run], [good, run], [run, good]):
        assert main(["report", *map(str, arguments)]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("projlab: ")
        assert said.err.count("\n") == 1
        assert not said.out
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"kind": "comparison", "format": 1}',
        '{"kind": "comparison", "format": 1, "exit_code": 0, "asked": {}, "environment": {},'
        ' "systems": [{}]}',
        '{"version": 2, "results": {}}',
    ],
)
def test_a_file_that_is_no_comparison_ends_with_2(tmp_path, text, capsys):
    path = tmp_path / "some.json"
    path.write_text(text)
    assert main(["report", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": 2}, "format 2, written by projlab 9.9; this projlab reads format 1"),
        ({"systems": [{}]}, "is not what this version's"),
    ],
)
def test_a_comparison_of_another_version_names_it(tmp_path, changed, said, capsys):
    path = tmp_path / "compare.json"
    environment = {**EVERYTHING["environment"], "projlab": "9.9"}
    path.write_text(json.dumps({**EVERYTHING, "environment": environment, **changed}))
    assert main(["report", str(path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "written by projlab 9.9" in error
    assert list(tmp_path.iterdir()) == [path]


def test_what_does_not_exist_or_cannot_be_compared_ends_with_2(run, tmp_path, capsys):
    data = tmp_path / "compare.json"
    data.write_text(json.dumps(EVERYTHING), encoding="utf-8")
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert main(["report", str(run), str(data)]) == 2
    assert main(["report", str(run), "--out", str(data)]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_report_imports_no_torch(run):
    program = (
        "import sys\nfrom projlab.cli import main\n"
        f"assert main(['report', {str(run)!r}]) == 0\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
