"""The duality gap, and how far x is off its rows, against rational arithmetic."""

import math

import pytest
import torch
from flint import fmpq

from projlab.proof.polyhedral import Gap, duality_gap
from projlab.system.polyhedron import Polyhedron
from tests.projlab import exact

F64 = torch.float64
M, P, N = 2, 3, 6


def drawn(seed):
    """A, b, G, h, lb, ub, x0, x, y, z: numbers that float64 holds, few of them on bounds."""
    g = torch.Generator().manual_seed(seed)

    def whole(*shape):
        return torch.randint(-8, 9, shape, generator=g).double() / 4

    A, G, x0, y, z = whole(M, N), whole(P, N), whole(N), whole(M), whole(P)
    lb, width = whole(N), whole(N).abs()
    ub = lb + width
    lb[0], ub[1] = -torch.inf, torch.inf
    x = torch.maximum(torch.minimum(whole(N), ub), lb)
    b, h = A @ x - whole(M), G @ x + whole(P)
    h[0] = torch.inf
    return A, b, G, h, lb, ub, x0, x, y, z


def by_hand(A, b, G, h, lb, ub, x0, x, y, z):
    """sqrt(2 gap) and the feasibility, from the formulas at the top of the module."""
    w = [
        exact.rational(x0[j].item())
        - sum(exact.rational(t) for t in (y * A[:, j]).tolist())
        - sum(exact.rational(t) for t in (z.clamp_min(0) * G[:, j]).tolist())
        for j in range(len(x0))
    ]
    total = fmpq(0)
    for j in range(len(x0)):
        near = w[j]
        if math.isfinite(lb[j]):
            near = max(near, exact.rational(lb[j].item()))
        if math.isfinite(ub[j]):
            near = min(near, exact.rational(ub[j].item()))
        total += ((exact.rational(x[j].item()) - w[j]) ** 2 - (near - w[j]) ** 2) / 2
    size = float(x.norm() + x0.norm())
    feasibility = 0.0
    for row, right in zip(A, b, strict=True):
        scale = float(row.norm()) * size + abs(float(right))
        feasibility = max(feasibility, abs(float(row @ x - right)) / scale)
    for row, right, price in zip(G, h, z.clamp_min(0), strict=True):
        if math.isfinite(right):
            over = float(row @ x - right)
            feasibility = max(
                feasibility, max(over, 0.0) / (float(row.norm()) * size + abs(float(right)))
            )
            total += exact.rational(float(price) * max(-over, 0.0))
    return float(2 * total) ** 0.5, feasibility


def gap_of(A, b, G, h, lb, ub, x0, x, y, z) -> Gap:
    """Of points (k, n)."""
    polyhedron = Polyhedron(A, b, G=G, h=h[0], lb=lb[0], ub=ub[0])
    return duality_gap(polyhedron, x0, x, y, z, (b[None].expand(len(x), -1), h), (lb, ub))


@pytest.mark.parametrize("seed", range(30))
def test_the_gap_is_what_the_formula_says(seed):
    A, b, G, h, lb, ub, x0, x, y, z = drawn(seed)
    found = gap_of(A, b, G, h[None], lb[None], ub[None], x0[None], x[None], y[None], z[None])
    distance, feasibility = by_hand(A, b, G, h, lb, ub, x0, x, y, z)
    # terms of at most 1e3 are rounded to some u of them: the root errs by less where it is not 0
    assert distance <= found.distance.item() * (1 + 1e-12)
    assert found.distance.item() <= distance * (1 + 1e-9) + 1e-6
    assert found.feasibility.item() == pytest.approx(feasibility, rel=1e-12)
    w = x0 - y @ A - z.clamp_min(0) @ G
    assert torch.equal(found.nearest[0], torch.maximum(torch.minimum(w, ub), lb))


def test_points_are_judged_one_by_one():
    cases = [drawn(0)]
    A, b, G, h, lb, ub = cases[0][:6]
    points = [drawn(seed)[6:] for seed in range(4)]
    x0, x, y, z = (torch.stack(part) for part in zip(*points, strict=True))
    x = torch.maximum(torch.minimum(x, ub), lb)
    many = gap_of(A, b, G, *(t.expand(4, -1) for t in (h, lb, ub)), x0, x, y, z)
    for k in range(4):
        one = slice(k, k + 1)
        alone = gap_of(A, b, G, h[None], lb[None], ub[None], x0[one], x[one], y[one], z[one])
        for found, wanted in zip(
            (f[one] for f in vars(many).values()), vars(alone).values(), strict=True
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-13, atol=0)


def test_a_point_beyond_its_bounds_is_off_by_how_far():
    lb, ub = torch.zeros(1, 3, dtype=F64), torch.ones(1, 3, dtype=F64)
    box = Polyhedron(lb=lb[0], ub=ub[0])
    x0 = torch.tensor([[2.0, 0.5, -1.0]], dtype=F64)
    none = torch.zeros(1, 0, dtype=F64)

    def of(x):
        return duality_gap(box, x0, x, none, none, (none, none), (lb, ub))

    right = torch.tensor([[1.0, 0.5, 0.0]], dtype=F64)
    found = of(right)
    assert (found.feasibility.item(), torch.equal(found.nearest, right)) == (0.0, True)
    assert found.distance.item() < 1e-15
    beyond = of(right + torch.tensor([[0.25, 0.0, 0.0]], dtype=F64))
    size = (1.25**2 + 0.5**2) ** 0.5 + float(x0.norm())
    assert beyond.feasibility.item() == pytest.approx(0.25 / size, rel=1e-14)
    assert of(torch.zeros_like(x0)).distance.item() == pytest.approx(
        (2 * ((4 - 1) / 2 + 0.25 / 2)) ** 0.5, rel=1e-9
    )
    # nothing is divided by where x and x0 are zero
    zero = torch.zeros(1, 3, dtype=F64)
    at_rest = duality_gap(box, zero, zero, none, none, (none, none), (lb, ub))
    assert (at_rest.distance.item(), at_rest.feasibility.item()) == (0.0, 0.0)


def test_what_is_fixed_or_held_by_its_bound_counts_nothing():
    """Rounding of w is no part of the distance where the entry cannot move."""
    lb = torch.tensor([[1.0, 0.0]], dtype=F64)
    ub = torch.tensor([[1.0, 1.0]], dtype=F64)
    box = Polyhedron(lb=lb[0], ub=ub[0])
    none = torch.zeros(1, 0, dtype=F64)
    x = torch.tensor([[1.0, 1.0]], dtype=F64)
    x0 = torch.tensor([[1e9, 1e9]], dtype=F64)
    assert duality_gap(box, x0, x, none, none, (none, none), (lb, ub)).distance.item() == 0.0
    # within rounding of the bound it is not known whether it is held
    near = torch.tensor([[1.0, 1.0]], dtype=F64)
    assert 0 < duality_gap(box, near, x, none, none, (none, none), (lb, ub)).distance.item() < 1e-15
