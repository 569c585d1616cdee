"""The keywords: one list and one check, whoever is asked."""

import inspect
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn import Linear

import projlab
from projlab import InputError, expr, nn
from projlab.system.options import Options

F64 = torch.float64
NAN, INF = math.nan, math.inf

A = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]], dtype=F64)
b = torch.tensor([1.0, 2.0], dtype=F64)
x = torch.tensor([3.0, -1.0, 2.0], dtype=F64)
P = projlab.projector(A, b)


def constrained(variant="auto"):
    w = torch.nn.Parameter(x.clone())
    return projlab.constrain(torch.optim.SGD([w], lr=0.1), A @ expr(w) == 1.0, variant=variant)


KEYWORDS = (
    "accuracy",
    "rank",
    "metric",
    "on_redundant",
    "on_inconsistent",
    "preconditioner",
    "b_error",
)
ENTRIES = {
    "projector": (lambda **k: projlab.projector(A, b, **k), ("variant", *KEYWORDS)),
    "Projector": (lambda **k: projlab.Projector(A, b, **k), ("variant", *KEYWORDS)),
    "project": (lambda **k: projlab.project(x, A, b, **k), ("variant", *KEYWORDS)),
    "project, A a constant": (
        lambda **k: projlab.project(x, A.tolist(), b, **k),
        ("variant", *KEYWORDS),
    ),
    "project, A with a gradient": (
        lambda **k: projlab.project(x, A.clone().requires_grad_(), b, **k),
        ("variant", *KEYWORDS),
    ),
    "certify": (
        lambda **k: projlab.certify(x, P(x), A, b, **k),
        ("accuracy", "rank", "metric", "on_inconsistent", "b_error"),
    ),
    "diagnose": (lambda **k: projlab.diagnose(A, b, **k), ("rank", "b_error")),
    "Projector.certify": (lambda **k: P.certify(x, P(x), **k), ("accuracy",)),
    "AffineProjection": (lambda **k: nn.AffineProjection(A, b, **k), ("variant", *KEYWORDS)),
    "affine": (
        lambda **k: nn.affine(Linear(3, 2, dtype=F64), "weight", A, b, dim=1, **k),
        ("variant", *KEYWORDS),
    ),
    "constrain": (constrained, ("variant",)),
    "Handle.certify": (lambda **k: constrained().certify(**k), ("accuracy",)),
}
"""What takes keywords, and which."""

NUMBERLESS = [True, False, np.True_, "1e-8", [1e-8], np.array([1e-8]), 1e-8j, NAN, -1e-8, 0, 0.0]
BAD = {
    "variant": [True, None, "lu", 1, NAN, ["qr"], np.array(["qr", "pinv"]), b"qr"],
    "accuracy": [*NUMBERLESS, INF, -INF, 10**400],
    "rank": [*NUMBERLESS, INF, -INF, 10**400, None, "full", "", 1, 1.0, 2],
    "metric": [
        *(True, "identity", 2.0, NAN, np.float64(2.0), [1.0, NAN, 1.0], [1.0, INF, 1.0]),
        *([1.0, -1.0, 1.0], [1.0, 0.0, 1.0], torch.ones(3, 2), [1.0, 1.0]),
    ],
    "on_redundant": [True, None, "ignore", "", 0, NAN, ["drop"], np.array(["drop", "raise"])],
    "preconditioner": [1.0, "jacobi", np.eye(2)],
    "b_error": [None, -1.0, NAN, math.inf, "small", 1j, [1.0] * 9, np.array([-1.0, 0.0])],
    "on_inconsistent": [True, None, "drop", "", 0, NAN, ["raise"], np.array(["raise", "raise"])],
}


def cases(table):
    return [
        pytest.param(entry, name, value, id=f"{entry}-{name}-{value!r}")
        for entry, (_, names) in ENTRIES.items()
        for name in names
        for value in table[name]
    ]


@pytest.mark.parametrize(("entry", "name", "value"), cases(BAD))
def test_a_bad_value_is_refused_by_name(entry, name, value):
    call, _ = ENTRIES[entry]
    with pytest.raises(InputError, match=rf"^{name}\b"):
        call(**{name: value})


GOOD = {
    "variant": ["auto", "qr", np.str_("qr")],
    "accuracy": [
        None,
        1e-6,
        np.float64(1e-6),
        np.float32(1e-6),
        Fraction(1, 10**6),
        1,
        np.int64(1),
    ],
    "rank": ["numerical", "exact", 1e-10, np.float64(1e-10), np.float32(1e-10), Fraction(1, 10**9)],
    "metric": [None, [1.0, 2.0, 3.0], (1, 2, 3), np.array([1.0, 2.0, 3.0]), torch.eye(3)],
    "on_redundant": ["drop", "raise", np.str_("drop")],
    "preconditioner": [None],
    "b_error": [0.0, 0, 1e-9, [0.0, 1e-9], np.float32(1e-9)],
    "on_inconsistent": ["raise", "least_squares", np.str_("raise")],
}


@pytest.mark.parametrize(("entry", "name", "value"), cases(GOOD))
def test_a_good_value_is_taken(entry, name, value):
    call, _ = ENTRIES[entry]
    call(**{name: value})


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_unknown_keyword_is_named(entry):
    call, names = ENTRIES[entry]
    with pytest.raises(TypeError, match="'acuracy'"):
        call(acuracy=1e-8)
    for name in {"variant", *KEYWORDS} - set(names):
        with pytest.raises(TypeError, match=f"'{name}'"):
            call(**{name: getattr(Options, name)})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda **k: projlab.projector(torch.ones(2, 3), [1.0, 2.0], **k), "on_redundant=1"),
        (lambda **k: projlab.project(torch.ones(3), torch.ones(2, 3), b, **k), "on_redundant=1"),
    ],
)
def test_keywords_are_checked_before_the_system(call, message):
    """The rows contradict each other, which nobody has looked at yet."""
    with pytest.raises(InputError, match=message):
        call(on_redundant=1)
    with pytest.raises(InputError, match="variant='lu'"):
        call(variant="lu")
    with pytest.raises(InputError, match="accuracy=-1"):
        call(accuracy=-1)


def test_a_layer_with_a_bad_keyword_leaves_the_module_as_it_was():
    module = Linear(3, 2, dtype=F64)
    weight = module.weight
    with pytest.raises(InputError, match="accuracy"):
        nn.affine(module, "weight", A, b, dim=1, accuracy=-1.0)
    assert module.weight is weight


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (projlab.projector, ["G", "h", "lb", "ub", *KEYWORDS]),
        (projlab.Projector, [*KEYWORDS]),
        (projlab.project, ["G", "h", "lb", "ub", *KEYWORDS]),
        (projlab.certify, ["rank", "metric", "on_inconsistent", "b_error"]),
        (nn.AffineProjection, ["variant", *KEYWORDS]),
        (nn.affine, ["variant", *KEYWORDS]),
    ],
)
def test_help_knows_the_keywords_and_their_defaults(function, names):
    parameters = inspect.signature(function).parameters.values()
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert [p.name for p in keywords] == names
    assert [p.default for p in keywords] == [getattr(Options, name, None) for name in names]
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters)


def test_the_variant_may_be_given_by_place():
    assert projlab.projector(A, b, "pinv").variant == "pinv"
    assert projlab.Projector(A, b, "pinv").variant == "pinv"
    assert torch.equal(projlab.project(x, A, b, "pinv"), projlab.project(x, A, b, variant="pinv"))
    with pytest.raises(TypeError):
        projlab.projector(A, b, "pinv", 1e-8)
