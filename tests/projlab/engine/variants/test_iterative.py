"""Projections by iteration: right to what is asked for, or refused with what was reached."""

import copy
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator, splu
from torch.autograd import gradcheck, gradgradcheck

import projlab
from projlab import (
    AccuracyError,
    InconsistentError,
    InputError,
    MemoryLimitError,
    projector,
    tolerance,
)
from projlab.engine import iterated, sparse
from projlab.engine.variants import forward_error_bound, iterative
from projlab.numerics import lsqr, memory
from tests.projlab.systems import prescribed_spectrum

F64 = torch.float64


def tensor_operator(A):
    class Products:
        shape = tuple(A.shape)

        def matvec(self, x):
            return A.to(x.dtype) @ x

        def rmatvec(self, y):
            return A.to(y.dtype).T @ y

    return Products()


FORMS = {
    "operator": lambda A: aslinearoperator(A.numpy()),
    "tensors": tensor_operator,
    "sparse": lambda A: A.to_sparse(),
    "dense": lambda A: A,
}


def problem(m=30, n=80, condition=1e3, seed=0):
    rng = np.random.default_rng(seed)
    A = torch.from_numpy(prescribed_spectrum(m, n, condition, seed))
    x, x0 = (torch.from_numpy(rng.standard_normal(n)) for _ in range(2))
    return A, A @ x, x0


def close(found, wanted, A, x0, condition, u=2**-53):
    m, n = A.shape
    size = torch.linalg.vector_norm(wanted, dim=-1)
    moved = torch.linalg.vector_norm(x0 - wanted, dim=-1) + torch.linalg.vector_norm(x0, dim=-1)
    bound = forward_error_bound(
        "iterative", u=u, m=m, n=n, condition=condition, amplification=float((moved / size).max())
    )
    assert (torch.linalg.vector_norm(found - wanted, dim=-1) <= 2 * bound * size).all()


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e5, 1e7])
@pytest.mark.parametrize("form", FORMS)
def test_errs_like_qr(form, condition):
    A, b, x0 = problem(condition=condition)
    P = projector(FORMS[form](A), b, "iterative")
    Q = projector(A, b, "qr")
    for x in (x0, torch.randn(4, 80, dtype=F64), torch.randn(2, 3, 80, dtype=F64)):
        close(P(x), Q(x), A, x, Q.condition)
    assert (P.variant, P.rank) == ("iterative", 30)
    if form != "dense":
        assert "random vector took" in P.reason
        assert "MB" in P.reason


@pytest.mark.parametrize("form", FORMS)
def test_float32(form):
    A, b, x0 = problem(condition=10.0)
    A, b = A.float(), b.float()
    Q = projector(A, b, "qr")
    x = projector(FORMS[form](A), b, "iterative")(x0.float())
    assert x.dtype is torch.float32
    close(x, Q(x0.float()), A, x0.float(), 10.0, u=2**-24)


@pytest.mark.parametrize("form", FORMS)
def test_redundant_rows_and_what_contradicts(form):
    A, b, x0 = problem()
    more, right = (
        torch.cat([A, A[:2], A[3:4] - 2 * A[4:5]]),
        torch.cat([b, b[:2], b[3:4] - 2 * b[4:5]]),
    )
    close(projector(FORMS[form](more), right, "iterative")(x0), projector(A, b)(x0), A, x0, 1e3)
    right[-1] += 1e-4
    with pytest.raises(InconsistentError, match="row 32"):
        projector(FORMS[form](more), right, "iterative")


def test_names_of_rows_are_in_the_message():
    A = aslinearoperator(np.array([[1.0, 1, 0], [0, 1, 1], [1, 2, 1]]))
    constraint = projlab.AffineConstraint(A, [1.0, 1.0, 3.0], names=["first", "second", "sum"])
    with pytest.raises(InconsistentError, match="sum"):
        projector(constraint)


def test_zero_right_side_and_no_row():
    A, _, x0 = problem()
    close(projector(aslinearoperator(A.numpy()), 0.0)(x0), projector(A, 0.0)(x0), A, x0, 1e3)
    assert torch.equal(projector(aslinearoperator(np.zeros((0, 80))), [])(x0), x0)
    nothing = projector(aslinearoperator(np.zeros((2, 80))), 0.0)
    assert torch.equal(nothing(x0), x0)


