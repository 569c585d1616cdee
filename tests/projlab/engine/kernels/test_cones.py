"""The kernels of a step within bounds: used where nothing records operators, and nowhere else."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from projlab import constrain, expr, tolerance
from projlab.engine.kernels import cones
from projlab.engine.polyhedra import threshold

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


BOUNDS = {
    "numbers": (lambda n: torch.tensor(0.0), lambda n: torch.tensor(3.0 / n)),
    "one array": (lambda n: torch.zeros(3, n), lambda n: torch.tensor(3.0 / n)),
    "two arrays": (
        lambda n: torch.linspace(0, 0.5, n).expand(1, n) / n,
        lambda n: (torch.tensor([[3.0], [2.0], [4.0]]) / n).expand(3, n).contiguous(),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", BOUNDS)
def test_bounds_in_any_form_are_met(kind, dtype):
    """Against the same projections by a search with a bracket, in float64."""
    n = 1003
    lb, ub = (make(n).to(dtype) for make in BOUNDS[kind])
    bounds = cones.Bounds.of(lb, ub, n)
    assert bounds.uniform == (kind == "numbers")
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, n, generator=draw, dtype=dtype) / n
    right = torch.ones(3, dtype=torch.float64)
    compiled = cones.kernels(bounds, x)
    low, high = (t.expand(3, n) for t in (lb, ub))
    rows = threshold.DisjointRows(torch.ones(n), None, 1, torch.zeros(1, dtype=torch.bool))
    rows = rows.to(torch.float64, x.device)

    def plain(v, r, lb, ub):
        found = threshold.project(rows, v.double(), r.reshape(-1, 1), lb.double(), ub.double())
        return found.x

    wanted = plain(x, right, low, high)
    u = tolerance.unit_roundoff(dtype)
    assert cones.onto(compiled, x, bounds, torch.zeros_like(x), right)
    # the multiplier to STEP_ROUNDINGS of the sizes that are added up, for as many free entries
    allowed = 4 * tolerance.STEP_ROUNDINGS * u * (float(wanted.abs().amax()) + 4 / n)
    assert (x - wanted).abs().max() <= allowed
    assert ((x >= low) & (x <= high)).all()

    g = torch.randn(3, n, generator=draw, dtype=dtype)
    free, infinite = g.double(), torch.full((3, n), torch.inf, dtype=torch.float64)
    cone = torch.where(x <= low, 0, -infinite), torch.where(x >= high, 0, infinite)
    wanted = -plain(-free, torch.zeros(3, dtype=torch.float64), *cone)
    face = torch.empty_like(g)
    assert cones.cone(compiled, g, x, bounds, face, sums=True, given=False)
    assert (g - wanted).abs().max() <= 16 * tolerance.STEP_ROUNDINGS * u
    ends = (x <= low) * 1.0 + (x >= high) * 2.0
    assert torch.equal(face, torch.where((g != 0) & (ends > 0), -1.0, ends).to(dtype))

    m = torch.randn(3, n, generator=draw, dtype=dtype)
    held = face > 0
    lower, upper = cone
    wanted = plain(
        -m.double(),
        torch.zeros(3, dtype=torch.float64),
        torch.where(held, 0, lower),
        torch.where(held, 0, upper),
    )
    assert cones.cone(compiled, m, x, bounds, face, sums=True, given=True)
    assert (m + wanted).abs().max() <= 16 * tolerance.STEP_ROUNDINGS * u


@pytest.mark.parametrize("sizes", [0.75, 1.25])
def test_momenta_that_rounding_alone_would_move_stay(sizes):
    """Of entries whose mean is that many times what counts as noise beside the largest."""
    noise = tolerance.STEP_ROUNDINGS * 2.0**-24
    m = torch.tensor([[-1.0, 0.5, 0.5, 4 * sizes * noise]])
    x, bounds = torch.ones(1, 4), cones.Bounds.of(torch.tensor(0.0), torch.tensor(2.0), 4)
    before, face = m.clone(), torch.zeros(1, 4)
    assert cones.cone(cones.kernels(bounds, m), m, x, bounds, face, sums=True, given=True)
    assert torch.equal(m, before) == (sizes < 1)
