"""Numerical rank, the rows that carry it, and how the others follow from them.

The rank is the number of singular values of the equilibrated rows E above a cutoff relative to the
largest. Everything here is computed in float64, whatever the working precision: its unit roundoff
u enters the cutoff only.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics import memory, tuning
from projlab.numerics.exact_rank import independent_rows
from projlab.numerics.scaling import scale, widened
from projlab.numerics.triangular import Reflectors, householder
from projlab.system.row_choice import choose_rows, rows_given
from projlab.system.rows import DenseRows, Rows

RankRule = float | Literal["numerical", "exact"]


class Inverse(Protocol):
    """What is asked of the pseudoinverse of the rows that are not zero."""

    def outside(self, f: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
        """What of f (k,) is outside the range of E, and ||E^+ f||."""


@dataclass(frozen=True)
class Rank:
    """Rank of one system E (m, n), and rows that carry it."""

    rank: int
    condition: float
    """sigma_1 / sigma_rank, or an upper bound (see `measured`)."""
    ambiguous: bool
    gap: tuple[float, float]
    """sigma_rank and the next smaller singular value, relative to sigma_1."""
    kept: Tensor
    """(rank,) indices of independent rows, ascending."""
    dropped: Tensor
    """(m - rank,) indices of the others, ascending; rows of zeros among them."""
    coefficients: Rows | None
    """(m - rank, rank) float64: E[dropped] = coefficients @ E[kept], up to the cutoff; None where
    every dropped row is zero."""
    basis: Rows | None
    """(m, rank) float64, orthonormal columns: the range of E; None where it is the kept rows' unit
    vectors (full rank but for rows of zeros, or rows that share no column)."""
    sigma: Tensor
    """(rank,) the singular values above the cutoff, in the order of the basis; (2,) the first and
    the last of them where sparse factors decided; (0,) where they were not needed."""
    reflectors: Reflectors | None = None
    """Householder QR of E' in float64, as LAPACK leaves it; None where E has redundant rows, or was
    decided on otherwise."""
    inverse: "Inverse | None" = None
    """In the place of the basis where rows are redundant and sparse factors decided."""
    uncertainty: float = 0.0
    """Relative, of a condition number that an iteration measured."""
    measured: bool = True
    """Whether singular values were computed. Where a bound far from the cutoff already proves full
    rank, `condition` is that bound and `gap` what follows from it."""

    def measure(self) -> "Rank":
        """The same decision with the singular values that `reflectors` still tell."""
        if self.measured or self.reflectors is None:
            return self
        sigma = torch.linalg.svdvals(self.reflectors.R)
        condition = float(sigma[0] / sigma[-1])
        return replace(
            self, condition=condition, gap=(1 / condition, 0.0), sigma=sigma, measured=True
        )


def cutoff_of(rule: RankRule, m: int, n: int, u: float) -> float:
    """The cutoff of the rank, relative to sigma_1."""
    return tolerance.rank_cutoff(m, n, u) if isinstance(rule, str) else rule


def decide(rows: Rows, u: float, rule: RankRule) -> Rank:
    """Rank of the equilibrated `rows` (m, n) for data of unit roundoff u.

    Singular values are computed only where a bound on the condition number leaves the rank open.
    """
    m, n = rows.shape
    zero = rows.row_max() == 0
    nonzero = (~zero).nonzero().flatten()
    if len(nonzero) == 0:
        empty = torch.zeros(0, dtype=torch.float64, device=rows.device)
        return all_kept(nonzero, zero, 1.0, empty)
    if rows.disjoint():
        # rows that share no column are orthogonal: their norms are the singular values
        sigma = rows.row_norms()[nonzero].double().sort(descending=True).values
        return all_kept(nonzero, zero, float(sigma[0] / sigma[-1]), sigma)
    memory.require(
        memory.factorisation_bytes(len(nonzero), n, torch.float64),
        f"the rank decision of {m} x {n} rows",
        rows.device,
    )
    E = widened((rows.select(nonzero) if len(nonzero) < m else rows).to_dense())
    return _factored(E, zero, u, rule)


def _factored(E: Tensor, zero: Tensor, u: float, rule: RankRule) -> Rank:
    """`decide` by a QR, and by singular values where that is not enough.

    E holds the rows that are not `zero` (m,).
    """
    m, n = len(zero), E.shape[1]
    nonzero = (~zero).nonzero().flatten()
    cutoff = cutoff_of(rule, m, n, u)
    R, reflectors = triangle(E)
    vectors = False
    if tuning.BOUNDED <= len(nonzero) == m <= n and rule != "exact":
        enough = 1 / (tolerance.PROVEN * cutoff)
        bound = _condition_bound(R, enough)
        if bound <= enough:
            return _proven(nonzero, bound, reflectors)
        # the bound is off by a factor m at worst: where even that cannot mend it (or it is NaN),
        # rows are dependent, and which ones will be asked of the singular vectors
        vectors = not bound <= m / cutoff
    wide = R.mT if E.shape[0] <= E.shape[1] else E  # E = R' Q'
    sigma, Vh = singular(wide) if vectors else (torch.linalg.svdvals(R), None)
    tail = extended_precision_tail(E, sigma, sigma[0], cutoff) if wide_data(u) else None
    counted = count(sigma if tail is None else tail, cutoff, extended=tail is not None)
    kept = None
    if rule == "exact":
        kept = torch.tensor(independent_rows(E.cpu().numpy()), device=E.device, dtype=torch.long)
        counted = counted.at(len(kept))
    if counted.rank == len(nonzero):
        decision = all_kept(nonzero, zero, counted.condition, sigma, counted.gap, counted.ambiguous)
        return replace(decision, reflectors=reflectors if counted.rank == m <= n else None)
    if Vh is None:
        sigma, Vh = singular(wide)
    basis, sigma = range_of(wide, sigma, Vh, counted.rank)
    return _deficient(E, basis, sigma, counted, kept, zero)


class Counted(NamedTuple):
    """What singular values relative to the largest, falling, say of a rank."""

    relative: list[float]
    rank: int
    ambiguous: bool

    def at(self, rank: int) -> "Counted":
        """Of a rank that is known otherwise."""
        return self._replace(rank=rank, ambiguous=False)

    @property
    def gap(self) -> tuple[float, float]:
        """The last that counts and the next."""
        after = self.relative[self.rank] if self.rank < len(self.relative) else 0.0
        return self.relative[self.rank - 1], after

    @property
    def condition(self) -> float:
        """sigma_1 / sigma_rank."""
        return 1 / self.gap[0] if self.gap[0] > 0 else math.inf


def wide_data(u: float) -> bool:
    """Whether the data is float64's, so that an SVD in float64 could round as much as it does."""
    return u < tolerance.FLOAT32_ROUNDOFF


