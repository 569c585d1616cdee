"""P(x0) is the projection, for every variant on every system of the table.

Against exact rational arithmetic, with the bounds of `tolerance.py`.
"""

import numpy as np
import pytest
import torch
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st

import projlab
from projlab import tolerance
from projlab.engine.variants import forward_error_bound
from tests.projlab import exact
from tests.projlab.systems import (
    CHOICES,
    DISJOINT_VARIANTS,
    FORMS,
    OVERLAPPING_VARIANTS,
    RUNS,
    SPARSE_BETA,
    case,
    make_case,
    refused_if,
)


@pytest.mark.parametrize(("name", "dtype", "variant"), RUNS)
def test_forward_error(name, dtype, variant):
    given = case(name, dtype)
    with refused_if(given.may_refuse(variant), variant):
        P = projlab.projector(given.A, given.b, variant)
        allowed = given.allowed(P.variant)
        assert P.rank == given.rank
        assert exact.distance(P(given.x0), given.solution) <= allowed
        assert exact.distance(P.project_(given.x0.clone()), given.solution) <= allowed


@pytest.mark.parametrize(("name", "dtype", "variant"), RUNS)
def test_feasibility(name, dtype, variant):
    """Every row is satisfied to rounding, the redundant ones too, whatever the condition."""
    given = case(name, dtype)
    bound = tolerance.feasibility_bound(u=given.u, m=given.m, n=given.n)
    with refused_if(given.may_refuse(variant), variant):
        P = projlab.projector(given.A, given.b, variant)
        x = P(given.x0)
        assert exact.feasibility(given.A, given.b, given.x0, x) <= bound
        twice = P(x)
        assert exact.feasibility(given.A, given.b, x, twice) <= bound


