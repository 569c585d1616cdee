"""From a plan to a block: the variant is chosen and factored, contradictions are refused."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from projlab.engine.select import asked
from projlab.engine.setup import build_one
from projlab.engine.variants.orthonormal import OrthonormalRows
from projlab.errors import InconsistentError, first_few
from projlab.system.analysis import analyse
from projlab.system.constraint import AffineConstraint
from projlab.system.options import Options, ProjectorKeywords
from projlab.training.blocks.base import Block
from projlab.training.blocks.matrix import MatrixBlock
from projlab.training.blocks.solver import SolverBlock
from projlab.training.blocks.sums import SumsBlock
from projlab.training.partition import MatrixPlan, Plan, SumsPlan

STEPS = 10**6
"""Projections that a factorisation made for training is expected to serve."""


def make_block(
    plan: Plan,
    parameters: Sequence[Tensor],
    b: Tensor,
    variant: str,
    data: torch.dtype,
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
    if isinstance(plan, SumsPlan):
        return SumsBlock(plan, parameters)
    device = parameters[plan.pieces[0].parameter].device
    right = b.cpu()[plan.rows]
    batched, dense = plan.A.dim() == 3, plan.A.layout == torch.strided
    constraint = AffineConstraint(
        plan.A.to(device), (right if batched else right[0]).to(device), names(plan.rows[0])
    )
    dtype = torch.float64 if device.type != "mps" else torch.float32
    try:
        solver = build_one(constraint, dtype, _options(constraint.n, variant, strict), data)
    except InconsistentError:
        _refuse(plan, right, names, data)
        raise
    if strict and not batched and solver.facts.ranks[0] < constraint.m:
        _refuse(plan, right, names, data)
    basis = solver
    if dense and constraint.m == 1 and not isinstance(solver.factor, OrthonormalRows):
        # every variant projects onto one row alike: by its direction, which single_row keeps
        basis = build_one(constraint, dtype, _options(constraint.n, "single_row", strict), data)
    if not isinstance(basis.factor, OrthonormalRows):
        return SolverBlock(plan, parameters, solver, constraint)
    eye = torch.eye(constraint.m, dtype=dtype, device=device)
    K = basis.right_side(-(eye.expand(len(right), -1, -1) if batched else eye))
    assert K is not None
    A = plan.A if dense else constraint.rows.to_dense()
    return MatrixBlock(plan, parameters, A, basis.factor.W, K.mT, solver.variant)


def _options(n: int, variant: str, strict: bool) -> Options:
    keywords: ProjectorKeywords = {"on_inconsistent": "raise" if strict else "least_squares"}
    return asked(n, variant, keywords, applications=STEPS)


def _refuse(
    plan: MatrixPlan, right: Tensor, names: Callable[[Tensor], list[str]], data: torch.dtype
) -> None:
    """Raise `InconsistentError` for the first block whose rows contradict each other."""
    for i in range(len(right)):
        A = plan.A[i] if plan.A.dim() == 3 else plan.A
        quoted = [f"({name})" for name in names(plan.rows[i])]
        constraint = AffineConstraint(A.cpu(), right[i], quoted)
        analysis = analyse(constraint, torch.float64, "numerical", data)
        conflicts = analysis.conflicts.get(0, ())
        if conflicts:
            raise inconsistent([c.contradiction() for c in conflicts])


def inconsistent(contradictions: Sequence[str]) -> InconsistentError:
    """The error for equations that no parameters satisfy."""
    return InconsistentError(
        f"the equations contradict each other: {first_few(contradictions)}. Nothing was changed."
    )
