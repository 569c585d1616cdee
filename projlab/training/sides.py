"""Inequalities over parameters: which of their rows are bounds, and which equations they meet.

A row that holds one entry is a bound of that entry, and no row. Equations that share entries with
inequalities or bounds, directly or through others, are projected onto together with them; the rest
stays what it is without them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from projlab.training.expressions.maps import DenseMap, SparseMap, Sums
from projlab.training.partition import EquationRows, footprint


class Bounds(NamedTuple):
    """Rows a x_j <= b of single entries, with the index of the parameter of each."""

    parameters: Tensor
    """(E,)."""
    columns: Tensor
    """(E,) the entry in its parameter, numbered as maps number them."""
    rows: Tensor
    """(E,) row numbers."""
    factors: Tensor
    """(E,) a."""

    @staticmethod
    def joined(parts: Sequence["Bounds"]) -> "Bounds":
        """All of them."""
        whole = [Bounds(_NONE, _NONE, _NONE, _NONE.double()), *parts]
        return Bounds(*(torch.cat(columns) for columns in zip(*whole, strict=True)))


class Parted(NamedTuple):
    """What becomes of the rows of a system."""

    apart: list[EquationRows]
    """Equations that meet no inequality."""
    together: list[EquationRows]
    """Inequalities of several entries, and the equations that they or bounds meet."""
    bounds: Bounds
    void: Tensor
    """Numbers of inequalities without any entry."""


_NONE = torch.zeros(0, dtype=torch.long, device="cpu")


def parted(equations: Sequence[EquationRows], sizes: Sequence[int]) -> Parted:
    """Tell bounds from rows, and equations that meet them from others; `sizes` of parameters."""
    if not any(e.inequality for e in equations):
        return Parted(list(equations), [], Bounds.joined([]), _NONE)
    met = [torch.zeros(size, dtype=torch.bool, device="cpu") for size in sizes]
    together, bounds, void = [], [], []
    for e in equations:
        if not e.inequality:
            continue
        bound, rest, empty = _bounds(e)
        void.append(empty)
        if bound is not None:
            bounds.append(bound)
            for p in bound.parameters.unique().tolist():
                met[p][bound.columns[bound.parameters == p]] = True
        if rest is not None:
            together.append(rest)
            _meet(rest, met)
    apart = [e for e in equations if not e.inequality]
    while found := [e for e in apart if _meets(e, met)]:
        for e in found:
            _meet(e, met)
        together += found
        apart = [e for e in apart if not any(e is other for other in found)]
    return Parted(apart, together, Bounds.joined(bounds), torch.cat([*void, _NONE]))


def _meets(e: EquationRows, met: list[Tensor]) -> bool:
    return any(bool(_touched(t, met[p]).any()) for p, t in e.terms)


def _meet(e: EquationRows, met: list[Tensor]) -> None:
    for p, t in e.terms:
        touched = footprint(t)
        if isinstance(touched, Sums):
            touched.view(met[p]).fill_(True)
        else:
            met[p][touched] = True


def _touched(term: Sums | SparseMap | DenseMap, t: Tensor) -> Tensor:
    touched = footprint(term)
    return touched.view(t) if isinstance(touched, Sums) else t[touched]


def _bounds(e: EquationRows) -> tuple[Bounds | None, EquationRows | None, Tensor]:
    """The rows of an inequality that hold one entry, those that hold more, and those without."""
    if len(e.terms) == 1:
        ((p, t),) = e.terms
        if isinstance(t, Sums) and t.count == 1 and t.scale != 0:
            columns = t.columns().flatten()
            rows = e.start + torch.arange(e.height, device="cpu")
            factors = torch.full((e.height,), t.scale, dtype=torch.float64, device="cpu")
            return Bounds(torch.full_like(columns, p), columns, rows, factors), None, _NONE
        if isinstance(t, Sums) and t.injective and t.count and t.scale != 0:
            return None, e, _NONE
        if isinstance(t, DenseMap) and bool((torch.count_nonzero(t.entries, dim=1) > 1).all()):
            return None, e, _NONE
    row, parameter, column, value = _entries(e)
    held = torch.bincount(row, minlength=e.height)
    single = (held == 1)[row]
    bound = Bounds(parameter[single], column[single], e.start + row[single], value[single])
    source = {p: t.parameter for p, t in e.terms}
    terms = []
    for p in parameter[~single].unique().tolist():
        mine = ~single & (parameter == p)
        terms.append((p, SparseMap(source[p], e.shape, row[mine], column[mine], value[mine])))
    return (
        bound if bool(single.any()) else None,
        e._replace(terms=tuple(terms)) if terms else None,
        e.start + (held == 0).nonzero().flatten(),
    )


def _entries(e: EquationRows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row (from zero on), parameter, column and value of each entry, once each, without zeros."""
    parts = [(p, *t.triplets()) for p, t in e.terms]
    if not parts:
        return _NONE, _NONE, _NONE, _NONE.double()
    row = torch.cat([i for _, i, _, _ in parts])
    parameter = torch.cat([torch.full_like(i, p) for p, i, _, _ in parts])
    column = torch.cat([j for _, _, j, _ in parts])
    value = torch.cat([v for *_, v in parts])
    keys = torch.stack([row, parameter, column])
    keys, which = torch.unique(keys, dim=1, return_inverse=True)
    total = torch.zeros(keys.shape[1], dtype=torch.float64, device="cpu")
    total.index_add_(0, which, value)
    kept = total != 0
    row, parameter, column = keys[:, kept]
    return row, parameter, column, total[kept]
