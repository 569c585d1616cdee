"""A run that is killed at any moment and resumed has the records of one that was not.

`PROJLAB_KILLS=100 pytest tests/validation/test_kills.py` kills a hundred times. Runs are forked, so
that a kill comes within the measuring and not within imports; `tests/projlab/cli/test_validate.py`
kills the command itself.
"""

import os
import random
import signal
import time
import traceback
from dataclasses import replace

import pandas as pd
import pytest

from projlab import InputError
from projlab_validation import runner, store
from projlab_validation.problems import catalogue
from projlab_validation.profiles import PROFILES
from projlab_validation.store import Store
from tests.validation.forked import Forked

KILLS = int(os.environ.get("PROJLAB_KILLS", "5"))

UNCLOCKED = replace(PROFILES["quick"], cvxpy_dtypes=(), check_flops=0, repeats=1)
"""What cvxpy says, its time limit decides; the rest repeats to the bit."""

SHAPES = ("3x10", "10x20", "30x60")
NAMES = [f"spectra_{kappa}_{shape}" for kappa in ("1", "1e3", "1e6") for shape in SHAPES]
HEADER = {"profile": "quick", "device": "cpu"}


def measure(folder):
    """Go on with the run in a folder, to its end."""
    opened = patiently_opened(folder)
    problems = list(catalogue(names=NAMES))
    for _ in runner.run(
        problems, ("qr", "cholesky"), UNCLOCKED, opened, environment="here", jobs=2
    ):
        pass
    opened.end()
    opened.close()


def patiently_opened(folder):
    """Open a run whose forked workers, which hold its lock too, may still be about to end."""
    patience = time.monotonic() + 60
    while True:
        try:
            return Store.create(folder, HEADER, resume=True)
        except InputError:
            if time.monotonic() > patience:
                raise
            time.sleep(0.02)


def begun(folder):
    """Begin `measure` in a process of its own; return its id."""
    pid = os.fork()
    if not pid:
        try:
            measure(folder)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(70)
    return pid


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def untimed(folder):
    """What a run measured, less what a clock did."""
    frame = store.read(folder).sort_values(["problem", "dtype", "variant", "check"])
    clocked = [c for c in frame if "_s_" in c or c == "repeats"]
    return frame.drop(columns=clocked).reset_index(drop=True)


@pytest.mark.timeout(60 + 20 * KILLS)
def test_records_are_those_of_a_run_that_was_not_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "start_process", Forked)
    start = time.monotonic()
    assert ended(begun(tmp_path / "whole")) == 0
    taken = time.monotonic() - start
    whole = untimed(tmp_path / "whole")
    assert set(whole["problem"]) == set(NAMES)
    chance = random.Random(0)  # noqa: S311  nothing secret
    runs = killed = 0
    while killed < KILLS:
        runs += 1
        folder = tmp_path / f"run-{runs}"
        code = None
        while killed < KILLS and code != 0:
            pid = begun(folder)
            time.sleep(chance.uniform(0.0, 0.5 * taken))
            os.kill(pid, signal.SIGKILL)
            code = ended(pid)
            assert code in (0, -signal.SIGKILL)
            killed += code != 0
        if code != 0:
            assert ended(begun(folder)) == 0
        pd.testing.assert_frame_equal(untimed(folder), whole, check_exact=True)
        assert store.STOPPED not in store.read_header(folder)
        assert not list(folder.rglob(f"{store.TEMPORARY}*"))
    print(f"{killed} kills in {runs} runs of {taken:.1f} s")
