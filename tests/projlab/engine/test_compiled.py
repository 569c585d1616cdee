"""torch.func's vmap, jacrev and jacfwd, in any order, and torch.compile, to the bits of eager."""

import copy
import pickle
import warnings

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import projlab
from projlab import project, projector
from tests.projlab.engine.test_autograd import F64, METRICS, close, metric, problem, structured
from tests.projlab.systems import CHOICES, DISJOINT_VARIANTS, OVERLAPPING_VARIANTS

# forward mode goes through tables of torch's own that still use torch.jit.script
FORWARD_MODE = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def stack(f, *lists):
    return torch.stack([f(*items) for items in zip(*lists, strict=True)])


# --- vmap --------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("form", ["AffineConstraint", "numpy", "lists"])
def test_vmap_of_project_whatever_A_is(form):
    A, b = problem("qr")
    x = torch.randn(4, 5, dtype=F64)
    given = {
        "AffineConstraint": (projlab.AffineConstraint(A, b),),
        "numpy": (A.numpy(), b),
        "lists": (A.tolist(), b.tolist()),
    }[form]
    close(vmap(lambda x: project(x, *given))(x), project(x, A, b))


def test_vmap_still_refuses():
    A, b = problem("qr")
    x = torch.randn(4, 5, dtype=F64)
    x[2, 3] = torch.nan
    with pytest.raises(projlab.InputError, match=r"x.* is nan"):
        vmap(lambda x: project(x, A, b))(x)
    c = torch.randn(4, 2, dtype=F64)
    c[2, 1] = torch.inf
    with pytest.raises(projlab.InputError, match=r"b.* is inf"):
        vmap(lambda c: project(x[0], A, c))(c)
    Ab = A.expand(4, 2, 5).clone()
    Ab[1, 1] = Ab[1, 0]
    with pytest.raises(projlab.InconsistentError):
        vmap(lambda A: project(x[0], A, b))(Ab)
    with pytest.raises(projlab.InconsistentError):
        vmap(lambda b: project(x[0], Ab[1], b))(torch.tensor([[1.0, 1.0], [1.0, 2.0]], dtype=F64))


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
def test_forward_over_forward_is_right_or_refused():
    """torch switches forward mode off inside a custom jvp: nothing may be lost silently."""
    A, b = problem("qr")
    x = torch.randn(5, dtype=F64)

    def f(A):
        return project(x, A, b).pow(3).sum()

    try:
        found = jacfwd(jacfwd(f))(A)
    except (projlab.ProjlabError, NotImplementedError) as error:
        assert "jacrev" in str(error)  # noqa: PT017  an answer is as good as a refusal here
    else:
        close(found, jacrev(jacrev(f))(A), 2)


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


# --- torch.compile -----------------------------------------------------------------------------


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    with warnings.catch_warnings():
        # the compiler's own: deprecations inside torch, and its look at .grad of what it traces
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("variant", "kind"), [*((v, "none") for v in CHOICES), ("auto", "diagonal"), ("auto", "dense")]
)
def test_compiled_projector_gives_the_bits_of_eager(variant, kind, fresh_compiler):
    """One graph, no breaks; forward, backward, tangent, multipliers and another b."""
    A, b = problem(variant)
    P = projector(A, b, variant, metric=metric(kind))
    x, c, g = (
        torch.randn(3, 5, dtype=F64),
        torch.randn(3, 2, dtype=F64),
        torch.randn(3, 5, dtype=F64),
    )

    def f(x, c):
        return P(2.0 * x, c) + P.tangent(x) + P(x), P.multipliers(x)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for eager, found in zip(f(x, c), compiled(x, c), strict=True):
        assert torch.equal(eager, found)

    def gradients(f):
        inputs = x.clone().requires_grad_(), c.clone().requires_grad_()
        y, z = f(*inputs)
        return torch.autograd.grad(((y * g).sum() + z.sum()), inputs)

    for eager, found in zip(gradients(f), gradients(compiled), strict=True):
        assert torch.equal(eager, found)


def test_compiled_by_inductor(fresh_compiler):
    """The default compiler, which fuses and contracts what it sees: here it sees one operator."""
    A, b = problem("qr", 2)
    P = projector(A, b)
    compiled = torch.compile(P, fullgraph=True)
    x = torch.randn(2, 5, dtype=F64, requires_grad=True)
    y = compiled(x)
    assert torch.equal(y, P(x))
    g = torch.randn(2, 5, dtype=F64)
    (found,) = torch.autograd.grad(y, x, g)
    (eager,) = torch.autograd.grad(P(x), x, g)
    assert torch.equal(found, eager)


