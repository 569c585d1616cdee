"""Fill of a sparse Cholesky factor, counted before anything is factored.

The order, where no kernel finds one, is that in which SuperLU will eliminate (multiple minimum
degree on A + A'; Liu, ACM Trans. Math. Software 11 (1985)), read off an incomplete factorisation
that drops everything. The elimination tree is that of the minimum spanning forest whose edges weigh
as much as their later vertex, because it has the same components as the graph up to every vertex
(Liu, "The role of elimination trees in sparse factorization", SIAM J. Matrix Anal. Appl. 11 (1990),
section 3). Row i
of the factor is the union of the paths from the nonzeros of row i to i in that tree; how many such
unions hold a vertex is a sum over its subtree of ones for nonzeros less ones for the least common
ancestors of neighbouring ones (Gilbert, Ng and Peyton, SIAM J. Matrix Anal. Appl. 15 (1994)).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

LARGEST_INDEX = 2**31 - 1
"""SuperLU and CHOLMOD, as scipy and cholespy bind them, count in 32 bits."""


class Fill(NamedTuple):
    """What a factor of a symmetric matrix will take."""

    nonzeros: int
    """Of one triangle, the diagonal included."""
    operations: float
    """Multiplications and additions of factoring."""

    @property
    def bytes(self) -> int:
        """Memory while factoring with SuperLU.

        Both triangles, with 8 bytes a value and 4 an index, in arrays that grow by half and are
        copied then: at the worst 24 (1 + 2/3) bytes for each nonzero of one triangle.
        """
        return 40 * self.nonzeros


def elimination_order(matrix: Any) -> Integers:
    """The rows of a symmetric scipy matrix in the order in which they are best eliminated."""
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import spilu

    m = matrix.shape[0]
    if m <= 1:
        return np.arange(m)
    # a copy of the indices, which spilu sorts where they lie
    parts = np.ones(matrix.nnz), matrix.indices.copy(), matrix.indptr
    pattern = csc_array(parts, shape=matrix.shape)
    # dominant, so that no pivot can fail; all else is dropped, and the order is what is left
    pattern.setdiag(2.0 * m)
    dropping = spilu(
        pattern,
        drop_tol=1e30,
        fill_factor=1,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0,
        options={"SymmetricMode": True},
    )
    return np.argsort(dropping.perm_c)


def count(matrix: Any) -> Fill:
    """Fill of the Cholesky factor of a symmetric scipy matrix (CSC or CSR), in its own order."""
    m = matrix.shape[0]
    if m == 0:
        return Fill(0, 0.0)
    coo = matrix.tocoo()
    lower = coo.row > coo.col
    i, k = coo.row[lower].astype(np.int64), coo.col[lower].astype(np.int64)
    place, size, depth, parent = _postordered(elimination_tree(i, k, m))
    counts = _column_counts(place[i], place[k], size, depth, parent)
    return Fill(int(counts.sum()), float((counts.astype(np.float64) ** 2).sum()))


def elimination_tree(i: Integers, k: Integers, m: int) -> Integers:
    """The parent of each of m vertices, m for roots, from the nonzeros below the diagonal."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    # scipy < 1.15 finds trees by indices of 32 bits alone
    indices = i.astype(np.int32), k.astype(np.int32)
    graph = coo_array((i + 1.0, indices), shape=(m, m)).tocsr()
    forest = minimum_spanning_tree(graph).tocoo()
    later, earlier = np.maximum(forest.row, forest.col), np.minimum(forest.row, forest.col)
    order = np.argsort(later, kind="stable")
    parent, above = [m] * m, list(range(m))
    for low, high in zip(earlier[order].tolist(), later[order].tolist(), strict=True):
        root = low
        while above[root] != root:
            above[root] = root = above[above[root]]
        parent[root] = above[root] = high
    return np.array(parent, dtype=np.int64)


def _postordered(tree: Integers) -> tuple[Integers, Integers, Integers, Integers]:
    """Each vertex's place in a postorder; and by place subtree sizes, depths and parents."""
    m, parent = len(tree), tree.tolist()
    size = [1] * (m + 1)
    for v, p in enumerate(parent):  # a parent comes after its children
        size[p] += size[v]
    last, depth = [0] * (m + 1), [0] * (m + 1)
    last[m] = m - 1  # the roots' parent, beyond all
    place = [0] * m
    for v in range(m - 1, -1, -1):
        p = parent[v]
        place[v] = end = last[p]
        last[p] = end - size[v]
        last[v] = end - 1
        depth[v] = depth[p] + 1
    where = np.array(place, dtype=np.int64)
    sizes, depths, parents = (np.empty(m, dtype=np.int64) for _ in range(3))
    sizes[where], depths[where] = size[:m], depth[:m]
    parents[where] = np.append(where, m)[tree]
    return where, sizes, depths, parents


def _column_counts(
    i: Integers, k: Integers, size: Integers, depth: Integers, parent: Integers
) -> Integers:
    """Nonzeros of each column of the factor, vertices by their place in the postorder."""
    m = len(size)
    everyone = np.arange(m)
    row, column = (
        np.concatenate([np.maximum(i, k), everyone]),
        np.concatenate([np.minimum(i, k), everyone]),
    )
    order = np.argsort(row * m + column, kind="stable")
    row, column = row[order], column[order]
    weight = np.bincount(column, minlength=m + 1)
    paired = row[1:] == row[:-1]
    ancestors = _common_ancestors(column[:-1][paired], column[1:][paired], size, depth, parent)
    weight -= np.bincount(ancestors, minlength=m + 1)
    weight -= np.bincount(parent, minlength=m + 1)  # a union of paths ends at its row
    total = np.concatenate([[0], np.cumsum(weight[:m])])
    counts: Integers = total[1:] - total[1 + everyone - size]
    return counts


def _common_ancestors(
    first: Integers, second: Integers, size: Integers, depth: Integers, parent: Integers
) -> Integers:
    """Least common ancestors of vertices first < second of a postorder.

    Unless second is above first, the vertex of least depth between them is a child of the ancestor.
    """
    m = len(size)
    span = second - first + 1
    level = np.frexp(span.astype(np.float64))[1] - 1
    key = depth * m + np.arange(m)
    least = np.empty(len(first), dtype=np.int64)
    for height in range(int(level.max()) + 1 if len(level) else 0):
        mine = np.flatnonzero(level == height)
        least[mine] = np.minimum(key[first[mine]], key[second[mine] + 1 - 2**height])
        step = 2**height
        key = np.minimum(key[:-step], key[step:]) if step < len(key) else key
    found: Integers = np.where(second - size[second] < first, second, parent[least % m])
    return found
