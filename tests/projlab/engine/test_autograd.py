"""Derivatives of every order in x, A and b, for every variant; refused where they do not exist.

By torch.autograd, and by torch.func's vmap, jacrev and jacfwd in any order.
"""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import projlab
from projlab import project, projector
from projlab.engine.variants import forward_error_bound
from tests.projlab.derivatives import (
    F64,
    FORWARD_MODE,
    METRICS,
    close,
    leaves,
    metric,
    problem,
    structured,
)
from tests.projlab.systems import CHOICES, OVERLAPPING_VARIANTS

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


@pytest.mark.parametrize(("variant", "kind"), METRICS)
@pytest.mark.parametrize("lead", [(), (3,)])
def test_gradients_in_batches_and_again(variant, kind, lead):
    """Backward under vmap, and backward of backward."""
    A, b = problem(variant, *lead)
    P = projlab.projector(A, b, variant, metric=metric(kind))
    for shape in ((*lead, 5), (*lead, 4, 5)):
        (x,) = leaves(torch.randn(shape, dtype=F64))
        G, H = leaves(*torch.randn(2, 6, *shape, dtype=F64))
        y = P(x)
        found = torch.autograd.grad(y, x, G, is_grads_batched=True, retain_graph=True)[0]
        for g, h, one in zip(G, H, found, strict=True):
            (again,) = torch.autograd.grad(y, x, g, create_graph=True)
            close(one, again.detach())
            close(torch.autograd.grad(again, g, h)[0], P.tangent(h))


def test_no_graph_without_need():
    A, b = problem("qr")
    P = projlab.projector(A, b)
    x = torch.randn(5, dtype=F64)
    assert not P(x).requires_grad
    with torch.no_grad():
        assert not P(x.requires_grad_()).requires_grad
    assert not P.null_space().requires_grad
    assert not list(P.parameters())


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


# --- vmap --------------------------------------------------------------------------------------


def stack(f, *lists):
    return torch.stack([f(*items) for items in zip(*lists, strict=True)])


@pytest.mark.parametrize(("variant", "kind"), METRICS)
def test_vmap_of_a_projector(variant, kind):
    A, b = problem(variant)
    P = projector(A, b, variant, metric=metric(kind))
    x, c = torch.randn(4, 5, dtype=F64), torch.randn(4, 2, dtype=F64)
    close(vmap(P)(x), P(x))
    close(vmap(P.tangent)(x), P.tangent(x))
    close(vmap(P.multipliers)(x), P.multipliers(x))
    close(vmap(P, in_dims=1)(x.mT), P(x))
    close(vmap(P, in_dims=1, out_dims=1)(x.mT), P(x).mT)
    close(vmap(P)(x, c), stack(P, x, c))
    close(vmap(lambda c: P(x[0], c))(c), stack(lambda c: P(x[0], c), c))
    close(vmap(P, in_dims=(None, 0))(x, c), stack(lambda c: P(x, c), c))
    close(vmap(P, in_dims=(0, 1))(x, c.mT.contiguous()), stack(P, x, c))
    nested = torch.randn(3, 4, 5, dtype=F64)
    close(vmap(vmap(P))(nested), P(nested))


@pytest.mark.parametrize("variant", CHOICES)
def test_vmap_of_a_batched_projector(variant):
    A, b = problem(variant, 3)
    P = projector(A, b, variant)
    x, c = torch.randn(4, 3, 5, dtype=F64), torch.randn(4, 3, 2, dtype=F64)
    close(vmap(P)(x), stack(P, x))
    close(vmap(P)(x, c), stack(P, x, c))
    close(vmap(P, in_dims=(1, None))(x.movedim(0, 1), c[0]), stack(lambda x: P(x, c[0]), x))
    close(vmap(P, in_dims=(None, 0))(x[0], c), stack(lambda c: P(x[0], c), c))
    many = torch.randn(4, 3, 2, 5, dtype=F64)
    close(vmap(P)(many), stack(P, many))
    close(vmap(P.multipliers)(many), stack(P.multipliers, many))


