"""Several optimizers whose parameters share equations."""

import copy

import pytest
import torch

import projlab
from projlab import cat, constrain, expr
from tests.projlab.training.helpers import F64, U, backward, network, parameter, vector


def pair():
    a, b = vector(0.0), vector(0.0)
    one, other = torch.optim.SGD([a], lr=0.1), torch.optim.Adam([b], lr=0.1)
    return a, b, one, other, expr(a) + 2 * expr(b) == 1


def loss(a, b):
    return 0.5 * ((a - 3) ** 2 + (b - 2) ** 2).sum()


def test_two_optimizers_end_at_the_constrained_optimum():
    a, b, one, other, equation = pair()
    handle = constrain([one, other], equation)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(each, lambda k: (1 - k / 1500) ** 2)
        for each in (one, other)
    ]
    for k in range(1500):
        one.zero_grad()
        other.zero_grad()
        loss(a, b).backward()
        for each in (one, other) if k % 2 else (other, one):
            each.step()
            assert abs(float(handle.residual())) < 1e-14
        for schedule in schedules:
            schedule.step()
    # (3, 2) less its part along (1, 2): (3, 2) - (7 - 1) / 5 (1, 2)
    torch.testing.assert_close(
        torch.cat([a, b]).detach(), torch.tensor([1.8, -0.4], dtype=F64), rtol=0, atol=1e-4
    )
    assert handle.steps == 3000


def test_two_of_one_kind_do_what_one_does():
    torch.manual_seed(0)
    A, ends = torch.randn(2, 9, dtype=F64), []
    start, target = torch.randn(9, dtype=F64), torch.randn(9, dtype=F64)
    for split in (False, True):
        p, q = (torch.nn.Parameter(t.clone()) for t in start.split([5, 4]))
        groups = [{"params": [p]}, {"params": [q], "lr": 0.02}]
        made = [torch.optim.SGD([g], lr=0.05, momentum=0.9) for g in groups]
        if not split:
            made = [torch.optim.SGD(groups, lr=0.05, momentum=0.9)]
        constrain(made, A @ cat(expr(p), expr(q)) == 1)
        for _ in range(20):
            for each in made:
                each.zero_grad()
            (torch.cat([p, q]) - target).square().sum().backward()
            for each in made:
                each.step()
        ends.append(torch.cat([p, q]).detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)


def test_gradients_that_a_step_writes_over_are_not_read_by_the_next():
    class Greedy(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for p in self.param_groups[0]["params"]:
                p.grad.fill_(torch.nan)

    a, b, _, other, equation = pair()
    one = Greedy([a], lr=0.1)
    constrain([one, other], equation)
    for _ in range(3):
        one.zero_grad()
        other.zero_grad()
        loss(a, b).backward()
        one.step()
        other.step()
    assert abs(float((a + 2 * b).detach()) - 1) < 1e-15


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_for_matrices_and_adamw_for_the_rest():
    net = network()
    matrices = [p for p in net.parameters() if p.dim() == 2]
    rest = [p for p in net.parameters() if p.dim() < 2]
    made = [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(rest, lr=0.01)]
    handle = constrain(made, expr(net[2].weight).sum(1) == expr(net[2].bias), module=net)
    for _ in range(5):
        backward(net)
        for each in made:
            each.step()
            size = net[2].weight.detach().abs().sum(1) + net[2].bias.detach().abs()
            assert bool((handle.residual().abs() <= 8 * U[torch.float32] * size).all())


def test_a_frozen_half_is_held_and_an_added_group_is_noticed():
    a, b, one, other, equation = pair()
    constrain([one, other], equation)
    before = b.detach().clone()
    a.grad = torch.ones(1, dtype=F64)
    one.step()  # b has no gradient, and so a cannot move either
    assert torch.equal(b, before)
    c = vector(5.0)
    other.add_param_group({"params": [c]})
    a.grad = b.grad = torch.ones(1, dtype=F64)
    other.step()
    assert abs(float((a + 2 * b).detach()) - 1) < 1e-15


def test_a_copy_of_all_of_them_is_constrained():
    a, _, one, other, equation = pair()
    constrain([one, other], equation)
    first, second = copy.deepcopy([one, other])
    p, q = first.param_groups[0]["params"][0], second.param_groups[0]["params"][0]
    p.grad, q.grad = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    for each in (first, second):
        each.step()
        assert abs(float((p + 2 * q).detach()) - 1) < 1e-15
    assert a.tolist() == [0.2]
    assert p.tolist() != a.tolist()


def test_what_another_one_trains_is_refused():
    _, b, one, other, equation = pair()
    with constrain(one, equation):
        before = b.tolist()
        with pytest.raises(projlab.InputError, match=r"trained by another optimizer, SGD.*\[one"):
            constrain(other, equation)
        assert b.tolist() == before
        assert not other._optimizer_step_pre_hooks
    constrain(other, expr(b) == 3)
    with pytest.raises(projlab.InputError, match="trained by another optimizer, Adam"):
        constrain(one, equation)


def test_what_another_optimizer_moves_is_said():
    a, b, one, other, equation = pair()
    handle = constrain(one, equation)
    loss(a, b).backward()
    one.step()
    other.step()
    match = r"p1, in an equation.*moved by another optimizer"
    with pytest.warns(UserWarning, match=match) as said:
        one.step()
    assert [w.filename for w in said] == [__file__]
    assert abs(float(handle.residual())) < 1e-14


def test_lists_that_make_no_sense_are_refused():
    a, b, one, other, equation = pair()
    with pytest.raises(projlab.InputError, match="no optimizer"):
        constrain([], equation)
    with pytest.raises(projlab.InputError, match="hold the same parameter"):
        constrain([one, torch.optim.SGD([a], lr=0.1)], equation)
    with pytest.raises(projlab.InputError, match="takes one optimizer"):
        constrain([one, torch.optim.SGD([b], lr=0.1)], equation, mode="metric")
    with constrain(one, expr(a) == 1), pytest.raises(projlab.InputError, match="of its own"):
        constrain([one, other], equation)
    c = parameter(1)
    third = torch.optim.SGD([c], lr=0.1)
    handle = constrain([one, other, third], equation, expr(c) == 1)
    with pytest.raises(projlab.InputError, match="give that one as well"):
        constrain([one, other], equation)
    constrain(one, expr(a) + expr(c) == 1)
    handle.remove()
    assert third._optimizer_step_pre_hooks
