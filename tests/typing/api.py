"""The public interface as a user writes it; `make lint` checks its types, nothing runs it."""

from typing import assert_type

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from projlab import (
    AffineConstraint,
    Certificate,
    Diagnosis,
    Projector,
    cat,
    certify,
    constrain,
    diagnose,
    expr,
    load,
    nn,
    project,
    projector,
    variants,
)
from projlab.training.expressions.expression import Equation, Expression
from projlab.training.handle import Handle

A = torch.eye(2, 3)
b = torch.ones(2)
x = torch.zeros(5, 3)

# one factorisation, many projections
P = projector(A, b)
assert_type(P, Projector)
assert_type(P(x), Tensor)
assert_type(P(x, b), Tensor)
assert_type(P.project_(x), Tensor)
assert_type(P.tangent(x), Tensor)
assert_type(P.multipliers(x), Tensor)
assert_type(P.null_space(), Tensor)
assert_type(P.variant, str)
assert_type(P.reason, str)

# every form of A that is accepted
projector([[1.0, 1.0]], [1.0])
projector(np.ones((1, 2)), 1.0)
projector(scipy.sparse.csr_array(np.ones((1, 2))), np.ones(1))
constraint = AffineConstraint(A, b, names=["total", "difference"])
projector(constraint)
assert_type(constraint.residual(x), Tensor)

# a file
system = load("system.npz", b=0, key="model", dtype="float32")
projector(system.A, system.b)
assert_type(system.names, tuple[str, ...] | None)

# every keyword
projector(
    A,
    b,
    variant="qr",
    accuracy=1e-10,
    rank=1e-12,
    on_redundant="raise",
    on_inconsistent="least_squares",
)
assert_type(project(x, A, b, variant="cholesky"), Tensor)
assert_type(diagnose(A, b), Diagnosis)
assert_type(certify(x, P(x), A, b, accuracy=1e-10), Certificate)
assert_type(P.certify(x, P(x)), Certificate)
assert_type(variants(), tuple[str, ...])

# equations over parameters, kept by an optimizer
w = torch.nn.Parameter(torch.zeros(3))
W = torch.nn.Parameter(torch.zeros(3, 3))
optimizer = torch.optim.Adam([w, W], lr=0.1)
assert_type(expr(w), Expression)
assert_type(2 * expr(w) - expr(W)[0] / 3 + 1, Expression)
assert_type(expr(W, name="layer.weight").sum(dim=1), Expression)
assert_type(cat(expr(w), expr(W).T)[:5].mean(), Expression)
assert_type(expr(W).sum(dim=1) == 1, Equation)
assert_type(expr(w) == expr(W)[1], Equation)
assert_type(expr(W) @ np.ones(3) == 0, Equation)
handle = constrain(
    optimizer,
    expr(W).sum(dim=1) == 1,
    mode="tangent",
    variant="auto",
    start="project",
    module=torch.nn.Linear(3, 3),
    coupled_weight_decay=None,
    log=100,
    multipliers=True,
)
assert_type(handle, Handle)
assert_type(handle.residual(), Tensor)
assert_type(handle.multipliers(), tuple[Tensor, ...])
assert_type(handle.residuals, Tensor)
assert_type(handle.largest_residual, float)
assert_type(handle.certify(), Certificate)
with handle as same:
    assert_type(same, Handle)

# constraints inside modules
layer = nn.AffineProjection(A, b, variant="qr")
assert_type(layer.forward(x, b), Tensor)
assert_type(nn.affine(torch.nn.Linear(3, 2), "weight", np.ones(3), 1.0, dim=1), torch.nn.Module)
