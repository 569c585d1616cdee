"""Ranks decided block by block are those of the whole, and so is everything said with them."""

import pytest
import scipy.sparse
import torch

import projlab
from projlab import AffineConstraint, diagnose
from projlab.system.analysis import analyse
from projlab.system.block_rank import decide_by_blocks, orthonormal_columns
from projlab.system.equilibration import equilibrate
from projlab.system.rank import decide
from projlab.system.rows import as_rows
from projlab.system.structure import independent_blocks, worthwhile_blocks
from tests.projlab.blocks import block_system

F64 = torch.float64
U = 2.0**-53
KINDS = ("full", "redundant")


def decisions(kind, rule="numerical"):
    """By blocks and by a decomposition of the whole."""
    A, b, _ = block_system(kind)
    rows = equilibrate(AffineConstraint(A.to_sparse_coo(), b), F64).rows
    return rows, decide_by_blocks(independent_blocks(rows), U, rule), decide(rows, U, rule)


@pytest.mark.parametrize("rule", ["numerical", 1e-3, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_rank_is_that_of_the_whole(kind, rule):
    rows, found, whole = decisions(kind, rule)
    assert (found.rank, found.ambiguous) == (whole.rank, whole.ambiguous)
    assert found.condition == pytest.approx(whole.condition, rel=1e-9)
    assert found.gap[0] == pytest.approx(whole.gap[0], rel=1e-9)
    assert len(found.kept) == found.rank
    assert torch.cat([found.kept, found.dropped]).sort().values.tolist() == list(range(32))
    kept = rows.to_dense()[found.kept]
    assert int(torch.linalg.matrix_rank(kept)) == len(kept)


def test_redundant_rows_follow_from_the_kept_ones():
    rows, found, _ = decisions("redundant")
    E = rows.to_dense()
    combined = found.coefficients.to_dense() @ E[found.kept]
    assert torch.allclose(combined, E[found.dropped], rtol=0, atol=1e-13)
    assert float(found.coefficients.to_dense().abs().max()) <= 2.1


def test_the_basis_spans_the_range_and_its_columns_are_singular_vectors():
    rows, found, _ = decisions("redundant")
    E, U_r = rows.to_dense(), found.basis.to_dense()
    assert torch.allclose(U_r.mT @ U_r, torch.eye(found.rank, dtype=F64), atol=1e-14)
    assert torch.allclose(U_r @ (U_r.mT @ E), E, atol=1e-13)
    # in the order of the singular values: the norm of a solution is computed from both
    image = torch.linalg.vector_norm(E.mT @ U_r, dim=0)
    assert torch.allclose(image, found.sigma, rtol=1e-10)


def test_exact_duplicates_in_small_blocks_are_not_ambiguous():
    """An SVD's own rounding would be within a factor ten of the cutoff of so small a system."""
    E = torch.tensor([[0.1, 0.7], [0.1, 0.7], [0.3, 0.9]], dtype=F64)
    A = torch.block_diag(E, E, E)
    found = diagnose(A.to_sparse_coo(), torch.ones(9, dtype=F64) * 0)
    assert worthwhile_blocks(as_rows(A.to_sparse_coo())) is not None
    assert (found.rank, found.ambiguous) == (6, False)
    assert [str(c) for c in found.redundant] == [f"row {3 * i + 1} = row {3 * i}" for i in range(3)]


def test_the_cutoff_is_the_whole_system_s():
    """A block alone would count its small singular value; beside longer columns it does not."""
    tilted = torch.tensor([[1.0, 0.0], [1.0, 2e-3]], dtype=F64)
    A = torch.block_diag(*[tilted] * 3, torch.ones(6, 1, dtype=F64))
    for rule, rank in ((9e-4, 4), (3e-4, 7)):
        assert diagnose(A.to_sparse_coo(), torch.zeros(12), rank=rule).rank == rank
        assert diagnose(A, torch.zeros(12), rank=rule).rank == rank


def test_diagnoses_agree_word_for_word():
    A, b, _ = block_system("redundant")
    sparse, dense = diagnose(A.to_sparse_coo(), b), diagnose(A, b)
    assert [str(c) for c in sparse.redundant] == [str(c) for c in dense.redundant]
    assert sparse.scaling == dense.scaling


def test_contradictions_are_found_in_their_block():
    A, b, _ = block_system("redundant")
    b[diagnose(A, b).redundant[3].row] += 1
    sparse, dense = diagnose(A.to_sparse_coo(), b), diagnose(A, b)
    assert [c.contradiction() for c in sparse.conflicting] == [
        c.contradiction() for c in dense.conflicting
    ]
    assert len(sparse.conflicting) == 1
    with pytest.raises(projlab.InconsistentError, match=sparse.conflicting[0].name):
        projlab.certify(torch.zeros(A.shape[1]), torch.zeros(A.shape[1]), A.to_sparse_coo(), b)


def test_no_matrix_as_large_as_the_system_is_made():
    """Dense, these 30,000 rows in 45,000 variables would be refused for their size."""
    count = 15_000
    block = [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]
    A = scipy.sparse.kron(scipy.sparse.eye_array(count), block)
    constraint = AffineConstraint(A, torch.tensor([1.0, 2.0], dtype=F64).repeat(count))
    (decision,) = analyse(constraint, F64, "numerical", F64).decisions
    assert decision.rank == count
    assert decision.basis.nnz == 2 * count
    assert decision.coefficients.nnz == count


def test_columns_are_orthonormalised_block_by_block():
    B = torch.block_diag(*[torch.tensor([[3.0], [4.0]], dtype=F64)] * 3)
    B[0, 0] = 8.0
    for basis in (B, B.to_sparse_coo()):
        Q = orthonormal_columns(as_rows(basis)).to_dense()
        assert torch.allclose(Q.mT @ Q, torch.eye(3, dtype=F64), atol=1e-15)
        assert torch.allclose(Q @ (Q.mT @ B), B, atol=1e-14)
