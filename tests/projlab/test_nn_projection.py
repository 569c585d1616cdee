"""nn.Projection: outputs that are feasible by design."""

import copy
import io
import pickle

import pytest
import scipy.sparse
import torch

from projlab import InconsistentError, InputError, Polyhedron, nn, projector

F64 = torch.float64


def test_a_network_ends_on_the_simplex_and_learns():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), nn.Projection(torch.ones(1, 5), 1.0, lb=0))
    x, wanted = torch.randn(64, 3), torch.softmax(torch.randn(64, 5), -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        out = model(x)
        loss = (out - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        assert bool((out >= 0).all())
        assert float((out.detach().sum(-1) - 1).abs().max()) < 2e-6
    assert losses[-1] < losses[0] / 2


def test_right_sides_and_bounds_come_with_each_vector():
    layer = nn.Projection(torch.ones(1, 4), G=torch.tensor([[1.0, 1.0, 0.0, 0.0]]), lb=0)
    x = torch.zeros(3, 4)
    b, h = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.1], [0.2], [0.3]])
    out = layer(x, b=b, h=h)
    torch.testing.assert_close(out.sum(-1), b[:, 0])
    torch.testing.assert_close(out[:, :2].sum(-1), h[:, 0])
    assert repr(layer).startswith("Projection(\n  b with each x, h with each x")
    for missing in ({}, {"b": b}, {"h": h}):
        with pytest.raises(InputError, match="the layer was built without"):
            layer(x, **missing)
    with pytest.raises(InconsistentError, match="no x satisfies"):
        layer(x, b=-b, h=h)
    capped = layer(x, b=b, h=h, ub=torch.tensor([1.0, 1.0, 3.0, 0.5]))
    assert float(capped[:, 3].max()) <= 0.5