def count(sigma: Tensor, cutoff: float, *, extended: bool) -> Counted:
    """How many of the singular values, falling, are above the cutoff, and whether that is clear.

    `extended` says that those near the cutoff are known to more than an SVD's own rounding.
    """
    relative = (sigma / sigma[0]).tolist()
    smaller, larger = cutoff / tolerance.AMBIGUITY, cutoff * tolerance.AMBIGUITY
    if not extended:
        smaller = max(smaller, tolerance.ROUNDING_RANK * tolerance.unit_roundoff("float64"))
    least, rank, most = (sum(s > c for s in relative) for c in (larger, cutoff, smaller))
    return Counted(relative, rank, ambiguous=least != most)


def _deficient(
    E: Tensor, basis: Tensor, sigma: Tensor, counted: Counted, kept: Tensor | None, zero: Tensor
) -> Rank:
    """Which of the rows E, those that are not zero, carry the rank, and how the others follow.

    `basis` is that of their range; `kept` are rows that are known to carry it.
    """
    if kept is None:
        chosen = choose_rows(basis, torch.linalg.vector_norm(E, dim=1))
    else:
        chosen = rows_given(basis, kept)
    nonzero = (~zero).nonzero().flatten()
    dropped = torch.cat([nonzero[chosen.dropped], zero.nonzero().flatten()])
    order = torch.argsort(dropped)
    C = chosen.coefficients
    C = torch.cat([C, C.new_zeros(int(zero.sum()), counted.rank)])[order]
    whole = basis.new_zeros(len(zero), counted.rank)
    whole[nonzero] = basis
    return Rank(
        rank=counted.rank,
        condition=counted.condition,
        ambiguous=counted.ambiguous,
        gap=counted.gap,
        kept=nonzero[chosen.kept],
        dropped=dropped[order],
        coefficients=DenseRows(C),
        basis=DenseRows(whole),
        sigma=sigma,
    )


def decide_each(rows: Rows, u: float, rule: RankRule) -> tuple[Rank, ...]:
    """`decide` for every system of `rows` (B, m, n), all at once where a bound decides them."""
    (B, m, n) = rows.to_dense().shape
    proven: dict[int, Rank] = {}
    if 1 < m <= n and rule != "exact":
        memory.require(
            memory.factorisation_bytes(m, n, torch.float64, B),
            f"the rank decision of {B} systems of {m} x {n} rows",
            rows.device,
        )
        R, every_one = triangle(widened(rows.to_dense()))
        limit = 1 / (tolerance.PROVEN * cutoff_of(rule, m, n, u))
        bounds = (_norm_bound(R) * _norm_bound(_inverse(R))).tolist()
        every = torch.arange(m, device=R.device)
        for i, bound in enumerate(bounds):
            if bound <= limit:
                proven[i] = _proven(every, bound, Reflectors(*(t[i] for t in every_one)))
    return tuple(proven[i] if i in proven else decide(rows.element(i), u, rule) for i in range(B))


def _proven(every: Tensor, bound: float, reflectors: Reflectors) -> Rank:
    """Full rank, with singular values far above the cutoff."""
    none = every[:0]
    gap, sigma = (1 / bound, 0.0), torch.zeros(0, dtype=torch.float64, device=every.device)
    return Rank(
        len(every), bound, False, gap, every, none, None, None, sigma, reflectors, measured=False
    )


