"""Optimizers that keep more than one point: schedule-free ones swap weights in `train`, `eval`.

They take gradients at y, step z, and evaluate at the average x, y = beta x + (1 - beta) z. An
affine map takes such combinations to combinations: with y and z on the set after each step, x is.

Reference: Defazio et al., "The road less scheduled", NeurIPS 37 (2024).
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_SWAPS = ("train", "eval")


def swaps(optimizer: Optimizer) -> bool:
    """Whether weights are swapped between training and evaluation."""
    return all(callable(getattr(type(optimizer), name, None)) for name in _SWAPS)


def answer(optimizer: Optimizer, swapped: Callable[[], None]) -> None:
    """From here on `swapped` is called after each swap."""
    reference = weakref.ref(optimizer)
    for name in _SWAPS:
        optimizer.__dict__[name] = _then(reference, getattr(type(optimizer), name), swapped)


def no_longer_answer(optimizer: Optimizer) -> None:
    """Undo `answer`."""
    for name in _SWAPS:
        optimizer.__dict__.pop(name, None)


def other_point(optimizer: Optimizer, parameter: Tensor) -> Tensor | None:
    """z of a parameter, once it has one."""
    z = optimizer.state.get(parameter, {}).get("z")
    own = isinstance(z, Tensor) and z.shape == parameter.shape and z.device == parameter.device
    return z if own else None


def _then(
    reference: "weakref.ref[Optimizer]",
    method: Callable[..., Any],
    swapped: Callable[[], None],
) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **keywords: Any) -> Any:
        optimizer = reference()
        assert optimizer is not None
        result = method(optimizer, *args, **keywords)
        swapped()
        return result

    return call
