"""What a system A x = b is: numerical rank, redundant rows, conflicting rows, scaling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import InconsistentError, InputError
from projlab.numerics.exact_rank import independent_rows
from projlab.numerics.scaling import scale
from projlab.numerics.triangular import Reflectors
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import Equilibrated, equilibrate
from projlab.system.options import check_rank
from projlab.system.rank import Rank, RankRule, cutoff_of, decide, decide_each

_SHOWN = 5
_SIMPLE = 100


@dataclass(frozen=True)
class Combination:
    """A row of A that is a linear combination of others."""

    name: str
    row: int
    """Index of the dependent row."""
    terms: tuple[tuple[str, float], ...]
    """(name, coefficient) in the caller's units; empty for a row of zeros."""
    left: float
    """b of the dependent row."""
    right: float
    """The same combination of the other rows' b."""

    @property
    def expression(self) -> str:
        """The combination, as in "2 * row 0 - row 1"; "0" for a row of zeros."""
        if not self.terms:
            return "0"
        parts = []
        for i, (name, c) in enumerate(self.terms):
            sign = "-" if c < 0 else "+" if i else ""
            size = f"{abs(c):.6g}"
            factor = "" if size == "1" else f"{size} * "
            if i == 0:
                parts.append(f"{sign}{factor}{name}")
            elif i < 2 * _SHOWN:
                parts.append(f" {sign} {factor}{name}")
        hidden = len(self.terms) - 2 * _SHOWN
        return "".join(parts) + (f" + {hidden} more terms" if hidden > 0 else "")

    def __str__(self) -> str:
        return f"{self.name} = {self.expression}"

    def contradiction(self) -> str:
        """The combination read with both right-hand sides."""
        if not self.terms:
            return f"{self.name} reads 0 = {self.left:.6g}"
        return (
            f"{self.name} = {self.expression} on the left, but its b is {self.left:.17g} and "
            f"the combination's is {self.right:.17g}"
        )


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
    gap: tuple[float, float]
    """sigma_rank / sigma_1 and the next smaller one / sigma_1, between which the cutoff falls."""
    cutoff: float
    """Relative to sigma_1."""
    redundant: tuple[Combination, ...]
    conflicting: tuple[Combination, ...]
    scaling: Scaling

    @property
    def consistent(self) -> bool:
        """Whether some x satisfies every equation, up to rounding."""
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
        lines.append(f"condition number of the equilibrated rows {self.condition:.3g}")
        lines.append(
            f"row norms from {self.scaling.smallest:.3g} to {self.scaling.largest:.3g} "
            f"(ratio {self.scaling.spread:.3g})"
        )
        lines += _section("redundant rows", [str(c) for c in self.redundant])
        lines += _section("conflicting rows", [c.contradiction() for c in self.conflicting])
        return "\n".join(lines)


def _section(title: str, entries: list[str]) -> list[str]:
    count = len(entries) or "no"
    lines = [f"{count} {title.removesuffix('s') if count == 1 else title}"]
    lines += [f"  {entry}" for entry in entries[:_SHOWN]]
    if len(entries) > _SHOWN:
        lines.append(f"  and {len(entries) - _SHOWN} more")
    return lines


def diagnose(A: Any, b: Any = None, *, rank: RankRule = "numerical") -> Diagnosis:
    """Rank, redundant and conflicting rows, condition and scaling of A x = b.

    Parameters
    ----------
    A, b
        As `AffineConstraint` takes them, or one AffineConstraint as A; not batched.
    rank
        "numerical" (singular values of the equilibrated rows above max(m, n) eps sigma_max),
        a relative tolerance instead of max(m, n) eps, or "exact" (entries taken literally).

    Raises
    ------
    InputError
        As `AffineConstraint` does; for batched A; another rank than those.
    MemoryLimitError
        A sparse system whose rows overlap and whose dense form does not fit.

    References
    ----------
    Golub and Van Loan, "Matrix Computations", 4th ed., section 5.4.1 (numerical rank); Gu and
    Eisenstat, SIAM J. Sci. Comput. 17 (1996) (choice of independent rows).
    """
    constraint = as_constraint(A, b)
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
        gap=decision.gap,
        cutoff=cutoff_of(rule, constraint.m, constraint.n, u),
        redundant=combinations(constraint, analysis, 0, range(constraint.m - decision.rank)),
        conflicting=analysis.conflicts.get(0, ()),
        scaling=Scaling(
            float(nonzero.min()) if len(nonzero) else 0.0,
            float(nonzero.max()) if len(nonzero) else 0.0,
        ),
    )


