"""Sparse A as plain buffers of indices and values: what is done to them is what is used."""

import copy
import io
import pickle
import socket

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

import projlab
from projlab import projector
from tests.projlab.derivatives import F64, close
from tests.projlab.watching import FACTORS, Operators

INDICES = torch.tensor([[0, 0, 1, 1, 2], [0, 3, 1, 3, 4]])
VALUES = torch.tensor([1.0, 2.0, -1.0, 3.0, 0.5], dtype=F64)
B = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
NAMES = ["A_indices", "A_values", "b"]


def matrix(values=VALUES, indices=INDICES):
    return torch.sparse_coo_tensor(indices, values, (3, 6), check_invariants=True).coalesce()


def layer(values=VALUES, b=B):
    return projlab.nn.AffineProjection(matrix(values), b)


def same(P, A, b=B):
    """P projects, by every road, as a projector of this A and b."""
    Q = projector(A.to_dense(), b)
    x = torch.randn(4, 6, dtype=F64)
    leaf = x.clone().requires_grad_()
    close(P(leaf).detach(), Q(x))
    close(P.project_(x.clone()), Q(x))
    close(P.tangent(x), Q.tangent(x))
    close(P.constraint.residual(x), Q.constraint.residual(x))
    close(P(x[0]), Q(x[0]))


def test_the_buffers_are_plain_tensors():
    P = projector(matrix(), B)
    assert [name for name, _ in P.named_buffers()] == NAMES
    assert list(P.state_dict()) == NAMES
    assert all(t.layout is torch.strided for t in P.buffers())
    assert P.A.layout is torch.sparse_coo
    assert torch.equal(P.A.to_dense(), matrix().to_dense())
    assert P.A is P.A
    assert not list(P.parameters())
    assert [name for name, _ in projector(torch.eye(2), 1.0).named_buffers()] == ["A", "b"]


@pytest.mark.parametrize(
    "change",
    [
        lambda P: P.A_values.mul_(2.0),
        lambda P: P.A_values[1].fill_(7.0),
        lambda P: P.A_indices[1, 0].add_(1),
        lambda P: P.A.mul_(2.0),
        lambda P: P.A.neg_(),
        lambda P: P.A.values().add_(1.0),
        lambda P: P.A.copy_(matrix(3 * VALUES)),
        lambda P: P.A.add_(matrix(indices=INDICES.roll(1, 1))),
        lambda P: setattr(P, "A", matrix(-VALUES)),
        lambda P: setattr(P, "A", matrix(2 * VALUES).to_sparse_csr()),
        lambda P: setattr(P, "A", matrix(2 * VALUES).to_dense()),
        lambda P: setattr(P, "A_values", 5 * VALUES),
        lambda P: setattr(P, "A_values", P.A_values.detach().mul_(5)),
    ],
)
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_changes_are_followed(change, used):
    P = projector(matrix(), B)
    if used:
        P(torch.randn(6, dtype=F64))
    change(P)
    wanted = P.A.to_dense().clone()
    assert not torch.equal(wanted, matrix().to_dense())
    same(P, wanted)
    assert torch.equal(P.A.to_dense(), wanted)
    change(P)
    same(P, P.A.to_dense().clone())


def test_a_tensor_that_was_assigned_is_followed():
    P, C = projector(matrix(), B), matrix(-VALUES)
    P.A = C
    assert P.A is C
    same(P, C)
    for _ in range(2):
        C.mul_(2.0)
        same(P, C.clone())


def test_a_dense_projector_takes_sparse_A_and_back():
    P = projector(matrix().to_dense(), B)
    P.A = matrix(2 * VALUES)
    assert [name for name, _ in P.named_buffers()] == NAMES
    same(P, matrix(2 * VALUES))
    P.A = matrix().to_dense()
    assert [name for name, _ in P.named_buffers()] == ["A", "b"]
    same(P, matrix())


def test_duplicates_and_zeros_in_the_buffers_are_summed():
    P = projector(matrix(), B)
    indices = torch.cat([INDICES.flip(1), INDICES[:, :2], torch.tensor([[2], [0]])], 1)
    P.A_indices = indices
    P.A_values = torch.cat([VALUES.flip(0), VALUES[:2], torch.zeros(1, dtype=F64)])
    wanted = matrix().to_dense()
    wanted[0] *= 2
    assert torch.equal(P.A.to_dense(), wanted)
    same(P, wanted)


