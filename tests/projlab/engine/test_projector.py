"""A Projector as a module: state dicts, copies, changes of dtype, inference mode."""

import copy
import io
import pickle

import pytest
import scipy.sparse
import torch
from torch import nn

import projlab
from projlab import projector
from tests.projlab import exact
from tests.projlab.systems import CHOICES, DISJOINT_VARIANTS, OVERLAPPING_VARIANTS, case

F64 = torch.float64


def given(variant="auto"):
    return case("disjoint rows" if variant in DISJOINT_VARIANTS else "random 5 x 12")


def system(seed=0):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(3, 7, dtype=F64, generator=generator)
    return A, torch.randn(3, dtype=F64, generator=generator)


def point(*lead):
    return torch.randn(*lead, 7, dtype=F64)


def saved(module):
    """Through a file, as weights only: nothing in it is executed."""
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# --- state dicts -------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", CHOICES)
def test_round_trip_through_a_file(variant):
    one = given(variant)
    P = projector(one.A, one.b, variant)
    state = saved(P)
    assert set(state) == {"A", "b"}
    assert torch.equal(state["A"], one.A)
    assert torch.equal(state["b"], one.b)
    before = P(one.x0)
    assert str(P.load_state_dict(state)) == "<All keys matched successfully>"
    assert torch.equal(P(one.x0), before)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_loading_another_system_factors_it(variant, assign):
    P, Q = projector(*system(0), variant), projector(*system(1), variant)
    x = point(2)
    x_wide, x_in_place = x.clone(), x.clone()
    P(x_wide)
    P.load_state_dict(saved(Q), assign=assign)
    assert torch.equal(P(x), Q(x))
    assert torch.equal(P.project_(x_in_place), Q.project_(x.clone()))
    assert torch.equal(P.tangent(x), Q.tangent(x))
    assert torch.equal(P.multipliers(x), Q.multipliers(x))
    assert torch.equal(P.null_space(), Q.null_space())
    assert torch.equal(P.A, Q.A)
    assert P.condition == Q.condition
    assert torch.equal(P.constraint.residual(x), Q.constraint.residual(x))


def test_loading_rebuilds_the_factors_of_every_dtype():
    """Those made for wider x are stale as well."""
    A, b = (t.float() for t in system(0))
    C, d = (t.float() for t in system(1))
    P, Q = projector(A, b), projector(C, d)
    x = point()
    P(x)
    P.load_state_dict(Q.state_dict())
    assert torch.equal(P(x), Q(x))


def test_loading_may_change_rank_and_variant_by_the_same_rules():
    A, b = torch.eye(2, 4, dtype=F64), torch.ones(2, dtype=F64)
    P = projector(A, b)
    assert P.variant in DISJOINT_VARIANTS
    full = torch.ones(2, 4, dtype=F64)
    P.load_state_dict({"A": full, "b": b})
    assert P.rank == 1
    assert P(torch.zeros(4, dtype=F64)).tolist() == pytest.approx([0.25] * 4, rel=8 * 2**-53)
    strict = projector(A, b, on_redundant="raise")
    with pytest.raises(RuntimeError, match="row 1 = row 0"):
        strict.load_state_dict({"A": full, "b": b})


def _with(**changes):
    A, b = system(1)
    return {"A": A, "b": b} | changes


BAD_STATES = {
    "inconsistent": (_with(A=torch.ones(3, 7, dtype=F64)), "no solution.*row 1 = row 0"),
    "A of another shape": (
        _with(A=torch.ones(2, 7, dtype=F64)),
        r"size mismatch.*\(2, 7\).*\(3, 7\)",
    ),
    "b of another shape": (_with(b=torch.ones(2, dtype=F64)), r"size mismatch.*\(2,\).*\(3,\)"),
    "NaN in A": (_with(A=torch.full((3, 7), torch.nan)), r"A\[0\]\[0\] is nan"),
    "infinity in b": (_with(b=torch.tensor([1.0, torch.inf, 0.0])), r"b\[1\] is inf"),
    "complex": (_with(A=torch.ones(3, 7, dtype=torch.complex128)), "real"),
    "no A": ({"b": system(1)[1]}, 'Missing key.*"A"'),
    "no b": ({"A": system(1)[0]}, 'Missing key.*"b"'),
    "nothing": ({}, "Missing key"),
    "a key too many": (_with(weight=torch.ones(1)), 'Unexpected key.*"weight"'),
}


