"""A run in worker processes: any number of them, any of them lost, resumed or not."""

import contextlib
import os
import signal
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch

import projlab
from projlab_validation import oracles, runner, store
from projlab_validation.problems import catalogue
from projlab_validation.profiles import PROFILES
from projlab_validation.runner import GivenUp, Task, measured, run
from projlab_validation.store import Store
from tests.validation.asked import PROBLEMS
from tests.validation.forked import Forked

QUICK = PROFILES["quick"]
UNCLOCKED = replace(QUICK, cvxpy_dtypes=())  # what cvxpy says, its time limit decides
BRIEF = replace(QUICK, check_flops=0)  # the answers for x0, and what certifies them, alone
VARIANTS = projlab.variants()
NAMES = ("article_1", "article_3", "spectra_1e3_3x10")


def problems():
    return list(catalogue(names=NAMES, dtypes=["float64"]))


class Bomb:
    """Kills the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (7,)


def task_of(*names, variants=("qr",), profile=BRIEF):
    problems = tuple(catalogue(names=names, dtypes=["float64"]))
    return Task(problems, variants, profile, "cpu", "here")


def asked_of(fault):
    """A projector with a fault of its own: it is given what is asked, before it is answered."""
    honest = projlab.projector

    def projector(constraint, variant, **options):
        if options:  # none for the small system that loads libraries
            fault(constraint.A.shape, variant, options["on_inconsistent"])
        return honest(constraint, variant=variant, **options)

    return projector


def untimed(folder):
    """What a run measured, less what a clock did."""
    frame = store.read(folder).sort_values(["problem", "variant", "check"])
    seconds = [c for c in frame if "_s_" in c or c == "repeats"]
    return frame.drop(columns=seconds).reset_index(drop=True)


def outcomes(rows):
    """What each record but a certificate came to, by problem, variant and check, each once."""
    records = [record for row in rows for record in row if record.check != "certificate"]
    ended = {(r.problem, r.variant, r.check): r.exception or r.status for r in records}
    assert len(ended) == len(records)
    return ended


class TestRun:
    def test_results_do_not_depend_on_the_number_of_jobs(self, tmp_path):
        frames = []
        for jobs in (1, 2):
            opened = Store.create(tmp_path / str(jobs), {"profile": "quick"})
            rows = list(run(problems(), VARIANTS, UNCLOCKED, opened, jobs=jobs, environment="here"))
            assert len(rows) == 3
            frames.append(untimed(opened.folder))
        pd.testing.assert_frame_equal(*frames, check_exact=True)

    @pytest.mark.parametrize("asked", [VARIANTS, ("faults:row_scaled_lstsq",)])
    def test_a_resumed_run_equals_one_that_was_not_interrupted(self, asked, tmp_path, monkeypatch):
        monkeypatch.setattr(runner, "start_process", Forked)
        names = ("shapes_plain", "scaling_all_tiny", "shapes_wide", "article_1")
        several = list(catalogue(names=names, dtypes=["float64"]))

        def begin(folder):
            opened = Store.create(tmp_path / folder, {}, resume=True)
            return run(several, asked, UNCLOCKED, opened, jobs=1, environment="here")

        interrupted = begin("one")
        next(interrupted)
        interrupted.close()
        assert len(list(begin("one"))) == 3
        assert len(list(begin("other"))) == 4
        frames = untimed(tmp_path / "one"), untimed(tmp_path / "other")
        pd.testing.assert_frame_equal(*frames, check_exact=True)

    def test_a_resumed_run_measures_only_what_is_missing(self, tmp_path, monkeypatch):
        monkeypatch.setattr(runner, "start_process", Forked)
        opened = Store.create(tmp_path, {"profile": "quick"})

        def go(variants, environment="here"):
            return len(
                list(run(problems(), variants, QUICK, opened, jobs=1, environment=environment))
            )

        assert go(("qr",)) == 3
        first = store.read(tmp_path)
        assert go(("qr",)) == 0
        next((tmp_path / store.RECORDS).glob("article_3*")).unlink()
        assert go(("qr",)) == 1
        assert go(("qr", "pinv")) == 3
        again = store.read(tmp_path)
        assert len(again[again["check"] == "projection"]) == 6
        untouched = ["article_1", "spectra_1e3_3x10"]
        kept = again[(again["variant"] == "qr") & again["problem"].isin(untouched)]
        before = first[first["problem"].isin(untouched)]
        assert kept["project_s_median"].tolist() == before["project_s_median"].tolist()
        assert go(("qr",), environment="elsewhere") == 3

    def test_what_took_too_long_is_asked_again(self, tmp_path, monkeypatch):
        monkeypatch.setattr(runner, "start_process", Forked)
        opened = Store.create(tmp_path, {})

        def go(profile):
            rows = run(problems(), ("qr", "pinv"), profile, opened, jobs=1, environment="here")
            return outcomes(rows)

        def slow(shape, variant, _):
            if variant == "qr" and shape == (2, 3):
                time.sleep(60)

        with monkeypatch.context() as patched:
            patched.setattr(projlab, "projector", asked_of(slow))
            first = go(replace(BRIEF, record_seconds=2.0))
        lost = ("article_3", "qr", "projection")
        assert [what for what, end in first.items() if end != "ok"] == [lost]
        assert go(BRIEF) == {lost: "ok"}
        assert go(BRIEF) == {}
        frame = store.read(tmp_path)
        assert set(frame["status"]) == {"ok"}
        assert not frame.duplicated(["problem", "variant", "check"]).any()

    def test_what_is_yielded_is_on_disk_and_closing_ends_the_workers(self, tmp_path, monkeypatch):
        started = []

        def start():
            started.append(Forked())
            return started[-1]

        monkeypatch.setattr(runner, "start_process", start)
        opened = Store.create(tmp_path, {"profile": "quick"})
        rows = run(problems(), VARIANTS, QUICK, opened, jobs=2, environment="here")
        first = next(rows)
        assert set(store.read(tmp_path)["problem"]) == {first[0].problem}
        rows.close()
        assert [process.code for process in started] == [-signal.SIGKILL] * 2
        assert set(store.read(tmp_path)["problem"]) == {first[0].problem}

    def test_the_smallest_first_or_the_longest(self, tmp_path, monkeypatch):
        order = []
        monkeypatch.setattr(
            runner, "measured", lambda tasks, *_: iter(order.append([*tasks]) or [])
        )
        monkeypatch.setattr(runner.contextlib, "closing", contextlib.nullcontext)
        opened = Store.create(tmp_path, {"profile": "quick"})
        for smallest_first in (True, False):
            list(
                run(
                    problems(),
                    ("qr",),
                    QUICK,
                    opened,
                    environment="",
                    smallest_first=smallest_first,
                )
            )
        names = [[task.problems[0].name for task in tasks] for tasks in order]
        assert names == [list(NAMES), list(reversed(NAMES))]

    def test_workers_have_one_thread_and_neither_input_nor_output(self, capfd, monkeypatch):
        def fault(*_):
            os.write(1, b"what a solver prints")
            seen = torch.get_num_threads(), os.environ["OPENBLAS_NUM_THREADS"], os.read(0, 1)
            raise KeyError(seen)

        monkeypatch.setattr(projlab, "projector", asked_of(fault))
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
        monkeypatch.setattr(runner, "start_process", Forked)
        ((record,),) = measured([task_of("article_1")], 1, None)
        assert "(1, '1', b'')" in record.reason
        assert capfd.readouterr().out == ""

    def test_threads_of_a_worker_wait_asleep(self, monkeypatch):
        """What spins takes the processor of another worker."""
        given = []
        monkeypatch.setattr(runner.subprocess, "Popen", lambda *_, env, **__: given.append(env))
        runner.start_process()
        assert given[0]["OMP_WAIT_POLICY"] == "PASSIVE"
        assert given[0]["OMP_NUM_THREADS"] == "1"


class TestLoss:
    """A worker that hangs or dies: who is at fault, and who is not."""

    @pytest.fixture(autouse=True)
    def forked(self, monkeypatch):
        monkeypatch.setattr(runner, "start_process", Forked)

    @pytest.mark.parametrize(
        ("end", "exception"),
        [(lambda: time.sleep(60), "TimeoutError"), (lambda: os._exit(3), "WorkerDied")],
    )
    def test_it_is_the_record_in_work_and_no_other(self, end, exception, monkeypatch):
        def fault(shape, variant, _):
            if variant == "qr" and shape == (2, 3):
                end()

        monkeypatch.setattr(projlab, "projector", asked_of(fault))
        variants = ("pinv", "qr", "cholesky")
        tasks = [task_of(name, variants=variants) for name in NAMES]
        assert outcomes(measured(tasks, 2, 2.0)) == {
            (name, v, "projection"): exception if (name, v) == ("article_3", "qr") else "ok"
            for name in NAMES
            for v in variants
        }

    def test_what_was_answered_before_stands(self, monkeypatch):
        def fault(_, variant, on_inconsistent):
            if variant == "qr" and on_inconsistent == "least_squares":
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(projlab, "projector", asked_of(fault))
        name = "pg_btheta_57_ieee"
        assert outcomes(measured([task_of(name, variants=("pinv", "qr"))], 1, None)) == {
            (name, "pinv", "refusal"): "InconsistentError",
            (name, "pinv", "least_squares"): "ok",
            (name, "qr", "refusal"): "InconsistentError",
            (name, "qr", "least_squares"): "WorkerDied",
        }

    def test_a_subject_is_asked_about_the_other_problems_of_the_shape(self):
        names = ("shapes_plain", "starts_answer_zero", "scaling_all_tiny")
        subject = "faults:loops_on_feasible_points"
        ended = outcomes(measured([task_of(*names, variants=(subject,))], 1, 2.0))
        for name in names:
            checks = {check: end for (of, _, check), end in ended.items() if of == name}
            assert checks.pop("projection") == "ok"
            assert set(checks.values()) == {"TimeoutError"} | ({"ok"} if len(checks) > 1 else set())

    def test_references_and_oracles_are_not_charged(self, monkeypatch):
        honest = oracles.reference

        def slow(*arguments, **keywords):
            time.sleep(1.5)
            return honest(*arguments, **keywords)

        monkeypatch.setattr(oracles, "reference", slow)
        ((record, _),) = measured([task_of("article_1")], 1, 1.0)
        assert record.status == "ok"

    def test_a_task_that_cannot_be_begun_loses_every_variant_of_its_problem(self):
        deadly = task_of("article_1", variants=("qr", "pinv"), profile=Bomb())
        tasks = [task_of("article_3"), deadly, task_of("spectra_1e3_3x10")]
        ended = outcomes(measured(tasks, 2, None))
        assert [end for (name, *_), end in ended.items() if name == "article_1"] == [
            "WorkerDied",
            "WorkerDied",
        ]
        assert sorted(ended.values()) == ["WorkerDied", "WorkerDied", "ok", "ok"]

    def test_the_reason_says_how_it_ended(self):
        deadly = task_of("article_1", profile=Bomb())
        ((record,),) = measured([deadly], 1, None)
        assert "could not be measured" in record.reason
        assert "exit code 7" in record.reason

    def test_after_too_many_the_run_ends(self, monkeypatch):
        monkeypatch.setattr(runner, "PATIENCE", 2)
        rows = measured([task_of(name, profile=Bomb()) for name in NAMES], 1, None)
        assert [next(rows)[0].problem, next(rows)[0].problem] == list(NAMES[:2])
        with pytest.raises(GivenUp, match="after 2 time-outs and crashes"):
            next(rows)


def test_problems_of_one_shape_run_together_and_variants_apart():
    def tasks(variant):
        return [Task((p,), (variant,), QUICK, "cpu", "here") for p in PROBLEMS]

    together = runner.by_shape(tasks("faults:exits"))
    shapes = [{(p.m, p.n) for p in task.problems} for task in together]
    assert all(len(shape) == 1 for shape in shapes)
    assert len(together) == len(set.union(*shapes)) < len(PROBLEMS)
    assert sum(len(task.problems) for task in together) == len(PROBLEMS)
    assert runner.by_shape(tasks("qr")) == tasks("qr")
