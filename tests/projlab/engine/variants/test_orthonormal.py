"""The ways to compute one projection agree, and none costs what it need not.

Which way is taken depends on size alone (`projlab.numerics.tuning`) and on PROJLAB_NATIVE: the
sizes are moved here, so that the small systems of the table take every way.
"""

import copy
import importlib.util
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from torch.func import vmap

import projlab
from projlab import tolerance
from projlab.engine.variants.orthonormal import OrthonormalRows
from projlab.numerics import tuning
from tests.projlab.systems import CASES, CHOICES, DISJOINT_VARIANTS, build, case
from tests.projlab.test_hot_path import HotPath

F64 = torch.float64
NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(not NUMBA, reason="numba, the extra `native`, is not installed")

WAYS = {
    "small": {},
    "two passes": {"SMALL": 0},
    "blocks": {"SMALL": 0, "CACHE": 0, "BLOCK": 0, "LEAST_ROWS": 2},
    "columns": {"COLUMNS": 1},
    "R in parts": {"IN_PARTS": 2},
    "native": {},
}
every_way = pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[needs_numba] if way == "native" else []) for way in WAYS]
)


@pytest.fixture
def take(monkeypatch):
    """A function that makes what is set up after it take the way."""

    def take(way):
        for name, value in WAYS[way].items():
            monkeypatch.setattr(tuning, name, value)
        monkeypatch.setenv("PROJLAB_NATIVE", "1" if way == "native" else "0")

    return take


@pytest.fixture
def native(take):
    take("native")


def factor_of(P):
    return P._solver.factor


def way_of(factor):
    if factor._native is not None:
        return "native"
    if factor._negated is not None:
        return "small"
    return "two passes" if len(factor._blocks) == 1 else "blocks"


def textbook(factor, x, c):
    """x - W' (W x + c), in two plain passes."""
    W = factor.W
    return x - (x @ W.mT + c) @ W


def difference_allowed(factor, x, c):
    """Two evaluations, each within the first-order bound of its two passes.

    The rows are orthonormal, so that no condition number enters: the coordinates err by
    dimension_factor u (||x|| + ||c||), and so does what is subtracted.
    """
    m, n = factor.W.shape[-2:]
    size = torch.linalg.vector_norm(x, dim=-1).amax() + torch.linalg.vector_norm(c, dim=-1).amax()
    u = tolerance.unit_roundoff(x.dtype)
    return float(2 * tolerance.dimension_factor(m, n) * u * size)


@every_way
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_every_way_is_the_textbook_form_to_rounding(name, dtype, way, take):
    take(way)
    given = case(name, dtype)
    seen = set()
    for variant in CHOICES:
        if not given.able(variant):
            continue
        P = build(given, variant)
        if P is None or not isinstance(factor_of(P), OrthonormalRows):
            continue
        factor, c = factor_of(P), P._solver.c
        seen.add(way_of(factor))
        for x in (given.x0, torch.stack([given.x0, -3 * given.x0, given.x0.flip(0)])):
            x = x if x.dim() == 1 or way != "native" else x.contiguous()
            allowed = difference_allowed(factor, x, c)
            expected = textbook(factor, x, c)
            projected = P(x)
            assert torch.linalg.vector_norm(projected - expected, dim=-1).max() <= allowed
            assert torch.equal(P.project_(x.clone()), projected)
            leaf = x.clone().requires_grad_()
            assert torch.equal(P(leaf), projected), "with a graph the bits are the same"
    if given.rank >= 3 and given.n >= 2 and given.overlapping:
        expected_way = {"columns": "small", "R in parts": "small"}.get(way, way)
        assert seen == {expected_way}


@every_way
@pytest.mark.parametrize("lead", [(1,), (70,), (2, 3), (0,), (0, 3)])
@pytest.mark.parametrize("variant", ["qr", "single_row"])
def test_many_vectors(variant, lead, way, take):
    take(way)
    given = case("random 1 x 7" if variant in DISJOINT_VARIANTS else "random 5 x 12")
    P = projlab.projector(given.A, given.b, variant)
    x = torch.randn(*lead, given.n, dtype=F64)
    allowed = difference_allowed(factor_of(P), x, P._solver.c) if x.numel() else 0
    expected = textbook(factor_of(P), x, P._solver.c)
    strided = torch.randn(*lead, 2 * given.n, dtype=F64)[..., ::2].copy_(x)
    for found in (P(x), P.project_(x.clone()), P(strided), P.project_(strided)):
        assert found.shape == x.shape
        assert ((found - expected).abs() <= allowed).all()
    b = torch.randn(*lead, given.m, dtype=F64)
    residual = P(x, b) @ given.A.mT - b
    assert (residual.abs() <= 1e-12 * (1 + b.abs())).all()


