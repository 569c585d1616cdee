"""Rows: the same answers whether they are stored densely or sparsely."""

import numpy as np
import pytest
import scipy.sparse
import torch

import projlab
from projlab import AffineConstraint, tolerance
from projlab.engine.variants import qr
from projlab.errors import InputError
from projlab.numerics.double_double import Pair
from projlab.system.equilibration import equilibrate
from projlab.system.rows import DenseRows, Rows, SparseRows, as_rows, sparse_rows

F64 = torch.float64

# small integers and powers of two, so that every operation below is exact
ENTRIES = torch.tensor(
    [[0.0, 4.0, 0.0, -2.0], [0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, -4.0]], dtype=F64
)
BATCH = torch.stack([ENTRIES, ENTRIES.flip(1)])

TWO = {"dense": DenseRows(ENTRIES), "sparse": as_rows(ENTRIES.to_sparse_coo())}
ALL = {**TWO, "batched": DenseRows(BATCH)}


@pytest.fixture(params=TWO)
def rows(request) -> Rows:
    return TWO[request.param]


@pytest.fixture(params=ALL)
def any_rows(request) -> Rows:
    return ALL[request.param]


def test_what_they_are(rows):
    assert rows.shape == (3, 4)
    assert rows.batch is None
    assert (rows.dtype, rows.device.type) == (F64, "cpu")
    assert torch.equal(rows.to_dense(), ENTRIES)
    assert rows.element(0) is rows


def test_what_is_stored():
    assert (TWO["dense"].sparse, TWO["dense"].nnz) == (False, 12)
    assert (TWO["sparse"].sparse, TWO["sparse"].nnz) == (True, 4)
    assert TWO["dense"].as_tensor() is TWO["dense"].to_dense()
    stored = TWO["sparse"].as_tensor()
    assert stored.layout == torch.sparse_coo
    assert stored.is_coalesced()
    assert torch.equal(stored.to_dense(), ENTRIES)


def test_a_batch():
    rows = ALL["batched"]
    assert (rows.shape, rows.batch, rows.nnz) == ((3, 4), 2, 24)
    assert torch.equal(rows.element(1).to_dense(), BATCH[1])


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
def test_products(rows, lead):
    x, y = torch.randint(-9, 9, (*lead, 4)).to(F64), torch.randint(-9, 9, (*lead, 3)).to(F64)
    assert torch.equal(rows.matvec(x), x @ ENTRIES.mT)
    assert torch.equal(rows.rmatvec(y), y @ ENTRIES)


@pytest.mark.parametrize("lead", [(2,), (2, 5), (2, 3, 5)])
def test_products_of_a_batch(lead):
    rows = ALL["batched"]
    x, y = torch.randint(-9, 9, (*lead, 4)).to(F64), torch.randint(-9, 9, (*lead, 3)).to(F64)
    for i in range(2):
        assert torch.equal(rows.matvec(x)[i], x[i] @ BATCH[i].mT)
        assert torch.equal(rows.rmatvec(y)[i], y[i] @ BATCH[i])


