"""Rank of sparse rows without a dense matrix: rows are picked by a sparse factor, and then proven.

The pivots of a Cholesky factor of E E' are squared distances of rows from the span of those before
them; a shift lets it go on past rows that are redundant. Rows with small pivots are candidates.
What is left of them beside the others tells which follow. Then, for the kept rows E_K and the
dropped E_D = C E_K + Delta,

    sigma_r(E) >= sigma_min(E_K) >= a proven bound (`projlab.numerics.gram`),
    sigma_{r+1}(E) <= ||Delta||,

and the rank is r, whatever the picking did, where the cutoff lies far between the two. Where it
does not, `UndecidedError` says why, and singular values have to decide.

sigma_r is measured by a Lanczos iteration with the pseudoinverse of E E' = M G M', M = [I; C] and G
the Gram matrix of the kept rows; M'M = I + C'C is inverted by Woodbury's formula.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import MemoryLimitError
from projlab.numerics import tuning
from projlab.numerics.gram import (
    STEPS,
    GramFactor,
    IndefiniteError,
    gram_matrix,
    inverse_iteration,
    reciprocal,
)
from projlab.numerics.lanczos import Eigenvalue, largest
from projlab.numerics.sparse_elimination import TooDenseError, independent_rows
from projlab.numerics.sparse_factor import CPU, SuperLU, prepared
from projlab.system.rank import Rank, RankRule, cutoff_of
from projlab.system.row_choice import exchange
from projlab.system.rows import SparseRows, sparse_rows
from projlab.system.structure import connected

Index = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]


class UndecidedError(Exception):
    """Sparse factors leave the rank open; the message says why."""


def decide_sparse(rows: SparseRows, u: float, rule: RankRule) -> Rank:
    """As `projlab.system.rank.decide`, of equilibrated rows whose rank is beyond doubt.

    Raises
    ------
    UndecidedError
        It is in doubt, or finding out takes longer than it is worth.
    """
    try:
        return _decide(rows, u, rule)
    except (MemoryLimitError, IndefiniteError, TooDenseError, np.linalg.LinAlgError) as error:
        raise UndecidedError(str(error)) from error


def scipy_rows(rows: SparseRows) -> Any:
    """Float64 scipy CSR on the CPU."""
    from scipy.sparse import csr_array

    i, j, values = (t.cpu().numpy() for t in rows.triplets())
    starts = np.searchsorted(i, np.arange(rows.shape[0] + 1))
    return csr_array((values.astype(np.float64), j, starts), shape=rows.shape)


def _decide(rows: SparseRows, u: float, rule: RankRule) -> Rank:
    zero = rows.row_max() == 0
    nonzero = (~zero).nonzero().flatten()
    E = scipy_rows(rows)[nonzero.cpu().numpy()]
    adjoint = E.T.tocsr()
    steps = min(STEPS, int(tuning.ITERATED / E.nnz) + STEPS // 10)
    top = largest(lambda v: E @ (adjoint @ v), E.shape[0], tolerance.MEASURED, steps)
    most = math.sqrt(top.value + top.residual)
    cutoff = cutoff_of(rule, *rows.shape, u)
    if rule == "exact":
        kept = _first_exactly(E)
    else:
        kept = _picked(E, cutoff * most)
    follow = _Follow.of(E, kept, forward=rule != "exact")
    least = math.sqrt(follow.factor.proven(follow.factor.smallest(tolerance.ROUGH).value))
    beyond = follow.size
    if rule != "exact":
        _require_gap(least, beyond, cutoff, most)
    elif least == 0:
        raise UndecidedError("no positive lower bound on the smallest singular value is proven")
    bottom = follow.smallest()
    # corrected solves with G err by kappa^2 u, however often they are corrected in float64
    rounding = tolerance.unit_roundoff("float64") * top.value / bottom.value
    sigma = [math.sqrt(top.value), math.sqrt(bottom.value)]
    found, place = nonzero.cpu(), _places(follow, zero.cpu())
    return Rank(
        rank=len(follow.kept),
        condition=sigma[0] / sigma[1],
        ambiguous=False,
        gap=(sigma[1] / sigma[0], beyond / sigma[0]),
        kept=found[follow.kept].to(rows.device),
        dropped=place.dropped.to(rows.device),
        coefficients=place.coefficients.to(device=rows.device) if len(follow.dropped) else None,
        basis=None,
        sigma=torch.tensor(sigma, dtype=torch.float64, device=rows.device),
        inverse=follow if len(follow.dropped) else None,
        uncertainty=(top.residual / top.value + bottom.residual / bottom.value + rounding) / 2,
    )


def _require_gap(least: float, beyond: float, cutoff: float, most: float) -> None:
    """Raise `UndecidedError` unless a cutoff ten times larger or smaller counts the same."""
    noise = tolerance.ROUNDING_RANK * tolerance.unit_roundoff("float64")
    if not least > tolerance.AMBIGUITY * cutoff * most:
        raise UndecidedError(
            f"the rows that carry the rank have singular values of which a sparse factor proves "
            f"{least / most:.2g} of the largest, and the cutoff is {cutoff:.2g}"
        )
    if not beyond <= max(cutoff / tolerance.AMBIGUITY, noise) * most:
        raise UndecidedError(
            f"the other rows follow from those that carry the rank up to {beyond / most:.2g} of "
            f"the largest singular value only, and the cutoff is {cutoff:.2g}"
        )


@dataclass(frozen=True)
class _Place:
    """Where rows stand among all, those of zeros included."""

    dropped: Tensor
    coefficients: SparseRows


def _places(follow: "_Follow", zero: Tensor) -> _Place:
    nonzero = (~zero).nonzero().flatten()
    dropped = torch.cat([nonzero[follow.dropped], zero.nonzero().flatten()])
    order = torch.argsort(dropped)
    position = torch.argsort(order)
    C = follow.C.tocoo()
    i, j = (torch.from_numpy(t.astype(np.int64)) for t in (C.row, C.col))
    entries = torch.from_numpy(C.data)
    shape = (len(dropped), len(follow.kept))
    return _Place(dropped[order], sparse_rows(position[i], j, entries, shape))


def _picked(E: Any, cutoff: float) -> Index:
    """Rows, ascending, of which none is nearer to the span of the others than `cutoff`, about."""
    from scipy.linalg import qr
    from scipy.sparse import eye_array

    m, n = E.shape
    G = gram_matrix(E) + tolerance.gram_shift(m) * eye_array(m, format="csc")
    ready = prepared(G, f"the Gram matrix of {m} x {n} rows")
    ready.require_memory(f"the Gram matrix of {m} x {n} rows", CPU)
    doubtful = max(tolerance.DOUBTFUL_PIVOT, (tolerance.AMBIGUITY * cutoff) ** 2)
    small = SuperLU(ready).pivots() <= doubtful
    sure, candidates = np.flatnonzero(~small), np.flatnonzero(small)
    if len(candidates) == 0:
        return sure
    _afford(len(candidates) * float(ready.fill.nonzeros), "the redundant rows")
    if len(sure) == 0:
        raise UndecidedError("every pivot of the Gram matrix is small")
    left = _beside(GramFactor.of(E[sure], "the Gram matrix"), E[candidates], cutoff)
    if len(left.rows) == 0:
        return sure
    _afford(float(len(left.rows)) ** 2 * n, "nearly redundant rows")
    R, order = qr(left.vectors.T, mode="r", pivoting=True)
    size = min(len(left.rows), n)
    independent = order[:size][np.abs(R.diagonal()[:size]) > cutoff]
    return np.sort(np.concatenate([sure, candidates[left.rows[independent]]]))


def _afford(operations: float, what: str) -> None:
    if operations > tuning.SPARSE_OPERATIONS:
        raise UndecidedError(f"sparse factors would take {operations:.2g} operations for {what}")


@dataclass(frozen=True)
class _Beside:
    """What is left of rows beside the span of others, where that is more than the cutoff."""

    rows: Index
    vectors: Array


def _beside(factor: GramFactor, rows: Any, cutoff: float) -> _Beside:
    numbers, vectors = [], [np.zeros((0, rows.shape[1]))]
    for some in _portions(rows.shape[0], max(rows.shape)):
        left = rows[some].toarray()
        for _ in range(2):
            left = left - (factor.transposed @ factor.once((factor.E @ left.T).T).T).T
        far = np.linalg.norm(left, axis=1) > cutoff
        numbers.append(some[far])
        vectors.append(left[far])
    return _Beside(np.concatenate(numbers), np.concatenate(vectors))


def _portions(count: int, length: int) -> list[Index]:
    """Numbers of dense rows of that length that are held at a time."""
    step = max(1, tuning.PORTION // max(length, 1))
    return [np.arange(i, min(i + step, count)) for i in range(0, count, step)]


def _first_exactly(E: Any) -> Index:
    """The first maximal set of independent rows, entries taken literally."""
    entries = E.tocoo()
    i, j = entries.row.astype(np.int64), entries.col.astype(np.int64)
    return np.array(independent_rows(i, j, entries.data, E.shape).kept, dtype=np.int64)


@dataclass(frozen=True)
class _Follow:
    """How dropped rows follow from kept ones: E_D = C E_K + Delta; `Inverse` of the rank."""

    kept: Index
    dropped: Index
    factor: GramFactor
    C: Any
    """(d, r) scipy CSR."""
    size: float
    """Upper bound on ||Delta||, but for its rounding in long double."""

    @staticmethod
    def of(E: Any, kept: Index, *, forward: bool) -> "_Follow":
        """Of independent rows `kept` (r,), ascending.

        `forward` exchanges rows so that coefficients are small and, if that is cheap, earlier rows
        are kept.
        """
        from scipy.sparse import csr_array

        others = np.ones(E.shape[0], dtype=bool)
        others[kept] = False
        dropped = np.flatnonzero(others)
        factor = _factored(E, kept)
        if len(dropped) == 0:
            return _Follow(kept, dropped, factor, csr_array((0, len(kept))), 0.0)
        _afford(len(dropped) * float(factor.factor.fill.nonzeros), "the redundant rows")
        C = _coefficients(factor, E[dropped])
        if forward:
            now, then, C = _exchanged(E, kept, dropped, C)
            if not np.array_equal(now, kept):
                factor = _factored(E, now)
            kept, dropped = now, then
        C, size = _corrected(factor, E[dropped], C)
        return _Follow(kept, dropped, factor, C, size)

    @cached_property
    def _woodbury(self) -> SuperLU:
        """I + C C'."""
        from scipy.sparse import eye_array

        d = len(self.dropped)
        ready = prepared((self.C @ self.C.T + eye_array(d)).tocsc(), "I + C C'")
        ready.require_memory("I + C C'", CPU)
        return SuperLU(ready)

    def _small(self, v: Array) -> Array:
        """(I + C C')^-1 v."""
        solved: Array = self._woodbury.solve(torch.from_numpy(np.ascontiguousarray(v))).numpy()
        return solved

    def _onto_kept(self, v: Array) -> Array:
        """M^+ v, for v (r + d,) the kept rows first."""
        r = len(self.kept)
        w = v[:r] + self.C.T @ v[r:]
        onto: Array = w - self.C.T @ self._small(self.C @ w)
        return onto

    def _from_kept(self, y: Array) -> Array:
        """The transpose of that."""
        w = y - self.C.T @ self._small(self.C @ y)
        return np.concatenate([w, self.C @ w])

    def smallest(self) -> Eigenvalue:
        """sigma_r(E)^2."""
        if len(self.dropped) == 0:
            return self.factor.smallest(tolerance.MEASURED)

        def inverse(v: Array) -> Array:
            return self._from_kept(self.factor.solve(self._onto_kept(v[0])[None])[0])[None]

        size = len(self.kept) + len(self.dropped)
        return reciprocal(inverse_iteration(inverse, size, tolerance.MEASURED))

    def outside(self, f: Array) -> tuple[Array, float]:
        """What of f, of the rows that are not zero, is outside the range of E; and ||E^+ f||."""
        misfit = self._small(f[self.dropped] - self.C @ f[self.kept])
        residual = np.zeros_like(f)
        residual[self.kept], residual[self.dropped] = -(self.C.T @ misfit), misfit
        g = self._onto_kept(np.concatenate([f[self.kept], f[self.dropped]]))
        return residual, math.sqrt(max(0.0, float(g @ self.factor.solve(g[None])[0])))


