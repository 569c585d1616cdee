"""Setting up sparse rows that share columns, without making them dense.

The sparse factor of the shifted Gram matrix answers where random vectors and the right side come
down to rounding, as in `projlab.engine.setup`. For "auto" it is taken where a dense one would cost
more or does not fit.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch

from projlab import tolerance
from projlab.engine.corrections import Corrected
from projlab.engine.facts import Facts
from projlab.engine.ranges import SparseRange, transposed
from projlab.engine.select import MANY
from projlab.engine.solver import Solver, of_rows
from projlab.engine.variants.sparse_cholesky import (
    Judged,
    SparseCholeskyFactor,
    gram_of,
    judged,
    judged_alone,
    too_slow,
)
from projlab.errors import InconsistentError, InputError, MemoryLimitError, RankDeficientError
from projlab.numerics import memory, tuning
from projlab.numerics.scaling import widened
from projlab.numerics.sparse_gram import SparseGram
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import Equilibrated, equilibrated_side
from projlab.system.options import Options
from projlab.system.rows import Rows

NAME = "sparse_cholesky"


def possible(constraint: AffineConstraint, options: Options) -> bool:
    """Whether a sparse factor, of all rows or of those that carry the rank, can be what is used."""
    return (
        constraint.m > 1
        and (constraint.batch is None or constraint.rows.sparse)
        and options.metric is None
        and (options.on_inconsistent == "raise" or constraint.batch is None)
        and (options.variant == NAME or (options.variant == "auto" and constraint.rows.sparse))
    )


def takes(constraint: AffineConstraint, options: Options) -> bool:
    """Whether nothing asks for a decision that a sparse factor does not take."""
    return (
        possible(constraint, options)
        and options.rank == "numerical"
        and options.accuracy is None
        and options.on_redundant == "drop"
    )


def dense_fits(constraint: AffineConstraint) -> bool:
    """Whether a dense factor fits into memory."""
    B = constraint.batch or 1
    needed = memory.factorisation_bytes(constraint.m, constraint.n, torch.float64, B)
    return needed <= memory.limit(constraint.device)


def costly(constraint: AffineConstraint, options: Options) -> bool:
    """Whether a dense factor is the dearer one even if L has no fill, or does not fit."""
    rows = constraint.rows
    m = (rows.batch or 1) * rows.shape[0]
    least = _sparse_cost(m, rows.nnz, m, 0.0, options)
    return dearer(dense_cost(rows), least, options) or not dense_fits(constraint)


def solver(
    constraint: AffineConstraint,
    system: Equilibrated,
    options: Options,
    data: torch.dtype,
    stretch: float = 1.0,
) -> Solver | None:
    """By the sparse factor; None where a dense way is cheaper, or has to decide, and fits.

    The rank is that of other rows, whose condition number is at most `stretch` times as large.

    Raises
    ------
    InconsistentError
        Zero is projected onto no point of the set: a decision on the rank may still tolerate that.
    MemoryLimitError, RankDeficientError
        It does not fit, or not do, and neither does a dense way fit.
    """
    auto = options.variant == "auto"
    if auto and not costly(constraint, options):
        return None
    fits, dense = dense_fits(constraint), dense_cost(constraint.rows)
    batch = constraint.batch
    try:
        gram = gram_of(*system.rows.triplets(), system.rows.shape, batch)
        if auto and fits and not dearer(dense, cost_of(gram, options), options):
            return None
        gram.factor()
        onto_range = _compromise(constraint, gram, options, data, fits=fits)
        if onto_range is not None:
            system = _as_given(constraint, system, onto_range)
            gram = gram_of(*system.rows.triplets(), system.rows.shape)
            gram.factor()
    except (MemoryLimitError, InputError, RankDeficientError):
        if fits:
            return None
        raise
    # where each correction takes many steps, a dense factor that fits is faster
    steps = tolerance.INNER_STEPS[:1] if fits and auto else tolerance.INNER_STEPS
    best = judged(gram, system.rows, system.f.double(), steps)
    factor = best.factor(constraint.rows.shape, batch)
    dtype = system.rows.dtype
    facts = Facts(constraint, dtype, options.rank, data, factor=factor, stretch=stretch)
    try:
        _require_answer(constraint, best.found, facts, met=onto_range is not None)
    except RankDeficientError:
        if fits:
            return None
        raise
    reason, decided = _reason(constraint.rows, best, options, fits), bool(facts.known_ranks)
    if onto_range is not None:
        reason += "; what contradicts in b is taken out by a sparse factor of the columns"
    made = of_rows(constraint, system, factor, NAME, reason, facts, decided=decided)
    return made if onto_range is None else replace(made, onto_range=onto_range)


def _as_given(
    constraint: AffineConstraint, system: Equilibrated, onto_range: SparseRange
) -> Equilibrated:
    """A x = Q b with one factor for all rows, the longest of norm one.

    Q b is off by rounding of b, which in a short row is much: equilibrated, that would count as
    much as a long row's.
    """
    norms = system.rows.row_max()
    longest = torch.where(norms > 0, system.exponent, system.exponent.max()).min()
    exponent = torch.full_like(system.exponent, int(longest))
    rows = constraint.rows.to(torch.promote_types(constraint.dtype, system.rows.dtype))
    f = equilibrated_side(onto_range(widened(constraint.b)), exponent)
    return Equilibrated(rows.scale_rows(exponent).to(system.rows.dtype), f.to(system.f), exponent)


def _compromise(
    constraint: AffineConstraint,
    gram: SparseGram,
    options: Options,
    data: torch.dtype,
    *,
    fits: bool,
) -> SparseRange | None:
    """b onto the range of A, in least squares; None where every b is there, or is to be.

    Raises
    ------
    RankDeficientError
        Corrections with the factor of the columns are too slow, or a dense basis that fits takes
        less time than that factor.
    MemoryLimitError
        It does not fit.
    """
    if options.on_inconsistent == "raise":
        return None
    rows, (m, n) = constraint.rows, constraint.rows.shape
    cutoff = tolerance.rank_cutoff(m, n, tolerance.unit_roundoff(data))
    if m <= n and gram.independent(tolerance.PROVEN * cutoff, tolerance.FAR_ABOVE):
        return None
    most = DECIDED * dense_cost(rows).set_up if fits else math.inf
    # a row of k entries is a full k x k block of A'A
    k = int(torch.bincount(rows.triplets()[0], minlength=1).max())
    least = _sparse_cost(n, rows.nnz, max(n, k * k // 2), k**3 / 3, options)
    if least.set_up <= most:
        columns = transposed(rows)
        found = gram_of(*columns.triplets(), columns.shape)
        if cost_of(found, options).set_up <= most:
            return SparseRange(judged_alone(found, columns).factor(columns.shape))
    raise RankDeficientError("a dense basis of the range of A takes less time than its columns")


DECIDED = 8.0
"""Dense set-ups in the time of a decision on the rank, by singular values, and a basis."""


def _require_answer(
    constraint: AffineConstraint, found: Corrected, facts: Facts, *, met: bool
) -> None:
    """Raise unless the corrections came down to rounding, for this precision of the data.

    And unless A x = b has a solution, or was made to have one (`met`).
    """
    m, n = constraint.m, constraint.n
    if not found.at_rest:
        raise RankDeficientError(too_slow(m, n, found))
    u = tolerance.unit_roundoff(facts.data)
    allowed = tolerance.consistency_factor(tolerance.rank_cutoff(m, n, u))
    if not met and not found.off <= allowed:
        system, row = divmod(found.worst, m)
        where = "A x = b" if constraint.batch is None else f"system {system} of the batch"
        raise InconsistentError(
            f"{where} has no solution: at the nearest point {constraint.names[row]} is off "
            f"by {found.off:.2g} of ||a_i|| ||x|| + |b_i|, more than rounding of the data, "
            f"{allowed:.2g}. Mend b, or leave rows out that contradict others."
        )
    if facts.data is not torch.float64 and not facts.proven():
        raise RankDeficientError(
            f"{NAME}: the rows are {facts.data}, and singular values of theirs may be below what "
            "that rounds to, which takes a decision on the rank that no sparse factor takes. Give "
            'them in float64, or use variant="qr" where a dense matrix fits.'
        )


def of_kept(
    constraint: AffineConstraint, rows: Rows, options: Options
) -> tuple[SparseCholeskyFactor, str] | None:
    """A sparse factor of the independent rows that were kept, and why it is taken.

    None where "auto" has something cheaper that fits, or corrections are too slow and a dense
    factor fits; otherwise they raise `RankDeficientError`.
    """
    fits, dense = dense_fits(constraint), dense_cost(rows)
    try:
        gram = gram_of(*rows.triplets(), rows.shape, rows.batch)
        if fits and not dearer(dense, cost_of(gram, options), options):
            return None
        best = judged_alone(gram, rows)
    except (MemoryLimitError, InputError, RankDeficientError):
        if fits:
            return None
        raise
    return best.factor(rows.shape, rows.batch), _reason(rows, best, options, fits)


class Cost(NamedTuple):
    """In dense operations of the time that they take."""

    set_up: float
    projection: float


def dense_cost(rows: Rows) -> Cost:
    """Of a dense QR of every system."""
    (m, n), systems = rows.shape, rows.batch or 1
    entries = systems * m * n
    far = tuning.DENSE_FAR if entries * rows.dtype.itemsize > tuning.DENSE_NEAR else 1.0
    return Cost(
        tuning.DENSE_SET_UP + tuning.DENSE_FACTORED * entries * min(m, n),
        tuning.DENSE_CALL + 4.0 * far * entries,
    )


def _sparse_cost(m: int, entries: int, fill: int, operations: float, options: Options) -> Cost:
    """Of a sparse factor of m rows: entries of A, and of L, and operations to factor."""
    training = options.applications > MANY
    each = tuning.SPARSE_PASSES * tuning.SPARSE_ENTRY * (entries + fill)
    return Cost(
        tuning.SPARSE_SET_UP
        + tuning.SPARSE_ROW * m
        + tuning.SPARSE_PREPARED * entries
        + tuning.SPARSE_FILL * fill
        + tuning.SPARSE_FACTORED * operations,
        (tuning.SPARSE_STEP if training else tuning.SPARSE_CALL) + each,
    )


def cost_of(gram: SparseGram, options: Options) -> Cost:
    """Of the factor of this matrix."""
    fill = gram.fill
    m, entries = gram.shape[0], len(gram.entries[0])
    return _sparse_cost(m, entries, fill.nonzeros, fill.operations, options)


def dearer(one: Cost, other: Cost, options: Options) -> bool:
    """Whether `one` is to be left for the other.

    By their sums where it is known how many projections follow. Where it is not, the one that is
    never behind by more: by the ratio of the set-ups at worst, or by that of the projections.
    """
    if options.applications == MANY:
        return one.set_up * one.projection > other.set_up * other.projection
    k = options.applications
    return one.set_up + k * one.projection > other.set_up + k * other.projection


def _reason(rows: Rows, best: Judged, options: Options, fits: bool) -> str:
    (m, n), (gram, inner, found) = rows.shape, best
    systems = "" if rows.batch is None else f"{rows.batch} systems of "
    steps = f" of {inner} steps of conjugate gradients" if inner else ""
    apart = f", {gram.apart} long columns kept apart" if gram.apart else ""
    why = (
        "asked for by name"
        if options.variant == NAME
        else (
            f"a dense factor of {systems}{m} rows in {n} variables "
            + (
                "would take longer to set up than it saves in projections"
                if fits
                else "does not fit into memory"
            )
        )
    )
    return (
        f"{NAME}: {why}; the sparse factor has {gram.fill.nonzeros:,} nonzeros{apart}, and "
        f"{found.passes} corrections{steps} brought random vectors and the right side down to "
        "rounding"
    )
