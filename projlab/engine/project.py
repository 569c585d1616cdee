"""project: the one-off form, differentiable in x, A and b."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Unpack, get_args

import torch
from torch import Tensor
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch.autograd import forward_ad
from torch.autograd.forward_ad import unpack_dual
from torch.compiler import is_compiling

from projlab import tolerance
from projlab.engine.autograd import Pattern, require_full_rank, solve
from projlab.engine.blocks import AnySolver
from projlab.engine.compiled import eager
from projlab.engine.compiled_project import as_operator
from projlab.engine.gram import GramSolve, factored, solved
from projlab.engine.kernels.native import PLAIN
from projlab.engine.select import asked
from projlab.engine.setup import build
from projlab.errors import InputError, ProjlabError
from projlab.numerics import memory
from projlab.numerics.precision import lowered, set_up, stated_precision
from projlab.system.constraint import AffineConstraint, as_constraint
from projlab.system.inputs import (
    FLOATS,
    check_vector,
    refuse_elsewhere,
    refuse_kinds,
    require_finite,
    to_tensor,
    working_dtype,
)
from projlab.system.operator_rows import is_operator
from projlab.system.options import (
    DEFAULTS,
    OnInconsistent,
    Options,
    ProjectorKeywords,
    listed,
    refuse_keywords,
)
from projlab.system.polyhedron import Polyhedron
from projlab.system.rows import (
    Rows,
    coalesced,
    is_scipy_sparse,
    one_pattern,
    sparse_batch,
    sparse_rows,
)


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
        pattern: Pattern | None = None,
        rows: Rows | None = None,
    ) -> None:
        self.options = options
        self.pattern = pattern
        self.rows = rows if constraint is None else constraint.rows
        """Of A where that is constant, whatever b is."""
        self.dtype = dtype
        self.data = data
        self.constraint = constraint
        self.solver: AnySolver | None = None
        self.lanes: OneOff | None = None

    @property
    def batched(self) -> bool:
        """Whether constant rows are a batch of systems."""
        return self.rows is not None and self.rows.batch is not None

    def bind(self, x: Tensor, A: Tensor | None, b: Tensor | None) -> AnySolver:
        """The solver, built from the first A and b."""
        if self.solver is None:
            require_finite(x.detach(), "x")
            if self.constraint is None:
                assert b is not None
                require_finite(b.detach(), "b")
                rows: Any = self.rows if A is None else A.detach()
                if self.pattern is None:
                    batched = self.batched if A is None else A.dim() == 3
                    sides = _right_sides(b.detach(), batched=batched)
                else:
                    require_finite(rows, "A's stored values")
                    i, j, shape = self.pattern
                    of_pattern = sparse_rows if rows.dim() == 1 else sparse_batch
                    rows, sides = of_pattern(i, j, rows, shape), [b.detach()]
                error = self.options.b_error
                self.constraint = AffineConstraint(rows, sides[0], b_error=error)
                self.solver = build(self.constraint, self.dtype, self.options, self.data)
                if not self.solver.full_rank:
                    for side in sides[1:]:  # each may contradict redundant rows
                        other = AffineConstraint(rows, side, b_error=error)
                        build(other, self.dtype, self.options, self.data)
            else:
                self.solver = build(self.constraint, self.dtype, self.options, self.data)
        return self.solver

    def solvers(self) -> Sequence[AnySolver]:
        """The one built, or that of the lanes."""
        if self.solver is not None:
            return [self.solver]
        return [] if self.lanes is None else self.lanes.solvers()

    def stacked(self) -> "OneOff":
        """The source for one system a lane, under `vmap` over A."""
        if self.lanes is None:
            self.lanes = OneOff(self.options, self.dtype, self.data)
        return self.lanes


def _right_sides(b: Tensor, *, batched: bool) -> list[Tensor]:
    """b as the constraint takes it, (m,) or (B, m): several where `vmap` maps over b alone."""
    plain = 2 if batched else 1
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


def _watched(b: Any) -> bool:
    """Whether autograd, forward mode or a transform has to learn what becomes of b."""
    return isinstance(b, Tensor) and (
        b.requires_grad
        or torch._C._functorch.is_functorch_wrapped_tensor(b)
        or unpack_dual(b).tangent is not None
    )


@listed
def project(
    x: Tensor,
    A: Any = None,
    b: Any = None,
    variant: str = "auto",
    *,
    G: Any = None,
    h: Any = None,
    lb: Any = None,
    ub: Any = None,
    **keywords: Unpack[ProjectorKeywords],
) -> Tensor:
    """Project x onto {x : A x = b}, or {x : A x = b, G x <= h, lb <= x <= ub}, once.

    Differentiable, twice and more: in x always, in A and b where the rows are independent. All
    keywords are `projector`'s; use that where A serves more than one call.

    Parameters
    ----------
    x
        (..., n), or (B, ..., n) for batched A; floating-point, finite.
    A, b
        As `AffineConstraint` takes them, or one AffineConstraint as A (then no b).
    G, h, lb, ub
        Inequalities and bounds, as `projector` takes them; b, h and bounds may have x's leading
        dimensions. Differentiable in all of them, in A and G where these are dense.

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
    if isinstance(A, Polyhedron) or not (G is h is lb is ub is None):
        return _onto_polyhedron(x, A, b, G, h, lb, ub, variant, keywords)
    if is_compiling():
        plain = isinstance(A, Tensor) and A.layout is torch.strided
        if plain and keywords.get("preconditioner") is None:  # no operator takes a function
            return as_operator(x, A, b, variant, keywords)
        return _uncompiled(x, A, b, variant, keywords)
    if get_eval_frame_callback() is not None:  # the compiler would try every function from here on
        return _uncompiled(x, A, b, variant, keywords)
    return projected(x, A, b, variant, keywords)


