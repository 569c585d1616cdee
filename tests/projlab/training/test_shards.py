"""Parameters that ranks hold together: every rank's part against the one process that has all."""

import os

import pytest
import torch
from torch import nn

import projlab
from benchmarks.memory import held_bytes
from benchmarks.scaling import counting
from projlab import constrain, expr
from tests.projlab.training.processes import run

F64 = torch.float64
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch without distributed"
)


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
        alone, together = make(one.parameters()), make(many.parameters())
        handles = [
            constrain(alone, *equations(one), module=one),
            constrain(together, *equations(many), module=many),
        ]
        same(many, one)
        trained(one, alone, 5, asleep=(2, 4))
        trained(many, together, 5, asleep=(2, 4))
        same(many, one)
        for handle in handles:
            handle.set_right_side(2, 1, 3, 5, torch.zeros(3, dtype=F64), None)
        same(many, one)
        trained(one, alone, 2)
        trained(many, together, 2)
        same(many, one)
        assert handles[1].residual().abs().max() < 1e-13
        assert handles[1].largest_residual < 1e-13
        assert handles[1].steps == 7
        assert handles[1].certify().feasibility < 1e-14
        for net in (one, many):
            with torch.no_grad():
                net[0].weight.add_(0.25)
        for handle in handles:
            handle.apply()
        same(many, one)
        # an average of weights, whole on every rank
        assert_same_prices(handles, (one, many))
        averages = network(), network()
        for handle, average in zip(handles, averages, strict=True):
            handle.project(average)
        same(*averages)
        with torch.no_grad():
            many[0].weight.add_(0.25)
        # one rank may read alone: nobody waits for another
        assert rank or handles[1].steps == 7
        with pytest.warns(UserWarning, match="moved by something else"):
            together.step()


def assert_same_prices(handles, nets):
    """Shadow prices, also of rows that follow from others, are those of one process."""
    x, y = data(0)
    for net in nets:
        net.zero_grad()
        (net(x) - y).square().mean().backward()
    for mine, theirs in zip(*(handle.multipliers() for handle in handles), strict=True):
        assert mine.abs().max() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
        assert mine.shape == theirs.shape


