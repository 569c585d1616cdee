"""Answers that look right and are not: the certificate catches each."""

import pytest
import torch

from projlab import projector

F64 = torch.float64


def simplex(n=6):
    return projector(torch.ones(n, dtype=F64), 1, lb=0)


def polyhedron():
    G = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0]], dtype=F64)
    return projector(torch.ones(1, 6, dtype=F64), 1, G=G, h=[0.4, 0.5], lb=0, ub=0.6)


def clamp_then_rescale(x, P):
    x = x.clamp_min(0)
    return x / x.sum(-1, keepdim=True)


def softmax(x, P):
    return x.softmax(-1)


def dykstra_stopped_early(x, P):
    p = q = torch.zeros_like(x)
    for _ in range(4):
        y = (x + p) - ((x + p).sum(-1, keepdim=True) - 1) / x.shape[-1]
        p = x + p - y
        x = (y + q).clamp_min(0)
        q = y + q - x
    return x


def a_bound_ignored(x, P):
    lb = torch.zeros(6, dtype=F64)
    free = P(x).argmax(-1) if x.dim() == 1 else 0
    lb[int((P(x) == 0).nonzero()[0, -1])] = -torch.inf
    assert free >= 0
    return projector(torch.ones(6, dtype=F64), 1, lb=lb)(x)


def a_wrong_sign(x, P):
    """A variable kept on its bound although its multiplier pushes it off: another face."""
    ub = torch.full((6,), torch.inf, dtype=F64)
    ub[int(P(x)[0].argmax() if x.dim() > 1 else P(x).argmax())] = 0.0
    return projector(torch.ones(6, dtype=F64), 1, lb=0, ub=ub)(x)


def one_tie_dropped(x, P):
    right = P(x)
    moved = right.clone()
    j, k = right[0].topk(2).indices.tolist()
    moved[0, j] += right[0, k] / 2
    moved[0, k] -= right[0, k] / 2
    return moved


def not_tight_at_all(x, P):
    return P(0.999 * x)


FAULTS = [
    clamp_then_rescale,
    softmax,
    dykstra_stopped_early,
    a_bound_ignored,
    a_wrong_sign,
    one_tie_dropped,
    not_tight_at_all,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_certificate_fails_a_fault_and_passes_what_is_right(fault):
    P = simplex()
    x0 = torch.tensor([[0.5, 0.5, 0.4, -0.3, 0.1, -1.0]], dtype=F64)
    assert P.certify(x0, P(x0)).verdict == "certified"
    certificate = P.certify(x0, fault(x0, P))
    assert certificate.verdict == "failed"


@pytest.mark.parametrize("size", [1e-6, 1e-12])
def test_a_small_error_on_a_face_is_bounded_from_both_sides(size):
    P = polyhedron()
    assert P.variant == "active_set"
    x0 = torch.tensor([0.5, 0.3, 0.4, -0.3, 0.1, -1.0], dtype=F64)
    x = P(x0)
    assert P.certify(x0, x).verdict == "certified"
    free = ((x > 0) & (x < 0.6)).nonzero().flatten().tolist()
    wrong = x.clone()
    wrong[free[-1]] += size
    wrong[free[-2]] -= size
    off = float((wrong - x).norm() / wrong.norm())
    certificate = P.certify(x0, wrong, accuracy=off / 10)
    assert certificate.verdict == "failed"
    assert float(certificate.forward_error_at_least) <= off * 1.01
    assert float(certificate.forward_error_at_least) >= off / 2


def test_the_bound_holds_for_any_multipliers():
    """The certificate is of x alone: multipliers of another point make it weaker, not wrong."""
    P = polyhedron()
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(20, 6, generator=generator, dtype=F64)
    x = P(x0)
    feasible = P(torch.randn(20, 6, generator=generator, dtype=F64))
    off = (feasible - x).norm(dim=-1)
    certificate = P.certify(x0, feasible)
    size = x.norm(dim=-1)
    assert bool((certificate.forward_error_bound * size >= off * (1 - 1e-9)).all())
    assert bool((certificate.forward_error_at_least * size <= off * (1 + 1e-9)).all())
