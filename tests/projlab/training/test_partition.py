"""Equations over parameters are split into blocks that share no entry."""

import itertools

import pytest
import torch

from projlab import cat, expr
from projlab.numerics import tuning
from projlab.training.blocks.margins import MarginsBlock
from projlab.training.blocks.matrix import MatrixBlock
from projlab.training.blocks.solver import SolverBlock
from projlab.training.blocks.sums import SumsBlock
from projlab.training.expressions.maps import Sums
from projlab.training.partition import (
    FEW,
    SHORT,
    EquationRows,
    MatrixPlan,
    Piece,
    SumsPlan,
    _as_view,
    _coefficients,
    _groups,
    _Held,
    _kinds,
    _matrix,
    split,
)
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


# ---- the plans themselves


def numbered(parameters, *expressions):
    """Equations of expressions, rows numbered on from one to the next."""
    place = {id(p): i for i, p in enumerate(parameters)}
    equations, start = [], 0
    for e in expressions:
        terms = tuple((place[id(t.parameter)], t) for t in e.terms)
        equations.append(EquationRows(start, torch.Size(e.shape), terms))
        start += equations[-1].height
    return equations


def planned(parameters, *expressions, **settings):
    """Plans, and the rows without an entry."""
    keywords = {"sums": True, "structured": False, "join": True, **settings}
    return split(numbered(parameters, *expressions), parameters, **keywords)


def given(parameters, *expressions):
    """The matrix of expressions over the entries of all parameters."""
    width = [p.numel() for p in parameters]
    equations = numbered(parameters, *expressions)
    M = torch.zeros(sum(e.height for e in equations), sum(width), dtype=F64)
    for e in equations:
        for p, t in e.terms:
            i, j, values = t.triplets()
            M.index_put_((i + e.start, j + sum(width[:p])), values, accumulate=True)
    return M


def blocks_in(plans, parameters):
    """(rows, columns, A) of every independent block; columns are those of `given`."""
    first = [0, *itertools.accumulate(p.numel() for p in parameters)]
    for plan in plans:
        if isinstance(plan, SumsPlan):
            columns = torch.cat([first[p] + t.columns() for p, t in plan.terms], 1)
            scales = [torch.full((t.count,), t.scale, dtype=F64) for _, t in plan.terms]
            for row, held in zip(plan.rows.flatten(), columns, strict=True):
                yield row.view(1), held, torch.cat(scales).unsqueeze(0)
            continue
        wheres = [
            (p, w.columns().reshape(w.shape) if isinstance(w, Sums) else w) for p, w in plan.pieces
        ]
        columns = torch.cat([first[p] + w for p, w in wheres], 1)
        A = plan.A.to_dense().to(F64)
        A = A.expand(len(columns), *A.shape[-2:])
        yield from zip(plan.rows, columns, A, strict=True)


def random_expressions(draw, parameters):
    """Sums of views, single entries, weights and dense matrices, of one parameter or two."""

    def chosen(n):
        return int(torch.randint(n, (), generator=draw))

    def one():
        W = parameters[chosen(len(parameters))]
        rows, cols = W.shape
        top, left = chosen(rows), chosen(cols)
        part = expr(W)[top : top + 1 + chosen(3), left :: 1 + chosen(2)]
        kind = chosen(6)
        if kind < 3:
            return (part.sum(0), part.sum(1), part.sum())[kind].reshape(-1)
        if kind == 3:
            return (torch.randn(part.shape, generator=draw, dtype=F64) * part).sum(1)
        if kind == 4:
            A = torch.randn(2, int(part.shape[0] * part.shape[1]), generator=draw, dtype=F64)
            return A @ part.reshape(-1)
        return 2 * expr(W)[top, left].reshape(1) - 0 * expr(W)[0, 0]

    expressions = [one() for _ in range(2 + chosen(5))]
    if chosen(2):
        expressions.append(one().sum() + one().sum())
    expressions.append(0 * one())
    return expressions


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_plans_hold_the_matrix_and_share_no_entry(sums, join, sparse, monkeypatch):
    if sparse:
        monkeypatch.setattr(tuning, "APART", 0)
    draw = torch.Generator().manual_seed(0)
    for _ in range(40):
        # the second one is not dense in memory
        parameters = [parameter(6, 7), torch.nn.Parameter(torch.ones(4, 10, dtype=F64)[:, ::2])]
        expressions = random_expressions(draw, parameters)
        plans, empty = planned(parameters, *expressions, sums=sums, join=join)
        wanted = given(parameters, *expressions)
        found = torch.zeros_like(wanted)
        rows, columns = [empty], []
        for own, held, A in blocks_in(plans, parameters):
            found[own.unsqueeze(1), held] += A
            rows.append(own)
            columns.append(held)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
        assert torch.cat(rows).sort().values.tolist() == list(range(len(wanted)))
        columns = torch.cat(columns)
        assert len(columns.unique()) == len(columns)
        assert all(sums or not isinstance(plan, SumsPlan) for plan in plans)


