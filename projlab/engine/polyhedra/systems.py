"""The rows of a polyhedron, equations above inequalities, as the search and the polish use them.

Rows are equilibrated by powers of two and in float64. What is factored is the Gram matrix of the
active rows on the free variables, with a shift: M_FF' + s I. A correction by it leaves
s / (sigma^2 + s) of a component, so that true residuals take the shift out again, and components
that only rounding has are left where they are (as in `projlab.engine.setup`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from scipy.sparse import csc_array, csr_array, diags_array, eye_array
from scipy.sparse.linalg import splu
from torch import Tensor

from projlab import tolerance
from projlab.engine.kernels import faces
from projlab.numerics import memory
from projlab.numerics.scaling import power_of_two
from projlab.system.analysis import analyse, raise_inconsistent
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import equilibrate_rows
from projlab.system.inputs import working_dtype
from projlab.system.polyhedron import Polyhedron
from projlab.system.rows import DenseRows, Rows, sparse_rows

SMALL = 2**16
"""Entries up to which sparse rows are made dense: calls of a sparse factor take longer."""
_MANY = 32
"""Rows beyond which those that are not active are left out, one vector after the other."""
_HELD = 2**24
"""Entries of a batch of masked rows that are held at a time."""


class Factor(Protocol):
    """Solves with the shifted Gram matrix of each vector's own face."""

    def solve(self, r: Tensor) -> Tensor:
        """(k, m) to (k, m); zero on rows that are not active."""


@dataclass(frozen=True, eq=False)
class System(ABC):
    """m rows of which the first `equations` are equations."""

    rows: Rows
    exponent: Tensor
    """(m,): the rows are the caller's times 2**exponent."""
    equations: int
    units: tuple[Tensor, Tensor]
    """Two factors whose product is 2**exponent, or 0 for rows that are left out."""
    left_out: Tensor | None
    """(m,) which rows are, for following from others; None for none."""
    roundoff: float = tolerance.unit_roundoff("float64")
    """Of the rows as they were given."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.rows.shape

    @property
    def device(self) -> torch.device:
        """Of the rows."""
        return self.rows.device

    @cached_property
    def faces(self) -> faces.Faces | None:
        """The kernel that searches for active sets, where there is one."""
        return faces.of(self.rows, self.equations)

    @property
    def is_equation(self) -> Tensor:
        """(m,)."""
        return torch.arange(self.shape[0], device=self.device) < self.equations

    def times(self, x: Tensor) -> Tensor:
        """M x."""
        return self.rows.matvec(x)

    def transposed(self, y: Tensor) -> Tensor:
        """M' y."""
        return self.rows.rmatvec(y)

    def sizes(self, y: Tensor) -> Tensor:
        """|M|' |y|, which rounding of M' y is relative to."""
        return self.magnitudes.rmatvec(y.abs())

    @cached_property
    def magnitudes(self) -> Rows:
        """|M|."""
        return self.rows.abs()

    def scaled(self, right: Tensor) -> Tensor:
        """Right sides (..., m) in the rows' units."""
        return self._times_units(right.to(self.rows.dtype))

    def in_units(self, y: Tensor) -> Tensor:
        """Multipliers (..., m) of the caller's rows."""
        return self._times_units(y)

    def _times_units(self, v: Tensor) -> Tensor:
        for unit in self.units:
            v = v * unit
        return v

    @abstractmethod
    def factor(self, free: Tensor, active: Tensor, shift: Tensor) -> Factor:
        """For each of k vectors: its free variables (k, n), its active rows (k, m), its shift."""

    @abstractmethod
    def weighted(self, weights: Tensor, diagonal: Tensor) -> Factor:
        """Of M diag(weights) M' + diag(diagonal), weights (k, n) and diagonal (k, m) positive."""


class DenseSystem(System):
    """Every entry stored; a batch is factored at once."""

    def factor(self, free: Tensor, active: Tensor, shift: Tensor) -> Factor:
        """See `System`."""
        M = self.rows.to_dense()
        if len(free) == 1:
            return _one_dense(M, free[0], active[0], shift[0])
        if len(M) > _MANY and int(active.sum(-1).max()) <= len(M) // 2:  # most of them slack
            return _Each([_one_dense(M, *face) for face in zip(free, active, shift, strict=True)])
        H = _grams(M, free.to(M.dtype))
        on = active.to(M.dtype)
        H = H * on.unsqueeze(-1) * on.unsqueeze(-2)
        # rows that are not active: ones, so that the factor exists and they stay at zero
        H.diagonal(dim1=-2, dim2=-1).add_(torch.where(active, shift.unsqueeze(-1), 1.0))
        return _DenseFactor(_cholesky(H), on)

    def weighted(self, weights: Tensor, diagonal: Tensor) -> Factor:
        """See `System`."""
        m, n = self.shape
        if m - self.equations > n:
            return _primal(self.rows.to_dense(), self.equations, weights, diagonal)
        H = _grams(self.rows.to_dense(), weights)
        H.diagonal(dim1=-2, dim2=-1).add_(diagonal)
        return _DenseFactor(_cholesky(H), torch.ones_like(diagonal))


