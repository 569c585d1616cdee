"""Setting up in a diagonal metric, the answer first: in the variables L x it is a projection.

L is the square root of W. The rows divided by it are equilibrated and factored as any others are,
sparse ones without making them dense. What is decided of A, its rank and whether A x = b has a
solution, is decided of the rows as given all the same: a condition number, and a singular value
over the largest, differ between the two by a factor of at most `_stretch`, which either is far
enough from what decides or leaves the decision to `projlab.engine.careful`.

Reference: van der Sluis, "Condition numbers and equilibration of matrices", Numer. Math. 14 (1969)
(rows of equal norms are within sqrt(m) of the best row scaling).
"""

import math
from dataclasses import replace

import torch

from projlab import tolerance
from projlab.engine import careful, sparse
from projlab.engine.full_rank import of_full_rank
from projlab.engine.solver import Solver
from projlab.errors import InconsistentError, MemoryLimitError, ProjlabError, RankDeficientError
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import Equilibrated, equilibrate
from projlab.system.metric import Metric, factor_metric
from projlab.system.options import Options
from projlab.system.rows import DenseRows


def possible(constraint: AffineConstraint, options: Options) -> bool:
    """Whether a projection in the metric may be had without a decision on the rank."""
    return (
        constraint.m > 1
        and constraint.batch is None
        and options.metric is not None
        and options.metric.dim() == 1
        and options.rank == "numerical"
        and options.on_inconsistent == "raise"
        and options.variant in ("auto", "qr", sparse.NAME)
    )


def solver(
    constraint: AffineConstraint, dtype: torch.dtype, options: Options, data: torch.dtype
) -> Solver | None:
    """By a factor of the rows over L; None where the rank has to be decided.

    Where a sparse factor refused, a decision is tried here: if it does not fit, what was refused is
    raised.
    """
    assert options.metric is not None
    metric = factor_metric(options.metric, dtype, constraint.device)
    given = equilibrate(constraint, dtype)
    rows = given.rows.divide_columns(metric.L)
    size = float(rows.row_max().max())
    if not 0 < size < math.inf or rows.disjoint():  # NaN too
        return None
    white = AffineConstraint(rows, given.f, constraint.given_names)
    system = equilibrate(white, dtype)
    stretch = _stretch(constraint.m, metric)
    plain = replace(options, metric=None)
    refused: ProjlabError | None = None
    found = None
    # of the rows over L, equilibrated, least squares would be others than of those given
    if sparse.takes(white, plain) and plain.on_inconsistent == "raise":
        try:
            found = sparse.solver(white, system, plain, data, stretch)
        except (RankDeficientError, InconsistentError) as error:
            refused = error
        if found is not None and not _holds(found, given, metric, stretch):
            found = None
    if found is None and refused is None and options.variant != sparse.NAME:
        if system.rows.sparse:
            system = replace(system, rows=DenseRows(system.rows.to_dense()))
        found = of_full_rank(white, system, plain, data, stretch)
    if refused is not None:
        try:
            return careful.decided(constraint, dtype, options, data)
        except MemoryLimitError:
            raise refused from None
    if found is None:
        return None
    facts = replace(found.facts, constraint=constraint, measured_on=white)
    units = (*given.units, *found.units)
    return replace(found, facts=facts, units=units, metric=metric)


def _stretch(m: int, metric: Metric) -> float:
    """How far apart condition numbers of E and of the rows over L, equilibrated, may be.

    sqrt(m) for equal norms of m rows, twice 2 for norms that are equal within a factor sqrt(2).
    """
    smallest, largest = metric.extremes
    return 4 * math.sqrt(m) * largest / smallest


def _holds(found: Solver, given: Equilibrated, metric: Metric, stretch: float) -> bool:
    """Whether what a shift and corrections made of the rows over L is so of the rows as given.

    Singular values that count as zero stay zero, which they do far below the root of the shift;
    and the equations hold where zero is projected, by their own norms.
    """
    if found.facts.proven():
        return True
    (m, n), u = given.rows.shape, tolerance.unit_roundoff(found.facts.data)
    cutoff = tolerance.rank_cutoff(m, n, u)
    if not stretch * cutoff <= tolerance.far_below_shift(m):
        return False
    assert found.factor is not None
    zero = found.factor.project(given.f.new_zeros(n), found.c)
    x = metric.unwhiten(zero, dual=False)
    allowed = given.rows.row_norms() * torch.linalg.vector_norm(x) + given.f.abs()
    off = (given.rows.matvec(x) - given.f).abs()
    return bool((off <= tolerance.consistency_factor(cutoff) * allowed).all())
