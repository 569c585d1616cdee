"""Iterative refinement in pairs of float64: one loop, whatever is refined.

Reference: Higham, ASNA, section 12.1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics.double_double import Pair, add, exact, take


class Refined(NamedTuple):
    """k solutions, each the best that was met, with its residual and the residual's size."""

    solution: Pair
    residual: Pair
    size: Tensor
    """(k,)."""


def refine(
    start: Refined,
    *,
    correction: Callable[[Tensor, Tensor], Tensor],
    residual: Callable[[Pair, Tensor], Pair],
    size: Callable[[Pair], Tensor],
    enough: Callable[[Refined], Tensor] | None = None,
) -> Refined:
    """Make the residuals of k solutions small, starting from `start`.

    Ends when no solution gains a factor `tolerance.REFINEMENT_GAIN` by a step (NaN gains nothing),
    when all are good `enough`, or after `tolerance.REFINEMENT_STEPS` steps. A solution that a step
    made no better is left as it was: another would take the same step again.

    Parameters
    ----------
    correction
        What a residual, rounded to float64, says that a solution lacks, to a few digits; with the
        numbers (a,) of the a solutions that are gone on with, as `residual`.
    residual
        Of solutions, in pairs.
    size
        (k,) of residuals.
    enough
        Which of the k are as good as they need be.
    """
    best = Refined(_copy(start.solution), _copy(start.residual), start.size.clone())
    going = torch.arange(len(best.size), device=best.size.device)
    for _ in range(tolerance.REFINEMENT_STEPS):
        step = correction(take(best.residual, going).value(), going)
        trial = add(take(best.solution, going), exact(step))
        left = residual(trial, going)
        now, before = size(left), best.size[going]
        if not bool((now < before * tolerance.REFINEMENT_GAIN).any()):
            break
        better = now < before
        going = going[better]
        for kept, new in zip(
            (*best.solution, *best.residual, best.size), (*trial, *left, now), strict=True
        ):
            kept[going] = new[better]
        if enough is not None and bool(enough(best).all()):
            break
    return best


def _copy(a: Pair) -> Pair:
    return Pair(a.high.clone(), a.low.clone())
