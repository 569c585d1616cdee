"""The suite itself is tested: every planted fault fails, and nothing sound does."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from projlab.cli import main
from projlab_reports import publish
from projlab_validation import runner, store
from projlab_validation.judge import judge
from projlab_validation.measure import measure
from projlab_validation.problems import catalogue
from projlab_validation.profiles import PROFILES
from projlab_validation.record import table
from tests.validation import faults
from tests.validation.asked import BRIEF, PROBLEMS, judged
from tests.validation.forked import Forked


@pytest.fixture
def forked(monkeypatch):
    """Runs of this process, whose workers are forked from it; nobody looks at their pages."""
    monkeypatch.setattr(runner, "start_process", Forked)
    monkeypatch.setattr(publish, "write_run", lambda _, to: (to / "report.html", to / "report.md"))


@pytest.fixture
def validate(projlab_command):
    """`projlab validate` on the quick profile, in the folder of `faults`."""
    return partial(
        projlab_command, "validate", "--profile", "quick", "--jobs", "1", cwd=Path(__file__).parent
    )


def test_enough_faults_are_planted():
    assert len(faults.FAULTS) >= 60


@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_planted_fault_ends_the_command_with_1(name, tmp_path, monkeypatch, capfd, forked):
    monkeypatch.setitem(PROFILES, "quick", BRIEF)
    arguments = ["--subject", f"faults:{name}", "--profile", "quick", "--jobs", "1", "--fail-fast"]
    if name in faults.HANGS:
        arguments += ["--time-limit", "2"]
    assert main(["validate", *arguments, "--json", "--out", str(tmp_path / "run")]) == 1
    captured = capfd.readouterr()
    outcome = json.loads(captured.out)
    assert outcome["stopped"] == "stopped at the first check that failed"
    why = outcome["failures"][0]["why"]
    assert ("time limit" in why) == (name in faults.HANGS)
    assert ("worker process" in why) == (name in faults.DIES)


@pytest.mark.parametrize("name", faults.SOUND)
def test_nothing_sound_is_called_wrong(name):
    for problem in PROBLEMS:
        frame = judged(name, problem)
        wrong = frame[frame["verdict"] == "fail"]
        assert wrong.empty, (problem.name, problem.dtype, wrong["why"].tolist())
        # a certificate alone judges three checks of further points, and may leave them open by a
        # processor's rounding: of decimals, say, whose rows are redundant to rounding
        assert (frame["verdict"] == "pass").sum() >= len(frame) - 3


@pytest.mark.parametrize("name", faults.SPARSE_FAULTS)
def test_a_sparse_fault_ends_the_command_with_1(name, tmp_path, capfd, forked):
    arguments = ["--subject", f"faults:{name}", "--jobs", "1", "--fail-fast", "--dtype", "float64"]
    if name == "overflows_32_bits":  # as only a large system shows
        arguments += ["--profile", "standard", "--problem", "sparse_chain_50000"]
    else:
        arguments += ["--profile", "quick", "--group", "sparse"]
    assert main(["validate", *arguments, "--json", "--out", str(tmp_path / "run")]) == 1
    outcome = json.loads(capfd.readouterr().out)
    assert outcome["stopped"] == "stopped at the first check that failed"


@pytest.mark.parametrize("name", faults.SPARSE_SOUND)
@pytest.mark.parametrize("asked", [*BRIEF.sparse, "sparse_chain_1000", "sparse_blocks_500"])
def test_nothing_sparse_and_sound_is_called_wrong(name, asked):
    everything = replace(BRIEF, sparse=None, sparse_rows=2000)
    for problem in catalogue(names=[asked]):
        records = measure(problem, [f"faults:{name}"], everything)
        frame = judge(table(records).to_pandas())
        wrong = frame[frame["verdict"] == "fail"]
        assert wrong.empty, (problem.name, problem.dtype, wrong["why"].tolist())
        assert (frame["verdict"] == "pass").sum() >= len(frame) - 2


def test_a_run_that_is_given_up_ends_with_1_and_says_so(tmp_path, monkeypatch, capfd, forked):
    monkeypatch.setattr(runner, "PATIENCE", 1)
    monkeypatch.setitem(PROFILES, "quick", BRIEF)
    asked = ["--subject", "faults:ends_the_process_on_stacks", "--group", "article"]
    limited = [*asked, "--time-limit", "20", "--jobs", "1", "--json", "--out", str(tmp_path)]
    assert main(["validate", *limited]) == 1
    captured = capfd.readouterr()
    outcome = json.loads(captured.out)
    assert outcome["stopped"] == "given up after 1 time-outs and crashes"
    assert "given up after 1 time-outs and crashes; --resume goes on" in captured.err
    assert " --time-limit 20 " in outcome["failures"][0]["reproduce"]
    before = store.read(tmp_path)["problem"].nunique()
    assert before < 5
    monkeypatch.setattr(runner, "PATIENCE", 20)
    assert main(["validate", *asked, "--jobs", "1", "--resume", "--out", str(tmp_path)]) == 1
    after = store.read(tmp_path)
    assert after["problem"].nunique() > before
    assert not after.duplicated(["content_hash", "check"]).any()


def test_a_fault_ends_with_1_and_the_command_that_repeats_it(validate, tmp_path):
    out = tmp_path / "run"
    chosen = ("--subject", "faults:sign_of_b", "--problem", "article_3", "--dtype", "float64")
    ended = validate(*chosen, "--out", out)
    assert ended.returncode == 1, ended.stderr
    command = (
        "projlab validate --profile quick --problem article_3 --subject faults:sign_of_b "
        "--dtype float64 --out reproduce/article_3-faults.sign_of_b-float64 --overwrite"
    )
    assert command in ended.stdout
    report = (out / "report.md").read_text(encoding="utf-8")
    assert command in report
    assert "| row_permutation |" in report


def test_what_is_sound_ends_with_0_and_is_not_measured_again(validate, tmp_path):
    chosen = ("--subject", "faults:row_scaled_lstsq", "--group", "article", "--json")
    ended = validate(*chosen, "--out", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    outcome = json.loads(ended.stdout)
    assert outcome["subject"] == "faults:row_scaled_lstsq"
    assert outcome["totals"]["fail"] == 0
    parts = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run/records").iterdir())
    assert validate(*chosen, "--out", tmp_path / "run", "--resume").returncode == 0
    assert parts == sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run/records").iterdir())
