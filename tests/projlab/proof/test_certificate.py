"""`certify` against exact rational arithmetic: its bounds bound, and are worth something."""

import math
import warnings
from dataclasses import replace

import pytest
import scipy.sparse
import torch
from torch import Tensor

import projlab
from projlab import certify, tolerance
from tests.projlab import exact
from tests.projlab.blocks import block_system
from tests.projlab.systems import (
    CASES,
    OVERLAPPING_VARIANTS,
    RUNS,
    Case,
    case,
    make_case,
    refused_if,
)

F64 = torch.float64
SLACK = 1 + 1e-9  # of the norms that this test itself rounds


def true_error(x: Tensor, example: Case) -> float:
    """||x - x*|| / ||x*||, relative to ||x0|| where x* = 0."""
    size = exact.norm(example.solution) or exact.norm(exact.vector(example.x0)) or 1.0
    return exact.distance(x, example.solution) / size


def check(x: Tensor, example: Case, accuracy: float | None = None) -> projlab.Certificate:
    """Certify, and hold the promise against the exact answer."""
    found = certify(example.x0, x, example.A, example.b, accuracy)
    error = true_error(x, example)
    assert error <= found.forward_error_bound * SLACK
    assert found.forward_error_at_least <= error * SLACK
    if found.verdict == "certified":
        assert error <= found.accuracy * SLACK
        assert found.forward_error_bound <= 100 * error + 10 * tolerance.unit_roundoff(F64)
    if found.verdict == "failed":
        assert error * SLACK > found.accuracy
    return found


@pytest.mark.parametrize(("name", "dtype", "variant"), RUNS)
def test_what_the_variants_compute_is_certified(name, dtype, variant):
    example = case(name, dtype)
    with refused_if(example.may_refuse(variant), variant):
        x = projlab.project(example.x0, example.A, example.b, variant)
        assert check(x, example).verdict == "certified"


@pytest.mark.parametrize(("name", "dtype"), CASES)
@pytest.mark.parametrize("size", [1e-14, 1e-9, 1e-3, 1.0])
def test_perturbed_answers_are_bounded_from_both_sides(name, dtype, size):
    example = case(name, dtype)
    x = projlab.project(example.x0, example.A, example.b)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, dtype=F64, generator=generator)
    scale = float(example.x0.double().abs().max()) or 1.0
    found = check((x.double() + size * scale * noise).to(x.dtype), example)
    if size == 1.0:
        assert found.verdict == "failed"


@pytest.mark.parametrize("condition", [f"condition 1e{k}" for k in (2, 4, 6, 8)])
def test_a_feasible_point_that_is_not_nearest_fails(condition):
    example = case(condition)
    P = projlab.projector(example.A, example.b)
    direction = P.tangent(torch.ones(example.n, dtype=F64))
    x = P(example.x0 + 1e-3 * direction)
    found = check(x, example)
    assert found.feasibility <= tolerance.feasibility_bound(u=example.u, m=example.m, n=example.n)
    assert found.verdict == "failed"


def test_the_nearest_point_of_another_set_fails():
    example = case("random 5 x 12")
    x = projlab.project(example.x0, example.A, example.b + 1e-6)
    found = check(x, example)
    assert found.stationarity <= 1e-14
    assert found.verdict == "failed"


def test_the_accuracy_asked_for_decides():
    example = case("condition 1e8")
    x = projlab.project(example.x0, example.A, example.b, "qr")
    error = true_error(x, example)
    assert check(x, example, 2 * error).verdict == "certified"
    assert check(x, example, error / 2).verdict == "failed"


def test_a_rank_too_close_to_call_is_not_certified():
    A = torch.tensor([[1.0, 0.0], [1.0, 3e-16]], dtype=F64)
    x0 = torch.tensor([1.0, 2.0], dtype=F64)
    found = certify(x0, x0, A, [1.0, 1.0])
    assert projlab.diagnose(A, [1.0, 1.0]).ambiguous
    assert found.verdict != "certified"
    assert "ambiguous" in found.reason


