"""Batches of sparse systems in one pattern: answered as dense batches are, and each by itself."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.autograd import gradcheck, gradgradcheck

import projlab
from projlab import tolerance
from projlab.system.rows import StoredRows

F64 = torch.float64
B, M, N = 3, 12, 26
U = tolerance.unit_roundoff(F64)
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
VARIANTS = ("auto", "sparse_cholesky", "qr", "pinv", "cholesky", "iterative")


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=F64)


def systems(*, apart=False):
    """(B, M, N) that store the same entries, or each its own, b and x."""
    chance = draw(B if apart else 1, M, N) > 1.2
    A = draw(B, M, N) * chance
    A[:, range(M), range(M)] += 3
    return A, draw(B, M), draw(B, N)


def allowed(A):
    """Two answers, each right to kappa u of numbers of size one."""
    kappa = float(torch.linalg.cond(A).max())
    return 2 * tolerance.dimension_factor(M, N) * kappa * U


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_gives_what_each_system_gives(variant, apart):
    A, b, x = systems(apart=apart)
    P = projlab.projector(A.to_sparse(), b, variant)
    assert variant in ("auto", P.variant)
    assert P.rank.tolist() == [M] * B
    vectors, sides = draw(B, 4, N), draw(B, 4, M)
    for i in range(B):
        one, u = projlab.projector(A[i], b[i], "qr"), allowed(A)
        assert torch.allclose(P(x)[i], one(x[i]), rtol=0, atol=u)
        assert torch.allclose(P(vectors)[i], one(vectors[i]), rtol=0, atol=u)
        assert torch.allclose(P(vectors, sides)[i], one(vectors[i], sides[i]), rtol=0, atol=u)
        assert torch.allclose(P.tangent(vectors)[i], one.tangent(vectors[i]), rtol=0, atol=u)
        assert torch.allclose(P.multipliers(x)[i], one.multipliers(x[i]), rtol=0, atol=u)
    moved = x.clone()
    assert torch.equal(P.project_(moved), P(x))
    assert set(P.certify(x, P(x)).verdict.split()) == {"certified"}


@pytest.mark.parametrize("variant", ["auto", "sparse_cholesky"])
def test_every_form_is_read(variant):
    A, b, x = systems(apart=True)
    same = A * (A != 0).all(0)  # compressed rows store as many entries in every system
    expected, other = (projlab.projector(t, b, variant)(x) for t in (A, same))
    coo = A.to_sparse()
    coords = tuple(coo.indices().numpy())
    twice = torch.stack([part.to_sparse() for part in A / 2])
    doubled = torch.stack([twice[i] + twice[i] for i in range(B)])
    for given in (coo, doubled, sp.coo_array((coo.values().numpy(), coords), shape=A.shape)):
        P = projlab.projector(given, b, variant)
        assert torch.allclose(P(x), expected, rtol=0, atol=allowed(A))
        assert torch.equal(P.A.to_dense(), A)
    compressed = projlab.projector(same.to_sparse_csr(), b, variant)
    assert torch.allclose(compressed(x), other, rtol=0, atol=allowed(same))


def test_nothing_is_made_dense_and_each_answer_is_that_of_one_system(monkeypatch):
    m = 3000
    chain = sp.diags_array([1.0, -1.0, 0.5], offsets=[0, 1, 7], shape=(m, 2 * m), format="coo")
    i = torch.from_numpy(np.stack(chain.coords).astype(np.int64))
    values = torch.from_numpy(chain.data) * (1 + draw(B, chain.nnz).square())
    A = torch.stack(
        [torch.sparse_coo_tensor(i, v, chain.shape, check_invariants=True) for v in values]
    )
    b, x = draw(B, m), draw(B, 2 * m)

    def dense(self):
        raise AssertionError("made dense")

    monkeypatch.setattr(StoredRows, "to_dense", dense)
    P = projlab.projector(A, b)
    assert P.variant == "sparse_cholesky"
    assert f"{B} systems" in P.reason
    for one, right, start, end in zip(A, b, x, P(x), strict=True):
        alone = projlab.projector(one, right)
        assert torch.allclose(end, alone(start), rtol=0, atol=1e3 * U)
    assert P.rank.tolist() == [m] * B


def redundant(scale, off):
    """Row 1 of system 1 is its row 0, with b off by `off`; system 0 has b of size `scale`."""
    A, b, x = systems()
    A[1, 1] = A[1, 0]
    b[1, 1] = b[1, 0] + off
    b[0] *= scale
    return A, b, x


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scale", [1.0, 1e20])
def test_each_system_is_judged_by_its_own_size(scale, variant):
    A, b, x = redundant(scale, 0.0)
    P = projlab.projector(A.to_sparse(), b, variant)
    assert P.rank.tolist() == [M, M - 1, M]
    one = projlab.projector(A[1], b[1])
    assert torch.allclose(P(x)[1], one(x[1]), rtol=0, atol=1e3 * U)
    A, b, _ = redundant(scale, 1e-3)
    with pytest.raises(projlab.InconsistentError, match=r"system 1 .*row 1 = row 0"):
        projlab.projector(A.to_sparse(), b, variant)


@pytest.mark.parametrize("shape", [(B,), (B, 1)])
def test_rows_that_share_no_column(shape):
    A = torch.zeros(B, 2, 9, dtype=F64)
    A[:, 0, :4], A[:, 1, 5:] = draw(B, 4), draw(B, 4)
    A[1] = A[1].flip(0)  # of each system, not of the pattern of all
    b, x = draw(B, 2), draw(*shape, 9)
    P, D = projlab.projector(A.to_sparse(), b), projlab.projector(A, b)
    assert P.variant == D.variant == "single_row"
    assert torch.allclose(P(x), D(x), rtol=0, atol=100 * U)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("variant", ["auto", "sparse_cholesky"])
def test_derivatives_in_x_values_and_b(variant, apart):
    A, b, x = systems(apart=apart)
    A, b, x = A[:2, :2, :5], b[:2, :2], x[:2, :5]
    coo = A.to_sparse().coalesce()
    indices, values = coo.indices(), coo.values().clone()

    def project(x, values, b):
        given = torch.sparse_coo_tensor(indices, values, A.shape, check_invariants=True)
        return projlab.project(x, given, b, variant)

    given = [t.requires_grad_() for t in (x, values, b)]
    assert gradcheck(project, given)
    assert gradgradcheck(project, given)
    dense = A.clone().requires_grad_()
    (expected,) = torch.autograd.grad(projlab.project(x, dense, b).square().sum(), dense)
    (found,) = torch.autograd.grad(project(*given).square().sum(), values)
    assert torch.allclose(found, expected[tuple(indices)], rtol=0, atol=1e3 * U)


def pickled(P):
    return pickle.loads(pickle.dumps(P))  # noqa: S301  # written one line up


def changed_values(P, A):
    P.A_values.mul_(2)


def changed_tensor(P, A):
    P.A.mul_(2)


def assigned(P, A):
    P.A = (2 * A).to_sparse()


def assigned_dense(P, A):
    P.A = 2 * A


def assigned_values(P, A):
    P.A_values = 2 * P.A_values


def loaded(P, A):
    P.load_state_dict(projlab.projector((2 * A).to_sparse(), P.b).state_dict())


def loaded_dense(P, A):
    P.load_state_dict(projlab.projector(2 * A, P.b).state_dict())


@pytest.mark.parametrize("copied", [None, copy.deepcopy, pickled])
@pytest.mark.parametrize(
    "change",
    [
        changed_values,
        changed_tensor,
        assigned,
        assigned_dense,
        assigned_values,
        loaded,
        loaded_dense,
    ],
)
def test_the_buffers_are_what_is_used(change, copied):
    A, b, x = systems(apart=True)
    P = projlab.projector(A.to_sparse(), b, "sparse_cholesky")
    assert {k: v.shape for k, v in P.named_buffers()} == {
        "A_indices": (2, int((A != 0).any(0).sum())),
        "A_values": (B, int((A != 0).any(0).sum())),
        "b": (B, M),
    }
    P = P if copied is None else copied(P)
    P(x)
    change(P, A)
    expected = projlab.projector(2 * A, b)(x)
    assert torch.allclose(P(x), expected, rtol=0, atol=allowed(A))
    dense = projlab.projector(A, b)
    dense.load_state_dict(P.state_dict())
    assert torch.allclose(dense(x), expected, rtol=0, atol=allowed(A))


def test_functional_call_differentiates_in_the_values():
    A, b, x = systems()
    P = projlab.projector(A.to_sparse(), b)
    values = P.A_values.clone().requires_grad_()
    out = torch.func.functional_call(P, {"A_values": values}, (x,))
    (found,) = torch.autograd.grad(out.square().sum(), values)
    dense = A.clone().requires_grad_()
    (expected,) = torch.autograd.grad(projlab.project(x, dense, b).square().sum(), dense)
    i, j = P.A_indices
    assert torch.allclose(found, expected[:, i, j], rtol=0, atol=1e3 * U)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("how", ["assign", "to_empty", "written"])
def test_built_on_meta(how, layout, batch):
    A, b, x = systems() if batch else (t[0] for t in systems())
    given = A.to_sparse(layout=layout)
    real = projlab.projector(given, b)
    P = projlab.projector(given.to("meta"), b.to("meta"))
    with pytest.raises(projlab.InputError, match="no values"):
        P(x)
    if how == "assign":
        P.load_state_dict(real.state_dict(), assign=True)
    else:
        P.to_empty(device="cpu")
        if how == "written":
            P.A, P.b = given, b
        else:
            P.load_state_dict(real.state_dict())
    assert torch.equal(P(x), real(x))


def test_layers_and_compiled_code(fresh_compiler):
    A, b, x = systems()
    expected = projlab.projector(A, b)(x)
    for variant in ("auto", "sparse_cholesky"):
        layer = projlab.nn.AffineProjection(A.to_sparse(), variant=variant)
        compiled = torch.compile(layer, fullgraph=True)
        for answer in (layer(x, b), compiled(x, b)):
            assert torch.allclose(answer, expected, rtol=0, atol=allowed(A))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda A: A.to_sparse(2), r"\(3, 12, 26\), 1 of its dimensions dense"),
        (lambda A: A.unsqueeze(0).to_sparse(), r"\(1, 3, 12, 26\)"),
        (lambda A: A.log().to_sparse(), "stored values.* must be finite"),
        (lambda A: A[:0].to_sparse(), "at least one system"),
        (lambda A: A.to(torch.complex64).to_sparse(), "real vectors only"),
    ],
)
def test_what_is_none_is_refused(given, said):
    A, _, _ = systems()
    with pytest.raises(projlab.InputError, match=said):
        projlab.projector(given(A), 0.0)


def test_what_takes_one_system_says_so():
    A, b, _ = systems()
    given = A.to_sparse()
    with pytest.raises(projlab.InputError, match="batch of 3 systems; diagnose one"):
        projlab.diagnose(given, b)
    with pytest.raises(projlab.InputError, match="batch of 3 systems"):
        projlab.projector(given, b, lb=0.0)
    with pytest.raises(projlab.InputError, match="a batch of systems"):
        projlab.projector(given, b, preconditioner=lambda r: r)
