"""`diagnose`: what a system A x = b is, for people to read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from projlab import tolerance
from projlab.errors import InputError, MemoryLimitError, few
from projlab.numerics.fill import Fill
from projlab.numerics.gram import gram_matrix
from projlab.numerics.scaling import scale
from projlab.numerics.sparse_factor import prepared
from projlab.system.analysis import analyse, combinations
from projlab.system.combinations import Combination
from projlab.system.constraint import as_constraint
from projlab.system.inputs import working_dtype
from projlab.system.options import check_b_error, check_rank
from projlab.system.rank import RankRule, cutoff_of
from projlab.system.rows import Rows, SparseRows
from projlab.system.sparse_rank import scipy_rows


@dataclass(frozen=True)
class Scaling:
    """2-norms of the rows that are not zero, and how far apart they are."""

    smallest: float
    largest: float

    @property
    def spread(self) -> float:
        """Largest over smallest; 1 for an empty system."""
        return self.largest / self.smallest if self.smallest > 0 else 1.0


@dataclass(frozen=True)
class Diagnosis:
    """Answer of `diagnose`; printable."""

    shape: tuple[int, int]
    rank: int
    ambiguous: bool
    """Whether a cutoff ten times smaller or larger would change the rank."""
    condition: float
    """sigma_1 / sigma_rank of the equilibrated rows."""
    uncertainty: float
    """Relative, of the condition number: what is left where a Lanczos iteration measured it; 0
    where singular values were computed."""
    gap: tuple[float, float]
    """sigma_rank / sigma_1 and the next smaller one / sigma_1, between which the cutoff falls; of
    the latter an upper bound where sparse factors decided."""
    cutoff: float
    """Relative to sigma_1."""
    redundant: tuple[Combination, ...]
    conflicting: tuple[Combination, ...]
    tolerated: tuple[Combination, ...]
    """Rows that conflict by no more than the `b_error` that was stated."""
    scaling: Scaling
    fill: Fill | None
    """What a sparse factor of the Gram matrix would take; None for dense rows, for rows that share
    no column, and where the matrix itself does not fit."""

    @property
    def consistent(self) -> bool:
        """Whether some x satisfies every equation, up to rounding and the stated error of b."""
        return not self.conflicting

    def __str__(self) -> str:
        m, n = self.shape
        lines = [
            f"{m} equations in {n} variables",
            f"numerical rank {self.rank} (singular values {self.gap[0]:.3g} | {self.gap[1]:.3g}, "
            f"cutoff {self.cutoff:.3g}, relative to the largest)",
        ]
        if self.ambiguous:
            lines.append("the rank is ambiguous: a cutoff ten times smaller or larger changes it")
        about = f" (by Lanczos, to {self.uncertainty:.0e} of it)" if self.uncertainty else ""
        lines.append(f"condition number of the equilibrated rows {self.condition:.3g}{about}")
        lines.append(
            f"row norms from {self.scaling.smallest:.3g} to {self.scaling.largest:.3g} "
            f"(ratio {self.scaling.spread:.3g})"
        )
        if self.fill is not None:
            lines.append(
                f"a sparse factor of the Gram matrix has {self.fill.nonzeros:,} nonzeros and takes "
                f"{self.fill.bytes / 2**20:,.1f} MiB"
            )
        lines += _section("redundant rows", [str(c) for c in self.redundant])
        lines += _section("conflicting rows", [c.contradiction() for c in self.conflicting])
        if self.rank == n and not (self.ambiguous or self.conflicting):
            lines.append("one solution: the set is one point, the projection of every x0")
        if self.tolerated:
            within = [c.contradiction() for c in self.tolerated]
            lines += _section("rows in conflict within b_error", within)
        return "\n".join(lines)


def _section(title: str, entries: Sequence[str]) -> list[str]:
    count = len(entries) or "no"
    lines = [f"{count} {title.replace('rows', 'row') if count == 1 else title}"]
    return lines + [f"  {entry}" for entry in few(entries)]


def diagnose(
    A: Any, b: Any = None, *, rank: RankRule = "numerical", b_error: Any = 0.0
) -> Diagnosis:
    """Rank, redundant and conflicting rows, condition and scaling of A x = b.

    Parameters
    ----------
    A, b
        As `AffineConstraint` takes them, or one AffineConstraint as A; not batched.
    rank
        "numerical" (singular values of the equilibrated rows above the cutoff that `projector`
        states), a tolerance relative to the largest instead, or "exact" (entries taken literally).
    b_error
        By how much entries of b may be off, as `AffineConstraint` takes it.

    Raises
    ------
    InputError
        As `AffineConstraint` does; for batched A; another rank than those.
    MemoryLimitError
        A sparse system whose rank sparse factors leave open, and whose dense form does not fit.

    References
    ----------
    Golub and Van Loan, "Matrix Computations", 4th ed., section 5.4.1 (numerical rank); Gu and
    Eisenstat, SIAM J. Sci. Comput. 17 (1996) (choice of independent rows). Of large sparse systems
    the rank is proven by sparse factors: `projlab.system.sparse_rank`.
    """
    constraint = as_constraint(A, b).stating(check_b_error(b_error))
    if constraint.batch is not None:
        raise InputError(
            f"A is a batch of {constraint.batch} systems; diagnose one of them: A[i], b[i]"
        )
    dtype = working_dtype(constraint.dtype)
    rule = check_rank(rank)
    analysis = analyse(constraint, dtype, rule, dtype, measured=True)
    u = tolerance.unit_roundoff(dtype)
    decision = analysis.decisions[0]
    norms = scale(analysis.system.rows.row_norms().double(), -analysis.system.exponent)
    nonzero = norms[norms > 0]
    return Diagnosis(
        shape=(constraint.m, constraint.n),
        rank=decision.rank,
        ambiguous=decision.ambiguous,
        condition=decision.condition,
        uncertainty=decision.uncertainty,
        gap=decision.gap,
        cutoff=cutoff_of(rule, constraint.m, constraint.n, u),
        redundant=combinations(constraint, analysis, 0, range(constraint.m - decision.rank)),
        conflicting=analysis.conflicts.get(0, ()),
        tolerated=analysis.tolerated.get(0, ()),
        scaling=Scaling(
            float(nonzero.min()) if len(nonzero) else 0.0,
            float(nonzero.max()) if len(nonzero) else 0.0,
        ),
        fill=_fill(analysis.system.rows),
    )


def _fill(rows: Rows) -> Fill | None:
    if not isinstance(rows, SparseRows) or rows.disjoint():
        return None
    try:
        return prepared(gram_matrix(scipy_rows(rows)), "the Gram matrix").fill
    except MemoryLimitError:
        return None
