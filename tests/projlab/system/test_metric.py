"""Projection in a metric W: oblique, with the KKT system's exact solution as the reference."""

import math

import pytest
import torch
from flint import fmpq_mat

import projlab
from projlab import tolerance
from projlab.engine.variants import forward_error_bound
from tests.projlab import exact
from tests.projlab.systems import (
    CHOICES,
    DISJOINT_VARIANTS,
    OVERLAPPING_VARIANTS,
    case,
    condition_number,
)

F64 = torch.float64
METRICS = ("diagonal", "dense")
RUNS = [
    pytest.param(name, variant, kind, id=f"{variant}-{kind}-{name}")
    for name in (
        "article 2: [1, -2] x = 0",
        "article 3: two rows",
        "random 5 x 12",
        "random 3 x 3",
        "every kind of redundant row",
        "disjoint rows",
        "one row three times",
        "more rows than variables",
        "row norms 1e-8 to 1e7",
        "rank zero",
        "no rows",
    )
    for kind in METRICS
    for variant in CHOICES
    if case(name).able(variant) and (kind == "diagonal" or variant not in DISJOINT_VARIANTS)
]


def weights(kind, n):
    """A diagonal (n,), or a symmetric positive definite matrix; entries without rounding."""
    if kind == "diagonal":
        return torch.randint(1, 9, (n,)).to(F64) / 4
    M = torch.randint(-2, 3, (n, n)).to(F64)
    return M @ M.mT + 2 * torch.eye(n, dtype=F64)


def full(W):
    return torch.diag(W) if W.dim() == 1 else W


def norm_in(W: fmpq_mat, v):
    return exact.root(sum(p * q for p, q in zip(v, exact.times(W, v), strict=True)))


def bound(given, W, variant, u=None):
    """Relative to the sizes in W: the error of an orthogonal projection in the variables L'x.

    Rows A L^-T and vectors L'x come out of triangular solves and products with L, which magnify
    rounding by the condition number of L (ASNA, theorem 8.10).
    """
    L = torch.linalg.cholesky(full(W))
    kappa_L = float(torch.linalg.cond(L))
    rows = torch.linalg.solve_triangular(L, given.A.mT, upper=False).mT
    return kappa_L * forward_error_bound(
        variant,
        u=given.u if u is None else u,
        m=max(given.m, given.n),
        n=given.n,
        condition=condition_number(rows.numpy(), given.rank) if given.m else 1.0,
        amplification=1.0,
    )


@pytest.mark.parametrize(("name", "variant", "kind"), RUNS)
def test_forward_error_and_multipliers(name, variant, kind):
    given = case(name)
    W = weights(kind, given.n)
    M, b, x0 = exact.matrix(given.A), exact.vector(given.b), exact.vector(given.x0)
    Wq = exact.matrix(full(W))
    solution = exact.projection(M, b, x0, Wq)
    P = projlab.projector(given.A, given.b, variant, metric=W)
    size = norm_in(Wq, x0) + norm_in(Wq, exact.subtract(x0, solution))
    allowed = bound(given, W, P.variant) * size

    results = (P(given.x0), P.project_(given.x0.clone()), P(given.x0, given.b))
    for x in results:
        assert norm_in(Wq, exact.subtract(exact.vector(x), solution)) <= allowed
    one_off = projlab.project(given.x0, given.A, given.b, variant, metric=W)
    laxest = max(bound(given, W, v) for v in OVERLAPPING_VARIANTS) * size
    assert norm_in(Wq, exact.subtract(exact.vector(one_off), solution)) <= laxest

    # x0 - W^-1 A'y is the projection, in the caller's rows and units
    y = exact.vector(P.multipliers(given.x0))
    step = exact.solve(Wq, exact.times(M.transpose(), y))
    lagrange = exact.subtract(x0, step)
    assert norm_in(Wq, exact.subtract(lagrange, solution)) <= allowed