@pytest.mark.parametrize("over", ["x", "A", "b", "xA", "xb", "Ab", "xAb"])
@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("variant", CHOICES)
def test_vmap_of_project(variant, lead, over):
    """Over any of x, A and b: a system a lane where A or b is mapped."""
    A, b = problem(variant, 4, *lead)
    x = torch.randn(4, *lead, 5, dtype=F64)
    dims = [0 if name in over else None for name in "xAb"]
    tensors = [t if name in over else t[0] for name, t in zip("xAb", (x, A, b), strict=True)]

    def f(x, A, b):
        return project(x, structured(A, variant), b, variant)

    expected = torch.stack(
        [f(*(t[i] if d == 0 else t for t, d in zip(tensors, dims, strict=True))) for i in range(4)]
    )
    close(vmap(f, in_dims=tuple(dims))(*tensors), expected)
    last = [t.movedim(0, -1) if d == 0 else t for t, d in zip(tensors, dims, strict=True)]
    close(vmap(f, in_dims=tuple(None if d is None else -1 for d in dims))(*last), expected)


# --- Jacobians ---------------------------------------------------------------------------------


@FORWARD_MODE
@pytest.mark.parametrize(("variant", "kind"), METRICS)
def test_jacobians_forward_and_reverse(variant, kind):
    A, b = problem(variant)
    x, W = torch.randn(5, dtype=F64), metric(kind)

    def f(x, A, b):
        return project(x, structured(A, variant), b, variant, metric=W)

    reverse = jacrev(f, argnums=(0, 1, 2))(x, A, b)
    forward = jacfwd(f, argnums=(0, 1, 2))(x, A, b)
    leaves = [t.clone().requires_grad_() for t in (x, A, b)]
    eager = torch.autograd.functional.jacobian(f, tuple(leaves))
    for r, g, e in zip(reverse, forward, eager, strict=True):
        close(r, e)
        close(g, e)
    P = projector(A, b, variant, metric=W)
    T = P.tangent(torch.eye(5, dtype=F64)).mT
    close(reverse[0], T)
    close(jacrev(P)(x), T)
    close(jacfwd(P)(x), T)
    close(jacrev(P, argnums=1)(x, b), reverse[2])
    close(jacfwd(P, argnums=1)(x, b), reverse[2])


@FORWARD_MODE
@pytest.mark.parametrize(("variant", "kind"), METRICS)
def test_second_derivatives_by_every_composition(variant, kind):
    A, b = problem(variant)
    x, W = torch.randn(5, dtype=F64), metric(kind)

    def f(A, b):
        return project(x, structured(A, variant), b, variant, metric=W).pow(3).sum()

    leaves = tuple(t.clone().requires_grad_() for t in (A, b))
    eager = torch.autograd.functional.hessian(f, leaves)
    for first, second in ((jacrev, jacrev), (jacfwd, jacrev), (jacrev, jacfwd)):
        found = second(first(f, argnums=(0, 1)), argnums=(0, 1))(A, b)
        for i in range(2):
            for j in range(2):
                close(found[i][j], eager[i][j], 2)
    close(hessian(f, argnums=0)(A, b), eager[0][0], 2)


@FORWARD_MODE
def test_forward_over_forward_is_refused():
    """torch switches forward mode off inside a custom jvp: nothing may be lost silently."""
    A, b = problem("qr")
    x = torch.randn(5, dtype=F64)

    def f(x, A, b):
        return project(x, A, b).pow(3).sum()

    for argnum in range(3):
        with pytest.raises(projlab.ProjlabError, match=r"forward-mode over forward-mode.*jacrev"):
            jacfwd(jacfwd(f, argnums=argnum), argnums=argnum)(x, A, b)


@FORWARD_MODE
def test_forward_over_forward_of_a_projector():
    """Linear in x and b: nothing is lost, and nothing refused."""
    A, b = problem("qr")
    P, x = projector(A, b), torch.randn(5, dtype=F64)

    def f(x, b):
        return P(x, b).pow(3).sum()

    for argnum in range(2):
        found = jacfwd(jacfwd(f, argnums=argnum), argnums=argnum)(x, b)
        close(found, jacrev(jacrev(f, argnums=argnum), argnums=argnum)(x, b), 2)


