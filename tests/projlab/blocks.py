"""A small system of independent blocks, its rows and columns shuffled."""

import torch
from torch import Tensor

F64 = torch.float64


def block_system(kind: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A (32, 46) dense, b and x0: 15 blocks of four shapes, a row of zeros and a free column.

    Of small integers, so that "redundant" rows, in twelve of the blocks, follow exactly; the
    "disjoint" kind has one row in each block instead.
    """
    draw = torch.Generator().manual_seed(seed)

    def integers(*shape: int) -> Tensor:
        entries = torch.randint(1, 9, shape, generator=draw)
        return (entries * (1 - 2 * torch.randint(0, 2, shape, generator=draw))).double()

    shapes = [(2, 3)] * 8 + [(3, 4)] * 3 + [(1, 2)] * 3 + [(3, 3)]
    blocks = [integers(*shape) for shape in shapes]
    if kind == "redundant":
        for block in blocks[:11]:
            block[-1] = 2 * block[0] - (block[1] if len(block) > 2 else 0)
        blocks[-1][1:] = blocks[-1][:1] * torch.tensor([[-1.0], [3.0]], dtype=F64)
    if kind == "disjoint":
        blocks = [block[:1] for block in blocks]
    A = torch.block_diag(*blocks, torch.zeros(1, 1, dtype=F64))
    A = A[torch.randperm(len(A), generator=draw)][:, torch.randperm(A.shape[1], generator=draw)]
    return A, A @ integers(A.shape[1]), torch.randn(A.shape[1], dtype=F64, generator=draw)
