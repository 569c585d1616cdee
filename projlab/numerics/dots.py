"""Inner products, in pieces where one float32 sum would gather too many roundings."""

from collections.abc import Iterator

import torch
from torch import Tensor

from projlab.numerics import tuning


def times(M: Tensor, x: Tensor) -> Tensor:
    """M x for M (m, n) and x (n,), or the inner product a x (0-d) for one row a (n,)."""
    if M.dtype is not torch.float32 or M.shape[-1] <= tuning.SUMMED:
        return M @ x
    if M.device.type != "cpu":
        return together(M, x)
    return torch.stack([part @ piece for part, piece in pieces(M, x)]).sum(0)


def together(M: Tensor, x: Tensor) -> Tensor:
    """Shorter pieces in one batched product: elsewhere than on a CPU each operator is a launch."""
    k = M.shape[-1] // tuning.BATCHED
    whole = k * tuning.BATCHED
    rows = M.reshape(-1, M.shape[-1])
    parts = rows[:, :whole].unflatten(1, (k, tuning.BATCHED)).transpose(0, 1)
    total = torch.bmm(parts, x[:whole].reshape(k, tuning.BATCHED, 1)).sum((0, 2))
    if whole < len(x):
        total = torch.addmv(total, rows[:, whole:], x[whole:])
    return total.view(M.shape[:-1])


def pieces(M: Tensor, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """`tuning.SUMMED` columns of M (..., n) and entries of x (..., n) at a time."""
    return zip(M.split(tuning.SUMMED, -1), x.split(tuning.SUMMED, -1), strict=True)
