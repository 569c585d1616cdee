"""Sizes at which one way of computing overtakes another, all of them measured.

`python -m benchmarks.hot_path` repeats the measurements. Nothing here changes an answer but by
rounding.
"""

import sys

import torch
from torch import Tensor

SMALL = 2**16
"""Bytes of W up to which a negated copy is kept: its keyword-free product saves 0.45 us of 2.6 us
at 3 x 10, and nothing worth the memory beyond. A dense I - W'W, one product and a copy back, is no
faster (2.3 us against 2.2 at 3 x 10, 3.7 against 2.5 at 10 x 100, even at 50 x 100), and its
rounding is not confined to the row space: in 1e4 float32 projections of a feasible point at
10 x 100 it drifts 5000 u, this form 2 u."""

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

COLUMNS = 64
"""Vectors from which x' as columns are multiplied from the left: 41 us against 54 for 256 at
10 x 100 (float32: 21 against 34), 165 against 195 for 4096 at 3 x 10, but 15 against 6 for 4."""

COORDINATES = 2**10
"""Entries of W X from which that pays for few rows: up to it the calls cost more than the products,
1.1 to 1.3 times more at 2 x 5, 3 x 10 and 8 x 16; at four times as many 8 to 20 % are gained."""

NATIVE_MANY = {torch.float64: 2**16, torch.float32: 2**12}
"""Bytes of W up to which the native kernel takes any number of vectors. It reads W once for four of
them: 30 us against 43 for a matrix product, 256 vectors at 10 x 100, 3.4 ms against 7.8 for 4096 at
64 x 128. In float32 a product gains more than the kernel: 478 us against 402, 4096 at 16 x 128."""

SUMMED = 2**17
"""Entries of one float32 dot product. BLAS adds them up in a few dozen running sums: terms of one
sign lose 8e-5 at 1e7 entries and 4e-7 at 1e5; pieces of this length cost 2 % of the time."""

BATCHED = 2**12
"""Entries of one of the dot products that a device other than the CPU takes together, whose own
sums may have one running term: thousands of them keep it busy. Not measured on a GPU."""

DECIDED = 2**19
"""Entries of a block of equations from which it pays, on the CPU, to ask whether a second
correction is needed: of a step's projection that saves 3 % for a sum of 2^18 entries and 26 % for
2^20, and loses a third for 2^16; four dense rows lose 24 % for 2^18 entries, save 14 % for 2^20."""

SHARE = 8
"""One in so many entries of a sum is read to bound its terms from below, in `GROUPS` partial sums:
numbers of either sign cancel in a sum, and more so in a longer one."""

GROUPS = 16
"""See `SHARE`."""

HEAD = 2**14
"""Columns of dense rows that are read to bound their terms from below."""

PAGE = 2**12
"""Bytes between the rows of a matrix, or a multiple of them, at which `torch.sum` over its columns
meets the same sets of the caches again and again: 848 us at 2048 x 2048 in float32 against 170 us
at 2048 x 1030. As products with ones it takes 412 us, at other distances longer than the sum."""

BY_PRODUCT = 2**19
"""Entries of a matrix from which its columns are added up by products where they lie so."""

SHORT = 2**13
"""Entries of a matrix up to which sums of at most `PIECE` of them are products with ones wherever
they lie: 1.1 us against 2.0 at 64 x 64."""

PIECE = 64
"""Rows that one product adds up: more are no faster, and gather more roundings."""

MARGINS = 2**16
"""Entries of a matrix from which a kernel adds up both its rows and its columns in one read: 8 us
against 22 at 256 x 256, 27 against 58 at 512 x 512. A small one is not worth the second in which
numba is imported."""

SUMS = 2**16
"""Entries of all sums from which a kernel meets them in training: the column sums of a 128 x 784
matrix take 28 us in float32, with torch's operators 92. Fewer are not worth the import of numba."""

MANY_SUMS = 2**17
"""Entries of one block from which more than two threads of torch's are the faster: reckoned from
0.4 ns an entry of the kernel, in one thread, and 50 us for the calls of the operators."""

IN_PARTS = 256
"""Rows from which R is kept without the quarter of it that is zero: at 500 x 2000 that is 6 % of W,
and another right-hand side takes 54 us instead of 33."""

BOUNDED = 32
"""Rows from which a bound on the condition number is tried before singular values are computed: at
500 rows 15 ms against 66, at 64 0.05 ms against 0.19; below 32 the calls alone cost as much."""

SMALL_SET_UP = 2**21
"""m m n up to which a kernel sets up a dense system: at 10 x 100 11 us, with torch's operators 41;
at 64 x 128 119 and 174, at 85 x 219 1.33 ms and 1.45. Beyond, LAPACK's blocked reflections are
faster, at 142 x 353 by a third."""

EXCHANGED = 500_000_000
"""Coefficients that exchanging redundant rows for earlier ones may touch: about three seconds, when
an exchange of a 1113 x 939 block takes 6 ms. Up to 790 rows nothing is given up."""


PASSED = 8
"""Coefficients that are looked through for the next exchange in the time in which one changes."""

SPARSE_OPERATIONS = 2e10
"""Multiplications of triangular solves or exchanges that a decision by sparse factors may take:
about 20 seconds."""