@eager
def _onto_polyhedron(
    x: Tensor,
    A: Any,
    b: Any,
    G: Any,
    h: Any,
    lb: Any,
    ub: Any,
    variant: str,
    keywords: ProjectorKeywords,
) -> Tensor:
    # its faces are projected onto by the equations' projector, which imports this module
    from projlab.engine.polyhedra.projector import project_polyhedron

    refuse_keywords(keywords)
    return project_polyhedron(x, A, b, G, h, lb, ub, variant)


def projected(x: Tensor, A: Any, b: Any, variant: str, keywords: ProjectorKeywords) -> Tensor:
    """`project` of whatever it is given, eagerly."""
    if isinstance(variant, str) and variant == "auto" and _ordinary(keywords):
        found = _by_gram(x, A, b, keywords)
        if found is not None:
            return found
    return _carefully(x, A, b, variant, keywords)


_uncompiled = eager(projected)


_ORDINARY = {name: (default,) for name, default in DEFAULTS.items()} | {
    "on_inconsistent": get_args(OnInconsistent)
}


def _ordinary(keywords: ProjectorKeywords) -> bool:
    """Whether no keyword asks for more than full rank answers by itself."""
    return all(
        (value is None or isinstance(value, str | float)) and value in _ORDINARY.get(name, ())
        for name, value in keywords.items()
    )


