"""Loops as people write them: each step ends on the set, whatever else is done to parameters."""

import copy
import inspect

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import projlab
from projlab import constrain, expr
from tests.projlab.training.helpers import F64, U, backward, network, vector

A = torch.randn(2, 16, generator=torch.Generator().manual_seed(1)).double()
"""The same in float32."""


def equations(net):
    """Views, views that share entries, a dense matrix, a tie."""
    coefficients = A.to(net[0].weight.dtype)
    return [
        expr(net[2].weight).sum(1) == 1,
        expr(net[0].weight).sum(0) == 0,
        expr(net[0].weight).sum(1) == 0,
        coefficients @ expr(net[0].bias) == 1,
        expr(net[2].bias)[0] == expr(net[2].bias)[1],
    ]


def off(net):
    """The largest residual in units of 8u of what each row sums."""
    W, b, V, c = (p.detach().double() for p in net.parameters())
    rows = [
        (V.sum(1) - 1, V.abs().sum(1) + 1),
        (W.sum(0), W.abs().sum(0)),
        (W.sum(1), W.abs().sum(1)),
        (A @ b - 1, A.abs() @ b.abs() + 1),
        (c[:1] - c[1:2], c[:1].abs() + c[1:2].abs()),
    ]
    u = U[net[0].weight.dtype]
    return max(float((r.abs() / (8 * u * size)).max()) for r, size in rows)


def started(make=lambda ps: torch.optim.Adam(ps, lr=0.02), dtype=torch.float32):
    net = network(dtype)
    optimizer = make(net.parameters())
    return net, optimizer, constrain(optimizer, *equations(net), module=net)


# ---- gradients that are zeros instead of none


