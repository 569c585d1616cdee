"""What calls are given beside A and b: dual numbers, transforms, sides, metrics, states."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import Bounds, LinearConstraint
from scipy.sparse.linalg import aslinearoperator
from torch.autograd import forward_ad

import projlab
from projlab import AffineConstraint, Polyhedron, project, projector
from projlab import nn as layers

# torch's own tables for forward mode still use torch.jit.script
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

F64 = torch.float64
A = torch.tensor([[1.0, 1, 0], [0, 1, 1]], dtype=F64)
B = torch.tensor([1.0, 0.5], dtype=F64)
X = torch.tensor([1.0, 2, 3], dtype=F64)
Q = torch.eye(3, dtype=F64) - torch.linalg.pinv(A) @ A
U = 2.0**-53


def watched(*tensors):
    return [t.clone().requires_grad_() for t in tensors]


# ---- forward mode


@pytest.mark.parametrize("metric", [None, [1.0, 2, 3]])
@pytest.mark.parametrize("variant", ["auto", "sparse_cholesky", "cholesky", "pinv", "iterative"])
def test_dual_numbers_have_their_derivatives(variant, metric):
    P = projector(A, B, variant, metric=metric)
    direction = torch.tensor([1.0, 0, 0], dtype=F64)
    with forward_ad.dual_level():
        dual, right = forward_ad.make_dual(X, direction), forward_ad.make_dual(B, B)
        tangents = [
            forward_ad.unpack_dual(t).tangent
            for t in (P(dual), P(dual, B), P.tangent(dual), P.multipliers(dual), P(X, right))
        ]
    expected = P.tangent(direction)
    for tangent in tangents[:3]:
        torch.testing.assert_close(tangent, expected, rtol=0, atol=64 * U)
    prices = P.multipliers(X + direction) - P.multipliers(X)
    torch.testing.assert_close(tangents[3], prices, rtol=0, atol=1e3 * U)
    moved = P(X, 2 * B) - P(X, B)
    torch.testing.assert_close(tangents[4], moved, rtol=0, atol=1e3 * U)


def test_a_large_sparse_system_has_them_too():
    m = 1500
    rows = sp.diags_array([1.0, -1.0, 0.5], offsets=[0, 1, 7], shape=(m, 2 * m)).tocsr()
    P = projector(rows, 0.0)
    assert P.variant == "sparse_cholesky"
    v = torch.randn(2 * m, dtype=F64, generator=torch.Generator().manual_seed(0))
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(P(forward_ad.make_dual(torch.zeros_like(v), v))).tangent
    torch.testing.assert_close(tangent, P.tangent(v), rtol=0, atol=1e3 * U)


@pytest.mark.parametrize("lb", [None, -50.0])
@pytest.mark.parametrize("given", [sp.csr_array(A.numpy()), A.to_sparse()], ids=["scipy", "coo"])
def test_transforms_take_constant_sparse_rows(given, lb):
    keywords = {} if lb is None else {"lb": lb}
    for of in (
        lambda v: project(v, given, 0.0, **keywords),
        lambda v: projector(given, 0.0, **keywords)(v),
    ):
        for transform in (torch.func.jacrev, torch.func.jacfwd):
            torch.testing.assert_close(transform(of)(X), Q, rtol=0, atol=64 * U)


CONSTANT_ROWS = {
    "scipy": lambda: sp.csr_array(A.numpy()),
    "coo": A.to_sparse,
    "csr": A.to_sparse_csr,
    "integers": lambda: A.to(torch.int64).to_sparse(),
    "operator": lambda: aslinearoperator(A.numpy()),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("kind", CONSTANT_ROWS)
def test_a_right_side_beside_constant_rows_is_differentiated_in(kind):
    given, in_b = CONSTANT_ROWS[kind](), torch.linalg.pinv(A)

    def in_right(b):
        return project(X, given, b)

    found = [transform(in_right)(B) for transform in (torch.func.jacrev, torch.func.jacfwd)]
    found.append(torch.autograd.functional.jacobian(in_right, B))
    found.append(torch.func.vmap(lambda d: torch.func.jvp(in_right, (B,), (d,))[1])(torch.eye(2)).T)
    with forward_ad.dual_level():
        dual = in_right(forward_ad.make_dual(B, B))
        found.append(forward_ad.unpack_dual(dual).tangent)
    for each, want in zip(found, [*[in_b] * 4, in_b @ B], strict=True):
        torch.testing.assert_close(each, want.to(each), rtol=0, atol=64 * U)
    assert torch.autograd.gradgradcheck(lambda x, b: project(x, given, b), watched(X, B))
    torch.testing.assert_close(torch.func.jacrev(lambda x: project(x, given, B))(X), Q)
    sides = torch.stack([B, 2 * B])
    want = torch.stack([project(X, A, b) for b in sides])
    torch.testing.assert_close(torch.func.vmap(in_right)(sides), want)


def test_a_right_side_beside_a_constant_sparse_batch_is_differentiated_in():
    systems = torch.stack([A, A.flip(0)])
    b, x = torch.stack([B, 3 * B]), torch.stack([X, -X])
    (want,), (found,) = (
        torch.func.jacfwd(lambda b, rows=rows: project(x, rows, b), (0,))(b)
        for rows in (systems, systems.to_sparse())
    )
    torch.testing.assert_close(found, want)
    sides = torch.stack([b, -b])
    want = torch.stack([project(x, systems, side) for side in sides])
    torch.testing.assert_close(
        torch.func.vmap(lambda b: project(x, systems.to_sparse(), b))(sides), want
    )


def test_a_right_side_of_redundant_constant_rows_has_no_derivative():
    rows, b = sp.csr_array(np.ones((2, 3))), torch.ones(2, dtype=F64)
    for call in (
        lambda: project(X, rows, b.clone().requires_grad_()),
        lambda: torch.func.jvp(lambda b: project(X, rows, b), (b,), (b,)),
    ):
        with pytest.raises(projlab.RankDeficientError, match="full row rank only"):
            call()
    sides = torch.stack([b, 2 * b])
    want = torch.stack([project(X, rows, side) for side in sides])
    found = torch.func.vmap(lambda b: project(X, rows, b))(sides)
    torch.testing.assert_close(found, want)
    with pytest.raises(projlab.InconsistentError):
        torch.func.vmap(lambda b: project(X, rows, b))(torch.stack([b, B]))


def test_a_right_side_of_another_shape_beside_constant_rows_is_refused():
    with pytest.raises(projlab.InputError, match=r"b has shape \(3,\)"):
        project(X, A.to_sparse(), X.clone().requires_grad_())


# ---- infinite right sides and bounds


IMPOSSIBLE = {
    "lb": (lambda: project(X, A, B, lb=math.inf), lambda: projector(A, B, lb=0)(X, lb=math.inf)),
    "ub": (
        lambda: project(X, A, B, ub=-math.inf, G=[[1.0, 1, 1]], h=2.0),
        lambda: projector(A, B, ub=9)(X, ub=[9.0, 9, -math.inf]),
    ),
    "h": (
        lambda: projector(A, B, G=[[1.0, 1, 1]], h=5.0)(X, h=-math.inf),
        lambda: project(X, A, B, G=[[1.0, 1, 1]], h=-math.inf),
        lambda: layers.Projection(A, B, G=[[1.0, 1, 1]])(X, h=-math.inf),
    ),
    "b": (
        lambda: projector(torch.ones(3), 1.0, lb=0)(X, b=math.inf),
        lambda: projector(torch.ones(3), 1.0, ub=1)(X, b=-math.inf),
        lambda: projector(A, B, lb=0)(X, b=math.inf),
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_sides_that_no_x_satisfies_are_refused(name):
    for call in IMPOSSIBLE[name]:
        with pytest.raises(projlab.InputError, match=f"{name} holds .*inf"):
            call()


# ---- metrics


@pytest.mark.parametrize("variant", ["auto", "pinv", "cholesky", "sparse_cholesky", "iterative"])
@pytest.mark.parametrize(
    ("metric", "dtype"),
    [
        ([1e30, 1, 1], F64),
        ([1e-300, 1, 1e300], F64),
        ([1e-8, 1, 1e8], torch.float32),
        ([1e40, 1, 1], torch.float32),
        ([1e-50, 1, 1], torch.float32),
    ],
)
def test_a_metric_that_leaves_no_precision_is_refused(metric, dtype, variant):
    with pytest.raises(projlab.InputError, match="metric holds"):
        projector(A.to(dtype), B.to(dtype), variant, metric=metric)


def test_rows_hold_in_a_metric_of_large_spread():
    for power in (4, 8, 12, 15):
        metric = [10.0**power, 1, 1]
        off = (A @ projector(A, B, metric=metric)(X) - B).abs().max()
        assert float(off) <= 64 * U * 10 ** (power / 2)


# ---- vectors, sets and states


def test_a_set_is_not_projected_onto_in_memory_that_overlaps():
    P = projector([[1.0, 1, 1]], 1.0, lb=0)
    for x in (torch.arange(5.0, dtype=F64).as_strided((3, 3), (1, 1)), X.expand(2, 3)):
        with pytest.raises(projlab.InputError, match="one number of memory at several places"):
            P.project_(x)
    with pytest.raises(projlab.InputError, match="x is a list"):
        P.project_([1.0, 2, 3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_set_is_exact_whatever_a_layer_is_converted_to(dtype):
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(2, 5, dtype=F64, generator=generator)
    x, inside = torch.rand(2, 5, dtype=F64, generator=generator)
    layer = layers.Projection(rows, rows @ inside, lb=-1 / 3).to(dtype).double()
    assert float((rows @ layer(x) - rows @ inside).abs().max()) <= 64 * U
    assert float(layer(x - 5).min()) >= -1 / 3
    assert layer.to(dtype)(x.to(dtype)).dtype is dtype


@pytest.mark.parametrize("accuracy", ["a", 0, -1, math.nan])
def test_certificates_of_sets_check_what_they_are_asked(accuracy):
    P = projector(A, B, lb=-1)
    y = P(X)
    with pytest.raises(projlab.InputError, match="accuracy"):
        P.certify(X, y, accuracy=accuracy)
    with pytest.raises(projlab.InputError, match="list"):
        P.certify([1, 2, 3], y)
    with pytest.raises(projlab.InputError, match="no vector"):
        P.certify(X.new_zeros(0, 3), X.new_zeros(0, 3))
    assert P.certify(X, y).verdict == "certified"


def test_sets_keep_what_their_parts_say():
    free = LinearConstraint(A.numpy(), -np.inf, np.inf)
    assert Polyhedron.of(free, Bounds(0, 1)).n == 3
    same = LinearConstraint(A.numpy(), B.numpy(), B.numpy())
    assert Polyhedron.of(same, Bounds(0, 1)).n == 3
    named = AffineConstraint(A, B, names=["u", "v"])
    assert Polyhedron.of(named, Bounds([0] * 3, [1] * 3)).names == ("u", "v")
    both = Polyhedron.of(same, named, LinearConstraint(A.numpy(), -np.inf, B.numpy()))
    assert both.names == ("row 0", "row 1", "u", "v", "inequality 0", "inequality 1")
    with pytest.raises(projlab.InputError, match="must agree"):
        Polyhedron.of(free, LinearConstraint(np.ones((1, 4)), 0, 1))
    with pytest.raises(projlab.InputError, match="b_error"):
        projector(AffineConstraint(A, B, b_error=0.2), lb=-5)
    for n in (2.7, "a", True):
        with pytest.raises(projlab.InputError, match="n is"):
            Polyhedron(lb=0, n=n)


def test_lists_of_tensors_that_require_grad_are_refused():
    r = torch.ones((), requires_grad=True)
    for call in (
        lambda: projector(A, [r, r]),
        lambda: project(X, A, [r, r]),
        lambda: projector(A, B)(X, [r, r]),
        lambda: projector(A, B, metric=[r, r, r]),
        lambda: projector(A, B, lb=[r, r, r]),
    ):
        with pytest.raises(projlab.InputError, match="tensors that require grad"):
            call()


def test_half_a_state_is_refused():
    P = projector(A, B)
    state = P.state_dict()
    half = {"A": state["A"] * 3}
    with pytest.raises(RuntimeError, match="b: missing beside A"):
        P.load_state_dict(half, strict=False)
    with pytest.raises(RuntimeError, match="A is a ndarray"):
        P.load_state_dict({**state, "A": A.numpy()})
    assert torch.equal(P.A, A)


@pytest.mark.parametrize("make", [sp.csr_array, sp.csc_array, sp.bsr_array])
@pytest.mark.parametrize(
    ("part", "at", "value"),
    [("indices", 0, 7), ("indices", 0, -1), ("indptr", 1, 9), ("indptr", -1, 9), ("indptr", 0, 1)],
)
def test_sparse_rows_whose_parts_do_not_fit_are_refused(make, part, at, value):
    S = make(A.numpy())
    getattr(S, part)[at] = value
    with pytest.raises(projlab.InputError, match=r"A is a scipy\.sparse"):
        projector(S, 0.0)


def test_entries_outside_and_float8_are_refused():
    for place in (5, -1):
        S = sp.coo_array(A.numpy())
        S.coords[0][0] = place
        with pytest.raises(projlab.InputError, match="stores entries outside it"):
            projector(S, 0.0)
    with pytest.raises(projlab.InputError, match="float8"):
        projector(A, B)(X, B.to(torch.float8_e5m2))


# ---- kinds of tensors


FOREIGN = {
    "complex": (lambda x: x.to(torch.complex64), "projlab projects real vectors only"),
    "sparse": (lambda x: x.to_sparse(), "x is a tensor of layout sparse_coo"),
    "compressed": (lambda x: x[None].to_sparse_csr(), "x is a tensor of layout sparse_csr"),
    "mkldnn": (lambda x: x.to_mkldnn(), "x is a tensor of layout _mkldnn"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("kind", FOREIGN)
def test_vectors_of_other_kinds_are_refused_wherever_they_come(kind):
    make, said = FOREIGN[kind]
    x = make(X.float())
    rows, b = A.float(), B.float()
    calls = [
        lambda: project(x, rows, b, lb=0),
        lambda: projector(rows, b, lb=0)(x),
        lambda: layers.Projection(rows, b, lb=0, dim=-1)(x),
    ]
    if kind != "complex":
        calls += [
            lambda: layers.AffineProjection(rows, b, dim=0)(x),
            lambda: layers.Projection(rows, b, lb=0, dim=0)(x),
        ]
    for call in calls:
        with pytest.raises(projlab.InputError, match=said):
            call()


def test_rows_of_other_layouts_and_parts_that_are_gone_are_refused():
    rows = torch.ones(1, 3).to_mkldnn()
    for call in (lambda: projector(rows, 1.0), lambda: project(torch.ones(3), rows, 1.0)):
        with pytest.raises(projlab.InputError, match="A is a tensor of layout _mkldnn"):
            call()
    P = projector(A, B)
    P.A = None
    with pytest.raises(projlab.InputError, match="the buffer A was set to None"):
        P(X)


def test_parts_of_a_set_that_a_transform_maps_over_are_refused():
    sets = [layers.Projection(A, B * k, lb=-9.0) for k in (1, 2)]
    _, parts = torch.func.stack_module_state(sets)

    def one(parts, x):
        return torch.func.functional_call(sets[0], parts, (x,))

    with pytest.raises(projlab.InputError, match=r"watched by a transform .* beside x"):
        torch.func.vmap(one, (0, None))(parts, X)
    found = torch.func.vmap(lambda b: sets[0](X, b))(torch.stack([B, 2 * B]))
    torch.testing.assert_close(found, torch.stack([each(X) for each in sets]))


# ---- numbers that are minus what lies in memory


def _operator(rows):
    return aslinearoperator(rows.numpy())


def _times(k, x):
    """(k, 3), of negative views one too."""
    many = x.expand(k, 3).contiguous()
    return torch._neg_view(-many) if x.is_neg() else many


CALLS = {
    "rows": lambda x: projector(A, B, "qr")(x),
    "in place": lambda x: projector(A, B, "qr").project_(x),
    "one row": lambda x: projector(torch.ones(3, dtype=F64), 1.0).project_(x),
    "sparse": lambda x: projector(A.to_sparse(), B, "sparse_cholesky").multipliers(x),
    "iterative": lambda x: projector(A.to_sparse(), B, "iterative")(x),
    "operator": lambda x: projector(_operator(A), B)(x),
    "a batch": lambda x: projector(A.expand(2, 2, 3), B)(_times(2, x)),
    "a batch in place": lambda x: projector(A.expand(2, 2, 3), B).project_(_times(2, x)),
    "a sparse batch": lambda x: projector(A.expand(2, 2, 3).to_sparse(), B)(_times(2, x)),
    "right sides": lambda x: projector(A, B)(X, x[:2]),
    "sparse right sides": lambda x: projector(A.to_sparse(), B, "sparse_cholesky")(X, x[:2]),
    "given rows": lambda x: projector(_times(1, x), 1.0)(X),
    "project": lambda x: project(x, torch.stack([x, X]), x[:2]),
    "many on a simplex": lambda x: projector(torch.ones(3), 1.0, lb=0)(_times(8, x)),
    "a set": lambda x: projector(A, B, lb=-5.0)(x),
    "a certificate": lambda x: projlab.certify(x, projector(A, B)(X), A, B).forward_error_bound,
}


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("call", CALLS)
def test_a_negative_view_is_read_as_what_it_says(call, native, monkeypatch):
    """As `z.conj().imag` gives it; `contiguous` may leave it one."""
    monkeypatch.setenv("PROJLAB_NATIVE", native)
    x = torch.tensor([0.3, -1.2, 2.0], dtype=F64)
    view = torch._neg_view(-x)
    assert view.is_neg()
    found, expected = CALLS[call](view), CALLS[call](x)
    torch.testing.assert_close(found, expected, rtol=16 * U, atol=16 * U)
