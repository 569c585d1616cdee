"""Structure of a system that a variant can use: disjoint rows, independent blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.numerics import memory, tuning
from projlab.system.rows import Rows, SparseRows


def require_disjoint(rows: Rows, names: tuple[str, ...]) -> None:
    """Raise `InputError` unless no two rows share a column."""
    overlap = rows.overlap()
    if overlap is not None:
        i, j, column = overlap
        raise InputError(
            f"single_row takes rows that share no column, but {names[i]} and {names[j]} share "
            f'column {column}; use variant="qr", or "auto"'
        )


def connected(vertices: int, first: Tensor, second: Tensor) -> tuple[int, Tensor]:
    """How many connected components a graph with these edges has, and which each vertex is in."""
    if len(first) == 0:
        return vertices, torch.arange(vertices, device="cpu")
    from scipy.sparse import coo_array  # half of projlab's import time, and not always needed
    from scipy.sparse.csgraph import connected_components

    edges = (
        np.ones(len(first)),
        (first.cpu().numpy(), second.cpu().numpy()),
    )
    graph = coo_array(edges, shape=(vertices, vertices))
    count, label = connected_components(graph, directed=False)
    return count, torch.from_numpy(label).long()


@dataclass(frozen=True)
class Blocks:
    """Sets of rows that share no column with the rows of another set."""

    entries: SparseRows
    of_row: Tensor
    """(m,) the block of each row, -1 for a row without entries."""
    of_column: Tensor
    """(n,) the block of each column, -1 for a column without entries."""
    heights: Tensor
    """(blocks,) number of rows."""
    widths: Tensor
    """(blocks,) number of columns."""

    def __len__(self) -> int:
        return len(self.heights)

    @property
    def operations(self) -> float:
        """What dense factors of each take, in units of min(m, n) m n for the whole."""
        sizes = torch.stack([self.heights, self.widths]).double()
        return float((sizes.amin(0) * sizes.prod(0)).sum())

    @property
    def empty(self) -> Tensor:
        """Numbers of the rows without entries."""
        return (self.of_row < 0).nonzero().flatten()

    def shapes(self) -> list[tuple[tuple[int, int], Tensor]]:
        """Each shape that blocks have, with the numbers of those blocks."""
        sizes = torch.stack([self.heights, self.widths], 1)
        shapes, kind = torch.unique(sizes, dim=0, return_inverse=True)
        return [
            ((int(m), int(n)), (kind == k).nonzero().flatten())
            for k, (m, n) in enumerate(shapes.tolist())
        ]

    def gathered(self, shape: tuple[int, int], members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers of rows (B, m) and columns (B, n) of blocks of one shape, and dense A (B, m, n).

        Raises
        ------
        MemoryLimitError
            A does not fit.
        """
        (m, n), device = shape, self.entries.device
        memory.require(
            memory.factorisation_bytes(m, n, self.entries.dtype, len(members)),
            f"a dense factorisation of {len(members)} blocks of {m} x {n}",
            device,
        )
        position = torch.full((len(self),), -1, device=device, dtype=torch.long)
        position[members] = torch.arange(len(members), device=device)
        rows = self._numbers(self.of_row, self._row_places, position, (len(members), m))
        columns = self._numbers(self.of_column, self._column_places, position, (len(members), n))
        i, j, values = self.entries.rows, self.entries.cols, self.entries.values
        mine = position[self.of_row[i]] >= 0
        i, j = i[mine], j[mine]
        A = torch.zeros(len(members), m, n, dtype=values.dtype, device=device)
        A[position[self.of_row[i]], self._row_places[i], self._column_places[j]] = values[mine]
        return rows, columns, A

    @cached_property
    def _row_places(self) -> Tensor:
        return places(self.of_row, len(self))

    @cached_property
    def _column_places(self) -> Tensor:
        return places(self.of_column, len(self))

    @staticmethod
    def _numbers(label: Tensor, place: Tensor, position: Tensor, shape: tuple[int, int]) -> Tensor:
        """The items of each of some blocks, in order."""
        numbers = torch.zeros(shape, dtype=torch.long, device=label.device)
        mine = ((label >= 0) & (position[label] >= 0)).nonzero().flatten()
        numbers[position[label[mine]], place[mine]] = mine
        return numbers


def worthwhile_blocks(rows: Rows) -> Blocks | None:
    """Independent blocks, where dense factors of each cost much less than those of the whole.

    None for dense rows: to look for their blocks costs as much as what it might save.
    """
    if not isinstance(rows, SparseRows) or rows.shape[0] < 2:
        return None
    blocks, (m, n) = independent_blocks(rows), rows.shape
    pays = blocks.operations * tuning.SPLIT_GAIN <= min(m, n) * m * n
    return blocks if len(blocks) > 1 and pays else None


def places(component: Tensor, count: int) -> Tensor:
    """The position of each item among those of its component, in order; of -1, no position."""
    order = torch.argsort(component, stable=True)
    size = torch.bincount(component + 1, minlength=count + 1)
    first = torch.cumsum(size, 0) - size
    place = torch.empty_like(component)
    place[order] = (
        torch.arange(len(component), device=component.device) - first[component[order] + 1]
    )
    return place


def connected_rows(rows: SparseRows) -> tuple[int, Tensor, Tensor]:
    """How many blocks there are, and which each row (m,) and column (n,) is in: see `Blocks`."""
    (m, n), device = rows.shape, rows.device
    _, label = connected(m + n, rows.rows, rows.cols + m)
    label = label.to(device)
    held = torch.zeros(m + n, dtype=torch.bool, device=device)
    held[rows.rows] = True
    held[rows.cols + m] = True
    _, compact = torch.unique(label[held], return_inverse=True)
    whole = torch.full((m + n,), -1, device=device, dtype=torch.long)
    whole[held] = compact
    return int(compact.max()) + 1 if len(compact) else 0, whole[:m], whole[m:]


def independent_blocks(
    rows: SparseRows,
    find: Callable[[SparseRows], tuple[int, Tensor, Tensor]] = connected_rows,
) -> Blocks:
    """The connected components of the graph that joins a row to the columns it holds."""
    count, of_row, of_column = find(rows)
    heights = torch.bincount(of_row[of_row >= 0], minlength=count)
    widths = torch.bincount(of_column[of_column >= 0], minlength=count)
    return Blocks(rows, of_row, of_column, heights, widths)
