"""The suite itself is tested: every planted fault fails, and nothing sound does."""

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from projlab import InputError
from projlab.cli import main
from projlab_validation import runner, store, subjects
from projlab_validation.judge import judge
from projlab_validation.measure import measure
from projlab_validation.problems import catalogue
from projlab_validation.profiles import PROFILES
from projlab_validation.record import table
from projlab_validation.runner import Task

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # where `faults` is, for the runs in this process

import faults  # noqa: E402  found by the line above
from forked import Forked  # noqa: E402  as above

QUICK = replace(PROFILES["quick"], cvxpy_dtypes=())
"""Of the quick profile, all but the oracle that no verdict on a subject depends on."""

PROBLEMS = (
    *(p for p in catalogue(groups=["scaling", "deficient", "shapes", "starts"]) if p.consistent),
    *catalogue(groups=["article"], dtypes=["float64"]),
    *catalogue(
        names=["spectra_1e3_10x20", "spectra_1e6_10x20", "spectra_1e9_10x100", "spectra_1_150x400"],
        dtypes=["float64"],
    ),
)


def judged(name, problem):
    return judge(table(measure(problem, [f"faults:{name}"], QUICK)).to_pandas())


@pytest.fixture
def validate(projlab_command):
    """`projlab validate` on the quick profile, in the folder of `faults`."""
    return partial(projlab_command, "validate", "--profile", "quick", "--jobs", "1", cwd=HERE)


def test_enough_faults_are_planted():
    assert len(faults.FAULTS) >= 60


@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_planted_fault_ends_the_command_with_1(name, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(runner, "start_process", Forked)
    monkeypatch.setitem(PROFILES, "quick", QUICK)
    monkeypatch.setattr("projlab_reports.figures.draw", lambda *_: [])
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
        assert (frame["verdict"] == "pass").sum() >= len(frame) - 2


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("refuses_a_stack", "stacked_points"),
        ("first_of_the_stack", "stacked_points"),
        ("keeps_the_first_answer", "further_points"),
        ("recognises_A_by_its_address", "column_permutation"),
        ("changes_x_in_place", "inputs_kept"),
        ("returns_nan_for_a_feasible_x", "feasible_point"),
        ("pinv_of_unscaled_rows", "row_scaling"),
    ],
)
def test_each_check_sees_what_it_is_for(name, check):
    frames = [judged(name, p) for p in PROBLEMS if p.name in ("shapes_plain", "article_1",
              "starts_feasible", "starts_answer_zero", "scaling_parallel_rows",
              "spectra_1e6_10x20", "spectra_1e3_10x20")]  # fmt: skip
    assert any((f["check"].eq(check) & f["verdict"].eq("fail")).any() for f in frames)


def test_a_run_that_is_given_up_ends_with_1_and_says_so(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(runner, "start_process", Forked)
    monkeypatch.setattr(runner, "PATIENCE", 1)
    monkeypatch.setitem(PROFILES, "quick", QUICK)
    monkeypatch.setattr("projlab_reports.figures.draw", lambda *_: [])
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


class TestCommand:
    def test_a_fault_ends_with_1_and_the_command_that_repeats_it(self, validate, tmp_path):
        out = tmp_path / "run"
        chosen = ("--subject", "faults:sign_of_b", "--problem", "article_3", "--dtype", "float64")
        ended = validate(*chosen, "--out", out)
        assert ended.returncode == 1, ended.stderr
        command = (
            "projlab validate --profile quick --problem article_3 --subject faults:sign_of_b "
            "--dtype float64 --out reproduce/article_3-faults.sign_of_b-float64"
        )
        assert command in ended.stdout
        report = (out / "report.md").read_text(encoding="utf-8")
        assert command in report
        assert "| row_permutation |" in report

    def test_what_is_sound_ends_with_0_and_is_not_measured_again(self, validate, tmp_path):
        chosen = ("--subject", "faults:row_scaled_lstsq", "--group", "article", "--json")
        ended = validate(*chosen, "--out", tmp_path / "run")
        assert ended.returncode == 0, ended.stderr
        outcome = json.loads(ended.stdout)
        assert outcome["subject"] == "faults:row_scaled_lstsq"
        assert outcome["totals"]["fail"] == 0
        parts = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run/records").iterdir())
        assert validate(*chosen, "--out", tmp_path / "run", "--resume").returncode == 0
        assert parts == sorted(
            (p, p.stat().st_mtime_ns) for p in (tmp_path / "run/records").iterdir()
        )

    def test_where_nothing_may_be_given_to_a_subject_nothing_is_checked(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        arguments = ["--subject", "projlab:project", "--problem", "pg_btheta_57_ieee"]
        assert main(["validate", "--jobs", "1", *arguments]) == 3

    @pytest.mark.parametrize(
        ("spec", "says"),
        [
            ("nosuchpackage.module:f", "No module named 'nosuchpackage'"),
            ("faults:nosuch", "has no 'nosuch'"),
            ("faults:FAULTS", "not callable"),
            ("faults", "want package.module:callable"),
            ("faults:", "want package.module:callable"),
        ],
    )
    def test_what_cannot_be_called_is_bad_usage(self, spec, says, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["validate", "--subject", spec, "--problem", "article_1"]) == 2
        assert says in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_a_module_of_the_current_folder_that_cannot_be_imported(self, tmp_path, monkeypatch):
        (tmp_path / "broken_subject.py").write_text("1 / 0\n")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="importing broken_subject failed: ZeroDivisionError"):
            subjects.load("broken_subject:project")

    def test_a_module_that_uses_what_is_deprecated_is_imported_all_the_same(
        self, tmp_path, monkeypatch
    ):
        (tmp_path / "dated_subject.py").write_text(
            "import warnings\nwarnings.warn('dated', DeprecationWarning)\nproject = print\n"
        )
        monkeypatch.chdir(tmp_path)
        assert subjects.load("dated_subject:project") is print

    def test_an_adapter_whose_package_is_missing_names_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cvxpy", None)
        monkeypatch.delitem(sys.modules, "projlab_validation.subjects.cvxpy", raising=False)
        with pytest.raises(InputError, match="cvxpy"):
            subjects.load("projlab_validation.subjects.cvxpy:project")


@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(peer, id=peer.name, marks=pytest.mark.needs(peer.distribution))
        for peer in subjects.PEERS
    ],
)
def test_adapters_project(peer):
    assert peer in subjects.installed_peers()
    problem = next(catalogue(names=["article_3"], dtypes=["float64"]))
    frame = judge(table(measure(problem, [peer.spec], QUICK)).to_pandas()).set_index("check")
    assert frame.loc["projection", "forward_error"] < 1e-6
    assert frame.loc["stacked_points", "proven_at_most"] < 1e-6


