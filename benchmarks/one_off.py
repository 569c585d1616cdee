"""The one-off `project` against the lines that people write in its place."""

from collections.abc import Callable

import torch
from torch import Tensor

import projlab
from benchmarks import common
from benchmarks.interleave import Times, interleaved
from benchmarks.systems import Exact

SINGLE = (("3x10", None), ("10x100", None))
LARGE = (("100x1000", None),)
BATCHES = (("3x10", 64), ("3x10", 1024), ("10x50", 1024))

Project = Callable[[Tensor, Tensor, Tensor], Tensor]


def cholesky_lines(x: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """x - A'(A A')^-1 (A x - b), as it is written by hand: nothing is checked."""
    L = torch.linalg.cholesky(A @ A.mT)
    r = A @ x.unsqueeze(-1) - b.unsqueeze(-1)
    return x - (A.mT @ torch.cholesky_solve(r, L)).squeeze(-1)


def _gradients(project: Project, case: Exact) -> tuple[Tensor, ...]:
    leaves = [t.detach().requires_grad_() for t in (case.x0, case.A, case.b)]
    return torch.autograd.grad(project(*leaves), leaves, case.g)


def _check(found: Tensor, wanted: Tensor, case: Exact) -> None:
    """Within what a backward-stable method reaches, on the scale of what it is made from."""
    size = float(case.x0.norm() + case.g.norm() + case.w.norm() * case.x.norm())
    error = float((found - wanted).norm())
    P = projlab.projector(case.A, case.b, "qr")
    allowed = 3 * common.error_bound(case, P) * size
    if not error <= allowed:
        raise AssertionError(f"an answer is off by {error:.2g}, more than {allowed:.2g} allowed")


def forward(size: str, batch: int | None) -> Times:
    """`project` and the lines, in turn."""
    case = common.system(size, "float64", batch=batch)
    _check(projlab.project(case.x0, case.A, case.b), case.x, case)
    return interleaved(
        {
            "projlab": lambda: projlab.project(case.x0, case.A, case.b),
            "lines": lambda: cholesky_lines(case.x0, case.A, case.b),
        },
        budget=1.0,
    )


def backward(size: str, batch: int | None) -> Times:
    """The same with the gradients of x, A and b."""
    case = common.system(size, "float64", batch=batch)
    in_x, in_A, in_b = _gradients(projlab.project, case)
    outer = case.y.unsqueeze(-1) * case.z.unsqueeze(-2) + case.w.unsqueeze(-1) * case.x.unsqueeze(
        -2
    )
    for found, wanted in ((in_x, case.z), (in_A, -outer), (in_b, case.w)):
        _check(found, wanted, case)
    return interleaved(
        {
            "projlab": lambda: _gradients(projlab.project, case),
            "lines": lambda: _gradients(cholesky_lines, case),
        },
        budget=1.0,
    )
