"""The machine itself: what a matrix costs to read, a vector to pass through, a matrix to factor.

`projlab bench --compare` takes from the times of `Machine` how far the machine drifted between two
runs, and `track_threads` tells runs apart whose times say nothing about each other.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def reads(W: Tensor) -> dict[str, Callable[[], object]]:
    """Calls that read W once and write next to nothing; the fastest is the machine's limit."""
    flat = W.flatten()
    x = torch.ones(W.shape[-1], dtype=W.dtype, device=W.device)
    out = torch.empty(W.shape[0], dtype=W.dtype, device=W.device)
    return {
        "read: sum": flat.sum,
        "read: dot": lambda: torch.dot(flat, flat),
        "read: matrix times vector": lambda: torch.mv(W, x, out=out),
    }


def pass_through(x: Tensor) -> Callable[[], object]:
    """Read x once and write it once."""
    return lambda: x.mul_(1.0)


class Machine:
    """No line of projlab runs here."""

    def setup(self):
        self.M = torch.ones(128, 128, dtype=torch.float64)
        self.v = torch.ones(128, dtype=torch.float64)
        self.out = torch.empty(128, dtype=torch.float64)
        self.large = torch.ones(1_000_000, dtype=torch.float64)

    def time_addmv(self):
        torch.addmv(self.v, self.M, self.v, out=self.out)

    def time_read(self):
        self.large.sum()

    def track_threads(self):
        return torch.get_num_threads()

    track_threads.unit = "threads"  # type: ignore[attr-defined]  # asv reads it from the function
