"""A sparse matrix as torch takes it: COO, its duplicates not added up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from torch import Tensor


def sparse_tensor(A: sp.coo_array, dtype: str, device: str) -> Tensor:
    """The entries of A, in the order in which they are stored."""
    import torch

    index = torch.from_numpy(np.stack(A.coords).astype(np.int64)).to(device)
    values = torch.tensor(A.data, dtype=getattr(torch, dtype), device=device)
    return torch.sparse_coo_tensor(index, values, A.shape, check_invariants=True)