@pytest.mark.parametrize("what", BAD_STATES)
def test_a_bad_state_is_refused(what):
    state, message = BAD_STATES[what]
    P = projector(*system(0))
    x = point(2)
    before, in_place, A = P(x), P.project_(x.clone()), P.A.clone()
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        P.load_state_dict(state)
    if what != "a key too many":  # torch loads what it knows, and then raises
        assert torch.equal(P(x), before)
        assert torch.equal(P.project_(x.clone()), in_place)
        assert torch.equal(P.A, A)
        assert torch.equal(P.state_dict()["A"], A)


def test_what_is_missing_may_be_missing_where_the_caller_says_so():
    P = projector(*system(0))
    x = point()
    before = P(x)
    found = P.load_state_dict({}, strict=False)
    assert set(found.missing_keys) == {"A", "b"}
    assert torch.equal(P(x), before)


def test_as_part_of_a_model():
    def model(seed):
        torch.manual_seed(seed)
        return nn.ModuleDict(
            {"linear": nn.Linear(7, 7, dtype=F64), "affine": projector(*system(seed))}
        )

    one, other = model(0), model(1)
    assert set(one.state_dict()) == {"linear.weight", "linear.bias", "affine.A", "affine.b"}
    one.load_state_dict(saved(other))
    x = point(2)
    assert torch.equal(one["affine"](one["linear"](x)), other["affine"](other["linear"](x)))
    assert len(list(one.parameters())) == 2
    with pytest.raises(RuntimeError, match=r"affine\.A.*no solution"):
        one.load_state_dict(one.state_dict() | {"affine.A": torch.ones(3, 7, dtype=F64)})


def test_sparse_rows_survive_a_file():
    A = scipy.sparse.csr_array(torch.eye(3, 7, dtype=F64).numpy())
    P, Q = projector(A, [1.0, 2.0, 3.0]), projector(A, [4.0, 5.0, 6.0])
    assert P.A.layout == torch.sparse_coo
    P.load_state_dict(saved(Q))
    x = point()
    assert torch.equal(P(x), Q(x))


def test_batched_systems_survive_a_file():
    A, b = torch.randn(4, 3, 7, dtype=F64), torch.randn(4, 3, dtype=F64)
    P = projector(A, 0.0)
    P.load_state_dict(saved(projector(A, b)))
    x = point(4)
    assert torch.equal(P(x), projector(A, b)(x))


def test_names_options_and_metric_stay_when_a_state_is_loaded():
    A, b = system(0)
    W = torch.arange(1.0, 8.0, dtype=F64)
    P = projector(projlab.AffineConstraint(A, b, ["p", "q", "r"]), variant="pinv", metric=W)
    C, d = system(1)
    P.load_state_dict({"A": C, "b": d})
    assert P.variant == "pinv"
    assert P.constraint.names == ("p", "q", "r")
    x = point()
    assert torch.equal(P(x), projector(C, d, "pinv", metric=W)(x))


def test_what_else_is_registered_is_loaded_too():
    def layer(seed):
        P = projector(*system(seed))
        P.register_buffer("scale", torch.full((1,), float(seed)))
        P.add_module("after", nn.Linear(7, 7, dtype=F64))
        return P

    P, Q = layer(0), layer(1)
    state = saved(Q)
    assert set(state) == {"A", "b", "scale", "after.weight", "after.bias"}
    assert str(P.load_state_dict(state)) == "<All keys matched successfully>"
    assert P.scale.item() == 1.0
    assert torch.equal(P.after.weight, Q.after.weight)
    x = point()
    assert torch.equal(P(x), Q(x))