def as_constraint(A: Any, b: Any) -> AffineConstraint:
    """A itself where it is an AffineConstraint (then no b), else one built from A and b."""
    if not isinstance(A, AffineConstraint):
        return AffineConstraint(A, b)
    if b is not None:
        raise InputError("A is an AffineConstraint and holds its own b; give no other")
    return A


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """float16 and bfloat16 are worked in float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


@dataclass(frozen=True)
class Analysis:
    """The equilibrated system, and per element of the batch (one without) rank and conflicts."""

    system: Equilibrated
    decisions: tuple[Rank, ...]
    conflicts: dict[int, tuple[Combination, ...]] = field(default_factory=dict)
    """Per element: the rows that contradict the others; absent where it is consistent."""

    @property
    def reflectors(self) -> Reflectors | None:
        """Householder QR of E' in float64, where the rank decision left one for every system."""
        made = [d.reflectors for d in self.decisions if d.reflectors is not None]
        if len(made) < len(self.decisions):
            return None
        if self.system.rows.batch is None:
            return made[0]
        return Reflectors(*(torch.stack(parts) for parts in zip(*made, strict=True)))


Judged = tuple[tuple[Rank, ...], dict[int, tuple[Combination, ...]]]
"""What is kept with a constraint: an `Analysis` less the rows."""


def analyse(
    constraint: AffineConstraint,
    dtype: torch.dtype,
    rule: RankRule,
    data: torch.dtype,
    *,
    measured: bool = False,
) -> Analysis:
    """Equilibrate in `dtype`, decide the rank, judge consistency; kept with the constraint.

    Rank and consistency are of the data: its precision decides them, however wide the work.
    `measured` asks for singular values where the rank can do without.
    """
    system = equilibrate(constraint, dtype)
    cache: dict[tuple[Any, ...], Judged] = constraint._cache  # type: ignore[attr-defined]
    key = (dtype, rule, data)
    decisions, conflicts = cache.get(key, (None, {}))
    if decisions is None or (measured and not all(d.measured for d in decisions)):
        u = tolerance.unit_roundoff(data)
        if constraint.batch is None:
            decisions = (decide(system.rows, u, rule),)
        else:
            decisions = decide_each(system.rows, u, rule)
        if measured:
            decisions = tuple(decision.measure() for decision in decisions)
        analysis = Analysis(system, decisions)
        for i, decision in enumerate(decisions):
            if len(decision.dropped):
                bad = _conflicting(system.element(i), decision, u, rule)
                if bad:
                    analysis.conflicts[i] = combinations(constraint, analysis, i, bad)
        # rows and reflectors are as large as A: for the factorisation that follows, and not kept
        kept = tuple(replace(decision, reflectors=None) for decision in decisions)
        cache[key] = kept, analysis.conflicts
        return analysis
    return Analysis(system, decisions, conflicts)


