"""What the tests of derivatives share: well-conditioned problems, and what equal to rounding is."""

import pytest
import torch

from projlab.engine.variants import forward_error_bound
from tests.projlab.systems import CHOICES, DISJOINT_VARIANTS

F64 = torch.float64


PATTERN = torch.tensor([[1, 0, 1, 0, 1.0], [0, 1, 0, 1, 0.0]], dtype=F64)


CONDITION = 100.0
"""No problem below is worse conditioned, with the change of variables of its metric included."""


def problem(variant, *lead, m=2, n=5):
    """A (*lead, m, n), b (*lead, m), well-conditioned, of the structure that the variant takes."""
    A = torch.randn(*lead, m, n, dtype=F64) / 2 + 2 * torch.eye(m, n, dtype=F64)
    if variant in DISJOINT_VARIANTS:
        A = A * PATTERN
    assert torch.linalg.cond(A).max() * torch.linalg.cond(metric("dense")) ** 0.5 <= CONDITION
    return A, torch.randn(*lead, m, dtype=F64)


def close(left, right, order=0):
    """Equal to rounding: each derivative in A divides by a singular value once more."""
    assert left.shape == right.shape
    unit = forward_error_bound("qr", u=2**-53, m=5, n=5, condition=CONDITION, amplification=1.0)
    size = 1 + right.abs().max() if right.numel() else 1.0
    assert (left - right).abs().max() <= unit * CONDITION**order * size


def structured(A, variant):
    """What finite differences may move A to: entries of the pattern alone where that matters."""
    return A * PATTERN if variant in DISJOINT_VARIANTS else A


def metric(kind):
    if kind == "diagonal":
        return torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25], dtype=F64)
    if kind == "dense":
        M = torch.tensor(
            [[2, 0, 1, 0, 0], [0, 1, 0, -1, 0], [1, 0, 2, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]
        )
        return (M @ M.mT).to(F64)
    return None


def leaves(*tensors):
    return tuple(t.clone().requires_grad_() for t in tensors)


METRICS = [
    pytest.param(v, kind, id=f"{v}-{kind}")
    for v in CHOICES
    for kind in ("none", "diagonal", "dense")
    if not (kind == "dense" and v in DISJOINT_VARIANTS)
]


# forward mode goes through tables of torch's own that still use torch.jit.script
FORWARD_MODE = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
