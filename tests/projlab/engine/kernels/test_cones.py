"""The kernels of a step within bounds: used where nothing records operators, and nowhere else."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from projlab import constrain, expr
from projlab.engine.kernels import cones

pytest.importorskip("numba")


class Seen(TorchDispatchMode):
    """Storages that operators write to."""

    def __init__(self):
        super().__init__()
        self.written = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.written.add(value.untyped_storage().data_ptr())
        return result


def step(within=None):
    w = torch.nn.Parameter(torch.full((2000,), 1 / 2000))
    optimizer = torch.optim.SGD([w], lr=1e-3)
    constrain(optimizer, expr(w).sum() == 1, expr(w) >= 0)
    w.grad = torch.linspace(-1, 1, 2000)
    if within is None:
        optimizer.step()
    else:
        with within:
            optimizer.step()
    return w


def test_a_mode_sees_every_write(monkeypatch):
    calls = []
    for name in ("cone", "onto"):
        kernel = getattr(cones, name)
        monkeypatch.setattr(cones, name, lambda *a, k=kernel, **o: (calls.append(a), k(*a, **o))[1])
    plain = step()
    assert len(calls) >= 2
    calls.clear()
    mode = Seen()
    seen = step(mode)
    assert calls == []
    assert {t.untyped_storage().data_ptr() for t in (seen, seen.grad)} <= mode.written
    # torch's operators round a sum of 2000 in another order
    torch.testing.assert_close(seen, plain, rtol=0, atol=2000 * 2.0**-24 / 2000)
