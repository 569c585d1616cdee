"""Dense rows, split by parameter."""

import torch

from projlab import cat, constrain, expr
from tests.projlab.training.helpers import Fresh


def test_dense_rows_are_applied_without_a_copy_of_the_parameters():
    ps = [torch.nn.Parameter(torch.randn(50, 40)), torch.nn.Parameter(torch.randn(3000))]
    optimizer = torch.optim.SGD(ps, lr=0.1)
    A = torch.randn(4, 5000)
    handle = constrain(optimizer, A @ cat(*map(expr, ps)) == 1)
    for p in ps:
        p.grad = torch.randn_like(p)
    hooks = handle._hooks
    with Fresh() as fresh:
        hooks._before(optimizer, (optimizer,), {})
        hooks._after(optimizer)
    assert fresh.sizes
    assert max(fresh.sizes) <= 1024  # the log
