"""What the bounds are made of, term by term, against the formulas that they stand for."""

import math
from dataclasses import replace

import pytest
import torch

import projlab
from projlab import tolerance
from projlab.proof.bounds import SystemBounds, _in_range, _Layers, bounds_of
from projlab.proof.redundancy import Redundancy
from projlab.system.analysis import analyse
from projlab.system.constraint import as_constraint
from projlab.system.rows import as_rows
from tests.projlab import exact
from tests.projlab.blocks import block_system

F64 = torch.float64
U = 2.0**-53
A = torch.tensor([[3.0, 1.0, 0.0, -2.0, 5.0], [0.0, 16.0, 8.0, 24.0, 1.0]], dtype=F64)
B = torch.tensor([1.0, -40.0], dtype=F64)
X0 = torch.tensor([[1.0, 2.0, -1.0, 0.5, 3.0], [0.0, -4.0, 2.0, 1.0, 1.0]], dtype=F64)


def bounds(A, b, least_squares=False, weights=None) -> SystemBounds:
    constraint = as_constraint(A, b)
    analysis = analyse(constraint, F64, "numerical", F64, measured=True)
    return bounds_of(constraint, analysis, 0, weights, least_squares=least_squares)


def nearest(x0, A=A, b=B):
    """The projections, exactly, as floats and as they are."""
    found = [exact.projection(exact.matrix(A), exact.vector(b), exact.vector(x)) for x in x0]
    return torch.tensor([[float(v) for v in x] for x in found], dtype=F64), found


def test_each_figure_is_what_it_says():
    """Off along the null space and across it: each part by itself, and both."""
    x0 = X0.repeat(2, 1)
    right, solutions = nearest(x0)
    along = torch.tensor([2.0, -1.0, 1.0, 0.0, -1.0], dtype=F64)
    along = along - torch.linalg.pinv(A) @ (A @ along)
    across = torch.tensor([1.0, 0.5], dtype=F64) @ A
    x = right + 0.25 * along + torch.tensor([[0.0], [0.0], [0.125], [0.125]], dtype=F64) * across
    x[2] -= 0.25 * along
    found = bounds(A, B).figures(x0, x, U, None)
    sigma = torch.linalg.svdvals(A / torch.tensor([[8.0], [32.0]]))  # any row scaling by 2^k near
    for k in range(4):
        error = exact.distance(x[k], solutions[k]) / exact.norm(solutions[k])
        assert found.lower[k].item() == pytest.approx(error, rel=1e-9)
        assert found.upper[k].item() == pytest.approx(error, rel=1e-9)
        assert found.lower[k] <= error * (1 + 1e-14) <= found.upper[k] * (1 + 2e-14)
        assert found.feasibility[k].item() == pytest.approx(
            exact.feasibility(A, B, x0[k], x[k]), rel=1e-12
        )
        tangent = 0.0 if k == 2 else float(0.25 * along.norm())
        assert found.stationarity[k].item() == pytest.approx(
            tangent / float(x[k].norm() + x0[k].norm()), rel=1e-9, abs=1e-15
        )
        shift = float((torch.linalg.pinv(A) @ (A @ x[k] - B)).norm())
        total = float(x0[k].norm() + (x[k] - x0[k]).norm()) + shift
        condition = bounds(A, B).decision.condition
        growth = tolerance.dimension_factor(2, 5) * U * condition
        assert found.accuracy[k].item() == pytest.approx(
            growth * total / exact.norm(solutions[k]), rel=1e-9
        )
    assert float(sigma[0] / sigma[1]) / 4 < condition < 4 * float(sigma[0] / sigma[1])


def test_what_is_asked_for_is_what_it_is_held_against():
    found = bounds(A, B).figures(X0, X0, U, 0.5)
    assert found.accuracy.tolist() == [0.5, 0.5]