def _members(label: Index, count: int) -> list[Index]:
    """The numbers of each label's items."""
    order = np.argsort(label, kind="stable")
    return np.split(order, np.cumsum(np.bincount(label, minlength=count))[:-1])


def _factored(E: Any, kept: Index) -> GramFactor:
    return GramFactor.of(E[kept], f"the Gram matrix of {len(kept)} x {E.shape[1]} rows")


def _exchanged(E: Any, kept: Index, dropped: Index, C: Any) -> tuple[Index, Index, Any]:
    """Kept and dropped rows, ascending, after exchanges; and C with E[dropped] = C E[kept].

    Dropped rows that share no kept row, directly or through others, are looked at apart.
    """
    from scipy.sparse import coo_array

    kept, dropped = kept.copy(), dropped.copy()
    lengths = np.sqrt((E.multiply(E)).sum(axis=1))
    (d, r), entries = C.shape, C.tocoo()
    i, j = (torch.from_numpy(t.astype(np.int64)) for t in (entries.row, entries.col))
    count, label = connected(d + r, i, j + d)
    by_row, by_column = (_members(part, count) for part in (label[:d].numpy(), label[d:].numpy()))
    budget, found = tuning.EXCHANGED // 4, []
    for rows, columns in zip(by_row, by_column, strict=True):
        if len(rows) == 0 or len(columns) == 0:
            continue
        part = C[rows][:, columns].toarray()
        these, those = kept[columns], dropped[rows]
        part *= lengths[these] / lengths[those][:, None]
        budget -= exchange(part, these, those, budget)
        part *= lengths[those][:, None] / lengths[these]
        kept[columns], dropped[rows] = these, those
        a, b = np.nonzero(part)
        found.append((rows[a], columns[b], part[a, b]))
    none = np.zeros(0, dtype=np.int64)
    found.append((none, none, np.zeros(0)))
    a, b, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    now, then = np.argsort(kept), np.argsort(dropped)
    moved = coo_array((values, (a, b)), shape=C.shape).tocsr()[then][:, now].tocsr()
    return kept[now], dropped[then], moved


