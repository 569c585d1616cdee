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
    certify,
    diagnose,
    project,
    projector,
    variants,
)

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
