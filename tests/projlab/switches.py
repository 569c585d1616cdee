"""The precision switches of torch, what they say at each product, and every product to try."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import projlab
from tests.projlab.systems import OVERLAPPING_VARIANTS

M, N, K = 64, 256, 64  # large enough for torch to take the kernels that the switches choose


def state():
    """What every switch says; the old getter refuses to answer for the new switches."""
    try:
        legacy = torch.get_float32_matmul_precision()
    except RuntimeError:
        legacy = "mixed"
    backends = torch.backends
    new = [
        getattr(owner, "fp32_precision", None)
        for owner in (backends, backends.mkldnn, backends.mkldnn.matmul, backends.cuda.matmul)
    ]
    return (
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        legacy,
        *new,
    )


@contextlib.contextmanager
def legacy(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextlib.contextmanager
def new_switch(owner, precision):
    """`torch.backends[...].fp32_precision`, and everything more specific left to inherit it."""
    owners = (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)
    for switch in owners:
        switch.fp32_precision = "none"
    owner.fp32_precision = precision
    try:
        yield
    finally:
        owner.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")


SWITCHES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "medium": lambda: legacy("medium"),
    "high": lambda: legacy("high"),
}
if hasattr(torch.backends, "fp32_precision"):  # torch >= 2.9
    SWITCHES |= {
        "every backend tf32": lambda: new_switch(torch.backends, "tf32"),
        "every backend bf16": lambda: new_switch(torch.backends, "bf16"),
        "mkldnn products bf16": lambda: new_switch(torch.backends.mkldnn.matmul, "bf16"),
        "mkldnn products tf32": lambda: new_switch(torch.backends.mkldnn.matmul, "tf32"),
    }
ON_CPUS_WITH_BFLOAT16 = {"medium", "every backend bf16", "mkldnn products bf16"}

every_switch = pytest.mark.parametrize("switch", SWITCHES)
every_variant = pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)


def system(dtype=torch.float32):
    torch.manual_seed(0)
    return (
        torch.randn(M, N, dtype=dtype),
        torch.randn(M, dtype=dtype),
        torch.randn(K, N, dtype=dtype),
    )


def metric():
    torch.manual_seed(1)
    W = torch.randn(N, N) / N
    return W + W.mT + torch.eye(N)


def derivatives(y, inputs):
    """First derivatives of a scalar of y, and first derivatives of a scalar of those."""
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
    return [*first, *second]


def everything(variant):
    """Every product that the engine makes: set-up, projection, backward, double backward."""
    A, b, x = system()
    P = projlab.projector(A, b, variant)
    yield from {
        "P(x)": P(x),
        "P(x, b)": P(x, 2 * b),
        "one vector": P(x[0]),
        "in place": P.project_(x.clone()),
        "in place, one vector": P.project_(x[0].clone()),
        "in place, three dimensions": P.project_(x.clone()[None]),
        "tangent": P.tangent(x),
        "multipliers": P.multipliers(x),
        "null space": P.null_space()[:, :3].abs(),
        "residual": P.constraint.residual(x),
        "wider x": P(x.double()),
        "half x": P(x.half()),
    }.items()
    leaf, c = x.clone().requires_grad_(), b.clone().requires_grad_()
    for i, t in enumerate(derivatives(P(leaf, c), (leaf, c))):
        yield f"derivative {i} of P", t.detach()
    for i, t in enumerate(derivatives(P(leaf), (leaf,))):
        yield f"derivative {i} of P in x", t.detach()
    inputs = tuple(t.clone().requires_grad_() for t in (x, A, b))
    y = projlab.project(*inputs, variant)
    yield "project", y.detach()
    for i, t in enumerate(derivatives(y, inputs)):
        yield f"derivative {i} of project", t.detach()
    for i in (1, 2):
        tangents = tuple(torch.ones_like(t) if i == j else None for j, t in enumerate(inputs))
        with torch.autograd.forward_ad.dual_level():
            make = torch.autograd.forward_ad.make_dual
            dual = [
                t.detach() if v is None else make(t.detach(), v)
                for t, v in zip(inputs, tangents, strict=True)
            ]
            out = torch.autograd.forward_ad.unpack_dual(projlab.project(*dual, variant))
            yield f"forward derivative {i}", out.tangent
    W = metric()
    oblique = projlab.projector(A, b, variant, metric=W)
    yield "metric", oblique(x)
    yield "metric, in place", oblique.project_(x.clone())
    for i, t in enumerate(derivatives(oblique(leaf), (leaf,))):
        yield f"metric, derivative {i} in x", t.detach()
    yield "metric, multipliers", oblique.multipliers(x)
    for i, t in enumerate(derivatives(projlab.project(*inputs, variant, metric=W), inputs)):
        yield f"metric, derivative {i}", t.detach()
    doubled = torch.cat([A, A[:2]])
    least = projlab.projector(
        doubled, torch.cat([b, b[:2] + 1]), variant, on_inconsistent="least_squares"
    )
    yield "least squares", least(x)
    batched = projlab.projector(torch.stack([A, A.flip(0)]), b, variant)
    yield "batched", batched(torch.stack([x, x]))
    yield "batched, in place", batched.project_(torch.stack([x, x]))
    yield "batched, four dimensions", batched(torch.stack([x, x])[:, None])


class Witness(TorchDispatchMode):
    """Looks at the switches, and at the dtype of the operands, whenever a product is made."""

    PRODUCTS = ("mm", "bmm", "mv", "addmm", "addmv", "baddbmm", "addbmm", "dot", "vdot", "linear")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.rstrip("_")
        if name in self.PRODUCTS or name.startswith(("linalg", "_linalg", "cholesky")):
            floats = [t for t in args if isinstance(t, torch.Tensor) and t.is_floating_point()]
            _, _, _, legacy, *new = state()
            self.seen.append((name, {t.dtype for t in floats}, legacy, new))
        return func(*args, **(kwargs or {}))
