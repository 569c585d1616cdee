"""Right sides that contradict each other by no more than their stated errors, made to agree.

What such equations are taken to mean is another b, near the given one: everything after works with
that, and no block knows of errors. Of rows with coefficients the independent ones keep their b, as
`projlab.projector` keeps them, and the others get what these imply; sums of one grid over different
axes all give way, each row of an equation by the same.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from projlab import tolerance
from projlab.system.analysis import analyse, combinations
from projlab.system.constraint import AffineConstraint
from projlab.training.blocks.margins import MarginsBlock
from projlab.training.blocks.ties import TiesBlock
from projlab.training.grids import MarginsPlan
from projlab.training.partition import MatrixPlan, Plan
from projlab.training.ties import TiesPlan


def agreed(
    plans: Sequence[Plan],
    parameters: Sequence[Tensor],
    b: Tensor,
    error: Tensor,
    data: torch.dtype,
    names: Callable[[Tensor], list[str]],
) -> Tensor:
    """The right sides (rows,) that are meant, given by how much each may be off.

    Rows whose contradiction is larger stay as they are, to be refused where they are factored.

    Parameters
    ----------
    b, error
        Every right-hand side and its error, float64 on the CPU.
    data
        The precision of the coefficients and of b, which decides rank and consistency.
    names
        Names of the rows with these numbers.

    Raises
    ------
    MemoryLimitError
        Sparse rows whose rank nothing decides.
    """
    meant = b.clone()
    u = tolerance.unit_roundoff(data)
    for plan in plans:
        if isinstance(plan, MarginsPlan):
            margins = MarginsBlock(plan, parameters)
            rows = margins.rows.cpu()
            if margins.contradiction(b[rows], u) and not margins.contradiction(
                b[rows], u, error[rows]
            ):
                meant[rows] = margins.nearby(b[rows])
        elif isinstance(plan, TiesPlan):
            ties = TiesBlock(plan, parameters)
            off = ties.off(b.to(ties.rows.device)[ties.rows], u)
            for g in off.nonzero().flatten().tolist():
                rows, A = plan.group(g)
                meant[rows] = _of_rows(A, b[rows], error[rows], data, names(rows))
        elif isinstance(plan, MatrixPlan) and plan.A.shape[-2] > 1:
            for i, rows in enumerate(plan.rows):
                A = plan.A[i] if plan.A.dim() == 3 else plan.A
                if bool(error[rows].any()):
                    meant[rows] = _of_rows(A, b[rows], error[rows], data, names(rows))
    return meant


def _of_rows(A: Tensor, b: Tensor, error: Tensor, data: torch.dtype, names: list[str]) -> Tensor:
    """b (m,) of rows A (m, n), where errors explain every contradiction; else as it is."""
    constraint = AffineConstraint(A.cpu(), b, names, b_error=error)
    analysis = analyse(constraint, torch.float64, "numerical", data)
    if analysis.conflicts or not analysis.tolerated:
        return b
    meant = b.clone()
    # those off by rounding alone as well: what remains is judged without any error
    for c in combinations(constraint, analysis, 0, range(len(analysis.decisions[0].dropped))):
        meant[c.row] = c.right
    return meant
