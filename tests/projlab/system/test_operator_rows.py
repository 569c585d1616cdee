"""Operators as rows: what is found out by trying, what is refused, and that products are right."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import projlab
from projlab import AffineConstraint, InputError
from projlab.system.equilibration import equilibrate_rows
from projlab.system.operator_rows import operator_rows

ENTRIES = np.random.default_rng(0).standard_normal((4, 9)) * np.array([[1e-8], [1], [30], [1e9]])


class Of:
    """Products with a tensor, as an operator of one dtype or of any."""

    def __init__(self, entries=ENTRIES, dtype=None):
        self.A = torch.as_tensor(entries, dtype=dtype)
        self.shape = tuple(self.A.shape)
        self.exact = dtype is not None

    def _taken(self, v):
        return self.A if self.exact else self.A.to(v.dtype)

    def matvec(self, x):
        return self._taken(x) @ x

    def rmatvec(self, y):
        return self._taken(y).T @ y


class WithArrays(Of):
    def matvec(self, x):
        return self.A.numpy().astype(x.dtype).dot(x)

    def rmatvec(self, y):
        return self.A.numpy().astype(y.dtype).T.dot(y)


class Numpy:
    """Refuses tensors."""

    shape = ENTRIES.shape

    def matvec(self, x):
        assert isinstance(x, np.ndarray)
        return ENTRIES.astype(x.dtype) @ x

    def rmatvec(self, y):
        assert isinstance(y, np.ndarray)
        return ENTRIES.T.astype(y.dtype) @ y


KINDS = {
    "scipy": lambda: aslinearoperator(ENTRIES),
    "scipy, sparse": lambda: aslinearoperator(scipy.sparse.csr_array(ENTRIES)),
    "tensors": Of,
    "arrays": Numpy,
    "float32": lambda: Of(dtype=torch.float32),
}


@pytest.mark.parametrize("kind", KINDS)
def test_products_and_residuals(kind):
    operator = KINDS[kind]()
    constraint = AffineConstraint(operator, 1.0)
    assert (constraint.m, constraint.n, constraint.operator) == (4, 9, operator)
    assert constraint.names[3] == "row 3"
    assert "operator" in repr(constraint)
    assert constraint.dtype is (torch.float32 if kind == "float32" else torch.float64)
    A = torch.from_numpy(ENTRIES).to(constraint.dtype)
    u = torch.finfo(constraint.dtype).eps / 2
    for shape in ((9,), (3, 9), (2, 1, 9), (0, 9)):
        x = torch.randn(shape, dtype=constraint.dtype)
        found = constraint.residual(x)
        assert found.shape == (*shape[:-1], 4)
        allowed = 20 * u * (x.abs() @ A.abs().T + 1)
        assert ((found - (x @ A.T - 1)).abs() <= allowed).all()
        y = torch.randn(*shape[:-1], 4, dtype=constraint.dtype)
        back = constraint.rows.rmatvec(y)
        assert ((back - y @ A).abs() <= 20 * u * (y.abs() @ A.abs())).all()


def test_integers_are_floats():
    entries = np.arange(6).reshape(2, 3)
    constraint = AffineConstraint(aslinearoperator(entries), 1)
    assert constraint.dtype is torch.float64
    x = torch.ones(3, dtype=torch.float64)
    assert constraint.residual(x).tolist() == [2.0, 11.0]


def test_equilibrated_rows_have_norms_near_one():
    rows, exponent = equilibrate_rows(operator_rows(Of()))
    scaled = ENTRIES * np.exp2(exponent.numpy())[:, None]
    norms = np.linalg.norm(scaled, axis=1)
    assert (norms > 0.25).all()
    assert (norms < 4).all()
    x, y = torch.randn(9, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    assert torch.allclose(rows.matvec(x), torch.from_numpy(scaled) @ x, rtol=1e-13)
    assert torch.allclose(rows.rmatvec(y), y @ torch.from_numpy(scaled), rtol=1e-13)


def test_a_buffer_used_again_or_the_vector_itself_may_be_returned():
    for operator in (LinearOperator((5, 5), matvec=lambda x: x, rmatvec=lambda y: y), Same()):
        x0 = torch.randn(3, 5, dtype=torch.float64)
        assert torch.allclose(projlab.projector(operator, 2.0)(x0), torch.full_like(x0, 2.0))


class Same:
    shape = (5, 5)

    def matvec(self, x):
        return x

    rmatvec = matvec


def broken(**replaced):
    operator = Of()
    for name, value in replaced.items():
        setattr(operator, name, value)
    return operator


def raising(_):
    raise KeyError("no such product")


def changing(x):
    x += 1
    return torch.zeros(4, dtype=x.dtype)


REFUSED = {
    "must be (m, n)": lambda: broken(shape=(9,)),
    "at least one column": lambda: broken(shape=(4, 0)),
    "without rmatvec": lambda: broken(rmatvec=None),
    "returned shape (9,); it must be (4,)": lambda: broken(matvec=lambda x: x),
    "A.rmatvec returned shape (4,)": lambda: broken(rmatvec=lambda y: y),
    "complex": lambda: broken(matvec=lambda _: torch.zeros(4, dtype=torch.complex128)),
    "projects real vectors only": lambda: aslinearoperator(ENTRIES.astype(complex)),
    "A.matvec's result[2] is nan": lambda: broken(
        matvec=lambda x: torch.tensor([1.0, 1.0, np.nan, 1.0], dtype=x.dtype)
    ),
    "not the adjoint": lambda: broken(rmatvec=lambda y: -(Of().rmatvec(y))),
    "KeyError: 'no such product'": lambda: broken(matvec=raising),
    "returned dtype torch.int64": lambda: broken(matvec=lambda _: torch.ones(4).long()),
    "must be a tensor": lambda: broken(matvec=lambda _: [1.0] * 4),
    "changed the vector": lambda: broken(matvec=changing),
    "NotImplementedError": lambda: LinearOperator(
        (4, 9), matvec=lambda x: ENTRIES @ x, dtype=np.float64
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_wrong_is_said(message):
    with pytest.raises(InputError) as refusal:
        AffineConstraint(REFUSED[message](), 0.0)
    assert message in str(refusal.value)


def test_an_adjoint_that_is_off_in_one_entry_is_found():
    other = ENTRIES.copy()
    other[2, 5] *= 1 + 1e-9
    operator = LinearOperator(
        (1, 9), matvec=lambda x: ENTRIES[2:3] @ x, rmatvec=lambda y: other[2:3].T @ y
    )
    with pytest.raises(InputError, match="not the adjoint"):
        AffineConstraint(operator, 0.0)


@pytest.mark.parametrize(
    "use",
    [
        lambda rows: rows.to_dense(),
        lambda rows: rows.triplets(),
        lambda rows: rows.nnz,
        lambda rows: rows.abs(),
        lambda rows: rows.overlap(),
        lambda rows: rows.select(torch.tensor([0])),
        lambda rows: rows.divide_columns(torch.ones(9)),
        lambda rows: rows.matvec_pair((torch.ones(9), torch.zeros(9))),
        lambda rows: rows.rmatvec_pair((torch.ones(4), torch.zeros(4))),
    ],
)
def test_what_needs_entries_is_refused_with_the_remedy(use):
    with pytest.raises(InputError, match=r"A is an operator, and .* give the entries of A"):
        use(operator_rows(Of()))


@pytest.mark.parametrize(
    "ask",
    [
        lambda: projlab.diagnose(Of(), 0.0),
        lambda: projlab.certify(torch.zeros(9), torch.zeros(9), Of(), 0.0),
        lambda: projlab.projector(Of(), 0.0).condition,
        lambda: projlab.projector(Of(), 0.0).null_space(),
        lambda: projlab.projector(Of(), 0.0, "qr"),
        lambda: projlab.projector(Of(), 0.0, rank="exact"),
        lambda: projlab.projector(Of(), 0.0, metric=torch.ones(9)),
        lambda: projlab.projector(Of(), 0.0, on_redundant="raise"),
        lambda: projlab.projector(Of(), 0.0, on_inconsistent="least_squares"),
    ],
)
def test_what_asks_for_a_decision_is_refused(ask):
    with pytest.raises(InputError, match="operator"):
        ask()


def test_a_float32_operator_takes_no_float64_vectors():
    P = projlab.projector(Of(ENTRIES[1:3], dtype=torch.float32), 0.0)
    P(torch.zeros(9))
    with pytest.raises(InputError, match=r"takes no torch\.float64 vectors"):
        P(torch.zeros(9, dtype=torch.float64))


def test_copies_share_or_copy_the_operator():
    P = projlab.projector(Of(ENTRIES[1:3]), 1.0)
    x = torch.randn(9, dtype=torch.float64)
    assert torch.equal(copy.deepcopy(P)(x), P(x))
    assert list(P.state_dict()) == ["b"]


@pytest.mark.parametrize(
    ("kind", "later", "said"),
    [
        (Of, lambda v: v.numpy(), "returned float64; it must return a tensor of real numbers"),
        (Of, lambda v: v + 0j, "returned torch.complex128; it must return a tensor of real"),
        (Of, lambda v: None, "returned NoneType; it must return a tensor of real numbers"),
        (Numpy, lambda v: v + 0j, "returned complex128; it must return an array of real numbers"),
        (Numpy, lambda v: v.astype(object), "returned object; it must return an array"),
    ],
)
def test_what_returns_another_kind_than_it_did_is_named(kind, later, said):
    rows, changed = operator_rows(kind()), []
    matvec = rows.forward.function
    forward = replace(rows.forward, function=lambda x: (later if changed else same)(matvec(x)))
    rows, x = replace(rows, forward=forward), torch.ones(9, dtype=torch.float64)
    assert rows.matvec(x).shape == (4,)
    changed.append(True)
    with pytest.raises(InputError, match=f"A.matvec {said}"):
        rows.matvec(x)


def same(v):
    return v
