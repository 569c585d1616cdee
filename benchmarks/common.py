"""What the benchmark classes share: systems, projectors, and the check of every answer."""

from collections.abc import Callable

import torch
from torch import Tensor

import projlab
from benchmarks.systems import Exact, exact, on
from projlab import tolerance
from projlab.engine.variants import forward_error_bound

VARIANTS = ("auto", *projlab.variants())


def shape_of(size: str) -> tuple[int, int]:
    """(m, n) of a size as it stands in the parameters."""
    m, n = size.split("x")
    return int(m), int(n)


def system(
    size: str,
    dtype: str,
    device: str = "cpu",
    *,
    points: int | None = None,
    batch: int | None = None,
    ill: bool = False,
) -> Exact:
    """An exact system on a device; the benchmark does not apply where the device is absent."""
    if device == "cuda" and not torch.cuda.is_available():
        raise NotImplementedError("no CUDA device")
    m, n = shape_of(size)
    case = exact(m, n, getattr(torch, dtype), points=points, batch=batch, ill=ill)
    return on(case, device)


def projector(case: Exact, variant: str) -> projlab.Projector:
    """A checked projector; the benchmark does not apply where the variant refuses the system."""
    try:
        P = projlab.projector(case.A, case.b, variant)
    except projlab.ProjlabError as refusal:
        raise NotImplementedError(f"{variant} refuses: {refusal}") from refusal
    # also warms up whatever is set up at the first call
    require_exact(P(case.x0), case, P)
    in_place = case.x0.clone()
    require_exact(P.project_(in_place), case, P)
    return P


def require_exact(x: Tensor, case: Exact, P: projlab.Projector) -> None:
    """Refuse to time a wrong answer."""
    error, bound = forward_error(x, case), error_bound(case, P)
    if not error <= bound:
        raise AssertionError(f"forward error {error:.2g}, more than {bound:.2g} allowed")


def forward_error(x: Tensor, case: Exact) -> float:
    """||x - x*|| / ||x*||, the largest of a batch."""
    return relative(x, case.x)


def relative(found: Tensor, wanted: Tensor) -> float:
    """||found - wanted|| / ||wanted||, the largest over leading dimensions."""
    difference = (found.detach().double() - wanted.double()).norm(dim=-1)
    return float((difference / wanted.double().norm(dim=-1)).max())


def error_bound(case: Exact, P: projlab.Projector) -> float:
    """What theory allows: `tolerance.forward_error_bound` for the worst element."""
    m, n = case.shape
    x0, x = case.x0.double(), case.x.double()
    amplification = (x0.norm(dim=-1) + (x0 - x).norm(dim=-1)) / x.norm(dim=-1)
    return forward_error_bound(
        P.variant,
        u=tolerance.unit_roundoff(case.A.dtype),
        m=m,
        n=n,
        condition=float(torch.as_tensor(P.condition).max()),
        amplification=float(amplification.max()),
    )


def feasibility(x: Tensor, case: Exact) -> float:
    """max_i |A x - b|_i / (||a_i|| (||x|| + ||x0||) + |b_i|), with A x - b = A (x - x*).

    x - x* is nearly exact, and A holds integers: the residual of an answer at rounding level is
    not drowned in the rounding of its own evaluation.
    """
    A, b, answer = case.A.double(), case.b.double(), x.detach().double()
    residual = (A @ (answer - case.x.double()).unsqueeze(-1)).squeeze(-1).abs()
    length = (answer.norm(dim=-1) + case.x0.double().norm(dim=-1)).unsqueeze(-1)
    return float((residual / (A.norm(dim=-1) * length + b.abs())).max())


def in_roundoffs(error: float, dtype: str) -> float:
    """An error in units of u, no less than one: below it there is nothing to regress."""
    return max(error / tolerance.unit_roundoff(dtype), 1.0)


def synchroniser(device: str) -> Callable[[], None]:
    """What a timed call on this device ends with."""
    if device.startswith("cuda"):
        return torch.cuda.synchronize
    return _nothing


def _nothing() -> None:
    """The CPU is done when the call returns."""
