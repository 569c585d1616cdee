"""Equations over parameters are split into blocks that share no entry."""

import pytest
import torch

from projlab import cat, expr
from projlab.training.blocks.margins import MarginsBlock
from projlab.training.blocks.matrix import MatrixBlock
from projlab.training.blocks.solver import SolverBlock
from projlab.training.blocks.sums import SumsBlock
from projlab.training.partition import EquationRows, _kinds, split
from tests.projlab.training.helpers import F64, blocks_of, parameter


def test_row_sums_are_one_block_of_views():
    W = parameter(6, 5)
    (block,) = blocks_of([W], expr(W).sum(1) == 1)
    assert isinstance(block, SumsBlock)
    assert block.shape == (6, 1, 5)


@pytest.mark.parametrize(
    "equations",
    [
        lambda W: [expr(W)[:, j].sum() == j for j in range(5)],
        lambda W: [expr(W)[i].sum() == i for i in range(6)],
        lambda W: [expr(W)[:, 0].sum() == 1, expr(W)[:, 2].sum() == 1, expr(W)[:, 4].sum() == 3],
    ],
    ids=["columns", "rows", "every other column"],
)
def test_equal_sums_written_one_by_one_are_batched(equations):
    W = parameter(6, 5)
    (block,) = blocks_of([W], *equations(W))
    assert isinstance(block, SumsBlock)


def test_interleaved_views_that_share_no_entry_stay_views():
    W = parameter(6, 6)
    blocks = blocks_of([W], expr(W)[:, :2].sum(1) == 1, expr(W)[:, 3:].sum(0) == 2)
    assert [type(b) for b in blocks] == [SumsBlock, SumsBlock]


def test_views_that_share_entries_are_one_block():
    W, V = parameter(4, 4), parameter(3)
    weighted = (torch.arange(1.0, 5) * expr(W)).sum(1)
    blocks = blocks_of([W, V], expr(W).sum(0) == 1, weighted == 2.5, expr(V).sum() == 1)
    assert sorted(b.shape for b in blocks) == [(1, 1, 3), (1, 8, 16)]
    overlapping = next(b for b in blocks if b.shape[1] == 8)
    assert isinstance(overlapping, MatrixBlock)
    assert overlapping.variant == "qr"


def test_sums_of_one_view_over_different_axes_stay_views():
    W, V = parameter(4, 4), parameter(3)
    blocks = blocks_of([W, V], expr(W).sum(0) == 1, expr(W).sum(1) == 1, expr(V).sum() == 1)
    assert [type(b) for b in blocks] == [SumsBlock, MarginsBlock]
    assert blocks[1].shape == (1, 8, 16)
    # and fall back where another equation takes part
    (block,) = blocks_of([W], expr(W).sum(0) == 1, expr(W).sum(1) == 1, expr(W)[0, 0] == 0)
    assert isinstance(block, MatrixBlock)
    assert block.shape == (1, 9, 16)


def test_an_equation_whose_own_terms_share_an_entry_is_no_sum_of_views():
    p = parameter(4)
    (block,) = blocks_of([p], expr(p)[:3].sum() + expr(p)[1:].sum() == 1)
    assert not isinstance(block, SumsBlock)
    (block,) = blocks_of([p], expr(p) + expr(p).sum() == 1)
    assert not isinstance(block, SumsBlock)


def test_equal_blocks_of_a_matrix_are_batched_as_a_view():
    W = parameter(5, 7)
    A = torch.randn(2, 5, dtype=F64)
    (block,) = blocks_of([W], A @ expr(W) == 0)
    assert isinstance(block, MatrixBlock)
    assert block.shape == (7, 2, 5)
    assert block.parts[0].A.dim() == 2
    assert block.parts[0].entries.view is not None


def test_blocks_of_one_shape_and_other_coefficients_are_batched():
    p = parameter(12)
    equations = [torch.randn(3, dtype=F64) @ expr(p)[3 * i : 3 * i + 3] == i for i in range(4)]
    blocks = blocks_of([p], *equations)
    assert sum(b.shape[0] for b in blocks) == 4
    weighted = [
        (torch.randn(3, dtype=F64) * expr(p)[3 * i : 3 * i + 3]).sum() == i for i in range(4)
    ]
    (block,) = blocks_of([p], *weighted)
    assert block.shape == (4, 1, 3)
    assert block.parts[0].A.dim() == 3


