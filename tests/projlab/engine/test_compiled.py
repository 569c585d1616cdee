"""torch.compile, to the bits of eager."""

import copy
import pickle
import warnings

import pytest
import torch
from torch.func import vmap

import projlab
from projlab import project, projector
from tests.projlab.derivatives import F64, close, metric, problem
from tests.projlab.systems import CHOICES, DISJOINT_VARIANTS, OVERLAPPING_VARIANTS


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
