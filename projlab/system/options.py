"""The keywords that `projector` and `project` share, checked in one place."""

from typing import Any, Literal, NamedTuple

from torch import Tensor

from projlab.errors import InputError
from projlab.system.metric import metric_weights
from projlab.system.rank import RankRule, check_rule


class Options(NamedTuple):
    """Checked keywords."""

    variant: str
    accuracy: float | None
    rank: RankRule
    metric: Tensor | None
    on_redundant: Literal["drop", "raise"]
    on_inconsistent: Literal["raise", "least_squares"]
    applications: int
    """How many projections the factorisation is expected to serve."""


def check_options(
    n: int,
    applications: int,
    *,
    variant: str,
    accuracy: float | None,
    rank: float | str,
    metric: Any,
    on_redundant: str,
    on_inconsistent: str,
) -> Options:
    """Options for vectors of length n, or `InputError`; variant and accuracy are checked by use."""
    if on_redundant not in ("drop", "raise"):
        raise InputError(f'on_redundant={on_redundant!r}; it must be "drop" or "raise"')
    if on_inconsistent not in ("raise", "least_squares"):
        raise InputError(
            f'on_inconsistent={on_inconsistent!r}; it must be "raise" or "least_squares"'
        )
    return Options(
        variant,
        accuracy,
        check_rule(rank),
        None if metric is None else metric_weights(metric, n),
        on_redundant,  # type: ignore[arg-type]
        on_inconsistent,  # type: ignore[arg-type]
        applications,
    )
