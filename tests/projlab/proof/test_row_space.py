"""Bounds on the two parts of an error, against exact rational arithmetic."""

import pytest
import torch

from projlab.numerics.double_double import exact as pairs
from projlab.proof.products import Product
from projlab.proof.row_space import RowSpace
from projlab.system.rows import as_rows
from tests.projlab import exact

F64 = torch.float64
SLACK = 1 + 1e-9  # of the norms that this test itself rounds
E = torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.0, 1.0, 1.0, 3.0]], dtype=F64) / 4
WEIGHTS = {
    "none": None,
    "diagonal": torch.tensor([1.0, 4.0, 0.25, 9.0], dtype=F64),
    "matrix": torch.eye(4, dtype=F64) * 2 + 0.5,
}


def tangent(v):
    """T v, exactly: the projection of v onto {x : E x = 0}."""
    return exact.projection(exact.matrix(E), exact.vector(torch.zeros(2)), exact.vector(v))


@pytest.mark.parametrize("form", [lambda t: t, lambda t: t.to_sparse_coo()])
def test_the_tangent_part(form):
    space = RowSpace.of(as_rows(form(E)), None)
    v = torch.tensor([[1.0, -2.0, 3.0, 0.5], [1e-9, 0.0, 1.0, 1.0]], dtype=F64)
    part = space.tangent_part(pairs(v))
    for i in range(2):
        expected = tangent(v[i])
        size = exact.norm(expected)
        assert float(part.lower[i]) <= size * SLACK
        assert size <= float(part.upper[i]) * SLACK
        assert float(part.upper[i]) <= size * (1 + 1e-11)
        assert exact.distance(part.vector[i], expected) <= float(part.off[i]) * SLACK


def test_a_vector_of_the_row_space_has_no_tangent_part():
    space = RowSpace.of(as_rows(E), None)
    part = space.tangent_part(pairs(torch.ones(1, 2, dtype=F64) @ E))
    assert float(part.upper[0]) <= 1e-28, "some u squared"


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_minimum_norm_part(weights):
    space = RowSpace.of(as_rows(E), WEIGHTS[weights])
    q = torch.tensor([[1.0, -1.0], [0.5, 1e-6]], dtype=F64)
    zero = torch.zeros(2, dtype=F64)
    part = space.minimum_norm_part(pairs(q), zero, zero)
    assert torch.allclose(part.vector @ E.mT, q, rtol=0, atol=1e-14)
    size = space.norm(part.vector)
    assert torch.all(part.lower <= size * SLACK)
    assert torch.all(size <= part.upper * SLACK)
    # of least norm: orthogonal, in the metric, to what E takes to zero
    outside = space.tangent_part(pairs(part.vector)).upper
    assert torch.all(outside <= part.off)


def test_an_uncertain_right_side_widens_the_bounds():
    space = RowSpace.of(as_rows(E), None)
    q, zero = pairs(torch.tensor([[1.0, -1.0]], dtype=F64)), torch.zeros(1, dtype=F64)
    sharp, blunt = (space.minimum_norm_part(q, zero + error, zero) for error in (0.0, 1e-3))
    assert blunt.upper > sharp.upper + 1e-3
    assert blunt.lower < sharp.lower - 1e-3


def test_nothing_is_proven_of_dependent_rows():
    space = RowSpace.of(as_rows(torch.ones(2, 3, dtype=F64)), None)
    v, one = pairs(torch.ones(1, 3, dtype=F64)), torch.ones(1, dtype=F64)
    assert space.tangent_part(v).lower.item() == 0.0
    part = space.minimum_norm_part(pairs(torch.ones(1, 2, dtype=F64)), one, one)
    assert (part.upper.item(), part.lower.item(), part.off.item()) == (torch.inf, 0.0, torch.inf)


def test_a_metric_too_ill_conditioned_proves_nothing():
    weights = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 1e-14]], dtype=F64)
    assert RowSpace.of(as_rows(torch.eye(1, 2, dtype=F64)), weights).steering.sigma_min == 0.0


@pytest.mark.parametrize("weights", WEIGHTS)
def test_what_products_may_be_off_by_widens_the_bounds(weights, monkeypatch):
    """By the error, in the dual norm, of the tangent part; over sigma_min where E is inverted."""
    space = RowSpace.of(as_rows(E), WEIGHTS[weights])
    least = 1.0 if space.metric is None else space.metric.extremes[0]
    sigma = space.steering.sigma_min
    v = pairs(torch.tensor([[1.0, -2.0, 3.0, 0.5]], dtype=F64))
    q, zero = pairs(torch.tensor([[1.0, -1.0]], dtype=F64)), torch.zeros(1, dtype=F64)
    sharp = space.tangent_part(v), space.minimum_norm_part(q, zero, zero)
    monkeypatch.setattr(Product, "error", lambda self, x, y, u: torch.full((1,), 1e-3, dtype=F64))
    blunt = space.tangent_part(v), space.minimum_norm_part(q, zero, zero)
    close = {"rel": 1e-6, "abs": 1e-15}
    for k, off in enumerate((1e-3 / least, 1e-3 / sigma)):
        wider = (blunt[k].upper - sharp[k].upper).item()
        assert wider == pytest.approx(off, **close)
        assert torch.equal(blunt[k].vector, sharp[k].vector)
    # what z has outside the row space is a tangent part, and as uncertain
    outside = 1e-3 / sigma + 1e-3 / least
    assert (blunt[1].off - sharp[1].off).item() == pytest.approx(outside, **close)
    assert (sharp[1].lower - blunt[1].lower).item() == pytest.approx(outside, **close)
    # t may be off, and what its row-space part is found from
    assert (blunt[0].off - sharp[0].off).item() == pytest.approx(2e-3 / least, **close)
    size = (sharp[0].lower.item(), 1e-3 / least)
    wanted = ((size[0] - size[1]) ** 2 - size[1] ** 2) ** 0.5
    assert blunt[0].lower.item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_norms_are_those_of_the_metric(weights):
    space = RowSpace.of(as_rows(E), WEIGHTS[weights])
    W = WEIGHTS[weights]
    W = torch.eye(4, dtype=F64) if W is None else W if W.dim() == 2 else torch.diag(W)
    v = torch.tensor([[1.0, -2.0, 3.0, 0.5], [0.0, 0.0, 1e-200, 0.0]], dtype=F64)
    torch.testing.assert_close(space.norm(v)[0], (v[0] @ W @ v[0]).sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(space.dual_norm(v @ W), space.norm(v), rtol=1e-12, atol=0)
    # T v is W-orthogonal to what E takes to zero, and E takes T v to zero
    part = space.tangent_part(pairs(v[:1]))
    torch.testing.assert_close(part.vector @ E.mT, torch.zeros(1, 2, dtype=F64), rtol=0, atol=1e-14)
    rest = (v[:1] - part.vector) @ W
    null = torch.linalg.svd(E).Vh[2:]
    torch.testing.assert_close(rest @ null.mT, torch.zeros(1, 2, dtype=F64), rtol=0, atol=1e-13)
    size = space.norm(part.vector)
    assert (part.lower <= size * SLACK).all()
    assert (size <= part.upper * SLACK).all()
    torch.testing.assert_close(part.lower, part.upper, rtol=1e-9, atol=0)