def test_an_answer_of_zero_is_judged_on_the_scale_of_the_point():
    x0 = torch.tensor([1.0, 0.5], dtype=F64) @ A / 4  # in the row space
    x = torch.tensor([1e-3, 0.0, 0.0, 0.0, 0.0], dtype=F64)
    found = bounds(A, torch.zeros(2, dtype=F64)).figures(x0[None], x[None], U, None)
    relative = 1e-3 / float(x0.norm())
    assert found.upper.item() == pytest.approx(relative, rel=1e-9)
    assert found.lower.item() == pytest.approx(relative, rel=1e-9)


@pytest.mark.parametrize("m", [0, 2])
def test_without_rows_the_projection_is_the_point(m):
    x = X0 + torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.0]], dtype=F64)
    found = bounds(torch.zeros(m, 5, dtype=F64), torch.zeros(m, dtype=F64)).figures(X0, x, U, None)
    relative = 0.5 / torch.linalg.vector_norm(X0, dim=-1)
    for figure in (found.upper, found.lower):
        torch.testing.assert_close(figure, relative, rtol=1e-11, atol=0)
    assert found.feasibility.tolist() == [0.0, 0.0]
    size = torch.linalg.vector_norm(X0, dim=-1) + torch.linalg.vector_norm(x, dim=-1)
    torch.testing.assert_close(found.stationarity, 0.5 / size, rtol=1e-11, atol=0)


def test_a_right_side_that_zero_rows_cannot_have_is_infeasible():
    one = bounds(torch.zeros(1, 5, dtype=F64), torch.ones(1, dtype=F64), least_squares=True)
    assert one.figures(X0, X0, U, None).feasibility.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 4.0, 0.25, 9.0, 1.0], dtype=F64)])
def test_what_redundant_rows_are_off_by_widens_both_bounds(weights):
    """By 1.1 (4 ||Delta|| ||x0 - x*|| + ||Delta x0 - phi|| (1 + 2 ||Delta|| / sigma)) / sigma."""
    plain = bounds(A, B, weights=weights)
    delta = torch.tensor([[1e-4, 0.0, 0.0, 2e-4, 0.0]], dtype=F64)
    size, phi = float(delta.norm()), torch.tensor([[3e-3]], dtype=F64)
    rough = replace(plain, redundancy=Redundancy(as_rows(delta), size, phi))
    x = nearest(X0)[0] + 0.5
    row_space = plain.row_space
    assert row_space is not None
    apart = plain.figures(X0, x, U, None), rough.figures(X0, x, U, None)
    sigma = row_space.steering.sigma_min
    least = 1.0 if weights is None else 0.5  # the smallest root of a weight
    residual = (A @ x.mT).mT - B
    if weights is None:
        shift = torch.linalg.vector_norm(residual @ torch.linalg.pinv(A).mT, dim=-1)
    else:
        root = weights.sqrt()
        shift = torch.linalg.vector_norm(residual @ torch.linalg.pinv(A / root).mT, dim=-1)
    travelled = plain.norm(x - X0) + shift
    misfit = (X0 @ delta.mT - phi).abs().squeeze(-1)
    first = 4 * size / least * travelled + misfit * (1 + 2 * size / least / sigma)
    gap = tolerance.SECOND_ORDER * first / sigma
    long, far = plain.norm(x), plain.norm(x - nearest(X0)[0])
    if weights is None:  # bounds relative to ||x*||, which the gap makes uncertain as well
        near = plain.norm(nearest(X0)[0])
        torch.testing.assert_close(apart[0].upper, far / near, rtol=1e-9, atol=0)
        below = torch.maximum(near - gap, long - far - gap)
        torch.testing.assert_close(apart[1].upper, (far + gap) / below, rtol=1e-6, atol=0)
        above = torch.minimum(near + gap, long + far + gap)
        torch.testing.assert_close(
            apart[1].lower, (far - gap).clamp_min(0) / above, rtol=1e-6, atol=1e-12
        )
    assert (apart[1].upper > apart[0].upper).all()
    assert (apart[1].lower < apart[0].lower).all()
    torch.testing.assert_close(rough._redundancy_gap(X0, travelled), gap, rtol=1e-9, atol=0)