@pytest.mark.parametrize("accuracy", [1e-2, 1e-6, 1e-10])
def test_accuracy_is_the_forward_error(accuracy):
    A, b, _ = problem(m=60, n=200, condition=300.0)
    P, Q = (projector(aslinearoperator(A.numpy()), b, accuracy=a) for a in (accuracy, None))
    x0 = torch.randn(20, 200, dtype=F64)
    wanted = projector(A, b, "qr")(x0)
    scale = torch.maximum(*(torch.linalg.vector_norm(t, dim=-1) for t in (x0, wanted)))
    assert (torch.linalg.vector_norm(P(x0) - wanted, dim=-1) <= accuracy * scale).all()
    zero = torch.zeros(200, dtype=F64)
    nearest = projector(A, b, "qr")(zero)
    assert torch.linalg.vector_norm(P(zero) - nearest) <= accuracy * torch.linalg.vector_norm(
        nearest
    )
    assert P._solver.factor.taken < Q._solver.factor.taken


def bidiagonal(m):
    return scipy.sparse.diags_array(
        [[-1.0] * m, [1.0] * m], offsets=[0, 1], shape=(m, m + 1)
    ).tocsr()


def test_not_reached_says_what_was(monkeypatch):
    monkeypatch.setattr(projlab.tolerance, "ORTHOGONAL", 10)
    monkeypatch.setattr(projlab.tolerance, "STEPS", 50)
    with pytest.raises(AccuracyError, match=r"in \d+ steps; the estimated forward error reached"):
        projector(bidiagonal(500), 0.0, "iterative")
    with pytest.raises(AccuracyError, match="at condition number"):
        projector(aslinearoperator(problem()[0].numpy()), 0.0, accuracy=1e-15)


def test_a_right_side_without_solution_is_not_projected_onto():
    A, b, x0 = problem()
    P = projector(aslinearoperator(torch.cat([A, A[:1]]).numpy()), torch.cat([b, b[:1]]))
    b[0] += 1
    with pytest.raises(AccuracyError, match="no x satisfies"):
        P(x0, torch.cat([b, b[:1] - 1]))
    with pytest.raises(InputError, match="not found independent"):
        P.rank  # noqa: B018  # asked for


@pytest.mark.parametrize("kind", ["function of arrays", "function of tensors", "operator"])
def test_preconditioner(kind):
    A, b, x0 = problem(condition=1e4)
    A = A * torch.logspace(-5, 5, 30, dtype=F64).unsqueeze(-1)
    b = b * torch.logspace(-5, 5, 30, dtype=F64)
    E = A / torch.linalg.vector_norm(A, dim=-1, keepdim=True)
    inverse = torch.linalg.inv(E @ E.T + 1e-7 * torch.eye(30, dtype=F64))
    inverse = inverse / torch.outer(*[torch.linalg.vector_norm(A, dim=-1)] * 2)
    inverse = (inverse + inverse.T) / 2
    M = {
        "function of arrays": lambda r: inverse.numpy().dot(np.asarray(r)),
        "function of tensors": lambda r: inverse.to(r.dtype) @ r,
        "operator": aslinearoperator(inverse.numpy()),
    }[kind]
    for form in FORMS.values():
        P = projector(form(A), b, preconditioner=M)
        close(P(x0), projector(A, b, "qr")(x0), A, x0, 1e5)
        assert P._solver.factor.taken < 30


def test_a_factor_of_a_shifted_gram_matrix_as_preconditioner():
    A = bidiagonal(20_000)
    inverse = splu((A @ A.T + 1e-9 * scipy.sparse.eye_array(20_000)).tocsc())
    P = projector(A, 0.0, "iterative", preconditioner=inverse.solve)
    x0 = torch.randn(20_001, dtype=F64)
    assert torch.allclose(P(x0), x0.mean().expand_as(x0), atol=1e-12)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"preconditioner": 3.0}, "must be a function"),
        ({"preconditioner": lambda r: -r}, "not positive definite"),
        ({"preconditioner": lambda r: r.roll(1)}, "not symmetric"),
        ({"preconditioner": lambda r: r[:3]}, "returned shape"),
        ({"preconditioner": lambda r: r, "variant": "qr"}, "has no use"),
        ({"preconditioner": lambda r: r, "rank": "exact"}, "rank='exact'"),
    ],
)
def test_preconditioners_are_tried(keywords, message):
    A, b, _ = problem()
    with pytest.raises(InputError, match=message):
        projector(A, b, **keywords)


