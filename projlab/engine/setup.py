"""Setting up: the answer first, and a decision on the rank only where that does not do.

Operators, and sparse rows that fit no factor, are iterated on (`projlab.engine.iterated`). Rows
that share no column need no factor, dense rows of full rank a QR whose triangle proves it.
Where rows may be redundant, a pivoted Cholesky factorisation picks some that carry the others, and
these get a QR. In batches, or by the name of cholesky, the Gram matrix is factored with a shift too
small to see, and the projection corrected with true residuals, which takes the shift out of the
answer again: the component along a singular value sigma is left by s / (sigma^2 + s) each time, so
that what counts converges fast, and what counts as zero stays where it is. Two numbers say whether
that is all: whether random probes, projected, have come down to rounding on every row, and whether
A x - b has where zero is projected.

Reference: Riley, "Solving systems of linear equations with a positive definite, symmetric, but
possibly ill-conditioned matrix", MTAC 9 (1955) (a shift, and iterations that remove it); Golub,
"Numerical methods for solving linear least squares problems", Numer. Math. 7 (1965).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine import blocks, careful, iterated, sparse, whitened
from projlab.engine.blocks import AnySolver
from projlab.engine.corrections import PROBES, Probes, Products, corrected, probes
from projlab.engine.facts import Facts
from projlab.engine.full_rank import of_full_rank, proven_facts, qr_reason
from projlab.engine.kernels import small_qr
from projlab.engine.solver import Solver, of_rows
from projlab.engine.variants import Factor, get
from projlab.engine.variants.cholesky import CholeskyFactor
from projlab.engine.variants.qr import QR, SmallQRFactor
from projlab.errors import (
    InconsistentError,
    MemoryLimitError,
    ProjlabError,
    RankDeficientError,
)
from projlab.numerics import memory, tuning
from projlab.numerics.precision import lowered, outside_inference_mode, stated_precision
from projlab.numerics.triangular import cholesky_solve, condition_bound, householder
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import Equilibrated, equilibrate, safe_norms
from projlab.system.options import Options
from projlab.system.row_choice import pivot_rows
from projlab.system.rows import DenseRows, SparseRows


def build(
    constraint: AffineConstraint, dtype: torch.dtype, options: Options, data: torch.dtype
) -> AnySolver:
    """Check, find structure, factor. Everything that can be refused is refused here.

    `dtype` is the working precision, `data` that of A and b, which decides rank and consistency.
    """
    if iterated.by_iteration(constraint, options):
        with _computing(constraint):
            return iterated.built(constraint, dtype, options, data)
    if constraint.rows.sparse:
        with _computing(constraint):
            by_blocks = blocks.built(constraint, dtype, options, data, build_one)
        if by_blocks is not None:
            return by_blocks
    return build_one(constraint, dtype, options, data)


def build_one(
    constraint: AffineConstraint, dtype: torch.dtype, options: Options, data: torch.dtype
) -> Solver:
    """As `build`, without looking for independent blocks."""
    with _computing(constraint):
        if _answers_first(constraint, options):
            small = _small(constraint, dtype, options, data)
            if small is not None:
                return small
            system = equilibrate(constraint, dtype)
            if not system.rows.disjoint():
                if sparse.possible(constraint, options):
                    by_factor = _by_sparse_factor(constraint, system, dtype, options, data)
                    if by_factor is not None:
                        return by_factor
                if iterated.last_resort(constraint, options):
                    return iterated.built(constraint, dtype, options, data)
                if system.rows.sparse:
                    system = replace(system, rows=DenseRows(system.rows.to_dense()))
                solver = of_full_rank(constraint, system, options, data)
                if solver is None:
                    solver = _of_some_rows(constraint, system, options, data)
                if solver is None:
                    solver = _with_shift(constraint, system, options, data)
                if solver is not None:
                    return solver
        elif whitened.possible(constraint, options):
            solver = whitened.solver(constraint, dtype, options, data)
            if solver is not None:
                return solver
        return careful.decided(constraint, dtype, options, data)


def _by_sparse_factor(
    constraint: AffineConstraint,
    system: Equilibrated,
    dtype: torch.dtype,
    options: Options,
    data: torch.dtype,
) -> Solver | None:
    """By a sparse factor of all rows, or of those that carry the rank; None for a dense way.

    What is asked for, or found, may take a decision on the rank. Where that does not fit, what was
    found is raised.
    """
    refused: ProjlabError | None = None
    if sparse.takes(constraint, options):
        try:
            found = sparse.solver(constraint, system, options, data)
        except MemoryLimitError as error:
            if not iterated.last_resort(constraint, options):
                raise
            try:
                return iterated.built(constraint, dtype, options, data)
            except MemoryLimitError:
                raise error from None
        except (RankDeficientError, InconsistentError) as error:
            found, refused = None, error
        if found is not None:
            return found
        if refused is None and options.variant != sparse.NAME:
            return None
    elif options.variant != sparse.NAME and not sparse.costly(constraint, options):
        return None
    try:
        return careful.decided(constraint, dtype, options, data)
    except MemoryLimitError:
        if refused is not None:
            raise refused from None
        if iterated.last_resort(constraint, options):
            return iterated.built(constraint, dtype, options, data)
        raise


def _computing(constraint: AffineConstraint) -> AbstractContextManager[object]:
    kind = constraint.device.type
    # contexts cost as much as a small factorisation, and constants record no graph
    if not lowered(torch.float32, kind):
        return outside_inference_mode()
    return _stated(constraint.device)


@contextmanager
def _stated(device: torch.device) -> Iterator[None]:
    with outside_inference_mode(), stated_precision(device):
        yield


def _answers_first(constraint: AffineConstraint, options: Options) -> bool:
    return (
        constraint.m > 1
        and options.rank == "numerical"
        and options.metric is None
        and options.variant in ("auto", "qr", "cholesky", sparse.NAME)
    )


_WITH_ENTRIES = DenseRows, SparseRows
"""Rows that a kernel can read, named once: a small system's set-up is measured in microseconds."""


