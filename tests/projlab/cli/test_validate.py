"""`projlab validate` as its users meet it: what a run leaves, its exit codes, and resuming it."""

import errno
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

import projlab
import projlab.tolerance
from projlab.cli import main
from projlab_reports import publish
from projlab_validation import runner, store
from tests.validation.forked import Forked

QUICK_RUN = ("validate", "--problem", "article_1", "--jobs", "1")
# a shell starts what it runs in the background with Ctrl-C ignored
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
SMALL_RUN = (*QUICK_RUN, "--variant", "qr", "--dtype", "float64")
# pages take longer than what they show, and most tests do not look at them
NO_PAGES = """
from projlab_reports import publish
publish.write_run = lambda summary, folder: (folder / "report.html", folder / "report.md")
"""
SHAPES = ("3x10", "10x20", "10x100", "30x60")
STRICTER = "import projlab.tolerance as t; t.forward_error_bound = lambda *a, **k: 1e-30"


@pytest.fixture
def here(monkeypatch, capfd, tmp_path):
    """Runs of this process, whose workers are forked from it, in an empty folder; no pages."""
    monkeypatch.setattr(runner, "start_process", Forked)
    monkeypatch.setattr(publish, "write_run", lambda _, to: (to / "report.html", to / "report.md"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(list(map(str, arguments)))
        captured = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def finished(projlab_command, tmp_path_factory):
    """One run of everything that a user sees, and where its files are."""
    cwd = tmp_path_factory.mktemp("cwd")
    return projlab_command(*QUICK_RUN, "--out", "run", cwd=cwd), cwd / "run"


def test_a_run_that_holds_ends_with_0_a_table_and_a_report(finished):
    ended, folder = finished
    assert ended.returncode == 0, ended.stderr
    for variant in projlab.variants():
        assert variant in ended.stdout
    assert "Every check held: " in ended.stdout
    assert f"Report: {Path('run') / 'report.md'}" in ended.stdout
    assert f"Page: {Path('run') / 'report.html'}" in ended.stdout
    assert "Every check held: " in (folder / "report.html").read_text(encoding="utf-8")
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "Every check held: " in report
    assert (folder / "figures" / "forward-error-float64.png").stat().st_size > 0


def test_no_progress_bar_where_stderr_is_no_terminal(finished):
    ended, _ = finished
    assert ended.stderr == ""


def test_pandas_reads_the_records_and_the_verdicts(finished):
    _, folder = finished
    assert "verdict" not in pd.read_parquet(folder / "records")
    verdicts = pd.read_parquet(folder / "verdicts.parquet")
    assert set(verdicts["verdict"]) == {"pass"}
    assert verdicts["environment"].iloc[0] in json.loads((folder / "environment.json").read_text())


def test_resuming_judges_again_and_overwriting_measures_again(here, tmp_path):
    def again(*flag):
        return here(*SMALL_RUN, "--out", "run", *flag).returncode

    def written():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "run/records").iterdir()}

    assert again() == 0
    parts = written()
    (tmp_path / "run" / "verdicts.parquet").unlink()
    assert again("--resume") == 0
    assert written() == parts
    assert (tmp_path / "run" / "verdicts.parquet").exists()
    assert again("--overwrite") == 0
    assert written() != parts


def test_json_is_the_only_output_and_parses(projlab_command, tmp_path):
    ended = projlab_command(*QUICK_RUN, "--json", cwd=tmp_path)
    outcome = json.loads(ended.stdout)
    assert (ended.returncode, outcome["exit_code"]) == (0, 0)
    assert outcome["totals"] | {"pass": 8} == {"pass": 8, "expected": 0, "skip": 0, "fail": 0}
    assert [row["variant"] for row in outcome["variants"]] == list(projlab.variants())
    assert (outcome["format"], outcome["kind"]) == (1, "validation")
    assert (outcome["stopped"], outcome["time_limit"], outcome["peers_asked"]) == (None, None, [])
    assert outcome["checked"] == sum(outcome["totals"].values())
    assert {row["need"] for row in outcome["decision"]} >= {"rows that share no column"}
    assert outcome["page"] == str(Path("runs") / "quick" / "report.html")
    assert outcome["report"] == str(Path("runs") / "quick" / "report.md")
    assert (tmp_path / outcome["verdicts"]).exists()


def test_a_failed_check_ends_with_1_and_the_command_that_repeats_it(projlab_command, tmp_path):
    ended = projlab_command(*SMALL_RUN, "--out", "run", cwd=tmp_path, before=STRICTER)
    assert ended.returncode == 1
    command = (
        "projlab validate --profile quick --problem article_1 --variant qr --dtype float64 "
        "--out reproduce/article_1-qr-float64 --overwrite"
    )
    assert command in ended.stdout
    assert command in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    for _ in range(2):
        again = projlab_command(*command.split()[1:], cwd=tmp_path, before=STRICTER + NO_PAGES)
        assert again.returncode == 1, again.stderr
        assert " failed: " in again.stdout


