"""Constants that forward mode or a transform watches are refused by name."""

import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch.autograd import forward_ad
from torch.func import jacfwd, jacrev, jvp, vmap

import projlab
from tests.projlab.derivatives import FORWARD_MODE
from tests.projlab.systems import SPARSE_BETA

pytestmark = FORWARD_MODE
F64 = torch.float64
A = torch.tensor([[1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 1.0, -1.0]], dtype=F64)
b = torch.tensor([1.0, 2.0], dtype=F64)
x = torch.tensor([1.0, -1.0, 2.0, 0.5], dtype=F64)

CALLS = {
    "A of a projector": ("A", A, lambda t: projlab.projector(t, b)(x)),
    "b of a projector": ("b", b, lambda t: projlab.projector(A, t)(x)),
    "b beside sparse A": ("b", b, lambda t: projlab.projector(A.to_sparse(), t)(x)),
    "A of a constraint": ("A", A, lambda t: projlab.AffineConstraint(t, b).residual(x)),
    "b of a constraint": ("b", b, lambda t: projlab.AffineConstraint(A, t).residual(x)),
    "b of a layer": ("b", b, lambda t: projlab.nn.AffineProjection(A, t)(x)),
    "metric": ("metric", x.abs(), lambda t: projlab.projector(A, b, metric=t)(x)),
    "a bound": ("lb", x - 9, lambda t: projlab.projector(A, b, lb=t)(x)),
    "h of a set": ("h", b + 9, lambda t: projlab.Polyhedron(A, b, A, t).n * x),
    "b of a set": ("b", b, lambda t: projlab.projector(A, t, lb=-9.0)(x)),
}


def dual(f, t):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(t, torch.ones_like(t)))).tangent


WATCHED = {
    "jvp": ("a tangent", lambda f, t: jvp(f, (t,), (t,))[1]),
    "dual numbers": ("a tangent", dual),
    "jacfwd": ("(a tangent|mapped over)", lambda f, t: jacfwd(f)(t)),
    "jacrev": ("requires grad", lambda f, t: jacrev(f)(t)),
    "vmap": ("mapped over by vmap", lambda f, t: vmap(f)(torch.stack([t, t]))),
}


@pytest.mark.parametrize("how", WATCHED)
@pytest.mark.parametrize("call", CALLS)
def test_it_is_refused_by_name(call, how):
    name, value, f = CALLS[call]
    why, transformed = WATCHED[how]
    with pytest.raises(projlab.InputError, match=f"{name} .*{why}"):
        transformed(f, value)


LAYOUTS = {
    "csr": A.to_sparse_csr,
    "csc": A.to_sparse_csc,
    "coo": A.to_sparse,
    "scipy": lambda: scipy.sparse.csr_array(A.numpy()),
}
SETS = {"equations": {}, "a far bound": {"lb": -1e9}}


@SPARSE_BETA
@pytest.mark.parametrize("parts", SETS.values(), ids=list(SETS))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sparse_constants_are_taken_under_every_transform(layout, parts):
    S = LAYOUTS[layout]()
    Q = torch.eye(4, dtype=F64) - torch.linalg.pinv(A) @ A

    def f(t):
        return projlab.project(t, S, b, **parts)

    for jacobian in (jacfwd(f)(x), jacrev(f)(x)):
        torch.testing.assert_close(jacobian, Q)
    torch.testing.assert_close(jvp(f, (x,), (x,))[1], Q @ x)
    torch.testing.assert_close(vmap(f)(torch.stack([x, 2 * x])), torch.stack([f(x), f(2 * x)]))


def test_what_sets_do_not_take_is_refused_by_name_under_transforms():
    operator = scipy.sparse.linalg.aslinearoperator(A.numpy())
    many = torch.stack([A, A])
    with pytest.raises(projlab.InputError, match="A is an operator; with inequalities"):
        jvp(lambda t: projlab.project(t, operator, b, lb=-9.0), (x,), (x,))
    with pytest.raises(projlab.InputError, match="A is mapped over by vmap; with"):
        vmap(lambda M: projlab.project(x, M, b, lb=-9.0))(many)
    with pytest.raises(projlab.InputError, match="G is mapped over by vmap"):
        vmap(lambda M: projlab.project(x, G=M, h=b))(many)


@pytest.mark.parametrize("call", CALLS)
def test_constants_within_a_transform_are_taken(call):
    _, value, f = CALLS[call]
    plain, one = f(value), torch.ones(1, dtype=F64)
    mapped = vmap(lambda s: s * f(value))(torch.stack([one, one]))
    torch.testing.assert_close(mapped, torch.stack([plain, plain]))
    torch.testing.assert_close(jvp(lambda s: s * f(value), (one,), (one,))[1], plain)
