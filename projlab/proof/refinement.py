"""Iterative refinement in pairs of float64: one loop, whatever is refined.

Reference: Higham, ASNA, section 12.1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics.double_double import Pair, add, choose, exact


class Refined(NamedTuple):
    """k solutions, each the best that was met, with its residual and the residual's size."""

    solution: Pair
    residual: Pair
    size: Tensor
    """(k,)."""


def refine(
    start: Refined,
    *,
    correction: Callable[[Tensor], Tensor],
    residual: Callable[[Pair], Pair],
    size: Callable[[Pair], Tensor],
    enough: Callable[[Refined], Tensor] | None = None,
) -> Refined:
    """Make the residuals of k solutions small, starting from `start`.

    Ends when no solution gains a factor `tolerance.REFINEMENT_GAIN` by a step (NaN gains nothing),
    when all are good `enough`, or after `tolerance.REFINEMENT_STEPS` steps.

    Parameters
    ----------
    correction
        What a residual, rounded to float64, says that a solution lacks, to a few digits.
    residual
        Of solutions, in pairs.
    size
        (k,) of residuals.
    enough
        Which of the k are as good as they need be.
    """
    best = start
    for _ in range(tolerance.REFINEMENT_STEPS):
        trial = add(best.solution, exact(correction(best.residual.value())))
        left = residual(trial)
        now = size(left)
        if not bool((now < best.size * tolerance.REFINEMENT_GAIN).any()):
            break
        better = now < best.size
        best = Refined(
            choose(better, trial, best.solution),
            choose(better, left, best.residual),
            torch.minimum(now, best.size),
        )
        if enough is not None and bool(enough(best).all()):
            break
    return best
