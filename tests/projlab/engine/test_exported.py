"""torch.export: programs carry their own numbers, and need nothing but torch."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import projlab
from projlab import project
from tests.projlab.derivatives import F64, close, metric, problem
from tests.projlab.systems import STRAIGHT

# what ONNX knows as well; solves and factorisations it does not
PLAIN = {
    "_assert_tensor_metadata", "add", "add_", "addcmul", "addcmul_", "addmm", "addmm_", "addmv",
    "addmv_", "baddbmm", "baddbmm_", "cat", "clone", "contiguous", "copy_", "div", "expand",
    "flatten", "index", "index_add", "linalg_vecdot", "mT", "matmul", "mul", "neg", "reshape",
    "select", "sub", "sub_", "sum", "to", "unsqueeze", "squeeze", "zeros_like", "detach", "movedim",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        # deprecations inside torch
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def redundant():
    A, b = problem("qr")
    return torch.cat([A, A.sum(0, keepdim=True)]), torch.cat([b, b.sum(0, keepdim=True)])


def layers():
    for variant in STRAIGHT:
        if variant == "sparse_cholesky":  # refuses: see test_sparse
            continue
        yield f"{variant}", projlab.nn.AffineProjection(*problem(variant), variant=variant), 0
    for kind in ("diagonal", "dense"):
        yield kind, projlab.nn.AffineProjection(*problem("qr"), metric=metric(kind)), 0
    yield "redundant", projlab.nn.AffineProjection(*redundant()), 0
    yield "batched", projlab.nn.AffineProjection(*problem("qr", 3)), 3
    yield "no rows", projlab.nn.AffineProjection(torch.zeros(0, 5, dtype=F64), 0.0), 0


def test_blocks_are_exported_too():
    A = torch.block_diag(*torch.randn(120, 2, 3, dtype=F64)).to_sparse()
    layer = projlab.nn.AffineProjection(A, torch.randn(240, dtype=F64))
    x = torch.randn(4, 360, dtype=F64)
    program = torch.export.export(layer, (x,))
    assert "blocks" in layer.projector.reason
    called = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert all(target.namespace == "aten" for target in called)
    close(program.module()(x), layer(x))


LAYERS = {name: (layer, batch) for name, layer, batch in layers()}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_an_exported_layer_is_plain_operators(name, strict):
    layer, batch = LAYERS[name]
    x = torch.randn(batch or 4, 5, dtype=F64)
    b = torch.randn(batch or 4, layer.projector.A.shape[-2], dtype=F64)
    if name == "redundant":
        b[:, 2] = b[:, 0] + b[:, 1]
    for arguments in ((x,), (x, b), (x.float(),)):
        expected = layer(*arguments)
        program = torch.export.export(layer, arguments, strict=strict)
        close(program.module()(*arguments).double(), expected.double())
        called = [n.target for n in program.graph.nodes if n.op == "call_function"]
        assert all(target.namespace == "aten" for target in called)
        if not strict:
            names = {target.overloadpacket.__name__ for target in called}
            assert names <= PLAIN, names - PLAIN


def test_any_number_of_vectors():
    layer, _ = LAYERS["qr"]
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        layer, (torch.randn(4, 5, dtype=F64),), dynamic_shapes={"x": {0: batch}}
    )
    for k in (2, 100):
        x = torch.randn(k, 5, dtype=F64)
        close(program.module()(x), layer(x))


LOADING = """
import sys
sys.modules["projlab"] = None
import torch
program = torch.export.load(sys.argv[1]).module()
torch.save(program(torch.load(sys.argv[2])), sys.argv[3])
"""


def test_a_program_runs_where_projlab_is_not(tmp_path):
    """And projects onto its own set, whatever other projectors there were, when they are gone."""
    layer = nn.Sequential(nn.Linear(5, 5, dtype=F64), projlab.nn.AffineProjection(*problem("qr")))
    program = torch.export.export(layer, (torch.zeros(4, 5, dtype=F64),))
    x = torch.randn(4, 5, dtype=F64)
    expected = layer(x).detach()
    del layer
    projlab.nn.AffineProjection(*problem("qr"))
    paths = [str(tmp_path / name) for name in ("program.pt2", "x.pt", "y.pt")]
    torch.export.save(program, paths[0])
    torch.save(x, paths[1])
    subprocess.run([sys.executable, "-W", "ignore", "-c", LOADING, *paths], check=True)
    close(torch.load(paths[2]).detach(), expected)


def test_a_change_that_nobody_has_seen_is_not_exported_over():
    layer, x = projlab.nn.AffineProjection(*problem("qr")), torch.randn(4, 5, dtype=F64)
    for change in (
        lambda P: P.b.fill_(2.0),
        lambda P: P.A.neg_(),
        lambda P: setattr(P, "b", torch.zeros(2, dtype=F64)),
    ):
        change(layer.projector)
        with pytest.raises(projlab.InputError, match="was changed since the projector was last"):
            torch.export.export(layer, (x,))
        expected = layer(x)
        close(torch.export.export(layer, (x,)).module()(x), expected)


def test_exported_under_autocast():
    """Products keep their precision there as well."""
    A = torch.randn(3, 7)
    layer, x = projlab.nn.AffineProjection(A, 1.0), torch.randn(4, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = layer(x)
        program = torch.export.export(layer, (x,))
        found = program.module()(x)
    torch.testing.assert_close(found, expected)


def test_an_exported_project_is_one_operator():
    class Layer(nn.Module):
        def forward(self, x, A, b):
            return project(x, A, b)

    A, b = problem("qr")
    x = torch.randn(4, 5, dtype=F64)
    program = torch.export.export(Layer(), (x, A, b))
    C, d = problem("qr")
    close(program.module()(x, C, d), project(x, C, d))
    with pytest.raises(projlab.InconsistentError):
        program.module()(x, torch.ones_like(A), torch.tensor([1.0, 2.0], dtype=F64))


def test_onnx():
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    for name, (layer, batch) in LAYERS.items():
        x = torch.randn(batch or 4, 5, dtype=F64)
        model = torch.onnx.export(layer, (x,), dynamo=True, verbose=False).model_proto
        session = runtime.InferenceSession(model.SerializeToString())
        inputs = {session.get_inputs()[0].name: x.numpy()}
        (found,) = session.run(None, inputs)
        close(torch.from_numpy(found), layer(x)), name
