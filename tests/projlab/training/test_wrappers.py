"""Optimizers around optimizers: the constraint is applied at every step, or refused by name."""

import copy
import warnings

import pytest
import torch

import projlab
from projlab import constrain, expr
from tests.projlab.training.helpers import F64, backward, network, vector


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation, with the interface that is copied from project to project."""

    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        super().__init__(params, {"rho": rho, **kwargs})
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack(
            [p.grad.norm() for group in self.param_groups for p in group["params"]]
        ).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old_p"] = p.data.clone()
                p.add_(p.grad * (group["rho"] / norm))

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old_p"]
        self.base_optimizer.step()

    @torch.no_grad()
    def step(self, closure):
        closure = torch.enable_grad()(closure)
        self.first_step()
        closure()
        self.second_step()


class Hookless(torch.optim.Optimizer):
    """As DeepSpeed's: an Optimizer by class alone."""

    def __init__(self, inner):
        self.optimizer = inner

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self, closure=None):
        self.optimizer.step(closure)


def held(net, handle, steps):
    """Whether rows of the last layer sum to one after each of `steps` calls."""
    for step in steps:
        step()
        torch.testing.assert_close(net[2].weight.sum(1), torch.ones(5), rtol=0, atol=1e-5)
    assert handle.steps == len(steps)


@pytest.mark.parametrize("how", ["step", "two steps"])
def test_sharpness_aware_steps_are_constrained(how):
    net = network()
    optimizer = SAM(net.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9)
    handle = constrain(optimizer, expr(net[2].weight).sum(1) == 1)

    def step():
        backward(net)
        if how == "step":
            optimizer.step(lambda: backward(net))
        else:
            optimizer.first_step()
            backward(net)
            optimizer.second_step()

    held(net, handle, [step] * 5)


def test_two_steps_without_an_optimizer_inside_are_refused():
    class Alone(torch.optim.SGD):
        def first_step(self):
            """Moves parameters."""

        def second_step(self):
            """Moves them back."""

    p = vector(1.0, 2.0)
    with pytest.raises(projlab.InputError, match="Alone is refused: it moves parameters in first"):
        constrain(Alone([p], lr=0.1), expr(p).sum() == 1)
    assert p.tolist() == [1.0, 2.0]


def test_an_optimizer_without_hooks_is_refused():
    p = vector(1.0, 2.0)
    inner = torch.optim.Adam([p], lr=0.1)
    message = r"Hookless calls no step hooks.*wraps Adam as its \.optimizer: constrain that"
    with pytest.raises(projlab.InputError, match=message):
        constrain(Hookless(inner), expr(p).sum() == 1)
    assert p.tolist() == [1.0, 2.0]
    assert not inner._optimizer_step_pre_hooks
    handle = constrain(inner, expr(p).sum() == 1)
    p.grad = torch.ones(2, dtype=F64)
    Hookless(inner).step()
    assert handle.steps == 1

    class Bare(torch.optim.Optimizer):
        def __init__(self, params):
            self.param_groups = [{"params": params}]

    with pytest.raises(projlab.InputError, match=r"has to call torch\.optim\.Optimizer\.__init__"):
        constrain(Bare([p]), expr(p).sum() == 1)
    with pytest.raises(projlab.InputError, match="optimizer is a int"):
        constrain(3, expr(p).sum() == 1)


def test_an_exception_at_the_end_leaves_nothing_behind(monkeypatch):
    p = vector(1.0, 2.0)
    optimizer = torch.optim.Adam([p], lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="under Adam"):
            constrain(optimizer, expr(p).sum() == 5, mode="post")
    assert p.tolist() == [1.0, 2.0]
    assert not optimizer._optimizer_step_pre_hooks
    monkeypatch.setattr(optimizer, "register_step_post_hook", None)
    with pytest.raises(TypeError):
        constrain(optimizer, expr(p).sum() == 5)
    monkeypatch.undo()
    assert p.tolist() == [1.0, 2.0]
    assert not optimizer._optimizer_step_pre_hooks
    assert "_projlab_hooks" not in vars(optimizer)
    handle = constrain(optimizer, expr(p).sum() == 3)
    assert len(handle.equations) == 1
    nan = vector(torch.nan)
    optimizer.add_param_group({"params": [nan]})
    with pytest.raises(projlab.InputError, match="NaN"):
        constrain(optimizer, expr(nan) == 1)
    p.grad = torch.ones(2, dtype=F64)
    optimizer.step()
    assert handle.residual().abs().max() < 1e-14


# ---- moved by something else