def _grams(M: Tensor, weights: Tensor) -> Tensor:
    """M diag(w) M' for each w (n,) of (k, n)."""
    step = max(1, _HELD // max(1, M.numel()))
    return torch.cat([(M * part.unsqueeze(1)) @ M.mT for part in weights.split(step)])


def _primal(M: Tensor, equations: int, weights: Tensor, diagonal: Tensor) -> Factor:
    """Of many inequalities: eliminated first, which leaves n x n and the equations."""
    A, G = M[:equations], M[equations:]
    inverse = 1 / diagonal[:, equations:]
    K = _grams(G.mT, inverse)
    K.diagonal(dim1=-2, dim2=-1).add_(1 / weights.clamp_min(_SMALLEST_WEIGHT))
    L = _cholesky(K)
    through = torch.cholesky_solve(A.mT.expand(len(K), -1, -1), L)
    S = A @ through
    S.diagonal(dim1=-2, dim2=-1).add_(diagonal[:, :equations])
    return _PrimalFactor(A, G, inverse, L, through, _cholesky(S))


_SMALLEST_WEIGHT = 1e-30
"""Of a variable that a barrier keeps where it is."""


@dataclass(frozen=True)
class _PrimalFactor:
    A: Tensor
    G: Tensor
    inverse: Tensor
    L: Tensor
    through: Tensor
    """K^-1 A'."""
    S: Tensor

    def solve(self, r: Tensor) -> Tensor:
        """See `Factor`: with u = W M'y, K u = A'y_E + G'D^-1 r_I and A u + D y_E = r_E."""
        p = len(self.A)
        q = ((self.inverse * r[:, p:]) @ self.G).unsqueeze(-1)
        u = torch.cholesky_solve(q, self.L)
        y = torch.cholesky_solve(r[:, :p].unsqueeze(-1) - self.A @ u, self.S)
        u = (u + self.through @ y).squeeze(-1)
        return torch.cat([y.squeeze(-1), self.inverse * (r[:, p:] - u @ self.G.mT)], -1)


def _one_dense(M: Tensor, free: Tensor, active: Tensor, shift: Tensor) -> Factor:
    on = active.nonzero().squeeze(-1)
    part = M[on]
    if not bool(free.all()):
        part = part[:, free]
    H = part @ part.mT
    H.diagonal().add_(shift)
    return _SelectedFactor(_cholesky(H), on, len(active))


def _cholesky(H: Tensor) -> Tensor:
    """The factor; with a shift that grows where rounding made the matrix indefinite."""
    L, failed = torch.linalg.cholesky_ex(H)
    growing = 2.0**-40
    while bool(failed.any()):
        bad = failed > 0
        H = H.clone()
        H.diagonal(dim1=-2, dim2=-1).add_(torch.where(bad, growing, 0.0).unsqueeze(-1))
        L, failed = torch.linalg.cholesky_ex(H)
        growing *= 16
        if growing > 1:
            break
    factor: Tensor = L
    return factor


@dataclass(frozen=True)
class _DenseFactor:
    L: Tensor
    on: Tensor

    def solve(self, r: Tensor) -> Tensor:
        """See `Factor`."""
        solved: Tensor = torch.cholesky_solve((r * self.on).unsqueeze(-1), self.L).squeeze(-1)
        return solved * self.on


@dataclass(frozen=True)
class _Each:
    factors: list[Factor]

    def solve(self, r: Tensor) -> Tensor:
        """See `Factor`."""
        parts = zip(self.factors, r, strict=True)
        return torch.cat([factor.solve(part.unsqueeze(0)) for factor, part in parts])


@dataclass(frozen=True)
class _SelectedFactor:
    L: Tensor
    on: Tensor
    m: int

    def solve(self, r: Tensor) -> Tensor:
        """See `Factor`."""
        y = r.new_zeros(len(r), self.m)
        y[:, self.on] = torch.cholesky_solve(r[:, self.on].mT, self.L).mT
        return y


class SparseSystem(System):
    """Nonzero entries only, on the CPU; each face gets a sparse LU of its own."""

    @cached_property
    def matrix(self) -> Any:
        """The rows for scipy."""
        i, j, values = (t.cpu().numpy() for t in self.rows.triplets())
        return csr_array((values, (i, j)), shape=self.shape)

    def times(self, x: Tensor) -> Tensor:
        """See `System`."""
        return torch.from_numpy((self.matrix @ x.numpy().T).T.copy())

    def transposed(self, y: Tensor) -> Tensor:
        """See `System`."""
        return torch.from_numpy((self.matrix.T @ y.numpy().T).T.copy())

    def factor(self, free: Tensor, active: Tensor, shift: Tensor) -> Factor:
        """See `System`."""
        return _SparseFactors(
            [
                _of_face(self.matrix, f, a, float(s))
                for f, a, s in zip(free, active, shift, strict=True)
            ]
        )

    def weighted(self, weights: Tensor, diagonal: Tensor) -> Factor:
        """See `System`."""
        M, every = self.matrix, torch.arange(self.shape[0], device="cpu")
        return _SparseFactors(
            [
                _SparseFactor(M @ diags_array(w.numpy()) @ M.T + diags_array(d.numpy()), every)
                for w, d in zip(weights, diagonal, strict=True)
            ]
        )


def _of_face(M: Any, free: Tensor, active: Tensor, shift: float) -> "_SparseFactor":
    on = active.nonzero().squeeze(-1)
    part = M[on.numpy()] if len(on) < len(active) else M
    part = part @ diags_array(free.numpy().astype(float))
    part.eliminate_zeros()
    return _SparseFactor(part @ part.T + shift * eye_array(len(on)), on)


class _SparseFactor:
    def __init__(self, H: Any, on: Tensor) -> None:
        self.on, self.lu = on, None
        if len(on) == 0:
            return
        self.lu = splu(
            csc_array(H),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def solve(self, r: Tensor) -> Tensor:
        y = torch.zeros_like(r)
        if self.lu is not None:
            y[self.on] = torch.from_numpy(self.lu.solve(r[self.on].numpy()))
        return y


@dataclass(frozen=True)
class _SparseFactors:
    each: list[_SparseFactor]

    def solve(self, r: Tensor) -> Tensor:
        """See `Factor`."""
        return torch.stack([f.solve(part) for f, part in zip(self.each, r, strict=True)])


def system_of(polyhedron: Polyhedron, redundant: Tensor | None = None) -> System:
    """The rows of a polyhedron; sparse where every part of them is given sparse.

    Equations that are `redundant` (m,) become rows of zeros, with right sides and multipliers of 0.
    """
    parts = [
        rows
        for rows in (
            None if polyhedron.equations is None else polyhedron.equations.rows,
            polyhedron.inequalities,
        )
        if rows is not None
    ]
    entries = sum(part.shape[0] for part in parts) * polyhedron.n
    sparse = bool(parts) and all(part.sparse for part in parts) and entries > SMALL
    wide = [part.to(dtype=torch.float64) for part in parts]
    rows: Rows = _stacked(wide, polyhedron.n, sparse=sparse, device=polyhedron.device)
    scaled, exponent = equilibrate_rows(rows)
    kind = SparseSystem if sparse else DenseSystem
    roundoff = max(map(tolerance.unit_roundoff, (torch.float64, *(part.dtype for part in parts))))
    units = power_of_two(exponent, torch.float64)
    if redundant is not None:
        redundant = torch.cat([redundant, redundant.new_zeros(polyhedron.p)])
        kept = (~redundant).double()
        scaled, units = scaled.multiply_rows(kept), (units[0] * kept, units[1])
    return kind(scaled, exponent, polyhedron.m, units, redundant, roundoff)


def redundant_equations(equations: AffineConstraint | None) -> Tensor | None:
    """(m,) which equations follow from others, by the rank rule of their precision; None for none.

    float64 ones are taken as they are: what depends on others to that rounding is met all the same.

    Raises
    ------
    InconsistentError
        They contradict each other.
    """
    data = None if equations is None else working_dtype(equations.dtype)
    if equations is None or data is None or data is torch.float64 or equations.m < 2:
        return None
    analysis = analyse(equations, data, "numerical", data)
    if analysis.conflicts:
        raise_inconsistent(equations, analysis)
    redundant = torch.ones(equations.m, dtype=torch.bool, device=equations.device)
    redundant[analysis.decisions[0].kept] = False
    return redundant if bool(redundant.any()) else None


def _stacked(parts: list[Rows], n: int, *, sparse: bool, device: torch.device) -> Rows:
    if not sparse:
        entries = [part.to_dense() for part in parts]
        empty = torch.zeros(0, n, dtype=torch.float64, device=device)
        return DenseRows(torch.cat([*entries, empty]))
    above, indices, columns, values = 0, [], [], []
    for part in parts:
        i, j, entries_of = part.triplets()
        indices.append(i + above)
        columns.append(j)
        values.append(entries_of)
        above += part.shape[0]
    return sparse_rows(torch.cat(indices), torch.cat(columns), torch.cat(values), (above, n))


def require_room(system: System, k: int) -> None:
    """Raise `MemoryLimitError` where k Gram matrices at once do not fit."""
    if isinstance(system, DenseSystem):
        m, n = system.shape
        memory.require(
            3 * k * m * m * 8 + min(k * m * n, _HELD) * 8,
            f"Gram matrices of {k} vectors' faces, {m} x {m} each",
            system.device,
        )