def _conflicting(system: Equilibrated, decision: Rank, u: float, rule: RankRule) -> list[int]:
    """Positions in `decision.dropped` whose right-hand sides contradict the kept rows.

    With x^ = E_r^+ f, row i is off where |E x^ - f|_i exceeds the consistency factor times
    ||e_i|| ||x^|| + |f_i|. The residual is the part of f outside the range of E_r.
    """
    m, n = system.rows.shape
    # the decision may have been taken on the CPU where the device has no float64
    dropped, kept = decision.dropped, decision.kept
    f = system.f.to(dropped.device).double()
    norms = system.rows.row_norms().to(dropped.device).double()
    factor = tolerance.consistency_factor(cutoff_of(rule, m, n, u))
    zero = norms[dropped] == 0
    off = zero & (f[dropped] != 0)
    if decision.basis is not None:
        assert decision.coefficients is not None
        basis = decision.basis
        inside = basis.mT @ f
        residual = (f - basis @ inside).abs()
        xhat = torch.linalg.vector_norm(inside / decision.sigma)
        C = decision.coefficients
        allowed = factor * (norms * xhat + f.abs())
        mismatch = (f[dropped] - C @ f[kept]).abs()
        weight = allowed[dropped] + C.abs() @ allowed[kept]
        if bool((residual > allowed)[norms > 0].any()):
            # the combinations that carry the contradiction, at least the clearest of them
            ratio = torch.where(zero, 0.0, mismatch / weight.clamp_min(torch.finfo(f.dtype).tiny))
            off = off | (ratio > min(1.0, float(ratio.max()) * (1 - 1e-12)))
    if rule == "exact":
        augmented = torch.cat([system.rows.to_dense(), system.f.unsqueeze(-1)], -1)
        extra = set(independent_rows(augmented.double().cpu().numpy())) - set(kept.tolist())
        off = torch.tensor([int(i) in extra for i in dropped], device=dropped.device)
    return [int(i) for i in off.nonzero().flatten()]


def combinations(
    constraint: AffineConstraint, analysis: Analysis, element: int, positions: Any
) -> tuple[Combination, ...]:
    """How the dropped rows at `positions` follow from the kept ones, in the caller's units."""
    decision = analysis.decisions[element]
    lead = () if constraint.batch is None else (element,)
    exponent = analysis.system.exponent[lead].tolist()
    b = constraint.b[lead].tolist()
    dropped, kept = decision.dropped.tolist(), decision.kept.tolist()
    names = constraint.names
    result = []
    for position in positions:
        row = dropped[position]
        terms, right = [], 0.0
        for k in _loud(decision, position):
            assert decision.coefficients is not None
            other = kept[k]
            weight = float(decision.coefficients[position, k])
            coefficient = _ldexp(weight, exponent[other] - exponent[row])
            # most real combinations have coefficients as 1, -2 or 1/3
            if math.isfinite(coefficient):
                simple = float(Fraction(coefficient).limit_denominator(_SIMPLE))
                if abs(coefficient - simple) < tolerance.COMBINATION_NOISE * abs(simple):
                    coefficient = simple
            terms.append((names[other], coefficient))
            right += coefficient * b[other]
        result.append(Combination(names[row], row, tuple(terms), b[row], right))
    return tuple(result)


def _loud(decision: Rank, position: int) -> list[int]:
    """Kept rows whose coefficients in a dropped one are more than rounding."""
    if decision.coefficients is None:
        return []
    size = decision.coefficients[position].abs()
    loud = (size > tolerance.COMBINATION_NOISE * size.max()).nonzero().flatten()
    return [int(k) for k in loud]


def _ldexp(value: float, exponent: int) -> float:
    """value * 2**exponent; infinite where no float is that large."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)


def first_few(rows: Sequence[str]) -> str:
    """What is said of each row, for a message: the first five, and how many more there are."""
    more = [f"and {len(rows) - _SHOWN} more rows"] if len(rows) > _SHOWN else []
    return "; ".join([*rows[:_SHOWN], *more])


def raise_inconsistent(constraint: AffineConstraint, analysis: Analysis) -> None:
    """Raise `InconsistentError` with the rows and the combination that prove it."""
    element, conflicts = next(iter(analysis.conflicts.items()))
    where = "A x = b" if constraint.batch is None else f"system {element} of the batch"
    shown = first_few([c.contradiction() for c in conflicts])
    raise InconsistentError(
        f"{where} has no solution: {shown}. Mend b, or ask for the nearest point of the "
        'least-squares set with on_inconsistent="least_squares".'
    )


def range_projection(exponent: Tensor, decision: Rank) -> Tensor | None:
    """Orthonormal basis (m, rank) of the range of the unscaled A; None where b stays as it is.

    Rows as given: least squares, unlike the affine set itself, depends on their scaling. A global
    power of two keeps the unscaled basis in range.
    """
    if decision.basis is None:
        return None
    exponent = exponent.to(decision.basis.device)
    unscaled = scale(decision.basis, (exponent.min() - exponent).unsqueeze(-1))
    orthonormal: Tensor = torch.linalg.qr(unscaled).Q
    return orthonormal
