"""Proof of one answer, independent of how it was computed.

For any x, with T the projection onto the null space of A and x* the projection of x0,

    ||x - x*||^2 = ||T(x - x0)||^2 + ||A^+(A x - b)||^2          (x* - x0 is in the row space)

so that a bound on both terms bounds the forward error, without x*. With E (r x n) the equilibrated
independent rows, everything on the right is bounded from quantities evaluated as pairs of float64:

1. t = (x - x0) + E'y for some y. T t = T(x - x0) whatever y is, so ||T(x - x0)|| <= ||t||; and
   t - T t is the row-space part of t, at most ||E t|| / sigma_min, which gives a lower bound. y is
   found by iterative refinement with a float64 QR of E', which only has to make t small.
2. z = E'w with E z ~ E x - f =: q. E^+ q = z + E^+(q - E z), so ||E^+ q|| differs from ||z|| by at
   most ||q - E z|| / sigma_min.

Each pair is within the error that `eft.Product` states, which is added. sigma_min is bounded below
by the smallest singular value of R less the backward error of the QR and the SVD; where nothing is
left, the verdict is "uncertifiable". Of large sparse rows E a sparse factor of E E' steers instead,
and sigma_min^2 is at least t less what L D L' is off, where E E' - t I has the computed factor
L D L' with D > 0 (`projlab.numerics.gram`).

Redundant rows are proven to follow from the kept ones, where a sparse C is that of the rank
decision, corrected, and Delta is summed entry by entry: with
E_D = C E_K + Delta and f_D = C f_K + phi, and the numerical-rank projection that of E_r,
||E - E_r|| <= ||Delta||, the two projections differ by at most

    (4 ||Delta|| ||x0 - x*|| + ||Delta x0 - phi||) (1 + small) / sigma_min,

from Stewart and Sun, "Matrix Perturbation Theory", theorem III.3.9 (pseudoinverses of one rank).
No factor of the variant that computed x enters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import InputError
from projlab.numerics.precision import stated_precision
from projlab.proof.bounds import NOT_FINITE, Figures, bounds_of
from projlab.system.analysis import analyse, raise_inconsistent
from projlab.system.constraint import AffineConstraint, as_constraint
from projlab.system.inputs import check_vector, working_dtype
from projlab.system.options import ProblemKeywords, check_options, listed, refuse_unknown

Verdict = Literal["certified", "failed", "uncertifiable"]
_ORDER: dict[Verdict, int] = {"certified": 0, "uncertifiable": 1, "failed": 2}


@dataclass(frozen=True)
class Certificate:
    """What is proven of an answer; figures are floats, or tensors (x's leading dimensions)."""

    feasibility: Any
    """max_i |A x - b|_i / (||a_i|| (||x|| + ||x0||) + |b_i|)."""
    stationarity: Any
    """||T(x - x0)|| / (||x0|| + ||x||), an upper bound."""
    forward_error_bound: Any
    """Upper bound on ||x - x*|| / ||x*||, in the metric's norm; relative to ||x0|| where x* may be
    0, for all that twice the precision of float64 tells."""
    forward_error_at_least: Any
    """Lower bound on the same."""
    accuracy: Any
    """What the bounds are held against."""
    verdict: Verdict
    """"certified": the bound is within the accuracy; "failed": the lower bound exceeds it;
    "uncertifiable": neither. The worst of a batch."""
    reason: str

    def __bool__(self) -> bool:
        raise TypeError('a Certificate has no truth value; compare .verdict with "certified"')


@listed
def certify(
    x0: Tensor,
    x: Tensor,
    A: Any,
    b: Any = None,
    accuracy: float | None = None,
    **keywords: Unpack[ProblemKeywords],
) -> Certificate:
    """Bound the forward error of anybody's projection x of x0 onto {x : A x = b}.

    Parameters
    ----------
    x0, x
        The point and what is claimed to be its projection: (..., n), or (B, ..., n) for batched A,
        floating-point tensors of one shape.
    A, b
        As `AffineConstraint` takes them, or one AffineConstraint as A (then no b). Sparse A enters
        the products as it is. What steers the refinement is a dense QR, one of each independent
        block; of large sparse rows a sparse factor of their Gram matrix; and rows that share no
        column need none.
    accuracy
        Forward error to be proven, relative to ||x*||. By default what a backward-stable method
        reaches in x's precision: dimension factor * kappa * u * (||x0|| + ||x0 - x*||) / ||x*||.
    rank, metric, on_inconsistent, b_error
        As for `projector`: they say which projection x* is.

    Returns
    -------
    Certificate
        Figures are floats for one x, tensors of x's leading dimensions otherwise; the verdict is
        the worst. x that is not finite fails.

    Raises
    ------
    InputError, InconsistentError, MemoryLimitError
        As `projector`; InputError where x and x0 do not match.

    References
    ----------
    Rump, "Verification methods", Acta Numerica 19 (2010); Higham, ASNA, sections 3.1 and 21.4. The
    derivation stands at the top of `projlab/proof/certificate.py`.
    """
    constraint = as_constraint(A, b)
    refuse_unknown(keywords, ProblemKeywords)
    options = check_options(constraint.n, {"accuracy": accuracy, **keywords})
    constraint = constraint.stating(options.b_error)
    least_squares = options.on_inconsistent == "least_squares"
    _check_pair(x0, x, constraint)
    x0, x = x0.detach(), x.detach()
    device = constraint.device
    with torch.no_grad(), torch.inference_mode(False), stated_precision(device):
        data = working_dtype(constraint.dtype)
        analysis = analyse(constraint, data, options.rank, data, measured=True)
        if analysis.conflicts and not least_squares:
            raise_inconsistent(constraint, analysis)
        u = tolerance.unit_roundoff(x.dtype)
        lead = x.shape[1:-1] if constraint.batch is not None else x.shape[:-1]
        figures = []
        for i in range(constraint.batch or 1):
            this = (i,) if constraint.batch is not None else ()
            points, answers = (t[this].reshape(-1, constraint.n).double() for t in (x0, x))
            bounds = bounds_of(constraint, analysis, i, options.metric, least_squares=least_squares)
            figures.append(bounds.figures(points, answers, u, options.accuracy))
    return _merged(figures, lead, constraint.batch)


def worst(certificates: Sequence[Certificate]) -> Certificate:
    """Several certificates as one of floats: the worst figures, the worst verdict and its reason.

    Its bounds hold for every vector of every one of them.
    """

    def figures(name: str) -> Tensor:
        values = [
            torch.as_tensor(getattr(c, name), dtype=torch.float64, device="cpu")
            for c in certificates
        ]
        return torch.cat([value.reshape(-1) for value in values])

    verdict, reason = _worst_verdict([(c.verdict, c.reason) for c in certificates])
    return Certificate(
        feasibility=float(figures("feasibility").max()),
        stationarity=float(figures("stationarity").max()),
        forward_error_bound=float(figures("forward_error_bound").max()),
        forward_error_at_least=float(figures("forward_error_at_least").min()),
        accuracy=float(figures("accuracy").min()),
        verdict=verdict,
        reason=reason,
    )


def _worst_verdict(verdicts: Sequence[tuple[Verdict, str]]) -> tuple[Verdict, str]:
    """The first of the worst."""
    return max(verdicts, key=lambda verdict: _ORDER[verdict[0]])


def _check_pair(x0: Tensor, x: Tensor, constraint: AffineConstraint) -> None:
    check_vector(x0, constraint.n, constraint.batch, constraint.device, "x0")
    check_vector(x, constraint.n, constraint.batch, constraint.device, "x")
    if x0.shape != x.shape:
        raise InputError(f"x0 has shape {tuple(x0.shape)}, x {tuple(x.shape)}; they must match")
    if not bool(torch.isfinite(x0).all()):
        raise InputError("x0 must be finite")


def _merged(systems: list[Figures], lead: torch.Size, batch: int | None) -> Certificate:
    """One certificate of all systems of a batch, the verdict that of the worst."""
    verdicts = [verdict for figures in systems for verdict in _verdicts(figures)]
    verdict, reason = _worst_verdict(verdicts) if verdicts else ("certified", "")

    def shaped(name: str) -> Any:
        stacked = torch.stack([getattr(figures, name) for figures in systems])
        whole = (*(() if batch is None else (batch,)), *lead)
        return float(stacked) if whole == () else stacked.reshape(whole)

    return Certificate(
        feasibility=shaped("feasibility"),
        stationarity=shaped("stationarity"),
        forward_error_bound=shaped("upper"),
        forward_error_at_least=shaped("lower"),
        accuracy=shaped("accuracy"),
        verdict=verdict,
        reason=reason,
    )


def _verdicts(figures: Figures) -> list[tuple[Verdict, str]]:
    """Of each answer, with the reason."""
    verdicts: list[tuple[Verdict, str]] = []
    for upper, lower, held in zip(
        figures.upper.tolist(), figures.lower.tolist(), figures.accuracy.tolist(), strict=True
    ):
        if upper <= held and math.isfinite(upper):
            verdicts.append(("certified", f"the bound {upper:.2g} is within {held:.2g}"))
        elif lower > held:
            verdicts.append(("failed", f"at least {lower:.2g} off, more than {held:.2g}"))
        elif figures.why_not == NOT_FINITE:
            verdicts.append(("failed", figures.why_not))
        else:
            verdicts.append(("uncertifiable", figures.why_not))
    return verdicts