@every_way
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("lead", [(), (1,), (3,), (70,)])
def test_a_system_for_each_vector(lead, m, way, take):
    take(way)
    A, b = torch.randn(4, m, 11, dtype=F64), torch.randn(4, m, dtype=F64)
    P = projlab.projector(A, b)
    assert isinstance(factor_of(P), OrthonormalRows)
    x = torch.randn(4, *lead, 11, dtype=F64)
    other = torch.randn(4, *lead, m, dtype=F64)
    expected = torch.stack([projlab.projector(A[i], b[i])(x[i]) for i in range(4)])
    moved = torch.stack([projlab.projector(A[i], b[i])(x[i], other[i]) for i in range(4)])
    scale = max(difference_allowed(factor_of(P), x, t) for t in (b, other))
    allowed = scale * float(torch.linalg.cond(A).max())
    assert (P(x) - expected).abs().max() <= allowed
    assert (P.project_(x.clone()) - expected).abs().max() <= allowed
    assert (P(x, other) - moved).abs().max() <= allowed


@every_way
def test_nan_and_infinity_go_through(way, take):
    take(way)
    given = case("random 5 x 12")
    P = projlab.projector(given.A, given.b)
    for value in (torch.nan, torch.inf):
        x = given.x0.clone()
        x[3] = value
        assert not P(x).isfinite().any()
        assert not P.project_(x).isfinite().any()


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_multipliers_and_another_b_by_parts_of_R(lead, take):
    given = case("random 5 x 12")
    whole = projlab.projector(given.A, given.b, "qr")
    take("R in parts")
    P = projlab.projector(given.A, given.b, "qr")
    assert factor_of(P).last.shape == (3, 3)
    x, b = torch.randn(*lead, 12, dtype=F64), torch.randn(*lead, 5, dtype=F64)
    # two backward-stable solves with one matrix (ASNA theorem 8.5)
    bound = {"rtol": 0, "atol": 1e3 * 2.0**-53 * whole.condition**2}
    torch.testing.assert_close(P.multipliers(x, b), whole.multipliers(x, b), **bound)
    torch.testing.assert_close(P(x, b), whole(x, b), **bound)
    assert torch.equal(copy.deepcopy(P).multipliers(x), P.multipliers(x))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("value", [1.0, -0.3])
def test_a_row_of_equal_entries_is_not_read(value, lead, monkeypatch):
    monkeypatch.setattr(tuning, "SMALL", 0)
    P = projlab.projector([value] * 9, 2.0)
    factor, x = factor_of(P), torch.randn(*lead, 9, dtype=F64)
    allowed = difference_allowed(factor, x, P._solver.c)
    expected = textbook(factor, x, P._solver.c)
    factor.W.fill_(torch.nan)
    for found in (P(x), P.project_(x.clone())):
        assert torch.linalg.vector_norm(found - expected, dim=-1).max() <= allowed


# --- what it costs -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_vector_takes_two_operators(dtype):
    given = case("random 5 x 12", dtype)
    P = projlab.projector(given.A, given.b)
    for act in (P, P.project_):
        with HotPath() as hot:
            act(given.x0.clone())
        assert hot.calls == 1 + 2  # the clone, and the two products


def largest_allocation(act):
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        act()
    return max((event.cpu_memory_usage for event in profile.function_events), default=0)


