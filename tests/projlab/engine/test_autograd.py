"""Derivatives of every order in x, A and b, for every variant; refused where they do not exist."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import projlab
from projlab.engine.variants import forward_error_bound
from tests.projlab.systems import CHOICES, DISJOINT_VARIANTS, OVERLAPPING_VARIANTS

F64 = torch.float64
PATTERN = torch.tensor([[1, 0, 1, 0, 1.0], [0, 1, 0, 1, 0.0]], dtype=F64)


CONDITION = 100.0
"""No problem below is worse conditioned, with the change of variables of its metric included."""


def problem(variant, *lead, m=2, n=5):
    """A (*lead, m, n), b (*lead, m), well-conditioned, of the structure that the variant takes."""
    A = torch.randn(*lead, m, n, dtype=F64) / 2 + 2 * torch.eye(m, n, dtype=F64)
    if variant in DISJOINT_VARIANTS:
        A = A * PATTERN
    assert torch.linalg.cond(A).max() * torch.linalg.cond(metric("dense")) ** 0.5 <= CONDITION
    return A, torch.randn(*lead, m, dtype=F64)


def close(left, right, order=0):
    """Equal to rounding: each derivative in A divides by a singular value once more."""
    assert left.shape == right.shape
    unit = forward_error_bound("qr", u=2**-53, m=5, n=5, condition=CONDITION, amplification=1.0)
    size = 1 + right.abs().max() if right.numel() else 1.0
    assert (left - right).abs().max() <= unit * CONDITION**order * size


def structured(A, variant):
    """What finite differences may move A to: entries of the pattern alone where that matters."""
    return A * PATTERN if variant in DISJOINT_VARIANTS else A


def metric(kind):
    if kind == "diagonal":
        return torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25], dtype=F64)
    if kind == "dense":
        M = torch.tensor(
            [[2, 0, 1, 0, 0], [0, 1, 0, -1, 0], [1, 0, 2, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]
        )
        return (M @ M.mT).to(F64)
    return None


def leaves(*tensors):
    return tuple(t.clone().requires_grad_() for t in tensors)


METRICS = [
    pytest.param(v, kind, id=f"{v}-{kind}")
    for v in CHOICES
    for kind in ("none", "diagonal", "dense")
    if not (kind == "dense" and v in DISJOINT_VARIANTS)
]


# --- first and second derivatives against finite differences -----------------------------------


@pytest.mark.parametrize(("variant", "kind"), METRICS)
def test_project_in_x_A_and_b(variant, kind):
    A, b = problem(variant)
    W = metric(kind)

    def f(x, A, b):
        return projlab.project(x, structured(A, variant), b, variant, metric=W)

    for x in (torch.randn(5, dtype=F64), torch.randn(2, 5, dtype=F64)):
        inputs = leaves(x, A, b)
        assert gradcheck(f, inputs)
        assert gradgradcheck(f, inputs, fast_mode=x.dim() > 1)


@pytest.mark.parametrize(("variant", "kind"), METRICS)
def test_batched_project_in_x_A_and_b(variant, kind):
    A, b = problem(variant, 2)
    W = metric(kind)

    def f(x, A, b):
        return projlab.project(x, structured(A, variant), b, variant, metric=W)

    for x, right in ((torch.randn(2, 5), b), (torch.randn(2, 3, 5), b[0])):
        inputs = leaves(x.to(F64), A, right)
        assert gradcheck(f, inputs)
        assert gradgradcheck(f, inputs, fast_mode=True)


@pytest.mark.parametrize(("variant", "kind"), METRICS)
@pytest.mark.parametrize("lead", [(), (2,)])
def test_projector_in_x_and_b(variant, kind, lead):
    A, b = problem(variant, *lead)
    P = projlab.projector(A, b, variant, metric=metric(kind))
    for x in (torch.randn(*lead, 5, dtype=F64), torch.randn(*lead, 3, 5, dtype=F64)):
        for f in (P, P.multipliers):
            assert gradcheck(f, leaves(x, b))
            assert gradgradcheck(f, leaves(x, b), fast_mode=True)
            assert gradcheck(f, leaves(x))
        assert gradcheck(P.tangent, leaves(x))
        assert gradgradcheck(P.tangent, leaves(x), fast_mode=True)


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_square_and_one_row_systems(variant):
    """m = n: x* = A^-1 b does not depend on x; m = 1: a vector for A."""
    A, b = problem(variant, m=3, n=3)
    inputs = leaves(torch.randn(3, dtype=F64), A, b)
    assert gradcheck(lambda x, A, b: projlab.project(x, A, b, variant), inputs)
    x = inputs[0]
    (g,) = torch.autograd.grad(projlab.project(x, A, b, variant).sum(), x)
    close(g, torch.zeros_like(g))

    row = leaves(torch.randn(5, dtype=F64), torch.randn(5, dtype=F64), torch.randn((), dtype=F64))
    assert gradcheck(lambda x, a, b: projlab.project(x, a, b, variant), row)
    assert gradgradcheck(lambda x, a, b: projlab.project(x, a, b, variant), row)


def test_a_scalar_b_for_every_row():
    A, b = problem("qr")[0], torch.tensor(0.5, dtype=F64)
    inputs = leaves(torch.randn(5, dtype=F64), A, b)
    assert gradcheck(projlab.project, inputs)
    batched = leaves(torch.randn(2, 5, dtype=F64), A.expand(2, 2, 5), b)
    assert gradcheck(projlab.project, batched)


@pytest.mark.parametrize("form", ["numpy", "lists", "AffineConstraint", "integers"])
def test_gradient_in_b_whatever_A_is(form):
    """`project` differentiates in b where A is no tensor, too."""
    A = torch.tensor([[1, 2, 0], [0, 1, -1]])
    b, x = torch.tensor([1.0, 2.0], dtype=F64), torch.randn(3, dtype=F64)
    if form == "AffineConstraint":
        constraint = projlab.AffineConstraint(A, b)
        assert gradcheck(lambda x: projlab.project(x, constraint), leaves(x))
        return
    given = {"numpy": A.double().numpy(), "lists": A.tolist(), "integers": A}[form]
    assert gradcheck(lambda x, b: projlab.project(x, given, b), leaves(x, b))


# --- which derivative it is --------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "kind"), METRICS)
def test_the_gradient_in_x_is_the_adjoint_of_the_tangent_projection(variant, kind):
    """In a metric the adjoint matters: T_W for vectors, T_W' for gradients."""
    A, b = problem(variant)
    P = projlab.projector(A, b, variant, metric=metric(kind))
    (x,) = leaves(torch.randn(5, dtype=F64))
    T = torch.stack([P.tangent(e) for e in torch.eye(5, dtype=F64)], -1)
    g = torch.randn(5, dtype=F64)
    for y in (P(x), projlab.project(x, A, b, variant, metric=metric(kind))):
        (found,) = torch.autograd.grad(y, x, g)
        close(found, T.mT @ g)
    if kind != "none":
        assert not torch.allclose(T.mT @ g, T @ g, atol=1e-3)


