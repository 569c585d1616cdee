"""Built on the device meta, as `from_pretrained` does, and given values later."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

import projlab
from tests.projlab.derivatives import F64, close, problem

FILLED = {
    "to_empty, then load": lambda m, s: (m.to_empty(device="cpu"), m.load_state_dict(s)),
    "assign": lambda m, s: m.load_state_dict(s, assign=True),
    "to_empty, then write": lambda m, s: (
        m.to_empty(device="cpu"),
        [t.copy_(s[name]) for name, t in m.state_dict().items()],
    ),
    "one tensor at a time": lambda m, s: [
        m.get_submodule(path).__setattr__(
            name, nn.Parameter(t) if name in ("weight", "bias") else t.clone()
        )
        for path, name, t in ((*key.rpartition(".")[::2], value) for key, value in s.items())
    ],
}


def model(*lead):
    return nn.Sequential(
        nn.Linear(5, 5, dtype=F64), projlab.nn.AffineProjection(*problem("auto", *lead))
    )


def on_meta(*arguments):
    with torch.device("meta"):
        return Model(*arguments)


class Model(nn.Sequential):
    def __init__(self, shape=(2, 5)):
        A, b = torch.ones(shape, dtype=F64), torch.zeros(shape[:-1], dtype=F64)
        super().__init__(nn.Linear(5, 5, dtype=F64), projlab.nn.AffineProjection(A, b))


@pytest.mark.parametrize("shape", [(2, 5), (4, 2, 5)])
@pytest.mark.parametrize("how", FILLED)
def test_values_come_later(how, shape):
    real = model(*shape[:-2])
    built = on_meta(shape)
    assert all(t.is_meta for t in built.state_dict().values())
    FILLED[how](built, real.state_dict())
    x = torch.randn(4, 5, dtype=F64)
    close(built(x), real(x))
    P, Q = built[1].projector, real[1].projector
    assert (P.variant, str(P.rank)) == (Q.variant, str(Q.rank))
    close(P.project_(x.clone()), Q.project_(x.clone()))
    x.requires_grad_()
    close(*(torch.autograd.grad(m(x).pow(3).sum(), x)[0] for m in (built, real)))


@pytest.mark.parametrize("to_empty", [False, True])
def test_nothing_is_projected_before(to_empty):
    P = on_meta()[1].projector
    if to_empty:
        P.to_empty(device="cpu")
    x = torch.zeros(3, 5, dtype=F64)
    uses = (P, P.project_, P.tangent, P.multipliers, lambda x: P(x, torch.ones(2, dtype=F64)))
    asked = (lambda _: P.rank, lambda _: P.variant, lambda _: P.condition, lambda _: P.null_space())
    for use in uses + asked:
        with pytest.raises(projlab.InputError, match="no values"):
            use(x)
    assert "no values yet" in repr(P)
    assert torch.equal(x, torch.zeros(3, 5, dtype=F64))
    if to_empty:  # one of the two is not enough
        P.A.copy_(torch.eye(2, 5))
        with pytest.raises(projlab.InputError, match="no values"):
            P(x)
        P.b.fill_(1.0)
        assert P(x)[0].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_assigned_one_after_the_other():
    P = on_meta()[1].projector.to_empty(device="cpu")
    P.A = torch.eye(2, 5, dtype=F64)
    x = torch.zeros(5, dtype=F64)
    with pytest.raises(projlab.InputError, match="no values"):
        P(x)
    P.b = torch.ones(2, dtype=F64)
    assert P(x).tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
def test_copies_wait_as_well(how):
    real, built = model(), how(on_meta())
    built.load_state_dict(real.state_dict(), assign=True)
    x = torch.randn(4, 5, dtype=F64)
    close(built(x), real(x))


def test_dtype_and_what_a_state_must_have():
    real, built = model(), on_meta()
    built.float().to_empty(device="cpu")
    built.load_state_dict(real.state_dict())
    x = torch.randn(4, 5)
    assert torch.equal(built(x), real.float()(x))
    with pytest.warns(UserWarning, match="does nothing; pass assign=True"):
        on_meta()[1].load_state_dict(real[1].state_dict())
    with pytest.raises(RuntimeError, match="on the device meta, and so without values"):
        real[1].load_state_dict(on_meta()[1].state_dict())
    with pytest.raises(RuntimeError, match="no solution"):
        on_meta()[1].load_state_dict(
            {"projector.A": torch.ones(2, 5), "projector.b": torch.tensor([1.0, 2.0])}, assign=True
        )
    with pytest.raises(NotImplementedError, match="to_empty"):
        on_meta()[1].to("cpu")
    with pytest.raises(projlab.InputError, match="metric is on the device meta"):
        projlab.projector(torch.ones(1, 3), 1.0, metric=torch.ones(3, device="meta"))


def test_shapes_without_values():
    x = torch.empty(7, 5, dtype=F64, device="meta")
    assert on_meta()(x).shape == (7, 5)
    with pytest.raises(projlab.InputError, match="last dimension must be 5"):
        on_meta()[1](x[:, :3])


def test_moved_to_meta_as_the_base_of_an_ensemble():
    models = [model() for _ in range(3)]
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")

    def call(parameters, buffers, x):
        return functional_call(base, (parameters, buffers), (x,))

    x = torch.randn(4, 5, dtype=F64)
    found = vmap(call, in_dims=(0, 0, None))(parameters, buffers, x)
    close(found, torch.stack([m(x) for m in models]))
    close(functional_call(base, models[1].state_dict(), (x,)), models[1](x))
    with pytest.raises(projlab.InputError, match="no values"):
        base[1](x)


@pytest.mark.parametrize(
    "A", [[[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]], [[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]]]
)
def test_numbers_that_are_there_are_used(A):
    """Lists and arrays are on no device, whatever the default is."""
    with torch.device("meta"):
        P = projlab.projector(A, [1.0, 2.0])
    x = torch.zeros(3, dtype=F64)
    assert torch.equal(P(x), projlab.projector(A, [1.0, 2.0])(x))