def _by_gram(x: Any, A: Any, b: Any, keywords: ProjectorKeywords) -> Tensor | None:
    """The projection by `gram`, where it is proven to do; None where it is not, or input is odd.

    Systems of a batch that need more care get it, and the others do not pay for it.
    """
    if not (
        type(x) in PLAIN
        and type(A) in PLAIN
        and type(b) in PLAIN
        and A.layout is torch.strided
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    ):
        return None
    if not _fits(x, A, b):
        return None
    A = A.unsqueeze(0) if A.dim() == 1 else A
    m, n = A.shape[-2:]
    dtype = working_dtype(torch.promote_types(x.dtype, A.dtype))
    wide = A if A.dtype is dtype else A.to(dtype)
    device = A.device
    u = tolerance.unit_roundoff(working_dtype(A.dtype))
    rows = wide.detach() if wide.requires_grad else wide
    if lowered(dtype, device.type):
        with stated_precision(device):
            gram, sound = factored(rows, u)
    else:
        gram, sound = factored(rows, u)
    if gram is None:
        return None if sound is None else _apart(x, A, b, sound, keywords)
    work = x if x.dtype is dtype else x.to(dtype)
    right = b if b.dtype is dtype else b.to(dtype)
    if A.dim() == 3:
        work = work.unsqueeze(1) if work.dim() == 2 else work.reshape(len(A), -1, n)
        right = right.expand(len(A), m).unsqueeze(1) if right.dim() < 2 else right.unsqueeze(1)
    else:
        work = work if work.dim() <= 2 else work.reshape(-1, n)
        right = right if right.dim() == 1 else right.expand(m)
    if torch.is_grad_enabled() and (x.requires_grad or A.requires_grad or b.requires_grad):
        function: Any = GramSolve
        projected, _ = function.apply(work, wide, right, gram)
    else:
        projected, _ = solved(gram, work, right, want_multipliers=False)
    plain = projected.detach() if projected.requires_grad else projected
    if not math.isfinite(plain.sum().item()):
        return None  # x or b is not finite, which is said by name, or the sum is too large
    result: Tensor = projected if projected.shape == x.shape else projected.reshape(x.shape)
    return result if result.dtype is x.dtype else result.to(x.dtype)


_SMALL = 2**20
"""Entries of A whose Gram matrix fits wherever A does."""


