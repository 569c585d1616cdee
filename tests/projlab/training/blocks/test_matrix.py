"""Dense rows, split by parameter."""

import pytest
import torch

import projlab
from projlab import cat, constrain, expr
from tests.projlab.training.helpers import F64, Fresh, vector


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


@pytest.mark.parametrize("factor", [1e-60, 1e60])
def test_coefficients_that_the_parameters_cannot_hold_are_refused(factor):
    p = vector(1.0, 2.0, dtype=torch.float32)
    A = factor * torch.ones(1, 2, dtype=F64)
    with pytest.raises(projlab.InputError, match=r"over- or underflow in torch\.float32"):
        constrain(torch.optim.SGD([p], lr=0.1), A @ expr(p) == 1)
    assert p.tolist() == [1.0, 2.0]
