"""Every torch optimizer keeps its equations at every step, and ends at the constrained optimum."""

import inspect
import warnings

import pytest
import torch

import projlab
from projlab import cat, constrain, expr

from .training import (
    ALL_EXAMPLES,
    EXAMPLES,
    F64,
    SETTINGS,
    article_2,
    train,
    vector,
)

U32 = 2.0**-24
TANGENT = [(name, example) for name, s in SETTINGS.items() for example in s.examples]


def test_every_optimizer_of_torch_is_here():
    own = {
        name
        for name, cls in vars(torch.optim).items()
        if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer)
    }
    tried = {name.split(",")[0] for name in SETTINGS}
    assert own - {"Optimizer", "SparseAdam"} == tried


@pytest.mark.parametrize(("name", "example"), TANGENT)
def test_tangent_ends_at_the_constrained_optimum(name, example):
    problem = ALL_EXAMPLES[example]()
    handle = train(problem, SETTINGS[name], "tangent")
    assert problem.distance() <= SETTINGS[name].reach
    assert handle.largest_residual <= 1e-14
    assert handle.certify(accuracy=1e-14).verdict == "certified"


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("mode", ["tangent", "post", "metric"])
def test_the_constraint_is_applied_at_every_step(name, mode):
    setting = SETTINGS[name]
    if mode == "metric" and not setting.metric:
        pytest.skip("refused: no diagonal metric, or one that is tested under another name")
    problem = ALL_EXAMPLES["article 2" if "article 2" in setting.examples else "matrix"]()
    before = [p.detach().clone() for p in problem.parameters]
    seen = []

    def watch(handle):
        u = 2.0**-53
        x = torch.cat([p.detach().abs().flatten() for p in problem.parameters])
        assert handle.residual().abs().max() <= 8 * u * (2 * x.sum() + 1)
        seen.append(handle.steps)

    handle = train(problem, setting, mode, steps=20, watch=watch)
    assert seen == list(range(1, 21))
    assert len(handle.residuals) == 20
    assert not all(torch.equal(p, x) for p, x in zip(problem.parameters, before, strict=True))


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.metric])
def test_metric_ends_at_the_constrained_optimum(name):
    for example in ("article 1", "article 2"):
        problem = EXAMPLES[example]()
        handle = train(problem, SETTINGS[name], "metric")
        assert problem.distance() <= SETTINGS[name].reach
        assert handle.largest_residual <= 1e-14


def test_metric_is_the_one_the_optimizer_divided_by():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.Adam([p], lr=0.1, eps=1.0)
    constrain(optimizer, expr(p).sum() == 3, mode="metric")
    p.grad = torch.tensor([1.0, 3.0], dtype=F64)
    optimizer.step()
    # corrected for bias, the averages are g and g^2: Adam divides by (1 + 1, 3 + 1)
    moved = torch.tensor([1 - 0.1 / 2, 2 - 0.3 / 4], dtype=F64)
    share = torch.tensor([1 / 2, 1 / 4], dtype=F64)
    wanted = moved + share / share.sum() * (3 - moved.sum())
    torch.testing.assert_close(p.detach(), wanted)


@pytest.mark.parametrize("name", SETTINGS)
def test_post_ends_elsewhere_where_theory_says(name):
    setting = SETTINGS[name]
    example = "article 2" if "article 2" in setting.examples else "matrix"
    problem = ALL_EXAMPLES[example]()
    handle = train(problem, setting, "post")
    assert handle.largest_residual <= 1e-14
    if setting.post:
        assert problem.distance() <= setting.reach
    elif name not in ("LBFGS", "Muon"):  # theirs may be close by luck
        assert problem.distance() > 0.1


