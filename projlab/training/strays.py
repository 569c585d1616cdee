"""Moves that no step of a constrained optimizer made, found by the versions of tensors."""

import warnings
from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from projlab.training.watched import Watched


class StrayMoves:
    """Whether something else moved the parameters since they were noted; warns once.

    Versions are compared, which costs nothing; where they differ, rows are to be evaluated: at the
    first, second, fourth, ... such step, since that may wait for the device, and always for
    somebody who reads.
    """

    def __init__(self) -> None:
        self._warned = False
        self._strays = 0
        """How often parameters were found moved by something else."""

    def note(self, parameters: Sequence[Tensor], elsewhere: Sequence[Watched]) -> None:
        """Remember the parameters as they are now, and those that others train."""
        self._parameters, self._elsewhere = parameters, elsewhere
        self._versions = [p._version for p in parameters]
        self._others = [w.parameter._version for w in elsewhere]

    @property
    def moved(self) -> bool:
        """Whether parameters were written to since they were noted."""
        return self._versions != [p._version for p in self._parameters]

    def suspected(self, stacklevel: int, *, reading: bool) -> bool:
        """Whether rows are to be evaluated now."""
        if self._warned:
            return False
        for w, seen in zip(self._elsewhere, self._others, strict=True):
            if w.parameter._version != seen and w.parameter.grad is not None:
                self._warned = True
                warnings.warn(
                    f"{w.name}, in an equation of this constraint, is moved by another optimizer: "
                    "the equation is off until the next step here. constrain([one, other], ...) "
                    "keeps it after every step of either",
                    stacklevel=stacklevel,
                )
                return False
        if not self.moved:
            return False
        self._strays += not reading
        return reading or not self._strays & (self._strays - 1)

    def warn(self, off: Sequence[str], optimizers: Sequence[Optimizer], stacklevel: int) -> None:
        """Say that these rows do not hold."""
        self._warned = True
        names = " and ".join(type(optimizer).__name__ for optimizer in optimizers)
        warnings.warn(
            f"constrained parameters were moved by something else than {names}.step(), and "
            f"{', '.join(off)} no longer hold: call handle.apply() after loading values or moving "
            "them by hand, and constrain the optimizer whose step() moves them",
            stacklevel=stacklevel,
        )