def test_nothing_is_proven_of_an_ambiguous_rank_or_a_row_space_that_is_not_known():
    close = torch.tensor([[1.0, 0.0], [1.0, 3e-16]], dtype=F64)
    two = bounds(close, torch.ones(2, dtype=F64))
    x = torch.tensor([[1.0, 2.0]], dtype=F64)
    found = two.figures(x, x, U, None)
    assert (found.upper.item(), found.lower.item()) == (math.inf, 0.0)
    assert "ambiguous" in found.why_not
    plain = bounds(A, B)
    assert plain.row_space is not None
    unknown = replace(
        plain,
        row_space=replace(
            plain.row_space, steering=replace(plain.row_space.steering, sigma_min=0.0)
        ),
        redundancy=Redundancy(as_rows(torch.zeros(1, 5, dtype=F64)), 0.0, torch.zeros(1, 1)),
    )
    found = unknown.figures(X0, X0, U, None)
    assert found.upper.tolist() == [math.inf, math.inf]
    assert found.lower.tolist() == [0.0, 0.0]
    assert "too near 1/u for" in found.why_not


def test_an_answer_that_is_not_finite_spoils_no_other():
    x = nearest(X0)[0]
    x[0, 3] = math.nan
    found = bounds(A, B).figures(X0, x, U, None)
    assert found.upper.isinf().tolist() == [True, False]
    assert found.lower.isinf().tolist() == [True, False]
    assert found.feasibility.isinf().tolist() == [True, False]
    assert found.stationarity.isinf().tolist() == [True, False]


def test_reasons_are_told_apart():
    plain = bounds(A, B)
    assert plain._why_not(True) == "the bounds lie on both sides of the accuracy"
    assert plain._why_not(False) == "x is not finite"
    rough = replace(plain, redundancy=Redundancy(as_rows(A), 0.0, torch.zeros(1, 2)))
    assert "redundant rows" in rough._why_not(True)


def test_of_least_squares_the_part_in_the_range_is_known_to_rounding():
    double = torch.tensor([[2.0, 0.0, 1.0], [4.0, 0.0, 2.0], [0.0, 1.0, 1.0]], dtype=F64)
    b = torch.tensor([5.0, 5.0, 2.0], dtype=F64)
    constraint = as_constraint(double, b)
    analysis = analyse(constraint, F64, "numerical", F64, measured=True)
    exponent = analysis.system.exponent
    decision = analysis.decisions[0]
    scaled = b * 2.0**exponent
    found, error = _in_range(scaled, exponent, decision)
    wanted = torch.tensor([3.0, 6.0, 2.0], dtype=F64) * 2.0**exponent
    assert float((found - wanted).norm()) <= error <= 1e3 * U * float(wanted.norm())
    largest = float(2.0 ** exponent.max())
    assert error == pytest.approx(
        tolerance.dimension_factor(3, 3) * U * float(b.norm()) * largest, rel=1e-12
    )


@pytest.mark.parametrize("kind", ["redundant", "full"])
def test_dropped_rows_of_different_blocks_share_a_layer_and_are_told_apart_again(kind):
    A = block_system(kind)[0]
    for form in (A, A.to_sparse_coo()):
        constraint = as_constraint(form, torch.zeros(len(A), dtype=F64))
        analysis = analyse(constraint, F64, "numerical", F64, measured=True)
        decision = analysis.decisions[0]
        rows = analysis.system.element(0).rows
        layers = _Layers.of(rows, decision)
        dropped = rows.select(decision.dropped).to_dense()
        again = layers.rows(layers.stacked, layers.of_column)
        torch.testing.assert_close(again.to_dense(), dropped, rtol=0, atol=0)
        assert len(layers.stacked) <= len(dropped)
        if kind == "redundant" and form.layout != torch.strided:
            assert len(layers.stacked) < len(dropped)


def test_the_figures_of_certify_are_these():
    x = nearest(X0)[0] + 1e-6
    found, own = projlab.certify(X0, x, A, B), bounds(A, B).figures(X0, x, U, None)
    assert torch.equal(found.forward_error_bound, own.upper)
    assert torch.equal(found.forward_error_at_least, own.lower)
