"""The largest residual of each step."""

import math

import pytest
import torch

from projlab import constrain, expr
from projlab.training import residual_log
from projlab.training.residual_log import ResidualLog
from tests.projlab.training.helpers import F64, vector


def test_log_keeps_the_last_steps_in_order():
    p = vector(1.0, 2.0)
    c = torch.tensor(3.0, dtype=F64)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == expr(c), log=4)
    for k in range(6):
        c.fill_(k)
        optimizer.step()  # no gradient: only what feasibility needs
    assert handle.residuals.shape == (4,)
    assert handle.steps == 6
    quiet = constrain(torch.optim.SGD([p], lr=0.1), expr(p).sum() == 5, log=0)
    assert quiet.residuals.numel() == 0


@pytest.mark.parametrize("reads", [True, False], ids=["in numbers", "on the device"])
def test_the_largest_of_all_blocks_is_kept(monkeypatch, reads):
    monkeypatch.setattr(residual_log, "reads_values", lambda device: reads)
    log = ResidualLog(3, torch.device("cpu"))
    assert log.last().shape == (0,)
    assert log.largest() == 0.0
    for size in (1.0, -4.0, 2.0, 3.0):
        log.record([torch.tensor([0.5, size], dtype=F64), torch.tensor([[0.25]])])
    assert int(log.steps) == 4
    assert log.last().tolist() == [4.0, 2.0, 3.0]
    assert log.largest() == 4.0
    log.record([torch.tensor([math.nan])])
    assert math.isnan(log.largest())
    log.record([])
    assert log.last()[-1] == 0.0
    assert math.isnan(log.last()[-2])


def test_a_residual_beyond_float32_is_infinite():
    log = ResidualLog(1, torch.device("cpu"))
    log.record([torch.tensor([1e300], dtype=F64)])
    assert log.last().tolist() == [math.inf]
    assert log.largest() == 1e300


@pytest.mark.parametrize("mode", ["tangent", "post", "metric"])
def test_residuals_are_logged_in_every_mode(mode):
    W = torch.nn.Parameter(torch.rand(20, 30))
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(1) == 1 / 3, mode=mode)
    found = []
    for _ in range(4):
        W.grad = torch.randn_like(W)
        optimizer.step()
        found.append(handle.residual().abs().max())
    assert max(found) > 0  # a third of one is rounded
    torch.testing.assert_close(handle.residuals, torch.stack(found).float(), rtol=0, atol=1e-6)
    assert (handle.residuals > 0).all()
