"""How a constrained optimizer is copied: torch drops step hooks, and says nothing."""

import copy
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

_METHODS = ("__deepcopy__", "__getstate__")


def answer(optimizer: Optimizer, constrain: Callable[[dict[int, Any]], None]) -> None:
    """From here on `copy.deepcopy` takes the constraint along, and pickling warns that it does not.

    `constrain` is called with the memo of the copying, which has the copy. A deep copy is answered
    by the optimizer itself, as Python asks it first; its class is left alone.
    """
    reference = weakref.ref(optimizer)
    optimizer.__dict__["__deepcopy__"] = _deepcopy(reference, constrain)
    optimizer.__dict__["__getstate__"] = _getstate(reference)


def no_longer_answer(optimizer: Optimizer) -> None:
    """Undo `answer`."""
    for name in _METHODS:
        optimizer.__dict__.pop(name, None)


def _deepcopy(
    reference: "weakref.ref[Optimizer]", constrain: Callable[[dict[int, Any]], None]
) -> Callable[[dict[int, Any]], Optimizer]:
    def deepcopy(memo: dict[int, Any]) -> Optimizer:
        optimizer = reference()
        assert optimizer is not None
        with _not_answering(optimizer):
            copied: Optimizer = copy.deepcopy(optimizer, memo)
        constrain(memo)
        return copied

    return deepcopy


def _getstate(reference: "weakref.ref[Optimizer]") -> Callable[[], dict[str, Any]]:
    def getstate() -> dict[str, Any]:
        optimizer = reference()
        assert optimizer is not None
        warnings.warn(
            "a pickled or shallowly copied optimizer does not take its constraint along (torch "
            "drops step hooks): call projlab.constrain on it again, or save state_dict() instead",
            stacklevel=3,
        )
        state: dict[str, Any] = type(optimizer).__getstate__(optimizer)
        return state

    return getstate


@contextmanager
def _not_answering(optimizer: Optimizer) -> Iterator[None]:
    own = {name: optimizer.__dict__.pop(name) for name in _METHODS if name in optimizer.__dict__}
    try:
        yield
    finally:
        optimizer.__dict__.update(own)
