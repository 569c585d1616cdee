"""A constraint through the life of a training: handles, copies, conversions, what it costs."""

import copy
import io
import pickle
import tracemalloc
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import projlab
from projlab import cat, constrain, expr
from projlab.numerics import tuning
from projlab.training import parameter_system, residual_log
from projlab.training.blocks.sums import SumsBlock

from .test_hot_path import HotPath
from .training import F64, vector

U = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
U[torch.float16] = 2.0**-11


def network(dtype=torch.float32):
    return torch.nn.Sequential(
        torch.nn.Linear(12, 16, dtype=dtype), torch.nn.Tanh(), torch.nn.Linear(16, 5, dtype=dtype)
    )


def backward(net):
    net.zero_grad()
    x = torch.randn(8, 12, dtype=net[0].weight.dtype)
    (net(x) ** 2).sum().backward()


# ---- the handle


def test_handle_shows_what_it_does():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    A = torch.randn(2, 16)
    handle = constrain(
        optimizer, expr(net[2].weight).sum(1) == 1, A @ expr(net[0].bias) == 0, module=net
    )
    text = repr(handle)
    assert 'mode="tangent"' in text
    assert "2.weight[0].sum() == 1, ... (5 rows)" in text
    assert "(A @ 0.bias)[0] == 0, ... (2 rows)" in text
    assert "[5 blocks of 1 row in 16 entries: single_row]" in text
    assert "[2 rows in 16 entries: qr]" in text
    assert handle.residual().shape == (7,)
    assert handle.residual().dtype == F64
    assert handle.steps == 0
    assert handle.residuals.shape == (0,)
    for _ in range(3):
        backward(net)
        optimizer.step()
    assert handle.steps == 3
    assert handle.residuals.shape == (3,)
    assert 0 <= handle.largest_residual < 1e-5
    assert handle.certify().verdict == "certified"
    handle.remove()
    assert repr(handle) == "Handle(removed)"
    with pytest.raises(projlab.ProjlabError, match="was removed"):
        handle.apply()


def test_log_keeps_the_last_steps_in_order():
    p = vector(1.0, 2.0)
    c = torch.tensor(3.0, dtype=F64)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == expr(c), log=4)
    for k in range(6):
        c.fill_(k)
        optimizer.step()  # no gradient: only what feasibility needs
    assert handle.residuals.shape == (4,)
    assert handle.steps == 6
    quiet = constrain(torch.optim.SGD([p], lr=0.1), expr(p).sum() == 5, log=0)
    assert quiet.residuals.numel() == 0


def test_residual_of_a_broken_constraint_is_seen():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 3)
    with torch.no_grad():
        p.add_(1.0)
    assert handle.residual().tolist() == [2.0]
    assert handle.certify().verdict == "failed"
    handle.apply()
    assert handle.residual().tolist() == [0.0]
    assert handle.certify().verdict == "certified"


def test_several_calls_are_one_system_applied_once():
    p = vector(1.0, 2.0, 4.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    first = constrain(optimizer, expr(p).sum() == 6)
    second = constrain(optimizer, expr(p)[0] == 2 * expr(p)[1])
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    assert len(optimizer._optimizer_step_post_hooks) == 1
    assert len(first.blocks) == 1
    assert first.residual().shape == (1,)
    p.grad = torch.randn(3, dtype=F64)
    optimizer.step()
    A = torch.tensor([[1.0, 1.0, 1.0], [1.0, -2.0, 0.0]], dtype=F64)
    torch.testing.assert_close(A @ p.detach(), torch.tensor([6.0, 0.0], dtype=F64))
    torch.testing.assert_close(A @ p.grad, torch.zeros(2, dtype=F64))
    assert first.steps == 1
    first.remove()
    assert second.blocks == ("1 row in 2 entries: single_row",)
    second.remove()
    assert not optimizer._optimizer_step_pre_hooks
    assert "_projlab_hooks" not in vars(optimizer)
    pickle.dumps(optimizer)


def test_one_system_has_one_setting():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    constrain(optimizer, expr(p).sum() == 3)
    with pytest.raises(projlab.InputError, match='a constraint with mode="tangent"'):
        constrain(optimizer, expr(p)[0] == 1, variant="qr")
    assert p.tolist() == [1.0, 2.0]


def test_context_manager_removes_it():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    with constrain(optimizer, expr(p).sum() == 3):
        p.grad = torch.ones(2, dtype=F64)
        optimizer.step()
        assert p.tolist() == [1.0, 2.0]
    p.grad = torch.ones(2, dtype=F64)
    optimizer.step()
    assert p.tolist() == [0.9, 1.9]


def test_the_same_equation_twice_is_stated_once():
    W = torch.nn.Parameter(torch.randn(6, 5))
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(1) == 1, expr(W).sum(1) == 1)
    assert handle.blocks == ("6 blocks of 1 row in 5 entries: single_row",)
    assert handle.residual().shape == (12,)


