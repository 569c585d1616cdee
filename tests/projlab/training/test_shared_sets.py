"""Bounds and inequalities over parameters that ranks hold together, against one process."""

import pytest
import torch
from torch import nn

import projlab
from projlab import constrain, expr
from tests.projlab.training.processes import run
from tests.projlab.training.test_shards import F64, counting, gradients, mesh_of, sharded, whole

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch without distributed"
)

G = torch.tensor([[1.0, -1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0, -1.0]], dtype=F64)

SETS = {
    "box": lambda w, v: [expr(w) >= 0, expr(w) <= 0.5, expr(v) <= 0.1],
    "some entries": lambda w, v: [expr(w)[1:4, 0] >= 0.2, expr(v)[[0, 3]] <= 0],
    "simplex of each row": lambda w, v: [expr(w) >= 0, expr(w).sum(dim=1) == 1],
    "simplex of each column": lambda w, v: [expr(w) >= 0, expr(w).sum(dim=0) == 1],
    "one simplex": lambda w, v: [expr(w) >= 0, expr(w).sum() <= 1, expr(w)[0] <= 0.1],
    "over both": lambda w, v: [expr(w).sum(dim=1) + expr(v) <= 1, expr(v) >= -0.1],
    "rows and columns": lambda w, v: [
        expr(w) >= 0,
        expr(w).sum(dim=0) == 1,
        expr(w)[0].sum() + expr(v)[0] == 0.5,
    ],
    "rows of a matrix": lambda w, v: [G @ expr(w) <= 0.3, expr(v).sum() == 1, expr(v)[2] >= 0],
    "equations apart": lambda w, v: [expr(w).sum(dim=1) == 1, expr(v) >= 0],
}

OPTIMIZERS = {
    "Adam": lambda ps: torch.optim.Adam(ps, lr=0.05),
    "momentum and decay": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, weight_decay=0.1),
    "ascent": lambda ps: torch.optim.Adam(ps, lr=0.05, maximize=True),
}


def values(*shape):
    torch.manual_seed(3)
    return torch.rand(*shape, dtype=F64)


def equal(ours, theirs):
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(whole(p).detach(), q.detach(), rtol=1e-11, atol=1e-11)


def against_one(parameters, sets, make, steps=4):
    """Sharded parameters and their whole values, trained side by side with the same gradients."""
    plain = [nn.Parameter(whole(p).detach().clone()) for p in parameters]
    both = [(ps, make(ps)) for ps in (parameters, plain)]
    handles = [constrain(optimizer, *sets(*ps)) for ps, optimizer in both]
    equal(parameters, plain)
    for step in range(steps):
        for ps, optimizer in both:
            gradients(ps, step)
            if step == steps - 1:
                ps[1].grad = None
            optimizer.step()
        equal(parameters, plain)
    for ps, _ in both:
        gradients(ps, steps)
    for mine, one in zip(*(handle.multipliers() for handle in handles), strict=True):
        torch.testing.assert_close(mine, one, rtol=1e-9, atol=1e-9)
    ours, one = handles
    assert ours.largest_residual <= 1e-6  # of a float32 log
    assert ours.residual().abs().max() <= 1e-13
    assert ours.certify().verdict == one.certify().verdict == "certified"
    for ps, handle in zip((parameters, plain), handles, strict=True):
        with torch.no_grad():
            for p in ps:
                p.add_(0.3)
        handle.apply()
        handle.remove()
    equal(parameters, plain)


def placements(rank, world):
    for sets in SETS.values():
        for w, v in ((0, 0), (1, None)) if world == 2 else ((0, 0),):
            against_one([sharded(values(5, 3), w), sharded(values(5), v)], sets, OPTIMIZERS["Adam"])
    for make in OPTIMIZERS.values():
        for name in ("simplex of each row", "over both"):
            against_one([sharded(values(5, 3), 0), nn.Parameter(values(5))], SETS[name], make)


def meshes(rank, world):
    """Of two dimensions, and parameters that are divided along one each."""
    from torch.distributed.tensor import Replicate, Shard

    mesh = mesh_of(2, 2)
    kinds = [Replicate(), Shard(0)], [Shard(1), Shard(0)], [Shard(0), Shard(0)]
    for k, own in enumerate(kinds):
        for sets in list(SETS.values())[k::3]:
            w = sharded(values(5, 3), mesh=mesh, placements=own)
            v = sharded(values(5), mesh=mesh, placements=[Shard(0), Replicate()])
            against_one([w, v], sets, OPTIMIZERS["Adam"], steps=2)


def reduced(of):
    """How many numbers ranks add up while this runs, call by call."""
    with counting() as sizes:
        of()
    return [size // F64.itemsize for size in sizes]


def what_one_rank_holds_is_not_sent(rank, world):
    w = sharded(values(6, 3), 0)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    handle = constrain(optimizer, expr(w) >= 0, expr(w).sum(dim=1) == 1)
    gradients([w], 0)
    # the largest residual, for the log, and whether it is one
    assert reduced(optimizer.step) == [1]
    handle.remove()
    constrain(optimizer, expr(w) >= 0, expr(w).sum(dim=0) == 2, log=0)
    # the parameters, beside gradients and beside momenta, and after the step
    assert set(reduced(optimizer.step)) == {18}


def a_set_without_points_is_refused_everywhere(rank, world):
    w = sharded(values(6, 3), 0)
    before = whole(w).detach().clone()
    optimizer = torch.optim.SGD([w], lr=0.1)
    for sets, message in (
        ([expr(w) >= 0, expr(w)[0].sum() == -1], "no parameters satisfy"),
        ([expr(w)[5, 2] >= 1, expr(w)[5, 2] <= 0.5], r"W0\[5, 2\] >= 1 and W0\[5, 2\] <= 0.5"),
    ):
        with pytest.raises(projlab.InconsistentError, match=message):
            constrain(optimizer, *sets)
    assert torch.equal(whole(w).detach(), before)
    # what is off is named on every rank, whichever holds it
    with pytest.raises(projlab.InputError, match="do not satisfy"):
        constrain(optimizer, expr(w)[5, 2] >= 2, start="raise")


def under_fully_shard(rank, world):
    from torch.distributed.fsdp import fully_shard

    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    def sets(net):
        W, V = net[0].weight, net[2].weight
        return [expr(W) >= 0, expr(W).sum(dim=1) == 1, expr(V).sum(dim=0) <= 0.3, expr(V) <= 0.4]

    one, many = network(), network()
    fully_shard(many)
    pairs = []
    for net in (one, many):
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
        pairs.append((net, optimizer, constrain(optimizer, *sets(net), module=net)))
    for step in range(4):
        for net, optimizer, handle in pairs:
            torch.manual_seed(10 + step)
            x, y = torch.randn(8, 6, dtype=F64), torch.randn(8, 3, dtype=F64)
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            if step == 2:
                handle.set_right_side(0.01, 1, 0.2, 0.4)
                net[2].weight.grad = None
            optimizer.step()
        equal(many.parameters(), one.parameters())
    average = network()
    pairs[1][2].project(average)
    assert float(average[0].weight.min()) >= 0.01


def all_of_them(rank, world, folder):
    placements(rank, world)
    if world == 4:
        meshes(rank, world)
        return
    what_one_rank_holds_is_not_sent(rank, world)
    a_set_without_points_is_refused_everywhere(rank, world)
    under_fully_shard(rank, world)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_do_together_what_one_process_does(world, tmp_path):
    run(all_of_them, world, tmp_path)