@pytest.mark.parametrize("variant", CHOICES)
def test_float32_gradients_are_those_of_float64_to_float32_rounding(variant):
    """x's is a tangent projection; A's is made of two outer products of what is computed stably."""
    A, b = (t.float() for t in problem(variant))
    x, g = torch.randn(5), torch.randn(5)
    singles = leaves(x, A, b)
    doubles = leaves(x.double(), A.double(), b.double())
    narrow = torch.autograd.grad(projlab.project(singles[0], *singles[1:], variant), singles, g)
    wide = torch.autograd.grad(
        projlab.project(doubles[0], *doubles[1:], variant), doubles, g.double()
    )
    P = projlab.projector(A.double(), b.double(), "pinv")
    kappa, smallest = P.condition, float(torch.linalg.svdvals(A.double())[-1])
    unit = max(
        forward_error_bound(v, u=2**-24, m=2, n=5, condition=kappa, amplification=1.0)
        for v in OVERLAPPING_VARIANTS
    )
    sizes = x.norm() + (x - P(x.double()).float()).norm()
    allowed = (
        2 * unit * g.norm(),
        # |dy| |l| + |y| |dl| + |dk| |x| + |k| |dx|, where |y| <= size / sigma, |k| <= |g| / sigma
        unit * 4 * 2 * sizes * 2 * g.norm() / smallest,
        2 * unit * g.norm() / smallest,
    )
    for got, exact, bound in zip(narrow, wide, allowed, strict=True):
        assert got.dtype == torch.float32
        assert (got.double() - exact).norm() <= bound


def test_gradients_keep_the_dtype_of_what_they_belong_to():
    A, b = problem("qr")
    x, A, b = leaves(torch.randn(5, dtype=torch.float16), A.float(), b)
    projlab.project(x, A, b).sum().backward()
    assert (x.grad.dtype, A.grad.dtype, b.grad.dtype) == (torch.float16, torch.float32, F64)


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("variant", CHOICES)
def test_the_result_may_be_changed_in_place(variant, lead):
    """As that of any operation: autograd knows it, and it shares no memory with x."""
    A, b = problem(variant, *lead)
    P = projlab.projector(A, b, variant)
    for f in (P, lambda x: projlab.project(x, A, b, variant), P.tangent, P.multipliers):
        (x,) = leaves(torch.randn(*lead, 5, dtype=F64))
        y = f(x)
        (expected,) = torch.autograd.grad((3.0 * y).sum(), x, retain_graph=True)
        y.mul_(3.0)
        (found,) = torch.autograd.grad(y.sum(), x)
        close(found, expected)


