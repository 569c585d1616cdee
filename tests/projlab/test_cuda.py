"""The same on a GPU: what `.to`, `.cuda` and inputs on a device promise."""

import pytest
import torch

import projlab
from tests.projlab import exact
from tests.projlab.switches import Witness, everything
from tests.projlab.systems import CASES, CHOICES, DISJOINT_VARIANTS, OVERLAPPING_VARIANTS, case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"),
]


def cases(variant):
    for name, dtype in CASES:
        given = case(name, dtype)
        if given.able(variant) and not given.may_refuse(variant):
            yield given


@pytest.mark.parametrize("variant", CHOICES)
def test_forward_error_on_the_device(variant):
    for given in cases(variant):
        check(given, variant)


def check(given, variant):
    x = given.x0.cuda()
    P = projlab.projector(given.A.cuda(), given.b.cuda(), variant)
    moved = projlab.projector(given.A, given.b, variant).cuda()
    allowed = given.allowed(P.variant)
    for result in (P(x), P.project_(x.clone()), moved(x)):
        assert result.device.type == "cuda"
        assert exact.distance(result.cpu(), given.solution) <= allowed
    one_off = projlab.project(x, given.A.cuda(), given.b.cuda(), variant)
    assert exact.distance(one_off.cpu(), given.solution) <= max(
        given.allowed(v) for v in OVERLAPPING_VARIANTS
    )


@pytest.mark.parametrize("variant", CHOICES)
def test_there_and_back(variant):
    given = case("disjoint rows" if variant in DISJOINT_VARIANTS else "random 5 x 12")
    P = projlab.projector(given.A, given.b, variant)
    before = P(given.x0)
    P.cuda()
    assert P.A.device.type == P.b.device.type == "cuda"
    with pytest.raises(projlab.InputError, match="x is on cpu, the projector on cuda"):
        P(given.x0)
    P.cpu()
    assert torch.equal(P(given.x0), before)


@pytest.mark.parametrize("variant", CHOICES)
def test_the_hot_path_does_not_wait(variant):
    """torch raises on whatever would make the host wait."""
    given = case("disjoint rows" if variant in DISJOINT_VARIANTS else "random 5 x 12")
    P = projlab.projector(given.A.cuda(), given.b.cuda(), variant)
    x = torch.randn(3, given.n, dtype=torch.float64, device="cuda", requires_grad=True)
    P(x).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        P.project_(x)
        P(x).sum().backward()
        P.tangent(x)
        P.multipliers(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_tf32_does_not_leak_in(variant):
    A, b, x = (t.cuda() for t in (torch.randn(64, 256), torch.randn(64), torch.randn(64, 256)))
    P = projlab.projector(A, b, variant)
    expected, plain = P(x), x @ A.mT
    torch.set_float32_matmul_precision("high")
    try:
        assert not torch.equal(x @ A.mT, plain), "the switch has no effect: this proves nothing"
        assert torch.equal(P(x), expected)
        assert torch.equal(projlab.projector(A, b, variant)(x), expected)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert torch.equal(P(x), expected)
        with Witness():
            dict(everything(variant))
    finally:
        torch.set_float32_matmul_precision("highest")


def test_devices_may_not_be_mixed():
    with pytest.raises(projlab.InputError, match=r"b is on cuda.*A on cpu"):
        projlab.projector(torch.ones(1, 3), torch.ones(1, device="cuda"))
    with pytest.raises(projlab.InputError, match=r"x is on cuda.*cpu"):
        projlab.project(torch.ones(3, device="cuda"), torch.ones(1, 3), 1.0)


def test_diagnosis_on_the_device():
    A = torch.tensor([[1.0, 2.0], [2.0, 4.0]], device="cuda")
    found = projlab.diagnose(A, torch.tensor([1.0, 2.0], device="cuda"))
    assert (found.rank, [c.row for c in found.redundant]) == (1, [1])


def constrained(capturable):
    W = torch.nn.Parameter(torch.randn(64, 32, device="cuda"))
    p = torch.nn.Parameter(torch.randn(50, device="cuda"))
    optimizer = torch.optim.Adam([W, p], lr=0.01, weight_decay=0.1, capturable=capturable)
    A = torch.randn(3, 50)
    handle = projlab.constrain(
        optimizer,
        projlab.expr(W).sum(1) == 1,
        A @ projlab.expr(p) == 0,
        projlab.expr(W).sum(0)[:1] == projlab.expr(W)[0, 1:2],
    )
    for t in (W, p):
        t.grad = torch.randn_like(t)
    return optimizer, handle, (W, p)


def test_a_constrained_step_never_waits_for_the_device():
    optimizer, handle, _ = constrained(capturable=True)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert handle.residual().abs().max() < 1e-4
    assert handle.steps == 2


def test_a_constrained_step_is_captured_in_a_graph():
    optimizer, handle, parameters = constrained(capturable=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    before = handle.steps
    for _ in range(5):
        for p in parameters:
            p.grad.copy_(torch.randn_like(p))
        graph.replay()
    assert handle.steps == before + 5
    assert handle.residual().abs().max() < 1e-4


def test_a_constraint_follows_its_module_to_the_device():
    net = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = projlab.constrain(optimizer, projlab.expr(net.weight).sum(1) == 1)
    net.cuda()
    net(torch.randn(3, 8, device="cuda")).square().sum().backward()
    optimizer.step()
    assert handle.residual().device.type == "cuda"
    assert handle.residual().abs().max() < 1e-5
