"""The one-off projection by a Gram matrix: what its inverse proves, and what it is left out for."""

import pytest
import torch
from torch.autograd.gradcheck import GradcheckError, gradcheck

import projlab
from projlab import tolerance
from projlab.engine import gram
from projlab.engine.gram import factored
from tests.projlab import exact
from tests.projlab.systems import make_case, prescribed_spectrum

F64 = torch.float64
U = 2.0**-53


def rows(condition, m=5, n=12):
    return torch.from_numpy(prescribed_spectrum(m, n, condition))


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_one_pass_leaves_no_more_than_is_stated(condition):
    A = rows(condition)
    gram, _ = factored(A, U)
    assert (gram.S @ A @ A.mT @ gram.S.mT - torch.eye(5)).abs().max() <= gram.left
    x, y = torch.randn(12, dtype=F64), torch.randn(5, dtype=F64)
    b = A @ x
    away = x + A.mT @ y
    once = away - A.mT @ (gram.S.mT @ (gram.S @ (A @ away - b)))
    distance = torch.linalg.vector_norm(A.mT @ y)
    assert torch.linalg.vector_norm(once - x) <= gram.left * distance + 20 * U * away.norm()


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_corrections_bring_it_down_to_rounding(condition):
    A, b, x0 = rows(condition), torch.randn(5, dtype=F64), torch.randn(12, dtype=F64)
    given = make_case("rows", A, b, x0)
    gram, _ = factored(A, U)
    x, y = gram.solve(x0, b, want_multipliers=True)
    assert exact.distance(x, given.solution) <= given.allowed("qr")
    lagrange = exact.times(exact.matrix(A).transpose(), exact.vector(y))
    gap = exact.subtract(exact.subtract(exact.vector(x0), lagrange), given.solution)
    assert exact.norm(gap) <= given.allowed("qr")


def test_what_is_not_proven_is_left_to_others():
    A = rows(1.0)
    for other in (
        rows(1e9),
        A[[0, 1, 2, 3, 3]],
        A * 1e200,
        A * torch.tensor([[0.0], [1.0]] * 2 + [[1.0]]),
    ):
        assert factored(other, U) == (None, None)


def test_of_a_batch_it_says_which_are_proven():
    gram, proven = factored(torch.stack([rows(1.0), rows(1e9), rows(1e2)]), U)
    assert gram is None
    assert proven.tolist() == [True, False, True]
    gram, proven = factored(torch.stack([rows(1.0), rows(1e2)]), U)
    assert gram.S.shape == (2, 5, 5)
    assert proven is None


def test_the_limit_leaves_the_rank_beyond_doubt():
    for data, work in ((U, U), (2.0**-24, U), (2.0**-24, 2.0**-24)):
        kappa = tolerance.gram_condition2_limit(5, 12, data=data, work=work) ** 0.5
        proven = tolerance.PROVEN * tolerance.rank_cutoff(5, 12, data)
        assert 1 / kappa >= proven * (1 - 1e-12)  # kappa is rounded
        left = tolerance.gram_contraction(5, 12, kappa**2, work)
        assert left**tolerance.CORRECTIONS <= work * (1 + 1e-9)


def gradients_of(A, b, x):
    leaves = [t.clone().requires_grad_() for t in (x, A, b)]
    return gradcheck(projlab.project, leaves)


def test_backward_uses_the_factor_of_its_own_forward(monkeypatch):
    """And a factor of another system there, the one kept from before, is seen."""
    systems = [(rows(3.0), torch.randn(5, dtype=F64), torch.randn(12, dtype=F64)) for _ in range(2)]
    assert all(gradients_of(*system) for system in systems)
    honest, first = gram.solved, []

    def stale(own, x, b, *, want_multipliers):
        first.append(own)
        backward = b is None
        return honest(first[0] if backward else own, x, b, want_multipliers=want_multipliers)

    monkeypatch.setattr(gram, "solved", stale)
    assert gradients_of(*systems[0])
    with pytest.raises(GradcheckError):
        gradients_of(*(t.clone() for t in (-systems[1][0].roll(1, -1), *systems[1][1:])))


@pytest.mark.parametrize("wanted", ["x", "b", "both"])
@pytest.mark.parametrize("rows", ["one", "some", "batch"])
def test_rows_that_change_before_the_gradient_is_asked_for_are_told(rows, wanted):
    """As of any saved tensor: the factor is that of the rows as they were."""
    A = torch.tensor([[1.0, 1, 0], [0, 1, 1]], dtype=F64)
    A = {"one": A[0], "some": A, "batch": A.expand(4, 2, 3).clone()}[rows]
    x = torch.randn(*A.shape[:-2], 3, dtype=F64, requires_grad=wanted != "b")
    b = torch.zeros(A.shape[:-1] or (), dtype=F64, requires_grad=wanted != "x")
    y = projlab.project(x, A, b)
    loss, leaves = (y * torch.arange(3)).sum(), [t for t in (x, b) if t.requires_grad]
    before = torch.autograd.grad(loss, leaves, retain_graph=True)
    again = torch.autograd.grad(loss, leaves, retain_graph=True)
    assert all(map(torch.equal, before, again))
    A.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, leaves)