def test_nothing_checked_ends_with_3(here):
    overlapping = ("validate", "--problem", "article_3", "--variant", "single_row", "--jobs", "1")
    ended = here(*overlapping)
    assert ended.returncode == 3
    assert "Nothing was checked" in ended.stdout


def test_no_problem_in_all_selections_at_once_ends_with_3(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["validate", "--group", "spectra", "--problem", "article_1"]) == 3
    assert "nothing to check" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def children(pid):
    """The processes that one has started, and that have not ended."""
    listed = subprocess.run(["ps", "-o", "ppid=,pid=,stat=", "-e"], capture_output=True, text=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return {int(child) for parent, child, state in rows if int(parent) == pid and state[0] != "Z"}


def alive(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_can_be_resumed(sent, projlab_program, projlab_command, tmp_path):
    names = [f"spectra_{kappa}_{shape}" for kappa in ("1", "1e6") for shape in SHAPES]
    asked = {"--problem": names, "--variant": ["qr", "pinv"], "--dtype": ["float64"]}
    options = [part for option, of in asked.items() for each in of for part in (option, each)]
    arguments = ("validate", *options, "--jobs", "1")
    command = [*projlab_program(INTERRUPTIBLE), *arguments, "--out", "run"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    records = tmp_path / "run" / "records"
    while not (records.is_dir() and list(records.glob("*.parquet"))):
        assert running.poll() is None
        time.sleep(0.05)
    workers = children(running.pid)
    assert workers
    running.send_signal(sent)
    said = running.communicate(timeout=60)[1]
    if sent == signal.SIGKILL:
        assert (said, running.returncode) == ("", -signal.SIGKILL)
    else:
        line = "projlab: interrupted; --resume goes on with what is measured already\n"
        assert (said, running.returncode) == (line, 130)
    patience = time.monotonic() + 30
    while any(map(alive, workers)):
        assert time.monotonic() < patience
        time.sleep(0.05)
    kept = {path: path.stat().st_mtime_ns for path in records.glob("*.parquet")}
    again = (*arguments, "--out", "run", "--resume")
    resumed = projlab_command(*again, cwd=tmp_path, before=NO_PAGES)
    assert resumed.returncode == 0, resumed.stderr
    after = {path: path.stat().st_mtime_ns for path in records.glob("*.parquet")}
    assert kept.items() < after.items()
    frame = pd.read_parquet(records)
    assert not frame.duplicated(["problem", "variant", "check"]).any()
    assert set(frame["problem"]) == set(names)
    assert set(frame["variant"]) == {"qr", "pinv"}


def test_two_processes_on_one_folder_the_second_is_told_and_the_first_goes_on(
    projlab_program, projlab_command, tmp_path
):
    names = [f"spectra_1_{shape}" for shape in SHAPES[:2]]
    several = [option for name in names for option in ("--problem", name)]
    arguments = ("validate", *several, "--variant", "qr", "--jobs", "1", "--out", "run")
    running = subprocess.Popen(
        [*projlab_program(NO_PAGES), *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    while not (tmp_path / "run" / "run.json").exists():
        assert running.poll() is None
        time.sleep(0.05)
    second = projlab_command(*arguments, "--resume", cwd=tmp_path)
    if running.poll() is None or second.returncode:  # else it was too quick for both
        assert second.returncode == 2
        assert f"projlab: run is in use by process {running.pid} on " in second.stderr
        assert second.stderr.count("\n") == 1
    assert "Every check held" in running.communicate(timeout=200)[0]
    assert running.returncode == 0
    frame = pd.read_parquet(tmp_path / "run" / "records")
    assert set(frame["problem"]) == set(names)


def test_fewer_records_than_the_profile_demands_is_a_failure(here, monkeypatch):
    write = store.Store.write

    def lossy(self, records):
        path = write(self, records)
        if records[0].dtype == "float32":
            path.unlink()
        return path

    run = (*QUICK_RUN, "--variant", "single_row", "--variant", "qr", "--out", "run")
    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "write", lossy)
        ended = here(*run)
    assert ended.returncode == 1
    assert "Every check held" not in ended.stdout
    what = "2 measurements are missing, single_row on article_1 in float32 the first"
    assert f"Incomplete: {what}. Of what was measured until then: " in ended.stdout
    assert ended.stderr == f"projlab: {what}; --resume goes on\n"
    assert here("report", "run").returncode == 1
    resumed = here(*run, "--resume")
    assert resumed.returncode == 0
    assert "Every check held" in resumed.stdout


def test_too_few_records_for_what_is_demanded_is_a_failure(here):
    run = (*SMALL_RUN, "--out", "run")
    demanding = here(*run, "--minimum-records", "1000")
    assert demanding.returncode == 1
    assert "records were checked, and 1,000 are demanded" in demanding.stdout
    assert "Every check held" not in demanding.stdout
    modest = here(*run, "--resume", "--minimum-records", "1")
    assert modest.returncode == 0


def test_a_part_that_is_damaged_is_measured_again(here):
    run = (*SMALL_RUN, "--out", "run")
    assert here(*run).returncode == 0
    part = next(Path("run/records").glob("article_1.float64.*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    assert here(*run).returncode == 2
    resumed = here(*run, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr == (f"projlab: {part} cannot be read; what it held is measured again\n")


def test_for_ci_there_are_xml_and_annotations(here, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setattr(projlab.tolerance, "forward_error_bound", lambda *_, **__: 1e-30)
    ended = here(*SMALL_RUN, "--out", "run", "--json", "--junit", "new/results.xml")
    assert ended.returncode == 1
    failures = json.loads(ended.stdout)["failures"]
    assert ended.stderr.count("::error title=qr on article_1 in float64::") == len(failures)
    suites = ElementTree.parse(tmp_path / "new" / "results.xml").getroot()  # noqa: S314  ours
    assert len(suites.findall(".//failure")) == len(failures)


@pytest.mark.parametrize(
    ("code", "says"),
    [(errno.EACCES, "permission denied"), (errno.EROFS, "read-only file system")],
)
def test_a_folder_that_cannot_be_written_is_a_sentence(code, says, tmp_path, monkeypatch, capsys):
    made = Path.mkdir

    def locked(path, *arguments, **options):
        """As a folder is to a user who may not write it; the tests' own may write anywhere."""
        if path.is_relative_to(tmp_path):
            raise OSError(code, os.strerror(code), str(path))
        made(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", locked)
    assert main([*QUICK_RUN, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"{says}; give --out a folder that can be written" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_ends_with_2_and_is_resumed(here, monkeypatch):
    synced, calls = os.fsync, []

    def full(descriptor):
        calls.append(1)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device", "run/records")
        synced(descriptor)

    run = (*SMALL_RUN, "--problem", "article_2", "--problem", "article_3", "--out", "run")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        ended = here(*run)
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        "projlab: run/records cannot be written: no space left on device"
    )
    assert ended.stderr.count("\n") == 1
    resumed = here(*run, "--resume")
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_a_table_is_shown_in_any_encoding(encoding, finished, projlab_program):
    _, folder = finished
    ended = subprocess.run(
        [*projlab_program(NO_PAGES), *QUICK_RUN, "--out", folder, "--resume"],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert ended.returncode == 0, ended.stderr
    shown = ended.stdout.decode(encoding)
    assert "Every check held" in shown
    assert "|worst, |" in shown
    assert re.search(r"\|\s+ku \|", shown)


def test_no_time_limit_is_too_long(here):
    long = here(*SMALL_RUN, "--time-limit", "1e8")
    assert long.returncode == 0, long.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--problem", "article_1", "--junit", "."], "--junit . takes the name of a file"),
        (["--problem", "no_such_problem"], "no_such_problem"),
        (["--group", "no_such_group"], "want any of article"),
        (["--variant", "no_such_variant"], "single_row"),
        (["--device", "no_such_device"], "no_such_device"),
        (["--problem", "article_1", "--out", "occupied"], "something else than a projlab run"),
    ],
)
def test_bad_input_ends_with_2_and_one_line_that_names_it(
    arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("occupied").mkdir()
    Path("occupied/thesis.tex").write_text("years of work")
    assert main(["validate", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("projlab: ")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--profile", "slow"),
        *(("--time-limit", seconds) for seconds in ("0", "-1", "nan", "soon")),
        *(("--jobs", jobs) for jobs in ("0", "-1", "many")),
        ("--minimum-records", "0"),
    ],
)
def test_bad_usage_ends_with_2_and_names_the_option(option, value, capsys):
    with pytest.raises(SystemExit) as end:
        main(["validate", option, value])
    assert end.value.code == 2
    assert f"{option}: " in capsys.readouterr().err


def test_a_folder_that_holds_a_run_is_neither_mixed_nor_replaced_unasked(finished, capsys):
    _, folder = finished
    assert main([*QUICK_RUN, "--out", str(folder)]) == 2
    assert "--resume continues it, --overwrite replaces it" in capsys.readouterr().err