def test_rows_of_many_lengths_are_one_gathered_block():
    p = parameter(400)
    equations, start = [], 0
    for k in range(2, 24):
        weights = torch.randn(k, dtype=F64)
        equations.append((weights * expr(p)[start : start + k]).sum() == k)
        start += k
    (block,) = blocks_of([p], *equations)
    assert isinstance(block, SolverBlock)
    assert block.variant == "single_row"
    apart = blocks_of([p], *equations, mode="metric")
    assert len(apart) == 22


def test_dense_rows_over_several_parameters_are_split_by_parameter_and_not_copied():
    p, q = parameter(30), parameter(4, 5)
    A = torch.randn(3, 50, dtype=F64)
    (block,) = blocks_of([p, q], A @ cat(expr(p), expr(q)) == 1)
    assert isinstance(block, MatrixBlock)
    assert [part.entries.view is not None for part in block.parts] == [True, True]
    torch.testing.assert_close(A @ torch.cat([p, q.flatten()]), torch.ones(3, dtype=F64))


def test_a_sparse_component_goes_to_the_engine_sparse():
    p = parameter(60)
    e = expr(p)
    (block,) = blocks_of([p], e[1:] - 2 * e[:-1] == 0.25)
    assert block.shape == (1, 59, 60)
    torch.testing.assert_close(p[1:] - 2 * p[:-1], torch.full((59,), 0.25, dtype=F64))


def test_equal_sparse_components_are_factored_once_and_sparse():
    W = parameter(60, 7)
    e = expr(W)
    (plan,), _ = split(
        [EquationRows(0, torch.Size((59, 7)), tuple((0, t) for t in (e[1:] - 2 * e[:-1]).terms))],
        [W],
        sums=True,
        structured=True,
        join=True,
    )
    assert plan.A.layout == torch.sparse_coo
    assert plan.rows.shape == (7, 59)
    (block,) = blocks_of([W], e[1:] - 2 * e[:-1] == torch.arange(7.0))
    assert block.shape == (7, 59, 60)
    right = torch.arange(7, dtype=F64).expand(59, 7)
    torch.testing.assert_close(W.detach()[1:] - 2 * W.detach()[:-1], right)


def equal_blocks(values):
    """Blocks of two rows in three entries each, with these coefficients (B, 2, 3)."""
    p = parameter(len(values), 3)
    rows = [(values[:, i] * expr(p)).sum(1) == i for i in range(2)]
    return p, rows


@pytest.mark.parametrize(
    "rows",
    [[[1.0, 2, 3], [3, 4, 5]], [[1.0, 0, 3], [0, 4, 5]]],
    ids=["dense", "some entries zero"],
)
def test_blocks_are_equal_where_pattern_and_values_are(rows):
    values = torch.tensor(rows, dtype=F64).repeat(6, 1, 1)
    p, equations = equal_blocks(values)
    (block,) = blocks_of([p], *equations)
    assert block.shape == (6, 2, 3)
    assert block.parts[0].A.dim() == 2
    other_value, other_place = values.clone(), values.clone()
    other_value[3, 1, 2] += 1
    other_place[3, 0] = torch.tensor([1.0, 3, 0])  # the values of [1, 0, 3], in other places
    for changed in (other_value, other_place):
        p, equations = equal_blocks(changed)
        (block,) = blocks_of([p], *equations)
        assert block.shape == (6, 2, 3)
        assert block.parts[0].A.dim() == 3
        left = (changed @ p.detach().unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(left, torch.tensor([0.0, 1], dtype=F64).expand(6, 2))


def test_shapes_of_components_are_numbered():
    shapes = torch.tensor([[2, 3, 0], [1, 3, 0], [2, 3, 0], [2, 0, 3]])
    assert _kinds(shapes).tolist() == [2, 0, 2, 1]
    assert _kinds(shapes[:0]).tolist() == []
