"""The caller's precision switches never leak in, and stand afterwards as they stood.

Two kinds of proof: the bits of the results, where this machine's products do change with the
switch; and, on any machine, what the switches say at the moment of each product.
"""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import projlab
from tests.projlab.switches import (
    ON_CPUS_WITH_BFLOAT16,
    SWITCHES,
    K,
    N,
    Witness,
    every_switch,
    every_variant,
    everything,
    state,
    system,
)
from tests.projlab.systems import OVERLAPPING_VARIANTS


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@every_switch
@every_variant
def test_no_bit_changes(variant, switch):
    expected = dict(everything(variant))
    A, _, x = system()
    plain = x @ A.mT, A @ x[0], A @ A.mT
    with SWITCHES[switch]():
        before = state()
        switched = x @ A.mT, A @ x[0], A @ A.mT
        found = dict(everything(variant))
        assert state() == before
    # the proof that the comparison below is one: plain products of this size do change
    if switch == "autocast" or (
        switch in ON_CPUS_WITH_BFLOAT16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        for p, q in zip(plain, switched, strict=True):
            assert not torch.equal(p, q), "the switch has no effect: this test proves nothing"
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@every_switch
def test_every_product_is_made_at_full_precision(switch):
    """What a GPU, or a CPU with other kernels, would round: the switches say so on any machine."""
    with SWITCHES[switch]():
        for variant in OVERLAPPING_VARIANTS:
            with Witness() as witness:
                names = [name for name, _ in everything(variant)]
            assert len(witness.seen) > len(names)
            for name, dtypes, legacy_precision, new in witness.seen:
                assert not dtypes & {torch.bfloat16, torch.float16}, name
                if torch.float32 in dtypes:
                    specific = [value for value in new[2:] if value is not None]
                    assert legacy_precision == "highest" or (
                        specific and all(value in ("ieee", "none") for value in specific)
                    ), (variant, name, legacy_precision, new)


@every_switch
def test_switches_stand_as_they_stood_after_an_error(switch):
    A, b, x = system()
    inconsistent = torch.ones(2, N), torch.tensor([1.0, 2.0])
    nearly = torch.ones(2, N, dtype=torch.float64)
    nearly[1, 1] += 1e-7
    P = projlab.projector(A, b)
    with SWITCHES[switch]():
        before = state()
        with pytest.raises(projlab.InconsistentError, match="row 1 = row 0"):
            projlab.projector(*inconsistent)
        with pytest.raises(projlab.InconsistentError, match="row 1 = row 0"):
            projlab.project(x, *inconsistent)
        with pytest.raises(projlab.RankDeficientError, match="Gram matrix"):
            projlab.projector(nearly, torch.ones(2), "cholesky", rank="exact")
        with pytest.raises(projlab.AccuracyError, match="accuracy=1e-30"):
            projlab.projector(A, b, accuracy=1e-30)
        with pytest.raises(projlab.InputError, match="its last dimension must be"):
            P(x[:, 1:])
        with pytest.raises(projlab.InputError, match="is nan"):
            projlab.project(torch.full_like(x, torch.nan), A, b)
        with pytest.raises(RuntimeError, match="size mismatch"):
            P.load_state_dict({"A": A[1:], "b": b[1:]})
        assert state() == before


@every_switch
def test_an_interruption_in_the_middle_restores_the_switches(switch, monkeypatch):
    A, b, x = system()
    P = projlab.projector(A, b, "qr")

    class Interrupt(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__.rstrip("_") in Witness.PRODUCTS:
                raise KeyboardInterrupt
            return func(*args, **(kwargs or {}))

    with SWITCHES[switch]():
        before = state()
        for act in (
            lambda: P(x),
            lambda: P.project_(x),
            lambda: projlab.project(x, A, b),
            lambda: projlab.projector(A, b, "cholesky"),
        ):
            with pytest.raises(KeyboardInterrupt), Interrupt():
                act()
            assert state() == before
    assert state()[0] is False


@pytest.mark.parametrize("inside", ["autocast", "medium"])
def test_backward_where_the_switch_is_set_after_forward(inside):
    """And the other way round: each pass is computed in its stated precision by itself."""
    A, b, x = system()

    def gradients(forward, backward):
        inputs = tuple(t.clone().requires_grad_() for t in (x, A, b))
        with forward():
            y = projlab.project(*inputs)
        with backward():
            return torch.autograd.grad(y, inputs, torch.ones_like(y))

    expected = gradients(contextlib.nullcontext, contextlib.nullcontext)
    for order in (
        (contextlib.nullcontext, SWITCHES[inside]),
        (SWITCHES[inside], contextlib.nullcontext),
    ):
        for p, q in zip(gradients(*order), expected, strict=True):
            assert torch.equal(p, q)


def test_nothing_is_switched_where_nothing_is_lowered():
    """The hot path touches no switch, which other threads would see."""
    A, b, x = system()
    P = projlab.projector(A, b)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(state())
            return func(*args, **(kwargs or {}))

    seen, before = [], state()
    with Watch():
        P.project_(x)
        P(x)
    assert seen
    assert set(seen) == {before}


@every_variant
def test_autocast_result_is_float32(variant):
    """Rounded to bfloat16 a sum of 1 is off by 2e-2."""
    A, b, x = torch.ones(1, N), torch.ones(1), torch.rand(K, N)
    P = projlab.projector(A, b, variant)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = P(x)
        z = projlab.project(x, A, b, variant)
    assert y.dtype == z.dtype == torch.float32
    for result in (y, z):
        assert (result.double().sum(-1) - 1).abs().max() <= 1e-4