def _coefficients(factor: GramFactor, rows: Any) -> Any:
    """C (d, r) with rows ~ C E_K; coefficients that look like rounding are left out."""
    from scipy.sparse import csr_array, vstack

    parts = []
    for some in _portions(rows.shape[0], max(factor.E.shape)):
        C = factor.solve((factor.E @ rows[some].T).T.toarray())
        loud = np.abs(C) > tolerance.COMBINATION_NOISE * np.abs(C).max(axis=1, keepdims=True)
        parts.append(csr_array(np.where(loud, C, 0.0)))
    return vstack(parts, format="csr")


def _corrected(factor: GramFactor, rows: Any, C: Any) -> tuple[Any, float]:
    """C with what Delta = rows - C E_K says that it lacks, and a bound on ||Delta||.

    Delta in long double, so that simple coefficients come out exact; as long as that halves it.
    """
    left = _left_over(factor, rows, C)
    size = _norm_bound(left)
    for _ in range(tolerance.REFINEMENT_STEPS):
        trial = _stepped(factor, C, left)
        left = _left_over(factor, rows, trial)
        before, size = size, min(size, _norm_bound(left))
        if size < before:
            C = trial
        if not size < before * tolerance.REFINEMENT_GAIN:
            return C, size
    return C, size


def _norm_bound(left: Any) -> float:
    """Of the 2-norm."""
    sizes = abs(left)
    by_row, by_column = np.asarray(sizes.sum(axis=1)), np.asarray(sizes.sum(axis=0))
    return math.sqrt(float(by_row.max(initial=0.0)) * float(by_column.max(initial=0.0)))


def _left_over(factor: GramFactor, rows: Any, C: Any) -> Any:
    """Delta, in long double."""
    wide = np.longdouble
    return rows.astype(wide) - C.astype(wide) @ factor.E.astype(wide)


def _stepped(factor: GramFactor, C: Any, left: Any) -> Any:
    """One step of refinement of the coefficients that C has."""
    right = (left.astype(np.float64) @ factor.transposed).tocsr()
    starts, numbers, values = C.indptr, C.indices, C.data.copy()
    inexact = np.flatnonzero(np.diff(right.indptr))
    for some in _portions(len(inexact), max(factor.E.shape)):
        step = factor.once(right[inexact[some]].toarray())
        for row, i in zip(step, inexact[some].tolist(), strict=True):
            mine = slice(starts[i], starts[i + 1])
            values[mine] += row[numbers[mine]]
    return type(C)((values, numbers, starts), shape=C.shape)
