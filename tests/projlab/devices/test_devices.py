"""The same on another device: what `.to` and inputs on a device promise."""

from functools import partial

import pytest
import torch

import projlab
from projlab import tolerance
from tests.projlab import exact
from tests.projlab.switches import Witness, everything
from tests.projlab.systems import (
    CASES,
    CHOICES,
    DISJOINT_VARIANTS,
    OVERLAPPING_VARIANTS,
    STRAIGHT,
    case,
)

pytestmark = pytest.mark.gpu


def cases(variant):
    for name, dtype in CASES:
        given = case(name, dtype)
        if given.able(variant) and not given.may_refuse(variant):
            yield given


def for_variant(variant):
    return case("disjoint rows" if variant in DISJOINT_VARIANTS else "random 5 x 12")


@pytest.mark.parametrize("variant", STRAIGHT)
def test_forward_error_on_the_device(variant, device):
    for given in cases(variant):
        check(given, variant, device)


def check(given, variant, device):
    x, A, b = (t.to(device.device) for t in (given.x0, given.A, given.b))
    try:
        P = projlab.projector(A, b, variant)
    except projlab.InputError as refused:
        if variant != "sparse_cholesky" or "there is no sparse factor on" not in str(refused):
            raise
        return
    moved = projlab.projector(given.A, given.b, variant).to(device.device)
    allowed = given.allowed(P.variant)
    for result in (P(x), P.project_(x.clone()), moved(x)):
        assert result.device == device.device
        assert exact.distance(result.cpu(), given.solution) <= allowed
    one_off = projlab.project(x, A, b, variant)
    assert exact.distance(one_off.cpu(), given.solution) <= max(
        given.allowed(v) for v in OVERLAPPING_VARIANTS
    )


@pytest.mark.parametrize("variant", CHOICES)
def test_there_and_back(variant, device):
    given = for_variant(variant)
    P = projlab.projector(given.A, given.b, variant)
    before = P(given.x0)
    if variant == "sparse_cholesky" and device.type != "cuda":
        with pytest.raises(projlab.InputError, match="there is no sparse factor on"):
            P.to(device.device)
    else:
        P.to(device.device)
        assert P.A.device.type == P.b.device.type == device.type
        with pytest.raises(projlab.InputError, match=f"x is on cpu, A and b on {device.type}"):
            P(given.x0)
        P.cpu()
    assert torch.equal(P(given.x0), before)


CALLS = {
    "in place": lambda P, x: P.project_(x),
    "in place, one vector": lambda P, x: P.project_(x[0] if P.A.dim() == 2 else x),
    "fresh": lambda P, x: P(x),
    "another b": lambda P, x: P(x, P.b * 2),
    "a number as b": lambda P, x: P(x, 2.0),
    "tangent": lambda P, x: P.tangent(x),
    "multipliers": lambda P, x: P.multipliers(x),
    "backward": lambda P, x: P(x.clone().requires_grad_()).sum().backward(),
    "backward in b": lambda P, x: P(x, P.b.clone().requires_grad_()).sum().backward(),
    "twice": lambda P, x: twice(P, x.clone().requires_grad_()),
    "half precision": lambda P, x: P(x.half()),
}


def twice(P, x):
    (g,) = torch.autograd.grad(P(x).square().sum(), x, create_graph=True)
    g.square().sum().backward()


