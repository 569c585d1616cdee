"""What docs/limits.md says is refused is refused, with the error it names."""

import pickle
import re
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy.sparse
import torch

import projlab
from projlab import constrain, diagnose, expr, project, projector
from projlab.numerics import memory

from .pages import ROOT, table_rows

A = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
B = torch.tensor([1.0, 0.5])
X = torch.zeros(3)


class Operator:
    """A as products alone."""

    shape = (2, 3)

    def matvec(self, x):
        return A @ x

    def rmatvec(self, y):
        return A.T @ y


def parameter(**marks: Any) -> torch.nn.Parameter:
    made = torch.nn.Parameter(torch.ones(3))
    for mark, value in marks.items():
        setattr(made, mark, value)
    return made


def without_hooks():
    class Wrapper:
        optimizer = torch.optim.SGD([parameter()], lr=0.1)

    constrain(Wrapper(), expr(parameter()) == 0)


def two():
    p, q = parameter(), parameter()
    return p, q, torch.optim.SGD([p], lr=0.1), torch.optim.SGD([q], lr=0.1)


def trained_elsewhere():
    p, q, one, other = two()
    constrain(one, expr(p) == 0)
    constrain(other, expr(p) == expr(q))


def overlapping():
    optimizer = torch.optim.SGD([parameter()], lr=0.1)
    optimizer._overlap_with_ddp = True
    constrain(optimizer, expr(parameter()) == 0)


def replaced():
    linear = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    constrain(optimizer, expr(linear.weight).sum() == 1, module=linear)
    linear.load_state_dict(torch.nn.Linear(3, 2).state_dict(), assign=True)
    optimizer.step()


def several_metrics():
    p, q, one, other = two()
    constrain([one, other], expr(p) == expr(q), mode="metric")


def kept(
    p: torch.Tensor, kind: Any = torch.optim.Adam, mode: Any = "tangent", **keywords: Any
) -> None:
    constrain(kind([p], lr=0.1, **keywords), expr(p).sum() == 1, expr(p)[0] == 0, mode=mode)


def after_a_sparse_gradient() -> None:
    embedding = torch.nn.Embedding(3, 1, sparse=True)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    constrain(optimizer, expr(embedding.weight).sum() == 1)
    embedding(torch.tensor([0])).sum().backward()
    optimizer.step()


def pickled() -> None:
    p = parameter()
    optimizer = torch.optim.Adam([p], lr=0.1)
    constrain(optimizer, expr(p).sum() == 1)
    pickle.dumps(optimizer)


def parametrised() -> None:
    linear = projlab.nn.affine(torch.nn.Linear(3, 2), "weight", torch.ones(3), 1.0, dim=1)
    constrain(torch.optim.Adam(linear.parameters(), lr=0.1), expr(linear.weight).sum() == 1)


def on_two_devices() -> None:
    p, q = parameter(), torch.nn.Parameter(torch.ones(3, device="meta"))
    constrain(torch.optim.Adam([p, q], lr=0.1), expr(p) == expr(q))


def made_of_others() -> None:
    class Two(torch.Tensor):
        def __tensor_flatten__(self):
            return [], None

    kept(torch.ones(3).as_subclass(Two).requires_grad_())


def too_large() -> None:
    n = 1_000_000
    A = scipy.sparse.diags_array([np.ones(n)] * 2, offsets=[0, 1], format="csr")
    projector(A, 0.0, "qr")


def too_slow() -> None:
    A = scipy.sparse.diags_array([np.ones(4000)] * 2, offsets=[0, 1], format="csr")
    projector(A, 0.0, "iterative", accuracy=1e-14)


def doubtful(attempt: Callable[..., object]) -> None:
    """Singular values from 1 to 1e-12, evenly, where no dense factor fits."""
    rng = np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.standard_normal((80, 80)))
    V, _ = np.linalg.qr(rng.standard_normal((90, 80)))
    graded = scipy.sparse.csr_array(Q @ np.diag(np.geomspace(1, 1e-12, 80)) @ V.T)
    with mock.patch.object(memory, "factorisation_bytes", return_value=2**60):
        attempt(graded, 0.0)