# --- copies ------------------------------------------------------------------------------------

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda P: pickle.loads(pickle.dumps(P)),  # noqa: S301  our own bytes
    "deepcopy of a model": lambda P: copy.deepcopy(nn.Sequential(P))[0],
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("variant", CHOICES)
def test_a_copy_gives_the_same_bits_and_lives_on_its_own(variant, how):
    one = given(variant)
    W = torch.linspace(1.0, 2.0, one.n, dtype=F64)
    P = projector(one.A, one.b, variant, metric=W)
    P.eval()
    expected = P(one.x0)
    Q = COPIES[how](P)
    assert isinstance(Q, projlab.Projector)
    assert not Q.training
    assert (Q.variant, Q.rank, Q.condition, Q.reason) == (P.variant, P.rank, P.condition, P.reason)
    assert torch.equal(Q(one.x0), expected)
    assert torch.equal(Q(one.x0.double()), expected)
    # what happens to the copy does not happen to the original
    Q.load_state_dict({"A": 2 * one.A, "b": 3 * one.b})
    Q.float()
    assert torch.equal(P(one.x0), expected)
    assert torch.equal(P.A, one.A)
    del P
    assert Q(one.x0).shape == expected.shape


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_keeps_what_was_attached(how):
    P = projector(*system())
    P.note = "total mass"
    P.register_buffer("scale", torch.tensor(2.0))
    P.register_forward_hook(_double)
    Q = COPIES[how](P)
    x = point()
    assert Q.note == "total mass"
    assert set(Q.state_dict()) == {"A", "b", "scale"}
    assert torch.equal(Q(x), P(x))


def _double(module, args, output):
    return 2 * output


def test_a_copy_of_a_constraint():
    constraint = projlab.AffineConstraint(*system(), names=["p", "q", "r"])
    projector(constraint)
    for clone in (copy.deepcopy(constraint), pickle.loads(pickle.dumps(constraint))):  # noqa: S301
        assert clone.names == constraint.names
        assert torch.equal(clone.A, constraint.A)
        x = point()
        assert torch.equal(projector(clone)(x), projector(constraint)(x))


# --- dtype -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", CHOICES)
def test_there_and_back_gives_the_original_bits(variant):
    """A change of dtype factors from the A and b that were given, never from rounded ones."""
    one = given(variant)
    P = projector(one.A, one.b, variant)
    expected, y = P(one.x0), P.multipliers(one.x0)
    for there in (torch.float32, torch.float16, torch.bfloat16):
        assert P.to(there) is P
        assert P.dtype == there
        assert P(one.x0.to(there)).dtype == there
        P.to(F64)
        assert P.dtype == F64
        assert torch.equal(P(one.x0), expected)
        assert torch.equal(P.multipliers(one.x0), y)
    assert torch.equal(P.state_dict()["A"], one.A)


@pytest.mark.parametrize("variant", CHOICES)
def test_float_half_and_double(variant, take):
    take("small")  # to the bits of torch's operators, which factors of a wider dtype stay with
    one = given(variant)
    P = projector(one.A, one.b, variant)
    single = projector(one.A.float(), one.b.float(), variant)
    P.float()
    assert P.variant == single.variant
    assert exact.distance(P(one.x0.float()).double(), one.solution) <= 3 * one.allowed(
        P.variant, 2**-24
    )
    P.half()
    x = one.x0.half()
    assert torch.equal(P(x), P.float()(x.float()).half()), "worked in float32, rounded once"
    P.double()
    assert exact.distance(P(one.x0), one.solution) <= one.allowed(P.variant)
    A32, b32 = one.A.float(), one.b.float()
    wide = projector(A32, b32, variant).double()
    assert torch.equal(wide(one.x0), projector(A32, b32, variant)(one.x0))