def test_derivatives_in_x_and_b():
    A, b, _ = problem(m=3, n=6, condition=5.0)
    P = projector(tensor_operator(A), b)
    for shape in ((6,), (2, 6)):
        x, right = torch.randn(shape, dtype=F64, requires_grad=True), b.clone().requires_grad_()
        for f in (P, P.multipliers):
            assert gradcheck(f, (x, right))
            assert gradgradcheck(f, (x, right), fast_mode=True)
        assert gradcheck(lambda x: projlab.project(x, tensor_operator(A), b), (x,))
    X = torch.randn(5, 6, dtype=F64)
    assert torch.allclose(torch.vmap(P)(X), P(X), atol=1e-14)
    assert torch.allclose(
        torch.func.jacrev(P)(X[0]), projector(A, b).tangent(torch.eye(6, dtype=F64))
    )


def test_derivatives_in_b_need_independent_rows():
    A, b, x0 = problem()
    P = projector(aslinearoperator(torch.cat([A, A[:1]]).numpy()), torch.cat([b, b[:1]]))
    with pytest.raises(InputError, match="a derivative in b"):
        P(x0, torch.cat([b, b[:1]]).requires_grad_())


def test_nan_goes_through_where_it_is():
    A, b, x0 = problem()
    P = projector(aslinearoperator(A.numpy()), b)
    X = torch.stack([x0, x0])
    X[0, 3] = torch.nan
    assert P(X)[0].isnan().all()
    assert torch.allclose(P(X)[1], P(x0))
    assert P(x0, torch.full_like(b, torch.nan)).isnan().all()


def test_a_projector_of_an_operator_as_a_module():
    A, b, x0 = problem()
    P = projector(tensor_operator(A), b)
    assert list(P.state_dict()) == ["b"]
    assert P.A.shape == (30, 0)
    twice = projector(A, 2 * b)(x0)
    Q = copy.deepcopy(P)
    assert torch.equal(Q(x0), P(x0))
    Q.load_state_dict({"b": 2 * b})
    close(Q(x0), twice, A, x0, 1e3)
    P.b.mul_(2)
    close(P(x0), twice, A, x0, 1e3)
    with pytest.raises(RuntimeError, match="Unexpected"):
        P.load_state_dict({"A": A, "b": b})
    before = P(x0)
    with pytest.raises(InputError, match="cannot move it"):
        P.to("meta")
    assert torch.equal(P(x0), before)
    assert P.to(torch.float32)(x0.float()).dtype is torch.float32
    y = x0.clone()
    assert projector(tensor_operator(A), b).project_(y) is y
    close(y, projector(A, b)(x0), A, x0, 1e3)


def test_multipliers_are_in_the_rows_own_units():
    A, b, x0 = problem(condition=10.0)
    A, b = 1e3 * A, 1e3 * b
    P = projector(aslinearoperator(A.numpy()), b)
    assert torch.allclose(x0 - P.multipliers(x0) @ A, P(x0))


def test_compiled_programs_leave_it_out_and_exported_ones_refuse():
    A, b, x0 = problem()
    P = projector(aslinearoperator(A.numpy()), b)
    assert torch.equal(torch.compile(P, backend="eager")(x0), P(x0))
    with pytest.raises(Exception, match="no exported program can"):
        torch.export.export(P, (x0,), strict=False)


def test_vectors_are_taken_in_parts_where_memory_is_short(monkeypatch):
    A, b, _ = problem()
    P = projector(aslinearoperator(A.numpy()), b)
    X, B = torch.randn(7, 80, dtype=F64), torch.randn(7, 30, dtype=F64)
    whole, sides = P(X), P(X, B)
    each = iterative.vector_bytes(30, 80, F64)
    monkeypatch.setattr(memory, "limit", lambda _: 3 * each)
    assert torch.allclose(P(X), whole)
    assert torch.allclose(P(X, B), sides)
    monkeypatch.setattr(memory, "limit", lambda _: each - 1)
    with pytest.raises(MemoryLimitError, match="the vectors of one iteration"):
        projector(aslinearoperator(A.numpy()), b)