def filled() -> None:
    A = scipy.sparse.random_array((300, 600), density=0.05, rng=np.random.default_rng(0))
    with mock.patch.object(memory, "limit", return_value=100_000):
        projector(scipy.sparse.csr_array(A), 0.0, "sparse_cholesky")


def exported() -> None:
    P = projector(A.double().to_sparse(), 0.0, "sparse_cholesky")
    torch.export.export(P, (X.double(),), strict=False)


def mapped_over():
    layer = projlab.nn.Projection(A, B, lb=-9.0)
    parts = {name: torch.stack([part, part]) for name, part in layer.named_buffers()}
    return torch.func.vmap(lambda own: torch.func.functional_call(layer, own, (X,)))(parts)


LIMITS: dict[str, tuple[type[Exception], Callable[[], object]]] = {
    "metric, rank, accuracy and the like beside [inequalities, bounds](bounds.md)": (
        projlab.InputError,
        lambda: projector(A, B, lb=0.0, metric=torch.ones(3)),
    ),
    "a batch of systems with inequalities or bounds": (
        projlab.InputError,
        lambda: projector(torch.stack([A, A]), B, lb=0.0),
    ),
    "`nn.Projection` whose own parts are mapped over by `torch.func.vmap`": (
        projlab.InputError,
        mapped_over,
    ),
    "nonlinear equations": (projlab.InputError, lambda: expr(parameter()) * expr(parameter())),
    "… where that does not fit into half of the memory": (projlab.MemoryLimitError, too_large),
    "sparse A, too large to be dense, with κ beyond corrections": (
        projlab.RankDeficientError,
        lambda: doubtful(partial(projector, variant="sparse_cholesky")),
    ),
    "sparse A whose sparse factor does not fit either": (projlab.MemoryLimitError, filled),
    "`torch.export` of a projection by `sparse_cholesky` or `iterative`": (
        projlab.InputError,
        exported,
    ),
    "`torch.export` of a projection onto bounds or inequalities": (
        projlab.InputError,
        lambda: torch.export.export(projlab.nn.Projection(lb=0.0, n=3), (X,)),
    ),
    "a rank that sparse factors leave open, κ beyond 1e7 say": (
        projlab.MemoryLimitError,
        lambda: doubtful(diagnose),
    ),
    "the rank, `diagnose` and `certify` of an operator": (
        projlab.InputError,
        lambda: diagnose(Operator(), B),
    ),
    "moving a projector with an operator to another device": (
        projlab.InputError,
        lambda: projector(Operator(), B).to("meta"),
    ),
    "more digits by iteration than its steps reach": (projlab.AccuracyError, too_slow),
    "`preconditioner=` for a batch": (
        projlab.InputError,
        lambda: projector(torch.stack([A, A]).to_sparse(), B, preconditioner=lambda r: r),
    ),
    "a diagonal metric whose entries spread by more than 1 / u": (
        projlab.InputError,
        lambda: projector(A, B, metric=[1e-20] + [1.0] * (A.shape[1] - 1)),
    ),
    "least squares where rows of very different size follow from each other": (
        projlab.AccuracyError,
        lambda: projector(
            torch.tensor([[1e20, 1.0], [1e20, 1.0], [0.0, 1e-20], [0.0, 1e-20]]).double(),
            [1.0, 2.0, 3.0, 4.0],
            on_inconsistent="least_squares",
        ),
    ),
    "A, b, bounds or a metric of a projector, watched by `torch.func` or forward mode": (
        projlab.InputError,
        lambda: torch.func.jacrev(lambda b: projector(A, b)(X))(B),
    ),
    "complex numbers": (projlab.InputError, lambda: projector(A.to(torch.complex64), B)),
    "integer x, float8": (projlab.InputError, lambda: project(X.long(), A, B)),
    "gradients in A and b where rows are redundant": (
        projlab.RankDeficientError,
        lambda: project(X, torch.cat([A, A]).requires_grad_(), torch.cat([B, B])),
    ),
    "gradients in a sparse A under a `torch.func` transform, or in forward mode": (
        projlab.InputError,
        partial(
            torch.func.vmap(project, (0, None, None)), X[None], A.to_sparse().requires_grad_(), B
        ),
    ),
    "`diagnose` of a batch": (projlab.InputError, lambda: diagnose(torch.stack([A, A]), B)),
    "more digits than κu leaves": (
        projlab.AccuracyError,
        lambda: projector(A, B, accuracy=1e-12),
    ),
    "inequalities under LBFGS": (projlab.InputError, lambda: bounded(torch.optim.LBFGS)),
    'inequalities with `mode="metric"` or `variant=`': (
        projlab.InputError,
        lambda: bounded(torch.optim.SGD, mode="metric"),
    ),
    "strict inequalities, `expr(w) > 0`": (TypeError, lambda: expr(parameter()) > 0),
    "optimizers that call no step hooks": (projlab.InputError, without_hooks),
    "ZeroRedundancyOptimizer overlapping with DDP, or with inequalities": (
        projlab.InputError,
        overlapping,
    ),
    "a parameter replaced in the module given as `module=`": (projlab.ProjlabError, replaced),
    "parameters that another constrained optimizer trains": (projlab.InputError, trained_elsewhere),
    '`mode="metric"` with several optimizers': (projlab.InputError, several_metrics),
    "SparseAdam": (projlab.InputError, lambda: kept(parameter(), torch.optim.SparseAdam)),
    "sparse gradients": (projlab.InputError, after_a_sparse_gradient),
    "FSDP's flat parameters": (
        projlab.InputError,
        lambda: kept(parameter(_is_flat_param=True)),
    ),
    "DTensors that are neither sharded nor replicated": (
        projlab.InputError,
        lambda: kept(parameter(device_mesh=0, placements=("partial",))),
    ),
    "tensor subclasses made of others, quantised ones say": (projlab.InputError, made_of_others),
    "parametrised tensors (not leaves)": (projlab.InputError, parametrised),
    "parameters that overlap in memory": (
        projlab.InputError,
        lambda: kept(torch.nn.Parameter(torch.ones(1).expand(3))),
    ),
    "parameters of one equation on several devices": (projlab.InputError, on_two_devices),
    "optimizers with `differentiable=True`": (
        projlab.InputError,
        lambda: kept(parameter(), differentiable=True),
    ),
    '`mode="metric"` where rows share entries': (
        projlab.InputError,
        lambda: kept(parameter(), mode="metric"),
    ),
    "… under other optimizers than seven": (
        projlab.InputError,
        lambda: kept(parameter(), torch.optim.Adadelta, mode="metric"),
    ),
    "… under centered RMSprop": (
        projlab.InputError,
        lambda: kept(parameter(), torch.optim.RMSprop, mode="metric", centered=True),
    ),
    "a pickled optimizer that keeps its constraint": (UserWarning, pickled),
}


def bounded(optimizer, **keywords):
    p = parameter()
    return projlab.constrain(optimizer([p]), expr(p) >= 0, **keywords)


def refused_by() -> dict[str, str]:
    """Of each row that names an error, the first cell, and the error."""
    rows = table_rows(ROOT / "docs" / "limits.md")
    said = {cells[0]: re.search(r"`(\w+Error)`|a (warning)", cells[1]) for cells in rows}
    return {what: found[1] or "UserWarning" for what, found in said.items() if found}


def test_every_limit_is_tried():
    assert refused_by() == {what: error.__name__ for what, (error, _) in LIMITS.items()}


@pytest.mark.parametrize("what", LIMITS)
def test_limit_is_refused_as_stated(what):
    error, attempt = LIMITS[what]
    with pytest.raises(error):
        attempt()


def test_another_right_side_is_not_checked():
    P = projector(torch.cat([A, A]), torch.cat([B, B]))
    assert bool(P(X, torch.tensor([1.0, 0.5, 7.0, 7.0])).isfinite().all())
