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


def test_layer_without_a_b_of_its_own():
    layer = projlab.nn.AffineProjection(A)
    x, right = torch.randn(7, 4), torch.randn(7, 2, requires_grad=True)
    y = layer(x, right)
    assert held(y.detach(), right.detach()) < 1e-5
    torch.testing.assert_close(y.detach(), projlab.nn.AffineProjection(A, b)(x, right).detach())
    y.sum().backward()
    assert right.grad is not None
    with pytest.raises(projlab.InputError, match=r"built without b: give one, forward\(x, b\)"):
        layer(x)
    assert "b with each x" in repr(layer)
    own = projlab.nn.AffineProjection(projlab.AffineConstraint(A, b))
    assert held(own(x)) < 1e-5


DIMS = [0, 1, -2, (1, 2), (2, 1), (-1, 0), (0, 1, 2), (2,)]


@pytest.mark.parametrize("dim", DIMS)
def test_layer_along_dimensions(dim):
    """The same as a projection of what is permuted and flattened by hand."""
    x = torch.randn(2, 3, 4, dtype=F64)
    dims = [d % 3 for d in (dim if isinstance(dim, tuple) else (dim,))]
    rest = [d for d in range(3) if d not in dims]
    vectors = x.permute(*rest, *dims).reshape(*(x.shape[d] for d in rest), -1)
    rows = torch.randn(2, vectors.shape[-1], dtype=F64)
    layer = projlab.nn.AffineProjection(rows, 1.0, dim=dim)
    y = layer(x)
    assert y.shape == x.shape
    found = y.permute(*rest, *dims).reshape(vectors.shape)
    assert torch.equal(found, projlab.projector(rows, 1.0)(vectors))
    right = torch.randn(*vectors.shape[:-1], 2, dtype=F64)
    found = layer(x, right).permute(*rest, *dims).reshape(vectors.shape)
    assert torch.equal(found, projlab.projector(rows, 1.0)(vectors, right))
    program = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(program(x), y)
    assert f"dim={2 if dim == (2,) else dim}" in repr(layer)


def test_layer_along_dimensions_of_batched_systems():
    rows = torch.randn(5, 2, 3, dtype=F64)
    x = torch.randn(5, 3, 4, dtype=F64)
    y = projlab.nn.AffineProjection(rows, 1.0, dim=1)(x)
    assert torch.equal(y.mT, projlab.projector(rows, 1.0)(x.mT))
    with pytest.raises(projlab.InputError, match="dimension 0 of x counts the systems"):
        projlab.nn.AffineProjection(rows, 1.0, dim=0)(x)


@pytest.mark.parametrize("dim", ["1", 1.0, (), (0, "x"), True, [0]])
def test_what_is_no_dimension_is_refused(dim):
    with pytest.raises(projlab.InputError, match="it must be an int or a tuple of ints"):
        projlab.nn.AffineProjection(A, b, dim=dim)


@pytest.mark.parametrize("dim", [3, (0, 3), (0, -3), (1, 1)])
def test_a_dimension_that_x_does_not_have(dim):
    layer = projlab.nn.AffineProjection(A, b, dim=dim)
    with pytest.raises(projlab.InputError, match=r"dim=.*; x has shape \(2, 3, 4\)"):
        layer(torch.ones(2, 3, 4))


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


@pytest.mark.parametrize("dim", [(2, 3), (3, 2), (1, 2, 3), (-1, 0)])
def test_parametrised_filters(dim):
    """Two equations for each filter, and no Kronecker product of them."""
    conv = nn.Conv2d(3, 5, (2, 4))
    before = conv.weight.detach().clone()
    dims = [d % 4 for d in dim]
    rest = [d for d in range(4) if d not in dims]

    def vectors(weight):
        return weight.permute(*rest, *dims).flatten(len(rest))

    rows = torch.randn(2, vectors(before).shape[-1])
    projlab.nn.affine(conv, "weight", rows, [1.0, 2.0], dim=dim)
    wanted = projlab.projector(rows, [1.0, 2.0])(vectors(before))
    torch.testing.assert_close(vectors(conv.weight), wanted)
    conv(torch.randn(2, 3, 8, 8)).square().sum().backward()
    residual = vectors(conv.weight) @ rows.T - torch.tensor([1.0, 2.0])
    torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-5)


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
        (("weight", torch.ones(4), 1.0), {"dim": (1, -1)}, "dim=.*weight has shape"),
        (("weight", torch.ones(4), 1.0), {"dim": 1.0}, "dim=1.0"),
        (("weight", torch.ones(4), 1.0), {"dim": (0, 1)}, "4 columns; weight has 12 entries along"),
        (("weight", torch.ones(2, 1, 12), 1.0), {}, "batched"),
        (("weight", torch.ones(12), 1.0), {"variant": "lu"}, "lu"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(arguments, keywords, message):
    layer = nn.Linear(4, 3)
    with pytest.raises(projlab.InputError, match=message):
        projlab.nn.affine(layer, *arguments, **keywords)
    assert not parametrize.is_parametrized(layer)