def _condition_bound(R: Tensor, enough: float) -> float:
    """An upper bound on kappa_2 of upper triangular R (m, m), off by a factor m at worst.

    From ||M||_2^2 <= ||M||_1 ||M||_inf for R and its inverse; where that is more than `enough` but
    a factor m could mend it, from ||M||_2^4 <= ||M'M||_F^2, off by sqrt(m). NaN for singular R.
    """
    inverse = _inverse(R)
    bound = float(_norm_bound(R) * _norm_bound(inverse))
    if enough < bound <= enough * len(R):
        squares = [torch.linalg.matrix_norm(M.mT @ M) for M in (R, inverse)]
        bound = float((squares[0] * squares[1]).sqrt())
    return bound


def _inverse(R: Tensor) -> Tensor:
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    inverse: Tensor = torch.linalg.solve_triangular(R, eye.expand_as(R), upper=True)
    return inverse


def _norm_bound(M: Tensor) -> Tensor:
    """sqrt(||M||_1 ||M||_inf) of each matrix, an upper bound on its 2-norm; NaN is kept."""
    sizes = M.abs()
    return (sizes.sum(-1).amax(-1) * sizes.sum(-2).amax(-1)).sqrt()


def all_kept(
    nonzero: Tensor,
    zero: Tensor,
    condition: float,
    sigma: Tensor,
    gap: tuple[float, float] | None = None,
    ambiguous: bool = False,
) -> Rank:
    """Every row that is not zero is independent of the others."""
    rank = len(nonzero)
    dropped = zero.nonzero().flatten()
    gap = (1 / condition, 0.0) if gap is None else gap
    return Rank(rank, condition, ambiguous, gap, nonzero, dropped, None, None, sigma)


def triangle(E: Tensor) -> tuple[Tensor, Reflectors]:
    """A square matrix with the singular values of E, by one Householder QR of its longer side.

    With its reflectors, from which a factorisation need not start again.
    """
    reflectors = householder(E.mT if E.shape[-2] <= E.shape[-1] else E)
    return reflectors.R, reflectors


def extended_precision_tail(
    E: Tensor, sigma: Tensor, largest: Tensor, cutoff: float
) -> Tensor | None:
    """Singular values of E with those near the cutoff recomputed in extended precision.

    The cutoff is relative to `largest`: E may be a block of a system.

    An SVD's own rounding, a few u sigma_1, can exceed a tenth of the cutoff of a small system and
    would make exact duplicates look ambiguous. The left singular vectors Z of the small values are
    corrected by Z - U_1 Sigma_1^-1 V_1' (E' Z), with E' Z in numpy's long double, after which
    ||E' Z|| is theirs. None where no value is near enough, the system is too large for it to
    matter, or the platform's long double is float64.
    """
    doubtful = (sigma <= cutoff * tolerance.AMBIGUITY * largest).nonzero().flatten()
    E = E if E.shape[0] <= E.shape[1] else E.mT
    noise = tolerance.ROUNDING_RANK * tolerance.unit_roundoff("float64") * np.sqrt(len(E))
    precise = np.finfo(np.longdouble).eps * tolerance.LONGER < np.finfo(np.float64).eps
    if len(doubtful) == 0 or cutoff / tolerance.AMBIGUITY > noise or not precise:
        return None
    first = int(doubtful[0])
    U, S, Vh = (t.cpu().numpy() for t in torch.linalg.svd(E, full_matrices=False))
    extended = E.cpu().numpy().astype(np.longdouble)
    Z = U[:, first:].astype(np.longdouble)
    for _ in range(2):  # each time the error shrinks by that of a float64 SVD
        image = (extended.T @ Z).astype(np.float64)
        Z = Z - U[:, :first] @ ((Vh[:first] @ image) / S[:first, None])
    image = (extended.T @ Z).astype(np.float64)
    small = torch.linalg.svdvals(torch.from_numpy(image)).to(sigma.device)
    return torch.cat([sigma[:first], small])


def singular(wide: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors."""
    _, S, Vh = torch.linalg.svd(wide, full_matrices=False)
    return S, Vh


def range_of(wide: Tensor, S: Tensor, Vh: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Orthonormal basis (..., m, rank) of the range of E at that rank, and its singular values.

    LAPACK's iteration for singular vectors stops at up to 91 u sigma_1 (DBDSQR's TOLMUL); images of
    the right vectors are in the range to rounding.
    """
    basis: Tensor = torch.linalg.qr(wide @ (Vh[..., :rank, :].mT / S[..., None, :rank])).Q
    return basis, S[..., :rank]


def chosen_for_least_squares(decision: Rank, range_basis: Tensor, exponent: Tensor) -> Rank:
    """The decision with rows kept by the range of the unscaled A instead of the equilibrated one.

    A right-hand side projected onto that range has an error relative to the whole of it, in every
    entry: rows that are small in the caller's units, which it drowns, must not carry the rank.
    """
    kept, dropped, C = choose_rows(range_basis, torch.ones_like(range_basis[:, 0]))
    e = exponent.to(C.device)
    C = scale(C, e[dropped].unsqueeze(1) - e[kept])
    return replace(decision, kept=kept, dropped=dropped, coefficients=DenseRows(C))
