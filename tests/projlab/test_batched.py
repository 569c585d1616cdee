"""Batched A (B, m, n) does what a loop over its systems does, whatever their ranks and patterns."""

import pytest
import torch

import projlab
from projlab import tolerance
from tests.projlab import exact
from tests.projlab.systems import CHOICES, DISJOINT_VARIANTS, OVERLAPPING_VARIANTS, make_case

F64 = torch.float64


def _independent():
    return torch.randn(4, 3, 7, dtype=F64), torch.randn(4, 3, dtype=F64)


def _different_ranks():
    """Ranks 3, 2, 1, 0 and 2, each element dropping other rows."""
    A = torch.randint(-5, 6, (5, 3, 7)).to(F64)
    A[1, 2] = A[1, 0] - A[1, 1]
    A[2, 0] = 0.0
    A[2, 1] = -2 * A[2, 2]
    A[3] = 0.0
    A[4, 1] = 4 * A[4, 0]
    b = A @ torch.randint(-3, 4, (7,)).to(F64)
    return A, b


def _more_rows_than_variables():
    rows = torch.randint(-5, 6, (3, 2, 4)).to(F64)
    A = torch.randint(-2, 3, (3, 6, 2)).to(F64) @ rows
    return A, A @ torch.randint(-3, 4, (4,)).to(F64)


def _disjoint_same_pattern():
    A = torch.randn(3, 2, 6, dtype=F64) * torch.tensor([[1, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0]])
    return A, torch.randn(3, 2, dtype=F64)


def _disjoint_different_patterns():
    """Within an element rows share no column; from element to element their columns move."""
    A = torch.zeros(3, 3, 8, dtype=F64)
    for i in range(3):
        order = torch.randperm(8)
        A[i, 0, order[:3]] = torch.randn(3, dtype=F64)
        A[i, 1, order[3]] = 2.0
        A[i, 2, order[4 : 5 + i]] = torch.randn(1 + i, dtype=F64)
    return A, torch.randn(3, 3, dtype=F64)


def _disjoint_different_ranks():
    A, b = _disjoint_different_patterns()
    A[0, 1] = b[0, 1] = 0.0
    A[2, :2] = b[2, :2] = 0.0
    return A, b


def _one_row():
    return torch.randn(3, 1, 5, dtype=F64), torch.randn(3, 1, dtype=F64)


def _one_row_or_none():
    A, b = _one_row()
    A[1] = b[1] = 0.0
    return A, b


def _one_system():
    return torch.randn(1, 3, 7, dtype=F64), torch.randn(1, 3, dtype=F64)


def _norms_apart():
    A, b = _independent()
    factors = 10.0 ** torch.tensor([[-100, 0, 100], [7, -7, 0], [0, 0, 0], [100, 100, 100]]).to(F64)
    return A * factors[..., None], b * factors


def _no_rows():
    return torch.zeros(3, 0, 5, dtype=F64), torch.zeros(3, 0, dtype=F64)


BATCHES = {
    # name: (builder, do rows of one element share columns?)
    "independent rows": (_independent, "overlapping"),
    "different ranks": (_different_ranks, "overlapping"),
    "more rows than variables": (_more_rows_than_variables, "overlapping"),
    "norms 1e-100 to 1e100": (_norms_apart, "overlapping"),
    "disjoint, one pattern": (_disjoint_same_pattern, "disjoint"),
    "disjoint, patterns that differ": (_disjoint_different_patterns, "disjoint"),
    "disjoint, ranks that differ": (_disjoint_different_ranks, "disjoint"),
    "one row": (_one_row, "disjoint"),
    "one row, or none": (_one_row_or_none, "disjoint"),
    "one system": (_one_system, "overlapping"),
    "no rows": (_no_rows, "disjoint"),
}

RUNS = [
    pytest.param(name, variant, id=f"{variant}-{name}")
    for name, (_, rows) in BATCHES.items()
    for variant in CHOICES
    if rows == "disjoint" or variant not in DISJOINT_VARIANTS
]


def batch(name, k=None):
    """A, b, x (B, n) or (B, k, n), and the exact case of each element."""
    A, b = BATCHES[name][0]()
    x = torch.randn(len(A), k or 1, A.shape[-1], dtype=F64)
    given = [[make_case(f"{name} {i}", A[i], b[i], x_ij) for x_ij in x[i]] for i in range(len(A))]
    return A, b, x if k else x.squeeze(1), given


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_each_element_is_the_exact_projection(name, variant, k):
    A, b, x, given = batch(name, k)
    P = projlab.projector(A, b, variant)
    results = {
        "P(x)": P(x),
        "P(x, b)": P(x, b),
        "in place": P.project_(x.clone()),
        "one-off": projlab.project(x, A, b, variant),
    }
    for label, result in results.items():
        assert result.shape == x.shape, label
        for element, cases in zip(result.reshape(len(A), k or 1, -1), given, strict=True):
            for computed, one in zip(element, cases, strict=True):
                allowed = max(one.allowed(v) for v in {P.variant, *OVERLAPPING_VARIANTS})
                assert exact.distance(computed, one.solution) <= allowed, label


