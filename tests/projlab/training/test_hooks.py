"""A constraint through the life of a training: what runs before and after each step."""

import contextlib
import copy

import pytest
import torch

import projlab
from projlab import constrain, expr
from projlab.training import parameter_system, residual_log
from tests.projlab.training.helpers import (
    F64,
    U,
    article_2,
    backward,
    network,
    parameter,
    vector,
)
from tests.projlab.watching import HotPath


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


# ---- conversions and replacements


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


@pytest.mark.parametrize("where", ["constrain", "step", "apply"])
@pytest.mark.parametrize("bounds", [False, True])
def test_what_is_set_up_in_inference_mode_serves_outside_of_it(where, bounds):
    W, v = parameter(3, 4), parameter(3)
    optimizer = torch.optim.SGD([W, v], lr=0.1)
    more = [expr(W) >= -1] if bounds else []

    def inside(name):
        return torch.inference_mode() if name == where else contextlib.nullcontext()

    with inside("constrain"):
        handle = constrain(optimizer, expr(W).sum(1) + expr(v) == 1, *more)
    for sleeping in (None, v, W):
        for p in (W, v):
            p.grad = None if p is sleeping else torch.ones_like(p)
        with inside("step"):
            optimizer.step()
    with inside("apply"):
        handle.set_right_side(0.5, *(None for _ in more))
        handle.apply()
    for sleeping in (None, v, W):
        for p in (W, v):
            p.grad = None if p is sleeping else torch.ones_like(p)
        assert len(handle.multipliers()) == 1 + bounds
        optimizer.step()
    assert handle.residual().abs().max() < 1e-14
    assert handle.steps == 6


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


# ---- gradient scalers, closures, clipping, accumulation


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad])
def test_a_step_that_the_scaler_skips_changes_nothing(cls):
    p = torch.nn.Parameter(torch.randn(7))
    optimizer = cls([p], lr=0.1, fused=True)
    handle = constrain(optimizer, expr(p).sum() == 1, expr(p)[0] == 2 * expr(p)[1])
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    for bad in (False, True, True, False):
        optimizer.zero_grad()
        scaler.scale((p * torch.arange(7.0)).sum()).backward()
        if bad:
            p.grad[3] = torch.inf
        before = p.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(p, before) == bad
    assert handle.residual().abs().max() <= 8 * U[torch.float32] * float(p.detach().abs().sum() + 1)


@pytest.mark.parametrize("call", ["positional", "keyword"])
def test_a_closure_is_wrapped_however_it_is_given(call):
    problem = article_2()
    optimizer = torch.optim.Adam(problem.parameters, lr=0.1)
    constrain(optimizer, *problem.equations)
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = problem.loss()
        loss.backward()
        seen.append([float(p.grad) for p in problem.parameters])
        return loss

    for _ in range(800):
        loss = optimizer.step(closure) if call == "positional" else optimizer.step(closure=closure)
        g = [float(p.grad) for p in problem.parameters]
        assert abs(g[0] - 2 * g[1]) < 1e-14  # the null space of (1, -2) is along (2, 1)
    assert loss.requires_grad
    assert seen
    assert problem.distance() < 1e-5


def test_clipping_and_accumulation_come_before_the_projection():
    p = vector(1.0, 2.0, 3.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    constrain(optimizer, expr(p).sum() == 6)
    for _ in range(2):
        (p * torch.tensor([3.0, 0.0, 0.0], dtype=F64)).sum().backward()
    torch.nn.utils.clip_grad_norm_([p], 3.0)
    optimizer.step()
    torch.testing.assert_close(
        p.grad, torch.tensor([2.0, -1.0, -1.0], dtype=F64), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        p.detach(), torch.tensor([0.8, 2.1, 3.1], dtype=F64), rtol=0, atol=1e-5
    )


def test_a_sparse_gradient_is_refused():
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    constrain(optimizer, expr(embedding.weight).sum(1) == 1)
    embedding(torch.tensor([1, 2])).sum().backward()
    before = embedding.weight.detach().clone()
    with pytest.raises(projlab.InputError, match="sparse gradient"):
        optimizer.step()
    assert torch.equal(embedding.weight, before)


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
