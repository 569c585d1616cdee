"""How blocks read and write the entries of parameters."""

import torch

from projlab import constrain, expr
from tests.projlab.training.helpers import F64, blocks_of, parameter


def test_other_strides_and_several_dtypes():
    conv = torch.nn.Parameter(
        torch.randn(4, 3, 5, 5, dtype=F64).to(memory_format=torch.channels_last)
    )
    half, p = torch.nn.Parameter(torch.randn(8)), parameter(8)
    blocks_of([conv], expr(conv).sum((1, 2, 3)) == 2)
    torch.testing.assert_close(conv.sum((1, 2, 3)), torch.full((4,), 2.0, dtype=F64))
    assert conv.is_contiguous(memory_format=torch.channels_last)
    handle = constrain(torch.optim.SGD([half, p], lr=0.1), expr(half) == 2 * expr(p))
    assert handle.residual().abs().max() < 1e-6
