"""Which way is taken at which size, as it was measured."""

import pytest
import torch

from projlab.numerics import tuning

F64 = torch.float64


@pytest.mark.parametrize(
    ("m", "n", "rows"),
    [(3, 10, 3), (500, 2000, 500), (1000, 5000, 26), (100, 100_000, 4), (8, 1_000_000, 8)],
)
def test_rows_are_taken_in_blocks_where_that_was_measured_to_pay(m, n, rows):
    W = torch.empty(1, dtype=F64).expand(m, n)
    assert tuning.rows_per_block(W) == rows
    assert tuning.rows_per_block(W.to("meta")) == m, "blocks are for caches of a CPU"
