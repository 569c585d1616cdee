"""Ranks that hold the same parameters: DistributedDataParallel, ZeroRedundancyOptimizer."""

import contextlib
import copy

import pytest
import torch
from torch import distributed, nn

import projlab
from projlab import constrain, expr
from tests.projlab.training.helpers import F64, vector
from tests.projlab.training.processes import run

pytestmark = [
    pytest.mark.skipif(not distributed.is_available(), reason="torch without distributed"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # ZeRO's own
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def equations(net):
    """Over one parameter, over parameters that ZeroRedundancyOptimizer gives to other ranks."""
    A = torch.linspace(-1, 2, 10, dtype=F64).reshape(2, 5)
    return [
        expr(net[0].weight).sum(1) == 1,
        expr(net[0].weight)[:, 0].sum() == 2,
        A @ expr(net[0].bias) == 0.5,
        expr(net[2].weight).sum(1) == expr(net[2].bias),
    ]


def batch(step):
    torch.manual_seed(10 + step)
    return torch.randn(8, 6, dtype=F64), torch.randn(8, 3, dtype=F64)


def stepped(net, optimizer, steps, rank=0, world=1, accumulate=1):
    """Each rank has its part of each batch; gradients of parts are averaged."""
    for step in steps:
        optimizer.zero_grad()
        for part in range(accumulate):
            x, y = (t[rank::world][part::accumulate] for t in batch(step))
            waits = part < accumulate - 1 and hasattr(net, "no_sync")
            with net.no_sync() if waits else contextlib.nullcontext():
                ((net(x) - y).square().mean() / accumulate).backward()
        optimizer.step()


def of_all_ranks(net, world):
    flat = nn.utils.parameters_to_vector(net.parameters()).detach()
    found = [torch.empty_like(flat) for _ in range(world)]
    distributed.all_gather(found, flat)
    return found


def zero_redundancy(parameters, cls, **keywords):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(parameters, cls, **keywords)


RULES = {
    "AdamW": (torch.optim.AdamW, {"lr": 0.02}),
    "Adam": (torch.optim.Adam, {"lr": 0.02, "weight_decay": 0.1}),
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
}
WAYS = [
    {"rule": "AdamW", "views": False, "zero": False},
    {"rule": "Adam", "views": True, "zero": False, "accumulate": 2},
    {"rule": "Adam", "views": False, "zero": True},
    {
        "rule": "SGD",
        "views": True,
        "zero": True,
        "accumulate": 2,
        "parameters_as_bucket_view": True,
    },
]


def one_way(rank, world, *, rule, views, zero, accumulate=1, **keywords):
    cls, settings = RULES[rule]

    def made():
        net = network()
        many = nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=views)
        if zero:
            own = zero_redundancy(many.parameters(), cls, **settings, **keywords)
        else:
            own = cls(many.parameters(), **settings)
        return net, many, own

    alone = network()
    optimizer = cls(alone.parameters(), **settings)
    constrain(optimizer, *equations(alone))
    stepped(alone, optimizer, range(8), accumulate=accumulate)

    net, many, own = made()
    handle = constrain(own, *equations(net), module=net)
    for step in range(4):
        stepped(many, own, [step], rank, world, accumulate)
        first, *others = of_all_ranks(net, world)
        assert all(torch.equal(first, each) for each in others)
        assert handle.residual().abs().max() < 1e-14
    if zero:
        own.consolidate_state_dict(to=0)
    saved = [[copy.deepcopy((net.state_dict(), own.state_dict()))] if rank == 0 else [None]][0]
    distributed.broadcast_object_list(saved)
    stepped(many, own, range(4, 8), rank, world, accumulate)
    assert handle.steps == 8
    wanted = of_all_ranks(net, world)
    assert all(torch.equal(wanted[0], each) for each in wanted)
    # parts of batches are added up in another order, a few roundings at each of eight steps
    single = nn.utils.parameters_to_vector(alone.parameters()).detach()
    torch.testing.assert_close(wanted[0], single, rtol=1e-12, atol=1e-12)

    net, many, own = made()
    net.load_state_dict(saved[0][0])
    handle = constrain(own, *equations(net), start="raise")
    own.load_state_dict(saved[0][1])
    stepped(many, own, range(4, 8), rank, world, accumulate)
    resumed = of_all_ranks(net, world)
    assert all(torch.equal(wanted[0], each) for each in resumed)


def layers_that_sleep(rank, world):
    """Not used in a step by any rank, or by one of them alone."""
    torch.manual_seed(0)
    net = nn.ModuleList([nn.Linear(6, 3).double() for _ in range(2)])
    net.forward = lambda x, used: sum(net[i](x) for i in used).square().sum()
    many = nn.parallel.DistributedDataParallel(net, find_unused_parameters=True)
    optimizer = torch.optim.Adam(many.parameters(), lr=0.05)
    handle = constrain(optimizer, *(expr(layer.weight).sum(1) == 1 for layer in net))
    for step, used in enumerate(([0], [0, 1], [1], [0] if rank == 0 else [1])):
        optimizer.zero_grad()
        before = net[1].weight.detach().clone()
        many(batch(step)[0], used).backward()
        optimizer.step()
        assert torch.equal(before, net[1].weight) == (step == 0)
        first, *others = of_all_ranks(net, world)
        assert all(torch.equal(first, each) for each in others)
        assert handle.residual().abs().max() < 1e-14


def averages_over_ranks(rank, world):
    """PostLocalSGDOptimizer calls no hooks, and averages what lies on one set."""
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import PostLocalSGDOptimizer

    net = network()
    inner = torch.optim.Adam(net.parameters(), lr=0.02)
    averager = PeriodicModelAverager(period=2, warmup_steps=0)
    optimizer = PostLocalSGDOptimizer(inner, averager)
    with pytest.raises(projlab.InputError, match=r"wraps Adam as its \.optim: constrain that"):
        constrain(optimizer, *equations(net))
    handle = constrain(inner, *equations(net))
    for step in range(4):
        stepped(net, optimizer, [step], rank, world)
        assert handle.residual().abs().max() < 1e-14
    # the averager averages after its first and third step
    stepped(net, optimizer, [4], rank, world)
    first, *others = of_all_ranks(net, world)
    assert all(torch.equal(first, each) for each in others)


def all_of_them(rank, world, folder):
    for way in WAYS:
        one_way(rank, world, **way)
    layers_that_sleep(rank, world)
    averages_over_ranks(rank, world)


def test_replicas_stay_equal_to_the_bit(tmp_path):
    run(all_of_them, 2, tmp_path)


REFUSED = {
    "overlap": (torch.optim.Adam, {"overlap_with_ddp": True}, "moves parameters within backward"),
    "SparseAdam inside": (torch.optim.SparseAdam, {}, "SparseAdam is refused"),
    "inequalities": (torch.optim.SGD, {"momentum": 0.9}, "kept by other ranks"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_zero_redundancy_cannot_keep_is_refused(name):
    cls, keywords, message = REFUSED[name]
    p = vector(1.0, 2.0)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        optimizer = zero_redundancy([p], cls, lr=0.1, **keywords)
        bounds = [expr(p) <= 1] if name == "inequalities" else []
        with pytest.raises(projlab.InputError, match=message):
            constrain(optimizer, expr(p).sum() == 1, *bounds)
        assert p.tolist() == [1.0, 2.0]
        assert not optimizer._optimizer_step_pre_hooks
    finally:
        distributed.destroy_process_group()
