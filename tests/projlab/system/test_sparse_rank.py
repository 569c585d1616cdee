"""Rank by sparse factors: what singular values say, or that it is undecided."""

import contextlib

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import projlab
from projlab import tolerance
from projlab.numerics import gram, memory, tuning
from projlab.numerics.sparse_factor import SuperLU
from projlab.system import analysis
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import equilibrate
from projlab.system.rank import decide
from projlab.system.rows import as_rows
from projlab.system.sparse_rank import UndecidedError, decide_sparse
from tests.projlab.sparse_systems import grid, redundant, scattered, tree

F64 = torch.float64
U = tolerance.unit_roundoff(F64)

SYSTEMS = {
    "grid": grid(8),
    "tree": tree(80),
    "full rank": scattered(60, 90, 3),
    "combinations": redundant(scattered(50, 80, 3), 20)[0],
    "rows of zeros": sp.vstack([sp.csr_array((3, 60)), grid(6)]).tocsr(),
    "a dense row": sp.vstack([scattered(40, 70, 2), np.ones((1, 70))]).tocsr(),
    "badly scaled": sp.diags_array(10.0 ** np.arange(-8, 9)) @ redundant(tree(14), 3)[0],
    "taller than wide": redundant(scattered(20, 25, 3), 30)[0],
}


def equilibrated(A, dtype=F64):
    return equilibrate(AffineConstraint(A, torch.zeros(A.shape[0], dtype=F64)), dtype).rows


@pytest.mark.parametrize("name", SYSTEMS)
def test_as_by_singular_values(name):
    rows = equilibrated(SYSTEMS[name])
    found, known = decide_sparse(rows, U, "numerical"), decide(rows, U, "numerical").measure()
    assert found.rank == known.rank
    assert found.ambiguous is known.ambiguous is False
    assert abs(found.condition / known.condition - 1) <= found.uncertainty + 1e-12
    assert found.gap[0] == pytest.approx(known.gap[0], rel=1e-4)
    assert found.gap[1] >= known.gap[1] - 10 * U
    assert sorted([*found.kept.tolist(), *found.dropped.tolist()]) == list(range(rows.shape[0]))
    if found.coefficients is not None:
        E, C = rows.to_dense(), found.coefficients.to_dense()
        left = E[found.dropped] - C @ E[found.kept]
        assert left.abs().max() <= 20 * U * C.abs().sum(1).max().clamp_min(1)
        lengths = E.norm(dim=1)
        unit = C * lengths[found.kept] / lengths[found.dropped, None].clamp_min(1e-300)
        assert unit.abs().max() <= tolerance.LARGEST_COEFFICIENT * (1 + 1e-9)


def test_of_duplicates_the_later_ones_are_redundant():
    A = scattered(30, 40, 2)
    found = decide_sparse(equilibrated(sp.vstack([A, 2 * A[:10]]).tocsr()), U, "numerical")
    assert found.dropped.tolist() == list(range(30, 40))


@pytest.mark.parametrize("rule", ["numerical", "exact", 1e-9])
def test_rules(rule):
    # 1e-8 from redundant: a row of its own to the letter and at numerical rank
    A = sp.csr_array(np.array([[1.0, 1, 0, 0], [0, 1, 1, 0], [1, 2, 1, 0], [0, 0, 1, 1]]))
    A = A.tolil()
    A[2, 3] = 2.0**-26
    rows = equilibrated(A.tocsr())
    if rule == 1e-9:
        with pytest.raises(UndecidedError, match="pivot"):
            decide_sparse(rows, U, 1e-9)
        assert decide(rows, U, rule).rank == 4
    else:
        assert decide(rows, U, rule).rank == 4
    A[2, 3] = 0.0
    found = decide_sparse(equilibrated(A.tocsr()), U, rule)
    assert found.rank == 3
    assert found.dropped.tolist() == [2]


@pytest.mark.parametrize("gap", [1e-15, 1e-14, 1e-10])
def test_where_the_cutoff_is_near_it_says_that_it_is_open(gap):
    A = scattered(20, 30, 2).toarray()
    near = A[0] + gap * A[1]
    rows = equilibrated(sp.csr_array(np.vstack([A, near])))
    known = decide(rows, U, "numerical")
    try:
        found = decide_sparse(rows, U, "numerical")
    except UndecidedError:
        pass  # the bounds are wider than the singular values
    else:
        assert gap < 1e-10
        assert not known.ambiguous
        assert found.rank == known.rank


def test_data_in_float32():
    A = redundant(scattered(40, 60, 3), 8)[0].astype(np.float32)
    u = tolerance.unit_roundoff(torch.float32)
    rows = equilibrated(A)
    found, known = decide_sparse(rows, u, "numerical"), decide(rows, u, "numerical").measure()
    assert found.rank == known.rank == 40
    assert found.condition == pytest.approx(known.condition, rel=1e-4)


# --- through the front door ---------------------------------------------------------------------


@pytest.fixture
def always_sparse(monkeypatch):
    monkeypatch.setattr(tuning, "SPARSE_DECISION", 0.0)