def _small(
    constraint: AffineConstraint, dtype: torch.dtype, options: Options, data: torch.dtype
) -> Solver | None:
    """As `of_full_rank` and `_of_some_rows`, equilibration included, by a kernel for a few rows."""
    rows = constraint.rows
    m, n = rows.shape
    some = _takes_redundant(options, data, dtype)
    if (
        not isinstance(rows, _WITH_ENTRIES)
        or rows.dtype is not dtype
        or not tuning.small_set_up(m, n)
        or options.variant == sparse.NAME
        or (m > n and not some)
        or options.variant == "cholesky"
        or options.applications == 1  # which does not pay for importing numba
    ):
        return None
    try:
        entries = rows.to_dense()
    except MemoryLimitError:
        return None
    u = tolerance.unit_roundoff(data)
    limit = tolerance.proven_condition(m, n, u)
    near = tolerance.gram_pivot_threshold(m, u) if some else 0.0
    made = small_qr.factored(entries, constraint.b, safe_norms(dtype), limit, near)
    if made is None or not made.bound <= limit:  # NaN too
        return None
    factor, kept = SmallQRFactor(made.W, made.R).with_kernel(made.kernel), made.kept
    if kept is None:
        reason = qr_reason(made.bound, m, n, dtype, options)
        if reason is None:
            return None
        facts = proven_facts(constraint, dtype, options, data, (made.bound,))
    else:
        E, f = entries * made.D.unsqueeze(-1), constraint.b * made.D
        if not _carried(E, f, factor, made.c):
            return None
        reason = _some_carry(QR.name, len(kept), m, n)
        facts = Facts(constraint, dtype, options.rank, data)
    return Solver(
        shape=(m, n),
        batch=None,
        dtype=dtype,
        device=rows.device,
        variant=QR.name,
        reason=reason,
        facts=facts,
        factor=factor,
        kept=kept,
        units=(made.D if kept is None else made.D[kept],),
        onto_range=None,
        metric=None,
        c=made.c,
        decided=kept is None,
    )


def _takes_redundant(options: Options, data: torch.dtype, work: torch.dtype) -> bool:
    """Whether nothing asks which rows are redundant, of data that tells them by rounding."""
    return (
        options.accuracy is None
        and options.on_redundant == "drop"
        and options.on_inconsistent == "raise"
        and data is torch.float64 is work
    )


def _of_some_rows(
    constraint: AffineConstraint, system: Equilibrated, options: Options, data: torch.dtype
) -> Solver | None:
    """By QR of rows that a pivoted Cholesky factorisation picks, where all others follow.

    That the rows picked are independent is proven by their triangle; that the others follow from
    them, and agree with them in b, shows when random vectors, and zero, are projected.
    """
    E, (m, n) = system.rows.to_dense(), system.rows.shape
    if (
        options.variant not in ("auto", "qr")
        or constraint.batch is not None
        or not _takes_redundant(options, data, E.dtype)
    ):
        return None
    kept = pivot_rows(E, tolerance.gram_pivot_threshold(m, tolerance.unit_roundoff(data)))
    r = len(kept)
    if not 0 < r <= n:
        return None
    some = system.rows.select(kept)
    reflectors = householder(some.to_dense().mT)
    bound = float(condition_bound(reflectors.R))
    u = tolerance.unit_roundoff(data)
    if not bound <= tolerance.proven_condition(m, n, u):  # NaN too
        return None
    factor: Factor
    if options.variant == "auto" and some.disjoint():
        name, factor = "single_row", get("single_row").factor(some, u)
    else:
        name, factor = "qr", QR().factor_from(reflectors, some, u)
    if not _carried(E, system.f, factor, factor.right_side(system.f[kept])):
        return None
    reason = _some_carry(name, r, m, n)
    facts = Facts(constraint, E.dtype, options.rank, data)
    picked = Equilibrated(some, system.f[kept], system.exponent[kept])
    solver = of_rows(constraint, picked, factor, name, reason, facts)
    return replace(solver, kept=kept, decided=False)


