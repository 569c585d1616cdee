"""Sizes at which one way of computing overtakes another, all of them measured.

`python benchmarks/kernels.py` repeats the measurements. Nothing here changes an answer but by
rounding.
"""

from torch import Tensor

SMALL = 2**16
"""Bytes of W up to which a negated copy is kept: its keyword-free product saves 0.45 us of 2.6 us
at 3 x 10, and nothing worth the memory beyond."""

CACHE = 24 * 2**20
"""Bytes of W from which it is read once, in blocks of rows, instead of twice. Blocks save 16 % at
40 MB (1000 x 5000) and at 80 MB (100 x 1e5), and lose 15 % at 8 MB (500 x 2000), which stays in a
last-level cache of 32 MiB between the passes."""

BLOCK = 2**20
"""Bytes of a block of rows, to stay in a second-level cache: from 0.5 to 1 MiB within 4 % at
1000 x 5000, 0.25 MiB loses 15 %."""

LEAST_ROWS = 4
"""Rows of a block at least: products with fewer read x as often as W. With less than that in
`LARGEST_BLOCK`, two passes are faster."""

LARGEST_BLOCK = 8 * 2**20
"""Bytes of `LEAST_ROWS` up to which they stay in a last-level cache beside x."""


def rows_per_block(W: Tensor) -> int:
    """How many rows of W (..., r, n) are projected onto at a time: all of them where it is best."""
    r, n = W.shape[-2:]
    if W.dim() == 3 or W.device.type != "cpu" or W.nbytes <= CACHE:
        return max(r, 1)
    row = n * W.itemsize
    if LEAST_ROWS * row > LARGEST_BLOCK:
        return r
    return max(BLOCK // row, LEAST_ROWS)
