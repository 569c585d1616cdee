"""What a Projector offers beside P(x): another b, multipliers, tangent, null space, in place."""

import math

import pytest
import torch

import projlab
from projlab import tolerance
from tests.projlab import exact
from tests.projlab.systems import (
    CHOICES,
    DISJOINT_VARIANTS,
    OVERLAPPING_VARIANTS,
    RUNS,
    case,
    refused_if,
)

INDEPENDENT = [
    "article 3: two rows",
    "random 5 x 12",
    "condition 1e4",
    "row norms 1e-8 to 1e7",
    "disjoint rows",
    "onto the origin",
]
REDUNDANT = ["every kind of redundant row", "more rows than variables", "one row three times"]


def able(variant, names):
    return [name for name in names if case(name).able(variant)]


def over_names(names):
    """(variant, name) for every choice of variant and every system that it takes."""
    return pytest.mark.parametrize(
        ("variant", "name"), [(v, name) for v in CHOICES for name in able(v, names)]
    )


def norm(v):
    return torch.linalg.vector_norm(v, dim=-1)


# --- another right-hand side -------------------------------------------------------------------


@over_names(INDEPENDENT + REDUNDANT)
def test_another_b_with_the_same_factors(variant, name):
    given = case(name)
    P = projlab.projector(given.A, given.b, variant)
    M, x0 = exact.matrix(given.A), exact.vector(given.x0)
    # consistent again: A times integers, where A itself may hold any floats, in one row only
    scaled = 3.0 * given.b
    solution = exact.projection(M, exact.vector(scaled), x0)
    size = exact.norm(x0) + exact.norm(exact.subtract(x0, solution))
    allowed = given.allowed(P.variant) / given.size * size
    for b in (scaled, scaled.tolist(), scaled.numpy()):
        assert exact.distance(P(given.x0, b), solution) <= allowed
    # and the projector's own b is untouched
    assert exact.distance(P(given.x0), given.solution) <= given.allowed(P.variant)


@over_names(["random 5 x 12", "every kind of redundant row", "disjoint rows", "rank zero"])
def test_b_per_vector_and_for_all(variant, name):
    given = case(name)
    P = projlab.projector(given.A, given.b, variant)
    x = torch.randn(2, 3, given.n, dtype=torch.float64)
    b = torch.randn(2, 3, 1, dtype=torch.float64) * given.b
    together = P(x, b)
    for i in range(2):
        for j in range(3):
            alone = P(x[i, j], b[i, j])
            size = norm(x[i, j]) + norm(x[i, j] - alone)
            assert norm(together[i, j] - alone) <= 2 * given.allowed(P.variant) / given.size * size
            size = norm(given.x0) + norm(given.x0 - P(given.x0, b[i, j]))
            gap = norm(P(given.x0, b)[i, j] - P(given.x0, b[i, j]))
            assert gap <= 2 * given.allowed(P.variant) / given.size * size
    assert P(given.x0, b).shape == (2, 3, given.n)
    size = norm(x) + norm(x - P(x))
    gap = norm(P(x, given.b) - P(x))
    assert torch.all(gap <= 2 * given.allowed(P.variant) / given.size * size)


