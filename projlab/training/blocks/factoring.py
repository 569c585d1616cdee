"""From a plan to a block: the variant is chosen and factored, contradictions are refused."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.select import asked
from projlab.engine.setup import build_one
from projlab.engine.solver import Solver
from projlab.engine.variants.orthonormal import OrthonormalRows
from projlab.engine.variants.sparse_cholesky import SparseCholeskyFactor
from projlab.errors import InconsistentError, ProjlabError, first_few
from projlab.numerics import tuning
from projlab.system.analysis import analyse
from projlab.system.constraint import AffineConstraint
from projlab.system.options import Options, ProjectorKeywords
from projlab.system.rank import wide_data
from projlab.training.blocks.base import Block
from projlab.training.blocks.margins import MarginsBlock
from projlab.training.blocks.matrix import MatrixBlock
from projlab.training.blocks.solver import SolverBlock
from projlab.training.blocks.sparse import SparseBlock
from projlab.training.blocks.ties import TiesBlock
from projlab.training.grids import MarginsPlan
from projlab.training.partition import MatrixPlan
from projlab.training.ties import TiesPlan

STEPS = 10**6
"""Projections that a factorisation made for training is expected to serve."""


def make_block(
    plan: MarginsPlan | TiesPlan | MatrixPlan,
    parameters: Sequence[Tensor],
    b: Tensor,
    variant: str,
    data: torch.dtype,
    entries: torch.dtype,
    names: Callable[[Tensor], list[str]],
    *,
    strict: bool,
) -> Block:
    """Factor one plan.

    Parameters
    ----------
    b
        Every right-hand side, float64.
    data
        The precision of the coefficients and of b, which decides rank and consistency.
    entries
        That of the coefficients alone, which decides the rank of sparse rows.
    names
        Names of the rows with these numbers.
    strict
        Whether contradictory rows are refused; else they meet in the least-squares sense.

    Raises
    ------
    InconsistentError
        The rows contradict each other.
    InputError, AccuracyError, MemoryLimitError, RankDeficientError
        As `projlab.projector`.
    """
    if isinstance(plan, MarginsPlan):
        margins = MarginsBlock(plan, parameters)
        if strict:
            _refuse_margins(margins, b, names, data)
        return margins
    if isinstance(plan, TiesPlan):
        ties = TiesBlock(plan, parameters)
        if strict:
            _refuse_ties(ties, b, names, data)
        return ties
    if plan.A.layout == torch.strided and plan.A.shape[-2] == 1:
        single = _single_rows(plan, parameters, "single_row" if variant == "auto" else variant)
        empty = (plan.A == 0).all(-1).reshape(-1).cpu()
        if strict:
            right = b.cpu()[plan.rows]
            bad = empty & (right != 0).reshape(-1)
            _refuse(plan, right, bad.nonzero().flatten().tolist(), names, data)
        single.independent = not bool(empty.any())
        return single
    target = parameters[plan.pieces[0].parameter].device
    right = b.cpu()[plan.rows]
    batched, sparse = plan.A.dim() == 3, plan.A.layout != torch.strided
    dtype = torch.float64 if target.type != "mps" else torch.float32
    # every b has these factors where rows are sparse: which contradict is looked for below
    own = (
        torch.zeros((), device="cpu", dtype=torch.float64)
        if sparse
        else right
        if batched
        else right[0]
    )
    options = _options(plan.A.shape[-1], variant, strict=strict or sparse)

    def factored(device: torch.device) -> Solver:
        A, b = plan.A.to(device), own.to(device)
        try:
            return build_one(AffineConstraint(A, b), dtype, options, entries if sparse else data)
        except ProjlabError as error:
            if isinstance(error, InconsistentError):
                _refuse(plan, right, range(len(right)), names, data)
            # many names take longer than the factors: they are made where one is wanted
            named = AffineConstraint(A, b, names(plan.rows[0]))
            return build_one(named, dtype, options, entries if sparse else data)

    # what a step sets up is factored on the host and sent, for the device would be waited for
    solver = factored(target if strict else torch.device("cpu"))
    if solver.device != target and isinstance(solver.factor, SparseCholeskyFactor):
        solver = factored(target)  # such a factor is made where it is used, or is refused there
    device = solver.device
    if strict and not batched:
        off = _off(solver, right.to(device), tolerance.unit_roundoff(data))
        _refuse(plan, right, off.any(-1).nonzero().flatten().tolist(), names, data)
        if not decidable(plan.A):
            _refuse_unproven(plan, off.nonzero(), names)
    block = _block(plan, parameters, solver)
    ranks = solver.facts.known_ranks
    block.independent = ranks is not None and all(r == plan.A.shape[-2] for r in ranks)
    return block


def _block(plan: MatrixPlan, parameters: Sequence[Tensor], solver: Solver) -> Block:
    """The block that a factor serves."""
    batched, device, dtype = plan.A.dim() == 3, solver.device, solver.dtype
    if isinstance(solver.factor, SparseCholeskyFactor) and solver.kept is None and not batched:
        return SparseBlock(plan, parameters, solver)
    constraint = solver.facts.constraint
    if not isinstance(solver.factor, OrthonormalRows):
        target = parameters[plan.pieces[0].parameter].device
        rows = constraint.rows.to(device=target)
        return SolverBlock(plan, parameters, solver.to(target), rows)
    eye = torch.eye(constraint.m, dtype=dtype, device=device)
    K = solver.right_side(-(eye.expand(len(plan.rows), -1, -1) if batched else eye))
    assert K is not None
    A = plan.A if plan.A.layout == torch.strided else constraint.rows.to_dense()
    return MatrixBlock(plan, parameters, A, solver.factor.W, K.mT, solver.variant)


def decidable(A: Tensor) -> bool:
    """Whether a dense decision on which rows contradict each other takes no more than seconds."""
    m, n = A.shape[-2:]
    return A.layout == torch.strided or min(m, n) * m * n <= tuning.DECIDABLE


def _single_rows(plan: MatrixPlan, parameters: Sequence[Tensor], variant: str) -> MatrixBlock:
    """Blocks of one row, onto which every variant projects alike: by its direction.

    A row of zeros has none, and moves nothing.
    """
    A = plan.A.double()
    largest = A.abs().amax(-1, keepdim=True)
    empty = largest == 0
    W = A / torch.where(empty, 1.0, largest)
    length = torch.linalg.vector_norm(W, dim=-1, keepdim=True)
    length = torch.where(empty, 1.0, length)
    inverse = torch.where(empty, 0.0, 1 / length / largest)
    return MatrixBlock(plan, parameters, plan.A, W / length, inverse, variant)


def _off(solver: Solver, right: Tensor, u: float) -> Tensor:
    """(B, m) which rows of the right sides (B, m) their projection of zero leaves off.

    Judged as consistency is, for data of unit roundoff u; of data coarser than float64, where
    combinations of rows are judged by their rounding, one of the rows is off by its own if any is.
    """
    constraint = solver.facts.constraint
    if solver.facts.known_ranks == (constraint.m,):
        return torch.zeros(right.shape, dtype=torch.bool, device="cpu")
    b = right.to(solver.dtype)
    zero = b.new_zeros(len(b), constraint.n)
    x, _ = solver.solve(zero, b, homogeneous=False, dual=False, want_multipliers=False)
    rows = constraint.rows.to(solver.dtype)
    cutoff = tolerance.rank_cutoff(constraint.m, constraint.n, u)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    factor = tolerance.consistency_factor(cutoff) if wide_data(u) else tolerance.ROUNDED_ONCE * u
    allowed = factor * (rows.row_norms() * length + b.abs())
    off: Tensor = (rows.matvec(x) - b).abs() > allowed
    return off


def _options(n: int, variant: str, *, strict: bool) -> Options:
    keywords: ProjectorKeywords = {"on_inconsistent": "raise" if strict else "least_squares"}
    return asked(n, variant, keywords, applications=STEPS)


def _refuse(
    plan: MatrixPlan,
    right: Tensor,
    blocks: Iterable[int],
    names: Callable[[Tensor], list[str]],
    data: torch.dtype,
) -> None:
    """Raise `InconsistentError` for the first of these blocks whose rows contradict each other."""
    for i in blocks if decidable(plan.A) else ():
        A = plan.A[i] if plan.A.dim() == 3 else plan.A
        _refuse_rows(A.cpu(), right[i], names(plan.rows[i]), data)


def _refuse_unproven(plan: MatrixPlan, off: Tensor, names: Callable[[Tensor], list[str]]) -> None:
    """Raise `InconsistentError` for rows (k, 2) of blocks that are off at the nearest point."""
    if not len(off):
        return
    rows = plan.rows[tuple(off.cpu().T)]
    raise inconsistent(
        [f"({name}) is off at the point nearest to all" for name in names(rows[:FEW_NAMES])]
    )


FEW_NAMES = 8
"""Rows named where many are off."""


def _refuse_rows(A: Tensor, right: Tensor, names: list[str], data: torch.dtype) -> None:
    """Raise `InconsistentError` where rows (m, n) contradict each other; a dense decision."""
    constraint = AffineConstraint(A, right, [f"({name})" for name in names])
    analysis = analyse(constraint, torch.float64, "numerical", data)
    conflicts = analysis.conflicts.get(0, ())
    if conflicts:
        raise inconsistent([c.contradiction() for c in conflicts])


def _refuse_ties(
    block: TiesBlock, b: Tensor, names: Callable[[Tensor], list[str]], data: torch.dtype
) -> None:
    """Raise `InconsistentError` for the first group whose rows contradict each other."""
    off = block.off(b.to(block.rows.device)[block.rows], tolerance.unit_roundoff(data))
    for g in off.nonzero().flatten().tolist():
        rows, A = block.plan.group(g)
        _refuse_rows(A, b.cpu()[rows], names(rows), data)


def _refuse_margins(
    block: MarginsBlock, b: Tensor, names: Callable[[Tensor], list[str]], data: torch.dtype
) -> None:
    """Raise `InconsistentError` for two equations that add up one grid to different sums."""
    right = b.cpu()[block.rows.cpu()]
    found = block.contradiction(right, tolerance.unit_roundoff(data))
    if found is None:
        return
    said = []
    for rows, total in found:
        (name,) = names(rows[:1])
        more = f" and {len(rows) - 1} more rows" if len(rows) > 1 else ""
        said.append(f"by ({name}){more} the same entries add up to {total:.17g}")
    raise inconsistent([", but ".join(said)])


def inconsistent(contradictions: Sequence[str]) -> InconsistentError:
    """The error for equations that no parameters satisfy."""
    return InconsistentError(
        f"the equations contradict each other: {first_few(contradictions)}. Nothing was changed. "
        "Where right sides are known to be off by so much, say so with b_error=."
    )