@pytest.mark.needs("jax", "jaxopt")
@pytest.mark.parametrize("stood", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jaxopt_keeps_the_dtype_and_leaves_float64_as_it_stood(dtype, stood, request):
    import jax

    # other tests switch it on for their whole process
    before = jax.config.jax_enable_x64
    request.addfinalizer(lambda: jax.config.update("jax_enable_x64", before))
    jax.config.update("jax_enable_x64", stood)
    project = subjects.load("projlab_validation.subjects.jaxopt:project")
    A, b, x = torch.ones(1, 2, dtype=dtype), torch.ones(1, dtype=dtype), torch.zeros(3, 2).to(dtype)
    answer = project(x, A, b)
    assert jax.config.jax_enable_x64 == stood
    assert answer.dtype == dtype
    assert torch.allclose(answer, torch.full_like(x, 0.5))


def test_every_adapter_is_listed_and_each_extra_peer_is_pinned():
    root = HERE.parents[1]
    modules = {p.stem for p in Path(subjects.__file__).parent.glob("*.py")} - {"__init__"}
    assert {peer.name for peer in subjects.PEERS} == modules
    assert len(subjects.PEERS) == len(modules)
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    declared = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        declared += extra
    pinned = (root / "constraints.txt").read_text("utf-8")
    for peer in subjects.PEERS:
        assert f"\n{peer.distribution}==" in pinned
        assert any(line.startswith(peer.distribution) for line in declared)


def test_installed_peers_imports_none_of_them():
    program = (
        "import sys; from projlab_validation.subjects import installed_peers\n"
        "found = {peer.name for peer in installed_peers()}\n"
        "assert {'article', 'unpivoted_qr', 'scipy_projections', 'cvxpy'} <= found, found\n"
        "assert not {'cvxpy', 'jax', 'jaxopt', 'botorch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_peer_that_is_not_installed_is_not_offered(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: iter(()))
    assert subjects.installed_peers() == ()


@pytest.mark.parametrize(
    "name", ["scaling_rows_1e150", "scaling_all_1e150", "scaling_all_1e_minus_150",
             "starts_huge_1e150", "starts_tiny_1e_minus_150"],
)  # fmt: skip
def test_an_error_is_seen_at_either_end_of_the_range(name):
    (problem,) = catalogue(names=[name])
    verdicts = judged("rounds_the_answer_to_float32_digits", problem).set_index("check")["verdict"]
    for check in ("projection", "idempotence", "further_points", "stacked_points"):
        assert verdicts[check] == "fail", check


def test_rows_are_scaled_only_as_far_as_their_plain_norms_stay_numbers():
    def checks(name, dtype="float64"):
        (problem,) = catalogue(names=[name], dtypes=[dtype])
        return set(judged("row_scaled_lstsq", problem)["check"])

    assert "row_scaling" not in checks("scaling_rows_1e150")
    assert "row_scaling" in checks("scaling_rows_1e8")
    assert "row_scaling" in checks("scaling_rows_1e8", "float32")


def test_problems_of_one_shape_run_together_and_variants_apart():
    def tasks(variant):
        return [Task((p,), (variant,), QUICK, "cpu", "here") for p in PROBLEMS]

    together = runner.by_shape(tasks("faults:exits"))
    shapes = [{(p.m, p.n) for p in task.problems} for task in together]
    assert all(len(shape) == 1 for shape in shapes)
    assert len(together) == len(set.union(*shapes)) < len(PROBLEMS)
    assert sum(len(task.problems) for task in together) == len(PROBLEMS)
    assert runner.by_shape(tasks("qr")) == tasks("qr")
