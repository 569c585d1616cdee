"""Rows that share a column, named where a variant takes none such."""

import pytest
import torch

import projlab
from projlab.system import structure
from projlab.system.rows import sparse_rows
from projlab.system.structure import independent_blocks, places
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


@pytest.mark.parametrize("few", [0, 2**15])
def test_places_count_the_items_of_each_component(few, monkeypatch):
    monkeypatch.setattr(structure, "_FEW", few)
    component = torch.tensor([2, -1, 0, 2, 2, 0, -1, 1])
    held = component >= 0
    assert places(component, 3)[held].tolist() == [0, 0, 1, 2, 1, 0]


def test_blocks_of_a_shape_are_gathered_with_their_rows_and_columns_in_order():
    draw = torch.Generator().manual_seed(0)
    whole = torch.zeros(11, 17, dtype=torch.float64)
    starts = [(0, 0, 2, 3), (2, 3, 1, 2), (3, 5, 2, 3), (5, 8, 1, 2), (6, 10, 4, 6)]
    for i, j, m, n in starts:
        whole[i : i + m, j : j + n] = torch.randn(m, n, generator=draw, dtype=torch.float64)
    down, across = torch.randperm(11, generator=draw), torch.randperm(17, generator=draw)
    A = whole[down][:, across]
    i, j = A.nonzero(as_tuple=True)
    blocks = independent_blocks(sparse_rows(i, j, A[i, j], (11, 17)))
    assert len(blocks) == 5
    assert blocks.empty.tolist() == (down == 10).nonzero().flatten().tolist()
    shapes = dict(blocks.shapes())
    assert sorted(shapes) == [(1, 2), (2, 3), (4, 6)]
    for shape, members in shapes.items():
        rows, columns, parts = blocks.gathered(shape, members)
        for r, c, part in zip(rows, columns, parts, strict=True):
            assert torch.equal(r, r.sort().values)
            assert torch.equal(c, c.sort().values)
            assert torch.equal(part, A[r][:, c])
