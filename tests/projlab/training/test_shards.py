"""Parameters that ranks hold together: every rank's part against the one process that has all."""

import socket

import pytest
import torch
from torch import nn

import projlab
from projlab import constrain, expr

F64 = torch.float64
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch without distributed"
)


def run(check, world):
    """Call check(rank, world) in so many processes; raises where one of them does."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(_in_group, args=(check, world, port), nprocs=world)


def _in_group(rank, check, world, port):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    check(rank, world)
    torch.distributed.destroy_process_group()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def equations(net):
    """Rows over one shard and over all, dense ones, repeated ones, sums that share entries."""
    torch.manual_seed(1)
    W, bias, V = net[0].weight, net[0].bias, net[2].weight
    A = torch.randn(3, 15, dtype=F64)
    return [
        expr(W).sum(dim=1) == 1,
        torch.ones(1, 5, dtype=F64) @ expr(bias) == 0.5,
        expr(V).sum(dim=0) == 1,
        expr(V).sum(dim=1) == 5 / 3,
        A @ expr(V).reshape(-1) == 0.25 + A @ torch.full((15,), 1 / 3, dtype=F64),
        expr(net[2].bias)[[0, 2]] == expr(net[2].bias)[[1, 1]],
    ]


def data(step):
    torch.manual_seed(10 + step)
    return torch.randn(8, 6, dtype=F64), torch.randn(8, 3, dtype=F64)


def trained(net, optimizer, steps, asleep=()):
    for step in range(steps):
        x, y = data(step)
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        if step in asleep:
            for p in net[2].parameters():
                p.grad = None
        optimizer.step()


def whole(p):
    return p.full_tensor() if hasattr(p, "full_tensor") else p


def same(one, two, places=1e-12):
    """Sums over ranks round in another order, by a few hundred roundings over ten steps."""
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(whole(p).detach(), q.detach(), rtol=places, atol=places)


OPTIMIZERS = {
    "AdamW": lambda ps: torch.optim.AdamW(ps, lr=0.01),
    "decay": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.1),
}


def fully_sharded(rank, world):
    from torch.distributed.fsdp import fully_shard

    for make in OPTIMIZERS.values():
        one, many = network(), network()
        fully_shard(many)
        here, there = make(one.parameters()), make(many.parameters())
        handles = [
            constrain(here, *equations(one), module=one),
            constrain(there, *equations(many), module=many),
        ]
        same(many, one)
        trained(one, here, 5, asleep=(2, 4))
        trained(many, there, 5, asleep=(2, 4))
        same(many, one)
        assert handles[1].residual().abs().max() < 1e-14
        assert handles[1].largest_residual < 1e-14
        assert handles[1].steps == 5
        assert handles[1].certify().residual < 1e-14
        right = [2, 1, 1.5, 2.5, None, None]
        right[4] = torch.zeros(3, dtype=F64)
        print(rank, handles[1])