@pytest.mark.parametrize(("name", "variant", "kind"), RUNS)
def test_tangent_is_self_adjoint_in_the_metric(name, variant, kind):
    given = case(name)
    W = weights(kind, given.n)
    P = projlab.projector(given.A, given.b, variant, metric=W)
    v, w = torch.randn(2, given.n, dtype=F64)
    Tv, Tw = P.tangent(v), P.tangent(w)
    Wf, unit = full(W), bound(given, W, P.variant)
    size_v, size_w = (float(torch.sqrt(t @ Wf @ t)) for t in (v, w))
    rounding = given.n**2 * 2**-53 * float(torch.linalg.cond(Wf))
    assert abs(w @ Wf @ Tv - Tw @ Wf @ v) <= (4 * unit + rounding) * size_v * size_w
    gap = P.tangent(Tv) - Tv
    assert torch.sqrt(gap @ Wf @ gap) <= 4 * unit * size_v
    # orthogonal to v - Tv in W, which is what makes Tv the nearest
    assert abs((v - Tv) @ Wf @ Tv) <= (4 * unit + rounding) * size_v**2


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("name", ["random 5 x 12", "every kind of redundant row", "disjoint rows"])
def test_null_space_does_not_depend_on_the_metric(name, kind):
    """The null space is of A, and its basis orthonormal, whatever the metric."""
    given = case(name)
    W = weights(kind, given.n)
    Z = projlab.projector(given.A, given.b, metric=W).null_space()
    assert Z.shape == (given.n, given.n - given.rank)
    c = tolerance.dimension_factor(given.n, given.n) * 2**-53 * float(torch.linalg.cond(full(W)))
    assert torch.linalg.matrix_norm(Z.mT @ Z - torch.eye(Z.shape[1], dtype=F64)) <= c * given.n
    for z in Z.mT:
        assert exact.feasibility(given.A, [0.0] * given.m, z, z) <= c


def test_it_is_not_the_orthogonal_projection():
    """[1, 1] x = 2 from the origin: in W = diag(1, 3) the step is shared as 3 to 1."""
    for W in ([1.0, 3.0], [[1.0, 0.0], [0.0, 3.0]]):
        x = projlab.project(torch.zeros(2, dtype=F64), [1.0, 1.0], 2.0, metric=W)
        assert x.tolist() == pytest.approx([1.5, 0.5], rel=8 * 2**-53)


@pytest.mark.parametrize("kind", METRICS)
def test_rank_and_verdict_do_not_depend_on_the_metric(kind):
    """Stretching the space by 3e7 makes rows nearly parallel, but no less independent."""
    A = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]], dtype=F64)
    W = torch.tensor([1e-8, 1e7, 1.0], dtype=F64)
    W = W if kind == "diagonal" else torch.diag(W)
    assert projlab.projector(A, [1.0, 2.0, 2.0], "pinv", metric=W).rank == 2
    with pytest.raises(projlab.InconsistentError, match="row 2"):
        projlab.projector(A, [1.0, 2.0, 3.0], metric=W)
    with pytest.raises(projlab.RankDeficientError, match="row 2 = row 1"):
        projlab.projector(A, [1.0, 2.0, 2.0], metric=W, on_redundant="raise")


@pytest.mark.parametrize("variant", CHOICES)
def test_a_uniform_metric_is_none(variant):
    given = case("disjoint rows" if variant in DISJOINT_VARIANTS else "random 5 x 12")
    plain = projlab.projector(given.A, given.b, variant)
    # powers of four have exact square roots, which change no bit
    uniform = projlab.projector(given.A, given.b, variant, metric=torch.full((given.n,), 4.0**30))
    gap = torch.linalg.vector_norm(plain(given.x0) - uniform(given.x0))
    assert gap <= 2 * given.allowed(plain.variant)
    assert uniform.condition == pytest.approx(plain.condition, rel=1e-12)