def test_x_that_is_not_finite_fails():
    example = case("random 5 x 12")
    x = torch.full((12,), math.nan, dtype=F64)
    found = certify(example.x0, x, example.A, example.b)
    assert (found.verdict, found.forward_error_bound) == ("failed", math.inf)


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_many_points_and_batches_are_bounded_one_by_one(variant):
    A = torch.stack([case("random 5 x 12").A, case("random 5 x 12").A.flip(0) * 3])
    b = torch.stack([case("random 5 x 12").b, torch.ones(5, dtype=F64)])
    x0 = torch.randn(2, 3, 12, dtype=F64, generator=torch.Generator().manual_seed(1))
    P = projlab.projector(A, b, variant)
    x = P(x0)
    x[1, 2, 0] += 1e-5
    found = P.certify(x0, x)
    assert found.forward_error_bound.shape == (2, 3)
    assert found.verdict == "failed"
    for i in range(2):
        for k in range(3):
            one = make_case("one", A[i], b[i], x0[i, k])
            error = true_error(x[i, k], one)
            assert error <= found.forward_error_bound[i, k] * SLACK
            assert found.forward_error_bound[i, k] <= 100 * error + 10 * one.u
    assert P.certify(x0[:1].expand(2, 3, 12), P(x0[:1].expand(2, 3, 12))).verdict == "certified"


@pytest.mark.parametrize("dense", [False, True])
def test_in_a_metric_the_error_is_the_metric_s(dense):
    example = case("random 5 x 12")
    generator = torch.Generator().manual_seed(2)
    if dense:
        M = torch.randn(12, 12, dtype=F64, generator=generator)
        W = M @ M.mT + torch.eye(12, dtype=F64)
        W = (W + W.mT) / 2
    else:
        W = torch.rand(12, dtype=F64, generator=generator) + 0.1
    full = W if dense else torch.diag(W)
    exact_W = exact.matrix(full)
    answer = exact.projection(
        exact.matrix(example.A), exact.vector(example.b), exact.vector(example.x0), exact_W
    )

    def norm(v):
        return exact.root(sum(p * q for p, q in zip(v, exact.times(exact_W, v), strict=True)))

    P = projlab.projector(example.A, example.b, metric=W)
    x = P(example.x0)
    for point in (x, x + 1e-9, projlab.project(example.x0, example.A, example.b)):
        found = P.certify(example.x0, point)
        error = norm(exact.subtract(exact.vector(point), answer)) / norm(answer)
        assert error <= found.forward_error_bound * (1 + 1e-6)
        assert found.forward_error_at_least <= error * (1 + 1e-6)
        assert found.verdict == ("certified" if point is x else "failed")


def test_sparse_rows_are_certified_as_dense_ones():
    example = case("every kind of redundant row")
    x = projlab.project(example.x0, example.A, example.b)
    dense = certify(example.x0, x, example.A, example.b)
    sparse = certify(example.x0, x, example.A.to_sparse_coo(), example.b)
    assert sparse.verdict == dense.verdict == "certified"
    assert sparse.forward_error_bound == pytest.approx(dense.forward_error_bound, rel=1e-9)


def test_inconsistent_systems_are_refused_or_judged_in_least_squares():
    A = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, -1.0]], dtype=F64)
    b = torch.tensor([1.0, 3.0, 0.0], dtype=F64)
    x0 = torch.tensor([5.0, -2.0], dtype=F64)
    with pytest.raises(projlab.InconsistentError, match="row 1 = row 0"):
        certify(x0, x0, A, b)
    right = torch.tensor([1.0, 1.0], dtype=F64)
    assert certify(x0, right, A, b, on_inconsistent="least_squares").verdict == "certified"
    assert certify(x0, right + 1e-8, A, b, on_inconsistent="least_squares").verdict == "failed"


def test_a_float32_answer_is_held_to_float32():
    example = case("random 30 x 100")
    x = projlab.project(example.x0.float(), example.A, example.b)
    found = certify(example.x0.float(), x, example.A, example.b)
    assert found.verdict == "certified"
    assert 1e-9 < found.forward_error_bound < 1e-5


def test_from_the_origin_to_a_set_through_it_nothing_but_zero_is_right():
    x0, A, b = torch.zeros(3, dtype=F64), torch.tensor([[1.0, 1.0, 0.0]], dtype=F64), torch.zeros(1)
    assert certify(x0, x0, A, b).verdict == "certified"
    for wrong in ([1.0, -1.0, 0.0], [1e-300, 0.0, 0.0]):
        found = certify(x0, torch.tensor(wrong, dtype=F64), A, b)
        assert found.verdict == "failed"
        assert found.accuracy == 0