def _fits(x: Tensor, A: Tensor, b: Tensor) -> bool:
    """Whether x, A and b are what `gram` takes: what is wrong with them is said elsewhere."""
    if x.layout is not torch.strided or x.is_nested or b.layout is not torch.strided or b.is_nested:
        return False
    if A.layout is not torch.strided or A.is_nested:
        return False
    dims = A.dim()
    if not (0 < dims <= 3 and x.dim() > 0 and x.dtype in FLOATS and A.dtype in FLOATS):
        return False
    if not (b.dtype in FLOATS and x.device == A.device == b.device):
        return False
    *lead, n = A.shape
    m = lead[-1] if lead else 1
    return (
        0 < m <= n == x.shape[-1]
        and x.numel() > 0
        and (dims < 3 or (x.dim() > 1 and x.shape[0] == lead[0]))
        and (b.dim() == 0 or (b.shape[-1] == m and (b.dim() == 1 or list(b.shape) == lead)))
        # the Gram matrix, its factor, the inverse of that and one temporary
        and (A.numel() <= _SMALL or 4 * A.numel() // n * m * 8 <= memory.limit(A.device))
    )


def _apart(
    x: Tensor, A: Tensor, b: Tensor, sound: Tensor, keywords: ProjectorKeywords
) -> Tensor | None:
    """Systems of a batch by `gram` where `sound` (B,), and the others with care."""
    if not bool(sound.any()):
        return None
    b = b.expand(A.shape[:-1])
    good, bad = sound.nonzero().flatten(), (~sound).nonzero().flatten()
    try:
        careful = _carefully(x[bad], A[bad], b[bad], "auto", keywords)
    except ProjlabError:
        return None  # said again, of the whole batch: systems and entries by their own numbers
    quick = _by_gram(x[good], A[good], b[good], keywords)
    if quick is None:
        return None
    return torch.cat([quick, careful])[torch.argsort(torch.cat([good, bad]))]


def _carefully(x: Tensor, A: Any, b: Any, variant: str, keywords: ProjectorKeywords) -> Tensor:
    """The projection by a solver that decides rank and consistency before it answers."""
    if isinstance(A, Tensor) and A.layout != torch.strided and A.requires_grad:
        return _in_stored_values(x, A, b, variant, keywords)
    known = is_operator(A) or is_scipy_sparse(A) or isinstance(A, (Tensor, AffineConstraint))
    if not known:
        A = to_tensor(A, "A")
    strided = isinstance(A, Tensor) and A.layout == torch.strided
    if not (strided or isinstance(A, AffineConstraint)) and _watched(b):
        return _by_constant_rows(x, A, b, variant, keywords)
    if not strided or b is None or _constants(A, b):
        with _constants_made():
            constraint = as_constraint(A, b)
        check_vector(x, constraint.n, constraint.batch, constraint.device)
        options = asked(constraint.n, variant, keywords, applications=1)
        constraint = constraint.stating(options.b_error)
        dtype = working_dtype(torch.promote_types(x.dtype, constraint.dtype))
        source = OneOff(options, dtype, working_dtype(constraint.dtype), constraint)
        found, _ = solve(
            x.to(dtype), None, None, source, homogeneous=False, dual=False, want_multipliers=False
        )
        return found.to(x.dtype)
    if not A.is_floating_point():
        A = to_tensor(A, "A")
    if A.dim() == 1:
        A = A.unsqueeze(0)
    if A.dim() not in (2, 3):
        AffineConstraint(A.detach(), 0.0)  # refuses it by name
    b = _right_side(b, A.device)
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


def _right_side(b: Any, device: torch.device) -> Tensor:
    """b in floats: where A is, or a number; tensors are not moved."""
    refuse_elsewhere(b, "b", "A", device)
    if isinstance(b, Tensor):
        refuse_kinds(b, "b")
        return b if b.is_floating_point() else to_tensor(b, "b").to(device)
    return to_tensor(b, "b").to(device)


def _constants_made() -> AbstractContextManager[object]:
    """Inside, what is constant is looked at, which transforms do not let happen."""
    return set_up() if torch._C._are_functorch_transforms_active() else nullcontext()


def _by_constant_rows(
    x: Tensor, A: Any, b: Tensor, variant: str, keywords: ProjectorKeywords
) -> Tensor:
    """The projection by A that is sparse or an operator, and constant, differentiable in b."""
    with _constants_made():
        rows = AffineConstraint(A, 0.0).rows
    (m, n), lead = rows.shape, [] if rows.batch is None else [rows.batch]
    b = _right_side(b, rows.device)
    if b.shape not in {torch.Size(()), torch.Size((m,)), torch.Size((*lead, m))}:
        AffineConstraint(rows, b.detach())  # refuses it by name
    check_vector(x, n, rows.batch, rows.device)
    options = asked(n, variant, keywords, applications=1)
    dtype = working_dtype(torch.promote_types(x.dtype, rows.dtype))
    source = OneOff(options, dtype, working_dtype(rows.dtype), rows=rows)
    right = b.to(dtype).expand(*lead, m)
    out, _ = solve(
        x.to(dtype), None, right, source, homogeneous=False, dual=False, want_multipliers=False
    )
    if torch.is_grad_enabled() and b.requires_grad:
        require_full_rank(source)
    return out.to(x.dtype)


def _in_stored_values(
    x: Tensor, A: Tensor, b: Any, variant: str, keywords: ProjectorKeywords
) -> Tensor:
    """The projection by sparse A, differentiable in its stored values and in b."""
    if b is None:
        as_constraint(A.detach(), b)  # refuses it by name
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        raise InputError(
            "A is sparse and not constant: torch has no sparse tensors under a transform or in "
            "forward mode. Differentiate by backward, or give dense A"
        )
    coo = coalesced(A)
    (*lead, m, n), (indices, given) = coo.shape, one_pattern(coo)
    b = _right_side(b, A.device)
    if b.shape not in {torch.Size(()), torch.Size((m,)), torch.Size((*lead, m))}:
        AffineConstraint(A.detach(), b.detach())  # refuses it by name
    check_vector(x, n, lead[0] if lead else None, A.device)
    options = asked(n, variant, keywords, applications=1)
    dtype = working_dtype(torch.promote_types(x.dtype, A.dtype))
    pattern = Pattern(indices[0], indices[1], (m, n))
    source = OneOff(options, dtype, working_dtype(A.dtype), pattern=pattern)
    values, right = given.to(dtype), b.to(dtype).expand(*lead, m)
    out, _ = solve(
        x.to(dtype), values, right, source, homogeneous=False, dual=False, want_multipliers=True
    )
    if torch.is_grad_enabled():
        require_full_rank(source)
    return out.to(x.dtype)
