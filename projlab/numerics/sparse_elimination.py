"""Sparse Gaussian elimination modulo a prime: exact rank, independent rows, how the others follow.

Pivots are taken where little fills in (Markowitz): of the shortest row and the shortest column the
cheaper one. A row or column with one entry left costs nothing, and most of a real system goes that
way. What is left when it no longer pays to skip zeros is refused, so that a caller with memory
takes the dense way. Two primes, as in `projlab.numerics.exact_rank`.

References: Duff, Erisman and Reid, "Direct Methods for Sparse Matrices", 2nd ed., chapter 10;
Dumas, Saunders and Villard, "On efficient sparse integer matrix Smith normal form computations",
J. Symb. Comput. 32 (2001), section 3 (ranks of sparse matrices modulo primes).
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from projlab.numerics.exact_rank import PRIMES, residues

Index = npt.NDArray[np.int64]
Row = dict[int, int]
"""Column (or row) to residue; no zeros."""


class TooDenseError(Exception):
    """Elimination fills in beyond what was allowed."""


@dataclass(frozen=True)
class Independent:
    """The first maximal set of independent rows, as if they were looked at in order."""

    kept: list[int]
    """Ascending."""
    combinations: dict[int, Row]
    """Of each dropped row the kept ones, with coefficients modulo `prime`; {} for a zero row."""
    prime: int

    @property
    def dropped(self) -> list[int]:
        """Ascending."""
        return sorted(self.combinations)


def independent_rows(
    rows: Index,
    cols: Index,
    values: npt.NDArray[np.float64],
    shape: tuple[int, int],
    most: int = 50_000_000,
) -> Independent:
    """Of the matrix (m, n) with these entries, each the rational number it is.

    Each (row, column) at most once. `most` counts the entries that elimination may touch.

    Raises
    ------
    TooDenseError
        More would be touched.
    """
    found = []
    for p in PRIMES:
        work = _Elimination(p, most)
        work.fill(rows, cols, residues(values, p), shape[0])
        found.append(work.independent())
    return max(found, key=lambda one: len(one.kept))


@dataclass
class _Elimination:
    """Active rows shrink to nothing; what was done to them is kept as a unit lower triangle."""

    p: int
    most: int
    active: dict[int, Row] = field(default_factory=dict)
    holders: list[set[int]] = field(default_factory=list)
    """The active rows of each column."""
    steps: dict[int, Row] = field(default_factory=dict)
    """Of each row the pivots that were subtracted from it, by their number, and how often."""
    pivots: list[int] = field(default_factory=list)
    """The row of each pivot, in order."""
    touched: int = 0

    def fill(self, rows: Index, cols: Index, values: Index, m: int) -> None:
        """Take the entries that are not zero modulo p."""
        rows, cols, values = (part[values != 0] for part in (rows, cols, values))
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], np.arange(m + 1)).tolist()
        columns, entries = cols[order].tolist(), values[order].tolist()
        self.holders = [set() for _ in range(int(cols.max(initial=-1)) + 1)]
        for i in range(m):
            start, stop = bounds[i], bounds[i + 1]
            self.active[i] = dict(zip(columns[start:stop], entries[start:stop], strict=True))
            for j in columns[start:stop]:
                self.holders[j].add(i)
        self.steps = {i: {} for i in range(m)}

    def independent(self) -> Independent:
        """Eliminate everything, and move to the first maximal set."""
        self._eliminate()
        number = {row: t for t, row in enumerate(self.pivots)}
        dropped = [i for i in self.steps if i not in number]
        combinations = {i: self._combination(self.steps[i]) for i in dropped}
        kept = _first_rows(set(self.pivots), combinations, self.p, self._spend)
        return Independent(sorted(kept), combinations, self.p)

    def _spend(self, count: int) -> None:
        self.touched += count
        if self.touched > self.most:
            raise TooDenseError(f"more than {self.most:,} entries touched")

    def _eliminate(self) -> None:
        # entries of both heaps go stale; what is popped is checked against the truth
        by_row = [(len(row), i) for i, row in self.active.items() if row]
        by_column = [(len(held), j) for j, held in enumerate(self.holders) if held]
        heapq.heapify(by_row)
        heapq.heapify(by_column)
        while True:
            i = self._shortest_row(by_row)
            if i is None:
                return
            j = min(self.active[i], key=lambda c: (len(self.holders[c]), c))
            cost = (len(self.active[i]) - 1) * (len(self.holders[j]) - 1)
            if cost:
                column = self._shortest_column(by_column)
                row = min(self.holders[column], key=lambda r: (len(self.active[r]), r))
                if (len(self.active[row]) - 1) * (len(self.holders[column]) - 1) < cost:
                    i, j = row, column
            self._pivot(i, j, by_row, by_column)

    def _shortest_row(self, heap: list[tuple[int, int]]) -> int | None:
        while heap:
            count, i = heap[0]
            row = self.active.get(i)
            if row and len(row) == count:
                return i
            heapq.heappop(heap)
        return None

    def _shortest_column(self, heap: list[tuple[int, int]]) -> int:
        while True:
            count, j = heap[0]
            if count and len(self.holders[j]) == count:
                return j
            heapq.heappop(heap)

    def _pivot(
        self, i: int, j: int, by_row: list[tuple[int, int]], by_column: list[tuple[int, int]]
    ) -> None:
        """Subtract row i from the others that hold column j."""
        p, t, row = self.p, len(self.pivots), self.active.pop(i)
        self.pivots.append(i)
        others = self.holders[j]
        others.discard(i)
        inverse = pow(row.pop(j), -1, p)
        self._spend(len(row) * (len(others) + 1))
        for c in row:
            self.holders[c].discard(i)
        for k in others:
            target = self.active[k]
            factor = target.pop(j) * inverse % p
            self.steps[k][t] = factor
            for c, value in row.items():
                old = target.get(c)
                new = ((old or 0) - factor * value) % p
                if new:
                    target[c] = new
                    if old is None:
                        self.holders[c].add(k)
                elif old is not None:
                    del target[c]
                    self.holders[c].discard(k)
            if target:
                heapq.heappush(by_row, (len(target), k))
        others.clear()
        for c in row:
            if self.holders[c]:
                heapq.heappush(by_column, (len(self.holders[c]), c))

    def _combination(self, of_pivots: Row) -> Row:
        """A combination of reduced pivot rows as one of the rows themselves."""
        p, left, found = self.p, dict(of_pivots), {}
        heap = [-t for t in left]
        heapq.heapify(heap)
        while heap:
            t = -heapq.heappop(heap)
            value = left.pop(t)
            if not value:
                continue
            row = self.pivots[t]
            found[row] = value
            before = self.steps[row]
            self._spend(len(before) + 1)
            for s, factor in before.items():
                if s not in left:
                    heapq.heappush(heap, -s)
                left[s] = (left.get(s, 0) - value * factor) % p
        return found


def _first_rows(
    kept: set[int], combinations: dict[int, Row], p: int, spend: Callable[[int], None]
) -> set[int]:
    """Exchange kept rows for earlier dropped ones until the kept are the first maximal set.

    Each dropped row joins once and the last row of its combination leaves: the greedy algorithm of
    a matroid, which may see the rows in any order.
    """
    users: dict[int, set[int]] = {}
    for d, terms in combinations.items():
        for k in terms:
            users.setdefault(k, set()).add(d)
    for d in sorted(combinations):
        terms = combinations[d]
        k = max(terms, default=-1)
        if k < d:
            continue
        inverse = pow(terms.pop(k), -1, p)
        instead = {i: -value * inverse % p for i, value in terms.items()}
        instead[d] = inverse
        del combinations[d]
        using = users.pop(k)
        using.discard(d)
        for i in terms:
            users[i].discard(d)
        spend(len(instead) * (len(using) + 1))
        for other in using:
            theirs = combinations[other]
            factor = theirs.pop(k)
            for i, value in instead.items():
                new = (theirs.get(i, 0) + factor * value) % p
                if new:
                    theirs[i] = new
                    users.setdefault(i, set()).add(other)
                elif i in theirs:
                    del theirs[i]
                    users[i].discard(other)
        combinations[k] = instead
        for i in instead:
            users.setdefault(i, set()).add(k)
        kept.remove(k)
        kept.add(d)
    return kept