DRIFTING = {
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda ps: torch.optim.Adam(ps, lr=0.1, weight_decay=0.1),
    "AdamW": lambda ps: torch.optim.AdamW(ps, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("how", ["asleep", "frozen"])
@pytest.mark.parametrize("name", DRIFTING)
def test_what_drifts_is_projected(name, how):
    p, q, r = vector(1.0, 2.0, 3.0), vector(1.0), vector(-1.0, 4.0)
    optimizer = DRIFTING[name]([p, q, r])
    handle = constrain(optimizer, expr(p).sum() == 6, expr(q).sum() + expr(r).sum() == 4)
    for k in range(6):
        optimizer.zero_grad(set_to_none=False)
        if k == 3 and how == "frozen":
            p.requires_grad_(False)
            q.requires_grad_(False)
        weights = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
        loss = (weights[1:] * r.square()).sum()
        if k < 3:
            loss = loss + (weights * p.square()).sum() + q.square().sum()
        loss.backward()
        before = p.detach().clone()
        optimizer.step()
        assert not torch.equal(p, before)
        assert handle.residual().abs().max() < 1e-14
    assert handle.steps == 6
    p.requires_grad_(False)
    p.grad = None  # as zero_grad() has it
    handle.apply()
    before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, before)


def test_momentum_and_decay_of_zeros_are_those_of_the_definition():
    """v <- 0.9 v + T (0.1 x), x <- P(x - 0.1 v), T and P onto sums of zero and six."""
    p = vector(1.0, 2.0, 3.0)
    optimizer = DRIFTING["SGD"]([p])
    constrain(optimizer, expr(p).sum() == 6)
    x, v = p.detach().clone(), torch.zeros(3, dtype=F64)
    for k in range(5):
        optimizer.zero_grad(set_to_none=False)
        g = torch.tensor([1.0, 5.0, 0.0], dtype=F64) if k < 2 else torch.zeros(3, dtype=F64)
        p.grad = g.clone() if k == 0 else p.grad.copy_(g)
        p.requires_grad_(k < 2)
        optimizer.step()
        g = g + 0.1 * x
        v = 0.9 * v + g - g.mean()
        x = x - 0.1 * v
        x = x + (6 - x.sum()) / 3
        torch.testing.assert_close(p.detach(), x, rtol=0, atol=1e-14)


def test_prices_of_what_is_frozen_and_drifts_are_kept():
    p = vector(1.0, 2.0, 3.0)
    optimizer = DRIFTING["SGD"]([p])
    handle = constrain(optimizer, expr(p).sum() == 6, multipliers=True)
    p.grad = torch.zeros(3, dtype=F64)
    p.requires_grad_(False)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        price = -0.1 * p.detach().mean()  # of the decay alone
        optimizer.step()
        torch.testing.assert_close(handle.multipliers()[0], price)


# ---- accumulation, autocast, scalers, clipping


def clip_norm(parameters):
    nn.utils.clip_grad_norm_(parameters, 0.5)


def clip_value(parameters):
    nn.utils.clip_grad_value_(parameters, 0.05)


@pytest.mark.parametrize("clip", [None, clip_norm, clip_value])
@pytest.mark.parametrize("fused", [False, True])
def test_accumulation_autocast_scaler_and_clipping_together(clip, fused):
    net, optimizer, handle = started(lambda ps: torch.optim.AdamW(ps, lr=0.02, fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for _ in range(5):
        for _ in range(3):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = net(torch.randn(8, 12)).square().mean() / 3
            scaler.scale(loss).backward()
        if clip is not None:
            scaler.unscale_(optimizer)
            clip(net.parameters())
        scaler.step(optimizer)
        scaler.update()
        assert off(net) <= 1
        if clip is clip_norm:  # a projection makes nothing longer
            norm = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
            assert norm <= 0.5 * (1 + 1e-5)
        optimizer.zero_grad()
    assert handle.steps == 5


# ---- averages of weights


@pytest.mark.parametrize("kind", ["SWA", "EMA"])
def test_averages_are_projected_and_training_goes_on(kind):
    swa = torch.optim.swa_utils
    net, optimizer, handle = started()
    average = swa.AveragedModel(
        net, multi_avg_fn=None if kind == "SWA" else swa.get_ema_multi_avg_fn(0.9)
    )
    schedule = swa.SWALR(optimizer, swa_lr=0.05, anneal_epochs=3)
    for _ in range(8):
        backward(net)
        optimizer.step()
        schedule.step()
        average.update_parameters(net)
    with torch.no_grad():  # as quantising it would
        average.module[2].weight.copy_(average.module[2].weight.bfloat16())
    assert off(average.module) > 1
    before = copy.deepcopy(net.state_dict())
    handle.project(average)
    assert off(average.module) <= 1
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    backward(net)
    optimizer.step()
    assert off(net) <= 1
    assert handle.steps == 9


# ---- schedules


def in_turn(optimizer):
    first = lr_scheduler.LinearLR(optimizer, total_iters=2)
    return lr_scheduler.SequentialLR(
        optimizer, [first, lr_scheduler.CosineAnnealingLR(optimizer, 4)], milestones=[2]
    )


SCHEDULES = {
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=20),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "one after the other": in_turn,
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("first", ["schedule", "constraint"])
def test_schedules_of_rates_and_momenta(name, first):
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    schedule = SCHEDULES[name](optimizer) if first == "schedule" else None
    handle = constrain(optimizer, *equations(net))
    schedule = schedule or SCHEDULES[name](optimizer)
    rates = set()
    for k in range(6):
        backward(net)
        optimizer.step()
        schedule.step(float(k)) if name == "plateau" else schedule.step()
        rates.add(optimizer.param_groups[0]["lr"])
        assert off(net) <= 1
    assert handle.steps == 6
    assert len(rates) > 2


# ---- flags of torch's optimizers, closures


def flagged():
    """Each optimizer of torch with each way of stepping that it has on a CPU."""
    for name, cls in vars(torch.optim).items():
        if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer):
            for flag in {"foreach", "fused"} & inspect.signature(cls).parameters.keys():
                yield name, flag


@pytest.mark.parametrize(("name", "flag"), sorted(flagged()))
def test_every_way_of_stepping_is_constrained_alike(name, flag):
    cls, ends = getattr(torch.optim, name), []
    for on in (False, True):
        torch.manual_seed(0)
        net, optimizer, handle = started(lambda ps, on=on: cls(ps, **{flag: on}), F64)
        for _ in range(4):
            backward(net)
            optimizer.step()
        assert off(net) <= 1
        assert handle.steps == 4
        ends.append(net)
    for p, q in zip(*(net.parameters() for net in ends), strict=True):
        # Adadelta and Adafactor begin with divisions by nearly nothing
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.Adam])
def test_a_rate_that_is_a_tensor(cls):
    net, optimizer, _ = started(lambda ps: cls(ps, lr=torch.tensor(0.02)))
    for _ in range(3):
        backward(net)
        optimizer.step()
        assert off(net) <= 1


