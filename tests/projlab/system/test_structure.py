"""Rows that share a column, named where a variant takes none such."""

import pytest
import torch

import projlab
from tests.projlab.systems import DISJOINT_VARIANTS


@pytest.mark.parametrize("variant", DISJOINT_VARIANTS)
def test_single_row_names_the_rows_and_the_column(variant):
    for A in (
        torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]]),
        torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]]).to_sparse_coo(),
        torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]]).expand(2, 2, 3),
    ):
        with pytest.raises(projlab.InputError, match="row 0 and row 1 share column 2"):
            projlab.projector(A, 1.0, variant)


@pytest.mark.parametrize("variant", DISJOINT_VARIANTS)
def test_single_row_names_rows_by_their_own_indices(variant):
    """Rows of zeros and redundant rows are dropped before; the message still counts all rows."""
    A = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 2.0], [2.0, 0.0, 4.0], [0.0, 1.0, 3.0]])
    with pytest.raises(projlab.InputError, match="share column 2") as caught:
        projlab.projector(A, [0.0, 1.0, 2.0, 1.0], variant)
    assert "row 3" in str(caught.value)
