"""Constrained steps on a device: none waits for it, and a graph of one can be replayed."""

import copy
from contextlib import nullcontext

import pytest
import torch

import projlab
from projlab import expr
from projlab.training import parameter_system

pytestmark = pytest.mark.gpu

U = 2.0**-24
"""Of the parameters, which are float32."""


def coefficients(*shape):
    return torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(1))


def banded(rows, n):
    band = torch.eye(n) + torch.diag(torch.full((n - 1,), 0.5), 1)
    return band[:rows].to_sparse()


EQUATIONS = {
    "sums": (((64, 32),), lambda W: [expr(W).sum(1) == 1]),
    "long sums": (((4, 300_000),), lambda W: [expr(W).sum(1) == 1]),
    "sum of two": (((64, 32), (50,)), lambda W, p: [expr(W).sum() + expr(p).sum() == 1]),
    "margins": (((6, 8),), lambda V: [expr(V).sum(1) == 8, expr(V).sum(0) == 6]),
    "ties": (((9, 32),), lambda W: [expr(W)[0, :31] == expr(W)[1, 1:]]),
    "uneven ties": (
        ((50,),),
        lambda p: [expr(p)[0] == expr(p)[1], expr(p)[1] == -expr(p)[2], expr(p)[3] == expr(p)[4]],
    ),
    "ties with offsets": (
        ((50,),),
        lambda p: [expr(p)[0] - expr(p)[1] == 1, expr(p)[1] - expr(p)[2] == 2],
    ),
    "dense": (((50,),), lambda p: [coefficients(3, 50) @ expr(p) == 1]),
    "dense, given on the device": (
        ((50,), (50,)),
        lambda p, q: [coefficients(3, 50).to(p.device) @ (expr(p) + expr(q)) == 1],
    ),
    "long dense": (((300_000,),), lambda p: [coefficients(2, 300_000) @ expr(p) == 1]),
    "dense over two": (
        ((50,), (50,)),
        lambda p, q: [coefficients(3, 50) @ expr(p) - coefficients(3, 50) @ expr(q) == 0],
    ),
    "equal blocks": (((64, 32),), lambda W: [coefficients(3, 64) @ expr(W) == 1]),
    "indexed": (
        ((50,), (50,)),
        lambda p, q: [expr(p)[torch.tensor([3, 1, 4])] + expr(q)[torch.tensor([0, 7, 9])] == 1],
    ),
    "sparse": (((50,), (50,)), lambda p, q: [banded(30, 50) @ (expr(p) + expr(q)) == 1]),
}


def constrained(name, device, *, frozen=False, **keywords):
    """A step that has been taken once, its handle, and the parameters, the last one `frozen`."""
    shapes, equations = EQUATIONS[name]
    own = [torch.nn.Parameter(torch.randn(s, device=device.device)) for s in shapes]
    own[-1].requires_grad_(not frozen)
    optimizer = torch.optim.Adam(own, lr=0.01, weight_decay=0.1, capturable=True)
    handle = projlab.constrain(optimizer, *equations(*own), **keywords)
    for p in own:
        p.grad = torch.randn_like(p) if p.requires_grad else None
    optimizer.step()
    return optimizer, handle, own


def require_feasible(handle, name, own):
    """Two corrections leave a few roundings of what each row is summed from."""
    entries = sum(p.numel() for p in own)
    scale = max(1.0, *(float(p.detach().abs().max()) for p in own))
    left = float(handle.residual().abs().max())
    assert left <= projlab.tolerance.RESIDUAL_ROUNDINGS * U * scale * max(8, entries), name


@pytest.mark.filterwarnings('ignore:mode="post" under Adam')
@pytest.mark.parametrize("mode", ["tangent", "post"])
@pytest.mark.parametrize("name", EQUATIONS)
def test_a_step_does_not_wait(name, mode, device):
    optimizer, handle, own = constrained(name, device, mode=mode)
    with device.no_waits():
        optimizer.step()
    require_feasible(handle, name, own)
    assert handle.steps == 2


@pytest.mark.parametrize("name", EQUATIONS)
def test_a_step_that_keeps_multipliers_does_not_wait(name, device):
    optimizer, handle, own = constrained(name, device, multipliers=True)
    for p in own:
        p.grad = torch.ones_like(p)
    expected = handle.multipliers()
    # prices of ties are solved for on the host
    with nullcontext() if "ties" in name else device.no_waits():
        optimizer.step()
    for kept, asked in zip(handle.multipliers(), expected, strict=True):
        assert kept.device.type == device.device.type
        torch.testing.assert_close(kept.cpu(), asked.cpu())


@pytest.mark.parametrize("name", ["sums", "sum of two", "ties", "indexed"])
def test_a_step_in_the_metric_does_not_wait(name, device):
    optimizer, handle, own = constrained(name, device, mode="metric")
    with device.no_waits():
        optimizer.step()
    require_feasible(handle, name, own)


TWO = [name for name, (shapes, _) in EQUATIONS.items() if len(shapes) == 2]


@pytest.mark.parametrize("variant", ["auto", "cholesky", "pinv"])
@pytest.mark.parametrize("name", TWO)
def test_a_step_does_not_wait_where_a_gradient_is_missing_for_the_first_time(name, variant, device):
    optimizer, handle, own = constrained(name, device, variant=variant)
    own[-1].grad = None
    kept = own[-1].detach().clone()
    for _ in range(2):
        with device.no_waits():
            optimizer.step()
        require_feasible(handle, name, own)
        assert torch.equal(own[-1].detach().cpu(), kept.cpu())


