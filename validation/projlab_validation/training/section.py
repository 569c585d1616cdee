"""The training section of a run: every problem with every optimizer, and the networks.

It is measured in worker processes and lies beside the run's records, in `training/`: a part for
each problem and optimizer, and for each network, written whole or not at all, so that a resumed run
goes on with what is missing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import joblib

from projlab_validation.environment import THREADS_PER_WORKER
from projlab_validation.profiles import Profile
from projlab_validation.progress import progress_bar
from projlab_validation.store import TRAINING, parquet, write_whole
from projlab_validation.training.networks import NETWORKS, measure
from projlab_validation.training.optimizers import OPTIMIZERS, Choice
from projlab_validation.training.problems import BUILDERS, TrainingProblem
from projlab_validation.training.train import TrainingRecord, runs, takes, train

if TYPE_CHECKING:
    import pandas as pd

    from projlab_validation.problems.problem import Dtype

NAMES = (*BUILDERS, *NETWORKS)
"""What can be asked for."""

SEARCHES = 40
"""Steps of an optimizer that searches: each evaluates the loss up to twenty times."""

Work = Callable[[], list[TrainingRecord]]


def run(
    folder: Path,
    names: Sequence[str],
    profile: Profile,
    dtypes: Sequence[Dtype],
    *,
    environment: str,
    jobs: int | None = None,
) -> Iterator[list[TrainingRecord]]:
    """Train what the folder does not hold yet; yield records when they are written."""
    (folder / TRAINING).mkdir(exist_ok=True)
    asked = _files(folder, names, profile, dtypes, environment)
    todo = {path: work for path, work in asked.items() if not path.exists()}
    trained = joblib.Parallel(n_jobs=jobs or joblib.cpu_count(), return_as="generator_unordered")(
        joblib.delayed(_task)(path, work) for path, work in todo.items()
    )
    with progress_bar(len(todo)) as (bar, line):
        for path, records in trained:
            write_whole(path, parquet(_frame(records)))
            bar.update(line, advance=1, description=f"{records[0].problem} {records[0].optimizer}")
            yield records


def missing(
    folder: Path,
    names: Sequence[str],
    profile: Profile,
    dtypes: Sequence[Dtype],
    *,
    environment: str,
) -> list[str]:
    """Name the parts that a run would still have to train."""
    files = _files(folder, names, profile, dtypes, environment)
    return [path.name for path in files if not path.exists()]


def _files(
    folder: Path, names: Sequence[str], profile: Profile, dtypes: Sequence[Dtype], environment: str
) -> dict[Path, Work]:
    """Return the files that the section consists of, each with the work that fills it."""
    return {
        folder / TRAINING / f"{part}.{environment}.parquet": work
        for name in names
        for part, work in _parts(name, profile, dtypes, environment)
    }


def _parts(
    name: str, profile: Profile, dtypes: Sequence[Dtype], environment: str
) -> Iterator[tuple[str, Work]]:
    """Yield the parts of a problem or network: what names each, and what measures it."""
    if name in NETWORKS:
        steps = f"{profile.network_steps}-{profile.noise_exponent}"
        for dtype in NETWORKS[name][1]:
            if dtype in dtypes:
                part = f"{name}.{dtype}.{steps}"
                yield part, functools.partial(measure, name, profile, dtype, environment)
        return
    for choice in OPTIMIZERS:
        if takes(choice, _problem(name)):
            for dtype in profile.training_dtypes:
                if dtype in dtypes:
                    part = f"{name}.{choice.name.replace(' ', '-')}.{dtype}"
                    yield (
                        f"{part}.{profile.training_steps}",
                        functools.partial(_runs, name, choice, dtype, profile, environment),
                    )


def read(folder: Path, environment: str) -> pd.DataFrame:
    """Read every training record of a run that was measured in this environment."""
    import pandas as pd

    parts = [pd.read_parquet(path) for path in sorted((folder / TRAINING).glob("*.parquet"))]
    frame = pd.concat(parts, ignore_index=True) if parts else _frame([])
    return frame[frame["environment"] == environment].reset_index(drop=True)


@functools.cache  # a worker trains it with every optimizer
def _problem(name: str) -> TrainingProblem:
    return BUILDERS[name]()


def _runs(
    name: str, choice: Choice, dtype: Dtype, profile: Profile, environment: str
) -> list[TrainingRecord]:
    """Train a problem with one optimizer in every way that it is asked."""
    steps = SEARCHES if choice.closure else profile.training_steps
    return [
        train(
            _problem(name), choice, mode, decay, steps=steps, dtype=dtype, environment=environment
        )
        for mode, decay in runs(choice, brief=profile.training_brief)
    ]


def _task(path: Path, work: Work) -> tuple[Path, list[TrainingRecord]]:
    import torch

    torch.set_num_threads(THREADS_PER_WORKER)
    return path, work()


def _frame(records: Sequence[TrainingRecord]) -> pd.DataFrame:
    import pandas as pd

    columns = [field.name for field in dataclasses.fields(TrainingRecord)]
    rows = [dataclasses.asdict(record) for record in records]
    return pd.DataFrame(rows, columns=columns).astype({"steps_to": "Int64"})
