"""A layer's forward and backward against the lines that people write in its place."""

import torch

import projlab
from benchmarks import common
from benchmarks.interleave import Times, interleaved
from benchmarks.systems import Exact
from projlab import tolerance

ROWS = (32, 64, 128, 256)
SIZES = ("3x10", "10x100", "256x1000")


def times(size: str, dtype: str, rows: int) -> Times:
    """Forward and backward of `nn.AffineProjection`, and of x - (x Q - c) Q', in turn."""
    case = common.system(size, dtype, points=rows)
    layer = projlab.nn.AffineProjection(case.A, case.b)
    Q = torch.linalg.qr(case.A.double().mT).Q.to(case.A.dtype)
    c = (torch.linalg.lstsq(case.A.double(), case.b.double().unsqueeze(-1)).solution).squeeze(-1)
    c = c.to(Q.dtype) @ Q
    x = case.x0.clone().requires_grad_()

    def ours() -> None:
        x.grad = None
        layer(x).backward(case.g)

    def lines() -> None:
        x.grad = None
        (x - (x @ Q - c) @ Q.mT).backward(case.g)

    common.require_exact(layer(x), case, layer.projector)
    ours()
    _require_tangent(x.grad, case, layer.projector)
    return interleaved({"projlab": ours, "lines": lines}, budget=0.8)


def _require_tangent(found: torch.Tensor | None, case: Exact, P: projlab.Projector) -> None:
    """The gradient is the tangent projection of g: its error has the bound of a projection."""
    assert found is not None
    m, n = case.shape
    scale = float((case.g.double().norm(dim=-1) / case.z.double().norm(dim=-1)).max())
    allowed = 3 * scale * common.error_bound(case, P)
    least = 3 * tolerance.dimension_factor(m, n) * tolerance.unit_roundoff(case.A.dtype)
    error = common.relative(found, case.z)
    if not error <= max(allowed, least):
        raise AssertionError(f"a gradient is off by {error:.2g}, more than {allowed:.2g} allowed")
