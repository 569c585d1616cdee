"""The largest residual after each step, kept where the parameters are."""

import math

import torch
from torch import Tensor

from projlab.numerics.transfer import reads_values
from projlab.training.blocks.base import largest_of, largest_of_all

_LARGEST = torch.finfo(torch.float32).max


class ResidualLog:
    """The largest |A x - b| after each of the last `size` steps, and after any.

    On the CPU it is kept in numbers; elsewhere in tensors, written without waiting for the device.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size, self.device = size, device
        self.steps: Tensor | int = 0
        """How many were recorded."""
        self._largest: Tensor | float = 0.0
        self._values = torch.full((max(size, 1),), torch.nan, device=device, dtype=torch.float32)
        if reads_values(device):
            self._written = self._values.numpy()
        else:
            self.steps = torch.zeros((), dtype=torch.long, device=device)
            self._largest = torch.zeros((), device=device, dtype=torch.float32)

    def record(self, residuals: list[Tensor]) -> None:
        """One step, by the residuals of all blocks."""
        if not isinstance(self.steps, Tensor):
            worst = 0.0
            for r in residuals:
                size = largest_of(r)
                if size > worst or size != size:  # NaN stays: nothing is larger
                    worst = size
            self._written[self.steps % self.size] = math.inf if worst > _LARGEST else worst
            self.steps += 1
            if worst > self._largest or worst != worst:
                self._largest = worst
            return
        largest = self._largest
        assert isinstance(largest, Tensor)
        value = largest_of_all(residuals, self.device)
        self._values.index_copy_(0, (self.steps % self.size).reshape(1), value.reshape(1))
        self.steps.add_(1)
        torch.maximum(largest, value, out=largest)

    def last(self) -> Tensor:
        """Of each of the last steps, oldest first, (k,), float32, on the CPU."""
        steps, values = int(self.steps), self._values.cpu()
        if steps <= self.size:
            return values[:steps]
        return torch.roll(values, -(steps % self.size))

    def largest(self) -> float:
        """Of all steps."""
        return float(self._largest)