def test_the_two_products_are_adjoint():
    """<A x, y> = <x, A'y>, to the rounding of two inner products of each length (ASNA, 3.1)."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(30, 50, dtype=F64, generator=generator)
    A = A * (torch.rand(30, 50, generator=generator) < 0.2)
    for rows in (as_rows(A), as_rows(A.to_sparse_coo())):
        x = torch.randn(50, dtype=F64, generator=generator)
        y = torch.randn(30, dtype=F64, generator=generator)
        size = float(y.abs() @ A.abs() @ x.abs())
        gap = float(rows.matvec(x) @ y - x @ rows.rmatvec(y))
        assert abs(gap) <= 2 * (30 + 50) * 2**-53 * size


def test_products_with_pairs_keep_what_float64_loses(rows):
    tiny = 2.0**-60
    high = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)
    low = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=F64) * tiny
    product = rows.matvec_pair(Pair(high, low))
    assert product.high.tolist() == [2 * tiny, 0.0, -13.0]
    assert product.low.tolist() == [0.0, 0.0, -tiny]
    adjoint = rows.rmatvec_pair(Pair(high[:3], low[:3]))
    assert adjoint.high.tolist() == [9.0, 4.0, 0.0, -14.0]
    assert adjoint.low.tolist() == [0.0, 4 * tiny, 0.0, -2 * tiny]
    many = rows.matvec_pair(Pair(torch.stack([high, 2 * high]), torch.stack([low, 2 * low])))
    assert many.high.tolist() == [product.high.tolist(), (2 * product.high).tolist()]
    assert many.low.tolist() == [product.low.tolist(), (2 * product.low).tolist()]


def test_entry_by_entry(any_rows):
    dense = any_rows.to_dense()
    d = torch.tensor([1.0, 2.0, 4.0, -8.0], dtype=F64)
    exponent = torch.arange(dense[..., 0].numel()).reshape(dense.shape[:-1]) - 2
    assert torch.equal(any_rows.abs().to_dense(), dense.abs())
    assert torch.equal(any_rows.divide_columns(d).to_dense(), dense / d)
    scaled = any_rows.scale_rows(exponent).to_dense()
    assert torch.equal(scaled, dense * 2.0 ** exponent.to(F64).unsqueeze(-1))
    assert any_rows.to(torch.float32).to_dense().dtype == torch.float32


def test_rows_by_number(any_rows):
    keep = torch.tensor([2, 0])
    assert torch.equal(any_rows.select(keep).to_dense(), any_rows.to_dense()[..., keep, :])
    assert any_rows.select(keep).shape == (2, 4)


def test_sizes_of_rows(any_rows):
    dense = any_rows.to_dense()
    assert torch.equal(any_rows.row_max(), dense.abs().amax(-1))
    assert torch.equal(any_rows.row_norms(), dense.square().sum(-1).sqrt())


def test_rows_that_share_a_column(rows):
    assert rows.overlap() == (0, 2, 3)
    assert not rows.disjoint()
    assert rows.select(torch.tensor([0, 1])).disjoint()


def test_triplets(rows):
    i, j, values = rows.triplets()
    assert i.tolist() == [0, 0, 2, 2]
    assert j.tolist() == [1, 3, 0, 3]
    assert values.tolist() == [4.0, -2.0, 3.0, -4.0]


def test_triplets_of_a_batch_share_one_pattern():
    i, j, values = ALL["batched"].triplets()
    dense = torch.zeros_like(BATCH)
    dense[:, i, j] = values
    assert torch.equal(dense, BATCH)
    assert len(i) == 6, "where either system has an entry"


@pytest.mark.parametrize("make", ["torch", "scipy", "entries"])
def test_entries_stated_twice_are_summed_and_zeros_dropped(make):
    i, j = torch.tensor([1, 0, 1, 0, 1]), torch.tensor([2, 1, 2, 0, 0])
    values = torch.tensor([1.0, 5.0, 2.0, 0.0, -1.0], dtype=F64)
    if make == "torch":
        indices = torch.stack([i, j])
        rows = as_rows(torch.sparse_coo_tensor(indices, values, (2, 3), check_invariants=True))
    elif make == "scipy":
        rows = as_rows(scipy.sparse.coo_array((values.numpy(), (i.numpy(), j.numpy())), (2, 3)))
    else:
        rows = sparse_rows(i, j, values, (2, 3))
    assert rows.to_dense().tolist() == [[0.0, 5.0, 0.0], [-1.0, 0.0, 3.0]]
    assert [t.tolist() for t in rows.triplets()] == [[0, 1, 1], [1, 0, 2], [5.0, -1.0, 3.0]]


def test_sparse_integers_are_taken_as_floats():
    rows = as_rows(torch.eye(3, dtype=torch.int64).to_sparse_coo())
    assert rows.dtype == F64
    assert torch.equal(rows.to_dense(), torch.eye(3, dtype=F64))


def test_rows_are_a_copy_of_a_sparse_tensor():
    A = ENTRIES.to_sparse_coo().coalesce()
    rows = as_rows(A)
    A.values().zero_()
    A.indices().zero_()
    assert torch.equal(rows.to_dense(), ENTRIES)


def test_rows_that_would_not_fit_are_refused_before_they_are_dense():
    n = 1_000_000
    rows = SparseRows(torch.arange(n), torch.arange(n), torch.ones(n, dtype=F64), (n, n))
    with pytest.raises(projlab.MemoryLimitError, match="sparse 1000000 x 1000000 system"):
        rows.to_dense()


def test_a_constraint_takes_rows_as_they_are(rows):
    c = AffineConstraint(rows, 0.0)
    assert c.rows is rows
    assert c.A is c.A, "made once"
    assert torch.equal(c.A.to_dense(), ENTRIES)


def test_a_constraint_makes_its_sparse_tensor_when_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(SparseRows, "as_tensor", lambda _: pytest.fail("asked for by nobody"))
    c = AffineConstraint(scipy.sparse.csr_array(ENTRIES.numpy()), 0.0)
    assert c.residual(torch.ones(4, dtype=F64)).tolist() == [2.0, 0.0, -1.0]
    x0 = torch.ones(4, dtype=F64)
    x = projlab.project(x0, c)
    size = c.rows.row_norms() * (x.norm() + x0.norm())
    bound = tolerance.feasibility_bound(u=2**-53, m=3, n=4)
    assert torch.all(c.residual(x).abs() <= bound * size)


def test_columns_are_asked_for():
    with pytest.raises(InputError, match="at least one column"):
        as_rows(np.zeros((3, 0)))


@pytest.mark.parametrize("kind", ["dense", "sparse", "batched"])
def test_qr_goes_on_from_the_reflectors_of_the_rank_decision(monkeypatch, kind):
    A = torch.randn(3, 5, 9, dtype=F64, generator=torch.Generator().manual_seed(1))
    A = {"dense": A[0], "sparse": A[0].to_sparse_coo(), "batched": A}[kind]
    x = torch.ones(3, 9, dtype=F64)
    E = equilibrate(AffineConstraint(A, 0.0), F64).rows
    afresh = qr.QR().factor(E, 2**-53)
    monkeypatch.setattr(qr, "householder", lambda _: pytest.fail("factored twice"))
    monkeypatch.setenv("PROJLAB_NATIVE", "0")  # to the bits of torch's operators
    expected = afresh.project(x.unsqueeze(1) if kind == "batched" else x, None).reshape(3, 9)
    assert torch.equal(projlab.projector(A, 0.0, "qr")(x), expected)