# ---- parameters that do not move


def test_parameters_without_gradient_stay_unless_feasibility_needs_them():
    p, q, c = vector(1.0, 1.5, 0.5), vector(3.0, 4.0), torch.tensor([10.0], dtype=F64)
    optimizer = torch.optim.Adam([p, q], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() + expr(q).sum() == expr(c))
    for _ in range(3):
        before = q.detach().clone()
        p.grad, q.grad = torch.tensor([3.0, 0.0, 0.0], dtype=F64), None
        optimizer.step()
        assert torch.equal(q, before)
        torch.testing.assert_close(p.grad, torch.tensor([2.0, -1.0, -1.0], dtype=F64))
        assert abs(float(handle.residual())) < 1e-14
    c.fill_(12.0)
    p.grad = None
    optimizer.step()
    assert abs(float(handle.residual())) < 1e-14
    assert not torch.equal(q, before)


def test_a_row_that_only_holds_parameters_without_gradient_leaves_them_alone():
    p, q = vector(1.0, 2.0), vector(3.0)
    optimizer = torch.optim.SGD([p, q], lr=0.1)
    constrain(
        optimizer, expr(p).sum() == 3, expr(q) + 0 * expr(p)[0] == 3, expr(p)[1] == expr(q) - 1
    )
    p.grad = torch.tensor([1.0, 5.0], dtype=F64)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([1.0, 2.0], dtype=F64))
    assert q.tolist() == [3.0]


@pytest.mark.parametrize("outside", ["frozen", "not in the optimizer", "no parameter"])
def test_constants_are_read_at_each_step(outside):
    p, c = vector(1.0, 2.0), vector(1.0)
    parameters = [p]
    if outside == "frozen":
        c.requires_grad_(False)
        parameters.append(c)
    if outside == "no parameter":
        c = c.detach()
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    handle = constrain(optimizer, expr(p)[0] + expr(p)[1] == 3 * expr(c))
    assert abs(float(p.detach().sum()) - 3) < 1e-15
    with torch.no_grad():
        c.fill_(5.0)
    p.grad = torch.zeros(2, dtype=F64)
    optimizer.step()
    assert p.tolist() == [7.0, 8.0]
    assert float(c.detach()) == 5.0
    assert handle.residual().tolist() == [0.0]


def test_unfreezing_is_noticed():
    p, c = vector(1.0), vector(1.0)
    c.requires_grad_(False)
    optimizer = torch.optim.SGD([p, c], lr=0.1)
    constrain(optimizer, expr(p) == expr(c))
    c.requires_grad_(True)
    p.grad, c.grad = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    optimizer.step()
    assert p.tolist() == c.tolist() == [0.95]


# ---- conversions, replacements, copies


def test_a_change_of_dtype_is_noticed():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    A = torch.randn(2, 16)
    handle = constrain(optimizer, expr(net[2].weight).sum(1) == 1, A @ expr(net[0].bias) == 0)
    net.double()
    backward(net)
    optimizer.step()
    assert handle.residual().abs().max() < 1e-13


