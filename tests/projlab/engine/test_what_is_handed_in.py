"""Tensors that share memory, have no squares, or carry more than numbers: right, or refused."""

import math
import subprocess

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import projlab
from projlab import project, projector, tolerance

F64 = torch.float64
A = torch.tensor([[1.0, 2, 0, 0], [0, 1, 3, 0], [1, 0, 0, 2]], dtype=F64)
B = torch.tensor([1.0, 2, 3], dtype=F64)
TWO = torch.tensor([[1.0, 1, 0], [0, 1, 1]], dtype=F64)
U = tolerance.unit_roundoff(F64)


class OneBuffer:
    """Writes its products where it wrote the last ones."""

    shape = (3, 4)

    def __init__(self):
        self.left, self.right = torch.zeros(3, dtype=F64), torch.zeros(4, dtype=F64)

    def matvec(self, x):
        return torch.mv(A, x, out=self.left)

    def rmatvec(self, y):
        return torch.mv(A.T, y, out=self.right)


class NumpyBuffer(OneBuffer):
    dtype = np.dtype(float)

    def __init__(self):
        self.left, self.right = np.zeros(3), np.zeros(4)

    def matvec(self, x):
        return np.dot(A.numpy(), x, out=self.left)

    def rmatvec(self, y):
        return np.dot(np.ascontiguousarray(A.numpy().T), y, out=self.right)


class Trained:
    shape = (3, 4)
    weight = A.clone().requires_grad_()

    def matvec(self, x):
        return self.weight @ x

    def rmatvec(self, y):
        return self.weight.T @ y


@pytest.mark.parametrize("kind", [OneBuffer, NumpyBuffer, Trained])
def test_products_may_lie_in_one_buffer_and_require_grad(kind):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    P = projector(kind(), B)
    assert torch.allclose(P(x), projector(A, B)(x), rtol=0, atol=100 * U)


SIZES = [(F64, 1e160), (F64, 1e-170), (F64, 1e300), (F64, 1e-290)]
SIZES += [(torch.float32, size) for size in (5e18, 1e-25, 1e-22, 1e-15, 1e37)]


@pytest.mark.parametrize(("dtype", "size"), SIZES)
def test_an_iteration_scales_with_what_it_is_given(dtype, size):
    rows, u = TWO.to(dtype), tolerance.unit_roundoff(dtype)
    x, b = (torch.tensor(t, dtype=dtype) for t in ([1.0, 2, 4], [1.0, 2]))
    wanted = torch.tensor([1.0, 0, 2], dtype=dtype)
    P = projector(rows, b * size, "iterative")
    assert torch.allclose(P(x * size) / size, wanted, rtol=0, atol=64 * u)
    mixed = torch.stack([x * size, x]), torch.stack([b * size, b])
    assert torch.allclose(P(*mixed)[1], wanted, rtol=0, atol=64 * u)
    v = (x * size).requires_grad_()
    (g,) = torch.autograd.grad(P(v), v, x * size)
    (expected,) = torch.autograd.grad(projector(rows, b)(x.requires_grad_()), x, x.detach())
    assert torch.allclose(g / size, expected, rtol=0, atol=64 * u)


class Spoiled(OneBuffer):
    """Right until it is told otherwise: what it returns then is multiplied."""

    factor = 1.0

    def matvec(self, x):
        return A @ x * self.factor


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e300])
def test_products_that_are_not_finite_end_an_iteration_by_name(factor):
    operator = Spoiled()
    P = projector(operator, B)
    operator.factor = factor
    x = torch.ones(2, 4, dtype=F64)
    for call in (P, P.tangent, P.multipliers, lambda x: P(x, 2 * B)):
        with pytest.raises(projlab.InputError, match=r"2 of 2 finite .*A\.matvec"):
            call(x)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_an_iteration_lets_through_what_is_not_finite_in_x_and_b(value):
    P = projector(sp.csr_array(A.numpy()), B, "iterative")
    x, b = torch.ones(2, 4, dtype=F64), torch.stack([B, B])
    x[0, 1] = b[0, 2] = value
    want = P(torch.ones(4, dtype=F64))
    for found in (P(x), P(torch.ones(2, 4, dtype=F64), b), P(x, b)):
        assert not found[0].isfinite().any()
        torch.testing.assert_close(found[1], want, rtol=0, atol=64 * U)


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e200, 1e300])
def test_a_preconditioner_of_any_size_leads_the_same_way(size):
    inverse = torch.linalg.inv(A @ A.T)
    P = projector(A, B, "iterative", preconditioner=lambda r: inverse @ r * size)
    x = torch.ones(4, dtype=F64)
    torch.testing.assert_close(P(x), projector(A, B)(x), rtol=0, atol=64 * U)


@pytest.mark.parametrize("hidden", [0.0, 1e-30])
def test_a_preconditioner_that_hides_a_row_is_refused(hidden):
    weights = torch.tensor([1.0, 1, hidden], dtype=F64)
    with pytest.raises(projlab.InputError, match=r"preconditioner is not positive definite.*row 2"):
        projector(A, B, "iterative", preconditioner=lambda r: r * weights)
    uneven = projector(A, B, "iterative", preconditioner=lambda r: r * (weights + 0.01))
    assert torch.allclose(
        uneven(torch.ones(4, dtype=F64)), projector(A, B)(torch.ones(4, dtype=F64))
    )