def test_post_warns_and_names_the_optimizers():
    p = vector(1.0, 2.0)
    with pytest.warns(UserWarning, match=r"under Adam:.*Adam, AdamW.*LBFGS"):
        constrain(torch.optim.Adam([p]), expr(p).sum() == 1, mode="post")
    q = vector(1.0, 2.0)
    groups = [{"params": [p], "lr": 0.1}, {"params": [q], "lr": 0.2}]
    with pytest.warns(UserWarning, match="different learning rates"):
        constrain(torch.optim.SGD(groups), expr(p).sum() == expr(q).sum(), mode="post")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        constrain(torch.optim.SGD([p], lr=0.1), expr(p).sum() == 1, mode="post")


# ---- weight decay


def ridge(target, decay, A, b):
    """argmin 0.5 ||x - target||^2 + sum decay_i x_i^2 / 2 subject to A x = b."""
    n, m = len(target), len(b)
    K = torch.zeros(n + m, n + m, dtype=F64)
    K[:n, :n] = torch.diag(1 + decay)
    K[:n, n:], K[n:, :n] = A.T, A
    return torch.linalg.solve(K, torch.cat([target, b]))[:n]


DECAYS = {
    "SGD": lambda g, **k: torch.optim.SGD(g, lr=0.1, **k),
    "SGD, momentum": lambda g, **k: torch.optim.SGD(g, lr=0.05, momentum=0.9, **k),
    "SGD, fused": lambda g, **k: torch.optim.SGD(g, lr=0.1, fused=True, **k),
    "Adam": lambda g, **k: torch.optim.Adam(g, lr=0.05, **k),
    "Adam, fused": lambda g, **k: torch.optim.Adam(g, lr=0.05, fused=True, **k),
    "NAdam": lambda g, **k: torch.optim.NAdam(g, lr=0.05, **k),
    "Adamax": lambda g, **k: torch.optim.Adamax(g, lr=0.05, **k),
    "Adagrad": lambda g, **k: torch.optim.Adagrad(g, lr=0.5, **k),
    "RAdam": lambda g, **k: torch.optim.RAdam(g, lr=0.05, **k),
}


@pytest.mark.parametrize("name", DECAYS)
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_coupled_weight_decay_has_the_ridge_optimum(name, maximize, scaled):
    if scaled and "fused" not in name:
        pytest.skip("only fused optimizers see scaled gradients")
    p, q = vector(0.3, -0.2), vector(1.0)
    A = torch.tensor([[1.0, -2.0, 3.0]], dtype=F64)
    b = torch.tensor([1.0], dtype=F64)
    target = torch.tensor([1.0, 2.0, -1.0], dtype=F64)
    groups = [{"params": [p], "weight_decay": 0.5}, {"params": [q], "weight_decay": 2.0}]
    optimizer = DECAYS[name](groups, maximize=maximize)
    constrain(optimizer, A @ cat(expr(p), expr(q)) == b)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 - k / 1500) ** 2)
    for _ in range(1500):
        optimizer.zero_grad()
        loss = 0.5 * (torch.cat([p, q]) - target).square().sum()
        scaler.scale(-loss if maximize else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
    wanted = ridge(target, torch.tensor([0.5, 0.5, 2.0], dtype=F64), A, b)
    torch.testing.assert_close(torch.cat([p, q]).detach(), wanted, rtol=0, atol=1e-5)


def test_decoupled_decay_is_left_to_the_optimizer():
    p, q = vector(1.0, 2.0), vector(1.0, 2.0)
    for cls, keywords in (
        (torch.optim.AdamW, {"weight_decay": 0.5}),
        (torch.optim.Adam, {"weight_decay": 0.5, "decoupled_weight_decay": True}),
    ):
        optimizer = cls([p], lr=0.1, **keywords)
        constrain(optimizer, expr(p).sum() == 3)
        p.grad = torch.tensor([1.0, 3.0], dtype=F64)
        optimizer.step()
        assert p.grad.tolist() == [-1.0, 1.0]  # the tangent part of the gradient alone
        assert abs(float(p.detach().sum()) - 3) < 1e-15

    class Unknown(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1, "weight_decay": 0.1})

        def step(self, closure=None):
            return None

    with pytest.raises(projlab.InputError, match="coupled_weight_decay=True or False"):
        constrain(Unknown([q]), expr(q).sum() == 1)
    constrain(Unknown([q]), expr(q).sum() == 1, coupled_weight_decay=True)


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
    assert handle.residual().abs().max() <= 8 * U32 * float(p.detach().abs().sum() + 1)


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