def test_a_parameter_added_to_the_optimizer_varies():
    p, q = vector(1.0), vector(1.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    constrain(optimizer, expr(p) == expr(q))
    optimizer.add_param_group({"params": [q]})
    p.grad, q.grad = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    optimizer.step()
    assert p.tolist() == q.tolist() == [0.95]


def test_a_replaced_or_reshaped_parameter_is_said():
    p, q = vector(1.0, 2.0), vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    constrain(optimizer, expr(p, name="scale").sum() == 3)
    optimizer.param_groups[0]["params"][0] = q
    with pytest.raises(projlab.ProjlabError, match="no longer holds scale"):
        optimizer.step()
    optimizer.param_groups[0]["params"][0] = p
    p.data = torch.ones(3, dtype=F64)
    with pytest.raises(
        projlab.ProjlabError, match=r"scale changed its shape from \(2,\) to \(3,\)"
    ):
        optimizer.step()


def test_a_deep_copy_keeps_the_constraint_on_its_own_parameters():
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    handle = constrain(optimizer, expr(net[2].weight).sum(1) == expr(net[2].bias), module=net)
    twin_net, twin = copy.deepcopy((net, optimizer))
    assert twin.param_groups[0]["params"][0] is twin_net[0].weight
    for _ in range(3):
        backward(twin_net)
        twin.step()
    torch.testing.assert_close(twin_net[2].weight.sum(1), twin_net[2].bias)
    assert handle.steps == 0
    backward(net)
    optimizer.step()
    assert handle.steps == 1
    again = copy.deepcopy(twin)
    assert again._optimizer_step_pre_hooks
    alone = copy.deepcopy(optimizer)
    for p in alone.param_groups[0]["params"]:
        p.grad = torch.randn_like(p)
    alone.step()
    W, b = alone.param_groups[0]["params"][2:]
    torch.testing.assert_close(W.sum(1), b)


def test_pickling_says_that_the_constraint_stays_behind():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.Adam([p], lr=0.1)
    constrain(optimizer, expr(p).sum() == 3)
    with pytest.warns(UserWarning, match="does not take its constraint along"):
        data = pickle.dumps(optimizer)
    assert not pickle.loads(data)._optimizer_step_pre_hooks  # noqa: S301  our own bytes
    with pytest.warns(UserWarning, match="does not take its constraint along"):
        torch.save(optimizer, io.BytesIO())
    with pytest.warns(UserWarning, match="does not take its constraint along"):
        copy.copy(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer._optimizer_step_pre_hooks


def test_resuming_gives_the_same_bits():
    def setting(seed):
        torch.manual_seed(seed)
        net = network()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
        A = torch.linspace(-1, 1, 32).reshape(2, 16)
        return net, optimizer, [expr(net[2].weight).sum(1) == 1, A @ expr(net[0].bias) == 0]

    net, optimizer, equations = setting(0)
    constrain(optimizer, *equations)
    for k in range(4):
        if k == 2:
            saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        torch.manual_seed(k)
        backward(net)
        optimizer.step()
    other, resumed, equations = setting(1)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    constrain(resumed, *equations)
    for k in (2, 3):
        torch.manual_seed(k)
        backward(other)
        resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_the_optimizer_can_be_collected():
    import gc
    import weakref

    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 3)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    with pytest.raises(projlab.ProjlabError, match="no longer exists"):
        handle.apply()


# ---- precision and cost


@pytest.mark.parametrize("dtype", U)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_every_step_holds_to_rounding(dtype, optimizer):
    W = torch.nn.Parameter(torch.rand(40, 30).to(dtype))
    p = torch.nn.Parameter(torch.randn(60).to(dtype))
    A = torch.randn(4, 60)
    if optimizer == "SGD":
        opt = torch.optim.SGD([W, p], lr=0.05)
    else:
        opt = torch.optim.Adam([W, p], lr=0.05, eps=1e-3)
    rows = constrain(opt, expr(W).sum(1) == 1)
    dense = constrain(opt, A @ expr(p) == 1)
    for _ in range(200):
        W.grad, p.grad = torch.randn_like(W), torch.randn_like(p)
        opt.step()
        bound = 8 * U[dtype] * (W.detach().double().abs().sum(1) + 1)
        assert bool((rows.residual().abs() <= bound).all())
        bound = 8 * U[dtype] * (A.double().abs() @ p.detach().double().abs() + 1)
        assert bool((dense.residual().abs() <= bound).all())
    assert W.dtype == p.dtype == dtype


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_a_step_from_far_away_holds_to_rounding_of_where_it_ends(dtype):
    W = torch.nn.Parameter(torch.rand(4, 30, dtype=dtype))
    p = torch.nn.Parameter(torch.randn(60, dtype=dtype))
    A = torch.randn(4, 60)
    opt = torch.optim.SGD([W, p], lr=1.0)
    rows = constrain(opt, expr(W).sum(1) == 1, mode="post")
    dense = constrain(opt, A @ expr(p) == 1, mode="post")
    W.grad = torch.full_like(W, 1e5)
    p.grad = 1e5 * A.sum(0).to(dtype)
    opt.step()
    bound = 8 * U[dtype] * (W.detach().double().abs().sum(1) + 1)
    assert bool((rows.residual().abs() <= bound).all())
    bound = 8 * U[dtype] * (A.double().abs() @ p.detach().double().abs() + 1)
    assert bool((dense.residual().abs() <= bound).all())


def test_rows_that_repeat_others_hold_to_rounding_too():
    for seed in range(8):
        torch.manual_seed(seed)
        W = torch.nn.Parameter(torch.rand(16, 16, dtype=F64))
        optimizer = torch.optim.SGD([W], lr=0.1)
        handle = constrain(optimizer, expr(W).sum(0) == 1, expr(W).sum(1) == 1)
        size = torch.cat([W.detach().abs().sum(0), W.detach().abs().sum(1)]) + 1
        assert bool((handle.residual().abs() <= 8 * U[F64] * size).all())


def test_gradients_of_other_strides_are_projected():
    W = torch.nn.Parameter(torch.ones(4, 3, dtype=F64))
    A = torch.randn(2, 12, dtype=F64)
    for equation, matrix in (
        (expr(W).sum(1) == 3, torch.eye(4, dtype=F64).repeat_interleave(3, 1)),
        (A @ expr(W).flatten() == A.sum(1), A),
    ):
        optimizer = torch.optim.SGD([W], lr=0.1)
        with constrain(optimizer, equation):
            W.grad = torch.randn(3, 4, dtype=F64).t()
            optimizer.step()
            flat = W.grad.reshape(-1)
            torch.testing.assert_close(matrix @ flat, torch.zeros(len(matrix), dtype=F64))


@pytest.mark.parametrize("switch", ["autocast", "medium"])
def test_precision_switches_do_not_leak_in(switch):
    p = torch.nn.Parameter(torch.randn(60))
    A = torch.randn(4, 60)
    opt = torch.optim.SGD([p], lr=0.05)
    handle = constrain(opt, A @ expr(p) == 1)
    p.grad = torch.randn(60)
    if switch == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            opt.step()
    else:
        torch.set_float32_matmul_precision("medium")
        try:
            opt.step()
        finally:
            torch.set_float32_matmul_precision("highest")
    bound = 8 * U[torch.float32] * (A.abs() @ p.detach().abs() + 1)
    assert bool((handle.residual().abs() <= bound).all())


def blocks_of_every_kind(dtype):
    W = torch.nn.Parameter(torch.randn(6, 5, dtype=dtype))
    p, q = (torch.nn.Parameter(torch.randn(400, dtype=dtype)) for _ in range(2))
    c = torch.ones(1, dtype=dtype)
    equations, start = [], 0
    for k in range(2, 24):
        weights = torch.randn(k)
        equations.append((weights * expr(p)[start : start + k]).sum() == k)
        start += k
    equations += [
        expr(W).sum(1) == expr(c),
        torch.randn(3, 100) @ expr(q)[:100] == 1,
        expr(q)[[101, 105, 108]].sum() == 1,
        torch.randn(2, 10) @ expr(q)[200:300].reshape(10, 10) == 0,
    ]
    return [W, p, q], equations


MODES = {
    "Adam": (lambda ps: torch.optim.Adam(ps, lr=0.01, fused=True), "tangent"),
    "decay": (lambda ps: torch.optim.SGD(ps, lr=0.01, weight_decay=0.1, fused=True), "tangent"),
    "SGD, post": (lambda ps: torch.optim.SGD(ps, lr=0.01, fused=True), "post"),
}


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Values are not looked at, as where that would wait."""
    for module in (parameter_system, residual_log):
        monkeypatch.setattr(module, "reads_values", lambda device: False)


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODES)
def test_a_step_does_not_wait_for_the_device(dtype, name, as_on_a_device):
    make, mode = MODES[name]
    parameters, equations = blocks_of_every_kind(dtype)
    optimizer = make(parameters)
    constrain(optimizer, *equations, mode=mode)
    for missing in (None, 2):
        for k in range(2):  # what is derived for a pattern of gradients is derived once
            for i, p in enumerate(parameters):
                p.grad = None if i == missing else torch.randn_like(p)
            if k == 0:
                optimizer.step()
                continue
            optimizer.found_inf = torch.zeros(())
            optimizer.grad_scale = torch.ones(())
            with HotPath() as hot:
                optimizer.step()
            del optimizer.found_inf, optimizer.grad_scale
            assert hot.calls


def test_a_metric_step_does_not_wait_for_the_device(as_on_a_device):
    W = torch.nn.Parameter(torch.randn(6, 5))
    p = torch.nn.Parameter(torch.randn(12))
    optimizer = torch.optim.SGD([W, p], lr=0.1, fused=True)
    handle = constrain(
        optimizer,
        expr(W).sum(1) == 1,
        (torch.randn(4, 3) * expr(p).reshape(4, 3)).sum(1) == 1,
        mode="metric",
    )
    W.grad, p.grad = torch.randn_like(W), torch.randn_like(p)
    with HotPath():
        optimizer.step()
    assert handle.residual().abs().max() < 1e-5


class Fresh(TorchDispatchMode):
    """Sizes of the tensors that operations allocate."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            known = {
                t.untyped_storage().data_ptr()
                for t in tree_leaves((args, kwargs))
                if isinstance(t, torch.Tensor)
            }
            if out.untyped_storage().data_ptr() not in known:
                self.sizes.append(out.numel())
        return out


