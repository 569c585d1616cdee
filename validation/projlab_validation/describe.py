"""What a system A x = b is, before anything is projected: structure, rank, rows, conditioning."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from projlab import AffineConstraint, diagnose, tolerance
from projlab.numerics import tuning
from projlab.system.rows import as_rows
from projlab.system.structure import worthwhile_blocks
from projlab_validation.norms import row_norms
from projlab_validation.oracles import FLOPS, FLOPS_PER_SECOND, extreme_singular_values
from projlab_validation.problems import Problem
from projlab_validation.record import NAN

SHOWN = 20
"""Redundant and conflicting rows written out; the rest is counted."""

TRY_SHARE = 0.1
"""Of the time left one more rank decision may take."""

DENSE = 0.5
"""From this density on a matrix is called dense."""

LARGE = 2**20
SPARSE = 0.1
"""At this density or below, and of more entries, zeros included, a matrix is not made dense."""


@dataclass(frozen=True)
class SystemDescription:
    """What is known of a system; rank and what follows from it are None or NaN until analysed.

    Attributes
    ----------
    m, n, nnz, density
        Shape, and entries that are not zero.
    structure
        What a person would see in it, in words.
    rows_overlap
        Whether some column has nonzeros in two rows or more.
    row_norms
        Least and largest ‖aᵢ‖₂ of rows that are not zero.
    rank, ambiguous, gap, cutoff, condition
        As `projlab.system.diagnosis` finds them, relative to the largest singular value.
    condition_as_given, condition_is_least
        σ₁/σ_r of the rows before equilibration; whether that is only a lower bound.
    redundant, conflicting
        The first rows of either kind by name, with the combination that proves it.
    redundant_count, conflicting_count
        How many there are.
    tolerated_count, tolerated_off
        Rows that conflict within the stated error of b, and the largest such difference.
    off
        Largest difference between what a conflicting row asks and what the others make of it.
    analysis_s
        Seconds that the rank decision took; every variant needs it once.
    clear_cutoff
        Where the rank is ambiguous: a larger cutoff at which it is not, and no row contradicts the
        others; NaN where none was found.
    unknown
        Why rank and what follows from it are not known.
    """

    m: int
    n: int
    nnz: int
    density: float
    structure: tuple[str, ...]
    rows_overlap: bool
    row_norms: tuple[float, float]
    rank: int | None = None
    ambiguous: bool = False
    gap: tuple[float, float] = (NAN, NAN)
    cutoff: float = NAN
    condition: float = NAN
    condition_as_given: float = NAN
    condition_is_least: bool = False
    redundant: tuple[str, ...] = ()
    redundant_count: int = 0
    conflicting: tuple[str, ...] = ()
    conflicting_count: int = 0
    tolerated_count: int = 0
    tolerated_off: float = NAN
    off: float = NAN
    analysis_s: float = NAN
    clear_cutoff: float = NAN
    unknown: str = ""

    @property
    def one_point(self) -> bool:
        """Whether the equations have one solution alone."""
        return self.rank == self.n and self.consistent and not self.ambiguous

    @property
    def consistent(self) -> bool:
        """Whether some x satisfies every equation, as far as is known."""
        return not self.conflicting_count


def is_sparse(system: SystemDescription) -> bool:
    """Whether a system is worth keeping sparse."""
    return system.density <= SPARSE and system.m * system.n > LARGE


def predicted_seconds(problem: Problem) -> float:
    """What an analysis takes on a slow core, block by block where `projlab.diagnose` does that.

    0 where rows share no column and need none.
    """
    if not problem.rows_overlap:
        return 0.0
    blocks = worthwhile_blocks(as_rows(problem.A))
    operations = _whole(problem) if blocks is None else blocks.operations
    return FLOPS * operations / FLOPS_PER_SECOND


def set_up_share(problem: Problem) -> float:
    """Which part of the operations on the whole a variant needs to be set up: less with blocks."""
    blocks = worthwhile_blocks(as_rows(problem.A))
    if blocks is None or len(blocks.shapes()) > tuning.FEW_SHAPES:
        return 1.0
    return blocks.operations / _whole(problem)


def _whole(problem: Problem) -> float:
    short, long = sorted((problem.m, problem.n))
    return float(short * short * long)


def structure(problem: Problem) -> SystemDescription:
    """Describe what needs no factorisation."""
    A = problem.csr()
    m, n = A.shape
    norms = row_norms(A)
    nonzero = norms[norms > 0]
    overlap = problem.rows_overlap
    density = A.nnz / (m * n)
    return SystemDescription(
        m=m,
        n=n,
        nnz=A.nnz,
        density=density,
        structure=tuple(_words(A, density, overlap)),
        rows_overlap=overlap,
        row_norms=(float(nonzero.min()), float(nonzero.max())) if len(nonzero) else (0.0, 0.0),
    )


def _words(A: sp.csr_array, density: float, overlap: bool) -> list[str]:
    m, n = A.shape
    words = ["dense" if density >= DENSE else "sparse"]
    if m == 1:
        words.append("one row")
    elif not overlap:
        words.append("no two rows share a column")
    else:
        count, largest = _blocks(A)
        if count > 1:
            words.append(
                f"{count} blocks that share no variable, the largest of {largest[0]} rows in "
                f"{largest[1]} variables"
            )
    if A.nnz and np.isin(A.data, (-1.0, 1.0)).all():
        words.append("every entry is 0, 1 or −1" if (A.data < 0).any() else "every entry is 0 or 1")
    if empty := int(np.sum(np.diff(A.indptr) == 0)):
        words.append(f"{empty} {'rows are' if empty > 1 else 'row is'} zero")
    if free := n - len(np.unique(A.indices)):
        words.append(f"{free} {'variables are' if free > 1 else 'variable is'} in no equation")
    return words


def _blocks(A: sp.csr_array) -> tuple[int, tuple[int, int]]:
    """How many blocks share no variable, and rows and columns of the one with most rows."""
    m = A.shape[0]
    graph = sp.csr_array(sp.block_array([[None, A], [A.T, None]]))  # type: ignore[arg-type]
    labels = connected_components(graph, directed=False)[1]
    held = np.diff(A.indptr) > 0
    rows = np.bincount(labels[:m][held], minlength=labels.max() + 1)
    columns = np.bincount(labels[m:], minlength=labels.max() + 1)
    largest = int(rows.argmax())
    return int(np.sum(rows > 0)), (int(rows[largest]), int(columns[largest]))


def analysed(system: SystemDescription, constraint: AffineConstraint) -> SystemDescription:
    """Add what the engine's diagnosis finds; it is kept with the constraint, for the variants."""
    start = time.perf_counter()
    diagnosis = diagnose(constraint)
    seconds = time.perf_counter() - start
    off, within = (
        [abs(c.left - c.right) for c in rows]
        for rows in (diagnosis.conflicting, diagnosis.tolerated)
    )
    return replace(
        system,
        rank=diagnosis.rank,
        ambiguous=diagnosis.ambiguous,
        gap=diagnosis.gap,
        cutoff=diagnosis.cutoff,
        condition=diagnosis.condition,
        redundant=tuple(map(str, diagnosis.redundant[:SHOWN])),
        redundant_count=len(diagnosis.redundant),
        conflicting=tuple(c.contradiction() for c in diagnosis.conflicting[:SHOWN]),
        conflicting_count=len(diagnosis.conflicting),
        tolerated_count=len(within),
        tolerated_off=max(within, default=NAN),
        off=max(off, default=NAN),
        analysis_s=seconds,
    )


