"""Ambient state of torch, default dtype and device, does not reach projlab, and stays as it is."""

import ast
from pathlib import Path

import pytest
import torch

import projlab
from projlab import cat, expr

F32, F64 = torch.float32, torch.float64
CPU = {"dtype": F64, "device": "cpu"}
MAKERS = {
    "arange",
    "as_tensor",
    "empty",
    "eye",
    "full",
    "linspace",
    "ones",
    "rand",
    "randn",
    "sparse_coo_tensor",
    "sparse_csr_tensor",
    "tensor",
    "zeros",
}
OF_VALUES = {"arange", "as_tensor", "sparse_coo_tensor", "sparse_csr_tensor"}
"""What has the dtype of what it is given."""
PACKAGE = Path(projlab.__file__).parent


def makers(path):
    """(line, name, keywords) of each call of torch that makes a tensor of defaults."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "torch"
            and node.func.attr in MAKERS
        ):
            yield node.lineno, node.func.attr, {k.arg for k in node.keywords}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_every_tensor_that_is_made_says_where_and_of_what(path):
    for line, name, keywords in makers(path):
        assert keywords & {"device", None}, f"{path.name}:{line}: torch.{name} without a device"
        assert keywords & {"dtype", None} or name in OF_VALUES, (
            f"{path.name}:{line}: torch.{name} without a dtype"
        )


def systems():
    A, b = torch.randn(3, 7, **CPU), torch.randn(3, **CPU)
    redundant, right = torch.cat([A, A[:1]]), torch.cat([b, b[:1]])
    x = torch.randn(2, 7, **CPU)
    return A, b, redundant, right, x


CALLS = {
    "projector": lambda A, b, R, c, x: projlab.projector(A, b)(x),
    "lists": lambda A, b, R, c, x: projlab.projector([[1.0, 2.0]], [1.0])(x[:, :2]),
    "project": lambda A, b, R, c, x: projlab.project(x, A, b),
    "redundant rows": lambda A, b, R, c, x: projlab.projector(R, c).multipliers(x),
    "least squares": lambda A, b, R, c, x: projlab.projector(
        R, c + torch.arange(4, **CPU), on_inconsistent="least_squares"
    )(x),
    "exact rank": lambda A, b, R, c, x: projlab.projector(R, c, rank="exact")(x),
    "a batch": lambda A, b, R, c, x: projlab.projector(torch.stack([A, 2 * A]), b)(x),
    "a sparse matrix": lambda A, b, R, c, x: projlab.projector(A.to_sparse_coo(), b)(x),
    "blocks": lambda A, b, R, c, x: projlab.projector(
        torch.block_diag(A, A, A).to_sparse_coo(), torch.cat([b, b, b])
    )(torch.cat([x, x, x], 1)),
    "rows that share no column": lambda A, b, R, c, x: projlab.projector(torch.eye(7, **CPU), 0.0)(
        x
    ),
    "a metric": lambda A, b, R, c, x: projlab.projector(A, b, metric=torch.ones(7, **CPU))(x),
    "a stated error": lambda A, b, R, c, x: projlab.projector(R, c, b_error=1e-9)(x),
    "diagnose": lambda A, b, R, c, x: projlab.diagnose(R, c).condition,
    "null space": lambda A, b, R, c, x: projlab.projector(A, b).null_space(),
    "certify": lambda A, b, R, c, x: (
        projlab.certify(x, projlab.project(x, R, c), R, c).forward_error_bound
    ),
    "a layer": lambda A, b, R, c, x: projlab.nn.AffineProjection(A, b)(x),
    "derivatives": lambda A, b, R, c, x: torch.func.jacrev(projlab.project, argnums=1)(x[0], A, b),
} | {
    name: lambda A, b, R, c, x, name=name: projlab.projector(A, b, name)(x)
    for name in ("pinv", "qr", "cholesky")
}

EQUATIONS = {
    "sums": lambda W, p: [expr(W).sum(dim=1) == 1],
    "rows and columns": lambda W, p: [expr(W).sum(dim=1) == 1, expr(W).sum(dim=0) == 0.8],
    "a matrix": lambda W, p: [torch.randn(2, 6, **CPU) @ expr(p) == 1],
    "ties": lambda W, p: [expr(p)[0] - 2 * expr(p)[3] == 0, expr(W)[0] == expr(W)[1]],
    "cat": lambda W, p: [torch.ones(1, 26, **CPU) @ cat(expr(W), expr(p)) == 1],
    "entries": lambda W, p: [expr(p)[[0, 2, 4]].sum() == 1],
    "weights": lambda W, p: [(torch.arange(6, **CPU) * expr(p)).sum() == 1],
    "einsum": lambda W, p: [torch.einsum("ij,j->i", expr(W), torch.ones(5, **CPU)) == 0],
}


@pytest.fixture(params=["float64", "bfloat16", "float16", "meta", "meta, bfloat16"])
def ambient(request):
    """Other defaults than usual; what is yielded checks that they stand, and ends them."""
    device = "meta" if request.param.startswith("meta") else "cpu"
    dtype = getattr(torch, request.param.removeprefix("meta").removeprefix(", ") or "float32")

    def ended():
        assert torch.get_default_device().type == device
        assert torch.get_default_dtype() is dtype
        torch.set_default_device(None)
        torch.set_default_dtype(F32)

    try:
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)
        yield ended
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(F32)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_answers_as_it_does_elsewhere(call, ambient):
    given = systems()
    found = CALLS[call](*given)
    ambient()
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(CALLS[call](*given)))


@pytest.mark.parametrize("equations", EQUATIONS)
def test_training_goes_as_it_does_elsewhere(equations, ambient):
    W = torch.nn.Parameter(torch.linspace(-1, 1, 20, dtype=F32, device="cpu").reshape(4, 5))
    p = torch.nn.Parameter(torch.linspace(0, 2, 6, dtype=F32, device="cpu"))
    optimizer = torch.optim.Adam([W, p], lr=0.01)
    handle = projlab.constrain(optimizer, *EQUATIONS[equations](W, p))
    for _ in range(2):
        W.grad, p.grad = torch.ones_like(W), torch.ones_like(p)
        optimizer.step()
    ambient()
    assert float(handle.residual().abs().max()) < 1e-5
    assert handle.certify().forward_error_bound < 1e-4
