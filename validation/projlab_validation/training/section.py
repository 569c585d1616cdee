"""The training section of a run: every problem with every optimizer, in worker processes.

It lies beside the run's records, in `training/`: a part for each problem and optimizer, written
whole or not at all, so that a resumed run goes on with what is missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import joblib

from projlab_validation.environment import THREADS_PER_WORKER
from projlab_validation.runner import progress_bar
from projlab_validation.store import TRAINING, write_whole
from projlab_validation.training.optimizers import OPTIMIZERS, Choice
from projlab_validation.training.problems import BUILDERS
from projlab_validation.training.train import TrainingRecord, runs, takes, train

if TYPE_CHECKING:
    import pandas as pd

    from projlab_validation.problems.problem import Dtype

SEARCHES = 40
"""Steps of an optimizer that searches: each evaluates the loss up to twenty times."""


def run(
    folder: Path,
    names: Sequence[str],
    dtypes: Sequence[Dtype],
    *,
    steps: int,
    brief: bool,
    environment: str,
    jobs: int | None = None,
) -> Iterator[list[TrainingRecord]]:
    """Train what the folder does not hold yet; yield records when they are written."""
    parts = folder / TRAINING
    parts.mkdir(exist_ok=True)
    missing = {
        _part(parts, name, choice, dtype, steps, environment): (name, choice, dtype)
        for name, problem in ((name, BUILDERS[name]()) for name in names)
        for choice in OPTIMIZERS
        if takes(choice, problem)
        for dtype in dtypes
    }
    todo = [(path, asked) for path, asked in missing.items() if not path.exists()]
    work = joblib.Parallel(n_jobs=jobs or joblib.cpu_count(), return_as="generator_unordered")(
        joblib.delayed(_task)(path, *asked, steps, environment, brief=brief) for path, asked in todo
    )
    with progress_bar(len(todo)) as (bar, line):
        for path, records in work:
            write_whole(path, _frame(records).to_parquet(index=False))
            bar.update(line, advance=1, description=f"{records[0].problem} {records[0].optimizer}")
            yield records


def read(folder: Path, environment: str) -> pd.DataFrame:
    """Read every training record of a run that was measured in this environment."""
    import pandas as pd

    found = [pd.read_parquet(path) for path in sorted((folder / TRAINING).glob("*.parquet"))]
    frame = pd.concat(found, ignore_index=True) if found else _frame([])
    return frame[frame["environment"] == environment].reset_index(drop=True)


def _task(
    path: Path,
    name: str,
    choice: Choice,
    dtype: str,
    steps: int,
    environment: str,
    *,
    brief: bool,
) -> tuple[Path, list[TrainingRecord]]:
    import torch

    torch.set_num_threads(THREADS_PER_WORKER)
    problem = BUILDERS[name]()
    count = SEARCHES if choice.closure else steps
    return path, [
        train(problem, choice, mode, decay, steps=count, dtype=dtype, environment=environment)
        for mode, decay in runs(choice, brief=brief)
    ]


def _part(parts: Path, name: str, choice: Choice, dtype: str, steps: int, environment: str) -> Path:
    optimizer = choice.name.replace(" ", "-")
    return parts / f"{name}.{optimizer}.{dtype}.{steps}.{environment}.parquet"


def _frame(records: Sequence[TrainingRecord]) -> pd.DataFrame:
    import pandas as pd

    columns = [field.name for field in dataclasses.fields(TrainingRecord)]
    rows = [dataclasses.asdict(record) for record in records]
    return pd.DataFrame(rows, columns=columns).astype({"steps_to": "Int64"})
