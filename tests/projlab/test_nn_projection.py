"""nn.Projection: outputs that are feasible by design."""

import pytest
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