def test_entries_that_are_none_are_refused():
    P = projector(matrix(), B)
    x = torch.zeros(6, dtype=F64)
    P.A_indices[1, 2] = 6
    with pytest.raises(projlab.InputError, match=r"A_indices\[:, 2\] is \(1, 6\), outside of A.*3"):
        P(x)
    P.A_indices[1, 2] = 1
    same(P, matrix())
    P.A_values = VALUES[:-1]
    with pytest.raises(projlab.InputError, match=r"must be \(2, k\), int64, and \(k,\)"):
        P(x)
    P.A_values = VALUES.clone()
    P.A_values[3] = torch.nan
    with pytest.raises(projlab.InputError, match=r"A's stored values\[3\] is nan"):
        P(x)
    with pytest.raises(projlab.InputError, match=r"must be \(m, n\)"):
        P.A = torch.zeros(1, 2, 3, 6).to_sparse()


def test_values_written_again_cost_no_factors():
    """As data-parallel training does at every step."""
    P = projector(matrix(), B)
    for _ in range(2):
        P.A_values.copy_(VALUES)
        P.A_indices.copy_(INDICES)
        P.b.copy_(B)
        with Operators() as seen:
            P(torch.ones(6, dtype=F64))
    assert not [n for n in seen.names if n.startswith(FACTORS)]


@pytest.mark.parametrize(
    "how",
    [
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),  # noqa: S301  our own bytes
        lambda m: m.float().double(),
        lambda m: m.type(torch.float64),
        lambda m: m.load_state_dict(m.state_dict()) and m,
    ],
)
@pytest.mark.parametrize("change", [lambda P: P.A_values.mul_(3.0), lambda P: P.A.mul_(3.0)])
def test_a_change_is_not_lost_on_the_way(how, change):
    one = layer()
    change(one.projector)
    P = how(one).projector
    same(P, matrix(3 * VALUES))
    assert [t.dtype for t in P.buffers()] == [torch.int64, F64, F64]
    P.A_values.mul_(0.5)
    same(P, matrix(1.5 * VALUES))


def test_a_state_dict_through_a_file_with_another_pattern():
    one, other = layer(), projlab.nn.AffineProjection(matrix().to_dense().flip(1).to_sparse(), 0.0)
    file = io.BytesIO()
    torch.save(other.state_dict(), file)
    file.seek(0)
    one.load_state_dict(torch.load(file, weights_only=True))
    same(one.projector, matrix().to_dense().flip(1), torch.zeros(3, dtype=F64))


def test_a_state_dict_of_another_form():
    """One sparse tensor, as 0.1 wrote it; and a dense one in either direction."""
    wanted = matrix(2 * VALUES)
    for A in (wanted, wanted.to_dense()):
        P = projector(matrix(), B)
        P.load_state_dict({"A": A, "b": -B})
        same(P, wanted, -B)
        assert P.A.layout is A.layout
    P = projector(matrix().to_dense(), B)
    P.load_state_dict(projector(wanted, -B).state_dict())
    same(P, wanted, -B)


