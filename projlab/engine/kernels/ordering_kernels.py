"""An order of approximate minimum degree, compiled by numba when this is imported.

Variables are eliminated in the quotient graph: one that is gone stays as an element, the clique of
its neighbours, and takes the place of the elements it was next to. Degrees are bounds from above,
|A_i| + |L_p - i| + sum |L_e - L_p|; variables with the same neighbours are one; an element within
the new one is absorbed (Amestoy, Davis and Duff, "An approximate minimum degree ordering
algorithm", SIAM J. Matrix Anal. Appl. 17 (1996), sections 3 to 5). Of equal degrees the one that
was changed longest ago is taken, which spreads pivots as multiple elimination does (Liu, ACM Trans.
Math. Software 11 (1985)): at 300 x 300 the fill of a grid is three quarters of that by the latest,
2.2 million against 2.9; elsewhere it is at most a twentieth more. Dense rows come last (Amestoy,
Davis and Duff, "Algorithm 837: AMD", ACM Trans. Math. Software 30 (2004), section 2). The order is
that of a postorder of the assembly tree, so that columns of one front stand together.
"""

from typing import Any

import numpy as np
from numba import njit

from projlab.engine.kernels.numba_kernels import OPTIONS

DENSE = 10.0
"""Times sqrt(m): entries of a row that is eliminated last."""


@njit(**OPTIONS)
def _unlink(i: int, degree: Any, ends: Any, after: Any, before: Any) -> None:
    """Take a variable from the list of its degree."""
    left, right = before[i], after[i]
    if right >= 0:
        before[right] = left
    else:
        ends[degree[i], 1] = left
    if left >= 0:
        after[left] = right
    else:
        ends[degree[i], 0] = right


@njit(**OPTIONS)
def _link(i: int, degree: Any, ends: Any, after: Any, before: Any) -> None:
    """Put a variable last into the list of its degree."""
    left = ends[degree[i], 1]
    after[i], before[i] = -1, left
    if left >= 0:
        after[left] = i
    else:
        ends[degree[i], 0] = i
    ends[degree[i], 1] = i


@njit(**OPTIONS)
def _gather(
    space: Any,
    left: int,
    right: int,
    end: int,
    size: Any,
    degree: Any,
    ends: Any,
    after: Any,
    before: Any,
) -> tuple[int, int]:
    """Put variables that stand in a part of `space`, and are in no L_p yet, at its end.

    Marks them, and takes them from their lists; the new end, and how many variables they stand for.
    """
    count = 0
    for p in range(left, right):
        i = space[p]
        if size[i] > 0:
            count += size[i]
            size[i] = -size[i]
            space[end] = i
            end += 1
            _unlink(i, degree, ends, after, before)
    return end, count


@njit(**OPTIONS)
def _join(into: int, i: int, following: Any, last: Any) -> None:
    """What goes with variable i comes right after what goes with the other."""
    following[last[into]] = i
    last[into] = last[i]


