"""Projector: one factorisation, many projections."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Unpack, overload

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_dynamo_compiling, is_exporting

from projlab.engine import compiled
from projlab.engine.autograd import solve
from projlab.engine.blocks import AnySolver
from projlab.engine.buffers import UNSEEN, Named, SystemBuffers, constant
from projlab.engine.careful import decided, null_space
from projlab.engine.project import project
from projlab.engine.reverse import reverse_mode
from projlab.engine.select import MANY, asked
from projlab.engine.setup import build
from projlab.engine.solver import NOTHING, Direct, needs_function
from projlab.errors import InputError, MemoryLimitError, ProjlabError, RankDeficientError
from projlab.numerics.precision import set_up, stated_precision
from projlab.numerics.transfer import sent
from projlab.proof.certificate import Certificate, certify
from projlab.system.constraint import AffineConstraint, as_constraint, refuse_watched_parts
from projlab.system.inputs import (
    FLOATS,
    broadcast_shape,
    check_vector,
    refuse_elsewhere,
    refuse_kinds,
    refuse_overlap,
    to_tensor,
    working_dtype,
)
from projlab.system.metric import refuse_watched_metric
from projlab.system.options import Options, ProjectorKeywords, listed, refuse_keywords
from projlab.system.polyhedron import Polyhedron

if TYPE_CHECKING:
    from projlab.engine.polyhedra.projector import PolyhedralProjector


@overload
def projector(A: Polyhedron, b: None = None, variant: str = "auto") -> "PolyhedralProjector": ...


@overload
def projector(
    A: Any, b: Any = None, variant: str = "auto", **keywords: Unpack[ProjectorKeywords]
) -> "Projector": ...


@overload
def projector(
    A: Any = None,
    b: Any = None,
    variant: str = "auto",
    *,
    G: Any = None,
    h: Any = None,
    lb: Any = None,
    ub: Any = None,
) -> "PolyhedralProjector": ...


@listed
def projector(
    A: Any = None,
    b: Any = None,
    variant: str = "auto",
    *,
    G: Any = None,
    h: Any = None,
    lb: Any = None,
    ub: Any = None,
    **keywords: Unpack[ProjectorKeywords],
) -> Any:
    """Factor A once, and return the projection onto {x : A x = b}, or onto a polyhedron.

    With G, h, lb or ub, or a `Polyhedron` as A, a `PolyhedralProjector` onto {x : A x = b,
    G x <= h, lb <= x <= ub}; its variants are "box", "disjoint_rows" and "active_set".

    The projection solves argmin 1/2 ||x - x0||_W^2 subject to A x = b. With redundant rows, A has
    its numerical rank: the singular values of its equilibrated rows above max(m, n) eps sigma_max
    (float32 data: at most 5 sqrt(min(m, n)) eps sigma_max, ten times what its rounding can do).

    Parameters
    ----------
    A, b
        As `AffineConstraint` takes them, or one AffineConstraint as A (then no b). Constants.
    variant
        "auto" (the cheapest that reaches `accuracy`), or one of `projlab.variants()`.
    accuracy
        Forward error wanted, relative to max(||x0||, ||x*||); by default what a backward-stable
        method reaches.
    rank
        "numerical", a tolerance relative to the largest singular value, or "exact" (the entries
        taken literally).
    metric
        W: (n,), its positive diagonal, or (n, n), symmetric positive definite. Identity by default.
    on_redundant
        "drop" rows that follow from the others, or "raise".
    on_inconsistent
        "raise", or "least_squares": project onto {x : A'A x = A'b}, with the rows as given.
    G, h, lb, ub
        Inequalities and bounds, as `Polyhedron` takes them; A and b may be left out then.
    preconditioner
        About (A A')^-1, symmetric positive definite, for the variant iterative: a function of one
        vector (m,), tensor or array, or a `scipy.sparse.linalg.LinearOperator`.
    b_error
        By how much entries of b may be off, as `AffineConstraint` takes it: rows that contradict
        each other by no more are not refused, and `reason` says how far they are apart.

    Raises
    ------
    InputError
        A or b is not what `AffineConstraint` takes, or requires grad; an unknown keyword value;
        single_row for rows that share a column; one of these keywords beside G, h, lb or ub.
    InconsistentError
        No x satisfies A x = b (and `on_inconsistent` is "raise").
    RankDeficientError
        Redundant rows with on_redundant="raise"; cholesky where the Gram matrix is singular.
    AccuracyError
        No variant, or not the one named, is predicted to reach `accuracy`; by iteration, it was not
        reached: then calls may raise this, too.
    MemoryLimitError
        Sparse A that a dense factorisation, or the vectors of an iteration, would not fit into
        memory.

    References
    ----------
    Golub and Van Loan, "Matrix Computations", 4th ed., sections 5.3, 5.5 and 6.1.
    """
    if isinstance(A, Polyhedron) or not (G is h is lb is ub is None):
        refuse_keywords(keywords)
        return polyhedral_projector(A, b, G, h, lb, ub, variant)
    return Projector(A, b, variant, **keywords)


def polyhedral_projector(
    A: Any, b: Any, G: Any, h: Any, lb: Any, ub: Any, variant: str
) -> "PolyhedralProjector":
    """The projection onto a polyhedron, which equality projections are the last step of."""
    from projlab.engine.polyhedra.projector import PolyhedralProjector

    if not isinstance(A, Polyhedron):
        return PolyhedralProjector(Polyhedron(A, b, G, h, lb, ub), variant)
    if not (b is G is h is lb is ub is None):
        raise InputError("A is a Polyhedron and holds every part; give no other")
    return PolyhedralProjector(A, variant)


class Projector(SystemBuffers):
    """Projection onto {x : A x = b}, factored; built by `projector`, with the same arguments.

    `A` and `b` are persistent buffers in the precision they were given in (the memory of an
    AffineConstraint, where one was given), sparse A as `A_indices` (2, k) and `A_values` (k,),
    which `A` assembles; and they are what is used: the first call after a
    change, in place or by assignment, sets up again, and raises what the constructor would. Another
    b alone keeps the factors where no row is redundant. Where a transform or autograd watches them,
    as under `torch.func.functional_call`, another b goes with the same factors, unchecked, and
    another A through `project`, with its derivatives.

    Built on the device meta, it has no values: it is set up when a state dict is loaded (with
    assign=True, or after `to_empty`) or both buffers are written; to project before is refused.

    The factors are rebuilt when a state dict is loaded. `.to(device)` moves them; a change of dtype
    factors again from the A and b that were given. Work is done in the wider of x's and A's dtype,
    float16 and bfloat16 in float32, and the result has x's dtype. No method but the constructor, a
    change of buffers or dtype, and loading synchronises with the host, but for the variant
    iterative, which must look at its residuals; NaN goes through.

    Where A is an operator, it is `P.constraint.operator`, shared and not copied, and in no state
    dict; the buffer A is (m, 0) and stands for it. Such a projector stays on its device. By
    iteration all rows are kept: another b must have a solution, or the call raises `AccuracyError`,
    and multipliers of rows that follow from others need not be zero.

    Batched A (B, m, n) projects x (B, n) or (B, ..., n).
    """

    _options: Options
    _constraint: AffineConstraint
    _dtype: torch.dtype
    _factors: AnySolver | None
    _solvers: dict[tuple[torch.dtype, bool], AnySolver]
    _direct: Direct
    _mark: Tensor | None

    @listed
    def __init__(
        self,
        A: Any,
        b: Any = None,
        variant: str = "auto",
        **keywords: Unpack[ProjectorKeywords],
    ) -> None:
        transformed = torch._C._are_functorch_transforms_active()
        if transformed:  # what it watches is not seen inside `set_up`
            refuse_watched_parts(A, b)
            refuse_watched_metric(keywords.get("metric"))
        # a projector that is made inside a transform is a constant there
        with set_up() if transformed else nullcontext():
            constraint = as_constraint(A, b)
            options = asked(constraint.n, variant, keywords, applications=MANY)
            constraint = constraint.stating(options.b_error)
            dtype = working_dtype(constraint.dtype)
            solver = None if _is_meta(constraint) else build(constraint, dtype, options, dtype)
            super().__init__()
            vars(self)["_options"] = options
            self._adopt(constraint, constraint.dtype, solver)
        if constraint.operator is not None:
            self._non_persistent_buffers_set.add("A")

    def _adopt(
        self,
        constraint: AffineConstraint,
        dtype: torch.dtype,
        solver: AnySolver | None,
        *,
        hold: bool = True,
    ) -> None:
        """Take over a constraint and its factors all at once, and its A and b as buffers if `hold`.

        No factors where the constraint is on meta: they are made when A and b have values.
        """
        # past `nn.Module.__setattr__`, which takes as long as a small factorisation
        vars(self).update(_constraint=constraint, _dtype=dtype, _factors=solver, _solvers={})
        if solver is not None:
            self._keep(solver)
        if hold:
            self._hold(constraint)
        self._derive()

    def _derive(self) -> None:
        """What the hot path looks up: not part of the state, and never copied."""
        solver = self._factors
        direct = NOTHING if solver is None else solver.direct(reverse_mode)
        vars(self).update(_direct=direct, _opaque=solver is not None and solver.opaque)
        self._watch()

    def _watch(self) -> None:
        """Remember the buffers as they are: the factors are theirs."""
        self._look()
        vars(self)["_mark"] = compiled.marked(self._watched())

    def _watched(self) -> list[Tensor]:
        """The buffers of A, of which a compiled program notices changes."""
        return [t for name, t in self._own().items() if name != "b"]

    def _keep(self, solver: AnySolver) -> None:
        """Under its precision, and whether its rows are independent ones."""
        self._solvers[solver.dtype, False] = solver
        if solver.decided:
            self._solvers[solver.dtype, True] = solver

    @property
    def _solver(self) -> AnySolver:
        """The factors in the working precision."""
        if self._factors is None:
            raise InputError(
                "the projector has no values yet: it was built on, or moved to, the device meta. "
                "Load a state dict (with assign=True, or after to_empty), or write A and b"
            )
        return self._factors

    @property
    def constraint(self) -> AffineConstraint:
        """The equations, as given or as the buffers have them since."""
        self._follow()
        return self._constraint

    @property
    def variant(self) -> str:
        """Name of the variant in use."""
        self._follow()
        return self._solver.variant

    @property
    def reason(self) -> str:
        """Why this variant, in a sentence."""
        self._follow()
        return str(self._solver.reason)

    @property
    def rank(self) -> Any:
        """Numerical rank: int, or (B,) tensor for batched A."""
        self._follow()
        ranks = self._solver.facts.ranks
        return (
            ranks[0]
            if self._solver.batch is None
            else torch.tensor(ranks, device="cpu", dtype=torch.long)
        )

    @property
    def condition(self) -> Any:
        """sigma_1 / sigma_rank of the equilibrated rows (in the metric): float, or (B,) tensor.

        Computed when it is first asked for, where setting up could do without singular values.
        """
        self._follow()
        conditions = self._solver.facts.conditions
        if self._solver.batch is None:
            return conditions[0]
        return torch.tensor(conditions, dtype=torch.float64, device="cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype A counts as: as given, until `.to(dtype)`."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Of A, b and the factors."""
        return self.b.device

    if TYPE_CHECKING:  # nn.Module leaves it untyped

        def __call__(self, x: Tensor, b: Tensor | None = None) -> Tensor:
            """See `forward`."""

    def forward(self, x: Tensor, b: Tensor | None = None) -> Tensor:
        """Project x (..., n), or (B, ..., n) for batched A.

        b, (m,) or with x's leading dimensions, replaces the constraint's own; it is not checked for
        consistency, which would need the host, and its entries on redundant rows are ignored.
        Differentiable in x and, at full row rank, in b.
        """
        if b is None and not is_compiling():
            A, a, c, v = self._known
            own = self._buffers
            if (
                own.get("A") is A and own["b"] is c and A._version == a and c._version == v
            ) or self._sparse_unchanged():
                try:
                    projected = self._direct.fresh(x)
                except RuntimeError:
                    self._require_vector(x)
                    raise
                if projected is not None:
                    return projected
        other, right = self._replaced()
        if other is not None:
            return self._one_off(x, other, right if b is None else b)
        if self._factors is None and self.b.is_meta and isinstance(x, Tensor) and x.is_meta:
            check_vector(x, self._constraint.n, self._constraint.batch, x.device)
            return torch.empty_like(x)
        solver, work, right = self._prepared(x, right if b is None else b)
        return self._solve(solver, work, right, homogeneous=False)[0].to(x.dtype)

    def project_(self, x: Tensor) -> Tensor:
        """Project x in place, without a graph, and return it: the hot path."""
        if not is_dynamo_compiling():
            A, a, c, v = self._known
            own = self._buffers
            known = (
                own.get("A") is A and own["b"] is c and A._version == a and c._version == v
            ) or self._sparse_unchanged()
            if known:
                try:
                    if self._direct.in_place(x):
                        return x
                except RuntimeError:
                    self._require_vector(x)
                    raise
            if isinstance(x, Tensor) and x.layout is torch.strided and not x.is_contiguous():
                refuse_overlap(x)
            if known:
                solver = self._solver_for(x)
                if x.dtype == solver.dtype and not is_compiling():
                    solver.project_(x)
                    return x
        with torch.no_grad():
            x.copy_(self.forward(x))
        return x

    def _require_vector(self, x: Any) -> None:
        """Name what is wrong with an x that torch's operators refused."""
        check_vector(x, self._constraint.n, self._constraint.batch, self._constraint.device)

    def tangent(self, v: Tensor) -> Tensor:
        """Projection of v onto the null space of A, T(v) = v - A^+ A v; in the metric, T_W."""
        A, _ = self._replaced()
        if A is not None:
            return self._one_off(v, A, A.new_zeros(()))
        solver = self._solver_for(v, "v")
        return self._solve(solver, v.to(solver.dtype), None, homogeneous=True)[0].to(v.dtype)

    def multipliers(self, x: Tensor, b: Tensor | None = None) -> Tensor:
        """Lagrange multipliers y (..., m) with P(x) = x - W^-1 A'y, zero on dropped rows.

        Where the decision which rows follow from others fits into no memory, the factors answer
        with one of the possible y.
        """
        A, right = self._replaced()
        if A is not None:
            raise InputError(
                "A was replaced by a tensor that a transform or autograd watches, or that keeps no "
                "count of its changes: multipliers need factors of A; build a projector of it"
            )
        right = right if b is None else b
        try:
            solver, work, right = self._prepared(x, right, decided=True)
        except MemoryLimitError:
            if right is not None and not self._solver.takes_any_side:
                raise
            solver, work, right = self._prepared(x, right)
        y = self._solve(solver, work, right, homogeneous=False, want_multipliers=True)[1]
        assert y is not None
        return y.to(x.dtype)

    def certify(self, x0: Tensor, x: Tensor, accuracy: float | None = None) -> Certificate:
        """Bound the forward error of x as the projection of x0; see `projlab.certify`.

        None of this projector's factors enters: the proof is of x, from A and b as given.
        """
        options = self._options
        return certify(
            x0,
            x,
            self.constraint,
            accuracy=accuracy,
            rank=options.rank,
            metric=options.metric,
            on_inconsistent=options.on_inconsistent,
        )

    def null_space(self) -> Tensor:
        """Orthonormal basis (n, n - rank) of the null space of A, (B, n, n - rank) for batched A.

        Raises
        ------
        InputError
            Batched A whose elements differ in rank.
        MemoryLimitError
            An n x n matrix does not fit.
        """
        self._follow()
        solver = self._solver
        if len(set(solver.facts.ranks)) > 1:
            raise InputError(
                f"the systems of the batch have ranks from {min(solver.facts.ranks)} to "
                f"{max(solver.facts.ranks)}: their null-space bases have no common shape"
            )
        return null_space(
            self._constraint, solver.dtype, self._options.rank, self._data(self._dtype)
        )

    def _prepared(
        self, x: Tensor, b: Tensor | None, *, decided: bool = False
    ) -> tuple[AnySolver, Tensor, Tensor | None]:
        """The factors for x, x as they take it, and b as well where it is not their own."""
        own = b is self._buffers["b"] and is_compiling()
        solver = self._solver_for(x, decided=decided, other_side=not (b is None or own))
        work = x.to(solver.dtype)
        if b is None or own:
            return solver, work, b
        right = self._right_side(b, x, solver)
        return solver, work.expand(*right.shape[:-1], work.shape[-1]), right

    def _replaced(self) -> tuple[Tensor | None, Tensor | None]:
        """The buffers A and b where they are not those of the factors, otherwise None.

        Plain constants never are: what is set up follows them. In a compiled program b always is,
        so that it sees every change; an exported one holds numbers of its own.
        """
        own: Any = self._buffers
        known, a, known_b, v = self._known
        if is_exporting():
            # strict export traces this, and cannot tell how often a tensor was changed
            strict = is_dynamo_compiling()
            if (
                known is UNSEEN
                or known_b is UNSEEN
                or not (strict or (known._version == a and known_b._version == v))
            ):
                raise InputError(
                    "A or b was changed since the projector was last used, and torch.export cannot "
                    "set up: call the projector once, then export"
                )
            return None, None
        if missing := [name for name, part in own.items() if part is None]:
            raise InputError(f"the buffer {missing[0]} was set to None; a projector needs A and b")
        b: Tensor = own["b"]
        if is_compiling():
            if self._mark is None or own[self._entries] is known:
                return None, b
            if self._size is None:
                return own["A"], b
            raise InputError(
                "A is sparse and was assigned to since it was factored, and a compiled program "
                "does not factor again: call the projector once outside of it"
            )
        self._write_back()
        same = self._same()
        if (same.A and same.b) or (self._factors is None and any(same)):
            return None, None
        buffers = self._own().values()
        if any(t.is_meta for t in buffers):
            raise InputError("A and b are on the device meta and have no values")
        if not torch._C._are_functorch_transforms_active() and all(map(constant, buffers)):
            with set_up():
                self._set_up_again(same_A=same.A, same_b=same.b)
            return None, None
        return (None, b) if same.A else (self._assembled_for_project(), b)

    def _sparse_unchanged(self) -> bool:
        """Whether sparse A and b are those of the factors; never in what a compiler traces."""
        if self._size is None or is_compiling():
            return False
        self._write_back()
        return all(self._same())

    def _assembled_for_project(self) -> Tensor:
        """A for `project`, where a transform or autograd watches it."""
        if self._size is not None and torch._C._are_functorch_transforms_active():
            raise InputError(
                "A is sparse and not the one that was factored, and torch has no sparse tensors "
                "under a transform: call the projector once outside of it where A was changed, or "
                "give dense A"
            )
        return self.A

    def _follow(self) -> None:
        """Set up again where the buffers changed."""
        self._replaced()

    @compiled.eager
    def _set_up_again(self, *, same_A: bool, same_b: bool) -> None:
        """Follow the buffers, with the same factors where only b changed and can have any value."""
        constraint, b = self._constraint, self.b
        same_A = same_A or self._holds(constraint.rows)
        if not same_A:
            constraint = constraint.like(self._rows(), b)
        elif not (same_b or _equal(b, constraint.b)):
            constraint = constraint.like(constraint.rows, b)
        else:
            self._watch()
            return
        solvers = {}
        if same_A:
            solvers = {key: s.for_right_side(constraint.b) for key, s in self._solvers.items()}
        work = working_dtype(self._dtype)
        solver = solvers.get((work, False))
        if solver is None:
            solver = build(constraint, work, self._options, self._data(self._dtype))
        self._adopt(constraint, self._dtype, solver, hold=False)
        for other in solvers.values():
            if other is not None and other.dtype is not solver.dtype:
                self._keep(other)

    def _one_off(self, x: Tensor, A: Tensor, b: Tensor | None) -> Tensor:
        """The projection where A is not what was factored."""
        options = self._options
        return project(
            x,
            A,
            b,
            options.variant,
            accuracy=options.accuracy,
            rank=options.rank,
            metric=options.metric,
            on_redundant=options.on_redundant,
            on_inconsistent=options.on_inconsistent,
            preconditioner=options.preconditioner,
            b_error=options.b_error,
        )

    def _solve(
        self,
        solver: AnySolver,
        x: Tensor,
        b: Tensor | None,
        *,
        homogeneous: bool,
        want_multipliers: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The one way to the factors, by what watches: the compiler, autograd, or nobody."""
        if self._opaque and is_compiling():
            if is_exporting():
                raise InputError(
                    f"variant={solver.variant!r} decides by values how long to iterate, which no "
                    "exported program can: take a variant that factors A"
                )
            return self._solve_eagerly(
                solver, x, b, homogeneous=homogeneous, want_multipliers=want_multipliers
            )
        if is_compiling() and not is_exporting():
            form, tensors = compiled.taken_apart(solver)
            watched = [] if self._mark is None else self._watched()
            projected, y = compiled.solve(
                x, b, tensors, form, watched, self._mark, homogeneous, False, want_multipliers
            )
            return projected, y if want_multipliers else None
        if needs_function(x, b) and not is_exporting():
            if not want_multipliers and (b is None or not b.requires_grad):

                def project(v: Tensor) -> Tensor:
                    found, _ = solver.solve(
                        v, b, homogeneous=homogeneous, dual=False, want_multipliers=False
                    )
                    # autograd refuses to change a view in place
                    return found.clone() if found._is_view() else found

                projected = reverse_mode(x, project, solver)
                if projected is not None:
                    return projected, None
            return solve(
                x,
                None,
                b,
                solver,
                homogeneous=homogeneous,
                dual=False,
                want_multipliers=want_multipliers,
            )
        return solver.solve(
            x, b, homogeneous=homogeneous, dual=False, want_multipliers=want_multipliers
        )

    @compiled.eager
    def _solve_eagerly(
        self, solver: AnySolver, x: Tensor, b: Tensor | None, **how: bool
    ) -> tuple[Tensor, Tensor | None]:
        compiled.require_unchanged([] if self._mark is None else self._watched(), self._mark)
        return self._solve(solver, x, b, **how)

    def _solver_for(
        self, x: Tensor, name: str = "x", *, decided: bool = False, other_side: bool = False
    ) -> AnySolver:
        """The factors for x's dtype; `InputError` for a bad x.

        Of independent rows if `decided`, or if another b needs them.
        """
        solver = self._solver
        check_vector(x, solver.shape[1], solver.batch, solver.device, name)
        if x.dtype != solver.dtype:
            wide = torch.float64 in (x.dtype, self._dtype)
            dtype = torch.float64 if wide else torch.float32
            if (dtype, False) not in self._solvers:
                self._factor(dtype)
            solver = self._solvers[dtype, False]
        if solver.decided or not (decided or (other_side and not solver.takes_any_side)):
            return solver
        if (solver.dtype, True) not in self._solvers:
            self._decide(solver.dtype)
        return self._solvers[solver.dtype, True]

    @compiled.eager
    def _factor(self, dtype: torch.dtype) -> None:
        """Factor in a precision wider than A's, at its first x, and keep the factors."""
        with set_up():
            solver = build(self._constraint, dtype, self._options, self._data(self._dtype))
        self._keep(solver)

    @compiled.eager
    def _decide(self, dtype: torch.dtype) -> None:
        """Decide which rows are independent, where that is first needed, and keep their factors."""
        data, answering = self._data(self._dtype), self._solvers[dtype, False]
        with set_up(), stated_precision(self.device):
            if answering.independent:
                self._solvers[dtype, True] = answering
                return
            solver = decided(self._constraint, dtype, self._options, data)
        self._solvers[dtype, True] = solver

    def _data(self, dtype: torch.dtype) -> torch.dtype:
        """The precision of A as given or as converted, whichever is less: it decides the rank."""
        given = working_dtype(self._constraint.dtype)
        return torch.float32 if torch.float32 in (given, working_dtype(dtype)) else given

    def _right_side(self, b: Any, x: Tensor, solver: AnySolver) -> Tensor:
        m, lead = solver.shape[0], x.shape[:-1]
        refuse_elsewhere(b, "b", "the projector", solver.device)
        if isinstance(b, Tensor):
            refuse_kinds(b, "b")
        else:
            b = to_tensor(b, "b")
        if b.is_complex():
            raise InputError(f"b has dtype {b.dtype}; projlab projects real vectors only")
        if b.is_floating_point() and b.dtype not in FLOATS:
            raise InputError(f"b has dtype {b.dtype}; use b.float()")
        b = _placed(b, solver.device)
        fits = b.dim() == 0 or b.shape[-1] == m
        if solver.batch is not None and b.dim() == 2 and x.dim() > 2:
            b = b.reshape(b.shape[0], *[1] * (x.dim() - 2), b.shape[1])
        try:
            shape = broadcast_shape(b.shape, (*lead, m))
        except RuntimeError:
            shape = torch.Size()
        other = solver.batch is not None and (len(shape) != x.dim() or shape[0] != solver.batch)
        if not fits or len(shape) == 0 or other:
            raise InputError(
                f"b has shape {tuple(b.shape)}; beside x of shape {tuple(x.shape)} it must be a "
                f"scalar or ({m},)" + (f", or {(*lead, m)}" if len(lead) else "")
            )
        if b.requires_grad and not solver.full_rank:
            raise RankDeficientError(
                f"b requires grad, but the rank is {min(solver.facts.ranks)} of {m} rows: the "
                "projection is differentiable in b at full row rank only. Remove the redundant "
                "rows (projlab.diagnose names them), or detach b."
            )
        # scaled by the rows' units before it is rounded to the working precision
        wide = torch.float64 in (b.dtype, solver.dtype)
        right: Tensor = b.to(torch.float64 if wide else torch.float32).expand(shape)
        return right

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Projector":
        """Move or convert: A and b as given stay exact, the factors follow."""
        self._follow()
        if self._constraint.operator is not None:
            at = fn(torch.empty(0, dtype=self._dtype, device=self.device))
            self._constraint.rows.to(device=at.device)  # refuses to move
        with self._aside():
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it bare
        probe = fn(torch.empty(0, dtype=self._dtype, device=self.device))
        constraint = self._constraint
        if self._factors is None or probe.is_meta:
            empty = moved(constraint, torch.device("meta"))
            if self._factors is None:
                self._put(self._through(fn), self._size)
            self._adopt(empty, probe.dtype, None, hold=self._factors is not None)
            return self
        if probe.device != self.device:
            constraint = moved(constraint, probe.device)
        if probe.dtype != self._dtype:
            work = working_dtype(probe.dtype)
            solver = self._solver.to(probe.device)
            if work != solver.dtype:
                solver = build(constraint, work, self._options, self._data(probe.dtype))
            self._adopt(constraint, probe.dtype, solver)
        elif probe.device != self.device:
            self._adopt(constraint, self._dtype, self._solver.to(probe.device))
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        keys = {name: prefix + name for name in self._stored(state_dict, prefix)}
        with self._aside():  # what else is registered is loaded as in any module
            super()._load_from_state_dict(
                {key: value for key, value in state_dict.items() if key not in keys.values()},
                prefix,
                local_metadata,
                strict,
                missing_keys,
                unexpected_keys,
                error_msgs,
            )
        if self._constraint.operator is not None:
            if strict and keys["A"] in state_dict:
                unexpected_keys.append(keys["A"])
            state_dict = {**state_dict, keys["A"]: self.A}
        missing = [key for key in keys.values() if key not in state_dict]
        if missing:
            missing_keys.extend(missing if strict else [])
            if len(missing) < len(keys):
                given = ", ".join(key for key in keys.values() if key in state_dict)
                error_msgs.append(
                    f"{', '.join(missing)}: missing beside {given}; a constraint is loaded whole"
                )
            return
        found: Named = {name: state_dict[key] for name, key in keys.items()}
        said = ", ".join(keys.values())
        if wrong := [key for key in keys.values() if not isinstance(state_dict[key], Tensor)]:
            kind = type(state_dict[wrong[0]]).__name__
            error_msgs.append(f"{wrong[0]} is a {kind}; it must be a tensor")
            return
        if any(t.is_meta for t in found.values()):
            error_msgs.append(f"{said}: on the device meta, and so without values")
            return
        device = self.device
        if device.type == "meta":
            if not local_metadata.get("assign_to_params_buffers", False):
                warnings.warn(
                    f"{said}: loading values into a projector on the device meta "
                    "does nothing; pass assign=True, or call to_empty before",
                    stacklevel=2,
                )
                return
            device = found["b"].device
        try:
            A, b = self._assembled_from(found, local_metadata), found["b"]
            if A.shape != self._shape() or b.shape != self.b.shape:
                error_msgs.append(
                    f"size mismatch for {said}: the state dict holds {tuple(A.shape)}, "
                    f"{tuple(b.shape)}, this projector {tuple(self._shape())}, "
                    f"{tuple(self.b.shape)}"
                )
                return
            constraint = self._constraint.like(A.to(device), b.to(device))
            work = working_dtype(self._dtype)
            solver = build(constraint, work, self._options, self._data(self._dtype))
        except ProjlabError as error:
            error_msgs.append(f"{said}: {error}")
            return
        self._adopt(constraint, self._dtype, solver)

    def __getstate__(self) -> dict[str, Any]:
        self._follow()
        return {k: v for k, v in vars(self).items() if k not in _DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._assembled = None
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch leaves it bare
        self._derive()

    def extra_repr(self) -> str:
        """Shape and variant, and what is known of rank and condition without deciding it now."""
        self._follow()
        if self._factors is None:
            return f"m={self._constraint.m}, n={self._constraint.n}, no values yet"
        solver, facts = self._factors, self._factors.facts
        batch = "" if solver.batch is None else f"batch={solver.batch}, "
        rank = "" if facts.known_ranks is None else f"rank={min(facts.known_ranks)}, "
        condition = ""
        if facts.known_conditions is not None:
            condition = f"condition={max(facts.known_conditions):.3g}, "
        elif facts.bounds is not None:
            condition = f"condition<={max(facts.bounds):.3g}, "
        return (
            f"{batch}m={solver.shape[0]}, n={solver.shape[1]}, variant={solver.variant!r}, "
            f"{rank}{condition}dtype={str(self._dtype).removeprefix('torch.')}"
        )


_DERIVED = frozenset({"_direct", "_known", "_known_indices", "_mark", "_assembled", "_opaque"})


def _placed(b: Tensor, device: torch.device) -> Tensor:
    """b on the device; a number from the host is written there, for a copy would wait."""
    if b.device == device:
        return b
    plain = type(b) is Tensor and b.is_cpu and b.dim() == 0 and not b.requires_grad
    if plain and not torch._C._are_functorch_transforms_active() and not is_compiling():
        return torch.full((), b.item(), dtype=b.dtype, device=device)
    return b.to(device)


def _is_meta(constraint: AffineConstraint) -> bool:
    return constraint.device.type == "meta"


def _equal(changed: Tensor, kept: Tensor) -> bool:
    """Whether a buffer that was written to holds what it held: no, where no copy can tell."""
    if changed.data_ptr() == kept.data_ptr() or changed.shape != kept.shape:
        return False
    same = changed.dtype == kept.dtype and changed.device == kept.device
    return same and torch.equal(changed, kept)


def moved(constraint: AffineConstraint, device: torch.device) -> AffineConstraint:
    """The same equations on another device."""
    rows = constraint.rows.to(device=device)
    return constraint.like(rows, sent(constraint.b, device))
