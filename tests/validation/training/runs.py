"""Training runs, and their verdicts, for the tests of the training section."""

from dataclasses import asdict, replace

from projlab_validation.profiles import PROFILES
from projlab_validation.training.judge import allowed, verdict_of
from projlab_validation.training.optimizers import OPTIMIZERS
from projlab_validation.training.train import TrainingRecord

BY_NAME = {choice.name: choice for choice in OPTIMIZERS}
U = 2.0**-53
BRIEF = replace(
    PROFILES["quick"], training_steps=3, training_brief=True, network_steps=4, noise_exponent=1
)


ENDED = TrainingRecord(
    problem="train_article_2",
    optimizer="Adam",
    mode="tangent",
    weight_decay=0.0,
    dtype="float64",
    environment="here",
    m=1,
    n=2,
    steps=1000,
    status="ok",
    distance=1e-6,
    kkt=1e-6,
    feasibility=U,
    rate_sum=27.0,
    last_rate=5e-6,
    curvature_min=0.5,
    curvature_max=1.0,
    scale=2.0,
)


def verdict(record: TrainingRecord) -> str:
    row = asdict(record)
    return verdict_of(row, allowed(row))[0]