def test_row_sums_of_a_large_matrix_cost_what_a_sum_costs():
    W = torch.nn.Parameter(torch.randn(1024, 2048))
    optimizer = torch.optim.SGD([W], lr=0.1)
    small = torch.nn.Parameter(torch.randn(2, 2))
    constrain(torch.optim.SGD([small], lr=0.1), expr(small).sum(dim=1) == 1)  # for its imports
    tracemalloc.start()
    handle = constrain(optimizer, expr(W).sum(dim=1) == 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (block,) = handle._hooks.system.blocks
    assert isinstance(block, SumsBlock)
    held = sum(t.numel() for t in vars(block).values() if torch.is_tensor(t))
    assert held == 1024  # the row numbers
    assert peak < 1e6
    W.grad = torch.randn_like(W)
    hooks = handle._hooks
    with Fresh() as fresh:
        hooks._project_gradients()
        hooks._after()
    assert fresh.sizes
    assert max(fresh.sizes) <= tuning.GROUPS * 1024


def test_dense_rows_are_applied_without_a_copy_of_the_parameters():
    ps = [torch.nn.Parameter(torch.randn(50, 40)), torch.nn.Parameter(torch.randn(3000))]
    optimizer = torch.optim.SGD(ps, lr=0.1)
    A = torch.randn(4, 5000)
    handle = constrain(optimizer, A @ cat(*map(expr, ps)) == 1)
    for p in ps:
        p.grad = torch.randn_like(p)
    hooks = handle._hooks
    with Fresh() as fresh:
        hooks._project_gradients()
        hooks._after()
    assert fresh.sizes
    assert max(fresh.sizes) <= 1024  # the log


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.Adam])
def test_a_compiled_step_is_constrained_at_every_step(cls):
    plain, compiled = (torch.nn.Parameter(torch.linspace(0, 1, 6)) for _ in range(2))
    ends = []
    for p, wrap in ((plain, lambda f: f), (compiled, lambda f: torch.compile(f, backend="eager"))):
        optimizer = cls([p], lr=0.1)
        handle = constrain(optimizer, expr(p).sum() == 1)
        step = wrap(optimizer.step)
        for k in range(4):
            p.grad = torch.sin(torch.arange(6.0) + k)
            step()
            assert abs(float(p.detach().sum()) - 1) < 1e-6
        assert handle.steps == 4
        ends.append(p.detach())
    torch.testing.assert_close(ends[0], ends[1])