def test_capturable_differentiable_and_per_group_rates():
    p, q = vector(0.0), vector(0.0)
    groups = [{"params": [p], "lr": 0.02}, {"params": [q], "lr": 0.2}]
    optimizer = torch.optim.Adam(groups)
    constrain(optimizer, expr(p) - 2 * expr(q) == 0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 - k / 1500) ** 2)
    for _ in range(1500):
        optimizer.zero_grad()
        ((p - 1) ** 2 + (q - 2) ** 2).sum().backward()
        optimizer.step()
        schedule.step()
    assert abs(float(p.detach()) - 1.6) < 1e-4
    with pytest.raises(projlab.InputError, match="differentiable"):
        constrain(torch.optim.SGD([q], lr=0.1, differentiable=True), expr(q) == 1)


# ---- what is refused, before anything changes


def state(*parameters):
    return [p.detach().clone() for p in parameters]


@pytest.mark.parametrize(
    ("equations", "message"),
    [
        (lambda p, q: (expr(p).sum() == 1, expr(p).sum() == 2), r"p1.sum\(\) == 1 and p1.sum"),
        (
            lambda p, q: (expr(p)[0] + expr(p)[1] == 1, expr(p)[0] == 0, expr(p)[1] == 0),
            r"\(p1\[1\] == 0\) = \(p1\[0\] \+ p1\[1\] == 1\) - \(p1\[0\] == 0\)",
        ),
        (lambda p, q: (0 * expr(p)[:2] == 1,), r"0 \* p1\[0\] == 1 holds no parameter"),
    ],
)
def test_conflicting_equations_are_refused_by_name(equations, message):
    p, q = vector(1.0, 2.0, 3.0), vector(1.0)
    before = state(p, q)
    optimizer = torch.optim.SGD([p, q], lr=0.1)
    constrain(optimizer, expr(q) == 1)
    with pytest.raises(projlab.InconsistentError, match=message):
        constrain(optimizer, *equations(p, q))
    assert all(torch.equal(a, b) for a, b in zip(state(p, q), before, strict=True))
    assert len(optimizer._optimizer_step_pre_hooks) == 1


def test_a_conflict_in_one_of_many_equal_blocks_is_named():
    W = torch.nn.Parameter(torch.zeros(2, 3, dtype=F64))
    right = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 3.0]], dtype=F64)
    A = torch.tensor([[1.0, 1.0], [2.0, 2.0]], dtype=F64)
    with pytest.raises(projlab.InconsistentError, match=r"\(\(A @ W0\)\[1, 2\] == 3\) = 2 \*"):
        constrain(torch.optim.SGD([W], lr=0.1), A @ expr(W) == right)
    right[1, 2] = 2.0
    handle = constrain(torch.optim.SGD([W], lr=0.1), A @ expr(W) == right)
    with pytest.raises(projlab.ProjlabError):
        handle.apply()  # nobody kept the optimizer
    torch.testing.assert_close(A @ W.detach(), right)


def test_infeasible_start_is_projected_or_refused():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    with pytest.raises(projlab.InputError, match=r"do not satisfy p0\.sum\(\) == 5"):
        constrain(optimizer, expr(p).sum() == 5, start="raise")
    assert p.tolist() == [1.0, 2.0]
    assert not optimizer._optimizer_step_pre_hooks
    constrain(optimizer, expr(p).sum() == 5)
    assert p.tolist() == [2.0, 3.0]
    q = vector(0.1, 0.2)
    bits = state(q)
    constrain(torch.optim.SGD([q], lr=0.1), expr(q).sum() == 0.3, start="raise")
    assert torch.equal(q, bits[0])  # holds up to rounding: not touched