@pytest.mark.parametrize("variant", CHOICES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_feasible_point_stays(variant, dtype):
    given = case("disjoint rows" if variant in DISJOINT_VARIANTS else "a feasible point", dtype)
    P = projlab.projector(given.A, given.b, variant)
    x = P(given.x0)
    moved = torch.linalg.vector_norm(P(x) - x)
    bound = forward_error_bound(
        P.variant,
        u=given.u,
        m=given.m,
        n=given.n,
        condition=given.condition,
        amplification=1.0,
    )
    # x misses the set by the bound, and so does P(x)
    assert moved <= 2 * bound * given.size


@pytest.mark.parametrize("variant", CHOICES)
def test_many_points_at_once(variant):
    given = case("disjoint rows" if variant in DISJOINT_VARIANTS else "random 5 x 12")
    P = projlab.projector(given.A, given.b, variant)
    x = torch.randn(2, 3, given.n, dtype=torch.float64)
    M, b = exact.matrix(given.A), exact.vector(given.b)
    for x_k, P_k in zip(x.flatten(0, 1), P(x).flatten(0, 1), strict=True):
        x0 = exact.vector(x_k)
        solution = exact.projection(M, b, x0)
        size = exact.norm(x0) + exact.norm(exact.subtract(x0, solution))
        assert exact.distance(P_k, solution) <= given.allowed(P.variant) / given.size * size


@pytest.mark.parametrize("shape", [(0,), (1,), (0, 3), (2, 1, 3)])
@pytest.mark.parametrize("variant", CHOICES)
def test_shape_is_kept(variant, shape):
    given = case("disjoint rows" if variant in DISJOINT_VARIANTS else "random 5 x 12")
    P = projlab.projector(given.A, given.b, variant)
    x = torch.ones(*shape, given.n, dtype=torch.float64)
    assert P(x).shape == P.tangent(x).shape == P.project_(x.clone()).shape == x.shape
    assert P.multipliers(x).shape == (*shape, given.m)
    assert projlab.project(x, given.A, given.b, variant).shape == x.shape


def test_no_rows_or_rank_zero_is_the_identity():
    for name in ("no rows", "rank zero"):
        given = case(name)
        for variant in CHOICES:
            P = projlab.projector(given.A, given.b, variant)
            assert torch.equal(P(given.x0), given.x0)
            assert torch.equal(P.tangent(given.x0), given.x0)
            assert P.multipliers(given.x0).tolist() == [0.0] * given.m
            assert P.rank == 0


def test_the_result_is_new_memory():
    """Whoever writes into the result must not write into x, even where nothing is projected."""
    for name in ("no rows", "random 5 x 12"):
        given = case(name)
        x = given.x0.clone()
        projlab.projector(given.A, given.b)(x).zero_()
        projlab.project(x, given.A, given.b).zero_()
        assert torch.equal(x, given.x0)


@SPARSE_BETA
@pytest.mark.parametrize("variant", CHOICES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_A(form, variant):
    names = ["disjoint rows", "rank zero", "one row three times"]
    if variant not in DISJOINT_VARIANTS:
        names += ["random 5 x 12", "every kind of redundant row", "random 1 x 1"]
    for name in names:
        given = case(name)
        A = FORMS[form](given.A)
        P = projlab.projector(A, given.b, variant)
        allowed = given.allowed(P.variant)
        assert exact.distance(P(given.x0), given.solution) <= allowed
        x = projlab.project(given.x0, A, given.b, variant)
        assert exact.distance(x, given.solution) <= max(map(given.allowed, OVERLAPPING_VARIANTS))


# --- random structure --------------------------------------------------------------------------


@draw(st.integers(0, 2**32 - 1), st.sampled_from(["float32", "float64"]))
@settings(max_examples=80)
def test_random_structure(seed, dtype):
    """Sparse, redundant, zero and rescaled rows in any mixture; entries exact in either dtype."""
    rng = np.random.default_rng(seed)
    r, extra, n = rng.integers(1, 7), rng.integers(0, 7), rng.integers(1, 12)
    rows = rng.integers(-9, 10, (r, n)) * (rng.random((r, n)) < rng.choice([0.3, 0.7, 1.0]))
    combine = rng.integers(-2, 3, (extra, r)) * (rng.random((extra, r)) < 0.6)
    A = rng.permutation(np.concatenate([rows, combine @ rows])).astype(float)
    b = A @ rng.integers(-4, 5, n)
    units = 2.0 ** rng.integers(-30, 31, len(A))
    x0 = rng.standard_normal(n) * 10.0 ** rng.integers(-3, 4)
    given = make_case(
        f"seed {seed}",
        *(
            torch.tensor(t, dtype=getattr(torch, dtype))
            for t in (A * units[:, None], b * units, x0)
        ),
    )
    check_structure(given, [v for v in CHOICES if not given.may_refuse(v)])


def test_near_the_limit_of_its_theory_a_variant_is_right():
    """Rows at an angle of 1/64, each twice: an upper bound on kappa says that cholesky may refuse.

    It need not, by a factor of thirty in the last pivot.
    """
    rows = torch.tensor([[1.0, 0.0, 0.0, 2.0], [1.0, 0.015625, 0.0, 2.0], [0.0, 0.0, 1.0, 0.0]])
    A = torch.cat([rows, -2 * rows])
    given = make_case("near the limit", A, A.sum(1), torch.tensor([0.3, -1.7, 2.9, 0.7]))
    assert given.may_refuse("cholesky")
    check_structure(given, CHOICES)


def check_structure(given, variants):
    """Rank and verdict; the projection and the multipliers of every variant, or its refusal."""
    found = projlab.diagnose(given.A, given.b)
    assert (found.rank, found.ambiguous, found.consistent) == (given.rank, False, True)
    dropped = {c.row for c in found.redundant}
    kept = given.A[[i for i in range(given.m) if i not in dropped]]
    overlapping = bool(((kept != 0).sum(0) > 1).any())
    for variant in variants:
        if overlapping and variant in DISJOINT_VARIANTS:
            with pytest.raises(projlab.InputError, match="share column"):
                projlab.projector(given.A, given.b, variant)
            continue
        P = projlab.projector(given.A, given.b, variant)
        assert P.rank == given.rank
        assert exact.distance(P(given.x0), given.solution) <= given.allowed(P.variant)
        columns, y = exact.matrix(given.A).transpose(), exact.vector(P.multipliers(given.x0))
        lagrange = exact.subtract(exact.vector(given.x0), exact.times(columns, y))
        gap = exact.norm(exact.subtract(lagrange, given.solution))
        assert gap <= given.allowed(P.variant)