KINDS = {
    "plain": lambda A, b: (A, b, {}),
    "metric": lambda A, b: (A, b, {"metric": torch.arange(1.0, A.shape[-1] + 1).to(A)}),
    "dense metric": lambda A, b: (A, b, {"metric": 2 * torch.eye(A.shape[-1]).to(A) + 1}),
    "batched": lambda A, b: (torch.stack([A, A.flip(0)]), torch.stack([b, b]), {}),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", CHOICES)
def test_no_call_waits_for_the_device(variant, kind, call, device):
    """But those of the variant iterative, which must look at its residuals."""
    given = for_variant(variant)
    if variant == "iterative":
        pytest.skip("an iteration looks at its residuals, and waits")
    if variant == "sparse_cholesky" and device.type != "cuda":
        pytest.skip("there is no sparse factor here, and it is refused by name")
    if variant == "single_row" and kind == "dense metric":
        pytest.skip("single_row takes diagonal metrics only")
    A, b, keywords = KINDS[kind](given.A.to(device.device), given.b.to(device.device))
    P = projlab.projector(A, b, variant, **keywords)
    x = torch.randn(2, given.n, dtype=torch.float64, device=device.device)
    CALLS[call](P, x.clone())  # factors in other precisions, and of independent rows, are made here
    with device.no_waits():
        CALLS[call](P, x)


def test_a_number_from_the_host_is_no_reason_to_wait(device):
    P = projlab.projector(torch.randn(2, 5).to(device.device), torch.zeros(2).to(device.device))
    x = torch.randn(3, 5, device=device.device)
    for b in (2.0, 2, torch.tensor(2.0)):
        with device.no_waits():
            projected = P(x, b)
        assert torch.equal(projected.cpu(), P(x, torch.full((2,), 2.0).to(device.device)).cpu())


@pytest.mark.parametrize("layout", ["coo", "csr", "moved"])
@pytest.mark.parametrize("variant", ["auto", "iterative", "sparse_cholesky", "qr"])
def test_sparse_rows_work_or_are_refused_by_name(layout, variant, device):
    dense = torch.eye(400, dtype=torch.float64).repeat(1, 2)
    dense[torch.arange(399), torch.arange(1, 400)] = 0.5
    b, x = torch.ones(400, dtype=torch.float64), torch.randn(800, dtype=torch.float64)
    expected = projlab.project(x, dense, b)
    if layout == "csr" and device.type != "cuda":
        pytest.skip("torch wraps no tensors of this layout")
    if layout == "moved":
        P = projlab.projector(dense.to_sparse(), b, variant)
        chosen = P.variant
        build = partial(P.to, device.device)
    else:
        A = dense.to_sparse(layout=getattr(torch, f"sparse_{layout}")).to(device.device)
        build = partial(projlab.projector, A, b.to(device.device), variant)
        chosen = variant
    x = x.to(device.device)
    if chosen == "sparse_cholesky" and device.type != "cuda":
        with pytest.raises(projlab.InputError, match="there is no sparse factor on"):
            build()
        return
    P = build()
    assert torch.allclose(P(x).cpu(), expected, rtol=0, atol=1e-12)
    assert P(x).device == device.device


def test_iteration_on_the_device_is_right(device):
    A = torch.randn(20, 60, dtype=torch.float64)
    b, x = A.sum(1), torch.randn(4, 60, dtype=torch.float64)
    P = projlab.projector(A.to(device.device), b.to(device.device), "iterative")
    expected = projlab.project(x, A, b)
    u = torch.finfo(torch.float64).eps / 2
    bound = tolerance.backward_stable_growth(float(torch.linalg.cond(A)), u)
    off = torch.linalg.vector_norm(P(x.to(device.device)).cpu() - expected, dim=-1)
    assert bool((off <= 10 * bound * torch.linalg.vector_norm(x, dim=-1)).all())


@pytest.mark.parametrize("n", [1_000_000, 4_000_000])
@pytest.mark.parametrize("rows", [1, 3])
def test_long_rows_take_few_operators(rows, n, device):
    A = torch.ones(rows, n)
    A[:, 1:].mul_(0.5)
    A[1:, : rows - 1] = torch.diag(torch.full((rows - 1,), 3.0))
    P = projlab.projector(A.to(device.device), torch.zeros(rows, device=device.device))
    x = torch.rand(n, device=device.device)
    assert device.operators(lambda: P.project_(x)) <= 8
    left = P.constraint.residual(x.double()).abs().max().cpu()
    # sums of n terms of one sign: a card's, in pieces of SUMMED; those of the CPU, which computes
    # for the pretended device, in as many as its BLAS has lanes: sqrt(n) is all that is known
    grown = 64 if device.type == "cuda" else n**0.5
    assert float(left) <= 2**-24 * grown * float(A.double().norm()) * n**0.5


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_tf32_does_not_leak_in(variant, device):
    if device.type != "cuda":
        pytest.skip("the CPU, which computes for the pretended device, has no TF32")
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


def test_devices_may_not_be_mixed(device):
    there = torch.ones(1, device=device.device)
    with pytest.raises(projlab.InputError, match=f"b is on {device.type}.*A on cpu"):
        projlab.projector(torch.ones(1, 3), there)
    with pytest.raises(projlab.InputError, match=f"x is on {device.type}.*A and b on cpu"):
        projlab.project(torch.ones(3, device=device.device), torch.ones(1, 3), 1.0)


def test_diagnosis_on_the_device(device):
    A = torch.tensor([[1.0, 2.0], [2.0, 4.0]], device=device.device)
    found = projlab.diagnose(A, torch.tensor([1.0, 2.0], device=device.device))
    assert (found.rank, [c.row for c in found.redundant]) == (1, [1])


def test_certificate_on_the_device(device):
    given = case("random 5 x 12")
    A, b, x0 = (t.to(device.device) for t in (given.A, given.b, given.x0))
    P = projlab.projector(A, b)
    assert projlab.certify(x0, P(x0), A, b).verdict == "certified"
    assert P.certify(x0, P(x0)).verdict == "certified"


def test_gradients_of_the_one_off_on_the_device(device):
    given = case("random 5 x 12")
    inputs = [given.x0, given.A, given.b]
    there = [t.detach().to(device.device).requires_grad_() for t in inputs]
    here = [t.detach().clone().requires_grad_() for t in inputs]
    for ts in (there, here):
        projlab.project(*ts).square().sum().backward()
    for t, h in zip(there, here, strict=True):
        assert torch.allclose(t.grad.cpu(), h.grad, rtol=1e-10, atol=1e-10)


def test_a_state_dict_goes_between_devices(device):
    given = case("random 5 x 12")
    here = projlab.projector(given.A, given.b)
    there = projlab.projector((given.A + 1).to(device.device), given.b.to(device.device))
    there.load_state_dict(here.state_dict())
    found = there(given.x0.to(device.device)).cpu()
    assert torch.allclose(found, here(given.x0), rtol=0, atol=1e-12)
    here.load_state_dict(there.state_dict())
    assert here.A.device.type == "cpu"