def test_equations_that_touch_a_common_entry_are_found():
    """Against pairs of columns, compared one by one."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(60):
        parameters = [parameter(6, 7), parameter(4, 5)]
        equations = numbered(parameters, *random_expressions(draw, parameters))
        held = [[(p, set(t.triplets()[1].tolist())) for p, t in e.terms] for e in equations]
        label = list(range(len(held)))
        for i, j in itertools.combinations(range(len(held)), 2):
            if any(p == q and a & b for p, a in held[i] for q, b in held[j]):
                label = [label[i] if k == label[j] else k for k in label]
        together = {tuple(i for i, k in enumerate(label) if k == one) for one in label}
        groups, tangled = _groups(equations, parameters)
        assert {tuple(group) for group in groups} == together
        alone = {group[0] for group in groups if len(group) == 1}
        assert tangled & alone == {
            i
            for i in alone
            if any(p == q and a & b for (p, a), (q, b) in itertools.combinations(held[i], 2))
        }


def apart(p, lengths):
    """Sums of so many entries each, at distances that no view has."""
    start, found = 0, []
    for k, length in enumerate(lengths):
        found.append(expr(p)[start : start + length].sum())
        start += length + k
    assert start <= len(p)
    return found


@pytest.mark.parametrize("lengths", [range(2, 2 + FEW), range(2, 3 + FEW), [SHORT] * (FEW + 1)])
def test_many_short_sums_of_other_shapes_are_put_together(lengths):
    p = parameter(sum(lengths) + len(lengths) ** 2)
    plans, _ = planned([p], *apart(p, lengths))
    many = len(set(lengths)) > FEW
    assert [type(plan) for plan in plans] == ([MatrixPlan] if many else [SumsPlan] * len(lengths))
    plans, _ = planned([p], *apart(p, lengths), join=False)
    assert [type(plan) for plan in plans] == [SumsPlan] * len(lengths)


def test_many_sums_of_one_shape_are_gathered_where_they_are_short():
    lengths = [SHORT - 1] * (FEW + 1)
    p, W = parameter(sum(lengths) + len(lengths) ** 2), parameter(3, 4)
    (rows, block), _ = planned([p, W], *apart(p, lengths), expr(W).sum(1))
    assert isinstance(rows, SumsPlan)  # many rows in one view stay one
    assert rows.rows.tolist() == [17, 18, 19]
    assert isinstance(block, MatrixPlan)
    assert block.rows.shape == (FEW + 1, 1)
    # one entry more than so many a row are worth a launch each
    plans, _ = planned([p], *apart(p, [SHORT - 1] * FEW + [SHORT + FEW]))
    assert len(plans) == FEW + 1


def test_long_sums_of_many_shapes_are_put_together():
    lengths = range(SHORT, SHORT + FEW + 1)
    p = parameter(sum(lengths) + len(lengths) ** 2)
    (plan,), _ = planned([p], *apart(p, lengths))
    assert plan.rows.shape == (1, FEW + 1)


@pytest.mark.parametrize("kinds", [FEW, FEW + 1])
def test_single_rows_are_put_together_where_they_come_in_too_many_lengths(kinds):
    p, W = parameter(400), parameter(2, 3)
    weighted, start = [], 0
    for k in range(2, 2 + kinds):
        weighted.append((torch.arange(1.0, k + 1, dtype=F64) * expr(p)[start : start + k]).sum())
        start += k
    both = (torch.arange(1.0, 7, dtype=F64).view(2, 3) * expr(W)).sum(1) + expr(W)[0, 0]
    plans, _ = planned([p, W], *weighted, both)
    assert len(plans) == (2 if kinds > FEW else kinds + 1)
    assert sorted(len(plan.rows.flatten()) for plan in plans)[-2:] == (
        [2, kinds] if kinds > FEW else [1, 2]
    )


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("most", "sums"),
    [(9, lambda e: e[:6]), (18, lambda e: e[:12].reshape(6, 2).sum(1))],
    ids=["single entries", "pairs"],
)
def test_rows_are_one_block_where_a_third_of_it_is_held(most, sums, several):
    """Two dense rows and six of c entries: 8 n <= 3 (2 n + 6 c) where n <= 9 c.

    What is no such block falls apart, as the dense rows have no column in common.
    """
    for n in (most - 1, most, most + 1):
        parameters = [parameter(n - 1), parameter(1)] if several else [parameter(n)]
        A = torch.zeros(2, n, dtype=F64)
        A[0, :4] = A[1, 4:] = 1.0
        dense = A @ cat(*map(expr, parameters))
        plans, _ = planned(parameters, dense, sums(expr(parameters[0])))
        assert (len(plans) == 1) == (n <= most)
        assert (plans[0].rows.shape == (1, 8)) == (n <= most)


def test_coefficients_are_stored_sparse_from_a_third_on():
    i, j, values = torch.tensor([0, 0]), torch.tensor([0, 5]), torch.ones(2, dtype=F64)
    for n, layout in ((6, torch.strided), (7, torch.sparse_coo)):
        A = _matrix(1, n, i, j, values)
        assert A.layout == layout
        assert A.to_dense().nonzero().tolist() == [[0, 0], [0, 5]]


@pytest.mark.parametrize(
    ("call", "counts", "apart"),
    [(6, [1, 2], True), (7, [1, 2], False), (6, [2, 2], False), (6, [1, 3], False)],
)
def test_large_blocks_of_few_entries_are_blocks_of_their_own(call, counts, apart, monkeypatch):
    monkeypatch.setattr(tuning, "APART", call)
    counts = torch.tensor(counts)
    column = torch.cat([torch.arange(k) for k in counts.tolist()])
    values = torch.arange(1.0, len(column) + 1, dtype=F64)
    found = list(_coefficients(2, 3, _Held(counts, torch.zeros_like(column), column, values)))
    assert [A.dim() for _, A in found] == ([2, 2] if apart else [3])
    every = torch.zeros(2, 2, 3, dtype=F64)
    for some, A in found:
        every[some] = A.to_dense()
    wanted = torch.zeros(2, 2, 3, dtype=F64)
    for b, own in enumerate(values.split(counts.tolist())):
        wanted[b, 0, : len(own)] = own
    assert torch.equal(every, wanted)


@pytest.mark.parametrize(
    ("columns", "view"),
    [
        ([[3]], True),
        ([[2, 4, 6]], True),
        ([[0], [3]], True),
        ([[1, 2], [5, 6]], True),
        ([[1, 3], [4, 6], [7, 9]], True),
        ([[1, 2, 4]], False),
        ([[1, 2], [5, 7]], False),
        ([[1, 2], [5, 6], [10, 11]], False),
        ([[5, 6], [1, 2]], False),
        ([[5], [1]], False),
    ],
)
def test_columns_at_regular_distances_are_a_view(columns, view):
    columns = torch.tensor(columns)
    piece = _as_view(Piece(0, columns), [parameter(12)])
    assert isinstance(piece.where, Sums) == view
    if view:
        assert torch.equal(piece.where.columns().reshape(columns.shape), columns)
    gaps = torch.nn.Parameter(torch.ones(24, dtype=F64)[::2])
    assert torch.equal(_as_view(Piece(0, columns), [gaps]).where, columns)