class Inherited(torch.optim.AdamW):
    """Its step calls hooks, and so does that of its parent, once there was one of those."""

    after = 0.0

    def step(self, closure=None):
        if closure is not None:
            with torch.enable_grad():
                closure()
        own = [p for group in self.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(own, 0.1)
        super().step()
        if self.after:
            with torch.no_grad():
                own[0].add_(self.after)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("after", [0.0, 0.5])
def test_a_step_that_calls_its_parents_is_one_step(closed, after):
    torch.optim.AdamW([vector(1.0)])
    p = vector(1.0, 2.0, 3.0)
    optimizer = Inherited([p], lr=0.1)
    optimizer.after = after
    handle = constrain(optimizer, expr(p).sum() == 6, multipliers=True)

    def closure():
        optimizer.zero_grad()
        (p**3).sum().backward()

    for k in range(3):
        price = -3 * p.detach().square().mean()
        if closed:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        assert handle.steps == len(handle.residuals) == k + 1
        assert handle.residual().abs().max() < 1e-14
        torch.testing.assert_close(handle.multipliers()[0], price)


def test_a_line_search_ends_at_the_constrained_optimum():
    p, target = vector(0.0, 0.0, 0.0), torch.tensor([1.0, 5.0, -2.0], dtype=F64)
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    optimizer = torch.optim.LBFGS([p], line_search_fn="strong_wolfe", tolerance_change=0)
    handle = constrain(optimizer, expr(p).sum() == 1)

    def closure():
        optimizer.zero_grad()
        loss = (weights * ((p - target) ** 2 + (p - target) ** 4)).sum()
        loss.backward()
        return loss

    for _ in range(10):
        optimizer.step(closure)
    y = p.detach() - target
    slopes = weights * (2 * y + 4 * y**3)  # equal, as those of a sum are
    torch.testing.assert_close(slopes, slopes.mean().expand(3), rtol=0, atol=1e-6)
    assert handle.residual().abs().max() < 1e-14


@pytest.mark.parametrize("several", [False, True])
def test_optimizers_that_step_within_backward(several):
    net = network(F64)
    own = {p: torch.optim.Adam([p], lr=0.05) for p in net.parameters()}
    if several:  # each step holds the others, which have no gradient, where they are
        handle = constrain(list(own.values()), expr(net[2].weight).sum(1) == expr(net[2].bias))
    else:
        handle = constrain(own[net[2].weight], expr(net[2].weight).sum(1) == 1)

    def step(p):
        own[p].step()
        own[p].zero_grad()

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(step)
    for _ in range(3):
        before = [p.detach().clone() for p in net.parameters()]
        net(torch.randn(8, 12, dtype=F64)).square().sum().backward()
        pairs = zip(net.parameters(), before, strict=True)
        moved = [bool((p - q).abs().max() > 1e-14) for p, q in pairs]
        assert moved == [True, True, True, not several]
        assert handle.residual().abs().max() < 1e-14


def test_hooks_run_in_the_order_of_registration():
    net = network(F64)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    seen = []

    def look(*_):
        seen.append(float((net[2].weight.detach().sum(1) - 1).abs().max()))

    optimizer.register_step_post_hook(look)
    constrain(optimizer, expr(net[2].weight).sum(1) == 1)
    optimizer.register_step_post_hook(look)
    backward(net)
    optimizer.step()
    before, after = seen
    assert before > 1e-6 > 1e-14 > after


# ---- states that are loaded, copies


def test_momenta_of_a_training_without_equations_are_loaded():
    p, target = vector(0.0, 0.0), torch.tensor([1.0, 2.0], dtype=F64)

    def run(optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (p - target).square().sum().backward()
            optimizer.step()
            yield

    free = torch.optim.SGD([p], lr=0.05, momentum=0.9)
    list(run(free, 5))
    optimizer = torch.optim.SGD([p], lr=0.01)
    handle = constrain(optimizer, expr(p)[0] == 2 * expr(p)[1])
    optimizer.load_state_dict(free.state_dict())
    assert optimizer.state[p]["momentum_buffer"].abs().max() > 0
    for _ in run(optimizer, 400):
        assert handle.residual().abs().max() < 1e-14
    torch.testing.assert_close(p.detach(), torch.tensor([1.6, 0.8], dtype=F64), rtol=0, atol=1e-8)


def test_a_copy_of_module_optimizer_and_schedule_trains_on_its_own():
    net, optimizer, handle = started()
    schedule = SCHEDULES["one cycle"](optimizer)
    backward(net)
    optimizer.step()
    schedule.step()
    twin_net, twin, twin_schedule = copy.deepcopy((net, optimizer, schedule))
    before = copy.deepcopy(net.state_dict())
    for _ in range(3):
        backward(twin_net)
        twin.step()
        twin_schedule.step()
        assert off(twin_net) <= 1
    assert not torch.equal(twin_net[2].weight, net[2].weight)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert handle.steps == 1
    assert twin_schedule.get_last_lr() != schedule.get_last_lr()


# ---- parameters in other memory, of other dtypes, computed ones


def test_parameters_whose_data_are_replaced():
    net, optimizer, handle = started()
    for k in range(6):
        backward(net)
        if k == 2:  # views of one vector
            flat = nn.utils.parameters_to_vector(net.parameters()).detach()
            nn.utils.vector_to_parameters(flat, net.parameters())
        if k == 4:
            for p in net.parameters():
                p.data = p.data.clone() + 0.1
        optimizer.step()
        assert off(net) <= 1
    assert handle.residual().abs().max() < 1e-5


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_a_module_is_converted_midway(swap, several):
    """`swap_tensors` refuses tensors that somebody holds a weak reference to."""
    net = network()
    matrices = [p for p in net.parameters() if p.dim() == 2]
    rest = [p for p in net.parameters() if p.dim() < 2]
    groups = [matrices, rest] if several else [matrices + rest]
    made = [torch.optim.SGD(group, lr=0.05) for group in groups]
    handle = constrain(made, *equations(net))
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        for dtype in (torch.float32, F64, torch.float32):
            net.to(dtype)
            for _ in range(2):
                backward(net)
                for optimizer in made:
                    optimizer.step()
                assert off(net) <= 1
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert handle.steps == 6 * len(made)


def pruned(layer):
    from torch.nn.utils import prune

    prune.random_unstructured(layer, "weight", 0.5)
    return layer


COMPUTED = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "one's own": lambda m: nn.utils.parametrize.register_parametrization(m, "weight", nn.Tanh()),
    "pruned": pruned,
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_weight_is_refused(name):
    layer = COMPUTED[name](nn.Linear(4, 3, dtype=F64))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    with pytest.raises(projlab.InputError, match=r"not a leaf: name the parameter.*nn\.affine"):
        constrain(optimizer, expr(layer.weight).sum() == expr(layer.bias).sum())
    own = max(layer.parameters(), key=torch.Tensor.numel)
    handle = constrain(optimizer, expr(own).sum(1) == 1)
    for _ in range(3):
        optimizer.zero_grad()
        (layer(torch.randn(8, 4, dtype=F64)) ** 3 - 1).square().sum().backward()
        before = own.detach().clone()
        optimizer.step()
        assert not torch.equal(own, before)
        assert handle.residual().abs().max() < 1e-14


def assigned(net):
    net[2].load_state_dict(network()[2].state_dict(), assign=True)


REPLACED = {
    "another parameter": lambda net: setattr(net[2], "weight", nn.Parameter(torch.ones(5, 16))),
    "load_state_dict": assigned,
    "weight_norm": lambda net: nn.utils.parametrizations.weight_norm(net[2]),
    "one's own": lambda net: COMPUTED["one's own"](net[2]),
    "pruned": lambda net: pruned(net[2]),
    "another module": lambda net: setattr(net, "2", nn.Linear(16, 5)),
    "no module": lambda net: net.pop(2),
    "a buffer": lambda net: setattr(net, "total", torch.full((5,), 2.0)),
}


@pytest.mark.parametrize("name", REPLACED)
def test_what_a_module_replaced_is_refused(name):
    net = network()
    net.register_buffer("total", torch.ones(5))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    bias = constrain(optimizer, expr(net[0].bias).sum() == 1)
    handle = constrain(optimizer, expr(net[2].weight).sum(1) == expr(net.total), module=net)
    backward(net)
    optimizer.step()
    REPLACED[name](net)
    backward(net)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in held]
    what = "total" if name == "a buffer" else r"2\.weight"
    for call in (optimizer.step, handle.residual, handle.certify, handle.apply):
        with pytest.raises(projlab.ProjlabError, match=rf"{what} was replaced in its module"):
            call()
    assert all(torch.equal(p, q) for p, q in zip(held, before, strict=True))
    handle.remove()
    optimizer.step()
    assert bias.residual().abs().max() < 1e-6


def test_a_module_taken_apart_around_a_parameter_is_refused():
    """What removing a parametrisation does: the parameter is where it was, and that is nowhere."""
    net = network()
    nn.utils.parametrizations.weight_norm(net[2])
    directions = net[2].parametrizations.weight.original1
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    constrain(optimizer, expr(directions).sum(1) == 1, module=net)
    backward(net)
    optimizer.step()
    nn.utils.parametrize.remove_parametrizations(net[2], "weight")
    backward(net)
    with pytest.raises(projlab.ProjlabError, match="original1 was replaced in its module"):
        optimizer.step()


def test_a_module_that_is_wrapped_midway_is_found_again():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = constrain(optimizer, expr(net[2].weight).sum(1) == 1, module=net)
    net[2] = nn.Sequential(nn.Identity(), net[2])
    for _ in range(2):
        backward(net)
        optimizer.step()
        system = handle._hooks.system
    backward(net)
    optimizer.step()
    assert handle._hooks.system is system  # once
    assert handle.steps == 3
    average = copy.deepcopy(net)
    with torch.no_grad():
        average[2][1].weight.add_(1)
    handle.project(average)
    torch.testing.assert_close(average[2][1].weight.sum(1), torch.ones(5))


def test_a_copy_is_projected_by_the_names_of_today():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = constrain(optimizer, expr(net[0].weight).sum(1) == 1, module=net)
    net[0], net[1] = net[1], net[0]
    average = copy.deepcopy(net)
    with torch.no_grad():
        average[1].weight.add_(1)
    handle.project(average)
    torch.testing.assert_close(average[1].weight.sum(1), torch.ones(3))
    assert torch.equal(average[0].weight, net[0].weight)


# ---- the packages themselves


@pytest.mark.slow
@pytest.mark.needs("accelerate", "transformers")
@pytest.mark.filterwarnings("ignore")  # the packages' own
@pytest.mark.parametrize(
    "settings", [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}], ids=str
)
def test_the_trainer_of_transformers_keeps_equations_and_resumes(tmp_path, settings):
    import transformers

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x, labels):
            return {"loss": (self.net(x) - labels).square().mean()}

    data = [{"x": torch.randn(12), "labels": torch.randn(5)} for _ in range(32)]
    arguments = {
        "per_device_train_batch_size": 4,
        "save_steps": 2,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        **settings,
    }

    def trained(epochs, *, resume):
        torch.manual_seed(0)
        model = Model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        handle = constrain(optimizer, *equations(model.net), module=model)
        offs = []
        optimizer.register_step_post_hook(lambda *_: offs.append(off(model.net)))
        trainer = transformers.Trainer(
            model,
            transformers.TrainingArguments(tmp_path, num_train_epochs=epochs, **arguments),
            train_dataset=data,
            optimizers=(optimizer, None),
        )
        trainer.train(resume_from_checkpoint=resume)
        assert max(offs) <= 1
        assert handle.steps == len(offs) == 8 // settings.get("gradient_accumulation_steps", 1)
        assert handle.certify().verdict == "certified"

    trained(1, resume=None)
    trained(2, resume=True)