def test_stray_moves_are_said_once():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 3)
    other = torch.optim.SGD([p], lr=0.1)
    p.grad = torch.ones(2, dtype=F64)
    other.step()
    with pytest.warns(
        UserWarning, match=r"something else than SGD\.step.*p0\.sum\(\) == 3"
    ) as said:
        assert handle.steps == 0
    assert [w.filename for w in said] == [__file__]
    other.step()
    assert handle.steps == 0  # once

    q = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([q], lr=0.1)
    handle = constrain(optimizer, expr(q).sum() == 3)
    with torch.no_grad():
        q.add_(1.0)
    q.grad = torch.ones(2, dtype=F64)
    with pytest.warns(UserWarning, match=r"call handle\.apply\(\) after loading") as said:
        optimizer.step()
    assert [w.filename for w in said] == [__file__]


def test_moves_along_the_set_and_those_that_are_applied_are_not_said():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 3)
    with torch.no_grad():
        p.copy_(torch.tensor([2.0, 1.0]))
    p.grad = torch.ones(2, dtype=F64)
    optimizer.step()
    with torch.no_grad():
        p.add_(1.0)
    handle.apply()
    optimizer.step()
    assert handle.steps == 2


# ---- copies of weights


def averaged(net):
    return torch.optim.swa_utils.AveragedModel(net)


@pytest.mark.parametrize("make", [copy.deepcopy, averaged])
def test_a_copy_of_the_module_is_projected(make):
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net[0].bias.requires_grad_(False)
    handle = constrain(
        optimizer,
        expr(net[2].weight).sum(1) == 1,
        expr(net[2].bias).sum() == expr(net[0].bias).sum(),
        module=net,
    )
    twin = make(net)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(torch.randn_like(p))
    own = twin if make is copy.deepcopy else twin.module
    before = [p.detach().clone() for p in net.parameters()]
    frozen = own[0].bias.detach().clone()
    handle.project(twin)
    torch.testing.assert_close(own[2].weight.sum(1), torch.ones(5))
    torch.testing.assert_close(own[2].bias.sum(), frozen.sum())
    assert torch.equal(own[0].bias, frozen)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_copies_that_do_not_fit_are_refused():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = constrain(optimizer, expr(net[2].weight).sum(1) == 1)
    with pytest.raises(projlab.InputError, match="give the module that holds it"):
        handle.project(net)
    handle.remove()
    handle = constrain(optimizer, expr(net[2].weight).sum(1) == 1, module=net)
    with pytest.raises(projlab.InputError, match="holds no copy"):
        handle.project(net[0])
    with pytest.raises(projlab.InputError, match="more than one copy"):
        handle.project(torch.nn.ModuleList([copy.deepcopy(net), copy.deepcopy(net)]))
    other = network()
    other[2] = torch.nn.Linear(16, 4)
    with pytest.raises(projlab.InputError, match=r"shape \(4, 16\) in the copy"):
        handle.project(other)
    with pytest.raises(projlab.InputError, match="module is a int"):
        handle.project(3)


# ---- the packages themselves


@pytest.mark.needs("accelerate")
@pytest.mark.filterwarnings("ignore")  # Accelerate's own
def test_accelerate_is_looked_through():
    import accelerate

    net = network()
    accelerator = accelerate.Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=0.01))
    handle = constrain(optimizer, expr(net[2].weight).sum(1) == 1)

    def step():
        optimizer.zero_grad()
        accelerator.backward((prepared(torch.randn(8, 12)) ** 2).sum())
        optimizer.step()

    held(net, handle, [step] * 5)


@pytest.mark.needs("lightning")
@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_the_wrapper_of_fabric_is_looked_through():
    import lightning

    net = network()
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    prepared, optimizer = fabric.setup(net, torch.optim.Adam(net.parameters(), lr=0.01))
    handle = constrain(optimizer, expr(net[2].weight).sum(1) == 1)

    def step():
        optimizer.zero_grad()
        fabric.backward((prepared(torch.randn(8, 12)) ** 2).sum())
        optimizer.step()

    held(net, handle, [step] * 5)


class Averaged(torch.optim.SGD):
    """Schedule-free SGD in few lines: gradients at y, steps of z, evaluation at their average x."""

    beta = 0.9

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)  # y less lr g
        for p in self.param_groups[0]["params"]:
            state, moved = self.state[p], -self.param_groups[0]["lr"] * p.grad
            p.sub_(moved)
            z = state.setdefault("z", p.clone())
            x = (p - (1 - self.beta) * z) / self.beta
            z.add_(moved)
            state["k"] = state.get("k", 0) + 1
            x.lerp_(z, 1 / state["k"])
            p.copy_(self.beta * x + (1 - self.beta) * z)

    @torch.no_grad()
    def _swap(self, away):
        for p in self.param_groups[0]["params"]:
            z = self.state[p].get("z", p)
            p.copy_((p - (1 - self.beta) * z) / self.beta if away else p.lerp(z, 1 - self.beta))

    def train(self):
        self._swap(False)

    def eval(self):
        self._swap(True)


