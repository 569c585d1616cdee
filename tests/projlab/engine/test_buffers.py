"""The buffers A and b of a projector are what is used, however they came to change."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

import projlab
from projlab import projector
from tests.projlab.derivatives import F64, close, metric, problem
from tests.projlab.systems import CHOICES, OVERLAPPING_VARIANTS
from tests.projlab.watching import FACTORS, Operators


def everything(P, x):
    """What a projector answers, by every road to the factors."""
    leaf = x.clone().requires_grad_()
    yield from (P(x), P(leaf).detach(), P.project_(x.clone()), vmap(P)(x) if x.dim() > 1 else P(x))
    yield from (P.tangent(x), P.multipliers(x), P(x.float()).double(), P(x[..., :1].expand_as(x)))
    yield from (P.constraint.residual(x), P.null_space().abs(), torch.as_tensor(P.condition))


def same(P, Q):
    x = torch.randn(4, 5, dtype=F64)
    for found, wanted in zip(everything(P, x), everything(Q, x), strict=True):
        close(found, wanted)
    assert (P.variant, P.rank) == (Q.variant, Q.rank)


def layer(variant="auto", seed=0, **keywords):
    torch.manual_seed(seed)
    return projlab.nn.AffineProjection(*problem(variant), variant=variant, **keywords)


@pytest.mark.parametrize("variant", CHOICES)
@pytest.mark.parametrize("wide", [False, True])
def test_b_changed_in_place(variant, wide):
    """Also for the factors that a wider x has."""
    A, b = problem(variant)
    P = projector(A.float(), b.float(), variant) if wide else projector(A, b, variant)
    P(torch.ones(5, dtype=F64))
    for value in (2.0, -1.0):
        P.b.fill_(value)
        same(P, projector(P.A.clone(), value, variant))


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_b_changed_in_a_metric(kind):
    A, b = problem("qr")
    P = projector(A, b, metric=metric(kind))
    P.b.neg_()
    same(P, projector(A, -b, metric=metric(kind)))


def test_another_b_keeps_the_factors():
    A, b = problem("qr")
    P = projector(A, b)
    P.b.add_(1.0)
    with Operators() as seen:
        P(torch.ones(5, dtype=F64))
    assert not [n for n in seen.names if n.startswith(FACTORS) and "triangular" not in n]


@pytest.mark.parametrize("variant", CHOICES)
def test_A_changed_in_place(variant):
    A, b = problem(variant)
    P = projector(A, b, variant)
    for factor in (2.0, -3.0):
        P.A[0].mul_(factor)
        same(P, projector(P.A.clone(), b, variant))


def test_sparse_A_changed_in_place():
    A = torch.eye(2, 5, dtype=F64).to_sparse()
    P = projector(A, 1.0)
    for factor in (2.0, 4.0):
        P.A.mul_(2.0)
        assert P(torch.zeros(5, dtype=F64)).tolist() == [1 / factor] * 2 + [0.0] * 3
    P.b.copy_(torch.tensor([4.0, 8.0]))
    assert P(torch.zeros(5, dtype=F64)).tolist() == [1.0, 2.0, 0.0, 0.0, 0.0]


def test_batched_systems_follow_too():
    A, b = problem("qr", 3)
    P = projector(A, b)
    x = torch.randn(3, 5, dtype=F64)
    P.b.mul_(2.0)
    close(P(x), projector(A, 2 * b)(x))
    P.A[1].neg_()
    close(P(x), projector(P.A.clone(), 2 * b)(x))


def test_values_written_again_cost_no_factors():
    """As data-parallel training does at every step."""
    A, b = problem("qr")
    P = projector(A, b)
    P.A.copy_(A)
    P(torch.ones(5, dtype=F64))
    P.A.copy_(A)
    P.b.copy_(b)
    with Operators() as seen:
        P(torch.ones(5, dtype=F64))
    assert not [n for n in seen.names if n.startswith(FACTORS)]


def test_buffers_assigned():
    A, b = problem("qr")
    P, (C, d) = projector(A, b), problem("qr")
    P.A, P.b = C, d
    same(P, projector(C, d))
    assert P.A is C
    C.mul_(2.0)
    same(P, projector(C.clone(), d))


def test_redundant_rows_are_checked_against_another_b():
    A = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]], dtype=F64)
    P = projector(A, [1.0, 2.0])
    x = torch.zeros(3, dtype=F64)
    P.b.copy_(torch.tensor([2.0, 4.0]))
    close(P(x), torch.tensor([1.0, 1.0, 0.0], dtype=F64))
    P.b[1] = 5.0
    for use in (P, P.project_, P.tangent, repr, copy.deepcopy):
        with pytest.raises(projlab.InconsistentError, match="row 1 = 2"):
            use(P if use in (repr, copy.deepcopy) else x)
    assert torch.equal(x, torch.zeros(3, dtype=F64))
    P.b[1] = 4.0
    close(P(x), torch.tensor([1.0, 1.0, 0.0], dtype=F64))
    P.A.fill_(torch.nan)
    with pytest.raises(projlab.InputError, match=r"A\[0\]\[0\] is nan"):
        P(x)


def test_least_squares_takes_any_b():
    A = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]], dtype=F64)
    P = projector(A, 1.0, on_inconsistent="least_squares")
    P.b.copy_(torch.tensor([1.0, 3.0]))
    close(P(torch.zeros(3, dtype=F64)), torch.tensor([1.0, 1.0, 0.0], dtype=F64))


@pytest.mark.parametrize(
    "how",
    [
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),  # noqa: S301  our own bytes
        lambda m: m.double(),
        lambda m: m.float().double(),
        lambda m: m.load_state_dict(m.state_dict()) and m,
    ],
)
def test_a_change_is_not_lost_on_the_way(how):
    """Nobody has used the projector between the change and this."""
    one, other = layer(), layer(seed=1)
    one.projector.b.copy_(other.projector.b)
    one.projector.A.copy_(other.projector.A)
    found = how(one)
    same(found.projector, other.projector)
    found.projector.b.zero_()
    same(found.projector, projector(other.projector.A, 0.0))


def test_state_dicts_hold_the_change():
    one, other = layer(), layer(seed=1)
    one.projector.b.zero_()
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    same(other.projector, projector(one.projector.A, 0.0))


def test_inside_inference_mode():
    one, other = layer(), layer(seed=1)
    x = torch.randn(4, 5, dtype=F64)
    with torch.inference_mode():
        one.projector.b.copy_(other.projector.b)
        one.projector.A.copy_(other.projector.A)
        close(one(x), other(x))
        # such tensors count no changes: they are read at every call
        b = torch.ones(2, dtype=F64)
        buffers = {"projector.b": b}
        for value in (1.0, 2.0):
            b.fill_(value)
            wanted = projector(other.projector.A, value)(x)
            close(functional_call(one, buffers, (x,)), wanted)
        A = other.projector.A.clone()
        for _ in range(2):
            A.mul_(3.0)
            close(
                functional_call(one, {"projector.A": A}, (x,)),
                projlab.project(x, A, one.projector.b),
            )
        swapped = torch.nn.utils.stateless._reparametrize_module(one, {"projector.A": A})
        with swapped, pytest.raises(projlab.InputError, match="A was replaced"):
            one.projector.multipliers(x)
    leaf = x.clone().requires_grad_()
    one(leaf).sum().backward()
    close(leaf.grad, one.projector.tangent(torch.ones_like(x)))


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_functional_call_with_other_buffers(variant):
    one, other = layer(variant), layer(variant, seed=1)
    x = torch.randn(4, 5, dtype=F64)
    before = one(x)
    for names in (("A",), ("b",), ("A", "b")):
        buffers = {f"projector.{name}": getattr(other.projector, name) for name in names}
        kept = dict(one.named_buffers()) | buffers
        wanted = projector(kept["projector.A"], kept["projector.b"], variant)
        close(functional_call(one, buffers, (x,)), wanted(x))
        c = torch.randn(4, 2, dtype=F64)
        close(functional_call(one, buffers, (x, c)), wanted(x, c))
        close(one(x), before)
        in_place = x.clone()
        with torch.nn.utils.stateless._reparametrize_module(one, buffers):
            one.projector.project_(in_place)
            close(one.projector.tangent(x), wanted.tangent(x))
        close(in_place, wanted(x))


def test_derivatives_in_the_buffers():
    """A meta-learner's: `functional_call` with tensors that require grad."""
    one = layer(rank=1e-9)
    x = torch.randn(5, dtype=F64)
    A, b = one.projector.A, one.projector.b

    def loss(buffers):
        return functional_call(one, buffers, (x,)).pow(3).sum()

    def plain(A, b):
        return projlab.project(x, A, b).pow(3).sum()

    in_A, in_b = grad(plain, (0, 1))(A, b)
    for buffers, wanted in (
        ({"projector.A": A.clone(), "projector.b": b.clone()}, (in_A, in_b)),
        ({"projector.A": A.clone()}, (in_A,)),
        ({"projector.b": b.clone()}, (in_b,)),
    ):
        for found, exact in zip(grad(loss)(buffers).values(), wanted, strict=True):
            close(found, exact, 1)
        leaves = {name: t.clone().requires_grad_() for name, t in buffers.items()}
        found = torch.autograd.grad(loss(leaves), tuple(leaves.values()))
        for f, exact in zip(found, wanted, strict=True):
            close(f, exact, 1)


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_an_ensemble_of_stacked_layers(variant):
    models = [nn.Sequential(nn.Linear(5, 5, dtype=F64), layer(variant, k)) for k in range(3)]
    parameters, buffers = stack_module_state(models)
    x = torch.randn(4, 5, dtype=F64)
    base = copy.deepcopy(models[0])

    def call(parameters, buffers, x):
        return functional_call(base, (parameters, buffers), (x,))

    found = vmap(call, in_dims=(0, 0, None))(parameters, buffers, x)
    close(found, torch.stack([model(x) for model in models]))
    # another b alone goes with the factors of one
    found = vmap(call, in_dims=(0, {"1.projector.b": 0}, None))(
        parameters, {"1.projector.b": buffers["1.projector.b"]}, x
    )
    P = base[1].projector
    wanted = [P(m[0](x), m[1].projector.b) for m in models]
    close(found, torch.stack(wanted))