@njit(**OPTIONS)
def minimum_degree(first: Any, rows: Any, order: Any) -> None:
    """Into `order` (m,), of a symmetric matrix by columns (`first`, `rows`)."""
    m = len(order)
    space = np.empty(2 * len(rows) + m + 1, np.int32)
    # of a variable its elements and then its variables, of an element its variables
    begin, length, elements = np.empty(m, np.int64), np.zeros(m, np.int32), np.zeros(m, np.int32)
    size = np.ones(m, np.int32)  # variables that one stands for; 0 once it is gone, < 0 in L_p
    alive = np.zeros(m, np.bool_)  # elements that are not absorbed
    degree, outside = np.zeros(m, np.int32), np.zeros(m, np.int64)
    ends = np.full((m + 1, 2), -1, np.int32)  # first and last variable of each degree
    after, before = np.full(m, -1, np.int32), np.full(m, -1, np.int32)
    bucket, chained, key = np.full(m, -1, np.int32), np.full(m, -1, np.int32), np.empty(m, np.int32)
    following, last = np.full(m, -1, np.int32), np.arange(m).astype(np.int32)
    above = np.full(m, -1, np.int32)
    seen = np.full(m, -1, np.int64)
    pivots, steps, gone = np.empty(m, np.int32), 0, 0
    dense = max(16.0, DENSE * np.sqrt(m))
    for i in range(m):
        entries = first[i + 1] - first[i]
        if entries > dense:
            size[i] = 0
    end = 0
    for i in range(m):
        begin[i] = end
        for p in range(first[i], first[i + 1]):
            if rows[p] != i and size[rows[p]]:
                space[end] = rows[p]
                end += 1
        length[i] = end - begin[i]
        degree[i] = length[i]
    kept = 0
    for i in range(m - 1, -1, -1):
        if size[i]:
            _link(i, degree, ends, after, before)
            kept += 1
    least, mark, tag = 0, 1, 0
    while gone < kept:
        while ends[least, 0] < 0:
            least += 1
        pivot = ends[least, 0]
        _unlink(pivot, degree, ends, after, before)
        own = size[pivot]
        gone += own
        # the new element: all variables next to the pivot, by an entry or through an element
        room = length[pivot] - elements[pivot]
        for p in range(begin[pivot], begin[pivot] + elements[pivot]):
            room += length[space[p]]
        if end + room > len(space):
            larger = np.empty(2 * len(space) + room, np.int32)
            larger[:end] = space[:end]
            space = larger
        start, around = end, 0
        size[pivot] = -own
        middle = begin[pivot] + elements[pivot]
        for p in range(begin[pivot], middle):
            e = space[p]
            if alive[e]:
                alive[e], above[e] = False, pivot
                left, right = begin[e], begin[e] + length[e]
                end, more = _gather(space, left, right, end, size, degree, ends, after, before)
                around += more
        right = begin[pivot] + length[pivot]
        end, more = _gather(space, middle, right, end, size, degree, ends, after, before)
        around += more
        begin[pivot], alive[pivot] = start, True
        # how much of each element around is outside of the new one
        for p in range(start, end):
            i = space[p]
            for q in range(begin[i], begin[i] + elements[i]):
                e = space[q]
                if alive[e]:
                    if outside[e] < mark:
                        outside[e] = mark + degree[e]
                    outside[e] += size[i]
        for p in range(start, end):
            i = space[p]
            at, d, hashed = begin[i], 0, 0
            entries_from, to = begin[i] + elements[i], begin[i] + length[i]
            for q in range(begin[i], entries_from):
                e = space[q]
                if alive[e]:
                    if outside[e] > mark:
                        d += outside[e] - mark
                        hashed += e
                        space[at] = e
                        at += 1
                    else:
                        alive[e], above[e] = False, pivot
            middle = at
            for q in range(entries_from, to):
                j = space[q]
                if size[j] > 0:
                    d += size[j]
                    hashed += j
                    space[at] = j
                    at += 1
            if d == 0:  # nothing else around: it is eliminated with the pivot
                around += size[i]
                own -= size[i]
                gone -= size[i]
                size[i] = 0
                _join(pivot, i, following, last)
                continue
            degree[i] = min(degree[i], d)
            # what made it a neighbour is not needed any more, which leaves room for the element
            space[at] = space[middle]
            space[middle] = space[begin[i]]
            space[begin[i]] = pivot
            elements[i], length[i] = middle + 1 - begin[i], at + 1 - begin[i]
            key[i] = hashed % m
            chained[i] = bucket[key[i]]
            bucket[key[i]] = i
        mark += m + 1
        # variables with the same neighbours
        for p in range(start, end):
            i = space[p]
            if size[i] == 0 or bucket[key[i]] < 0:
                continue
            one = bucket[key[i]]
            bucket[key[i]] = -1
            while one >= 0:
                if chained[one] >= 0:
                    tag += 1
                    for q in range(begin[one] + 1, begin[one] + length[one]):
                        seen[space[q]] = tag
                    ahead, other = one, chained[one]
                    while other >= 0:
                        same = length[other] == length[one] and elements[other] == elements[one]
                        q, to = begin[other] + 1, begin[other] + length[other]
                        while same and q < to:
                            same = seen[space[q]] == tag
                            q += 1
                        if same:
                            size[one] += size[other]
                            size[other] = 0
                            _join(one, other, following, last)
                            chained[ahead] = chained[other]
                        else:
                            ahead = other
                        other = chained[other]
                one = chained[one]
        at = start
        for p in range(start, end):
            i = space[p]
            if size[i] < 0:
                size[i] = -size[i]
                degree[i] = min(degree[i] + around, kept - gone) - size[i]
                _link(i, degree, ends, after, before)
                least = min(least, degree[i])
                space[at] = i
                at += 1
        end = at
        length[pivot], degree[pivot], size[pivot] = end - start, around, 0
        alive[pivot] = end > start
        pivots[steps] = pivot
        steps += 1
    _postordered(pivots[:steps], above, following, order)
    at = kept
    for i in range(m):
        if first[i + 1] - first[i] > dense:
            order[at] = i
            at += 1


@njit(**OPTIONS)
def _postordered(pivots: Any, above: Any, following: Any, order: Any) -> None:
    """Children before parents, in the forest `above`, and what goes with each pivot after it."""
    m = len(above)
    child, sibling = np.full(m, -1, np.int32), np.full(m, -1, np.int32)
    waiting, top, at = np.empty(len(pivots), np.int32), 0, 0
    for s in range(len(pivots) - 1, -1, -1):
        p = pivots[s]
        if above[p] >= 0:
            sibling[p] = child[above[p]]
            child[above[p]] = p
    for s in range(len(pivots)):
        if above[pivots[s]] >= 0:
            continue
        waiting[0], top = pivots[s], 1
        while top > 0:
            p = waiting[top - 1]
            c = child[p]
            if c >= 0:
                child[p] = sibling[c]
                waiting[top] = c
                top += 1
                continue
            top -= 1
            while p >= 0:
                order[at] = p
                at += 1
                p = following[p]


float64 = minimum_degree
"""Of a pattern, whatever the dtype of values."""
