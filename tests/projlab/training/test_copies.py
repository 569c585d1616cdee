"""Copies of a constrained optimizer."""

import copy
import io
import pickle

import pytest
import torch

import projlab
from projlab import cat, constrain, expr
from tests.projlab.training.helpers import backward, network, vector


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


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_a_copy_is_constrained_further_and_by_itself(order):
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    rows = constrain(optimizer, expr(net[2].weight, name="load").sum(1) == 1, module=net)
    own = (net, optimizer, rows)
    copied = dict(zip(order, copy.deepcopy([own[i] for i in order]), strict=True))
    twin, second, handle = (copied[i] for i in range(3))
    assert handle.equations[0].parameters[0] is twin[2].weight
    bounds = constrain(second, expr(twin[2].bias) >= 0.1, expr(twin[0].bias).sum() == 1)
    assert "load[0].sum() == 1" in repr(handle)
    assert "2.bias[0] >= 0.1" in repr(bounds)
    backward(twin)
    second.step()
    for own in (handle, bounds):
        assert own.residual().abs().max() < 1e-6
    handle.set_right_side(2.0)
    torch.testing.assert_close(twin[2].weight.sum(1), torch.full((5,), 2.0))
    average = copy.deepcopy(twin)
    with torch.no_grad():
        average[2].weight.add_(1)
    handle.project(average)
    torch.testing.assert_close(average[2].weight.sum(1), torch.full((5,), 2.0))
    torch.testing.assert_close(net[2].weight.sum(1), torch.ones(5))
    handle.remove()
    assert bounds.steps == 1
    assert rows.steps == 0
    backward(net)
    optimizer.step()
    assert rows.residual().abs().max() < 1e-6


def test_what_a_copied_module_replaced_is_refused():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    constrain(optimizer, expr(net[2].weight).sum(1) == 1, module=net)
    twin, second = copy.deepcopy((net, optimizer))
    twin[2] = torch.nn.Linear(16, 5)
    backward(twin)
    with pytest.raises(projlab.ProjlabError, match=r"2\.weight was replaced in its module"):
        second.step()
    backward(net)
    optimizer.step()


def test_an_equation_frozen_midway_is_no_obstacle_to_a_copy():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    constrain(optimizer, expr(net[2].bias).sum() == 1, expr(net[0].bias) >= 0)
    net[2].bias.requires_grad_(False)
    twin, second = copy.deepcopy((net, optimizer))
    backward(twin)
    second.step()
    torch.testing.assert_close(twin[2].bias.sum(), torch.tensor(1.0))
    assert twin[0].bias.min() >= 0


def test_gradients_that_were_projected_are_so_in_a_copy():
    """Plain tensors take their gradients along."""
    p = torch.full((3,), 0.25, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 1, expr(p) >= 0)
    p.grad = torch.tensor([1.0, 2.0, 3.0])
    before = copy.deepcopy((optimizer, handle))
    torch.testing.assert_close(before[1].multipliers(), handle.multipliers())
    optimizer.step()
    after = copy.deepcopy((optimizer, handle))
    with pytest.raises(projlab.ProjlabError, match="have been projected by a step"):
        after[1].multipliers()


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


class Holder(torch.nn.Module):
    """A module that holds the handle of its constraint, as Lightning's do."""

    def __init__(self):
        super().__init__()
        self.net = network()
        self.optimizer = [torch.optim.SGD(self.net.parameters(), lr=0.1)]
        self.handle = constrain(self.optimizer[0], expr(self.net[2].weight).sum(1) == 1)


@pytest.mark.parametrize("first", ["module", "optimizer"])
def test_a_module_that_holds_its_handle_is_copied_with_its_optimizer(first):
    holder = Holder()
    optimizer = holder.optimizer.pop()
    both = {"module": (holder, optimizer), "optimizer": (optimizer, holder)}[first]
    copied = copy.deepcopy(both)
    twin, own = copied if first == "module" else copied[::-1]
    backward(twin.net)
    own.step()
    assert twin.handle.steps == 1
    assert holder.handle.steps == 0
    assert twin.handle.residual().abs().max() < 1e-5
    torch.testing.assert_close(twin.net[2].weight.sum(1), torch.ones(5))
    twin.handle.remove()
    assert optimizer._optimizer_step_pre_hooks


def test_a_handle_that_is_copied_or_saved_alone_says_so():
    holder = Holder()
    optimizer = holder.optimizer.pop()
    file = io.BytesIO()
    torch.save(holder, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(holder), loaded):
        torch.testing.assert_close(other.net[2].weight, holder.net[2].weight)
        assert "removed" in repr(other.handle) or "without" in repr(other.handle)
        with pytest.raises(projlab.ProjlabError, match="without its optimizer: call"):
            other.handle.apply()
    backward(holder.net)
    optimizer.step()
    assert holder.handle.steps == 1


def equations_of(net):
    W, b = expr(net[2].weight, name="load"), expr(net[2].bias)
    return [W.sum(1) == 1, b[:, None] - 9 <= W, cat(W, b).sum() <= 50, W[0] <= 5]


@pytest.mark.parametrize("named", [False, True])
def test_copied_equations_are_of_the_copied_module(named):
    net = network()
    own = (net, equations_of(net))
    copied = copy.deepcopy(own)
    again = copy.deepcopy(copied)
    texts = []
    for module, equations in (again, own, copied):
        assert equations[0].parameters[0] is module[2].weight
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        handle = constrain(optimizer, *equations, module=module if named else None)
        backward(module)
        optimizer.step()
        torch.testing.assert_close(module[2].weight.sum(1), torch.ones(5))
        texts.append(repr([handle, *equations]))
        for e in equations:
            repr([e.left, e.difference, e.left + e.difference])
    assert texts[0] == texts[1] == texts[2]
    assert "load[0].sum() == 1" in texts[0]
    mixed = copied[1][0].left == own[1][0].left
    assert len(mixed.parameters) == 2
    assert repr(mixed).count("load[0].sum()") == 2


def test_equations_that_are_copied_alone_are_of_copied_parameters():
    p = vector(1.0, 2.0)
    copied = copy.deepcopy(expr(p, name="a").sum() <= 1)
    assert repr(copied) == "Inequality(a.sum() <= 1)"
    assert copied.parameters[0] is not p
    with pytest.raises(projlab.InputError, match=r"a.sum\(\) <= 1 holds no parameter"):
        constrain(torch.optim.SGD([p], lr=0.1), copied)


def test_expressions_are_not_pickled():
    e = expr(vector(1.0, 2.0))
    for made in (e, cat(e, e), e == 1, [e <= 1]):
        with pytest.raises(TypeError, match="cannot be pickled: it is of the parameters"):
            pickle.dumps(made)
    assert copy.copy(e) is e
