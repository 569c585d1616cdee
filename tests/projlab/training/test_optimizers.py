"""Every torch optimizer keeps its equations at every step, and ends at the constrained optimum."""

import inspect

import pytest
import torch

import projlab
from projlab import cat, constrain, expr
from tests.projlab.training.helpers import ALL_EXAMPLES, EXAMPLES, F64, SETTINGS, train, vector

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


def test_groups_of_different_rates():
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


# ---- what is refused, before anything changes


class FlatParameter(torch.nn.Parameter):
    _is_flat_param = True


REFUSED = {
    "SparseAdam": (lambda p: torch.optim.SparseAdam([p]), {}, "SparseAdam"),
    "a module": (lambda p: torch.nn.Linear(1, 1), {}, "takes a torch.optim.Optimizer"),
    "differentiable": (
        lambda p: torch.optim.SGD([p], lr=0.1, differentiable=True),
        {},
        "differentiable",
    ),
    "no metric": (lambda p: torch.optim.LBFGS([p]), {"mode": "metric"}, "none that can be read"),
    "centered": (
        lambda p: torch.optim.RMSprop([p], centered=True),
        {"mode": "metric"},
        "centered",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_optimizers_that_are_refused(name):
    make, keywords, message = REFUSED[name]
    p = vector(1.0, 2.0)
    with pytest.raises(projlab.InputError, match=message):
        constrain(make(p), expr(p) == 1, **keywords)
    assert p.tolist() == [1.0, 2.0]


def test_a_flat_parameter_is_refused():
    flat = FlatParameter(torch.ones(2))
    with pytest.raises(projlab.InputError, match=r"flat parameter of FSDP.*nn.affine"):
        constrain(torch.optim.SGD([flat], lr=0.1), expr(flat).sum() == 1)
    assert flat.tolist() == [1.0, 1.0]


@pytest.mark.filterwarnings("ignore")  # torch's own, of FSDP
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_flat_parameters_of_a_module_are_refused():
    from torch import distributed
    from torch.distributed.fsdp import FullyShardedDataParallel

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        for original in (False, True):
            net = FullyShardedDataParallel(
                torch.nn.Linear(4, 4), device_id=torch.device("cpu"), use_orig_params=original
            )
            flat = next(net.parameters())
            with pytest.raises(projlab.InputError, match=r"flat parameter of FSDP.*nn.affine"):
                constrain(torch.optim.SGD([flat], lr=0.1), expr(flat).sum() == 1)
    finally:
        distributed.destroy_process_group()


def test_a_dtensor_that_is_no_plain_shard_is_refused():
    class Sharded(torch.nn.Parameter):
        device_mesh, placements = None, ("in strides",)

    shard = Sharded(torch.ones(2))
    with pytest.raises(projlab.InputError, match=r"p0 is a DTensor.*fully_shard"):
        constrain(torch.optim.SGD([shard], lr=0.1), expr(shard).sum() == 1)
