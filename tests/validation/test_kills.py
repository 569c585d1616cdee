"""A run that is killed at any moment and resumed has the records of one that was not.

`PROJLAB_KILLS=100 pytest tests/validation/test_kills.py` kills a hundred times.
"""

import json
import os
import random
import signal
import subprocess
import time

import pandas as pd

from projlab_validation import store

KILLS = int(os.environ.get("PROJLAB_KILLS", "4"))

# What cvxpy says, its time limit decides; the rest repeats to the bit. Pages are no matter here.
UNCLOCKED = """
from dataclasses import replace
from projlab_validation import profiles
quick = profiles.PROFILES["quick"]
profiles.PROFILES["quick"] = replace(quick, cvxpy_dtypes=(), repeats=1, check_flops=0)
from projlab_reports import figures, page
figures.draw, page.render = lambda *_: [], lambda _: ""
"""
SHAPES = ("3x10", "10x20", "10x100")
NAMES = [f"spectra_{kappa}_{shape}" for kappa in ("1", "1e3", "1e6") for shape in SHAPES]
ASKED = ["validate", "--jobs", "1", "--variant", "qr", "--variant", "cholesky"]
ASKED += [word for name in NAMES for word in ("--problem", name)]


def untimed(folder):
    """What a run measured, less what a clock did."""
    frame = store.read(folder).sort_values(["problem", "dtype", "variant", "check", "steps"])
    clocked = [c for c in frame if "_s_" in c or c == "repeats"]
    return frame.drop(columns=clocked).reset_index(drop=True)


def test_records_are_those_of_a_run_that_was_not_killed(projlab_program, projlab_command, tmp_path):
    whole = projlab_command(*ASKED, "--out", "whole", cwd=tmp_path, before=UNCLOCKED)
    assert whole.returncode == 0, whole.stderr
    chance = random.Random(0)  # noqa: S311  nothing secret
    begun, killed = 0, 0
    while killed < KILLS:
        begun += 1
        out = tmp_path / f"killed-{begun}"
        while killed < KILLS:
            command = [*projlab_program(UNCLOCKED), *ASKED, "--out", out, "--resume"]
            running = subprocess.Popen(
                command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            wait_for(running, out, chance)
            running.send_signal(signal.SIGKILL)
            said = running.communicate(timeout=60)[1]
            if running.returncode == 0:
                break  # it was quicker; another run takes the kills that are left
            assert (running.returncode, said) == (-signal.SIGKILL, b"")
            killed += 1
        ended = projlab_command(*ASKED, "--out", out, "--resume", cwd=tmp_path, before=UNCLOCKED)
        assert ended.returncode == 0, ended.stderr
        pd.testing.assert_frame_equal(untimed(out), untimed(tmp_path / "whole"), check_exact=True)
        assert "stopped" not in json.loads((out / store.HEADER).read_text(encoding="utf-8"))
        assert not list(out.rglob(f"{store.TEMPORARY}*"))
    print(f"{killed} kills of {begun} runs")


def wait_for(running, out, chance):
    """Wait for the run to write, and then for a moment that nobody chose."""
    before = written(out)
    while running.poll() is None and written(out) == before:
        time.sleep(0.01)
    time.sleep(chance.uniform(0.0, 0.4))


def written(out):
    return {path: path.stat().st_mtime_ns for path in out.glob("**/*.parquet") if path.exists()}