def test_no_graph_without_need():
    A, b = problem("qr")
    P = projlab.projector(A, b)
    x = torch.randn(5, dtype=F64)
    assert not P(x).requires_grad
    with torch.no_grad():
        assert not P(x.requires_grad_()).requires_grad
    assert not P.null_space().requires_grad
    assert not list(P.parameters())


def test_graph_only_for_what_requires_it():
    A, b = problem("qr")
    x, b = torch.randn(5, dtype=F64), b.requires_grad_()
    y = projlab.project(x, A, b)
    assert y.requires_grad
    y.sum().backward()
    assert b.grad is not None
    assert A.grad is None
    assert x.grad is None


# --- where it does not exist -------------------------------------------------------------------

DEFICIENT = torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]], dtype=F64), torch.ones(2, dtype=F64)


@pytest.mark.parametrize("variant", CHOICES)
@pytest.mark.parametrize("which", ["A", "b"])
def test_no_gradient_in_A_or_b_at_deficient_rank(variant, which):
    A, _ = DEFICIENT
    b = A @ torch.ones(3, dtype=F64)
    x = torch.zeros(3, dtype=F64, requires_grad=True)
    A, b = A.clone(), b.clone()
    {"A": A, "b": b}[which].requires_grad_()
    with pytest.raises(projlab.RankDeficientError, match="rank is 1 of 2 rows"):
        projlab.project(x, A, b, variant).sum().backward()
    # the gradient in x exists, and the projection itself does
    projlab.project(x, A.detach(), b.detach(), variant).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        assert projlab.project(x, A, b, variant).shape == (3,)


@pytest.mark.parametrize("variant", CHOICES)
def test_no_gradient_in_b_of_a_projector_at_deficient_rank(variant):
    A, _ = DEFICIENT
    b = A @ torch.ones(3, dtype=F64)
    P = projlab.projector(A, b, variant)
    x = torch.zeros(3, dtype=F64)
    for f in (P, P.multipliers):
        with pytest.raises(projlab.RankDeficientError, match="rank is 1 of 2 rows"):
            f(x, b.clone().requires_grad_()).sum().backward()
    assert gradcheck(P, leaves(x))
    assert gradcheck(P.multipliers, leaves(x))


# torch's own tables for forward mode still use torch.jit.script
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("which", ["A", "b"])
@pytest.mark.parametrize("transform", ["jacrev", "jacfwd", "grad", "jvp"])
def test_no_transform_gets_around_that(transform, which):
    A, _ = DEFICIENT
    b, x = A @ torch.ones(3, dtype=F64), torch.ones(3, dtype=F64)
    start = {"A": A, "b": b}[which]

    def f(t):
        return projlab.project(x, **{"A": A, "b": b, which: t})

    act = {
        "grad": lambda: torch.func.grad(lambda t: f(t).sum())(start),
        "jvp": lambda: torch.func.jvp(f, (start,), (torch.ones_like(start),)),
        "jacrev": lambda: torch.func.jacrev(f)(start),
        "jacfwd": lambda: torch.func.jacfwd(f)(start),
    }[transform]
    with pytest.raises(projlab.RankDeficientError, match="rank is 1 of 2 rows"):
        act()


def test_rank_deficient_in_one_element_of_a_batch():
    A = torch.randn(3, 2, 5, dtype=F64)
    A[1, 1] = 2 * A[1, 0]
    b = A @ torch.ones(5, dtype=F64)
    b[1, 1] = 2 * b[1, 0]
    (x,) = leaves(torch.zeros(3, 5, dtype=F64))
    projlab.project(x, A, b).sum().backward()
    with pytest.raises(projlab.RankDeficientError, match="rank is 1 of 2 rows"):
        projlab.project(x, A.clone().requires_grad_(), b).sum().backward()


# --- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_a_weight_trained_through_the_projection(variant):
    """Gradient descent on w through P(w) reaches the nearest feasible point to the target."""
    A, b = problem(variant)
    P = projlab.projector(A, b, variant)
    target = torch.randn(5, dtype=F64)
    w = torch.nn.Parameter(torch.zeros(5, dtype=F64))
    optimizer = torch.optim.SGD([w], lr=0.5)
    for _ in range(45):
        optimizer.zero_grad()
        (P(w) - target).square().sum().backward()
        optimizer.step()
    close(P(w.detach()), P(target))


def test_the_graph_survives_a_later_load():
    """Backward uses the factors that forward used."""
    A, b = problem("qr")
    P = projlab.projector(A, b)
    (x,) = leaves(torch.randn(5, dtype=F64))
    T = P.tangent(torch.eye(5, dtype=F64))
    y = P(x)
    other, c = problem("qr")
    P.load_state_dict(projlab.projector(other, c).state_dict())
    g = torch.randn(5, dtype=F64)
    (found,) = torch.autograd.grad(y, x, g)
    close(found, g @ T)
