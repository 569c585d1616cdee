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
    count: int
    of_row: Tensor
    """(m,) the block of each row, -1 for a row without entries."""
    of_column: Tensor
    """(n,) the block of each column, -1 for a column without entries."""

    def __len__(self) -> int:
        return self.count

    @cached_property
    def heights(self) -> Tensor:
        """(blocks,) number of rows."""
        return torch.bincount(self.of_row + 1, minlength=len(self) + 1)[1:]

    @cached_property
    def widths(self) -> Tensor:
        """(blocks,) number of columns."""
        return torch.bincount(self.of_column + 1, minlength=len(self) + 1)[1:]

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
        rows, columns = (
            numbers[first[members].unsqueeze(-1) + torch.arange(size, device=device)]
            for (numbers, first), size in ((self._rows, m), (self._columns, n))
        )
        counts = (self._starts[rows + 1] - self._starts[rows]).flatten()
        slot = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
        before = torch.cumsum(counts, 0) - counts
        entry = (
            torch.arange(len(slot), device=device) + (self._starts[rows.flatten()] - before)[slot]
        )
        values = self.entries.values
        A = torch.zeros(len(counts), n, dtype=values.dtype, device=device)
        A[slot, self._column_places[self.entries.cols[entry]]] = values[entry]
        return rows, columns, A.reshape(len(members), m, n)

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor]:
        return by_component(self.of_row, len(self))

    @cached_property
    def _columns(self) -> tuple[Tensor, Tensor]:
        return by_component(self.of_column, len(self))

    @cached_property
    def _column_places(self) -> Tensor:
        return places(self.of_column, len(self), self._columns)

    @cached_property
    def _starts(self) -> Tensor:
        """(m + 1,) the first entry of each row."""
        numbers = torch.arange(self.entries.shape[0] + 1, device=self.entries.device)
        return torch.searchsorted(self.entries.rows, numbers)


def worthwhile_blocks(rows: Rows) -> Blocks | None:
    """Independent blocks, where dense factors of each cost much less than those of the whole.

    None for dense rows: to look for their blocks costs as much as what it might save.
    """
    if not isinstance(rows, SparseRows) or rows.shape[0] < 2:
        return None
    blocks, (m, n) = independent_blocks(rows), rows.shape
    pays = blocks.operations * tuning.SPLIT_GAIN <= min(m, n) * m * n
    return blocks if len(blocks) > 1 and pays else None


def by_component(component: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The items of each component in order, one component after the other, and where each begins.

    Less those of -1.
    """
    if count < _FEW and component.device.type == "cpu":  # a radix sort: a tenth of the time
        order = torch.from_numpy(np.argsort(component.numpy().astype(np.int16), kind="stable"))
    else:
        order = torch.argsort(component, stable=True)
    size = torch.bincount(component + 1, minlength=count + 1)
    return order[size[0] :], torch.cumsum(size[1:], 0) - size[1:]


_FEW = 2**15
"""Components that 16 bits number."""


def places(component: Tensor, count: int, known: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The position of each item among those of its component, in order; of -1, no position.

    `known` is what `by_component` says of them.
    """
    numbers, first = by_component(component, count) if known is None else known
    place = torch.empty_like(component)
    place[numbers] = torch.arange(len(numbers), device=component.device) - first[component[numbers]]
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
    return Blocks(rows, *find(rows))
