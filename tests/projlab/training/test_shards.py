"""Equations over DTensor and FSDP2 parameters, against one process that holds everything."""

import datetime
import os
import socket

import pytest
import torch

import projlab
from projlab import constrain, expr

distributed = pytest.importorskip("torch.distributed")
if not distributed.is_available():
    pytest.skip("torch without distributed", allow_module_level=True)

from torch.distributed import checkpoint  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import Replicate, Shard, distribute_tensor  # noqa: E402

F64 = torch.float64
STEPS = 3
# two projections by other orders of summation: a few roundings of sums of 35 terms a step
CLOSE = {"rtol": 0, "atol": 1e-13}


def equations(W, v):
    A = torch.linspace(-1, 1, 2 * v.numel(), dtype=F64).reshape(2, -1) ** 2 + torch.eye(
        2, v.numel(), dtype=F64
    )
    rows = [expr(W).sum(1) == 1, A @ expr(v) == 2]
    coupled = [expr(W).sum(0) == 0.5, expr(W)[0, 0] - expr(v)[1] == 0.25, expr(v).sum() == 1]
    return rows, coupled


def trained(place, which, optimizer=torch.optim.Adam, **keywords):
    """W (5, 7) and v (5) after steps, placed by a function of a tensor and its name."""
    g = torch.Generator().manual_seed(0)
    start = {
        "W": torch.randn(5, 7, dtype=F64, generator=g),
        "v": torch.randn(5, dtype=F64, generator=g),
    }
    W, v = (torch.nn.Parameter(place(t, name)) for name, t in start.items())
    opt = optimizer([W, v], lr=0.1, **keywords)
    handle = constrain(opt, *equations(W, v)[which])
    for _ in range(STEPS):
        for p, name in ((W, "W"), (v, "v")):
            p.grad = place(torch.randn(p.shape, dtype=F64, generator=g), name)
        opt.step()
    assert handle.residual().abs().max() < 1e-12
    return [p.detach() for p in (W, v)]


def compare(place):
    for which, optimizer, keywords in (
        (0, torch.optim.Adam, {"weight_decay": 0.1}),
        (1, torch.optim.SGD, {"momentum": 0.9}),
    ):
        whole = trained(lambda t, _: t.clone(), which, optimizer, **keywords)
        parts = trained(place, which, optimizer, **keywords)
        for one, part in zip(whole, parts, strict=True):
            torch.testing.assert_close(part.full_tensor(), one, **CLOSE)


def on_a_rank(rank, ranks, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", rank=rank, world_size=ranks, timeout=datetime.timedelta(seconds=20)
    )
    line = init_device_mesh("cpu", (ranks,))
    for W, v in (
        (Shard(0), Shard(0)),  # uneven: 5 rows
        (Shard(1), Shard(0)),  # columns, as tensor parallelism cuts them
        (Replicate(), Shard(0)),
    ):
        own = {"W": [W], "v": [v]}
        compare(lambda t, name, own=own: distribute_tensor(t.clone(), line, own[name]))
    if ranks == 4:
        square = init_device_mesh("cpu", (2, 2))
        own = {"W": [Shard(0), Shard(1)], "v": [Replicate(), Shard(0)]}
        compare(lambda t, name: distribute_tensor(t.clone(), square, own[name]))
    refusals(line)
    with_fully_shard(line, folder)
    layers_under_fully_shard(line)
    bytes_of_a_step(line)
    parameter = torch.nn.Parameter(distribute_tensor(torch.ones(4), line, [Shard(0)]))
    distributed.barrier()
    if rank:
        opt = torch.optim.SGD([parameter], lr=0.1)
        with pytest.raises(RuntimeError):
            # rank 0 is gone: a time-out or a closed connection, never a wait for ever
            constrain(opt, expr(parameter).sum() == 1)
    os._exit(0)


