"""Exact answers on polyhedra: an active set is verified in rational arithmetic, never assumed."""

import math
from fractions import Fraction

import torch
from flint import fmpq, fmpq_mat

from tests.projlab import exact


def on_face(x0, M, right, fixed):
    """Projection of x0 onto {M x = right} with some variables fixed; None where there is none."""
    n = len(x0)
    free = [j for j in range(n) if fixed[j] is None]
    full = [fmpq(0) if v is None else v for v in fixed]
    rest = exact.subtract(right, exact.times(M, full)) if M.nrows() else []
    part = fmpq_mat(M.nrows(), len(free), [M[i, j] for i in range(M.nrows()) for j in free])
    kept = exact.independent_rows(part)
    x = [fmpq(0) if v is None else v for v in fixed]
    for j in free:
        x[j] = x0[j]
    if kept:
        rows = exact.select(part, kept)
        start = exact.subtract(exact.times(rows, [x0[j] for j in free]), [rest[i] for i in kept])
        y = exact.solve(rows * rows.transpose(), start)
        back = exact.times(rows.transpose(), y)
        for k, j in enumerate(free):
            x[j] = x0[j] - back[k]
    return x


def in_cone(generators, target):
    """Whether target is a combination of generators with coefficients at least zero, exactly.

    Lawson and Hanson, "Solving least squares problems", chapter 23, which ends after finitely many
    steps in exact arithmetic.
    """
    count = len(generators)
    passive, weights = [], [fmpq(0)] * count

    def dot(u, v):
        return sum((a * b for a, b in zip(u, v, strict=True)), fmpq(0))

    def rest():
        left = list(target)
        for g, w in zip(generators, weights, strict=True):
            left = [a - w * b for a, b in zip(left, g, strict=True)]
        return left

    while True:
        left = rest()
        if all(v == 0 for v in left):
            return True
        gains = {i: dot(generators[i], left) for i in range(count) if i not in passive}
        best = max(gains, key=gains.get, default=None)
        if best is None or gains[best] <= 0:
            return False
        passive.append(best)
        while True:
            gram = fmpq_mat(
                len(passive),
                len(passive),
                [dot(generators[i], generators[j]) for i in passive for j in passive],
            )
            solved = exact.solve(gram, [dot(generators[i], target) for i in passive])
            if all(v > 0 for v in solved):
                weights = [fmpq(0)] * count
                for i, v in zip(passive, solved, strict=True):
                    weights[i] = v
                break
            step = min(
                (
                    weights[i] / (weights[i] - v)
                    for i, v in zip(passive, solved, strict=True)
                    if v <= 0
                ),
            )
            for i, v in zip(passive, solved, strict=True):
                weights[i] = weights[i] + step * (v - weights[i])
            passive = [i for i in passive if weights[i] > 0]


def verified(polyhedron, x0, x, tight=1e-9):
    """The exact projection of x0, from the active set of x; an AssertionError where that is wrong.

    Primal feasibility, and membership of x0 - x* in the normal cone, are checked in rationals.
    """
    n = polyhedron.n
    lb, ub = polyhedron.lb.double().expand(n).tolist(), polyhedron.ub.double().expand(n).tolist()
    start = exact.vector(x0.double())
    fixed = [None] * n
    for j, value in enumerate(x.double().tolist()):
        if value == lb[j] or value == ub[j]:
            fixed[j] = exact.rational(value)
    A = polyhedron.equations
    rows = [] if A is None else A.A.to_dense().double().tolist()
    right = [] if A is None else A.b.double().tolist()
    m = len(rows)
    inequalities = []
    if polyhedron.inequalities is not None:
        G = polyhedron.inequalities.to_dense().double()
        h = polyhedron.h.double()
        slack = h - G @ x.double()
        inequalities = list(zip(G.tolist(), h.tolist(), slack.tolist(), strict=True))
    active = [(g, h) for g, h, s in inequalities if s <= tight * (1 + abs(h))]
    M = matrix([*rows, *(g for g, _ in active)], n)
    side = [exact.rational(v) for v in [*right, *(h for _, h in active)]]
    answer = on_face(start, M, side, fixed)
    residual = exact.subtract(exact.times(M, answer), side) if M.nrows() else []
    assert all(v == 0 for v in residual[:m])
    for g, h, _ in inequalities:
        if h != math.inf:
            value = sum((exact.rational(a) * v for a, v in zip(g, answer, strict=True)), fmpq(0))
            assert value <= exact.rational(h)
    generators = []
    for i in range(M.nrows()):
        row = [M[i, j] for j in range(n)]
        if residual[i] == 0:
            generators.append(row)
        if i < m:
            generators.append([-v for v in row])
    for j in range(n):
        unit = [fmpq(int(k == j)) for k in range(n)]
        if lb[j] != -math.inf:
            assert answer[j] >= exact.rational(lb[j])
            if answer[j] == exact.rational(lb[j]):
                generators.append([-v for v in unit])
        if ub[j] != math.inf:
            assert answer[j] <= exact.rational(ub[j])
            if answer[j] == exact.rational(ub[j]):
                generators.append(unit)
    assert in_cone(generators, exact.subtract(start, answer))
    return answer


def matrix(rows, n):
    return fmpq_mat(len(rows), n, [exact.rational(v) for row in rows for v in row])


def error(x, answer):
    """||x - x*|| / ||x*||, or ||x - x*|| where x* is zero."""
    off = sum(
        (exact.rational(v) - a) ** 2 for v, a in zip(x.double().tolist(), answer, strict=True)
    )
    size = sum(a**2 for a in answer)
    ratio = off / size if size != 0 else fmpq(off)
    return math.sqrt(Fraction(int(ratio.p), int(ratio.q)))


def amplification(x0, x):
    """(||x0|| + ||x0 - x||) / ||x||, by which rounding of x0 and of the correction counts."""
    size = float(x.double().norm())
    total = float(x0.double().norm() + (x0.double() - x.double()).norm())
    return total / size if size else 1.0


def random(seed, *, degenerate):
    """A small polyhedron of integers with a point in it, and x0; often with vertices that tie."""
    generator = torch.Generator().manual_seed(seed)

    def integers(*shape, high=3):
        return torch.randint(-high, high + 1, shape, generator=generator).double()

    n, m, p = (int(torch.randint(*r, (1,), generator=generator)) for r in ((2, 9), (0, 4), (0, 6)))
    A, G = integers(min(m, n - 1), n), integers(p, n)
    inside = integers(n, high=1) if degenerate else integers(n, high=4) / 4
    lb = torch.where(integers(n) > 0, -torch.inf, inside - integers(n, high=1).abs())
    ub = torch.where(integers(n) > 0, torch.inf, inside + integers(n, high=1).abs())
    h = G @ inside + (0 if degenerate else integers(p).abs() / 2)
    if degenerate and len(G):  # the same rows again, doubled, and the sum of two
        G, h = torch.cat([G, 2 * G[:1], G[:1] + G[-1:]]), torch.cat([h, 2 * h[:1], h[:1] + h[-1:]])
    if degenerate and len(A):
        A = torch.cat([A, A[:1] * 3])
    parts = {"lb": lb, "ub": ub}
    if len(A):
        parts |= {"A": A, "b": A @ inside}
    if len(G):
        parts |= {"G": G, "h": h}
    x0 = integers(n) if degenerate else torch.randn(n, dtype=torch.float64, generator=generator) * 3
    return parts, x0
