"""Setting up sparse rows that share columns, without making them dense.

The sparse factor of the shifted Gram matrix answers where random vectors and the right side come
down to rounding, as in `projlab.engine.setup`. For "auto" it is taken where a dense one would cost
more or does not fit.
"""

import torch

from projlab import tolerance
from projlab.engine.corrections import Corrected
from projlab.engine.facts import Facts
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
from projlab.numerics.sparse_gram import SparseGram
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import Equilibrated
from projlab.system.options import Options
from projlab.system.rows import Rows

NAME = "sparse_cholesky"


def possible(constraint: AffineConstraint, options: Options) -> bool:
    """Whether a sparse factor, of all rows or of those that carry the rank, can be what is used."""
    return (
        constraint.m > 1
        and (constraint.batch is None or constraint.rows.sparse)
        and options.metric is None
        and options.on_inconsistent == "raise"
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
    """Whether a dense factor takes longer than calls of a sparse one, or does not fit."""
    longer = _dense_operations(constraint.rows, options) > _operations(None, options)
    return longer or not dense_fits(constraint)


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
    fits, dense = dense_fits(constraint), _dense_operations(constraint.rows, options)
    batch = constraint.batch
    try:
        gram = gram_of(*system.rows.triplets(), system.rows.shape, batch)
        if auto and fits and dense <= _operations(gram, options):
            return None
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
        _require_answer(constraint, best.found, facts)
    except RankDeficientError:
        if fits:
            return None
        raise
    reason, decided = _reason(constraint.rows, best, options, fits), bool(facts.known_ranks)
    return of_rows(constraint, system, factor, NAME, reason, facts, decided=decided)


def _require_answer(constraint: AffineConstraint, found: Corrected, facts: Facts) -> None:
    """Raise unless the corrections came down to rounding, for this precision of the data."""
    m, n = constraint.m, constraint.n
    if not found.at_rest:
        raise RankDeficientError(too_slow(m, n, found))
    u = tolerance.unit_roundoff(facts.data)
    allowed = tolerance.consistency_factor(tolerance.rank_cutoff(m, n, u))
    if not found.off <= allowed:
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
    fits, dense = dense_fits(constraint), _dense_operations(rows, options)
    if fits and dense <= _operations(None, options):
        return None
    try:
        gram = gram_of(*rows.triplets(), rows.shape, rows.batch)
        if fits and dense <= _operations(gram, options):
            return None
        gram.factor()
        best = judged_alone(gram, rows)
        if not best.found.at_rest:
            raise RankDeficientError(too_slow(*rows.shape, best.found))
    except (MemoryLimitError, InputError, RankDeficientError):
        if fits:
            return None
        raise
    return best.factor(rows.shape, rows.batch), _reason(rows, best, options, fits)


def _dense_operations(rows: Rows, options: Options) -> float:
    """Of a dense QR of every system, and the projections that are to come."""
    m, n = rows.shape
    return 4.0 * (rows.batch or 1) * m * n * (min(m, n) + options.applications)


def _operations(gram: SparseGram | None, options: Options) -> float:
    """Dense operations in the time of a sparse factor and projections: calls alone for None."""
    calls = tuning.SPARSE_SET_UP + options.applications * tuning.SPARSE_CALL
    if gram is None:
        return calls
    entries = len(gram.entries[0]) + gram.fill.nonzeros
    each = 4.0 * tuning.SPARSE_PASSES * entries
    return calls + tuning.SPARSE_GAIN * (gram.fill.operations + options.applications * each)


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
            + ("would take longer" if fits else "does not fit into memory")
        )
    )
    return (
        f"{NAME}: {why}; the sparse factor has {gram.fill.nonzeros:,} nonzeros{apart}, and "
        f"{found.passes} corrections{steps} brought random vectors and the right side down to "
        "rounding"
    )