@pytest.mark.parametrize(("variant", "kind"), METRICS)
def test_vmap_of_gradients(variant, kind):
    """A gradient for each of many x, A or b: per-sample gradients."""
    A, b = problem(variant, 4)
    x, W = torch.randn(4, 5, dtype=F64), metric(kind)

    def f(x, A, b):
        return project(x, structured(A, variant), b, variant, metric=W).pow(3).sum()

    for argnum in range(3):
        loop = stack(grad(f, argnums=argnum), x, A, b)
        close(vmap(grad(f, argnums=argnum))(x, A, b), loop, 1)
        for i in range(3):
            dims = tuple(0 if j == i else None for j in range(3))
            tensors = [t if j == i else t[0] for j, t in enumerate((x, A, b))]
            loop = torch.stack(
                [
                    grad(f, argnums=argnum)(*(t[k] if j == i else t for j, t in enumerate(tensors)))
                    for k in range(4)
                ]
            )
            found = vmap(grad(f, argnums=argnum), in_dims=dims)(*tensors)
            close(found, loop, 1)


@FORWARD_MODE
@pytest.mark.parametrize("variant", CHOICES)
def test_vmap_of_jacobians_and_hessians(variant):
    A, b = problem(variant, 3)
    x = torch.randn(3, 5, dtype=F64)

    def f(A, b, x):
        return project(x, structured(A, variant), b, variant)

    def g(A, b, x):
        return f(A, b, x).pow(2).sum()

    for argnum in (0, 1, 2):
        close(
            vmap(jacrev(f, argnums=argnum))(A, b, x), stack(jacrev(f, argnums=argnum), A, b, x), 1
        )
        close(
            vmap(jacfwd(f, argnums=argnum))(A, b, x), stack(jacfwd(f, argnums=argnum), A, b, x), 1
        )
        close(
            vmap(hessian(g, argnums=argnum))(A, b, x), stack(hessian(g, argnums=argnum), A, b, x), 2
        )


@FORWARD_MODE
@pytest.mark.parametrize("variant", CHOICES)
def test_batched_systems_under_transforms(variant):
    A, b = problem(variant, 2)
    x = torch.randn(2, 3, 5, dtype=F64)

    def f(x, A, b):
        return project(x, structured(A, variant), b, variant)

    for argnum in range(3):
        reverse = jacrev(f, argnums=argnum)(x, A, b)
        close(reverse, jacfwd(f, argnums=argnum)(x, A, b))
        leaves = tuple(t.clone().requires_grad_() for t in (x, A, b))
        eager = torch.autograd.functional.jacobian(f, leaves)
        close(reverse, eager[argnum])
        vectorised = torch.autograd.functional.jacobian(f, leaves, vectorize=True)
        close(vectorised[argnum], eager[argnum])


@FORWARD_MODE
def test_products_with_the_jacobian():
    A, b = problem("qr")
    P, x, v = projector(A, b), *torch.randn(2, 5, dtype=F64)
    close(jvp(P, (x,), (v,))[1], P.tangent(v))
    close(vjp(P, x)[1](v)[0], P.tangent(v))
    close(vmap(vjp(P, x)[1])(torch.eye(5, dtype=F64))[0], P.tangent(torch.eye(5, dtype=F64)))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, v)
        for y in (P(dual), project(dual, A, b)):
            close(torch.autograd.forward_ad.unpack_dual(y).tangent, P.tangent(v))


def test_functional_call_sees_the_module():
    """Per-sample losses of a model that ends in a projection."""
    A, b = problem("qr")
    model = torch.nn.Sequential(torch.nn.Linear(5, 5, dtype=F64), projector(A, b))
    parameters = dict(model.named_parameters())
    assert set(parameters) == {"0.weight", "0.bias"}
    x = torch.randn(4, 5, dtype=F64)

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).pow(2).sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    loop = [grad(loss)(parameters, x_i) for x_i in x]
    close(found["0.weight"], torch.stack([g["0.weight"] for g in loop]), 1)