def test_as_part_of_a_model_that_changes_dtype():
    model = nn.Sequential(nn.Linear(7, 7, dtype=F64), projector(*system()))
    x = point()
    expected = model[1](x)
    model.float()
    assert model(x.float()).dtype == torch.float32
    assert model[1].dtype == torch.float32
    model.double()
    assert torch.equal(model[1](x), expected)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_rows_beyond_the_range_of_float32_keep_their_meaning(scale):
    """1e-60 is zero in float32, and 1e60 infinite; the affine set is the same."""
    A, b = system()
    P = projector(A * scale, b * scale).float()
    x = point().float()
    assert P.rank == 3
    expected = projector(A, b).float()(x)
    assert torch.allclose(P(x), expected, rtol=0, atol=1e-5)
    assert torch.allclose(P(x, b * scale), expected, rtol=0, atol=1e-5)
    assert torch.allclose(P.double()(x.double()), expected.double(), rtol=0, atol=1e-5)


def test_a_load_after_a_change_of_dtype():
    P = projector(*system(0)).float()
    P.load_state_dict(projector(*system(1)).state_dict())
    x = point()
    assert P.dtype == torch.float32
    assert torch.equal(P(x.float()), projector(*system(1)).float()(x.float()))
    assert torch.equal(P.double()(x), projector(*system(1))(x))


def test_a_refused_change_of_dtype_leaves_the_projector_working():
    """Rows that float64 tells apart, float32 may not: then b may contradict them there."""
    A = torch.tensor([[1.0, 0.0], [1.0, 1e-9]], dtype=F64)
    P = projector(A, [1.0, 2.0], "qr")
    x = torch.zeros(2, dtype=F64)
    before = P(x)
    with pytest.raises(projlab.InconsistentError, match="row 1 = row 0"):
        P.float()
    assert P.dtype == F64
    assert torch.equal(P(x), before)


# --- inference mode ----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", CHOICES)
def test_used_inside_inference_mode(variant):
    one = given(variant)
    P = projector(one.A, one.b, variant)
    expected = P(one.x0)
    with torch.inference_mode():
        x = one.x0.clone()
        assert torch.equal(P(x), expected)
        assert P.project_(x) is x
        P.multipliers(x)
        P.tangent(x)
        P(one.x0.float())
        P(torch.ones(2, one.n, dtype=F64), one.b)
        assert projlab.project(one.x0, one.A, one.b, variant).is_inference()


@pytest.mark.parametrize("variant", CHOICES)
def test_built_inside_inference_mode_and_trained_outside(variant):
    one = given(variant)
    W = torch.linspace(1.0, 2.0, one.n, dtype=F64)
    with torch.inference_mode():
        A, b, metric = one.A.clone(), one.b.clone(), W.clone()
        P = projector(A, b, variant)
        Q = projector(A, b, variant, metric=metric)
        wide = projector(A.float(), b.float(), variant)
        wide(one.x0)
    for module in (P, Q, wide):
        x = one.x0.clone().requires_grad_()
        c = one.b.clone().requires_grad_()
        module(x, c).square().sum().backward()
        assert torch.isfinite(x.grad).all()
        assert torch.isfinite(c.grad).all()
        for tensor in module.state_dict().values():
            assert not tensor.is_inference()
        module.load_state_dict(module.state_dict())
        module.float().double()
    assert torch.equal(P(one.x0), projector(one.A, one.b, variant)(one.x0))


def test_what_it_prints():
    text = repr(projector(*system(), "qr"))
    for part in ("Projector(", "m=3", "n=7", "variant='qr'", "rank=3", "condition<=", "float64"):
        assert part in text
    assert "batch=4" in repr(projector(torch.randn(4, 3, 7), 0.0))
