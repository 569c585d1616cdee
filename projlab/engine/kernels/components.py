"""Which rows hang together, by numba where it is installed and wanted."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projlab.engine.kernels.native import loaded, wanted
from projlab.system.rows import SparseRows
from projlab.system.structure import connected_rows


@cache
def _kernel() -> Any:
    one = np.zeros(1, np.int64)
    return loaded("component_kernels", torch.float64, lambda found: found(one, one, one, one))


def of_rows(rows: SparseRows) -> tuple[int, Tensor, Tensor]:
    """As `connected_rows`: 0.02 ms of 920 rows of a network, where scipy takes 0.3."""
    kernel = _kernel() if rows.device.type == "cpu" and wanted() else None
    if kernel is None:
        return connected_rows(rows)
    of_row, of_column = (np.full(length, -1) for length in rows.shape)
    count = kernel(rows.rows.numpy(), rows.cols.numpy(), of_row, of_column)
    return count, torch.from_numpy(of_row), torch.from_numpy(of_column)
