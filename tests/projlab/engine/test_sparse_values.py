"""Derivatives in the stored values of sparse A: those of dense A at the same positions."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck, gradgradcheck

import projlab
from projlab import tolerance

F64 = torch.float64
M, N, K = 5, 12, 3


def system():
    """Indices (2, k) and values (k,) of independent rows, b, points and incoming gradients."""
    rng = np.random.default_rng(0)
    A = sp.coo_array(sp.random_array((M, N), density=0.4, rng=rng) + sp.eye_array(M, N))
    draw = torch.Generator().manual_seed(0)
    b, x, g = (torch.randn(s, generator=draw, dtype=F64) for s in ((M,), (K, N), (K, N)))
    indices = torch.from_numpy(np.stack([A.row, A.col]).astype(np.int64))
    return indices, torch.from_numpy(A.data), b, x, g


def of(indices, values):
    return torch.sparse_coo_tensor(indices, values, (M, N), check_invariants=True)


def allowed(dense):
    """Each entry sums 2 K products, of vectors known to kappa u."""
    kappa = float(torch.linalg.cond(dense))
    return 2 * K * tolerance.dimension_factor(M, N) * kappa * tolerance.unit_roundoff("float64")


def dense_gradients(indices, values, b, x, g):
    A = of(indices, values).to_dense().requires_grad_()
    b = b.clone().requires_grad_()
    in_A, in_b = torch.autograd.grad((projlab.project(x, A, b) * g).sum(), (A, b))
    return in_A[indices[0], indices[1]], in_b, A.detach()


@pytest.mark.parametrize("variant", ["auto", "sparse_cholesky", "iterative", "qr"])
def test_every_variant_differentiates_in_stored_values(variant):
    indices, values, b, x, _ = system()
    given = [t.requires_grad_() for t in (x, values, b)]

    def project(x, values, b):
        return projlab.project(x, of(indices, values), b, variant)

    assert gradcheck(project, given)
    assert gradgradcheck(project, given)


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_the_gradient_is_that_of_dense_rows_where_values_are_stored(layout):
    indices, values, b, x, g = system()
    want, want_b, dense = dense_gradients(indices, values, b, x, g)
    coo = of(indices, values).coalesce()
    A = (coo if layout == "coo" else coo.to_sparse_csr()).requires_grad_()
    b = b.requires_grad_()
    (projlab.project(x, A, b) * g).sum().backward()
    assert A.grad.layout == A.layout
    found = A.grad.to_sparse_coo().coalesce().values()
    assert (found - want).abs().max() <= allowed(dense) * want.abs().max()
    assert (b.grad - want_b).abs().max() <= allowed(dense) * want_b.abs().max()


def test_a_stored_zero_has_a_derivative_too():
    indices, values, b, x, g = system()
    values[3] = 0.0
    want, _, dense = dense_gradients(indices, values, b, x, g)
    assert want[3] != 0
    values.requires_grad_()
    (projlab.project(x, of(indices, values), b) * g).sum().backward()
    assert (values.grad - want).abs().max() <= allowed(dense) * want.abs().max()


@pytest.mark.parametrize("module", [projlab.Projector, projlab.nn.AffineProjection])
def test_a_modules_values_may_be_parameters_of_a_call(module):
    indices, values, b, x, g = system()
    want, _, dense = dense_gradients(indices, values, b, x, g)
    made = module(of(indices, values), b)
    (name,) = [key for key, _ in made.named_buffers() if key.endswith("A_values")]
    values.requires_grad_()
    found = torch.func.functional_call(made, {name: values}, (x,))
    (found * g).sum().backward()
    assert (values.grad - want).abs().max() <= allowed(dense) * want.abs().max()


def test_redundant_rows_have_no_derivative():
    indices = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
    values = torch.ones(4, dtype=F64, requires_grad=True)
    A = torch.sparse_coo_tensor(indices, values, (2, 3), check_invariants=True)
    with pytest.raises(projlab.RankDeficientError, match="full row rank only"):
        projlab.project(torch.zeros(3, dtype=F64), A, torch.ones(2, dtype=F64))


def test_transforms_over_stored_values_are_refused_by_name():
    indices, values, b, x, _ = system()
    A = of(indices, values).requires_grad_()
    with pytest.raises(projlab.InputError, match="under a transform"):
        torch.func.vmap(lambda v: projlab.project(v, A, b))(x)
    constant = torch.func.vmap(lambda v: projlab.project(v, A.detach(), b))(x)
    assert torch.equal(constant, projlab.project(x, A.detach(), b))