def reduced(of):
    """How many numbers of float64 ranks add up while this runs, call by call."""
    with counting() as sizes:
        of()
    return [size // F64.itemsize for size in sizes]


def a_step_adds_up_one_number_for_each_row(rank, world):
    p = sharded(torch.ones(9, 4, dtype=F64), dim=0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    constrain(optimizer, expr(p).sum(dim=1) == 1, expr(p)[:, 0].sum() == 1)
    p.grad = torch.ones_like(p)
    # 10 rows that share entries: the gradients' coordinates, a correction, and the log
    assert reduced(optimizer.step) == [10, 10, 10]
    p.grad.fill_(1e20)
    # what rounding leaves of such a gradient takes another
    p.grad[0, 0] = 0
    assert reduced(optimizer.step) == [10, 10, 10, 10]


def rows_of_one_rank_are_not_sent(rank, world):
    torch.manual_seed(0)
    w, v = sharded(torch.rand(9, 4, dtype=F64), dim=0), sharded(torch.rand(6, 9, dtype=F64), dim=0)
    optimizer = torch.optim.Adam([w, v], lr=0.1)
    # of the columns all ranks have entries, of the rows one; 0.25 in all of them is no solution
    given = [expr(w).sum(dim=1) == 1, expr(v).sum(dim=0) == 2]
    handle = constrain(optimizer, *given, start="project")

    for i, p in enumerate((w, v)):
        torch.manual_seed(i)
        p.grad = sharded(torch.randn(p.shape, dtype=F64), dim=0).detach()
    # coordinates of the gradients, a correction and the log, of the columns; then its maximum
    *columns, last = reduced(optimizer.step)
    assert set(columns) == {9}
    assert last == 1
    alone = torch.optim.Adam([w], lr=0.1)
    handle.remove()
    handle = constrain(alone, given[0])
    # float32 of the log: the largest residual, and whether there is one
    assert reduced(alone.step) == [1]
    logged = handle.residuals[-1]
    off = (w.full_tensor().sum(1) - 1).abs().max()
    assert logged == off.float()
    # what one rank alone has done is known to every one
    w.grad = torch.zeros_like(w)
    if rank == world - 1:
        w.grad.to_local()[-1, 0] = torch.nan
    alone.step()
    assert handle.residuals[-1].isnan()


def sums_hold_nothing_for_each_entry(rank, world):
    w = sharded(torch.ones(400, 20), dim=0)
    optimizer = torch.optim.SGD([w], lr=0.1)
    handle = constrain(optimizer, expr(w).sum(dim=0) == 1)
    (block,) = handle._hooks.system.blocks
    # numbers for each of the 20 rows: none for the 200 entries of each that are here
    assert held_bytes(vars(block), besides=[w.to_local()]) <= 20 * 100
    w.grad = sharded(torch.arange(8000.0).reshape(400, 20), dim=0).detach()
    before = w.full_tensor().detach().clone()
    optimizer.step()
    g = torch.arange(8000.0, dtype=F64).reshape(400, 20)
    exact = before.double() - 0.1 * (g - g.mean(0))
    # float32: a gradient's mean is known to log2(400) of its roundings
    assert (w.full_tensor() - exact).abs().max() <= 10 * 2.0**-24 * 0.1 * 8000


def mesh_of(*shape):
    return torch.distributed.init_device_mesh("cpu", shape)


def sharded(t, dim=None, mesh=None, placements=None):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = mesh_of(torch.distributed.get_world_size()) if mesh is None else mesh
    placements = placements or [Replicate() if dim is None else Shard(dim)]
    return nn.Parameter(distribute_tensor(t, mesh, placements))


def gradients(ps, step):
    """The same on every rank, and for whole parameters."""
    for i, p in enumerate(ps):
        torch.manual_seed(100 * step + i)
        g = torch.randn(p.shape, dtype=p.dtype)
        p.grad = None
        if hasattr(p, "device_mesh"):
            g = sharded(g, mesh=p.device_mesh, placements=p.placements).detach()
        p.grad = g


def against_one(parameters, write, steps=3):
    """Sharded parameters and their whole values, trained side by side with the same gradients."""
    plain = [nn.Parameter(whole(p).detach().clone()) for p in parameters]
    for ps in (parameters, plain):
        optimizer = torch.optim.Adam(ps, lr=0.1)
        constrain(optimizer, *write(*ps))
        for step in range(steps):
            gradients(ps, step)
            optimizer.step()
    for p, q in zip(parameters, plain, strict=True):
        torch.testing.assert_close(whole(p).detach(), q.detach(), rtol=1e-12, atol=1e-12)


def rows_and_columns(w, v):
    return [expr(w).sum(dim=1) + expr(v) == 1, expr(w)[:, 0].sum() == 2]


def placements(rank, world):
    from torch.distributed.tensor import Replicate, Shard

    def values(*shape):
        torch.manual_seed(3)
        return torch.randn(*shape, dtype=F64)

    for w, v in ((0, 0), (1, None), (0, None), (None, None)):
        against_one([sharded(values(5, 3), w), sharded(values(5), v)], rows_and_columns)
    # parameters of every rank beside sharded ones
    against_one([sharded(values(5, 3), 1), nn.Parameter(values(5))], rows_and_columns)
    if world == 4:
        mesh = mesh_of(2, 2)
        for own in ([Replicate(), Shard(0)], [Shard(1), Shard(0)], [Shard(0), Shard(0)]):
            w = sharded(values(5, 3), mesh=mesh, placements=own)
            v = sharded(values(5), mesh=mesh, placements=[Shard(0), Replicate()])
            against_one([w, v], rows_and_columns)


def refusals(rank, world):
    from torch.distributed.tensor import DTensor, Partial, Shard

    def refused(message, *parameters, **keywords):
        before = [whole(p).detach().clone() for p in parameters]
        with pytest.raises(projlab.InputError, match=message):
            constrain(
                torch.optim.SGD(parameters, lr=0.1),
                sum(expr(p).sum() for p in parameters) == 1,
                **keywords,
            )
        for p, q in zip(parameters, before, strict=True):
            assert torch.equal(whole(p).detach(), q)

    p = sharded(torch.ones(4), 0)
    refused("does not take sharded", p, mode="metric")
    refused("no basis", p, variant="cholesky")
    other = sharded(torch.ones(4), mesh=mesh_of(1, world), placements=[Shard(0), Shard(0)])
    refused("p0 and p1 are sharded over different device meshes", p, other)
    partial = DTensor.from_local(torch.ones(4), mesh_of(world), [Partial()])
    refused("p0 is a DTensor with placements", nn.Parameter(partial))
    optimizer = torch.optim.SGD([p], lr=0.1)
    constrain(optimizer, expr(p).sum() == 4)
    p.grad = sharded(torch.ones(4)).detach()
    with pytest.raises(projlab.InputError, match="redistribute"):
        optimizer.step()
    p.grad, optimizer.found_inf = torch.ones_like(p), torch.zeros(1)
    with pytest.raises(projlab.InputError, match="GradScaler"):
        optimizer.step()
    assert torch.equal(whole(p).detach(), torch.ones(4))
    # one rank's NaN is every rank's
    local = torch.full((2,), torch.nan if rank else 1.0)
    mesh = mesh_of(world)
    spoilt = nn.Parameter(
        DTensor.from_local(local, mesh, [Shard(0)], shape=(2 * world,), stride=(1,))
    )
    with pytest.raises(projlab.InputError, match="NaN"):
        constrain(torch.optim.SGD([spoilt], lr=0.1), expr(spoilt).sum() == 1)


def layers_under_fully_shard(rank, world):
    """What is said instead of `constrain` where that refuses."""
    from torch.distributed.fsdp import fully_shard

    A, b = torch.ones(1, 3, dtype=F64), torch.ones(1, dtype=F64)

    def model():
        torch.manual_seed(0)
        return nn.Sequential(
            projlab.nn.affine(
                nn.Linear(6, 5).double(), "weight", torch.ones(6, dtype=F64), 1.0, dim=1
            ),
            nn.Linear(5, 3).double(),
            projlab.nn.AffineProjection(A, b),
        )

    one, many = model(), model()
    fully_shard(many)
    for net in (one, many):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        trained(net, optimizer, 3)
    x, _ = data(0)
    torch.testing.assert_close(many(x), one(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(many(x).sum(1), torch.ones(8, dtype=F64))
    many.unshard()
    torch.testing.assert_close(many[0].weight.sum(1), torch.ones(5, dtype=F64))


def checkpointed(rank, world, folder):
    """Four ranks write what two read."""
    from torch.distributed import checkpoint
    from torch.distributed.fsdp import fully_shard

    net = network()
    fully_shard(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    if world == 4:
        constrain(optimizer, *equations(net))
        trained(net, optimizer, 2)
        checkpoint.save(net.state_dict(), checkpoint_id=folder)
    else:
        with pytest.raises(projlab.InputError, match="do not satisfy"):
            constrain(optimizer, *equations(net), start="raise")
        checkpoint.load(net.state_dict(), checkpoint_id=folder)
        constrain(optimizer, *equations(net), start="raise")
        trained(net, optimizer, 1)


def a_rank_that_is_gone(rank, world):
    p = sharded(torch.ones(4), 0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    constrain(optimizer, expr(p).sum() == 1)
    p.grad = torch.ones_like(p)
    torch.distributed.barrier()
    if rank:
        os._exit(0)
    with pytest.raises(RuntimeError):
        optimizer.step()


def all_of_them(rank, world, folder):
    placements(rank, world)
    checkpointed(rank, world, folder)
    if world == 2:
        fully_sharded(rank, world)
        a_step_adds_up_one_number_for_each_row(rank, world)
        rows_of_one_rank_are_not_sent(rank, world)
        sums_hold_nothing_for_each_entry(rank, world)
        refusals(rank, world)
        layers_under_fully_shard(rank, world)
        a_rank_that_is_gone(rank, world)


def test_ranks_do_together_what_one_process_does(tmp_path):
    for world in (4, 2):
        run(all_of_them, world, tmp_path)