def test_along_another_dimension():
    x = torch.randn(2, 5, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    layer = nn.Projection(torch.ones(5, dtype=F64), 1.0, lb=0, dim=1)
    alone = projector(torch.ones(5, dtype=F64), 1.0, lb=0)
    torch.testing.assert_close(layer(x), alone(x.transpose(1, 2)).transpose(1, 2))
    assert repr(layer).startswith("Projection(\n  dim=1")


def test_a_polyhedron_is_taken_whole():
    box = Polyhedron(lb=0, ub=1, n=3)
    assert nn.Projection(box)(torch.tensor([-1.0, 0.5, 2.0])).tolist() == [0, 0.5, 1]
    assert nn.Projection(lb=0, n=3)(torch.tensor([-1.0, 0.5, 2.0])).tolist() == [0, 0.5, 2]
    with pytest.raises(InputError, match="holds every part"):
        nn.Projection(box, lb=0)
    with pytest.raises(InconsistentError, match="no x satisfies"):
        nn.Projection(torch.ones(1, 3), -1.0, lb=0)


def test_autocast_leaves_float32():
    layer = nn.Projection(torch.ones(1, 4), 1.0, lb=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(torch.randn(3, 4, dtype=torch.bfloat16))
    assert out.dtype == torch.float32
    assert float((out.sum(-1) - 1).abs().max()) < 1e-6


def test_a_state_dict_carries_the_set():
    layer = nn.Projection(torch.ones(1, 3), 1.0, lb=0)
    other = nn.Projection(torch.ones(1, 3), 2.0, lb=-1)
    other.load_state_dict(layer.state_dict())
    x = torch.tensor([0.2, -3.0, 0.4])
    assert torch.equal(other(x), layer(x))


ROWS = torch.tensor([[1.0, 1, 1, 0], [1, -1, 0, 2]], dtype=F64)
POINTS = torch.linspace(-2, 3, 20, dtype=F64).reshape(5, 4).sin()


def sparse_layer(scale=1.0, rows=ROWS):
    """Equations and inequalities whose rows are sparse."""
    A = scipy.sparse.csr_array(scale * rows[:1].numpy())
    return nn.Projection(A, scale, G=(scale * rows[1:]).to_sparse(), h=0.1, lb=-1)


def close(layer, scale=1.0):
    """The layer projects as a dense one of this scale does."""
    dense = nn.Projection(scale * ROWS[:1], scale, G=scale * ROWS[1:], h=0.1, lb=-1)
    torch.testing.assert_close(layer(POINTS), dense(POINTS), rtol=1e-12, atol=1e-12)


def test_sparse_rows_are_plain_buffers():
    layer = sparse_layer()
    names = [name for name, _ in layer.named_buffers()]
    assert names == [
        f"projector.{name}"
        for name in ("A_indices", "A_values", "b", "G_indices", "G_values", "h", "lb", "ub")
    ]
    assert all(t.layout is torch.strided for t in layer.buffers())
    for matrix, rows in ((layer.projector.A, ROWS[:1]), (layer.projector.G, ROWS[1:])):
        assert matrix.layout is torch.sparse_coo
        assert torch.equal(matrix.to_dense(), rows)
    assert layer.projector.A is layer.projector.A
    layer.share_memory()
    close(layer)
    layer.half()
    assert layer.projector.G_values.dtype == F64
    close(layer)


@pytest.mark.parametrize("kept", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])  # noqa: S301
def test_what_is_done_to_sparse_rows_is_followed(kept):
    layer = kept(sparse_layer())
    close(layer)
    P = layer.projector
    P.A_values.mul_(2)
    P.G_values.mul_(2)
    P.b.mul_(2)
    close(layer, 2.0)
    A, G = P.A, P.G
    for t in (A, G, P.b):
        t.mul_(2)
    assert torch.equal(layer.state_dict()["projector.A_values"], 4 * torch.ones(3, dtype=F64))
    close(layer, 4.0)
    P.A, P.G = ROWS[:1].clone(), ROWS[1:].clone()
    P.b.div_(4)
    A.mul_(3)  # which are no longer its own
    close(layer)
    P.A = twice = (2 * ROWS[:1]).to_sparse()
    P.b.mul_(2)
    close(layer)
    twice.mul_(0.5)
    P.b.mul_(0.5)
    close(layer)
    assert "projector.G" in layer.state_dict()
    P.A_indices[1, 0] = 9
    with pytest.raises(InputError, match=r"A_indices\[:, 0\] is \(0, 9\), outside of A"):
        layer(POINTS)
    with pytest.raises(InputError, match="G is a buffer, and a Parameter"):
        P.G = torch.nn.Parameter(ROWS[1:])


def other_layers():
    yield sparse_layer(rows=ROWS.flip(1))
    yield sparse_layer(rows=torch.eye(2, 4, dtype=F64))  # of other numbers of entries
    yield nn.Projection(ROWS[:1], 3.0, G=ROWS[1:], h=0.2, lb=0)


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_carries_sparse_rows_in_every_form(assign):
    layer = sparse_layer(2.0)
    state, file = layer.state_dict(), io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    rest = {k: t for k, t in state.items() if "A_" not in k and "G_" not in k}
    whole = {"projector.A": layer.projector.A, "projector.G": layer.projector.G}
    dense = {name: t.to_dense() for name, t in whole.items()}
    for found in (state, {**state}, torch.load(file), {**rest, **whole}, {**rest, **dense}):
        for other in other_layers():
            other.load_state_dict(found, assign=assign)
            torch.testing.assert_close(other(POINTS), layer(POINTS), rtol=1e-12, atol=1e-12)


def test_a_state_dict_of_another_set_is_refused():
    other = nn.Projection(ROWS[:1].to_sparse(), 1.0, G=ROWS.to_sparse(), h=2.0, lb=-1)
    with pytest.raises(RuntimeError, match=r"projector.G: the state dict holds \(1, 4\), the set"):
        other.load_state_dict(sparse_layer().state_dict())
    assert torch.equal(other.projector.G.to_dense(), ROWS)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*A_indices"):
        nn.Projection(lb=0, n=4).load_state_dict(sparse_layer().state_dict())


@pytest.mark.parametrize("left_out", ["A_indices", "A_values", "G_values"])
def test_half_of_a_sparse_matrix_is_not_loaded(left_out):
    layer = sparse_layer()
    state = sparse_layer(2.0, rows=ROWS.flip(1)).state_dict()
    del state[f"projector.{left_out}"]
    with pytest.raises(RuntimeError, match=rf"projector.{left_out}: missing beside projector"):
        layer.load_state_dict(state, strict=False)
    close(layer)


def test_safetensors_take_sparse_rows():
    safetensors = pytest.importorskip("safetensors.torch")
    layer, other = sparse_layer(), sparse_layer(3.0)
    other.load_state_dict(safetensors.load(safetensors.save(layer.state_dict())))
    close(other)


def test_data_parallel_training_takes_sparse_rows(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'met'}", rank=0, world_size=1
    )
    try:
        net = torch.nn.Sequential(torch.nn.Linear(4, 4, dtype=F64), sparse_layer())
        torch.nn.parallel.DistributedDataParallel(net)(POINTS).square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert net[0].weight.grad.abs().max() > 0
    close(net[1])