@pytest.mark.parametrize("length", [1e-20, 1e-25, 1e-28, 1e-40])
@pytest.mark.parametrize("off", [1e-6, 1e-18, 1e-35])
def test_an_answer_far_from_a_tiny_one_is_not_certified(length, off):
    """x* is (1, 1, 1) times the length, far below the rounding of x0; x is `off` from it."""
    A = torch.eye(3, dtype=F64) + 0.5
    b = A @ torch.full((3,), length, dtype=F64)
    x0 = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    wrong = torch.full((3,), length + off, dtype=F64)
    proof = certify(x0, wrong, A, b, accuracy=1e-3)
    error = (length + off - length) / length
    assert proof.verdict != "certified" or error <= 1e-3
    assert proof.forward_error_at_least <= error <= proof.forward_error_bound
    if off == 1e-6:
        assert proof.verdict == "failed"


@pytest.mark.parametrize("metric", [None, [1.0, 2.0, 2.0]])
def test_how_far_x_is_does_not_decide_on_what_scale_it_is_judged(metric):
    """x* is about 1e-25 (1, -1, 1), on a set through the origin: b does not tell that from 0."""
    A = torch.tensor([[1.0, 1, 0], [0, 1, 1]], dtype=F64)
    x0 = torch.tensor([1e-25, 1.0, 1.0], dtype=F64)
    for size in (1e-6, 1e-24, 1e-30):
        x = torch.full((3,), size, dtype=F64)
        proof = certify(x0, x, A, 0.0, accuracy=1e-3, metric=metric and torch.tensor(metric))
        assert proof.verdict == "failed"


def test_vectors_of_a_network_are_certified():
    """Points and answers that require grad, and are projected with a graph."""
    A, b = torch.randn(2, 5, dtype=F64), torch.randn(2, dtype=F64)
    x = torch.randn(3, 5, dtype=F64, requires_grad=True)
    for rows in (A, A.to_sparse()):
        P = projlab.projector(rows, b)
        for proof in (certify(x, P(x), rows, b), P.certify(x, P(x)), P.certify(x.detach(), P(x))):
            assert proof.verdict == "certified"
            assert not proof.forward_error_bound.requires_grad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Q = projlab.projector(A, b, lb=-9.0)
        assert Q.certify(x, Q(x)).verdict == "certified"


def test_a_verdict_is_not_a_truth_value():
    example = case("random 1 x 7")
    x = projlab.project(example.x0, example.A, example.b)
    with pytest.raises(TypeError, match="verdict"):
        bool(certify(example.x0, x, example.A, example.b))


# --- independent blocks, each certified by itself ------------------------------------------------

BLOCKS = ("full", "redundant", "disjoint")


