"""Setting up by QR where its own triangle proves full rank: no singular values are needed."""

import torch

from projlab import tolerance
from projlab.engine.facts import Facts
from projlab.engine.select import Reason, Traits, settled
from projlab.engine.solver import Solver, of_rows
from projlab.engine.variants.qr import QR
from projlab.numerics.scaling import widened
from projlab.numerics.triangular import condition_bound, householder
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import Equilibrated
from projlab.system.options import Options


def of_full_rank(
    constraint: AffineConstraint,
    system: Equilibrated,
    options: Options,
    data: torch.dtype,
    stretch: float = 1.0,
) -> Solver | None:
    """By QR, where its triangle proves that no row is redundant, by far.

    The rank is that of other rows, whose condition number is at most `stretch` times as large.
    """
    m, n = constraint.m, constraint.n
    if m > n or options.variant == "cholesky":
        return None
    E = system.rows.to_dense()
    reflectors = householder(widened(E).mT)
    bounds = tuple(condition_bound(reflectors.R).reshape(-1).tolist())
    dtype = system.rows.dtype
    limit = tolerance.proven_condition(m, n, tolerance.unit_roundoff(data))
    if not all(stretch * bound <= limit for bound in bounds):  # NaN too
        return None
    reason = qr_reason(max(bounds), m, n, dtype, options)
    if reason is None:
        return None
    factor = QR().factor_from(reflectors, system.rows, tolerance.unit_roundoff(dtype))
    facts = proven_facts(constraint, dtype, options, data, bounds)
    return of_rows(constraint, system, factor, QR.name, reason, facts)


def qr_reason(
    bound: float, m: int, n: int, dtype: torch.dtype, options: Options
) -> str | Reason | None:
    """Why QR is taken of rows of full rank, where a bound on their condition suffices for it."""
    known = Traits(
        m=m,
        n=n,
        disjoint=False,
        diagonal_metric=True,
        condition=bound,
        measured=False,
        dtype=dtype,
    )
    found = settled(options.variant, known, options.accuracy, options.applications)
    return None if found is None or found[0].name != QR.name else found[1]


def proven_facts(
    constraint: AffineConstraint,
    dtype: torch.dtype,
    options: Options,
    data: torch.dtype,
    bounds: tuple[float, ...],
) -> Facts:
    """What is known where no row is redundant."""
    ranks = (constraint.m,) * len(bounds)
    return Facts(constraint, dtype, options.rank, data, known_ranks=ranks, bounds=bounds)
