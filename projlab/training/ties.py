"""Entries tied to each other: rows of two entries with coefficients of one size, as x_i - x_j = b.

Such rows are the edges of a graph. In a connected component every entry is s_k t + o_k, with signs
s_k, offsets o_k and one number t that is free, unless a cycle says x_i = -x_i as well. Only chains
of signs without such a cycle are ties: their rank is the number of entries less one, exactly.

Reference: Zaslavsky, "Signed graphs", Discrete Applied Mathematics 4 (1982).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TiesPlan:
    """Groups of tied entries, in `by_group`'s order, and the rows that tie them."""

    rows: Tensor
    """(R,) row numbers, those of a group in `by_group`'s order."""
    ends: Tensor
    """(2, R) positions of the two entries of each row."""
    values: Tensor
    """(2, R) their coefficients."""
    group_of_row: Tensor
    sizes: Tensor
    """(G,) entries of each group."""
    entries: tuple[tuple[int, Tensor, Tensor], ...]
    """Parameter, its columns, and the positions that these entries have here."""
    signs: Tensor
    """(N,) s_k, +1 or -1; float64."""
    before: Tensor
    """(N,) the entry before each on the way from the first of its group, which is before itself."""
    edge: Tensor
    """(N,) the row between the two; zero for the first of a group."""

    def group(self, g: int) -> tuple[Tensor, Tensor]:
        """Row numbers of one group and its coefficients, sparse (m, n)."""
        mine = (self.group_of_row == g).nonzero().flatten()
        i = torch.arange(len(mine), device="cpu").expand(2, -1).flatten()
        _, j = torch.unique(self.ends[:, mine].flatten(), return_inverse=True)
        A = torch.sparse_coo_tensor(
            torch.stack([i, j]),
            self.values[:, mine].flatten(),
            (len(mine), int(self.sizes[g])),
            device="cpu",
            check_invariants=False,
        )
        return self.rows[mine], A.coalesce()


@dataclass(frozen=True)
class Graph:
    """Rows of stored entries in connected components, all numbered from zero on."""

    rows: Tensor
    """(entries,) the row of each stored entry, in order."""
    columns: Tensor
    values: Tensor
    of_row: Tensor
    """(rows,) the component of each row."""
    of_column: Tensor


def ties(graph: Graph, components: int) -> tuple[Tensor, TiesPlan | None]:
    """Which components (of two rows or more) are ties, and their plan.

    In the plan rows and columns have the numbers of the graph, and all columns one parameter.
    """
    height, width = len(graph.of_row), len(graph.of_column)
    count = torch.bincount(graph.rows, minlength=height)
    first = torch.cumsum(count, 0) - count
    tied = torch.bincount(graph.of_row, minlength=components) >= 2
    tied[graph.of_row[count != 2]] = False
    rows = (count == 2).nonzero().flatten()
    places = torch.stack([first[rows], first[rows] + 1])
    values = graph.values[places]
    unlike = values[0].abs() != values[1].abs()
    tied[graph.of_row[rows[unlike]]] = False
    mine = tied[graph.of_row[rows]]
    if not bool(mine.any()):
        return tied, None
    rows, values, ends = rows[mine], values[:, mine], graph.columns[places[:, mine]]
    before, edge = _tree(ends, width, graph.of_column, tied)
    step = -torch.sign(values[0] * values[1])
    own = torch.arange(width, device="cpu")
    _, signs = jumps(before, torch.where(before == own, 1.0, step[edge]))[-1]
    balance = values[0] * signs[ends[0]] + values[1] * signs[ends[1]]
    tied[graph.of_row[rows[balance != 0]]] = False
    if not bool(tied.any()):
        return tied, None
    members = by_group(torch.where(tied[graph.of_column], graph.of_column, -1))
    kept = by_group(torch.where(tied[graph.of_row[rows]], graph.of_row[rows], -1))
    place, row_place = (
        torch.zeros(width, dtype=torch.long, device="cpu"),
        torch.zeros(len(rows), dtype=torch.long, device="cpu"),
    )
    place[members] = torch.arange(len(members), device="cpu")
    row_place[kept] = torch.arange(len(kept), device="cpu")
    number = torch.cumsum(tied, 0) - 1
    plan = TiesPlan(
        rows[kept],
        place[ends[:, kept]],
        values[:, kept],
        number[graph.of_row[rows[kept]]],
        torch.bincount(number[graph.of_column[members]]),
        ((0, members, torch.arange(len(members), device="cpu")),),
        signs[members],
        place[before[members]],
        row_place[edge[members]],
    )
    return tied, plan


def by_group(group: Tensor) -> Tensor:
    """Positions of items group by group, without those of group -1.

    Where groups are of one size, the first items of all groups come first, then the second ones:
    sums over groups then run along memory.
    """
    order = torch.argsort(group, stable=True)[int((group < 0).sum()) :]
    _, sizes = torch.unique_consecutive(group[order], return_counts=True)
    if bool((sizes == sizes[0]).all()):
        order = order.view(len(sizes), -1).T.flatten()
    return order


def jumps(before: Tensor, signs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Ways of 1, 2, 4, ... entries towards the first of a group, and the signs along them."""
    found = []
    while True:
        further = before[before]
        found.append((before, signs))
        if torch.equal(further, before):
            return found
        signs, before = signs * signs[before], further


def _tree(ends: Tensor, width: int, group: Tensor, tied: Tensor) -> tuple[Tensor, Tensor]:
    """For each column the one before it on the way from the first of its component; the row there.

    Columns of other components are before themselves.
    """
    # half of projlab's import time, and not always needed
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order

    columns = torch.arange(width, device="cpu")
    first = torch.full((len(tied),), width, dtype=torch.long, device="cpu").scatter_reduce(
        0, group, columns, "amin"
    )[tied]
    # one more vertex, from which every component is reached at its first entry
    start = torch.cat([ends[0], torch.full_like(first, width)])
    stop = torch.cat([ends[1], first])
    edges = (
        np.ones(len(start)),
        (start.numpy(), stop.numpy()),
    )
    graph = coo_array(edges, shape=(width + 1, width + 1)).tocsr()
    _, found = breadth_first_order(graph, width, directed=False)
    before = torch.from_numpy(found).long()[:width]
    before = torch.where((before < 0) | (before == width), columns, before)
    key, order = torch.sort(ends.amin(0) * width + ends.amax(0))
    wanted = torch.minimum(columns, before) * width + torch.maximum(columns, before)
    edge = order[torch.searchsorted(key, wanted).clamp_max(len(key) - 1)]
    return before, torch.where(before == columns, 0, edge)
