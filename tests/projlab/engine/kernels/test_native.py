"""The native kernels: on where numba is, and like torch's operators to the caller."""

import copy
import importlib.util
import os
import pickle
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

import projlab
from projlab.engine.kernels import native as kernels
from tests.projlab.systems import case
from tests.projlab.watching import Operators
from tests.projlab.ways import NUMBA, difference_allowed, needs_numba, solver_of, way_of

F64 = torch.float64


def system():
    given = case("random 5 x 12")
    return given.A, given.b, given.x0.clone()


PROGRAM = """
import sys, torch, projlab, projlab.nn
import projlab.engine.projector, projlab.engine.kernels.native
assert "numba" not in sys.modules
A = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
projlab.project(torch.zeros(3, dtype=torch.float64), A, 1.0)
projlab.diagnose(A, 1.0)
assert "numba" not in sys.modules
P = projlab.projector(A, 1.0)
print("numba" in sys.modules)
"""


@pytest.mark.parametrize(
    ("asked", "imported"),
    [
        (None, True),
        ("", True),
        ("1", True),
        ("on", True),
        ("0", False),
        ("off", False),
        ("OFF", False),
    ],
)
def test_numba_is_imported_by_the_first_projector_unless_switched_off(asked, imported):
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    environment.pop("PROJLAB_NATIVE", None)
    if asked is not None:
        environment["PROJLAB_NATIVE"] = asked
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == str(imported and NUMBA)


@needs_numba
def test_the_kernels_are_the_default(monkeypatch):
    monkeypatch.delenv("PROJLAB_NATIVE", raising=False)
    assert way_of(projlab.projector(*system()[:2])) == "native"


@pytest.mark.parametrize("asked", ["0", "off", "Off"])
def test_the_switch(asked, monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", asked)
    assert way_of(projlab.projector(*system()[:2])) == "small"


@pytest.mark.parametrize("asked", ["no", "2", "false"])
def test_what_the_switch_does_not_know_is_refused(asked, monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", asked)
    with pytest.raises(projlab.InputError, match=f"PROJLAB_NATIVE is '{asked}'; it may be"):
        projlab.projector(*system()[:2])


@pytest.fixture
def fresh_kernels(native):
    """Kernels are looked for again, and again after the test."""
    kernels.kernel.cache_clear()
    yield
    kernels.kernel.cache_clear()


def test_without_numba_torch_is_used(fresh_kernels, monkeypatch):
    A, b, x = system()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    P = projlab.projector(A, b)
    monkeypatch.setenv("PROJLAB_NATIVE", "0")
    assert way_of(P) == "small"
    assert torch.equal(P(x), projlab.projector(A, b)(x))


@needs_numba
@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("projlab.engine.kernels.numba_kernels", ImportError("Numba needs NumPy 2.2 or less")),
        ("projlab.engine.kernels.numba_kernels", RuntimeError("cannot cache: no locator")),
    ],
)
def test_a_numba_that_does_not_work_is_warned_of_once(where, why, fresh_kernels, monkeypatch):
    A, b, _ = system()

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == where:
                raise why

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, where, raising=False)
    import projlab.engine.kernels as package

    monkeypatch.delattr(package, "numba_kernels", raising=False)
    with pytest.warns(RuntimeWarning, match=f"cannot be used .*{why}.*PROJLAB_NATIVE=0"):
        P = projlab.projector(A, b)
    assert way_of(P) == "small"
    assert way_of(projlab.projector(2 * A, b)) == "small"  # warnings are errors here


@needs_numba
def test_a_folder_that_cannot_be_written_is_warned_of(tmp_path):
    """As in a container with a read-only installation and no home."""
    program = """
import numba.core.caching as caching, torch, projlab
caching.CacheImpl._locator_classes = []
projlab.projector(torch.ones(2, 3).triu(), 1.0)(torch.zeros(3))
"""
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "PROJLAB_NATIVE": "on"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr.count("NUMBA_CACHE_DIR") == 1, done.stderr


@needs_numba
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("way", ["jit", "make_fx"])
def test_what_records_operators_sees_them(way, native):
    """A kernel would leave nothing in the program but the copy of x."""
    A, b, x = system()
    P = projlab.projector(A, b)
    with torch.no_grad():
        record = make_fx(P) if way == "make_fx" else partial(torch.jit.trace, P, check_trace=False)
        program = record(x)
        other = torch.randn_like(x)
        solver = solver_of(P)
        allowed = difference_allowed(solver.factor, other, solver.c)
        assert (program(other) - P(other)).abs().max() <= allowed
    with Operators() as seen:
        P.project_(x)
    assert "addmv_" in seen.names


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