def meant(constraint: AffineConstraint) -> tuple[tuple[int, float], ...]:
    """Right sides, by row, that agree with the independent rows, where the error of b explains all.

    One that is off by rounding alone is among them: what is left has no error at all.
    """
    diagnosis = diagnose(constraint)
    if not diagnosis.tolerated or diagnosis.conflicting:
        return ()
    return tuple((c.row, c.right) for c in diagnosis.redundant)


LARGEST_CUTOFF = 1e-2
"""Relative to σ₁: a larger one no longer says anything about rounding."""


def with_clear_cutoff(
    system: SystemDescription, constraint: AffineConstraint, deadline: float
) -> SystemDescription:
    """Look for a cutoff that decides an ambiguous rank, as a caller who knows the data would."""
    cutoff = system.cutoff
    while cutoff < LARGEST_CUTOFF:
        cutoff *= tolerance.AMBIGUITY
        # Every variant that is asked later takes about as long.
        if system.analysis_s > TRY_SHARE * (deadline - time.monotonic()):
            break
        rounded = float(f"{cutoff:.0e}")
        diagnosis = diagnose(constraint, rank=rounded)
        if diagnosis.consistent and not diagnosis.ambiguous:
            return replace(system, clear_cutoff=rounded)
    return system


def with_condition_as_given(system: SystemDescription, problem: Problem) -> SystemDescription:
    """Add σ₁/σ_r of the rows as they stand, scaled as a whole against overflow."""
    rank = system.rank
    if not rank:
        return system
    if not system.rows_overlap:
        smallest, largest = system.row_norms
    elif is_sparse(system):
        extremes = extreme_singular_values(problem, rank)
        if extremes is None:
            return system
        smallest, largest = map(float, extremes)
    else:
        values = _singular_values(problem)
        smallest, largest = float(values[rank - 1]), float(values[0])
    # An SVD in float64 cannot tell a smaller singular value from rounding.
    noise = max(problem.m, problem.n) * float(np.finfo(np.float64).eps) * largest
    least = smallest < noise and system.rows_overlap
    return replace(
        system,
        condition_as_given=largest / (noise if least else smallest),
        condition_is_least=least,
    )


def _singular_values(problem: Problem) -> NDArray[np.float64]:
    """Of A as a multiple of a power of two, falling; those of its blocks where that is cheaper."""
    scale = float(np.exp2(-np.round(np.log2(np.abs(problem.csr().data).max()))))
    blocks = worthwhile_blocks(as_rows(problem.A))
    if blocks is not None:
        parts = (blocks.gathered(*shape)[2].numpy() * scale for shape in blocks.shapes())
        found = [np.linalg.svd(part, compute_uv=False).ravel() for part in parts]
        return np.sort(np.concatenate(found))[::-1]
    A = problem.dense() * scale
    long = A.T if A.shape[0] < A.shape[1] else A
    triangle = scipy.linalg.qr(long, mode="r", check_finite=False)[0][: min(A.shape)]
    values: NDArray[np.float64] = scipy.linalg.svdvals(triangle, check_finite=False)
    return values