@pytest.mark.parametrize("W_dtype", [torch.float32, torch.float64])
def test_the_metric_does_not_choose_the_dtype(W_dtype):
    given = case("random 5 x 12", "float32")
    W = weights("dense", given.n).to(W_dtype)
    assert projlab.project(given.x0, given.A, given.b, metric=W).dtype == torch.float32
    assert projlab.project(given.x0.double(), given.A, given.b, metric=W).dtype == F64


@pytest.mark.parametrize(
    ("variant", "kind"),
    [(v, k) for v in CHOICES for k in METRICS if k == "diagonal" or v not in DISJOINT_VARIANTS],
)
def test_batched_with_one_metric(variant, kind):
    A = torch.randn(3, 2, 6, dtype=F64)
    A[1, 1] = 0.0 if variant in DISJOINT_VARIANTS else 2 * A[1, 0]
    if variant in DISJOINT_VARIANTS:
        A[:, 0, 3:] = 0.0
        A[:, 1, :3] = 0.0
    b = (A @ torch.ones(6, dtype=F64)).round(decimals=20)
    b[1, 1] = 0.0 if variant in DISJOINT_VARIANTS else 2 * b[1, 0]
    W, x = weights(kind, 6), torch.randn(3, 4, 6, dtype=F64)
    P = projlab.projector(A, b, variant, metric=W)
    y = P.multipliers(x)
    for i in range(3):
        alone = projlab.projector(A[i], b[i], variant, metric=W)
        size = torch.linalg.vector_norm(x[i]) + torch.linalg.vector_norm(x[i] - alone(x[i]))
        condition = float(alone.condition) * float(torch.linalg.cond(full(W)))
        allowed = (
            2
            * size
            * forward_error_bound(
                P.variant, u=2**-53, m=6, n=6, condition=condition, amplification=1.0
            )
        )
        assert torch.linalg.vector_norm(P(x)[i] - alone(x[i])) <= allowed
        step = torch.linalg.solve(full(W), (y[i] @ A[i]).mT).mT
        assert torch.linalg.vector_norm(x[i] - step - P(x)[i]) <= allowed
    assert P.rank.tolist() == [2, 1, 2]


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("variant", DISJOINT_VARIANTS)
def test_a_dense_metric_makes_disjoint_rows_share_columns(variant, batch):
    A = torch.eye(2, 6, dtype=F64).expand(*batch, 2, 6)
    with pytest.raises(projlab.InputError, match=f"variant='{variant}' takes a diagonal metric"):
        projlab.projector(A, 1.0, variant, metric=weights("dense", 6))


def test_sparse_rows_in_a_diagonal_metric():
    A = torch.eye(2, 5, dtype=F64).to_sparse_coo()
    P = projlab.projector(A, [1.0, 2.0], metric=[1.0, 2.0, 3.0, 4.0, 5.0])
    assert P.variant in DISJOINT_VARIANTS
    x = P(torch.full((5,), 9.0, dtype=F64))
    assert x.tolist() == pytest.approx([1.0, 2.0, 9.0, 9.0, 9.0], rel=64 * 2**-53)


def test_least_squares_in_a_metric():
    """Nearest in W among the least-squares solutions, which are W's no concern."""
    P = projlab.projector(
        [[1.0, 1.0], [1.0, 1.0]], [1.0, 3.0], metric=[1.0, 3.0], on_inconsistent="least_squares"
    )
    assert P(torch.zeros(2, dtype=F64)).tolist() == pytest.approx([1.5, 0.5], rel=32 * 2**-53)


def test_a_metric_symmetric_up_to_rounding_is_symmetric():
    """M M' as torch computes it need not be symmetric to the last bit."""
    M = torch.randn(9, 9, dtype=F64)
    W = M @ M.mT
    i, j = 1, 0
    W[i, j] = W[j, i] * (1 + 2**-52)
    given = case("random 1 x 7")
    P = projlab.projector(torch.cat([given.A, torch.ones(1, 2)], 1), given.b, metric=W)
    assert math.isfinite(P.condition)
