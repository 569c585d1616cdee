"""Setting up by iteration: nothing is factored, and no rank is decided.

A random vector is projected first. That tells what the singular values are like, and how many steps
a projection takes; then zero is, which tells whether the equations have a solution. Rows that
follow from others do not matter: the residual they leave is rounding.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.facts import Facts
from projlab.engine.solver import Solver
from projlab.engine.variants.iterative import (
    End,
    IterativeFactor,
    Preconditioner,
    prepared,
    vector_bytes,
)
from projlab.errors import AccuracyError, InconsistentError, InputError, first_few
from projlab.numerics import memory
from projlab.numerics.precision import set_up
from projlab.numerics.scaling import power_of_two, scale
from projlab.system.constraint import AffineConstraint
from projlab.system.equilibration import (
    Equilibrated,
    equilibrate,
    equilibrate_rows,
    equilibrated_side,
)
from projlab.system.inputs import working_dtype
from projlab.system.operator_rows import REMEDY, OperatorRows, linear_map
from projlab.system.options import Options

NAME = "iterative"


@dataclass
class IteratedFacts(Facts):
    """As `Facts`, where singular values may be out of reach."""

    factor: IterativeFactor | None = None

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank; where only products are to be had, m or `InputError`.

        A random right-hand side is in the range of A exactly where its rows are independent.
        """
        if self.known_ranks is None and not _factorable(self.constraint):
            assert self.factor is not None
            with set_up():  # a transform may be what asks
                independent = _independent(self.factor, self.constraint)
            if not independent:
                raise InputError(
                    f"the {self.constraint.m} rows of A were not found independent: a random right-"
                    "hand side was not reached by iteration. Their rank, and a derivative in b, "
                    f"need the entries of A and memory for a factorisation: {REMEDY}"
                )
            self.known_ranks = (self.constraint.m,)
        return super().ranks


def by_iteration(constraint: AffineConstraint, options: Options) -> bool:
    """Whether an iteration is what is asked for, or all there is; `InputError` for what it cannot.

    Dense rows by the name of the variant go the way of the others, which decides their rank; so do
    those narrower than float64: what redundant ones may be off by, only a decision tells.
    """
    operator = isinstance(constraint.rows, OperatorRows)
    if operator and options.variant not in ("auto", NAME):
        raise InputError(
            f'A is an operator, of which variant="{NAME}" alone can project; variant='
            f"{options.variant!r} needs its entries: {REMEDY}"
        )
    if not (operator or options.preconditioner or (constraint.rows.sparse and _named(options))):
        return False
    narrow = working_dtype(constraint.dtype) is not torch.float64
    if narrow and not operator and options.preconditioner is None and _factorable(constraint):
        return False
    refused = _beyond(constraint, options)
    if refused is None:
        return True
    if operator:
        raise InputError(f"A is an operator, and {refused} needs its entries: {REMEDY}")
    if options.preconditioner is not None:
        raise InputError(f"preconditioner is not taken together with {refused}")
    return False


def last_resort(constraint: AffineConstraint, options: Options) -> bool:
    """Whether sparse rows that share columns fit no factorisation."""
    return (
        options.variant == "auto"
        and constraint.rows.sparse
        and _beyond(constraint, options) is None
        and not _factorable(constraint)
        and not constraint.rows.disjoint()
    )


def _named(options: Options) -> bool:
    return options.variant == NAME


def _beyond(constraint: AffineConstraint, options: Options) -> str | None:
    """An option that asks for a rank decision or a factorisation, as it was given."""
    asked = {
        "a batch of systems": constraint.batch is not None,
        f"rank={options.rank!r}": options.rank != "numerical",
        "metric=": options.metric is not None,
        'on_redundant="raise"': options.on_redundant != "drop",
        'on_inconsistent="least_squares"': options.on_inconsistent != "raise",
    }
    return next((name for name, given in asked.items() if given), None)


def _factorable(constraint: AffineConstraint) -> bool:
    if isinstance(constraint.rows, OperatorRows):
        return False
    needed = memory.factorisation_bytes(constraint.m, constraint.n, torch.float64)
    return needed <= memory.limit(constraint.device)


def built(
    constraint: AffineConstraint, dtype: torch.dtype, options: Options, data: torch.dtype
) -> Solver:
    """A solver that iterates.

    Raises
    ------
    AccuracyError
        A random vector, or zero, is not projected to the accuracy asked for.
    InconsistentError
        No x satisfies A x = b.
    InputError
        The preconditioner is no symmetric positive definite function of vectors (m,).
    MemoryLimitError
        The vectors of one iteration do not fit.
    """
    m, n = constraint.m, constraint.n
    system = _equilibrated(constraint, dtype)
    facts = IteratedFacts(constraint, dtype, options.rank, data)
    solver = Solver(
        shape=(m, n),
        batch=None,
        dtype=dtype,
        device=constraint.device,
        variant=NAME,
        reason=f"{NAME}: no equation is left to satisfy",
        facts=facts,
        factor=None,
        kept=None,
        units=system.units,
        onto_range=None,
        metric=None,
        c=None,
        # where no rank can be decided all rows are kept, and each has its multiplier
        decided=not _factorable(constraint),
    )
    if m == 0:
        facts.known_ranks = (0,)
        return solver
    preconditioner = None
    if options.preconditioner is not None:
        preconditioner = _preconditioner(options, system.exponent, constraint)
    u = tolerance.unit_roundoff(data)
    factor = prepared(system.rows, u, options.accuracy, preconditioner)
    c = factor.right_side(system.f)
    end = factor.iterated(torch.zeros(n, dtype=dtype, device=constraint.device), c)
    if not bool(end.reached):
        factor = replace(factor, left=_left(constraint, system, factor, end, u))
    facts.factor = factor
    return replace(solver, factor=factor, c=c, reason=_reason(constraint, options, factor, dtype))