def _some_carry(name: str, r: int, m: int, n: int) -> str:
    return (
        f"{name}: {r} of {m} rows in {n} variables carry the others, to rounding: random "
        "vectors, and zero, projected onto these end on all of them"
    )


def _carried(E: Tensor, f: Tensor, factor: Factor, c: Tensor) -> bool:
    """Whether random vectors, and zero, projected onto some rows end on all rows E x = f."""
    n = E.shape[1]
    zero = factor.project(E.new_zeros(1, n), c)
    random = probes(PROBES, n, E.dtype, E.device)
    return _at_rest(E, f, random, factor.project(random, None), zero)


def _at_rest(E: Tensor, f: Tensor, random: Tensor, projected: Tensor, zero: Tensor) -> bool:
    """Whether E z of projected probes (k, n) and E x - f of zero (1, n) projected are rounding."""
    limit = tolerance.ANSWERED * tolerance.unit_roundoff(E.dtype)
    norm = torch.linalg.vector_norm
    norms = norm(E, dim=-1)
    # by norms: a projection by an orthonormal basis errs by u ||z|| in any entry
    left = (projected @ E.mT).abs() <= limit * norms * norm(random, dim=-1, keepdim=True)
    allowed = norms * norm(zero) + f.abs()
    consistent = (zero[0] @ E.mT - f).abs() <= limit * allowed
    return bool(left.all() & consistent.all())


def _with_shift(
    constraint: AffineConstraint, system: Equilibrated, options: Options, data: torch.dtype
) -> Solver | None:
    """By a shifted Gram matrix, where a probe and the right side come down to rounding."""
    m, n = constraint.m, constraint.n
    if options.variant not in ("auto", "cholesky") or not _takes_redundant(
        options, data, system.rows.dtype
    ):
        return None
    E = system.rows.to_dense()
    memory.require(
        (constraint.batch or 1) * m * (3 * m + n) * 8,
        f"the Gram matrix of {m} x {n} rows",
        constraint.device,
    )
    shift = tolerance.gram_shift(m)
    G = E @ E.mT
    G.diagonal(dim1=-2, dim2=-1).add_(shift)
    L, failed = torch.linalg.cholesky_ex(G)
    if bool(failed.any()):
        return None
    products = Products(system.rows.matvec, system.rows.rmatvec, lambda r: cholesky_solve(L, r))
    found = corrected(Probes(system.rows, system.f, products))
    if not found.answered:
        return None
    passes = found.passes
    factor = CholeskyFactor(E.contiguous(), L, passes)
    reason = (
        f"cholesky: {m} rows in {n} variables, of which some may be redundant; with a shift of "
        f"{shift:.1g} the Gram matrix is factored all the same, and {passes} corrections brought "
        "random vectors and the right side down to rounding"
    )
    facts = Facts(constraint, system.rows.dtype, options.rank, data)
    solver = of_rows(constraint, system, factor, "cholesky", reason, facts)
    if options.variant != "cholesky" or not _independent(L, m, n, shift):
        return replace(solver, decided=False)
    facts.known_ranks = (m,) * (constraint.batch or 1)
    return replace(
        solver,
        reason=f"cholesky: asked for by name; {passes} corrections brought random vectors and the "
        "right side down to rounding",
    )


def _independent(L: Tensor, m: int, n: int, shift: float) -> bool:
    """Whether no row is redundant: the smallest eigenvalue is more than the shift makes of zero.

    It is at least 1 / ||L^-1||_F^2, the shift included; one that exceeds the shift on its own is
    the square of a singular value far above any cutoff.
    """
    eye = torch.eye(m, dtype=L.dtype, device=L.device)
    inverse = torch.linalg.solve_triangular(L, eye.expand_as(L), upper=False)
    smallest = 1 / torch.linalg.vector_norm(inverse, dim=(-2, -1)).square()
    cutoff = tolerance.rank_cutoff(m, n, tolerance.unit_roundoff(L.dtype))
    return bool((smallest > 2 * shift).all()) and shift > (tolerance.PROVEN * cutoff) ** 2 * 2 * m