def test_b_on_redundant_rows_is_ignored():
    A = [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    P = projlab.projector(A, [1.0, 1.0, 0.0])
    assert P(torch.zeros(2, dtype=torch.float64), [4.0, 7.0, 9.0]).tolist() == [4.0, 0.0]


# --- multipliers -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dtype", "variant"), RUNS)
def test_multipliers_give_the_projection(name, dtype, variant):
    """x - A'y = P(x), in the caller's own rows and units, with y zero on rows that were dropped."""
    given = case(name, dtype)
    with refused_if(given.may_refuse(variant), variant):
        P = projlab.projector(given.A, given.b, variant)
        y = P.multipliers(given.x0)
        assert y.dtype == given.A.dtype
        assert y.shape == (given.m,)
        columns = exact.matrix(given.A).transpose()
        x = exact.subtract(exact.vector(given.x0), exact.times(columns, exact.vector(y)))
        assert exact.norm(exact.subtract(x, given.solution)) <= given.allowed(P.variant)
        dropped = [c.row for c in projlab.diagnose(given.A, given.b).redundant]
        assert len(dropped) == given.m - given.rank
        assert y[dropped].tolist() == [0.0] * len(dropped)


@over_names(INDEPENDENT)
def test_multipliers_are_the_exact_ones(variant, name):
    given = case(name)
    P = projlab.projector(given.A, given.b, variant)
    y = P.multipliers(given.x0)
    M, b, x0 = (
        f(t)
        for f, t in zip(
            (exact.matrix, *2 * [exact.vector]), (given.A, given.b, given.x0), strict=True
        )
    )
    expected = exact.multipliers(M, b, x0)
    # E'y_E = A'y with rows of norm one: an error of the projection is magnified by 1 / sigma_min
    norms = [exact.norm(exact.vector(row)) for row in given.A]
    errors = [
        float(abs(exact.rational(v) - e) * exact.rational(size))
        for v, e, size in zip(y, expected, norms, strict=True)
    ]
    rows = given.A.double() / torch.tensor(norms, dtype=torch.float64)[:, None]
    smallest = float(torch.linalg.svdvals(rows)[-1])
    assert math.hypot(*errors) <= given.allowed(P.variant) / smallest


@over_names(["random 5 x 12", "every kind of redundant row", "disjoint rows"])
def test_multipliers_with_another_b(variant, name):
    given = case(name)
    P = projlab.projector(given.A, given.b, variant)
    b = 2.0 * given.b
    x = torch.randn(3, given.n, dtype=torch.float64)
    gap = norm(x - P.multipliers(x, b) @ given.A - P(x, b))
    assert torch.all(
        gap <= 4 * given.allowed(P.variant) / given.size * (2 * norm(x) + norm(P(x, b)))
    )


def test_multipliers_by_hand():
    """[[1, 1, 0], [0, 1, 1]] x = [1, 0.5] from the origin: [[2, 1], [1, 2]] y = -b."""
    P = projlab.projector([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]], [1.0, 0.5])
    y = P.multipliers(torch.zeros(3, dtype=torch.float64))
    assert y.tolist() == pytest.approx([-0.5, 0.0], abs=8 * 2**-53)
    # rows in other units: their multipliers in the inverse units
    P = projlab.projector([[8.0, 8.0, 0.0], [0.0, 0.125, 0.125]], [8.0, 0.0625])
    y = P.multipliers(torch.zeros(3, dtype=torch.float64))
    assert y.tolist() == pytest.approx([-0.0625, 0.0], abs=64 * 2**-53)


# --- tangent and null space --------------------------------------------------------------------


@over_names(INDEPENDENT + REDUNDANT)
def test_tangent_is_the_orthogonal_projection_onto_the_null_space(variant, name):
    given = case(name)
    P = projlab.projector(given.A, given.b, variant)
    v, w = torch.randn(2, given.n, dtype=torch.float64)
    Tv, Tw = P.tangent(v), P.tangent(w)
    # the projection of v for b = 0, exactly
    M, zero = exact.matrix(given.A), exact.vector([0.0] * given.m)
    solution = exact.projection(M, zero, exact.vector(v))
    unit = given.allowed(P.variant) / given.size
    assert exact.distance(Tv, solution) <= 2 * unit * float(norm(v))
    # A T v = 0, row by row
    zeros = torch.zeros(given.m)
    bound = tolerance.feasibility_bound(u=given.u, m=given.m, n=given.n)
    assert exact.feasibility(given.A, zeros, v, Tv) <= bound
    # T T v = T v and <w, T v> = <T w, v>
    assert norm(P.tangent(Tv) - Tv) <= 4 * unit * norm(v)
    assert abs(w @ Tv - Tw @ v) <= (4 * unit + 4 * given.n * given.u) * norm(v) * norm(w)
    # T is the derivative of P: P(x + v) - P(x) = T v
    moved = P(given.x0 + v) - P(given.x0)
    size = 4 * given.size + 4 * norm(v)
    assert norm(moved - Tv) <= unit * size


@over_names(INDEPENDENT + REDUNDANT + ["rank zero", "random 1 x 1", "random 3 x 3", "no rows"])
def test_null_space_is_an_orthonormal_basis(variant, name):
    given = case(name)
    P = projlab.projector(given.A, given.b, variant)
    Z = P.null_space()
    assert Z.shape == (given.n, given.n - given.rank)
    assert Z.dtype == torch.float64
    eye = torch.eye(Z.shape[1], dtype=torch.float64)
    # Householder's Q is orthonormal to c(n, n) u a column
    c = tolerance.dimension_factor(given.n, given.n) * given.u
    assert torch.linalg.matrix_norm(Z.mT @ Z - eye) <= c * math.sqrt(given.n)
    # and each column is annihilated as a tangent vector of norm one is
    for z in Z.mT:
        assert exact.feasibility(given.A, [0.0] * given.m, z, z) <= c


def test_null_space_of_many_columns_is_refused_before_it_is_allocated():
    A = torch.sparse_coo_tensor(
        [[0, 0], [0, 999_999]], [1.0, 1.0], (1, 1_000_000), check_invariants=True
    )
    with pytest.raises(projlab.MemoryLimitError, match=r"null-space basis needs .* bytes"):
        projlab.projector(A, 1.0).null_space()