@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_rank_and_condition_per_element(name, variant):
    A, b, _, given = batch(name)
    P = projlab.projector(A, b, variant)
    assert P.rank.tolist() == [one[0].rank for one in given]
    alone = [projlab.projector(A[i], b[i], variant) for i in range(len(A))]
    assert P.condition.tolist() == pytest.approx([Q.condition for Q in alone], rel=1e-12)
    assert P.condition.dtype == F64


@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_operators_are_those_of_each_element(name, variant):
    A, b, x, given = batch(name, 2)
    P = projlab.projector(A, b, variant)
    y, v, again = P.multipliers(x), P.tangent(x), P.multipliers(x, b)
    assert y.shape == (*x.shape[:-1], A.shape[1])
    for i, cases in enumerate(given):
        alone = projlab.projector(A[i], b[i], variant)
        columns = exact.matrix(A[i]).transpose()
        for j, one in enumerate(cases):
            allowed = one.allowed(P.variant)
            point = exact.vector(x[i, j])
            for found in (y[i, j], again[i, j]):
                lagrange = exact.subtract(point, exact.times(columns, exact.vector(found)))
                assert exact.norm(exact.subtract(lagrange, one.solution)) <= allowed
            gap = torch.linalg.vector_norm(v[i, j] - alone.tangent(x[i, j]))
            assert gap <= 2 * allowed / one.size * 2 * exact.norm(point)
        # a row that is dropped has no multiplier, though other elements keep it
        zero = (alone.multipliers(x[i]) == 0).all(0)
        assert torch.equal((y[i] == 0).all(0), zero)
        assert int((~zero).sum()) == cases[0].rank


@pytest.mark.parametrize("variant", CHOICES)
def test_null_space_per_element(variant):
    A, b, _, _ = batch(
        "disjoint, one pattern" if variant in DISJOINT_VARIANTS else "independent rows"
    )
    Z = projlab.projector(A, b, variant).null_space()
    m, n = A.shape[1:]
    assert Z.shape == (len(A), n, n - m)
    c = tolerance.dimension_factor(n, n) * 2**-53
    norms = torch.linalg.vector_norm(A, dim=-1, keepdim=True)
    assert (A / norms @ Z).abs().max() <= 2 * c
    assert (Z.mT @ Z - torch.eye(n - m, dtype=F64)).abs().max() <= c


def test_null_space_of_different_ranks_has_no_common_shape():
    A, b = _different_ranks()
    with pytest.raises(projlab.InputError, match="ranks from 0 to 3"):
        projlab.projector(A, b).null_space()


def test_b_for_all_or_for_each():
    A = torch.randn(4, 3, 7, dtype=F64)
    b, x = torch.randn(3, dtype=F64), torch.randn(4, 2, 7, dtype=F64)
    shared = projlab.projector(A, b)
    each = projlab.projector(A, b.expand(4, 3))
    assert torch.equal(shared(x), each(x))
    other = torch.randn(4, 3, dtype=F64)
    bound = 1e-12
    for i in range(4):
        alone = projlab.projector(A[i], other[i])
        assert (shared(x, other)[i] - alone(x[i])).abs().max() <= bound
        assert (shared(x[:, 0], other)[i] - alone(x[i, 0])).abs().max() <= bound
        assert (shared(x, b)[i] - projlab.projector(A[i], b)(x[i])).abs().max() <= bound
    per_vector = torch.randn(4, 2, 3, dtype=F64)
    assert (shared(x, per_vector)[1, 1] - shared(x, per_vector[:, 1])[1, 1]).abs().max() <= bound
    assert projlab.projector(A, 2.0)(x).shape == x.shape


def test_more_than_one_leading_dimension():
    A, b = _different_ranks()
    P = projlab.projector(A, b)
    x = torch.randn(5, 2, 3, 7, dtype=F64)
    flat = P(x.reshape(5, 6, 7)).reshape(x.shape)
    assert torch.equal(P(x), flat)
    assert (P.project_(x.clone()) - flat).abs().max() <= 1e-13
    assert P.multipliers(x).shape == (5, 2, 3, 3)
    assert P(torch.zeros(5, 0, 7, dtype=F64)).shape == (5, 0, 7)
    assert P.project_(torch.zeros(5, 0, 7, dtype=F64)).shape == (5, 0, 7)


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_in_place_with_strides(variant):
    A, b, _, _ = batch("different ranks")
    P = projlab.projector(A, b, variant)
    x = torch.randn(7, 2, 5, dtype=F64).permute(2, 1, 0)
    expected = P(x)
    assert P.project_(x) is x
    assert (x - expected).abs().max() <= 1e-13


def test_the_message_names_the_element():
    A = torch.ones(3, 2, 4, dtype=F64)
    b = torch.ones(3, 2, dtype=F64)
    b[1, 1] = 2.0
    with pytest.raises(projlab.InconsistentError, match=r"system 1 of the batch.*row 1 = row 0"):
        projlab.projector(A, b)


def test_least_squares_per_element():
    A = torch.ones(3, 2, 4, dtype=F64)
    b = torch.tensor([[1.0, 1.0], [1.0, 3.0], [5.0, -1.0]], dtype=F64)
    P = projlab.projector(A, b, on_inconsistent="least_squares")
    means = P(torch.zeros(3, 4, dtype=F64)).sum(-1)
    assert means.tolist() == pytest.approx([1.0, 2.0, 2.0], rel=1e-14)
