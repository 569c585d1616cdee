"""Certificates of points of polyhedra, held against projections in rational arithmetic."""

import warnings
from fractions import Fraction

import pytest
import torch

from projlab import NotPolishedWarning, certify, projector, tolerance

F64 = torch.float64
U = tolerance.unit_roundoff("float64")


def vector(*values):
    return torch.tensor(values, dtype=F64)


def exact_projection(A, b, x0):
    """Onto two equations, in fractions."""
    p, q, (r, s), x = ([Fraction(float(v)) for v in t] for t in (*A, b, x0))

    def dot(a, c):
        return sum(one * other for one, other in zip(a, c, strict=True))

    off, (pp, pq, qq) = (dot(p, x) - r, dot(q, x) - s), (dot(p, p), dot(p, q), dot(q, q))
    det = pp * qq - pq * pq
    y = (qq * off[0] - pq * off[1]) / det, (pp * off[1] - pq * off[0]) / det
    return [t - y[0] * c - y[1] * d for t, c, d in zip(x, p, q, strict=True)]


def distance(x, answer):
    return float(sum((Fraction(float(v)) - t) ** 2 for v, t in zip(x, answer, strict=True))) ** 0.5


def nearly_parallel(seed, exponent):
    """Two rows 10^-exponent apart, a point, its projection, and a bound that it does not reach."""
    draw = torch.Generator().manual_seed(seed)
    row, apart, inside = (torch.randn(3, generator=draw, dtype=F64) for _ in range(3))
    A = torch.stack([row, row + 10.0**-exponent * apart])
    b, x0 = A @ inside, torch.randn(3, generator=draw, dtype=F64)
    answer = exact_projection(A, b, x0)
    return projector(A, b, lb=float(min(answer)) - 1), x0, answer


@pytest.mark.parametrize("exponent", [2, 4, 6, 7, 8])
@pytest.mark.parametrize("seed", range(12))
def test_bounds_hold_where_rows_are_nearly_parallel(seed, exponent):
    """How far rounding of the rows moves the answer is part of both bounds."""
    P, x0, answer = nearly_parallel(seed, exponent)
    rounded = vector(*map(float, answer))
    size = distance(rounded * 0, answer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotPolishedWarning)
        points = [rounded, P(x0), rounded * (1 + 1e-6)]
        for x in points:
            proof, error = P.certify(x0, x), distance(x, answer) / size
            if P.status == "not polished":
                assert proof.verdict != "certified"
                continue
            assert error <= proof.forward_error_bound * (1 + 1e-9)
            assert error >= proof.forward_error_at_least * (1 - 1e-9)
    if P.status == "polished":
        # beyond, multipliers of 1e6 and more are too coarse for what they are to prove
        verdict = P.certify(x0, rounded).verdict
        assert verdict == "certified" if exponent <= 4 else verdict != "failed"


@pytest.mark.parametrize("seed", range(20))
def test_faces_whose_gram_matrix_is_singular_to_rounding_are_settled(seed):
    """kappa of 1e7 and bounds that are not reached: as exact as the equations alone."""
    P, x0, answer = nearly_parallel(seed, 7)
    x = P(x0)
    assert P.status == "polished"
    condition = float(projector(P.A, P.b).condition)
    size = distance(x * 0, answer)
    allowed = tolerance.ANSWERED * condition * U * (float(x0.norm()) + size)
    assert distance(x, answer) <= allowed


def test_a_point_that_is_the_projection_is_certified_and_what_is_near_is_not_overrated():
    d = 2.0**-16
    A, one = vector([1.0, 2, 1, 3], [1 + d, 2, 1 - d, 3 + d]), torch.ones(4, dtype=F64)
    b, x0 = A @ one, one + A.T @ vector(0.25, 0.5)  # exact: the projection is all ones
    P = projector(A, b, lb=0.0)
    proof = P.certify(x0, one)
    assert proof.verdict == "certified"
    assert proof.forward_error_at_least == 0
    x = P(x0)
    error = float((x - one).norm() / 2)
    mine, theirs = P.certify(x0, x), certify(x0, x, A, b)
    for each in (mine, theirs):
        assert each.forward_error_at_least <= error <= each.forward_error_bound


def test_bounds_are_relative_to_the_projection():
    box = projector(lb=vector(0, 0), ub=1.0)
    proof = box.certify(vector(1e-3, 0), vector(1, 1), accuracy=1.0)
    off = float((vector(1, 1) - vector(1e-3, 0)).norm()) / 1e-3
    assert proof.verdict == "failed"
    assert proof.forward_error_at_least <= off * (1 + 1e-12)
    assert proof.forward_error_bound >= off * (1 - 1e-12)


def order_cone(n):
    eye = torch.eye(n, dtype=F64)
    return projector(torch.ones(1, n, dtype=F64), 1.0, G=eye[:-1] - eye[1:], h=0.0, lb=0.0)


def kkt_residual(P, x0, x):
    y = P.multipliers(x0)
    pull = y.equations @ P.A + y.inequalities @ P.G - y.lower + y.upper
    return float((x0 - x - pull).abs().max())


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("k", [1, 3])
def test_repeated_calls_stay_polished_with_multipliers_that_explain_them(seed, k):
    """Ties and vertices, where many active sets describe one answer."""
    draw = torch.Generator().manual_seed(seed)
    n = 20 + seed % 12
    x0 = torch.randint(-3, 4, (n,), generator=draw).to(F64) / 2
    points = x0.expand(k, n) if k > 1 else x0
    P = order_cone(n)
    first = P(points)
    for _ in range(4):
        x = P(points)
        assert P.status == "polished"
        torch.testing.assert_close(x, first, rtol=0, atol=64 * n * U)
        assert kkt_residual(P, points, x) <= 64 * n * U * float(x0.abs().max())
        assert P.certify(points, x).verdict == "certified"