# --- in place ----------------------------------------------------------------------------------


def _strided(n):
    return torch.randn(2 * n, dtype=torch.float64)[::2]


LAYOUTS = {
    "(n,)": lambda n: torch.randn(n, dtype=torch.float64),
    "(n,) with a stride": _strided,
    "(k, n)": lambda n: torch.randn(3, n, dtype=torch.float64),
    "(1, n)": lambda n: torch.randn(1, n, dtype=torch.float64),
    "(0, n)": lambda n: torch.randn(0, n, dtype=torch.float64),
    "(k, n), columns contiguous": lambda n: torch.randn(n, 3, dtype=torch.float64).mT,
    "(k, n), rows and columns with gaps": lambda n: torch.randn(6, 3 * n, dtype=torch.float64)[
        ::2, ::3
    ],
    "(a, b, n)": lambda n: torch.randn(2, 3, n, dtype=torch.float64),
    "(a, b, n), permuted": lambda n: torch.randn(n, 2, 3, dtype=torch.float64).permute(1, 2, 0),
    "(a, b, c, n)": lambda n: torch.randn(2, 1, 3, n, dtype=torch.float64),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@over_names(
    ["random 5 x 12", "every kind of redundant row", "disjoint rows", "random 1 x 7", "rank zero"]
)
def test_project_in_place(variant, name, layout):
    given = case(name)
    P = projlab.projector(given.A, given.b, variant)
    x = LAYOUTS[layout](given.n)
    expected, before = P(x), x.clone()
    assert P.project_(x) is x
    unit = given.allowed(P.variant) / given.size
    assert torch.all(norm(x - expected) <= 2 * unit * (2 * norm(before) + norm(expected)))


def test_project_in_place_writes_nothing_beside_x():
    P = projlab.projector([[1.0, 1.0, 1.0]], [3.0])
    buffer = torch.zeros(4, 6, dtype=torch.float64)
    P.project_(buffer[1:3, ::2])
    expected = torch.zeros(4, 6, dtype=torch.float64)
    expected[1:3, ::2] = 1.0
    assert torch.allclose(buffer, expected, rtol=0, atol=8 * 2**-53)
    assert torch.equal(buffer == 0, expected == 0)


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_project_in_place_of_a_parameter_records_no_graph(variant):
    given = case("random 5 x 12")
    P = projlab.projector(given.A, given.b, variant)
    weight = torch.nn.Parameter(given.x0.clone())
    version = weight._version
    assert P.project_(weight) is weight
    assert weight.is_leaf
    assert weight.requires_grad
    assert weight.grad_fn is None
    assert weight._version > version, "autograd must notice that the value changed"
    assert exact.distance(weight.detach(), given.solution) <= given.allowed(P.variant)


@pytest.mark.parametrize("x_dtype", [torch.float16, torch.float32])
def test_project_in_place_of_a_parameter_in_another_dtype(x_dtype):
    P = projlab.projector(torch.ones(1, 4, dtype=torch.float64), [2.0])
    weight = torch.nn.Parameter(torch.zeros(4, dtype=x_dtype))
    assert P.project_(weight) is weight
    assert weight.dtype == x_dtype
    assert weight.tolist() == [0.5] * 4
    assert weight.is_leaf


# --- NaN, and what is constant -----------------------------------------------------------------


@pytest.mark.parametrize("variant", CHOICES)
def test_nan_goes_through_a_projector(variant):
    """It never looks at values, which would need the host; the other vectors are not touched."""
    given = case("disjoint rows" if variant in DISJOINT_VARIANTS else "random 5 x 12")
    P = projlab.projector(given.A, given.b, variant)
    x = torch.randn(2, given.n, dtype=torch.float64)
    touched = int(given.A[0].nonzero()[0])
    x[1, touched] = math.nan
    for result in (P(x), P.project_(x.clone()), P.multipliers(x)):
        assert result[1].isnan().any()
        assert not result[0].isnan().any()
    assert P(torch.full((given.n,), math.inf, dtype=torch.float64)).isnan().any()


def test_the_caller_may_change_A_and_b_afterwards():
    A, b = torch.eye(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    array = A.numpy().copy()
    P, Q = projlab.projector(A, b), projlab.projector(array, b)
    A.fill_(7.0)
    b.fill_(9.0)
    array[:] = 7.0
    zero = torch.zeros(2, dtype=torch.float64)
    assert P(zero).tolist() == Q(zero).tolist() == [1.0, 0.0]
    assert P.state_dict()["A"].tolist() == [[1.0, 0.0]]
