"""The one-off form: every form of A and b, derivatives in whatever requires them."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.func import vmap

import projlab
from projlab import project
from tests.projlab import exact
from tests.projlab.derivatives import F64, close, leaves, problem
from tests.projlab.systems import CHOICES, OVERLAPPING_VARIANTS, RUNS, case, refused_if


@pytest.mark.parametrize(("name", "dtype", "variant"), RUNS)
def test_one_off_forward_error(name, dtype, variant):
    given = case(name, dtype)
    with refused_if(given.may_refuse(variant), variant):
        x = projlab.project(given.x0, given.A, given.b, variant)
        # one projection may be served best by another variant than many: the laxer bound holds
        many = projlab.projector(given.A, given.b, variant).variant
        allowed = max(given.allowed(v) for v in {many, *OVERLAPPING_VARIANTS})
        assert exact.distance(x, given.solution) <= allowed


@pytest.mark.parametrize("variant", CHOICES)
def test_one_row_as_a_vector_and_a_scalar_b(variant):
    x = projlab.project(torch.tensor([0.0, 0.0], dtype=torch.float64), [1, 1], 1, variant)
    assert x.tolist() == pytest.approx([0.5, 0.5], rel=4 * 2**-53)
    P = projlab.projector(np.array([3, 4]), 25, variant)
    assert P.A.dtype == torch.float64
    assert P(torch.zeros(2, dtype=torch.float64)).tolist() == pytest.approx([3, 4], rel=8 * 2**-53)


def test_a_scalar_b_holds_for_every_row():
    A = torch.eye(3, 5, dtype=torch.float64)
    x = projlab.project(torch.zeros(5, dtype=torch.float64), A, 2.0)
    assert x.tolist() == [2.0, 2.0, 2.0, 0.0, 0.0]


def test_a_scalar_b_for_every_row():
    A, b = problem("qr")[0], torch.tensor(0.5, dtype=F64)
    inputs = leaves(torch.randn(5, dtype=F64), A, b)
    assert gradcheck(projlab.project, inputs)
    batched = leaves(torch.randn(2, 5, dtype=F64), A.expand(2, 2, 5), b)
    assert gradcheck(projlab.project, batched)


def test_gradient_in_x_of_a_constraint():
    constraint = projlab.AffineConstraint(torch.tensor([[1, 2, 0], [0, 1, -1]]), [1.0, 2.0])
    x = torch.randn(3, dtype=F64)
    assert gradcheck(lambda x: projlab.project(x, constraint), leaves(x))


@pytest.mark.parametrize("form", ["numpy", "lists", "integers"])
def test_gradient_in_b_whatever_A_is(form):
    """`project` differentiates in b where A is no tensor, too."""
    A = torch.tensor([[1, 2, 0], [0, 1, -1]])
    b, x = torch.tensor([1.0, 2.0], dtype=F64), torch.randn(3, dtype=F64)
    given = {"numpy": A.double().numpy(), "lists": A.tolist(), "integers": A}[form]
    assert gradcheck(lambda x, b: projlab.project(x, given, b), leaves(x, b))


def test_gradients_keep_the_dtype_of_what_they_belong_to():
    A, b = problem("qr")
    x, A, b = leaves(torch.randn(5, dtype=torch.float16), A.float(), b)
    projlab.project(x, A, b).sum().backward()
    assert (x.grad.dtype, A.grad.dtype, b.grad.dtype) == (torch.float16, torch.float32, F64)


def test_graph_only_for_what_requires_it():
    A, b = problem("qr")
    x, b = torch.randn(5, dtype=F64), b.requires_grad_()
    y = projlab.project(x, A, b)
    assert y.requires_grad
    y.sum().backward()
    assert b.grad is not None
    assert A.grad is None
    assert x.grad is None


@pytest.mark.parametrize("form", ["AffineConstraint", "numpy", "lists"])
def test_vmap_of_project_whatever_A_is(form):
    A, b = problem("qr")
    x = torch.randn(4, 5, dtype=F64)
    given = {
        "AffineConstraint": (projlab.AffineConstraint(A, b),),
        "numpy": (A.numpy(), b),
        "lists": (A.tolist(), b.tolist()),
    }[form]
    close(vmap(lambda x: project(x, *given))(x), project(x, A, b))


def test_vmap_still_refuses():
    A, b = problem("qr")
    x = torch.randn(4, 5, dtype=F64)
    x[2, 3] = torch.nan
    with pytest.raises(projlab.InputError, match=r"x.* is nan"):
        vmap(lambda x: project(x, A, b))(x)
    c = torch.randn(4, 2, dtype=F64)
    c[2, 1] = torch.inf
    with pytest.raises(projlab.InputError, match=r"b.* is inf"):
        vmap(lambda c: project(x[0], A, c))(c)
    Ab = A.expand(4, 2, 5).clone()
    Ab[1, 1] = Ab[1, 0]
    with pytest.raises(projlab.InconsistentError, match="system 1 of the batch has no solution"):
        vmap(lambda A: project(x[0], A, b))(Ab)
    with pytest.raises(projlab.InconsistentError, match="has no solution: row 1 = row 0"):
        vmap(lambda b: project(x[0], Ab[1], b))(torch.tensor([[1.0, 1.0], [1.0, 2.0]], dtype=F64))