class FlatParameter(torch.nn.Parameter):
    _is_flat_param = True


def test_optimizers_and_parameters_that_are_refused():
    p = vector(1.0, 2.0)
    flat = FlatParameter(torch.ones(2))
    cases = [
        (torch.optim.SparseAdam([p]), expr(p) == 1, {}, "SparseAdam"),
        (torch.optim.SGD([flat], lr=0.1), expr(flat).sum() == 1, {}, "flat parameter of FSDP"),
        (torch.nn.Linear(1, 1), expr(p) == 1, {}, "takes a torch.optim.Optimizer"),
        (torch.optim.SGD([p], lr=0.1), True, {}, "equation 0 is a bool"),
        (torch.optim.SGD([p], lr=0.1), expr(vector(1.0)) == 1, {}, "no parameter that this"),
        (torch.optim.SGD([p], lr=0.1), expr(p) == 1, {"mode": "dual"}, "mode='dual'"),
        (torch.optim.SGD([p], lr=0.1), expr(p) == 1, {"start": "no"}, "start='no'"),
        (torch.optim.SGD([p], lr=0.1), expr(p) == 1, {"log": -1}, "log=-1"),
        (torch.optim.SGD([p], lr=0.1), expr(p) == 1, {"module": 3}, "module is a int"),
        (torch.optim.SGD([p], lr=0.1), expr(p) == 1, {"variant": "lu"}, "lu"),
        (torch.optim.LBFGS([p]), expr(p) == 1, {"mode": "metric"}, "none that can be read"),
        (torch.optim.RMSprop([p], centered=True), expr(p) == 1, {"mode": "metric"}, "centered"),
        (
            torch.optim.SGD([p], lr=0.1),
            torch.ones(2, 2, dtype=F64) @ expr(p) == 3,
            {"mode": "metric"},
            "share no parameter entry",
        ),
    ]
    for optimizer, equation, keywords, message in cases:
        with pytest.raises(projlab.InputError, match=message):
            constrain(optimizer, equation, **keywords)
    with pytest.raises(projlab.InputError, match="no equation"):
        constrain(torch.optim.SGD([p], lr=0.1))
    nan = vector(torch.nan)
    with pytest.raises(projlab.InputError, match="NaN"):
        constrain(torch.optim.SGD([nan], lr=0.1), expr(nan) == 1)
    assert p.tolist() == [1.0, 2.0]


@pytest.mark.filterwarnings("ignore")  # torch's own, of FSDP
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_sharded_parameters_are_refused():
    from torch import distributed
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        shard = torch.nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
        with pytest.raises(projlab.InputError, match="p0 is a DTensor"):
            constrain(torch.optim.SGD([shard], lr=0.1), expr(shard).sum() == 1)
        for original in (False, True):
            net = FullyShardedDataParallel(
                torch.nn.Linear(4, 4), device_id=torch.device("cpu"), use_orig_params=original
            )
            flat = next(net.parameters())
            with pytest.raises(projlab.InputError, match="flat parameter of FSDP"):
                constrain(torch.optim.SGD([flat], lr=0.1), expr(flat).sum() == 1)
    finally:
        distributed.destroy_process_group()


def test_dtensor_is_refused():
    class Sharded(torch.nn.Parameter):
        device_mesh = placements = ()

    shard = Sharded(torch.ones(2))
    with pytest.raises(projlab.InputError, match="DTensor"):
        constrain(torch.optim.SGD([shard], lr=0.1), expr(shard).sum() == 1)


def test_a_sparse_gradient_is_refused():
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    constrain(optimizer, expr(embedding.weight).sum(1) == 1)
    embedding(torch.tensor([1, 2])).sum().backward()
    before = embedding.weight.detach().clone()
    with pytest.raises(projlab.InputError, match="sparse gradient"):
        optimizer.step()
    assert torch.equal(embedding.weight, before)
