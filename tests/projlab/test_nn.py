"""Constraints inside modules: a layer on outputs, a parametrisation of a weight."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import projlab

F64 = torch.float64
A = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, 2.0]])
b = torch.tensor([1.0, 0.5])


def held(y, right=b):
    return float((y.double() @ A.double().T - right).abs().max())


def test_layer_projects_outputs_and_trains():
    net = nn.Sequential(nn.Linear(3, 4), projlab.nn.AffineProjection(A, b))
    x = torch.randn(7, 3)
    y = net(x)
    assert y.dtype == torch.float32
    assert held(y.detach()) < 1e-6
    y.square().sum().backward()
    free = net[0](x)
    torch.testing.assert_close(y, projlab.project(free, A, b))
    assert net[0].weight.grad.abs().sum() > 0
    assert "m=2, n=4" in repr(net)


def test_layer_takes_another_b():
    layer = projlab.nn.AffineProjection(A, b)
    right = torch.randn(7, 2)
    assert held(layer(torch.randn(7, 4), right), right) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layer_returns_float32_inside_autocast(dtype):
    net = nn.Sequential(nn.Linear(3, 4), projlab.nn.AffineProjection(A, b))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = net[1](torch.randn(5, 4, dtype=dtype))
        y = net(torch.randn(5, 3))
    assert inside.dtype == y.dtype == torch.float32
    assert max(held(inside), held(y.detach())) < 1e-6
    assert net[1](torch.randn(5, 4, dtype=dtype)).dtype == dtype


def test_layer_keeps_float64():
    layer = projlab.nn.AffineProjection(A, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(5, 4, dtype=F64)).dtype == F64


def test_layer_refuses_what_a_projector_refuses():
    with pytest.raises(projlab.InconsistentError):
        projlab.nn.AffineProjection(torch.ones(2, 4), torch.tensor([1.0, 2.0]))
    with pytest.raises(projlab.InputError, match="last dimension must be 4"):
        projlab.nn.AffineProjection(A, b)(torch.ones(5))


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_layer_survives_saving_and_copying(form):
    matrix = A if form == "dense" else A.to_sparse()
    layer = projlab.nn.AffineProjection(matrix, b)
    x = torch.randn(5, 4)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = torch.eye(2, 4) if form == "dense" else A.to_sparse()
    fresh = projlab.nn.AffineProjection(other, torch.zeros(2))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(x), layer(x))


# ---- nn.affine


@pytest.mark.parametrize(
    ("matrix", "right", "dim", "along"),
    [
        (torch.ones(4), 1.0, 1, lambda W: W.sum(1)),
        (torch.ones(4), 1.0, -1, lambda W: W.sum(1)),
        (torch.ones(3), 2.0, 0, lambda W: W.sum(0)),
        (torch.ones(12), 3.0, None, lambda W: W.sum().reshape(1)),
        (torch.arange(24.0).reshape(2, 12), [1.0, 2.0], None, lambda W: W.reshape(-1) @ ROWS.T),
    ],
)
def test_parametrised_weight_satisfies_the_equations(matrix, right, dim, along):
    layer = nn.Linear(4, 3)
    before = layer.weight.detach().clone()
    assert projlab.nn.affine(layer, "weight", matrix, right, dim=dim) is layer
    wanted = torch.as_tensor(right).expand_as(along(layer.weight))
    torch.testing.assert_close(along(layer.weight), wanted, rtol=0, atol=2e-5)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        layer(torch.randn(6, 4)).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(along(layer.weight), wanted, rtol=0, atol=2e-4)
    layer.weight = before
    torch.testing.assert_close(along(layer.weight), wanted, rtol=0, atol=2e-5)
    assert f"dim={dim}" in repr(layer)


ROWS = torch.arange(24.0).reshape(2, 12)


def test_parametrised_weight_starts_at_the_nearest_one():
    layer = nn.Linear(4, 3)
    before = layer.weight.detach().clone()
    projlab.nn.affine(layer, "weight", torch.ones(4), 1.0, dim=1)
    torch.testing.assert_close(layer.weight, projlab.project(before, torch.ones(4), 1.0))


def build():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))
    projlab.nn.affine(net[0], "weight", torch.ones(4), 1.0, dim=1)
    projlab.nn.affine(net[2], "bias", A, b)
    return net


def train(net, optimizer, steps):
    for k in steps:
        torch.manual_seed(k)
        optimizer.zero_grad()
        net(torch.randn(6, 4)).square().sum().backward()
        optimizer.step()


def test_resuming_gives_the_same_bits():
    net = build()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    train(net, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(net, optimizer, range(3, 6))
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = build()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    resumed = torch.optim.Adam(other.parameters(), lr=0.1)
    other.load_state_dict(saved["net"])
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, range(3, 6))
    x = torch.randn(5, 4)
    assert torch.equal(other(x), net(x))
    assert torch.equal(other[0].weight, net[0].weight)


def test_parametrised_module_survives_copying_and_conversion():
    net = build()
    twin = copy.deepcopy(net)
    assert torch.equal(twin[0].weight, net[0].weight)
    twin.double()
    assert twin[0].weight.dtype == F64
    torch.testing.assert_close(twin[0].weight.sum(1), torch.ones(3, dtype=F64))
    with parametrize.cached():
        assert net[0].weight is net[0].weight
    parametrize.remove_parametrizations(net[0], "weight")
    torch.testing.assert_close(net[0].weight.sum(1), torch.ones(3))


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (("weights", torch.ones(4), 1.0), {}, "no floating-point tensor 'weights'"),
        (("weight", torch.ones(5), 1.0), {"dim": 1}, "5 columns; weight has 4 entries along"),
        (("weight", torch.ones(4), 1.0), {}, "4 columns; weight has 12 entries"),
        (("weight", torch.ones(4), 1.0), {"dim": 2}, "dim=2"),
        (("weight", torch.ones(2, 1, 12), 1.0), {}, "batched"),
        (("weight", torch.ones(12), 1.0), {"variant": "lu"}, "lu"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(arguments, keywords, message):
    layer = nn.Linear(4, 3)
    with pytest.raises(projlab.InputError, match=message):
        projlab.nn.affine(layer, *arguments, **keywords)
    assert not parametrize.is_parametrized(layer)