def block_case(kind: str) -> Case:
    return make_case(kind, *block_system(kind))


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("size", [0.0, 1e-14, 1e-9, 1e-3, 1.0])
def test_blocks_are_bounded_from_both_sides(kind, size):
    example = block_case(kind)
    sparse = replace(example, A=example.A.to_sparse_coo())
    x = projlab.project(example.x0, example.A, example.b)
    noise = torch.randn(x.shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = check(x + size * noise, sparse)
    assert found.verdict == {0.0: "certified", 1.0: "failed"}.get(size, found.verdict)
    dense = certify(example.x0, x + size * noise, example.A, example.b)
    assert found.verdict == dense.verdict
    assert found.feasibility == pytest.approx(dense.feasibility, rel=1e-9)
    assert found.accuracy == pytest.approx(dense.accuracy, rel=1e-9)


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_feasible_point_of_blocks_that_is_not_nearest_fails(kind):
    example = block_case(kind)
    P = projlab.projector(example.A, example.b)
    x = P(example.x0 + 1e-3 * P.tangent(torch.ones(example.n, dtype=F64)))
    found = check(x, replace(example, A=example.A.to_sparse_coo()))
    assert found.feasibility <= 1e-14
    assert found.verdict == "failed"


def test_many_points_of_blocks_are_bounded_one_by_one():
    example = block_case("redundant")
    noise = torch.randn(2, 2, example.n, dtype=F64, generator=torch.Generator().manual_seed(3))
    x0 = example.x0 + noise
    x = projlab.project(x0, example.A, example.b)
    x[1, 1, 4] += 1e-6
    found = certify(x0, x, example.A.to_sparse_coo(), example.b)
    assert found.verdict == "failed"
    for at in ((0, 0), (0, 1), (1, 0), (1, 1)):
        error = true_error(x[at], make_case("one", example.A, example.b, x0[at]))
        assert found.forward_error_at_least[at] <= error * SLACK
        assert error <= found.forward_error_bound[at] * SLACK
        assert found.forward_error_bound[at] <= 100 * error + 10 * example.u


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_in_a_metric(kind):
    example = block_case(kind)
    weights = torch.rand(example.n, dtype=F64, generator=torch.Generator().manual_seed(4)) + 0.1
    W = exact.matrix(torch.diag(weights))
    answer = exact.projection(
        exact.matrix(example.A), exact.vector(example.b), exact.vector(example.x0), W
    )
    root = weights.sqrt()
    x = projlab.project(example.x0, example.A, example.b, metric=weights)
    for point in (x, x + 1e-9, projlab.project(example.x0, example.A, example.b)):
        found = certify(example.x0, point, example.A.to_sparse_coo(), example.b, metric=weights)
        off = torch.tensor(
            [float(v) for v in exact.subtract(exact.vector(point), answer)], dtype=F64
        )
        size = torch.tensor([float(v) for v in answer], dtype=F64)
        error = float(torch.linalg.vector_norm(root * off) / torch.linalg.vector_norm(root * size))
        assert error <= found.forward_error_bound * SLACK
        assert found.forward_error_at_least <= error * SLACK
        assert found.verdict == ("certified" if point is x else "failed")
        assert found.forward_error_bound <= 100 * error + 10 * example.u


def test_blocks_that_contradict_themselves_are_judged_in_least_squares():
    A, b, x0 = block_system("redundant")
    b[[row.row for row in projlab.diagnose(A, b).redundant[::3]]] += 1.0
    answer = exact.projection(exact.matrix(A), exact.vector(b), exact.vector(x0))
    sparse = A.to_sparse_coo()
    with pytest.raises(projlab.InconsistentError):
        certify(x0, x0, sparse, b)
    x = projlab.project(x0, A, b, on_inconsistent="least_squares")
    for point, verdict in ((x, "certified"), (x + 1e-8, "failed")):
        found = certify(x0, point, sparse, b, 1e-12, on_inconsistent="least_squares")
        error = exact.distance(point, answer) / exact.norm(answer)
        assert found.forward_error_at_least <= error * SLACK
        assert error <= found.forward_error_bound * SLACK
        assert found.verdict == verdict


def test_one_wrong_block_of_thousands_is_found():
    count = 5_000
    A = scipy.sparse.kron(scipy.sparse.eye_array(count), [[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    generator = torch.Generator().manual_seed(5)
    x0 = torch.randn(3 * count, dtype=F64, generator=generator)
    b = torch.randn(2 * count, dtype=F64, generator=generator)
    x = projlab.project(x0, A, b)
    assert certify(x0, x, A, b).verdict == "certified"
    x[9_000:9_003] += 1e-9 * torch.tensor([2.0, -1.0, 1.0], dtype=F64)  # along the null space
    found = certify(x0, x, A, b)
    off = 1e-9 * 6**0.5 / float(torch.linalg.vector_norm(x))
    assert found.verdict == "failed"
    # x + 1e-9 is itself rounded, at 1e-7 of what is added
    assert found.forward_error_at_least == pytest.approx(off, rel=1e-6)
    assert found.forward_error_bound == pytest.approx(off, rel=1e-6)


def test_disjoint_rows_of_any_length_are_certified_without_a_dense_matrix():
    """Dense, 20,000 rows in 50,000 variables would be refused for their size."""
    m, n = 20_000, 50_000
    generator = torch.Generator().manual_seed(6)
    values = torch.randn(n, dtype=F64, generator=generator)
    i = torch.randint(m, (n,), generator=generator).sort().values
    A = scipy.sparse.csr_array((values.numpy(), (i.numpy(), range(n))), (m, n))
    x0 = torch.randn(n, dtype=F64, generator=generator)
    b = torch.from_numpy(A @ x0.flip(0).numpy())
    x = projlab.project(x0, A, b)
    assert certify(x0, x, A, b).verdict == "certified"
    assert certify(x0, x0, A, b).verdict == "failed"
    assert projlab.diagnose(A, b).rank == len(i.unique())