def test_progress_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(iterative, "SAY", 0.0)
    A, b, _ = problem()
    with caplog.at_level(logging.INFO, "projlab.iterative"):
        projector(aslinearoperator(A.numpy()), b)
    assert "step 1 of at most" in caplog.text


def test_auto_takes_it_for_sparse_rows_that_fit_no_factor(monkeypatch):
    A = scipy.sparse.random_array((40, 90), density=0.2, rng=np.random.default_rng(1))
    wanted = projector(A, 1.0)
    x0 = torch.randn(90, dtype=F64)
    monkeypatch.setattr(memory, "limit", lambda _: 8 * 3 * 40 * 90)

    def fills(*_):
        raise projlab.MemoryLimitError("a sparse factor")

    monkeypatch.setattr(sparse, "solver", fills)
    P = projector(A, 1.0)
    assert P.variant == "iterative"
    assert "no dense factorisation" in P.reason
    assert torch.allclose(P(x0), wanted(x0))
    assert P.rank == 40


def test_a_hundred_thousand_columns():
    """Judged by the true residual, and by the part of x - x0 outside of the row space."""
    rng = np.random.default_rng(2)
    m, n, each = 30_000, 100_000, 8
    where = np.repeat(np.arange(m), each), rng.integers(0, n, m * each)
    scale = np.exp(rng.standard_normal(m * each))
    A = scipy.sparse.csr_array((rng.standard_normal(m * each) * scale, where), shape=(m, n))
    b = A @ rng.standard_normal(n)
    P = projector(A, b, "iterative")
    x0 = torch.from_numpy(rng.standard_normal((2, n)))
    x = P(x0)
    size = abs(A) @ np.abs(x.numpy().T) + np.abs(b)[:, None]
    assert (np.abs(A @ x.numpy().T - b[:, None]) <= 1e-13 * (size + np.linalg.norm(x[0]))).all()
    back = x0 - P.multipliers(x0) @ P.constraint.A
    assert torch.linalg.vector_norm(back - x) <= 1e-13 * torch.linalg.vector_norm(x)


def test_dense_rows_that_are_not_asked_for_by_name_are_not_iterated_on():
    A, b, _ = problem()
    assert projector(A, b).variant != "iterative"
    options = iterated.Options(variant="iterative")
    assert not iterated.by_iteration(projlab.AffineConstraint(A, b), options)


# ---- what an iteration is told to do, by itself


def at(taken, left, largest=1.0):
    one = torch.ones((), dtype=F64)
    return lsqr.Steps(taken, left * one, one > 0, largest * one)


def test_progress_is_said_every_few_seconds(monkeypatch, caplog):
    clock = iter([100.0, 104.9, 105.0, 107.0, 109.9, 110.5])
    monkeypatch.setattr(iterative.time, "monotonic", lambda: next(clock))
    progress = iterative.Progress(50)
    with caplog.at_level(logging.INFO, "projlab.iterative"):
        assert [progress(at(k, 0.25)) for k in range(6)] == [False] * 6
    assert [record.getMessage() for record in caplog.records] == [
        "step 2 of at most 50 after 5 s: the residual is 0.25",
        "step 5 of at most 50 after 10 s: the residual is 0.25",
    ]


@pytest.mark.parametrize("accuracy", [None, 1e-2])
def test_a_first_run_ends_once_it_is_as_accurate_as_asked_for(accuracy):
    class Coefficients:
        looks = 0

        def extremes(self):
            self.looks += 1
            return torch.tensor(4.0, dtype=F64), torch.tensor(5.0, dtype=F64)

    seen, start = Coefficients(), torch.tensor(3.0, dtype=F64)
    enough = iterative._Enough(accuracy, start, seen, iterative.Progress(99))
    # the error is left / (half of 4 times 3), and half of what is asked for is wanted
    below, above = 0.03 * (1 - 1e-12), 0.03 * (1 + 1e-12)
    assert not enough(at(7, 0.0))  # too early to tell
    assert seen.looks == 0
    assert not enough(at(20, above))
    assert enough(at(21, 0.0)) is False  # not looked at again before a tenth more
    assert enough(at(22, below)) == (accuracy is not None)
    assert seen.looks == (0 if accuracy is None else 2)


