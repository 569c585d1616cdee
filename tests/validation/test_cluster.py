"""Records measured on a Dask cluster are those that are measured here."""

import dataclasses
import json
import os

import pytest

from projlab_validation import cluster, environment
from projlab_validation.problems import catalogue
from projlab_validation.profiles import PROFILES
from projlab_validation.runner import GivenUp, Task, measured
from tests.validation.cluster_tasks import Deadly

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
pytestmark = [
    pytest.mark.timeout(240),
    # tornado and the processes of a cluster that ends warn of what they have not closed
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PROFILE = PROFILES["quick"]
TIMES = ("setup_s_median", "setup_s_min", "project_s_median", "project_s_min", "repeats")


@pytest.fixture
def local():
    """Two workers of this machine, each a process."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as found:
        yield found


def problems():
    return list(catalogue(names=["article_1", "shapes_wide"], dtypes=("float64",)))


def tasks(kind=Task, **more):
    return [kind((p,), ("single_row", "qr"), PROFILE, "cpu", "here", **more) for p in problems()]


def figures(rows):
    """What records say but for times, and for solvers, which a time limit stops where they are."""
    found = []
    for records in rows:
        for record in records:
            said = dataclasses.asdict(record)
            for name in (*TIMES, "oracles"):
                said.pop(name)
            found.append(repr(sorted(said.items())))
    return sorted(found)


def test_records_are_those_of_this_machine(local):
    with cluster.reached(local.scheduler_address) as reached:
        there = figures(reached.measured(tasks(), 60.0))
        described = reached.describe(environment.describe())
    assert there == figures(measured(tasks(), 1, 60.0))
    assert described["cluster"].startswith("2 workers on ")
    # another number of equal machines is no reason to measure again
    assert environment.identity(described) == environment.identity(environment.describe())


def test_what_a_killed_worker_was_at_is_measured_again(local, tmp_path):
    with cluster.reached(local.scheduler_address) as reached:
        (task, *_) = tasks(Deadly, marks=tmp_path, times=1)
        there = figures(reached.measured([task], 60.0))
    assert len(list(tmp_path.iterdir())) == 1
    assert there == figures(measured(tasks()[:1], 1, 60.0))


def test_a_task_that_kills_every_worker_has_records_that_say_so(local, tmp_path):
    with cluster.reached(local.scheduler_address) as reached:
        task, other = tasks(Deadly, marks=tmp_path, times=100)
        other = Task(**{f.name: getattr(other, f.name) for f in dataclasses.fields(Task)})
        there = [r for records in reached.measured([task, other], 60.0) for r in records]
    lost = [r for r in there if r.problem == task.problems[0].name]
    assert [r.variant for r in lost] == list(task.variants)
    assert {(r.status, r.exception) for r in lost} == {("error", "WorkersDied")}
    assert "one after the other" in lost[0].reason
    assert {r.status for r in there if r.problem == other.problems[0].name} >= {"ok"}


def test_a_time_limit_is_for_a_record_as_it_is_here(local, tmp_path):
    with cluster.reached(local.scheduler_address) as reached:
        found = [r for records in reached.measured(tasks()[:1], 1e-9) for r in records]
    assert {r.exception for r in found} == {"TimeoutError"}


def test_a_scheduler_that_goes_ends_the_run_with_a_sentence(local, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 3.0)
    with cluster.reached(local.scheduler_address) as reached:
        rows = reached.measured(tasks(), 60.0)
        next(rows)
        local.close()
        with pytest.raises(GivenUp, match="scheduler is gone"):
            list(rows)


def test_other_versions_are_refused_by_name(local, monkeypatch):
    here = environment.describe()
    monkeypatch.setattr(
        cluster.Wanted,
        "here",
        staticmethod(lambda s, p: cluster.Wanted(s, tuple(p), here | {"numpy": "0.1"})),
    )
    with (
        pytest.raises(cluster.InputError, match=r"worker tcp:.* has numpy \S+ \(0\.1 here\)"),
        cluster.reached(local.scheduler_address),
    ):
        raise AssertionError("unreachable")


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:1", "no address", "tcp://127.0.0.1:x", "ftp://127.0.0.1:1", "tls://[::1]:1"],
)
def test_nobody_there(address, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    with (
        pytest.raises(cluster.InputError, match="no Dask scheduler answers there"),
        cluster.reached(address),
    ):
        raise AssertionError("unreachable")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda _: None)
    with (
        pytest.raises(cluster.InputError, match=r"pip install projlab\[cluster\]"),
        cluster.reached("tcp://127.0.0.1:1"),
    ):
        raise AssertionError("unreachable")


def test_the_command_measures_there(local, tmp_path, projlab_command):
    ended = projlab_command(
        "validate", "--problem", "article_1", "--variant", "qr", "--cluster",
        local.scheduler_address, "--out", "run", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["totals"]["pass"] > 0
    assert "2 workers on" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_the_command_says_where_nobody_is(tmp_path, projlab_command):
    ended = projlab_command("validate", "--cluster", "no address", "--out", "run", cwd=tmp_path)
    assert ended.returncode == 2
    assert "no Dask scheduler answers there" in ended.stderr
    assert ended.stderr.count("\n") == 1  # dask's client, waiting for itself, would say more
    assert not (tmp_path / "run").exists()


SBATCH = """#!/bin/sh
# Slurm's answer, and the job's script at once, in a session of its own
for script; do :; done
cp "$script" "{folder}/script"
setsid sh "{folder}/script" > "{folder}/output" 2>&1 &
echo $! > "{folder}/session"
echo "Submitted batch job 1"
"""
SCANCEL = """#!/bin/sh
kill -- "-$(cat "{folder}/session")" 2> "{folder}/cancelled"
true
"""


@pytest.mark.needs("dask_jobqueue")
def test_workers_that_slurm_starts(tmp_path, monkeypatch):
    """dask-jobqueue, as `docs/validate.md` has it, with stand-ins for Slurm's two commands."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        command = tmp_path / name
        command.write_text(script.format(folder=tmp_path), encoding="utf-8")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with jobqueue.SLURMCluster(
        cores=2,
        processes=2,
        memory="4GB",
        walltime="01:00:00",
        scheduler_options={"dashboard_address": ":0"},
    ) as slurm:
        slurm.scale(jobs=1)
        slurm.wait_for_workers(2, timeout=120)
        with cluster.reached(slurm.scheduler_address) as reached:
            there = figures(reached.measured(tasks(), 60.0))
    assert there == figures(measured(tasks(), 1, 60.0))
    assert (tmp_path / "cancelled").exists(), "the job ends with its cluster"