@pytest.mark.usefixtures("always_sparse")
@pytest.mark.parametrize("rule", ["numerical", "exact"])
@pytest.mark.parametrize("name", ["grid", "combinations", "rows of zeros", "taller than wide"])
def test_conflicts_are_named_as_by_singular_values(name, rule, monkeypatch):
    A = SYSTEMS[name]
    b = A @ np.arange(1.0, A.shape[1] + 1)
    good = projlab.diagnose(A, b, rank=rule)
    assert good.consistent
    assert good.fill is not None
    assert good.uncertainty > 0
    b[good.redundant[-1].row] += 1.0
    bad = projlab.diagnose(A, b, rank=rule)
    monkeypatch.setattr(tuning, "SPARSE_DECISION", float("inf"))
    known = projlab.diagnose(A, b, rank=rule)
    assert known.uncertainty == 0.0
    assert bad.rank == known.rank == good.rank
    assert [c.row for c in bad.conflicting] == [good.redundant[-1].row]
    assert not known.consistent
    if rule == "exact":
        assert bad.conflicting == known.conflicting


@pytest.mark.usefixtures("always_sparse")
def test_least_squares_needs_the_range():
    A = SYSTEMS["combinations"]
    b = A @ np.ones(A.shape[1])
    b[3] += 1.0
    x0 = torch.zeros(A.shape[1], dtype=F64)
    x = projlab.project(x0, A, b, on_inconsistent="least_squares")
    known = np.linalg.lstsq(A.toarray(), b, rcond=None)[0]
    assert np.abs(x.numpy() - known).max() < 1e-12 * np.abs(known).max() * 100


@pytest.mark.usefixtures("always_sparse")
def test_a_projector_answers_rank_and_condition():
    P = projlab.projector(SYSTEMS["grid"], np.zeros(64))
    sigma = np.linalg.svd(equilibrated(SYSTEMS["grid"]).to_dense().numpy(), compute_uv=False)
    assert P.rank == 63
    assert P.condition == pytest.approx(sigma[0] / sigma[62], rel=1e-4)


def test_what_neither_way_decides_is_refused_by_name(monkeypatch):
    A = scattered(20, 30, 2).toarray()
    A = sp.csr_array(np.vstack([A, A[0] + 1e-10 * A[1]]))
    monkeypatch.setattr(tuning, "SPARSE_DECISION", 0.0)
    monkeypatch.setattr(memory, "limit", lambda device: 20_000)
    with pytest.raises(projlab.MemoryLimitError, match=r"undecided\. By sparse factors: the other"):
        projlab.diagnose(A, np.zeros(21))


def test_a_large_flow_is_decided_without_a_dense_matrix():
    A = grid(60)
    assert A.shape[0] ** 2 * A.shape[1] > tuning.SPARSE_DECISION
    found = projlab.diagnose(A, np.zeros(A.shape[0]))
    assert (found.rank, found.ambiguous) == (3599, False)
    assert found.redundant[0].row == 3599
    assert {c for _, c in found.redundant[0].terms} == {-1.0}
    assert "by Lanczos" in str(found)
    assert "nonzeros" in str(found)


# --- planted faults -----------------------------------------------------------------------------


def wrong_when(fault, monkeypatch):
    """What `decide_sparse` does of rows with a planted fault in what it stands on."""
    if fault == "a permutation applied twice":
        honest = SuperLU.pivots
        monkeypatch.setattr(SuperLU, "pivots", lambda self: honest(self)[self.order.numpy()])
    elif fault == "a row is dropped that carries the rank":
        honest_pick = analysis.decide_sparse.__globals__["_picked"]
        monkeypatch.setitem(
            analysis.decide_sparse.__globals__, "_picked", lambda E, c: honest_pick(E, c)[1:]
        )
    elif fault == "a redundant row is kept":
        monkeypatch.setitem(
            analysis.decide_sparse.__globals__, "_picked", lambda E, c: np.arange(E.shape[0])
        )


@pytest.mark.parametrize(
    "fault",
    [
        "a permutation applied twice",
        "a row is dropped that carries the rank",
        "a redundant row is kept",
    ],
)
def test_a_fault_in_picking_rows_never_decides_a_wrong_rank(fault, monkeypatch):
    A, _ = redundant(scattered(50, 80, 3, seed=1), 10, seed=1)
    wrong_when(fault, monkeypatch)
    with contextlib.suppress(UndecidedError):
        assert decide_sparse(equilibrated(A), U, "numerical").rank == 50


def test_a_dropped_dense_row_is_seen(monkeypatch):
    """The Gram matrix without its dense row does not prove anything of the rows with it."""
    A = SYSTEMS["a dense row"]
    honest = gram.gram_matrix

    def without(E):
        G = honest(E).tolil()
        last = E.shape[0] - 1
        G[last], G[:, last] = 0.0, 0.0
        G[last, last] = 1.0
        return G.tocsc()

    factor = gram.GramFactor.of(as_scipy(A), "G")
    true = np.linalg.svd(A.toarray(), compute_uv=False)[-1] ** 2
    assert factor.proven(true) <= true
    monkeypatch.setattr(gram, "gram_matrix", without)
    planted = gram.GramFactor.of(as_scipy(A), "G")
    g = np.ones((1, A.shape[0]))
    y = planted.solve(g)
    assert np.abs(A @ (A.T @ y[0]) - g[0]).max() > 1e-6


def as_scipy(A):
    rows = as_rows(A)
    i, j, v = (t.numpy() for t in rows.triplets())
    return sp.csr_array((v, (i, j)), shape=rows.shape)
