"""The native kernels: asked for by the environment, and like torch's operators to the caller."""

import copy
import importlib.util
import pickle
import subprocess
import sys

import pytest
import torch
from torch.func import vmap

import projlab
from tests.projlab.systems import case
from tests.projlab.ways import difference_allowed, needs_numba, solver_of, way_of

F64 = torch.float64


def system():
    given = case("random 5 x 12")
    return given.A, given.b, given.x0.clone()


def test_nobody_gets_numba_unasked():
    program = """
import sys, torch, projlab
P = projlab.projector([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]], 1.0)
P(torch.zeros(3, dtype=torch.float64))
print([name for name in ("numba", "llvmlite") if name in sys.modules])
"""
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path), "PROJLAB_NATIVE": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("asked", ["", "0", "no"])
def test_only_1_asks_for_the_kernels(asked, monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", asked)
    assert way_of(projlab.projector(*system()[:2])) == "small"


def test_without_numba_torch_is_used(native, monkeypatch):
    A, b, x = system()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    P = projlab.projector(A, b)
    monkeypatch.setenv("PROJLAB_NATIVE", "0")
    assert way_of(P) == "small"
    assert torch.equal(P(x), projlab.projector(A, b)(x))


@needs_numba
def test_the_choice_is_made_at_set_up(native, monkeypatch):
    A, b, x = system()
    P = projlab.projector(A, b)
    expected = P(x)
    assert way_of(P) == "native"
    monkeypatch.setenv("PROJLAB_NATIVE", "0")
    assert torch.equal(P(x), expected)
    assert way_of(P) == "native"


@needs_numba
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_has_kernels_of_its_own(native, how):
    A, b, x = system()
    P = projlab.projector(A, b)
    expected = P(x)
    Q = copy.deepcopy(P) if how == "deepcopy" else pickle.loads(pickle.dumps(P))  # noqa: S301
    P.load_state_dict({"A": 2 * A, "b": 3 * b})
    del P
    assert way_of(Q) == "native"
    assert torch.equal(Q(x), expected)
    assert torch.equal(Q.project_(x.clone()), expected)


@needs_numba
def test_autograd_sees_what_the_kernel_changed(native):
    A, b, x = system()
    P = projlab.projector(A, b)
    for point in (x, torch.stack([x, x])):
        w = torch.ones_like(point, requires_grad=True)
        y = (w * point).sum()  # keeps point for its backward pass
        P.project_(point)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()
    parameter = torch.nn.Parameter(x.clone())
    assert P.project_(parameter) is parameter
    assert torch.equal(parameter, P(x))


@needs_numba
def test_inference_tensors(native):
    """They have no version to count, and none is needed: autograd refuses to save them."""
    A, b, x = system()
    P = projlab.projector(A, b)
    expected = P(x)
    with torch.inference_mode():
        inside = x.clone()
        assert torch.equal(P(inside), expected)
        assert torch.equal(P.project_(inside), expected)


@needs_numba
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap of a change in place
def test_transforms_and_forward_mode(native):
    A, b, x = system()
    P = projlab.projector(A, b)
    X, v = torch.stack([x, 2 * x, -x]), torch.randn(12, dtype=F64)
    solver = solver_of(P)
    allowed = difference_allowed(solver.factor, X, solver.c)
    assert (vmap(P)(X) - P(X)).abs().max() <= allowed
    assert (vmap(P.project_)(X.clone()) - P(X)).abs().max() <= allowed
    assert (torch.func.functionalize(P.project_)(x.clone()) - P(x)).abs().max() <= allowed
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, v)
        tangent = torch.autograd.forward_ad.unpack_dual(P(dual)).tangent
    assert (tangent - P.tangent(v)).abs().max() <= allowed


@needs_numba
@pytest.mark.parametrize(
    "bad",
    [
        lambda: [0.0] * 12,
        lambda: torch.zeros(11, dtype=F64),
        lambda: torch.zeros(3, 11, dtype=F64),
        lambda: torch.zeros(12, 1, dtype=F64),
        lambda: torch.tensor(1.0, dtype=F64),
        lambda: torch.zeros(12, dtype=torch.long),
        lambda: torch.zeros(12, dtype=F64, device="meta"),
    ],
)
def test_bad_input_is_refused_by_name(native, bad):
    P = projlab.projector(*system()[:2])
    for act in (P, P.project_):
        with pytest.raises(projlab.InputError, match="x "):
            act(bad())


@needs_numba
def test_memory_that_the_kernel_cannot_take_is_projected_by_torch(native):
    A, b, x = system()
    P = projlab.projector(A, b)
    solver = solver_of(P)
    expected, allowed = P(x), difference_allowed(solver.factor, x, solver.c)
    wide = torch.zeros(12, 3, dtype=F64)
    column = wide[:, 1].copy_(x)
    assert (P.project_(column) - expected).abs().max() <= allowed
    assert wide[:, 0].abs().max() == wide[:, 2].abs().max() == 0
    assert torch.equal(P.project_(x.float()), P(x.float().double()).float())
    row = torch.zeros(3, 12, dtype=F64)
    P.project_(row[1].copy_(x))
    assert torch.equal(row[1], expected)
    assert row[0].abs().max() == row[2].abs().max() == 0