N = 200_000
LARGE = {
    "one row": lambda: torch.ones(1, N, dtype=F64),
    "five rows": lambda: torch.randn(5, N, dtype=F64),
    "forty rows": lambda: torch.randn(40, N // 10, dtype=F64),
}


@pytest.mark.parametrize("rows", LARGE)
@pytest.mark.parametrize("way", ["two passes", "blocks", pytest.param("native", marks=needs_numba)])
def test_nothing_of_the_size_of_x_is_allocated(rows, way, take):
    take(way)
    A = LARGE[rows]()
    P = projlab.projector(A, 1.0, "qr" if len(A) > 1 else "auto")
    x = torch.randn(A.shape[1], dtype=F64)
    leaf = x.clone().requires_grad_()
    assert largest_allocation(lambda: P(x)) >= x.nbytes, "the measurement would see it"
    assert largest_allocation(lambda: P.project_(x)) <= x.nbytes // 100
    with torch.no_grad():
        assert largest_allocation(lambda: P.project_(leaf)) <= x.nbytes // 100


def test_a_second_copy_of_the_rows_is_small():
    """Set-up keeps W once: what is added is bounded whatever the size."""
    for m, n in ((3, 10), (64, 128), (64, 200)):
        factor = factor_of(projlab.projector(torch.randn(m, n, dtype=F64), 0.0))
        assert (factor._negated is None) == (factor.W.nbytes > tuning.SMALL)
        for block in factor._blocks:
            assert block.untyped_storage().data_ptr() == factor.W.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("m", "n", "rows"),
    [(3, 10, 3), (500, 2000, 500), (1000, 5000, 26), (100, 100_000, 4), (8, 1_000_000, 8)],
)
def test_rows_are_taken_in_blocks_where_that_was_measured_to_pay(m, n, rows):
    W = torch.empty(1, dtype=F64).expand(m, n)
    assert tuning.rows_per_block(W) == rows
    assert tuning.rows_per_block(W.to("meta")) == m, "blocks are for caches of a CPU"


# --- threads -----------------------------------------------------------------------------------


@every_way
def test_threads_share_a_projector(way, take):
    take(way)
    given = case("random 30 x 100")
    P = projlab.projector(given.A, given.b)
    points = torch.randn(8, 100, dtype=F64)
    expected = [P(x) for x in points]
    wrong = []

    def work(i):
        for _ in range(300):
            found = P.project_(points[i].clone())
            if not (torch.equal(found, expected[i]) and torch.equal(P(points[i]), expected[i])):
                wrong.append(i)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


# --- the native kernels ------------------------------------------------------------------------


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
    assert way_of(factor_of(projlab.projector(*system()[:2]))) == "small"


def test_without_numba_torch_is_used(native, monkeypatch):
    A, b, x = system()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    P = projlab.projector(A, b)
    monkeypatch.setenv("PROJLAB_NATIVE", "0")
    assert way_of(factor_of(P)) == "small"
    assert torch.equal(P(x), projlab.projector(A, b)(x))


@needs_numba
def test_the_choice_is_made_at_set_up(native, monkeypatch):
    A, b, x = system()
    P = projlab.projector(A, b)
    expected = P(x)
    assert way_of(factor_of(P)) == "native"
    monkeypatch.setenv("PROJLAB_NATIVE", "0")
    assert torch.equal(P(x), expected)
    assert way_of(factor_of(P)) == "native"


@needs_numba
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_has_kernels_of_its_own(native, how):
    A, b, x = system()
    P = projlab.projector(A, b)
    expected = P(x)
    Q = copy.deepcopy(P) if how == "deepcopy" else pickle.loads(pickle.dumps(P))  # noqa: S301
    P.load_state_dict({"A": 2 * A, "b": 3 * b})
    del P
    assert way_of(factor_of(Q)) == "native"
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
    allowed = difference_allowed(factor_of(P), X, P._solver.c)
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
    expected, allowed = P(x), difference_allowed(factor_of(P), x, P._solver.c)
    wide = torch.zeros(12, 3, dtype=F64)
    column = wide[:, 1].copy_(x)
    assert (P.project_(column) - expected).abs().max() <= allowed
    assert wide[:, 0].abs().max() == wide[:, 2].abs().max() == 0
    assert torch.equal(P.project_(x.float()), P(x.float().double()).float())
    row = torch.zeros(3, 12, dtype=F64)
    P.project_(row[1].copy_(x))
    assert torch.equal(row[1], expected)
    assert row[0].abs().max() == row[2].abs().max() == 0


@pytest.mark.parametrize("in_place", [False, True])
def test_one_long_row_of_one_sign_loses_no_digits_to_its_length(in_place):
    """A running sum of 3e6 float32 terms of one sign is off by some 1e-5, a norm of them more."""
    draw = torch.Generator().manual_seed(0)
    a, x = torch.rand(2, 3_000_000, generator=draw)
    P = projlab.projector(a, 1.0, "single_row")
    y = P.project_(x.clone()) if in_place else P(x)
    wide, point = a.double(), x.double()
    exact = point - wide * ((wide @ point - 1) / (wide @ wide))
    assert (y.double() - exact).norm() <= 20 * 2.0**-24 * (point.norm() + (point - exact).norm())