def bytes_of_a_step(mesh):
    """The tangent, two corrections and the log: four all-reduces of m float64."""
    W = torch.nn.Parameter(distribute_tensor(torch.ones(6, 4), mesh, [Shard(1)]))
    opt = torch.optim.SGD([W], lr=0.1)
    constrain(opt, expr(W).sum(1) == 1)
    W.grad = torch.ones_like(W)
    given, all_reduce = [], distributed.all_reduce
    distributed.all_reduce = lambda t, **kw: (given.append(t.nbytes), all_reduce(t, **kw))
    try:
        opt.step()
    finally:
        distributed.all_reduce = all_reduce
    assert given == [8 * 6] * 4


def refusals(mesh):
    W = torch.nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)]))
    opt = torch.optim.SGD([W], lr=0.1)
    with pytest.raises(projlab.InputError, match="follows from other equations"):
        constrain(opt, expr(W).sum(1) == 1, expr(W).sum(0) == 1)
    with pytest.raises(projlab.InputError, match="tangent"):
        constrain(opt, expr(W).sum(1) == 1, mode="metric")
    assert torch.equal(W.full_tensor(), torch.ones(4, 4))
    constrain(opt, expr(W).sum() == 16)
    W.grad = distribute_tensor(torch.ones(4, 4), mesh, [Replicate()])
    with pytest.raises(projlab.InputError, match="redistribute the gradient"):
        opt.step()
    assert torch.equal(W.full_tensor(), torch.ones(4, 4))


def with_fully_shard(mesh, folder):
    torch.manual_seed(0)
    net = torch.nn.Linear(7, 5, dtype=F64)
    twin = torch.nn.Linear(7, 5, dtype=F64)
    twin.load_state_dict(net.state_dict())
    fully_shard(net, mesh=mesh)
    x = torch.randn(8, 7, dtype=F64)
    for each in (net, twin):
        opt = torch.optim.AdamW(each.parameters(), lr=0.1)
        constrain(opt, expr(each.weight).sum(1) == 1)
        for _ in range(STEPS):
            opt.zero_grad()
            each(x).square().mean().backward()
            opt.step()
    torch.testing.assert_close(net.weight.full_tensor(), twin.weight.detach(), **CLOSE)
    checkpoint.save(net.state_dict(), checkpoint_id=folder)


def layers_under_fully_shard(mesh):
    """What serves where flat parameters are refused."""

    def trained_net(shard):
        torch.manual_seed(0)
        layer = torch.nn.Linear(7, 5, dtype=F64)
        net = torch.nn.Sequential(
            projlab.nn.affine(layer, "weight", torch.ones(7, dtype=F64), 1.0, dim=1),
            projlab.nn.AffineProjection(torch.ones(1, 5, dtype=F64), torch.ones(1, dtype=F64)),
        )
        if shard:
            fully_shard(net, mesh=mesh)
        x, target = torch.randn(8, 7, dtype=F64), torch.randn(8, 5, dtype=F64)
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(STEPS):
            opt.zero_grad()
            (net(x) - target).square().mean().backward()
            opt.step()
        y = net(x).detach()
        torch.testing.assert_close(y.sum(1), torch.ones(8, dtype=F64), **CLOSE)
        if shard:
            net.unshard()
        weight = net[0].weight.detach()
        torch.testing.assert_close(weight.sum(1), torch.ones(5, dtype=F64), **CLOSE)
        return y, weight

    for one, many in zip(trained_net(False), trained_net(True), strict=True):
        torch.testing.assert_close(many, one, **CLOSE)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # it is meant to be
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_end_where_one_process_does(ranks, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(on_a_rank, (ranks, port, str(tmp_path)), nprocs=ranks)
    # what they saved is resumed by one process, on the set
    net = torch.nn.Linear(7, 5, dtype=F64)
    state = net.state_dict()
    checkpoint.load(state, checkpoint_id=str(tmp_path), no_dist=True)
    net.load_state_dict(state)
    constrain(
        torch.optim.SGD(net.parameters(), lr=0.1), expr(net.weight).sum(1) == 1, start="raise"
    )
