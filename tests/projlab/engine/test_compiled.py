"""torch.compile, to the bits of eager."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch.func import functional_call, vmap

import projlab
from projlab import project, projector
from projlab.engine import compiled as operators
from projlab.engine import compiled_project
from tests.projlab.derivatives import F64, close, metric, problem
from tests.projlab.systems import DISJOINT_VARIANTS, OVERLAPPING_VARIANTS, STRAIGHT


@pytest.mark.parametrize(
    ("variant", "kind"), [*((v, "none") for v in STRAIGHT), ("auto", "diagonal"), ("auto", "dense")]
)
def test_compiled_projector_gives_the_bits_of_eager(variant, kind, fresh_compiler):
    """One graph, no breaks; forward, backward, tangent, multipliers and another b.

    But for rounding where eager code projects by a basis of the null space: a compiled program,
    whose b may change, takes corrections.
    """
    A, b = problem(variant)
    P = projector(A, b, variant, metric=metric(kind))

    def agree(eager, found):
        if variant == "sparse_cholesky":
            close(found, eager, order=1)
        else:
            assert torch.equal(eager, found)

    x, c, g = (
        torch.randn(3, 5, dtype=F64),
        torch.randn(3, 2, dtype=F64),
        torch.randn(3, 5, dtype=F64),
    )

    def f(x, c):
        return P(2.0 * x, c) + P.tangent(x) + P(x), P.multipliers(x)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for eager, found in zip(f(x, c), compiled(x, c), strict=True):
        agree(eager, found)

    def gradients(f):
        inputs = x.clone().requires_grad_(), c.clone().requires_grad_()
        y, z = f(*inputs)
        return torch.autograd.grad(((y * g).sum() + z.sum()), inputs)

    for eager, found in zip(gradients(f), gradients(compiled), strict=True):
        agree(eager, found)


@pytest.mark.parametrize(
    ("variant", "kind"), [*((v, "none") for v in STRAIGHT), ("auto", "diagonal"), ("auto", "dense")]
)
def test_the_operators_have_the_strides_that_they_announce(variant, kind):
    A, b = problem(variant)
    W = metric(kind)
    transposed = torch.randn(5, 3, dtype=F64).mT
    form, tensors = operators.taken_apart(projector(A, b, variant, metric=W)._solver)
    announced = partial(torch.library.opcheck, test_utils="test_faketensor")
    for dual in (False, True):
        announced(
            operators.solve,
            (transposed, None, tensors, form, [], None, False, dual, True),
        )
    rest = (variant, W, None, "numerical", None, "drop", "raise", torch.zeros(()))
    announced(compiled_project.project, (transposed, A, b, *rest))
    announced(compiled_project.project_backward, (transposed, transposed, A, b, True, *rest))


def test_compiled_with_a_transposed_x(fresh_compiler):
    A, b = problem("cholesky")
    P = projector(A, b, "cholesky")
    x = torch.randn(5, 3, dtype=F64).mT
    assert torch.equal(torch.compile(lambda x: P(x).flatten())(x), P(x).flatten())


def test_compiled_blocks_give_the_bits_of_eager(fresh_compiler):
    A = torch.block_diag(*torch.randn(120, 2, 3, dtype=F64)).to_sparse()
    P = projector(A, torch.randn(240, dtype=F64))
    assert "blocks" in P.reason
    x, g = torch.randn(4, 360, dtype=F64, requires_grad=True), torch.randn(4, 360, dtype=F64)
    compiled = torch.compile(P, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), P(x))
    (found,), (eager,) = (torch.autograd.grad(f(x), x, g) for f in (compiled, P))
    assert torch.equal(found, eager)


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


SHAPES = {
    "one vector": ((5,), (2, 5), (2,)),
    "one row": ((3, 5), (5,), ()),
    "a scalar b": ((3, 5), (2, 5), ()),
    "batched": ((4, 5), (4, 2, 5), (4, 2)),
    "batched, one b": ((4, 3, 5), (4, 2, 5), (2,)),
}


@pytest.mark.parametrize("shapes", SHAPES)
def test_compiled_project_is_one_graph_and_is_right(shapes, fresh_compiler):
    x, A, b = (torch.randn(shape, dtype=F64, requires_grad=True) for shape in SHAPES[shapes])

    def f(x, A, b):
        return project(torch.sin(x), A, b).pow(2)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    y = compiled(x, A, b)
    assert torch.equal(y, f(x, A, b))
    g = torch.randn_like(y)
    for found, eager in zip(
        torch.autograd.grad(y, (x, A, b), g),
        torch.autograd.grad(f(x, A, b), (x, A, b), g),
        strict=True,
    ):
        close(found, eager)
    with pytest.raises(projlab.InputError, match="nan"):
        compiled(torch.full_like(x, torch.nan), A, b)


@pytest.mark.parametrize(
    "keywords",
    [
        {"variant": "pinv"},
        {"metric": [0.5, 2.0, 1.0, 3.0, 0.25]},
        {"metric": metric("dense")},
        {"rank": 1e-9},
        {"rank": "exact", "accuracy": 1e-6},
        {"on_inconsistent": "least_squares", "on_redundant": "raise"},
    ],
)
def test_compiled_project_takes_every_keyword(keywords, fresh_compiler):
    A, b = problem("qr")

    def f(x):
        return project(x, A, b, **keywords)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5, dtype=F64, requires_grad=True)
    assert torch.equal(compiled(x), f(x))
    g = torch.randn(3, 5, dtype=F64)
    (found,), (eager,) = (torch.autograd.grad(h(x), x, g) for h in (compiled, f))
    close(found, eager)


def test_compiled_project_refuses_what_eager_code_refuses(fresh_compiler):
    compiled = torch.compile(project, fullgraph=True, backend="aot_eager")
    x, ones = torch.zeros(3, dtype=F64), torch.ones(2, 3, dtype=F64)
    with pytest.raises(projlab.InconsistentError, match="row 1 = row 0"):
        compiled(x, ones, torch.tensor([1.0, 2.0]))
    y = compiled(x, ones.requires_grad_(), torch.ones(2))
    with pytest.raises(projlab.RankDeficientError, match="rank is 1 of 2 rows"):
        y.sum().backward()
    with pytest.raises(Exception, match="unexpected keyword argument 'ranks'"):
        compiled(x, ones.detach(), 1.0, ranks="exact")


@pytest.mark.parametrize("kind", ["sparse", "lists", "constraint"])
def test_compiled_project_with_other_rows_breaks_the_graph_and_is_right(kind, fresh_compiler):
    rows = torch.eye(2, 5, dtype=F64)
    A = {"sparse": rows.to_sparse(), "lists": rows.tolist()}.get(kind)
    given = (projlab.AffineConstraint(rows, 1.0),) if A is None else (A, 1.0)
    compiled = torch.compile(lambda x: project(torch.sin(x), *given), backend="aot_eager")
    x = torch.randn(5, dtype=F64)
    close(compiled(x), project(torch.sin(x), rows, 1.0))


@pytest.mark.parametrize("over", ["x", "A", "b", "xAb"])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_compiled_project_under_vmap(lead, over, fresh_compiler):
    A, b = problem("qr", 4, *lead)
    x = torch.randn(4, *lead, 5, dtype=F64)
    dims = tuple(0 if name in over else None for name in "xAb")
    tensors = [t if d == 0 else t[0] for t, d in zip((x, A, b), dims, strict=True)]
    mapped = vmap(project, in_dims=dims)
    compiled = torch.compile(mapped, fullgraph=True, backend="aot_eager")
    close(compiled(*tensors), mapped(*tensors))


@pytest.mark.parametrize("variant", ["qr", DISJOINT_VARIANTS[0]])
def test_compiled_layer_uses_its_buffers(variant, fresh_compiler):
    layer = projlab.nn.AffineProjection(*problem(variant), variant=variant)
    P = layer.projector
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5, dtype=F64)
    assert torch.equal(compiled(x), layer(x))
    for value in (2.0, -3.0):
        P.b.fill_(value)
        found = compiled(x)
        assert torch.equal(found, layer(x))
        close(found @ P.A.mT, torch.full((3, 2), value, dtype=F64))
    P.A.mul_(2.0)
    with pytest.raises(projlab.InputError, match="A was changed in place since it was factored"):
        compiled(x)
    expected = layer(x)
    assert torch.equal(compiled(x), expected)
    P.A = problem(variant)[0]
    close(compiled(x) @ P.A.mT, P.b.expand(3, 2))


@pytest.mark.parametrize("names", [("b",), ("A", "b")])
def test_compiled_functional_call(names, fresh_compiler):
    layer, other = (projlab.nn.AffineProjection(*problem("qr")) for _ in range(2))
    buffers = {f"projector.{name}": getattr(other.projector, name) for name in names}
    leaves = {name: t.clone().requires_grad_() for name, t in buffers.items()}
    x = torch.randn(3, 5, dtype=F64, requires_grad=True)

    def f(buffers, x):
        return functional_call(layer, buffers, (x,))

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    close(compiled(buffers, x), f(buffers, x))
    g = torch.randn(3, 5, dtype=F64)
    found, wanted = (
        torch.autograd.grad(h(leaves, x), (x, *leaves.values()), g) for h in (compiled, f)
    )
    for left, right in zip(found, wanted, strict=True):
        close(left, right, 1)


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