def _equilibrated(constraint: AffineConstraint, dtype: torch.dtype) -> Equilibrated:
    if not isinstance(constraint.rows, OperatorRows):
        return equilibrate(constraint, dtype)
    rows, exponent = equilibrate_rows(constraint.rows.to(dtype))
    f = equilibrated_side(constraint.b, exponent).to(device=constraint.device, dtype=dtype)
    return Equilibrated(rows, f, exponent)


def _left(
    constraint: AffineConstraint,
    system: Equilibrated,
    factor: IterativeFactor,
    end: End,
    u: float,
) -> Tensor:
    """What redundant rows disagree by, within what rounding of the data explains.

    Raises `InconsistentError` where it does not, and `AccuracyError` where it is not known yet.
    """
    inside = torch.linalg.vector_norm(factor.products.rmatvec(factor.precondition(end.r)))
    if bool(inside > factor.smallest * end.off / 2):
        raise AccuracyError(
            f"iterative: the projection of zero did not come to rest in {end.steps} steps; the "
            f"estimated forward error reached is {float(end.error):.2g}. Give preconditioner=, ask "
            "for less, or take a variant that factors A"
        )
    off, length = end.r.abs(), torch.linalg.vector_norm(end.x)
    most = tolerance.consistency_factor(tolerance.rank_cutoff(*factor.size, u))
    allowed = most * (system.rows.row_norms() * length + system.f.abs())
    if constraint.b_error is not None:
        allowed = allowed + equilibrated_side(constraint.b_error, system.exponent).to(allowed)
    if not bool((off > allowed).any()):
        return end.off
    ratio = off / allowed
    bad = torch.argsort(ratio, descending=True)[: int((ratio > 1).sum())].tolist()
    back = torch.ldexp(off.double(), -system.exponent)
    raise InconsistentError(
        "no x satisfies A x = b: where the sum of squares is least, the rows, each over its norm, "
        "are off by "
        + first_few([f"{back[i]:.2g} in {constraint.names[i]}" for i in bad])
        + ". Remove the contradiction, or give the entries of A and "
        'on_inconsistent="least_squares".'
    )


def _independent(factor: IterativeFactor, constraint: AffineConstraint) -> bool:
    generator = torch.Generator("cpu").manual_seed(3)
    g = torch.randn(constraint.m, generator=generator, dtype=torch.float64, device="cpu")
    like = factor.smallest
    exact = replace(factor, accuracy=None, limit=tolerance.AGAIN * factor.limit)
    zero = torch.zeros(constraint.n, dtype=like.dtype, device=like.device)
    return float(exact.iterated(zero, g.to(like)).off) <= tolerance.INDEPENDENT


def _preconditioner(
    options: Options, exponent: Tensor, constraint: AffineConstraint
) -> Preconditioner:
    """What is about (E E')^-1, from the caller's (A A')^-1; tried with random vectors."""
    assert options.preconditioner is not None
    m = constraint.m
    given = linear_map(options.preconditioner, "preconditioner", (m, m), constraint.device)
    before = power_of_two(-exponent, torch.float64)
    apply = _InRows(given, before, before)
    generator = torch.Generator("cpu").manual_seed(4)
    pair = torch.randn(2, m, generator=generator, dtype=torch.float64, device="cpu")
    pair = pair.to(constraint.device)
    images = apply(pair)
    # of any size it leads the same way, but squares of residuals by its norm must not vanish
    power = -torch.frexp(images.abs().max().reshape(1)).exponent
    apply = replace(apply, after=power_of_two(power - exponent, torch.float64))
    images = scale(images, power)
    left, right = float(images[0] @ pair[1]), float(pair[0] @ images[1])
    size = float(images.norm() * pair.norm())
    u = max(tolerance.unit_roundoff(dtype) for dtype in given.dtypes)
    if not abs(left - right) <= u**0.5 * size:
        raise InputError(
            "preconditioner is not symmetric: for random u and v, <M u, v> = "
            f"{left:.17g} and <u, M v> = {right:.17g}"
        )
    if not bool((torch.linalg.vecdot(images, pair) > 0).all()):
        raise InputError("preconditioner is not positive definite: <M u, u> <= 0 for a random u")
    return apply


@dataclass(frozen=True)
class _InRows:
    """M in equilibrated rows, D^-1 M D^-1, times a power of two."""

    given: Preconditioner
    before: tuple[Tensor, Tensor]
    """(m,) factors whose product is D^-1."""
    after: tuple[Tensor, Tensor]
    """Of D^-1 times the power."""

    def __call__(self, r: Tensor) -> Tensor:
        image = self.given(r * self.before[0] * self.before[1])
        return (image * self.after[0] * self.after[1]).to(r.dtype)


def _reason(
    constraint: AffineConstraint, options: Options, factor: IterativeFactor, dtype: torch.dtype
) -> str:
    m, n = factor.size
    condition = float(factor.largest / factor.smallest) * tolerance.UNSEEN
    why = "asked for by name"
    if isinstance(constraint.rows, OperatorRows):
        why = "A is an operator"
    elif options.preconditioner is not None:
        why = "a preconditioner is given"
    elif not _named(options):
        why = f"no dense factorisation of {m} x {n} rows fits into memory"
    mega = vector_bytes(m, n, dtype) / 2**20
    return (
        f"{NAME}: {why}; a random vector took {factor.taken} steps, the condition number is about "
        f"{condition:.2g} (estimated), and each vector in work takes {mega:,.0f} MB"
    )