@pytest.mark.parametrize("name", ["sum of two", "dense over two", "indexed", "sparse"])
def test_frozen_parameters_cost_no_copy_of_coefficients(name, device):
    shapes, equations = EQUATIONS[name]
    own = [torch.nn.Parameter(torch.randn(s, device=device.device)) for s in shapes]
    optimizer = torch.optim.SGD(own, lr=0.1)
    own[-1].requires_grad_(False)
    handle = projlab.constrain(optimizer, *equations(*own))
    own[0].grad = torch.randn_like(own[0])
    optimizer.step()
    with device.no_waits():
        optimizer.step()
    require_feasible(handle, name, own)
    own[-1].grad = None


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", EQUATIONS)
def test_a_step_is_captured_in_a_graph(name, missing, device):
    optimizer, handle, own = constrained(name, device)
    if missing and len(own) == 1:
        pytest.skip("nothing would move")
    if missing:
        own[-1].grad = None
    for _ in range(3):
        optimizer.step()
    graph = device.captured(optimizer.step)
    before = int(handle.steps)
    for _ in range(3):
        for p in own:
            if p.grad is not None:
                p.grad.copy_(torch.randn_like(p))
        graph.replay()
    assert handle.steps == before + 3
    require_feasible(handle, name, own)


@pytest.mark.parametrize("variant", ["sparse_cholesky", "iterative"])
@pytest.mark.parametrize("name", ["dense", "sparse"])
def test_variants_work_or_are_refused_by_name(name, variant, device):
    if variant == "sparse_cholesky" and device.type != "cuda":
        with pytest.raises(projlab.InputError, match="there is no sparse factor on"):
            constrained(name, device, variant=variant)
        return
    optimizer, handle, own = constrained(name, device, variant=variant)
    for _ in range(3):
        own[0].grad = torch.randn_like(own[0])
        optimizer.step()
    require_feasible(handle, name, own)


def test_a_constraint_follows_its_module_to_the_device(device):
    net = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = projlab.constrain(optimizer, expr(net.weight).sum(1) == 1)
    net.to(device.device)
    net(torch.randn(3, 8, device=device.device)).square().sum().backward()
    optimizer.step()
    assert handle.residual().device.type == device.type
    require_feasible(handle, "weights", [net.weight])


def test_equations_over_two_devices_are_refused(device):
    p, q = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3).to(device.device))
    optimizer = torch.optim.SGD([p, q], lr=0.1)
    with pytest.raises(
        projlab.InputError, match=f"span devices: .* on cpu and .* on {device.type}"
    ):
        projlab.constrain(optimizer, expr(p) + expr(q) == 1)


def test_steps_are_those_of_the_cpu(device):
    """But for rounding: the same network, gradients and equations on both."""
    shapes, equations = EQUATIONS["dense over two"]
    here = [torch.nn.Parameter(torch.randn(s)) for s in shapes]
    there = [torch.nn.Parameter(p.detach().clone().to(device.device)) for p in here]
    gradients = [torch.randn(s) for s in shapes]
    for own in (here, there):
        optimizer = torch.optim.SGD(own, lr=0.1, momentum=0.9)
        projlab.constrain(optimizer, *equations(*own))
        for _ in range(5):
            for p, g in zip(own, gradients, strict=True):
                p.grad = g.clone().to(p.device)
            optimizer.step()
    for p, q in zip(here, there, strict=True):
        assert torch.allclose(p.detach(), q.detach().cpu(), rtol=0, atol=1e-5)


SETS = {
    "box": (((50,),), lambda p: [expr(p) >= 0, expr(p) <= 0.5]),
    "simplex": (((8, 32),), lambda W: [expr(W) >= 0, expr(W).sum(1) == 1]),
    "bounded sum": (((8, 32),), lambda W: [expr(W) <= 0.1, expr(W).sum(1) <= 1]),
    "polyhedron": (((50,),), lambda p: [coefficients(3, 50) @ expr(p) <= 1, expr(p) >= -1]),
    "over two": (
        ((50,), (50,)),
        lambda p, q: [coefficients(3, 50) @ (expr(p) + expr(q)) == 1, expr(q) >= 0],
    ),
    "coupled rows": (((4, 6),), lambda W: [expr(W) >= 0, expr(W).sum(1) == 1, expr(W)[0] <= 0.3]),
    "margins": (((6, 8),), lambda V: [expr(V) >= 0, expr(V).sum(1) == 8, expr(V).sum(0) == 6]),
}


@pytest.mark.parametrize("name", SETS)
def test_sets_are_kept_to_as_on_the_cpu(name, device):
    shapes, constraints = SETS[name]
    here = [torch.nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in shapes]
    there = [torch.nn.Parameter(p.detach().clone().to(device.device)) for p in here]
    gradients = [torch.randn(s, dtype=torch.float64) for s in shapes]
    for own in (here, there):
        optimizer = torch.optim.Adam(own, lr=0.1)
        handle = projlab.constrain(optimizer, *constraints(*own))
        for _ in range(5):
            for p, g in zip(own, gradients, strict=True):
                p.grad = g.clone().to(p.device)
            optimizer.step()
        assert float(handle.residual().abs().max()) <= 1e-12
    for p, q in zip(here, there, strict=True):
        torch.testing.assert_close(p.detach(), q.detach().cpu(), rtol=0, atol=1e-9)


def test_setting_up_while_a_graph_is_captured_is_refused(device, monkeypatch):
    optimizer, handle, own = constrained("dense over two", device)
    own[-1].grad = None
    kept = copy.deepcopy(own)
    monkeypatch.setattr(parameter_system, "capturing", lambda device: True)
    with pytest.raises(projlab.ProjlabError, match="before the capture"):
        optimizer.step()
    for p, q in zip(own, kept, strict=True):
        assert torch.equal(p.detach().cpu(), q.detach().cpu())
    assert handle.steps == 1
