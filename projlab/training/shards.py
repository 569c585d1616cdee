"""Equations over parameters of which each rank holds a part: FSDP2's and other DTensors.

A x = sum over ranks of A_here x_here is one all-reduce of m numbers, y = (A A^T)^-1 r is solved
on every rank with one replicated factor, and x_here -= A_here^T y moves nothing between ranks. The
bits of y are equal on all ranks.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import InputError, MemoryLimitError, ProjlabError
from projlab.training.blocks.base import Shift, skipped, widest_dtype
from projlab.training.equations import StackedEquations
from projlab.training.expressions.maps import stored

MOST_COUPLED_ROWS = 4096
"""Rows that share entries have a dense m x m factor on every rank."""
SMALLEST = 1e-8
"""Of the eigenvalues of the equilibrated A A^T: corrections gain seven digits each above it."""


def is_sharded(t: Tensor) -> bool:
    """Whether it is a DTensor."""
    return hasattr(t, "device_mesh") and hasattr(t, "placements")


def here(t: Any) -> Tensor:
    """The part that this rank holds, without graph, in the same memory."""
    local: Tensor = t.detach().to_local() if is_sharded(t) else t.detach()
    return local


def _placed(t: Any) -> Any:
    """The mesh and the placements of a DTensor; None of a plain tensor."""
    return (t.device_mesh, t.placements) if is_sharded(t) else None


class _Part(NamedTuple):
    """What one rank holds of one parameter."""

    ranges: list[tuple[int, int]]
    """Its first index and the last but one along each dimension."""
    counted: bool
    """Whether this rank, of all that hold a copy, adds it to the sums."""


class _Term(NamedTuple):
    """Coefficients of the entries that are here: row, place in the local memory, value."""

    rows: Tensor
    places: Tensor
    values: Tensor
    counted: bool


def _part(p: Any, name: str, mesh: Any) -> _Part:
    coordinate = mesh.get_coordinate()
    ranges = [(0, size) for size in p.shape]
    counted = True
    for d, c in enumerate(coordinate):
        placement = p.placements[d] if is_sharded(p) else None
        if placement is None or placement.is_replicate():
            counted = counted and c == 0
            continue
        if type(placement).__name__ != "Shard":
            raise InputError(
                f"{name} is placed as {placement}: constrain takes shards and replicas; where "
                "FSDP cuts what tensor parallelism cut along the same dimension, shard another one"
            )
        start, stop = ranges[placement.dim]
        each = -(-(stop - start) // mesh.size(d))
        first = min(start + each * c, stop)
        ranges[placement.dim] = (first, min(first + each, stop))
    own = here(p)
    if tuple(own.shape) != tuple(b - a for a, b in ranges) or not own.is_contiguous():
        raise InputError(
            f"{name} holds {tuple(own.shape)} here, with strides {own.stride()}; constrain takes "
            "parts that are cut as torch.chunk does and lie row-major"
        )
    return _Part(ranges, counted)


class ShardedSystem:
    """A x = b over parameters of which each rank holds a part; all ranks call it together.

    Raises `InputError` for parameters on several meshes, frozen ones, rows that depend on each
    other or nearly (an equilibrated A A^T with an eigenvalue below `SMALLEST`); `MemoryLimitError`
    for more than `MOST_COUPLED_ROWS` rows that share entries.
    """

    reads_constants = False
    sided = False
    """Inequalities are refused."""

    def __init__(
        self,
        stacked: StackedEquations,
        actual: Callable[[Tensor], Tensor],
        varies: Callable[[Tensor], bool],
    ) -> None:
        self.stacked, self.actual = stacked, actual
        self.parameters = [actual(p) for p in stacked.parameters]
        names = stacked.parameter_names
        own: list[Any] = [p for p in self.parameters if is_sharded(p)]
        self._mesh: Any = own[0].device_mesh
        for original, p in zip(stacked.parameters, self.parameters, strict=True):
            if not varies(p):
                raise InputError(
                    f"{names[original]} is not trained by this optimizer, beside sharded "
                    "parameters that are: put its value on the right side"
                )
            placed: Any = p
            if is_sharded(p) and placed.device_mesh != self._mesh:
                raise InputError(f"{names[original]} is on another mesh than the others")
        parts = [
            _part(p, names[o], self._mesh)
            for o, p in zip(stacked.parameters, self.parameters, strict=True)
        ]
        self.device = here(self.parameters[0]).device
        self.dtype = widest_dtype([here(p) for p in self.parameters])
        self._b = stacked.right_side().to(self.device, self.dtype)
        self._terms = self._coefficients(parts)
        self._factor()

    def _coefficients(self, parts: Sequence[_Part]) -> list[list[_Term]]:
        """Of each parameter."""
        index = {id(p): i for i, p in enumerate(self.stacked.parameters)}
        terms: list[list[_Term]] = [[] for _ in parts]
        for start, e in self.stacked.numbered():
            for term in e.difference.terms:
                i = index[id(term.parameter)]
                rows, cols, values = stored(term).triplets()
                inside = torch.ones_like(rows, dtype=torch.bool)
                place = torch.zeros_like(cols)
                at = torch.unravel_index(cols, term.parameter.shape)
                for one, (a, b) in zip(at, parts[i].ranges, strict=True):
                    inside &= (one >= a) & (one < b)
                    place = place * (b - a) + one - a
                own = (start + rows[inside], place[inside], values[inside])
                rows, place, values = (t.to(self.device) for t in own)
                terms[i].append(_Term(rows, place, values.to(self.dtype), parts[i].counted))
        return terms

    def _factor(self) -> None:
        """The equilibrated A A^T: its diagonal where rows share no entries, else its inverse."""
        m = len(self._b)
        coupled = torch.zeros(1, dtype=torch.float64, device=self.device)
        stacks, norm2 = [], torch.zeros(m, dtype=torch.float64, device=self.device)
        for p, terms in zip(self.parameters, self._terms, strict=True):
            if not terms:
                continue
            at = torch.stack(
                [torch.cat([t.rows for t in terms]), torch.cat([t.places for t in terms])]
            )
            A = torch.sparse_coo_tensor(
                at, torch.cat([t.values for t in terms]).double(), (m, max(here(p).numel(), 1))
            ).coalesce()
            if terms[0].counted:
                stacks.append(A)
                norm2.index_add_(0, A.indices()[0], A.values().square())
                coupled += float(torch.bincount(A.indices()[1]).max() > 1) if A._nnz() else 0.0
        self._sum(norm2)
        self._sum(coupled)
        empty = (norm2 == 0).nonzero().flatten().tolist()
        if empty:
            raise InputError(f"{self.stacked.row_name(empty[0])} holds no parameter entry")
        self._scale = norm2.rsqrt()
        self._inverse: Tensor | None = None
        self.coupled = bool(coupled.item())
        if not self.coupled:
            return
        if m > MOST_COUPLED_ROWS:
            raise MemoryLimitError(
                f"{m} rows share entries of sharded parameters, and have a dense factor on every "
                f"rank: constrain takes {MOST_COUPLED_ROWS} of them"
            )
        gram = torch.zeros(m, m, dtype=torch.float64, device=self.device)
        for A in stacks:
            gram += torch.sparse.mm(A, A.mT).to_dense()
        self._sum(gram)
        values, vectors = torch.linalg.eigh(self._scale.unsqueeze(1) * gram * self._scale)
        if float(values[0]) < SMALLEST * float(values[-1]):
            row = int(vectors[:, 0].abs().argmax())
            raise InputError(
                f"{self.stacked.row_name(row)} follows from other equations, or nearly: over "
                "sharded parameters rows have to be independent; leave it out"
            )
        self._inverse = (vectors / values) @ vectors.mT

    def _sum(self, t: Tensor) -> Tensor:
        """The sum over all ranks of the mesh, in place."""
        for d in range(self._mesh.ndim):
            torch.distributed.all_reduce(t, group=self._mesh.get_group(d))
        return t

    def finite(self) -> bool:
        """Whether all entries are, on every rank."""
        bad = torch.zeros(1, dtype=torch.float64, device=self.device)
        for p in self.parameters:
            bad += float(not bool(torch.isfinite(here(p)).all()))
        return not bool(self._sum(bad).item())

    @property
    def blocks(self) -> tuple[str, ...]:
        """One line for the system."""
        kind = "coupled rows" if self.coupled else "rows"
        return (f"{len(self._b)} {kind} over shards on {self._mesh.size()} ranks",)

    @property
    def bytes_per_pass(self) -> int:
        """What one rank gives to the all-reduce of one residual, in float64."""
        return 8 * len(self._b) * int(self._mesh.ndim)

    def _times(
        self, ts: Sequence[Tensor], shift: Shift | None = None, *, size: bool = False
    ) -> Tensor:
        """A t, or A (t + shift x), or |A| |t|; float64, equal on all ranks."""
        total = torch.zeros(len(self._b), dtype=torch.float64, device=self.device)
        for i, terms in enumerate(self._terms):
            x = here(ts[i]).reshape(-1)
            for term in terms:
                if not term.counted:
                    continue
                entries = x[term.places].double()
                if shift is not None:
                    entries += here(self.parameters[i]).reshape(-1)[term.places] * shift[i]
                product = entries * term.values
                total.index_add_(0, term.rows, product.abs() if size else product)
        return self._sum(total)

    def _subtract(self, ts: Sequence[Tensor], r: Tensor) -> None:
        """t -= A^+ r, on this rank."""
        y = self._scale * r
        y = self._scale * (y if self._inverse is None else self._inverse @ y)
        for t, terms in zip(ts, self._terms, strict=True):
            x = here(t).view(-1)
            for term in terms:
                x.index_add_(0, term.places, (term.values * y[term.rows]).to(x.dtype), alpha=-1)

    def residual(self) -> Tensor:
        """A x - b, (rows,)."""
        return self._times(self.parameters) - self._b

    def residuals(self) -> list[Tensor]:
        """As a list of one."""
        return [self.residual()]

    def project_(self, skip: Tensor | None, *, last: bool = True) -> list[Tensor]:
        """Onto the set, in place; the residual before the last correction, or after."""
        if skip is not None:  # an infinity on one rank holds all of them back
            skip = self._sum(skip.double()) > 0
        self._subtract(self.parameters, skipped(self.residual(), skip))
        r = self.residual()
        self._subtract(self.parameters, skipped(r, skip))
        return [self.residual() if last else r]

    def _holds(self, r: Tensor, factor: float) -> Tensor:
        u = max(tolerance.unit_roundoff(p.dtype) for p in self.parameters)
        return r.abs() <= factor * u * (self._times(self.parameters, size=True) + self._b.abs())

    def restore_(self, skip: Tensor | None, factor: float) -> None:
        """Onto the set; where all rows hold up to `factor` roundings, bits stay."""
        for _ in range(2):
            r = self.residual()
            if bool(self._holds(r, factor).all()):
                return
            self._subtract(self.parameters, skipped(r, skip))

    def tangent_(self, gs: Sequence[Tensor], shift: Shift | None) -> None:
        """Gradients onto the null space, in place: T(g + shift x) - shift x.

        Raises `InputError`, on all ranks, for gradients placed unlike their parameters: what is
        here of one would be taken for what is here of the other.
        """
        names = self.stacked.parameter_names
        for original, p, g in zip(self.stacked.parameters, self.parameters, gs, strict=True):
            if _placed(g) != _placed(p):
                raise InputError(
                    f"the gradient of {names[original]} is placed as {_placed(g)}, the parameter "
                    f"as {_placed(p)}: redistribute the gradient before the step"
                )
        self._subtract(gs, self._times(gs, shift))

    def feasible(self, factor: float = tolerance.RESIDUAL_ROUNDINGS) -> tuple[bool, list[str]]:
        """Whether every row holds up to `factor` roundings, and some that do not."""
        holds = self._holds(self.residual(), factor)
        off = (~holds).nonzero().flatten().tolist()
        return not off, [self.stacked.row_name(i) for i in off[:3]]

    def families(self) -> list[tuple[set[int], set[int]]]:
        """All in one: what sleeps is refused before the step."""
        return [(set(range(len(self.stacked.equations))), set(range(len(self.parameters))))]

    def take(self, stacked: StackedEquations) -> bool:
        """Take over equations that differ in their right sides alone; rows are independent."""
        self.stacked = stacked
        self._b = stacked.right_side().to(self._b)
        return True

    def points(self) -> Any:
        """Refused: no rank has the point."""
        raise ProjlabError(
            "a certificate of sharded parameters needs the whole point on one rank: gather it "
            "with full_tensor(), and use projlab.certify"
        )
