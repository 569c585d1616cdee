"""Sparse factors, and their fill before they are made."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from projlab import InputError, MemoryLimitError
from projlab.numerics import fill, memory, sparse_factor

CPU = torch.device("cpu")


def random_gram(seed):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 40))
    A = sp.random_array((m, m + 5), density=rng.uniform(0.02, 0.3), rng=rng)
    return sp.csc_array(A @ A.T + sp.eye_array(m) * 1e-3)


def eliminated(matrix):
    """Nonzeros of each column of the factor, by eliminating one vertex after the other."""
    pattern = matrix.toarray() != 0
    for j in range(len(pattern)):
        below = np.flatnonzero(pattern[j + 1 :, j]) + j + 1
        pattern[np.ix_(below, below)] = True
    return np.tril(pattern).sum(0)


@pytest.mark.parametrize("seed", range(60))
def test_the_fill_counted_is_that_of_elimination_in_any_order(seed):
    G = random_gram(seed)
    order = fill.elimination_order(G) if seed % 2 else np.arange(G.shape[0])
    permuted = sp.csc_array(G[order][:, order])
    columns = eliminated(permuted)
    found = fill.count(permuted)
    assert found.nonzeros == columns.sum()
    assert found.operations == (columns.astype(float) ** 2).sum()


def test_the_order_is_the_one_that_superlu_would_take():
    G = random_gram(7)
    lu = sp.linalg.splu(
        G, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0, options={"SymmetricMode": True}
    )
    assert np.array_equal(fill.elimination_order(G), np.argsort(lu.perm_c))


def chain(m):
    return sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m), format="csc")


def test_a_chain_fills_nothing_and_an_arrow_is_eliminated_from_its_tips():
    assert sparse_factor.prepared(chain(1000)).fill.nonzeros == 1999
    arrow = sp.lil_array(sp.eye_array(50) * 60)
    arrow[0, :] = 1
    arrow[:, 0] = 1
    arrow[0, 0] = 60
    assert sparse_factor.prepared(arrow).fill.nonzeros == 99


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_solves_for_any_number_of_vectors_in_their_dtype(seed, dtype):
    G = random_gram(seed)
    m = G.shape[0]
    factor = sparse_factor.factored(G)
    dense = torch.from_numpy(G.toarray())
    for shape in ((m,), (1, m), (3, m), (2, 3, m), (0, m)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        b = (x @ dense).to(dtype)
        found = factor.solve(b)
        assert found.dtype is dtype
        assert found.shape == b.shape
        # ||x - x^|| <= kappa u ||x|| up to a modest factor, with b's own rounding
        bound = 100 * np.linalg.cond(G.toarray()) * torch.finfo(dtype).eps
        assert (found.double() - x).norm() <= bound * x.norm()


def test_entries_are_summed_where_they_repeat():
    i, j = torch.tensor([0, 0, 1, 1, 0]), torch.tensor([0, 1, 0, 1, 0])
    values = torch.tensor([1.0, 1.0, 1.0, 3.0, 1.0])
    factor = sparse_factor.from_entries(i, j, values, 2)  # [[2, 1], [1, 3]]
    assert torch.allclose(factor.solve(torch.tensor([3.0, 4.0])), torch.ones(2))


def test_a_quasi_definite_matrix_has_a_factor_in_any_order():
    rng = np.random.default_rng(0)
    D = sp.random_array((30, 4), density=0.9, rng=rng)
    K = sp.block_array([[chain(30), D], [D.T, -sp.eye_array(4)]], format="csc")
    x = torch.from_numpy(rng.standard_normal(34))
    found = sparse_factor.factored(K, definite=False).solve(torch.from_numpy(K @ x.numpy()))
    assert torch.allclose(found, x, rtol=0, atol=1e-10)


def test_a_singular_matrix_is_said_to_be():
    singular = sp.csc_array(np.array([[1.0, 1.0], [1.0, 1.0]]))
    with pytest.raises(np.linalg.LinAlgError):
        sparse_factor.factored(singular)


def test_entries_in_any_order_within_a_column_are_those_of_the_matrix():
    """SciPy sorts the indices of what it factors where they lie."""
    A = chain(30)
    backwards = [np.arange(start, stop)[::-1] for start, stop in itertools.pairwise(A.indptr)]
    order = np.concatenate(backwards)
    unsorted = sp.csc_array((A.data[order], A.indices[order], A.indptr), shape=A.shape)
    b = torch.arange(30.0, dtype=torch.float64)
    x = sparse_factor.factored(unsorted).solve(b)
    assert np.array_equal(unsorted.toarray(), A.toarray())
    # of condition below 4 / pi² times (m + 1)²
    error = (torch.from_numpy(A @ x.numpy()) - b).norm() / b.norm()
    assert error < 30 * (2 * 31 / np.pi) ** 2 * torch.finfo(torch.float64).eps


def test_nan_goes_through():
    factor = sparse_factor.factored(chain(5))
    assert bool(factor.solve(torch.full((5,), torch.nan)).isnan().all())


def test_what_does_not_fit_is_refused_before_it_is_factored(monkeypatch):
    ready = sparse_factor.prepared(chain(1000))
    monkeypatch.setattr(memory, "limit", lambda device: ready.fill.bytes)
    sparse_factor.factored(chain(1000))
    monkeypatch.setattr(memory, "limit", lambda device: ready.fill.bytes - 1)
    with pytest.raises(MemoryLimitError, match=r"a sparse factor of the flow, with 1,999 nonzeros"):
        sparse_factor.factored(chain(1000), "the flow")


def test_what_32_bits_cannot_number_is_refused(monkeypatch):
    monkeypatch.setattr(sparse_factor, "LARGEST_INDEX", 2997)
    with pytest.raises(MemoryLimitError, match="2,998 nonzeros; SuperLU and CHOLMOD number"):
        sparse_factor.factored(chain(1000))
    monkeypatch.setattr(sparse_factor, "LARGEST_INDEX", 1998)
    ready = sparse_factor.Prepared(None, None, fill.Fill(1999, 0.0))
    with pytest.raises(MemoryLimitError, match="1,999 nonzeros; SuperLU and CHOLMOD count"):
        ready.require_memory("the flow", CPU)


def test_only_square_matrices_have_a_factor():
    with pytest.raises(InputError, match=r"shape \(2, 3\)"):
        sparse_factor.factored(sp.csc_array((2, 3)))


def test_on_a_device_without_sparse_factors_it_says_so():
    with pytest.raises(InputError, match="no sparse factor on meta"):
        sparse_factor.factored(chain(5), device=torch.device("meta"))


def test_cholespy_solves_the_same():
    pytest.importorskip("cholespy")
    G = random_gram(3)
    b = torch.randn(200, G.shape[0], dtype=torch.float64)
    ready = sparse_factor.prepared(G)
    theirs = sparse_factor.Cholespy(ready, CPU).solve(b)
    assert torch.allclose(theirs, sparse_factor.factored(G).solve(b), rtol=0, atol=1e-9)
