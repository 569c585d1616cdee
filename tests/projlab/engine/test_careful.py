"""Setting up by decision, for least squares: {x : A'A x = A'b}, the rows as they were given."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st

import projlab
from projlab.engine.variants import forward_error_bound
from tests.projlab import exact
from tests.projlab.systems import (
    CHOICES,
    DISJOINT_VARIANTS,
    OVERLAPPING_VARIANTS,
    condition_number,
)

F64 = torch.float64
EPS = 2.0**-52


def zeros(n):
    return torch.zeros(n, dtype=F64)


INCONSISTENT = {
    "two readings of one sum": ([[1, 1], [1, 1]], [1, 3]),
    "a zero row": ([[1, 2, 0], [0, 0, 0]], [1, 5]),
    "only a zero row": ([[0, 0, 0]], [5]),
    "a line through three points": ([[1, 0], [1, 1], [1, 2]], [0, 1, 3]),
    "rows in different units": (
        [[1, 1, 0], [1000, 1000, 0], [0, 1, 1], [1, 2, 1]],
        [1, 1100, 4, 4],
    ),
    "a tiny row first": ([[1e-9], [1]], [1, 1]),
    "one column": ([[1 / 32], [-32], [-1 / 64], [-1 / 8]], [-3, 9, 4, -3]),
    "rank two of five": ([[1, 2, 3], [2, 4, 6], [1, 0, 1], [0, 2, 2], [0, 0, 0]], [1, 1, 1, 1, 1]),
}


def check_least_squares(A, b, x0, variant, built_with=None):
    """Against the point of {x : A'A x = A'b} nearest to x0, with the rows as they were given.

    Returns whether the system is inconsistent. The projector is built with another b on request.
    """
    own = b if built_with is None else built_with
    P = projlab.projector(A, own, variant, on_inconsistent="least_squares")
    M, right, point = exact.matrix(A), exact.vector(b), exact.vector(x0)
    solution = exact.projection(M, right, point)
    # the reference itself: A'(A x - b) = 0
    residual = exact.subtract(exact.times(M, solution), right)
    assert not any(exact.times(M.transpose(), residual))
    rank = exact.rank(M)
    assert P.rank == rank
    # the range is found from equilibrated rows, and used in the rows as given: kappa of both
    # enter; and kappa squared times the residual (Wedin's theorem, ASNA 20.1)
    sigma = torch.linalg.svdvals(A)
    unscaled = float(sigma[0] / sigma[rank - 1]) if rank else 1.0
    kappa = unscaled * condition_number(A.numpy(), rank)
    size = exact.norm(point) + exact.norm(exact.subtract(point, solution))
    if rank:
        size += (unscaled + 1) * exact.norm(residual) / float(sigma[0])
    allowed = size * forward_error_bound(
        P.variant, u=EPS / 2, m=len(A), n=A.shape[1], condition=kappa, amplification=1.0
    )
    results = [P(x0, b), projlab.project(x0, A, b, variant, on_inconsistent="least_squares")]
    if built_with is None:
        results += [P(x0), P.project_(x0.clone())]
    for x in results:
        assert exact.distance(x, solution) <= allowed
    # x0 - A'y is the projection
    y = exact.times(M.transpose(), exact.vector(P.multipliers(x0, b)))
    assert exact.norm(exact.subtract(exact.subtract(point, y), solution)) <= allowed
    return any(residual)


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
@pytest.mark.parametrize("name", INCONSISTENT)
def test_least_squares_against_the_exact_normal_equations(name, variant):
    A, b = (torch.tensor(t, dtype=F64) for t in INCONSISTENT[name])
    with pytest.raises(projlab.InconsistentError, match="has no solution"):
        projlab.projector(A, b, variant)
    assert check_least_squares(A, b, torch.randn(A.shape[1], dtype=F64), variant)


def test_least_squares_of_rows_whose_sizes_hide_each_other_is_refused():
    """In each of 64 bits the largest row is all that there is of the range."""
    rows = [[8e62, 0, 0, 0], [5e48, 0, 0, 0], [0, 2.0**15, 0, -(2.0**14)], [5e36, 2.5e36, 0, 0]]
    A = torch.tensor([*rows, [0, 0, 0, -(2.0**-32)]], dtype=F64)
    b = A @ torch.tensor([-2.0, 3, 0, -2], dtype=F64)
    with pytest.raises(projlab.AccuracyError, match="differ so much in size"):
        projlab.projector(A, b, on_inconsistent="least_squares")
    x = torch.randn(4, dtype=F64)
    assert projlab.certify(x, projlab.projector(A, b)(x), A, b).verdict == "certified"
    # rows that meet no others, too, where they are not taken apart
    A = torch.tensor([[1e40, 0, 0], [1e40, 0, 0], [0, 1e-40, 0], [0, 1e-40, 0]], dtype=F64)
    b = torch.tensor([1e40, 3e40, 1e-40, -3e-40], dtype=F64)
    with pytest.raises(projlab.AccuracyError, match="differ so much in size"):
        projlab.projector(A, b, on_inconsistent="least_squares")


@draw(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_least_squares_of_random_systems(seed):
    """Rows that are redundant in any mixture, in units that differ by 2^-20 to 2^20."""
    rng = np.random.default_rng(seed)
    r, extra, n = rng.integers(1, 5), rng.integers(1, 5), rng.integers(1, 8)
    rows = rng.integers(-9, 10, (r, n)) * (rng.random((r, n)) < rng.choice([0.4, 1.0]))
    A = rng.permutation(np.concatenate([rows, rng.integers(-2, 3, (extra, r)) @ rows])).astype(
        float
    )
    A = torch.tensor(A * 2.0 ** rng.integers(-20, 21, len(A))[:, None])
    b = torch.tensor(rng.integers(-9, 10, len(A)).astype(float))
    x0 = torch.tensor(rng.standard_normal(n))
    inconsistent = check_least_squares(A, b, x0, "qr")
    refused = pytest.raises(projlab.InconsistentError, match="has no solution")
    with refused if inconsistent else nullcontext():
        projlab.projector(A, b)


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_least_squares_of_another_b(variant):
    """Consistent with the b it was built with, not so with the next: to the same digits."""
    A = torch.tensor([[1e-9, 0.0], [1.0, 0.0], [3.0, 1.0]], dtype=F64)
    b = torch.tensor([1.0, 1.0, 0.5], dtype=F64)
    assert check_least_squares(A, b, zeros(2), variant, built_with=A.sum(1))
    assert not check_least_squares(A, A.sum(1), zeros(2), variant, built_with=b)


def test_least_squares_depends_on_the_scaling_of_rows():
    """x = 1 and x = 3 meet at 2; with the second row ten times as heavy, at 301/101."""
    P = projlab.projector([[1.0], [1.0]], [1.0, 3.0], on_inconsistent="least_squares")
    assert P(zeros(1)).item() == pytest.approx(2.0, rel=8 * EPS)
    P = projlab.projector([[1.0], [10.0]], [1.0, 30.0], on_inconsistent="least_squares")
    assert P(zeros(1)).item() == pytest.approx(301 / 101, rel=8 * EPS)


@pytest.mark.parametrize("variant", CHOICES)
def test_least_squares_of_a_consistent_system_is_the_projection(variant):
    A = torch.tensor([[1.0, 2.0, 0.0, 0.0], [2.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]], dtype=F64)
    b, x0 = torch.tensor([1.0, 2.0, 3.0], dtype=F64), torch.randn(4, dtype=F64)
    plain = projlab.projector(A, b, variant)
    least = projlab.projector(A, b, variant, on_inconsistent="least_squares")
    size = float(x0.norm() + (x0 - plain(x0)).norm())
    kappa = max(float(plain.condition), condition_number(A.numpy(), 2)) * 5  # unscaled rows
    allowed = (
        2
        * size
        * forward_error_bound(
            plain.variant, u=EPS / 2, m=3, n=4, condition=kappa, amplification=1.0
        )
    )
    assert (plain(x0) - least(x0)).norm() <= allowed
    assert least.rank == 2


@pytest.mark.parametrize("variant", DISJOINT_VARIANTS)
def test_least_squares_by_rows_without_a_matrix(variant):
    """Redundant rows of one kind, and disjoint rows: nothing here needs a Gram matrix."""
    P = projlab.projector(
        [[1.0, 1.0], [1.0, 1.0]], [1.0, 3.0], variant, on_inconsistent="least_squares"
    )
    assert P(zeros(2)).tolist() == pytest.approx([1.0, 1.0], rel=8 * EPS)
    assert math.isclose(P.condition, 1.0)