def test_state_dicts_that_do_not_fit():
    P = projector(matrix(), B)
    narrow = torch.sparse_coo_tensor(INDICES, VALUES, (3, 5), check_invariants=True)
    with pytest.raises(RuntimeError, match=r"size mismatch for A_indices.*\(3, 5\).*\(3, 6\)"):
        P.load_state_dict(projector(narrow, B).state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*A_values"):
        P.load_state_dict({"A_indices": INDICES, "b": B})
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"A"'):
        P.load_state_dict({"A": matrix(), **P.state_dict()})
    outside = INDICES + torch.tensor([[0], [2]])
    with pytest.raises(RuntimeError, match=r"A_indices\[:, 4\] is \(2, 6\), outside of A"):
        P.load_state_dict({"A_indices": outside, "A_values": VALUES, "b": B})
    with pytest.raises(RuntimeError, match="no solution"):
        P.load_state_dict(P.state_dict() | {"A_values": VALUES * torch.tensor([0, 0, 1, 1, 1])})
    same(P, matrix())


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    one, other = layer(), layer(2 * VALUES, -B)
    file = tmp_path / "layer.safetensors"
    safetensors.save_model(other, str(file))
    safetensors.load_model(one, str(file))
    same(one.projector, matrix(2 * VALUES), -B)
    assert set(safetensors.load_file(str(file))) == {f"projector.{name}" for name in NAMES}


@pytest.mark.parametrize("how", ["assign", "to_empty"])
def test_values_come_later(how):
    real = layer()
    built = copy.deepcopy(real).to("meta")
    assert all(t.is_meta for t in built.state_dict().values())
    x = torch.zeros(6, dtype=F64)
    if how == "assign":
        built.load_state_dict(real.state_dict(), assign=True)
    else:
        built.to_empty(device="cpu")
        P = built.projector
        for name in ("b", "A_values"):  # not all of them are enough
            getattr(P, name).copy_(getattr(real.projector, name))
            with pytest.raises(projlab.InputError, match="no values"):
                built(x)
        P.A_indices.copy_(INDICES)
    same(built.projector, matrix())


def test_functional_call_with_other_values():
    one = layer()
    x = torch.randn(4, 6, dtype=F64)
    before = one(x)
    found = functional_call(one, {"projector.A_values": 2 * VALUES}, (x,))
    close(found, layer(2 * VALUES)(x))
    with torch.inference_mode():
        found = functional_call(one, {"projector.A_values": 2 * VALUES}, (x,))
    close(found.clone(), layer(2 * VALUES)(x))
    with pytest.raises(projlab.InputError, match="call the projector once outside"):
        vmap(one)(x)
    close(one(x), before)
    found = vmap(lambda b: functional_call(one, {"projector.b": b}, (x,)))(torch.stack([B, -B]))
    close(found, torch.stack([before, layer(b=-B)(x)]))
    close(one(x), before)


def test_what_no_sparse_tensor_can_go_through_is_refused():
    one = layer()
    x = torch.randn(6, dtype=F64)
    _, buffers = stack_module_state([layer(), layer(2 * VALUES)])
    with pytest.raises(projlab.InputError, match=r"A is sparse.*give dense A"):
        vmap(lambda buffers: functional_call(one, buffers, (x,)))(buffers)


def test_compiled_code_notices_changes(fresh_compiler):
    P = projector(matrix(), B)
    compiled = torch.compile(P, backend="aot_eager")
    x = torch.randn(4, 6, dtype=F64)
    assert torch.equal(compiled(x), P(x))
    for change in (lambda: P.A_values.mul_(2.0), lambda: P.A_indices[1].neg_().add_(5)):
        change()
        with pytest.raises(projlab.InputError, match="A was changed in place"):
            compiled(x)
        assert torch.equal(P(x), compiled(x))
    P.b.neg_()
    assert torch.equal(compiled(x), P(x))
    P.A = matrix(-VALUES)
    assert torch.equal(compiled(x), P(x))
    same(P, matrix(-VALUES), -B)


def _trained(rank, world, port, queue):
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 6, dtype=F64), layer(VALUES * (1 + rank), B))
    parallel = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    data = torch.linspace(-1, 1, 16, dtype=F64).view(8, 2)[rank::world]
    for _ in range(3):
        optimizer.zero_grad()
        parallel(data).square().mean().backward()
        optimizer.step()
    same(net[1].projector, matrix())  # those of the first process
    queue.put((rank, net[0].weight.detach().tolist()))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2])
def test_data_parallel_training(world):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    torch.multiprocessing.spawn(_trained, (world, port, queue), nprocs=world)
    weights = dict(queue.get() for _ in range(world))
    for found in weights.values():
        assert found == weights[0]


def test_the_first_of_two_sparse_layers_is_not_the_second():
    net = nn.Sequential(layer(), layer(2 * VALUES, -B))
    other = nn.Sequential(layer(3 * VALUES), layer())
    other.load_state_dict(net.state_dict())
    same(other[0].projector, matrix())
    same(other[1].projector, matrix(2 * VALUES), -B)
