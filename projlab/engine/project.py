"""project: the one-off form, differentiable in x, A and b."""

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from projlab.engine.autograd import require_full_rank, solve
from projlab.engine.compiled import eager
from projlab.engine.select import asked
from projlab.engine.solver import Solver, build
from projlab.errors import InputError
from projlab.system.constraint import AffineConstraint
from projlab.system.diagnosis import as_constraint, working_dtype
from projlab.system.inputs import check_vector, require_finite, to_tensor
from projlab.system.options import Options, ProjectorKeywords, listed
from projlab.system.rows import is_scipy_sparse


class OneOff:
    """Builds its solver at the first call, from A and b as plain tensors, and keeps it.

    Built inside the autograd function's forward, where functorch has unwrapped its tensors, so that
    `vmap` and `jacrev` work over A and b too; derivatives find the factors here.
    """

    def __init__(
        self,
        options: Options,
        dtype: torch.dtype,
        data: torch.dtype,
        constraint: AffineConstraint | None = None,
    ) -> None:
        self.options = options
        self.dtype = dtype
        self.data = data
        self.constraint = constraint
        self.solver: Solver | None = None
        self.lanes: OneOff | None = None

    @property
    def batched(self) -> bool:
        """Whether a constant constraint is a batch of systems."""
        return self.constraint is not None and self.constraint.batch is not None

    def bind(self, x: Tensor, A: Tensor | None, b: Tensor | None) -> Solver:
        """The solver, built from the first A and b."""
        if self.solver is None:
            require_finite(x.detach(), "x")
            if self.constraint is None:
                assert A is not None
                assert b is not None
                require_finite(b.detach(), "b")
                rows, sides = A.detach(), _right_sides(A, b.detach())
                self.constraint = AffineConstraint(rows, sides[0])
                self.solver = build(self.constraint, self.dtype, self.options, self.data)
                if not self.solver.full_rank:
                    for side in sides[1:]:  # each may contradict redundant rows
                        build(AffineConstraint(rows, side), self.dtype, self.options, self.data)
            else:
                self.solver = build(self.constraint, self.dtype, self.options, self.data)
        return self.solver

    def solvers(self) -> list[Solver]:
        """The one built, or that of the lanes."""
        if self.solver is not None:
            return [self.solver]
        return [] if self.lanes is None else self.lanes.solvers()

    def stacked(self) -> "OneOff":
        """The source for one system a lane, under `vmap` over A."""
        if self.lanes is None:
            self.lanes = OneOff(self.options, self.dtype, self.data)
        return self.lanes


def _right_sides(A: Tensor, b: Tensor) -> list[Tensor]:
    """b as the constraint takes it, (m,) or (B, m): several where `vmap` maps over b alone."""
    plain = A.dim() - 1
    if b.dim() == plain:
        return [b]
    lanes = b.reshape(*b.shape[: plain - 1], -1, b.shape[-1])
    return list(lanes.unbind(plain - 1))


def _constants(A: Tensor, b: Any) -> bool:
    """Whether no derivative in A or b can be asked for, so that nothing is kept for one."""
    if torch._C._are_functorch_transforms_active():
        return False
    given = [t for t in (A, b) if isinstance(t, Tensor)]
    return not any(t.requires_grad or unpack_dual(t).tangent is not None for t in given)


@eager
@listed
def project(
    x: Tensor,
    A: Any,
    b: Any = None,
    variant: str = "auto",
    **keywords: Unpack[ProjectorKeywords],
) -> Tensor:
    """Project x onto {x : A x = b}, once.

    Differentiable, twice and more: in x always, in A and b where the rows are independent. All
    keywords are `projector`'s; use that where A serves more than one call.

    Parameters
    ----------
    x
        (..., n), or (B, ..., n) for batched A; floating-point, finite.
    A, b
        As `AffineConstraint` takes them, or one AffineConstraint as A (then no b).

    Returns
    -------
    Tensor
        Of x's shape and dtype; worked in the wider of x's and A's dtype, float16 and bfloat16 in
        float32.

    Raises
    ------
    InputError, InconsistentError, RankDeficientError, AccuracyError, MemoryLimitError
        As `projector`; InputError for non-finite x; RankDeficientError where A or b requires grad
        and a row is redundant.

    References
    ----------
    Amos and Kolter, "OptNet", ICML 2017, section 3.1 (derivatives of the equality-constrained
    problem).
    """
    if isinstance(A, Tensor) and A.layout != torch.strided and A.requires_grad:
        raise InputError("A requires grad but is sparse; project differentiates in dense A only")
    if not is_scipy_sparse(A) and not isinstance(A, (Tensor, AffineConstraint)):
        A = to_tensor(A, "A")
    if not isinstance(A, Tensor) or A.layout != torch.strided or b is None or _constants(A, b):
        constraint = as_constraint(A, b)
        check_vector(x, constraint.n, constraint.batch, constraint.device)
        options = asked(constraint.n, variant, keywords, applications=1)
        dtype = working_dtype(torch.promote_types(x.dtype, constraint.dtype))
        source = OneOff(options, dtype, working_dtype(constraint.dtype), constraint)
        found, _ = solve(
            x.to(dtype), None, None, source, homogeneous=False, dual=False, want_multipliers=False
        )
        return found.to(x.dtype)
    if not A.is_floating_point():
        A = to_tensor(A, "A")
    if isinstance(b, Tensor) and not b.is_floating_point():
        b = to_tensor(b, "b")
    if A.dim() == 1:
        A = A.unsqueeze(0)
    if A.dim() not in (2, 3):
        AffineConstraint(A.detach(), 0.0)  # refuses it by name
    if not isinstance(b, Tensor):
        b = to_tensor(b, "b").to(A.device)
    if isinstance(x, Tensor) and b.dim() > 0 and b.device != A.device:
        raise InputError(f"b is on {b.device}, A on {A.device}; move one of them")
    batch = A.shape[0] if A.dim() == 3 else None
    check_vector(x, A.shape[-1], batch, A.device)
    options = asked(A.shape[-1], variant, keywords, applications=1)
    dtype = working_dtype(torch.promote_types(x.dtype, A.dtype))
    m = A.shape[-2]
    lead = A.shape[:-2]
    if b.shape not in {torch.Size(()), torch.Size((m,)), torch.Size((*lead, m))}:
        AffineConstraint(A.detach(), b.detach())  # refuses it by name
    source = OneOff(options, dtype, working_dtype(A.dtype))
    right = b.to(dtype).expand(*lead, m)
    out, _ = solve(
        x.to(dtype),
        A.to(dtype),
        right,
        source,
        homogeneous=False,
        dual=False,
        want_multipliers=True,
    )
    if torch.is_grad_enabled() and (A.requires_grad or b.requires_grad):
        require_full_rank(source)
    return out.to(x.dtype)