SPARSE_DECISION = 3e8
"""min(m, n) m n from which the rank of sparse rows is decided by sparse factors: 548 x 1092 takes
50 ms against 120 by singular values, 920 x 1061 20 against 310, 214 x 315 30 against 10."""

ITERATED = 1.5e8
"""Entries that an iteration for the largest singular value may read, about a second, before it
stops short of the accuracy that it was to have; it says which it has."""

PORTION = 2**22
"""Entries of dense rows that are held at a time, 32 MiB."""

FEW_SHAPES = 16
"""Shapes of independent blocks that are worth a batched solve each."""

SPLIT_GAIN = 8
"""How many times fewer operations blocks must need than the whole for their launches to pay."""

WHOLE = 1e7
"""m m n up to which sparse rows are factored dense and whole, with no search for their blocks: 64
blocks of 2 x 3 are projected onto in 9 us against 46 by blocks, 16 of 10 x 30 in 19 against 76,
where set-up takes as long, or 3 ms more."""

DENSE_SET_UP = 3e7
"""Dense operations in the time of a set-up besides factoring, 1.2 ms at 0.04 ns each, by torch's
operators; this and what follows beside real systems: `python -m benchmarks.sparse_costs`."""

DENSE_FACTORED = 6.0
"""Dense operations for each of min(m, n) m n: four of a QR, and what redundant rows add, of which a
third of the real systems have some and take 2.5 times as long."""

DENSE_NEAR, DENSE_FAR = 2**21, 1.6
"""Bytes of dense rows that a second-level cache holds, and what a projection takes beyond: 237 us
at 243 x 2594, where as many operations within take 144."""

DENSE_CALL = 3.5e4
"""Dense operations in the time of the calls of one dense projection, 2 us."""

SPARSE_SET_UP = 3e7
"""As `DENSE_SET_UP`, of a sparse factor."""

SPARSE_ROW = 1e4
"""Dense operations in the time in which a row is ordered: 0.4 us."""

SPARSE_PREPARED = 7.5e3
"""The same of an entry of A, that is read, multiplied out and probed: 0.3 us."""

SPARSE_FILL = 2.5e3
"""The same of an entry of L, that is counted and probed: 0.1 us."""

SPARSE_FACTORED = 6.5
"""Dense operations in the time of one in factoring L."""

SPARSE_CALL = 6e4
"""Dense operations in the time of the calls of one sparse projection, 3.5 us."""

SPARSE_STEP = 6e5
"""The same in a step of training, of which a correction is torch's operators."""

SPARSE_PASSES = 2
"""Corrections that a sparse projection is expected to take: as many as half of the real systems."""

SPARSE_ENTRY = 48.0
"""Dense operations in the time that one entry of A or L takes in a correction, 2.8 ns."""

APART = 6e5
"""Entries of blocks in training from which those with patterns of their own go one by one, where
they are sparse."""

MANY_COLUMNS = 2**18
"""Columns from which products with rows whose entries lie anywhere go by blocks of columns: at
3e5 columns both take 2.5 ms by blocks and 3.2 by rows, at 1.5e5 as long either way, at 4e6 90 and
280."""

DENSE_BLOCK = 2**18
"""Entries of the largest of independent blocks up to which they are factored dense: 512 x 512 takes
20 ms, as ordering and factoring thousands of sparse rows does."""


DECIDABLE = 1e10
"""Of min(m, n) m n of sparse rows: a dense decision on which of them contradict each other then
takes a few seconds, and names the combination."""


def rows_per_block(W: Tensor) -> int:
    """How many rows of W (..., r, n) are projected onto at a time: all of them where it is best."""
    r, n = W.shape[-2:]
    if W.nbytes <= CACHE or W.dim() == 3 or W.device.type != "cpu":
        return max(r, 1)
    row = n * W.itemsize
    if LEAST_ROWS * row > LARGEST_BLOCK:
        return r
    return max(BLOCK // row, LEAST_ROWS)


def small_set_up(m: int, n: int) -> bool:
    """Whether a kernel sets up m dense rows in n variables faster than torch."""
    return m * m * n <= SMALL_SET_UP


def whole(m: int, n: int) -> bool:
    """Whether m sparse rows in n variables are so few that none of their structure pays."""
    return m * m * n <= WHOLE and m * n <= DENSE_BLOCK


def native_pays(W: Tensor) -> bool:
    """Whether a native kernel beats torch for one vector onto rows W (..., r, n).

    Everywhere measured but for rows that leave the cache between its two uses of them: one of 1e6
    or 1e7 entries, which torch streams up to 16 % faster, and 8 x 1e6 (6.2 ms against 5.8).
    """
    row = W.shape[-1] * W.itemsize
    fits = row <= BLOCK if W.shape[-2] == 1 else LEAST_ROWS * row <= LARGEST_BLOCK
    return W.dim() == 3 or fits


def most_native_vectors(W: Tensor) -> int:
    """How many vectors the kernel takes at once; more are faster as a matrix product.

    16 at 100 x 1000 take 174 us against 179 (float32: 78 against 96), 256 lose.
    """
    return sys.maxsize if W.shape[-2] * W.shape[-1] * W.itemsize <= NATIVE_MANY[W.dtype] else 16