def test_a_thousand_steps_of_a_network_on_digits():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits

    data = load_digits()
    X = torch.tensor(data.data / 16, dtype=torch.float32)
    y = torch.tensor(data.target)
    losses = {}
    for constrained in (False, True):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        handle = None
        if constrained:
            handle = constrain(
                optimizer, expr(net[2].weight).sum(0) == 0, expr(net[0].weight).sum(1) == 1
            )
        for k in range(1000):
            batch = torch.randperm(len(y), generator=torch.Generator().manual_seed(k))[:64]
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(X[batch]), y[batch])
            loss.backward()
            optimizer.step()
            if handle is not None:
                size = torch.cat(
                    [net[2].weight.detach().abs().sum(0), net[0].weight.detach().abs().sum(1) + 1]
                )
                assert bool((handle.residual().abs() <= 8 * U[torch.float32] * size).all())
        losses[constrained] = float(torch.nn.functional.cross_entropy(net(X), y).detach())
    assert losses[True] < 1.5 * losses[False] + 0.02


# ---- one correction, or two


def far_and_near(dtype, equations):
    """A large parameter, its optimizer and handle, and how many corrections a step made."""
    torch.manual_seed(0)
    W = torch.nn.Parameter(1e-3 * torch.randn(1024, 1030, dtype=dtype))
    optimizer = torch.optim.SGD([W], lr=1.0)
    handle = constrain(optimizer, *equations(W), mode="post")
    (block,) = handle._hooks.system.blocks
    made = []
    subtract = block.subtract

    def counted(r):
        made.append(1)
        subtract(r)

    block.subtract = counted
    return W, optimizer, handle, made