def test_a_compiled_iteration_notices_another_A(fresh_compiler):
    P = projector(A, 1.0, "iterative")
    compiled = torch.compile(lambda x: P(x), backend="eager")
    x = torch.ones(4, dtype=F64)
    compiled(x)
    P.A.mul_(torch.tensor([[1.0], [3.0], [1.0]]))
    with pytest.raises(projlab.InputError, match="A was changed in place"):
        compiled(x)
    assert torch.equal(P(x), compiled(x))


@pytest.mark.parametrize(
    ("dtype", "rows", "vectors"),
    [(F64, 1e140, 1e-200), (torch.float32, 1e12, 1e-30), (torch.float32, 1e-12, 1e30)],
)
def test_multipliers_that_have_no_number_do_not_spoil_the_point(dtype, rows, vectors):
    given = torch.full((1, 3), rows, dtype=dtype)
    x = torch.tensor([1.0, 2, 4], dtype=dtype) * vectors
    found = project(x, given, torch.zeros(1, dtype=dtype)) / vectors
    wanted = torch.tensor([-4.0, -1, 5], dtype=dtype) / 3
    assert torch.allclose(found, wanted, rtol=0, atol=16 * tolerance.unit_roundoff(dtype))


@pytest.mark.parametrize(
    "shared",
    [
        lambda: torch.ones(1, dtype=F64).expand(3),
        lambda: torch.ones(3, dtype=F64).expand(4, 3),
        lambda: torch.arange(5.0, dtype=F64).as_strided((3, 3), (1, 1)),
    ],
)
@pytest.mark.parametrize("variant", ["qr", "cholesky", "sparse_cholesky", "iterative"])
def test_x_in_shared_memory_is_not_projected_in_place(variant, shared):
    P, x = projector(TWO, [1.0, 5.0], variant), shared()
    before = x.clone()
    with pytest.raises(projlab.InputError, match=r"x, of shape .* several places"):
        P.project_(x)
    assert torch.equal(x, before)
    for apart in (torch.ones(3, 4, dtype=F64).T, torch.ones(6, dtype=F64)[::2]):
        expected = P(apart[..., :3])
        assert torch.allclose(P.project_(apart[..., :3]), expected, rtol=0, atol=10 * U)


def test_b_of_other_systems_is_refused():
    P = projector(TWO[None], 1.0)
    with pytest.raises(projlab.InputError, match="b has shape"):
        P(torch.zeros(1, 5, 3, dtype=F64), torch.zeros(5, 2, dtype=F64))
    with pytest.raises(projlab.InputError, match="b has shape"):
        P.multipliers(torch.zeros(1, 5, 3, dtype=F64), torch.zeros(5, 2, dtype=F64))


def test_nothing_to_project_and_nothing_to_project_onto():
    none = A[:0].clone().requires_grad_()
    x = torch.ones(5, 4, dtype=F64, requires_grad=True)
    project(x, none, torch.zeros(0, dtype=F64)).sum().backward()
    assert none.grad.shape == (0, 4)
    assert torch.equal(x.grad, torch.ones_like(x))
    P = projector(TWO[None], 1.0, "sparse_cholesky")
    empty = torch.zeros(1, 0, 3, dtype=F64)
    assert P(empty).shape == (1, 0, 3)
    assert P.multipliers(empty).shape == (1, 0, 2)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("assign", [False, True])
def test_tensors_of_inference_mode(assign):
    P = projector(TWO.to_sparse(), 1.0)
    x = torch.zeros(3, dtype=F64)
    expected = P(x)
    with torch.inference_mode():
        state = {name: t.clone() for name, t in P.state_dict().items()}
        given = TWO.to_sparse(), TWO.to_sparse_csr(), torch.stack([TWO, TWO]).to_sparse()
    P.load_state_dict(state, assign=assign)
    assert torch.equal(P(x), expected)
    for one in given:
        made = projector(one, 1.0)(x.expand(*one.shape[:-2], 3))
        assert torch.allclose(made, expected.expand_as(made), rtol=0, atol=10 * U)


@pytest.mark.parametrize("name", ["A", "b"])
def test_no_parameter_takes_the_place_of_a_buffer(name):
    P = projector(TWO, 1.0)
    with pytest.raises(projlab.InputError, match=f"{name} is a buffer"):
        setattr(P, name, torch.nn.Parameter(getattr(P, name).clone()))
    assert torch.equal(P(torch.zeros(3, dtype=F64)), projector(TWO, 1.0)(torch.zeros(3, dtype=F64)))


def test_blocks_are_exported_for_any_number_of_vectors():
    P = projector(sp.kron(sp.eye_array(6), sp.csr_array(TWO.numpy())).tocsr(), 1.0)
    shapes = ({0: torch.export.Dim("k", min=2)},)
    exported = torch.export.export(P, (torch.zeros(4, 18, dtype=F64),), dynamic_shapes=shapes)
    x = torch.ones(7, 18, dtype=F64)
    assert torch.allclose(exported.module()(x), P(x), rtol=0, atol=10 * U)


def test_large_rows_are_compared_and_a_reader_may_leave(projlab_program, tmp_path):
    np.savez(tmp_path / "large.npz", A=[[1e155, 2e155, 0], [0, 1, 1]], b=[1e155, 1])
    command = [*projlab_program(""), "compare", "large.npz"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"to {math.sqrt(5) * 1e155:.3g}" in ended.stdout
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as left:
        left.stdout.close()
        assert left.wait() == 141