def test_compiled_as_a_layer_then_trained_and_reloaded(fresh_compiler):
    A, b = problem("qr")
    P = projector(A, b)
    model = torch.nn.Sequential(torch.nn.Linear(5, 5, dtype=F64), P)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5, dtype=F64)
    assert torch.equal(compiled(x), model(x))
    compiled(x).sum().backward()
    assert model[0].weight.grad is not None
    # other factors, not those that were compiled with
    other, c = problem("qr")
    P.load_state_dict(projector(other, c).state_dict())
    assert torch.equal(compiled(x), model(x))
    close(P(x) @ other.mT, c.expand(3, 2))
    P.float()
    assert torch.equal(torch.compile(P, backend="aot_eager")(x.float()), P(x.float()))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_compiled_copy_has_factors_of_its_own(how, fresh_compiler):
    A, b = problem("qr")
    P = projector(A, b)
    expected, x = P(torch.ones(5, dtype=F64)), torch.ones(5, dtype=F64)
    Q = copy.deepcopy(P) if how == "deepcopy" else pickle.loads(pickle.dumps(P))  # noqa: S301
    P.load_state_dict(projector(*problem("qr")).state_dict())
    del P
    assert torch.equal(torch.compile(Q, fullgraph=True, backend="aot_eager")(x), expected)


def test_compiled_backward_after_a_later_load(fresh_compiler):
    """Backward uses the factors that forward used, though the projector has others by then."""
    A, b = problem("qr")
    P = projector(A, b)
    T = P.tangent(torch.eye(5, dtype=F64))
    x, g = torch.randn(5, dtype=F64, requires_grad=True), torch.randn(5, dtype=F64)
    y = torch.compile(P, fullgraph=True, backend="aot_eager")(x)
    P.load_state_dict(projector(*problem("qr")).state_dict())
    (found,) = torch.autograd.grad(y, x, g)
    close(found, g @ T)


@pytest.mark.parametrize(
    ("A_dtype", "x_dtype"),
    [
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float16),
    ],
)
def test_compiled_with_x_in_another_dtype(A_dtype, x_dtype, fresh_compiler):
    A, b = (t.to(A_dtype) for t in problem("qr"))
    P = projector(A, b)
    x = torch.randn(3, 5).to(x_dtype)
    eager = P(x)  # where x is wider than A, factors for it are made at the first call
    compiled = torch.compile(P, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), eager)


@pytest.mark.parametrize("variant", ["auto"])
def test_compiled_under_vmap(variant, fresh_compiler, capfd):
    A, b = problem(variant)
    P = projector(A, b, variant)
    x = torch.randn(4, 5, dtype=F64)
    compiled = torch.compile(vmap(P), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), vmap(P)(x))
    batched = projector(*problem(variant, 3))
    x = torch.randn(4, 3, 5, dtype=F64)
    compiled = torch.compile(vmap(batched), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), vmap(batched)(x))
    assert "performance drop" not in capfd.readouterr().err


def test_compiled_project_breaks_the_graph_and_is_right(fresh_compiler):
    A, b = problem("qr")
    x = torch.randn(5, dtype=F64, requires_grad=True)
    A, b = A.requires_grad_(), b.requires_grad_()

    def f(x, A, b):
        return project(torch.sin(x), A, b).pow(2)

    compiled = torch.compile(f, backend="aot_eager")
    y = compiled(x, A, b)
    assert torch.equal(y, f(x, A, b))
    g = torch.randn(5, dtype=F64)
    for found, eager in zip(
        torch.autograd.grad(y, (x, A, b), g),
        torch.autograd.grad(f(x, A, b), (x, A, b), g),
        strict=True,
    ):
        close(found, eager)
    with pytest.raises(projlab.InputError, match="nan"):
        compiled(torch.full((5,), torch.nan, dtype=F64), A, b)


@pytest.mark.parametrize("variant", [OVERLAPPING_VARIANTS[0], DISJOINT_VARIANTS[0]])
def test_compiled_project_in_place(variant, fresh_compiler):
    A, b = problem(variant)
    P = projector(A, b, variant)
    compiled = torch.compile(P.project_, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5, dtype=F64)
    expected = P.project_(x.clone())
    assert compiled(x) is x
    # the products that it is made of, one by one: the same to rounding
    close(x, expected)