LARGE = {
    "column sums of a thousandth": lambda W: [expr(W).sum(0) == 1e-3],
    "column sums": lambda W: [expr(W).sum(0) == 0],
    "one total": lambda W: [expr(W).sum() == 0],
    "dense rows": lambda W: [torch.randn(3, W.numel(), dtype=W.dtype) @ expr(W).reshape(-1) == 0],
}


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("name", LARGE)
def test_a_second_correction_is_made_where_one_is_not_enough(dtype, name):
    W, optimizer, handle, made = far_and_near(dtype, LARGE[name])
    (rows,) = handle.equations[0].difference.terms
    if name == "dense rows":
        rows = replace(rows, entries=rows.entries.abs())

    def worst():
        terms = rows.evaluate(W.detach().abs(), F64)  # sum_i |a_i x_i|, row by row
        return float((handle.residual().abs() / (U[dtype] * terms)).max())

    W.grad = 1e-5 * torch.randn_like(W)
    optimizer.step()
    assert len(made) == 1
    assert worst() <= 8
    made.clear()
    # in a step this long, the rounding of what is subtracted is larger than what is left
    W.grad = 10 + torch.randn_like(W)
    if name == "dense rows":
        W.grad = handle.equations[0].difference.terms[0].entries.sum(0).reshape(W.shape)
    optimizer.step()
    assert len(made) == 2
    assert worst() <= 8


@pytest.mark.parametrize("name", LARGE)
def test_large_parameters_that_hold_are_left_alone(name):
    W, _, handle, made = far_and_near(torch.float32, LARGE[name])
    before = W.detach().clone()
    handle.apply()
    assert not made
    assert torch.equal(W.detach(), before)
    W.detach()[0, 0] += 1.0
    handle.apply()
    assert len(made) == 1
    assert not torch.equal(W.detach(), before)


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
def test_column_sums_at_distances_of_pages(dtype):
    W = torch.nn.Parameter(torch.rand(512, 2048).to(dtype))
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, 2 * expr(W).sum(0) == 1)
    (block,) = handle._hooks.system.blocks
    assert block._by_product == [dtype is not torch.bfloat16]
    W.grad = torch.randn(512, 2048).to(dtype)
    exact = W.grad.double() - W.grad.double().mean(0)
    handle._hooks._project_gradients()
    assert (W.grad.double() - exact).abs().max() <= 8 * U[dtype] * exact.abs().max()
    optimizer.step()
    size = 2 * W.detach().double().abs().sum(0) + 1
    assert bool((handle.residual().abs() <= 8 * U[dtype] * size).all())


def test_a_parameter_may_move_to_other_memory():
    W = torch.nn.Parameter(torch.randn(4, 5))
    optimizer = torch.optim.SGD([W], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(1) == 1)
    for _ in range(2):
        left = W.data
        W.data = torch.randn(4, 5)
        before = left.clone()
        W.grad = torch.randn(4, 5)
        optimizer.step()
        assert handle.residual().abs().max() < 1e-6
        assert torch.equal(left, before)
