"""Which rows carry a rank, and how the others follow from them.

Pivoted LU of a basis of the range (Golub, Klema and Stewart 1976), improved by exchanges until no
coefficient of a dropped row is too large (Gu and Eisenstat 1996, strong rank-revealing
factorisation). Exchanges that keep it so then move the kept rows to the front, so that of two
duplicates the later one is called redundant: a courtesy, given up where it would take longer than
the decision itself.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics import tuning


class RowChoice(NamedTuple):
    """rows[dropped] = coefficients @ rows[kept]; both ascending."""

    kept: Tensor
    """(r,)."""
    dropped: Tensor
    """(m - r,)."""
    coefficients: Tensor
    """(m - r, r)."""


def pivot_rows(E: Tensor, threshold: float) -> Tensor:
    """(r,) rows of equilibrated E (m, n), ascending, that the others are near the span of.

    Their distances from it are at most the root of `threshold`, relative to the longest row. By a
    Cholesky factorisation of the Gram matrix with diagonal pivoting (LAPACK's dpstrf; Higham, ASNA,
    section 10.3): the order of QR with column pivoting of E'.
    """
    from scipy.linalg.lapack import dpstrf  # a quarter of a second, and rarely needed

    G = (E @ E.mT).cpu().numpy()
    _, order, rank, _ = dpstrf(G, tol=threshold * float(G.diagonal().max(initial=0.0)), lower=1)
    return torch.from_numpy(np.sort(order[:rank] - 1)).long().to(E.device)


def choose_rows(basis: Tensor, norms: Tensor) -> RowChoice:
    """Well-conditioned independent rows, earlier ones where that costs little.

    `basis` (m, r) spans the range, `norms` are those of the rows: rows that differ by a factor
    count as duplicates.
    """
    unit = basis / norms[:, None]
    exchanged = _Exchange.of(unit)
    exchanged.shrink()
    exchanged.move_forward()
    kept, dropped = np.sort(exchanged.kept), np.sort(exchanged.dropped)
    U = unit.cpu().numpy()
    C = torch.from_numpy(np.linalg.solve(U[kept].T, U[dropped].T).T).to(basis.device)
    keep, drop = (torch.from_numpy(numbers).to(basis.device) for numbers in (kept, dropped))
    return RowChoice(keep, drop, C * norms[drop][:, None] / norms[keep])


def exchange(
    C: npt.NDArray[np.float64],
    kept: npt.NDArray[np.int64],
    dropped: npt.NDArray[np.int64],
    most: int,
) -> int:
    """As `choose_rows`, of rows (scaled to norm one) for which a choice is at hand.

    rows[dropped] = C rows[kept], C (d, r), which changes in place, as `kept` and `dropped` do. How
    many coefficients were touched; for the sake of earlier rows about `most` at most.
    """
    exchanged = _Exchange(kept, dropped, C)
    exchanged.shrink()
    exchanged.move_forward(most)
    return exchanged.touched


def rows_given(basis: Tensor, kept: Tensor) -> RowChoice:
    """The rows named, which carry the rank, and how the others follow."""
    rest = torch.ones(len(basis), dtype=torch.bool, device=kept.device)
    rest[kept] = False
    dropped = rest.nonzero().flatten()
    return RowChoice(kept, dropped, torch.linalg.solve(basis[kept], basis[dropped], left=False))


@dataclass
class _Exchange:
    """A choice that is changed by exchanging a dropped row for a kept one."""

    kept: npt.NDArray[np.int64]
    dropped: npt.NDArray[np.int64]
    C: npt.NDArray[np.float64]
    """rows[dropped] = C @ rows[kept]."""
    touched: int = 0
    """Coefficients that exchanges have changed or tried to."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.kept) + len(self.dropped)

    @staticmethod
    def of(unit: Tensor) -> "_Exchange":
        """The pivot rows of LU with partial pivoting."""
        m, rank = unit.shape
        _, pivots = torch.linalg.lu_factor(unit)
        order = np.arange(m)
        for i, j in enumerate(pivots.tolist()):
            order[[i, j - 1]] = order[[j - 1, i]]
        kept, dropped = np.sort(order[:rank]), np.sort(order[rank:])
        U = unit.cpu().numpy()
        return _Exchange(kept, dropped, np.linalg.solve(U[kept].T, U[dropped].T).T)

    def shrink(self) -> None:
        """Exchange until no coefficient is larger than `tolerance.LARGEST_COEFFICIENT`."""
        for _ in range(4 * self.rows):
            d, k = _largest(np.abs(self.C))
            if abs(self.C[d, k]) <= tolerance.LARGEST_COEFFICIENT:
                break
            self._swap(self._changed(d, k))

    def move_forward(self, most: int = tuning.EXCHANGED) -> None:
        """Exchange kept rows for earlier ones, as long as `shrink` would have nothing to do.

        The kept row furthest behind first, and until `most` coefficients were touched.
        """
        refused: set[tuple[int, int]] = set()
        lead = self._lead(slice(None), slice(None))
        while self.touched <= most:
            d, k = _largest(lead)
            if lead[d, k] <= 0:
                break
            changed = self._changed(d, k)
            if np.abs(changed.values).max() > tolerance.LARGEST_COEFFICIENT:
                refused.add((d, k))
                lead[d, k] = 0
                continue
            R = changed.rows
            stale = {place for place in refused if place[0] in R or self.C[R, place[1]].any()}
            self._swap(changed)
            lead[R] = self._lead(R, slice(None))
            lead[:, k] = self._lead(slice(None), k)
            stale |= {place for place in refused if place[1] == k or self.C[R, place[1]].any()}
            refused -= stale
            for place in stale:
                lead[place] = self._lead(*place)
            for place in refused:
                lead[place] = 0

    def _lead(self, d: Any, k: Any) -> Any:
        """How far behind the dropped row the kept one is, where an exchange is not hopeless.

        It leaves row d with coefficients as large as its largest over the pivot.
        """
        C = np.abs(self.C[d, k])
        largest = np.abs(self.C[d]).max(axis=-1, initial=0.0) / tolerance.LARGEST_COEFFICIENT
        dropped = self.dropped[d]
        if C.ndim == 2:
            largest, dropped = largest[:, None], dropped[:, None]
        possible = (C >= tolerance.EARLIER_ROW) & (largest <= C)
        return np.where(possible, self.kept[k] - dropped, 0)

    def _swap(self, changed: "_Changed") -> None:
        d, k = changed.place
        self.C[np.ix_(changed.rows, changed.columns)] = changed.values
        self.kept[k], self.dropped[d] = self.dropped[d], self.kept[k]

    def _changed(self, d: int, k: int) -> "_Changed":
        """What of C changes once dropped[d] and kept[k] have changed places."""
        rows, columns = np.flatnonzero(self.C[:, k]), np.flatnonzero(self.C[d])
        self.touched += len(rows) * len(columns) + self.C.size // tuning.PASSED
        pivot = self.C[d, k]
        row, column = self.C[d, columns] / pivot, self.C[rows, k]
        after = self.C[np.ix_(rows, columns)] - np.outer(column, row)
        mine, theirs = np.searchsorted(rows, d), np.searchsorted(columns, k)
        after[:, theirs] = column / pivot
        after[mine] = -row
        after[mine, theirs] = 1 / pivot
        after[np.abs(after) < tolerance.EXCHANGE_NOISE] = 0.0
        return _Changed((d, k), rows, columns, after)


class _Changed(NamedTuple):
    """An exchange: the rows and columns of C that it changes, and to what."""

    place: tuple[int, int]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


def _largest(values: npt.NDArray[Any]) -> tuple[int, int]:
    """Where the largest entry of a matrix stands."""
    d, k = np.unravel_index(np.argmax(values), values.shape)
    return int(d), int(k)