def test_an_accuracy_that_rounding_spoils_is_refused_from_where_it_does():
    A, b, _ = problem(condition=1e3)
    factor = projector(aslinearoperator(A.numpy()), b)._solver.factor
    condition = float(factor.largest / factor.smallest)
    least = 2 * tolerance.backward_stable_growth(condition, 2.0**-53)
    replace(factor, accuracy=least * (1 + 1e-12)).require_reachable(2.0**-53)
    replace(factor, accuracy=None).require_reachable(2.0**-53)
    said = re.escape(f"about {least:.2g} at condition number {condition:.2g}")
    with pytest.raises(AccuracyError, match=said):
        replace(factor, accuracy=least * (1 - 1e-12)).require_reachable(2.0**-53)


def test_memory_of_a_vector():
    m = tolerance.ORTHOGONAL
    assert iterative.vector_bytes(m, 10, F64) == 8 * (50 + 8 * m + 2 * m * m)
    assert iterative.vector_bytes(m + 1, 10, torch.float32) == 4 * (50 + 8 * (m + 1))


def test_steps_are_limited_by_rows_or_by_what_a_random_vector_took():
    A, b, _ = problem()
    factor = projector(aslinearoperator(A.numpy()), b)._solver.factor
    assert 0 < factor.taken <= 3 * 30
    assert factor.limit == min(
        tolerance.AGAIN * factor.taken + iterative.LOOK,
        tolerance.FINITE_STEPS * 30 + iterative.LOOK,
    )
    # what is counted on is at most the smallest there is, and the largest is met
    true = torch.linalg.svdvals(A / torch.linalg.vector_norm(A, dim=-1, keepdim=True))
    operator = projector(A, b, "iterative")._solver.factor
    assert 0.25 * true[-1] <= operator.smallest <= true[-1]
    assert 0.5 * true[0] <= operator.largest <= 2 * true[0]


def test_residuals_are_measured_by_the_preconditioner():
    A, b, _ = problem()
    A = A * torch.logspace(-2, 2, 30, dtype=F64).unsqueeze(-1)
    factor = projector(A, b, "iterative")._solver.factor
    rows = factor.products.rows.to_dense() if factor.products.rows is not None else None
    r = torch.randn(3, 30, dtype=F64)
    assert rows is not None
    inverse = 1 / rows.square().sum(-1)
    torch.testing.assert_close(factor.precondition(r), r * inverse)
    torch.testing.assert_close(factor.measure(r), (r.square() * inverse).sum(-1).sqrt())
    plain = replace(factor, inverse_norm2=None)
    torch.testing.assert_close(plain.measure(r), torch.linalg.vector_norm(r, dim=-1))
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    for accuracy in (None, 1e-3):
        wanted, allowed = replace(factor, accuracy=accuracy)._limits(scale, F64)
        if accuracy is not None:
            torch.testing.assert_close(wanted, 1e-3 * factor.smallest * scale)
            assert torch.equal(wanted, allowed)
        else:
            floor = tolerance.iterated_floor(2.0**-53) * factor.rough * scale
            torch.testing.assert_close(wanted, floor)
            most = tolerance.iterated_most(80, max(2.0**-53, factor.data)) * factor.rough * scale
            torch.testing.assert_close(allowed, most + 2 * factor.left)


def test_the_error_where_an_iteration_is_cut_short_is_bounded_by_what_is_said():
    """||E^+ r|| is between ||r|| / sigma_max and ||r|| / sigma_min."""
    A, b, x0 = problem(condition=50.0)
    wanted = projector(A, b, "qr")(x0)
    solver = projector(aslinearoperator(A.numpy()), b)._solver
    factor = replace(solver.factor, limit=8)
    end = factor.iterated(x0, solver.c)
    assert not end.reached
    scale = torch.maximum(torch.linalg.vector_norm(x0), torch.linalg.vector_norm(end.x))
    true = torch.linalg.vector_norm(end.x - wanted) / scale
    assert true <= end.error <= true * factor.largest / factor.smallest * 2
    torch.testing.assert_close(end.off, torch.linalg.vector_norm(end.r))
    torch.testing.assert_close(end.error, end.off / (factor.smallest * scale))
    with pytest.raises(AccuracyError, match=re.escape(f"reached is {float(end.error):.2g}.")):
        factor.solved(x0, solver.c)