def test_the_other_point_of_an_optimizer_that_swaps_is_on_the_set_too():
    p, q = vector(1.0, 2.0, 0.0), vector(1.0)
    optimizer = Averaged([p, q], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 3, mode="post")
    z = {}
    for k in range(4):
        p.grad, q.grad = torch.tensor([5.0, k, 2.0], dtype=F64), torch.ones(1, dtype=F64)
        optimizer.step()
        z = optimizer.state[p]["z"]
        assert abs(float(handle.residual())) < 1e-14
        assert abs(float(z.sum()) - 3) < 1e-14
        # its step calls that of its parent class, and torch the hooks of both
        assert handle.steps == k + 1
    y = p.detach().clone()
    with torch.no_grad():
        z.add_(1.0)  # as a loaded state may be
    optimizer.eval()
    assert not torch.equal(p, y)
    assert abs(float(handle.residual())) < 1e-14
    assert abs(float(z.sum()) - 3) < 1e-14


def test_the_other_point_is_on_the_set_where_a_parameter_has_no_gradient():
    p, q = vector(1.0, 2.0), vector(0.0)
    optimizer = Averaged([p], lr=0.1)
    optimizer.add_param_group({"params": [q]})
    constrain(optimizer, expr(p).sum() + expr(q).sum() == 3, mode="post")
    p.grad = torch.tensor([5.0, 1.0], dtype=F64)
    optimizer.step()
    assert abs(float(optimizer.state[p]["z"].sum()) - 3) < 1e-14
    assert q.tolist() == [0.0]


def schedule_free(name):
    import schedulefree

    return getattr(schedulefree, name)


@pytest.mark.needs("schedulefree")
@pytest.mark.parametrize("name", ["SGDScheduleFree", "AdamWScheduleFree", "RAdamScheduleFree"])
def test_schedule_free_weights_hold_in_training_and_in_evaluation(name):
    net = network(F64)
    optimizer = schedule_free(name)(net.parameters(), lr=0.05)
    handle = constrain(optimizer, expr(net[2].weight).sum(1) == 1, expr(net[0].bias).sum() == 2)
    optimizer.train()
    for _ in range(12):
        backward(net)
        optimizer.step()
        assert handle.residual().abs().max() < 1e-14
    moved = net[2].weight.detach().clone()
    optimizer.eval()
    assert not torch.equal(moved, net[2].weight)
    assert handle.residual().abs().max() < 1e-14
    z = optimizer.state[net[2].weight]["z"]
    torch.testing.assert_close(z.sum(1), torch.ones(5, dtype=F64))
    optimizer.train()
    torch.testing.assert_close(moved, net[2].weight.detach())
    handle.remove()
    assert not {"train", "eval"} & vars(optimizer).keys()


@pytest.mark.needs("schedulefree")
def test_schedule_free_ends_at_the_constrained_optimum():
    p = vector(0.0, 0.0)
    optimizer = schedule_free("AdamWScheduleFree")([p], lr=0.05)
    handle = constrain(optimizer, expr(p)[0] - 2 * expr(p)[1] == 0)
    optimizer.train()
    for _ in range(3000):
        optimizer.zero_grad()
        ((p - torch.tensor([1.0, 2.0])) ** 2).sum().backward()
        optimizer.step()
    optimizer.eval()
    torch.testing.assert_close(p.detach(), torch.tensor([1.6, 0.8], dtype=F64), rtol=0, atol=1e-2)
    assert handle.residual().abs().max() < 1e-14


@pytest.mark.needs("schedulefree")
def test_the_wrapper_of_schedule_free_is_refused():
    net = network()
    inner = torch.optim.SGD(net.parameters(), lr=0.05)
    optimizer = schedule_free("ScheduleFreeWrapper")(inner, momentum=0.9)
    with pytest.raises(projlab.InputError, match=r"wraps SGD as its \.base"):
        constrain(optimizer, expr(net[2].weight).sum(1) == 1)
    handle = constrain(inner, expr(net[2].weight).sum(1) == 1)
    optimizer.train()

    def step():
        backward(net)
        optimizer.step()

    held(net, handle, [step] * 5)
    optimizer.eval()
    torch.testing.assert_close(net[2].weight.sum(1), torch.ones(5))


@pytest.mark.needs("pytorch_optimizer")
@pytest.mark.parametrize("name", ["SAM", "Lookahead", "Lion", "Prodigy"])
def test_optimizers_of_pytorch_optimizer(name):
    import pytorch_optimizer

    net = network()
    cls = getattr(pytorch_optimizer, name)
    if name == "SAM":
        optimizer = cls(net.parameters(), torch.optim.AdamW, lr=0.01)
    elif name == "Lookahead":
        optimizer = cls(torch.optim.SGD(net.parameters(), lr=0.05), k=2)
    else:
        optimizer = cls(net.parameters(), lr=0.01)
    handle = constrain(optimizer, expr(net[2].weight).sum(1) == 1, coupled_weight_decay=False)

    def step():
        backward(net)
        optimizer.step(lambda: backward(net)) if name == "SAM" else optimizer.step()

    held(net, handle, [step] * 5)
