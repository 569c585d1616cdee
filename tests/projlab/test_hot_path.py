"""After set-up nothing waits for the host and nothing is factored again."""

import pytest
import torch

import projlab
from tests.projlab.systems import DISJOINT_VARIANTS, STRAIGHT
from tests.projlab.watching import HotPath

F64 = torch.float64


def disjoint():
    A = torch.zeros(3, 9, dtype=F64)
    A[0, :2], A[1, 2:7], A[2, 8] = 1.0, torch.arange(1.0, 6.0, dtype=F64), 3.0
    return A, torch.ones(3, dtype=F64)


def redundant():
    A = torch.randint(-3, 4, (3, 9)).to(F64)
    A = torch.cat([A, A[:1] + A[1:2], torch.zeros(1, 9)])
    return A, A @ torch.ones(9, dtype=F64)


def batched():
    A = torch.randn(4, 3, 9, dtype=F64)
    A[1, 2] = 0.0
    b = torch.ones(4, 3, dtype=F64)
    b[1, 2] = 0.0
    return A, b


SETTINGS = {
    "one row": (lambda: (torch.ones(1, 9, dtype=F64), [1.0]), {}, "disjoint"),
    "disjoint rows": (disjoint, {}, "disjoint"),
    "sparse disjoint rows": (lambda: (disjoint()[0].to_sparse(), 1.0), {}, "disjoint"),
    "dense rows": (lambda: (torch.randn(3, 9, dtype=F64), torch.ones(3)), {}, "overlapping"),
    "redundant rows": (redundant, {}, "overlapping"),
    "batched": (batched, {}, "overlapping"),
    "float32": (lambda: (torch.randn(3, 9), torch.ones(3)), {}, "overlapping"),
    "diagonal metric": (disjoint, {"metric": [1.0, 2.0, 3.0] * 3}, "disjoint"),
    "dense metric": (redundant, {"metric": 3 * torch.eye(9) - 0.1}, "overlapping"),
    "least squares": (
        lambda: (torch.ones(2, 9, dtype=F64), [1.0, 2.0]),
        {"on_inconsistent": "least_squares"},
        "disjoint",
    ),
    "no rows": (lambda: (torch.zeros(0, 9, dtype=F64), 0.0), {}, "disjoint"),
}


@pytest.mark.parametrize(
    ("variant", "setting"),
    [
        (v, name)
        for name, (_, _, rows) in SETTINGS.items()
        for v in STRAIGHT
        if rows == "disjoint" or v not in DISJOINT_VARIANTS
    ],
)
def test_no_synchronisation_and_no_factorisation(variant, setting):
    builder, keywords, _ = SETTINGS[setting]
    P = projlab.projector(*builder(), variant, **keywords)
    lead = (4,) if setting == "batched" else ()
    for dtype in (F64, torch.float32, torch.float16):
        for shape in ((*lead, 9), (*lead, 2, 9), (*lead, 2, 3, 9)):
            x = torch.randn(*shape).to(dtype)
            P(x)  # where x is wider than A, its factors are made once, here
            P.multipliers(x)  # and where rows may be redundant, which of them are is decided, once
            with HotPath() as hot:
                P.project_(x)
                P(x)
                P(x, 1.0 if P.constraint.m else None)
                P.tangent(x)
                P.multipliers(x)
            assert hot.calls
            leaf = x.clone().requires_grad_()
            with HotPath():
                P(leaf).sum().backward()
            with HotPath(), torch.no_grad():
                P.project_(leaf)


def test_the_guard_itself_can_fail():
    with pytest.raises(AssertionError, match="waits for the device"), HotPath():
        float(torch.ones(2).sum())
    with pytest.raises(AssertionError, match="factors a matrix"), HotPath():
        torch.linalg.qr(torch.ones(2, 2))
    with pytest.raises(AssertionError, match="waits for the device"), HotPath():
        projlab.projector(torch.ones(1, 3), 1.0)


@pytest.mark.parametrize("system", [batched, redundant])
def test_properties_are_asked_of_the_device_once_at_most(system):
    P = projlab.projector(*system())
    with HotPath():
        assert isinstance(P.variant + P.reason + repr(P), str)
    rank, condition = P.rank, P.condition
    with HotPath():
        assert P.rank is rank or torch.is_tensor(rank)
        assert P.condition is condition or torch.is_tensor(condition)
        assert torch.as_tensor(P.rank).device.type == "cpu"
        repr(P)
