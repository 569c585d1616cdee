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
left, the verdict is "uncertifiable". Redundant rows are proven to follow from the kept ones: with
E_D = C E_K + Delta and f_D = C f_K + phi, and the numerical-rank projection that of E_r,
||E - E_r|| <= ||Delta||, the two projections differ by at most

    (4 ||Delta|| ||x0 - x*|| + ||Delta x0 - phi||) (1 + small) / sigma_min,

from Stewart and Sun, "Matrix Perturbation Theory", theorem III.3.9 (pseudoinverses of one rank).
No factor of the variant that computed x enters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import InputError
from projlab.numerics.double_double import Pair, add, choose, exact, negative, two_sum
from projlab.numerics.precision import stated_precision
from projlab.numerics.scaling import scale
from projlab.proof.products import Product
from projlab.system.constraint import AffineConstraint
from projlab.system.diagnosis import (
    Analysis,
    analyse,
    as_constraint,
    raise_inconsistent,
    range_projection,
    working_dtype,
)
from projlab.system.equilibration import equilibrated_side
from projlab.system.inputs import check_vector
from projlab.system.metric import Metric, factor_metric
from projlab.system.options import ProblemKeywords, check_options, listed, refuse_unknown
from projlab.system.rank import Rank
from projlab.system.rows import DenseRows, Rows

U = 2.0**-53
Verdict = Literal["certified", "failed", "uncertifiable"]
_ORDER: dict[Verdict, int] = {"certified": 0, "uncertifiable": 1, "failed": 2}
_ROUNDS = 40


@dataclass(frozen=True)
class Certificate:
    """What is proven of an answer; figures are floats, or tensors (x's leading dimensions)."""

    feasibility: Any
    """max_i |A x - b|_i / (||a_i|| (||x|| + ||x0||) + |b_i|)."""
    stationarity: Any
    """||T(x - x0)|| / (||x0|| + ||x||), an upper bound."""
    forward_error_bound: Any
    """Upper bound on ||x - x*|| / ||x*|| (in the metric's norm; x* = 0: relative to ||x0||)."""
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
        the products as it is; the QR that steers the refinement is dense.
    accuracy
        Forward error to be proven, relative to ||x*||. By default what a backward-stable method
        reaches in x's precision: dimension factor * kappa * u * (||x0|| + ||x0 - x*||) / ||x*||.
    rank, metric, on_inconsistent
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
    least_squares = options.on_inconsistent == "least_squares"
    _check_pair(x0, x, constraint)
    device = constraint.device
    with torch.no_grad(), torch.inference_mode(False), stated_precision(device):
        data = working_dtype(constraint.dtype)
        analysis = analyse(constraint, data, options.rank, data, measured=True)
        if analysis.conflicts and not least_squares:
            raise_inconsistent(constraint, analysis)
        u = tolerance.unit_roundoff(x.dtype)
        lead = x.shape[1:-1] if constraint.batch is not None else x.shape[:-1]
        found = []
        for i in range(constraint.batch or 1):
            system = _system(constraint, analysis, i, options.metric, least_squares)
            this = (i,) if constraint.batch is not None else ()
            points = x0[this].reshape(-1, constraint.n), x[this].reshape(-1, constraint.n)
            found.append(
                system.certify(points[0].double(), points[1].double(), u, options.accuracy)
            )
    return _merged(found, lead, constraint.batch)


def worst(certificates: Sequence[Certificate]) -> Certificate:
    """Several certificates as one of floats: the worst figures, the worst verdict and its reason.

    Its bounds hold for every vector of every one of them.
    """

    def figures(name: str) -> Tensor:
        values = [torch.as_tensor(getattr(c, name), dtype=torch.float64) for c in certificates]
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


def _norm(v: Tensor) -> Tensor:
    """(k,) 2-norms, scaled against over- and underflow."""
    peak = v.abs().amax(-1, keepdim=True)
    peak = torch.where((peak > 0) & torch.isfinite(peak), peak, 1.0)
    norm: Tensor = torch.linalg.vector_norm(v / peak, dim=-1) * peak.squeeze(-1)
    return norm


def _gamma(k: int) -> float:
    """gamma_k = k u / (1 - k u): the error of k roundings in a row (ASNA section 3.1)."""
    return k * U / (1 - k * U)


@dataclass(frozen=True)
class _Steering:
    """Float64 QR of the independent rows in the metric's variables, and a proven sigma_min.

    The QR only steers the refinement. sigma_min is proven from what was computed, not from how:
    with F = E L^-T (F = E without a metric),

        sigma_min(F) >= sigma_min(R) sigma_min(W) - ||F - R' W||,
        sigma_min(W) >= sqrt(1 - ||I - W W'||),  sigma_min(R) >= (1 - ||I - X R||) / ||X||,

    X an approximate inverse of R, every product with its rounding bound (ASNA section 3.5) added.
    """

    W: Tensor
    R: Tensor
    sigma_min: float

    @staticmethod
    def of(F: Tensor, uncertainty: float) -> "_Steering":
        r, n = F.shape
        Q, R = torch.linalg.qr(F.mT)
        W = Q.mT.contiguous()
        eye = torch.eye(r, dtype=torch.float64, device=F.device)
        X = torch.linalg.solve_triangular(R, eye, upper=True)
        fro = torch.linalg.matrix_norm
        size_R, size_W, size_X = float(fro(R)), float(fro(W)), float(fro(X))
        misfit = float(fro(F - R.mT @ W)) + _gamma(r + 2) * (float(fro(F)) + size_R * size_W)
        skew = float(fro(eye - W @ W.mT)) + _gamma(n + 2) * (size_W**2 + math.sqrt(r))
        defect = float(fro(eye - X @ R)) + _gamma(r + 2) * float(fro(X.abs() @ R.abs()))
        if not (skew < 1 and defect < 1):  # NaN too
            return _Steering(W, R, 0.0)
        proven = (1 - defect) / size_X * math.sqrt(1 - skew) - misfit - uncertainty
        return _Steering(W, R, max(0.0, proven * (1 - 1e-10)))

    def into_rows(self, v: Tensor) -> Tensor:
        """Coefficients y (k, r) with F'y near the row-space part of v (k, n)."""
        return _solve_upper(self.R, v @ self.W.mT)

    def shortest(self, q: Tensor) -> Tensor:
        """z (k, n) of least norm with F z near q (k, r)."""
        solved: Tensor = torch.linalg.solve_triangular(self.R.mT, q.mT, upper=False).mT
        return solved @ self.W


def _solve_upper(R: Tensor, g: Tensor) -> Tensor:
    solved: Tensor = torch.linalg.solve_triangular(R, g.mT, upper=True).mT
    return solved


@dataclass(frozen=True)
class _Rows:
    """Independent rows E (r, n) with products in pairs; the metric is the identity or weights."""

    E: Rows
    times: Product
    adjoint: Product
    steering: _Steering
    metric: Metric | None
    weights: Tensor | None
    slack: float
    """Relative uncertainty of norms in the metric."""

    @staticmethod
    def of(E: Rows, weights: Tensor | None) -> "_Rows":
        dense = E.to_dense()
        metric, slack, uncertainty = None, 1e-12, 0.0
        if weights is not None:
            weights = weights.to(device=dense.device, dtype=torch.float64)
            metric = factor_metric(weights, torch.float64, dense.device)
            dense = metric.whiten(dense, dual=True)
            if metric.diagonal:
                error = 4 * U
            else:
                sigma = torch.linalg.svdvals(metric.L)
                n = len(weights)
                error = 8 * n * U * float(sigma[0] / sigma[-1]) ** 2
            slack = slack + error
            uncertainty = error * float(torch.linalg.matrix_norm(dense))
        steering = _Steering.of(dense, uncertainty)
        if slack > 1e-3:
            steering = replace(steering, sigma_min=0.0)
        return _Rows(E, Product(E, False), Product(E, True), steering, metric, weights, slack)

    def norm(self, v: Tensor) -> Tensor:
        """(k,) norms of vectors, sqrt(v' W v), to a relative `slack`."""
        return _norm(v if self.metric is None else self.metric.whiten(v, dual=False))

    def dual_norm(self, g: Tensor) -> Tensor:
        """(k,) norms of W v given as g, sqrt(g' W^-1 g), to a relative `slack`."""
        return _norm(g if self.metric is None else self.metric.whiten(g, dual=True))

    def weighted(self, v: Pair) -> Pair:
        """W v."""
        if self.weights is None:
            return v
        W = self.weights
        return Product(DenseRows(W.diag() if W.dim() == 1 else W), False)(v)

    def follow(self, v: Pair) -> tuple[Pair, Pair]:
        """t = W v + E'y and y, with y chosen by iterative refinement to make t small."""
        base = self.weighted(v)
        t, y = base, exact(v.high.new_zeros(len(v.high), self.E.shape[0]))
        best = t
        best_y, best_size = y, self._row_part(t)
        for _ in range(_ROUNDS):
            y = add(y, exact(-self.steering.into_rows(self._whitened(best))))
            t = add(base, self.adjoint(y))
            size = self._row_part(t)
            if not bool((size < best_size / 2).any()):
                break
            better = size < best_size
            best, best_y = choose(better, t, best), choose(better, y, best_y)
            best_size, y = torch.minimum(size, best_size), best_y
        return best, best_y

    def null_part(self, v: Pair) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Upper and lower bound on || T v ||; a vector near T v and a bound on how near."""
        best, y = self.follow(v)
        error = self.adjoint.error(y, best, U) + 4 * U * U * _norm(self.weighted(v).high)
        if self.metric is not None:
            smallest = (
                self.metric.L.amin()
                if self.metric.diagonal
                else (torch.linalg.svdvals(self.metric.L)[-1])
            )
            error = error / smallest
        size = self.dual_norm(best.value())
        upper = size * (1 + self.slack) + error
        sigma = self.steering.sigma_min
        rest = torch.full_like(size, math.inf) if sigma == 0 else self._image(best) / sigma + error
        lower = ((size * (1 - self.slack) - error) ** 2 - rest**2).clamp_min(0).sqrt()
        value = best.value()
        near = value if self.metric is None else self.metric.inverse(value)
        return upper, lower, near, rest + error + self.slack * size

    def _whitened(self, t: Pair) -> Tensor:
        return t.value() if self.metric is None else self.metric.whiten(t.value(), dual=True)

    def _row_part(self, t: Pair) -> Tensor:
        """(k,) how much of t is left in the row space, as the QR sees it."""
        return _norm(self._whitened(t) @ self.steering.W.mT)

    def _image(self, t: Pair) -> Tensor:
        """Bound on || F L^-1 t || = || E W^-1 t ||."""
        white = self._whitened(t)
        r, n = self.E.shape
        product = white @ (self.steering.R.mT @ self.steering.W).mT
        size = float(torch.linalg.matrix_norm(self.steering.R))
        return _norm(product) + _gamma(n + r) * 4 * size * _norm(white)

    def shift(
        self, q: Pair, q_error: Tensor, negligible: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `null_part` for || E^+ q ||, q (k, r) known to within q_error (k,)."""
        sigma = self.steering.sigma_min
        if sigma == 0:
            infinite = torch.full_like(q_error, math.inf)
            nothing = q.high.new_zeros(len(q_error), self.E.shape[1])
            return infinite, torch.zeros_like(q_error), nothing, infinite
        z = exact(q.high.new_zeros(len(q.high), self.E.shape[1]))
        rest, size = q, _norm(q.high)
        for _ in range(_ROUNDS):
            step = self.steering.shortest(rest.value())
            step = step if self.metric is None else self.metric.unwhiten(step, dual=False)
            trial = add(z, exact(step))
            left = add(q, negative(self.times(trial)))
            now = _norm(left.high)
            if not bool((now < size / 2).any()):
                break
            better = now < size
            z, rest = choose(better, trial, z), choose(better, left, rest)
            size = torch.minimum(now, size)
            enough = size / sigma <= torch.maximum(1e-3 * self.norm(z.high), negligible)
            if bool(enough.all()):
                break
        off = (size * (1 + 1e-12) + self.times.error(z, q, U) + q_error) / sigma
        long = self.norm(z.value())
        outside, _, _, _ = self.null_part(z)
        lower = (long * (1 - self.slack) - outside - off).clamp_min(0)
        return long * (1 + self.slack) + off, lower, z.value(), off + outside


@dataclass(frozen=True)
class _Figures:
    """Bounds for k vectors; the norms are the metric's."""

    feasibility: Tensor
    stationarity: Tensor
    upper: Tensor
    lower: Tensor
    accuracy: Tensor
    reason: str


@dataclass(frozen=True)
class _System:
    """One system, equilibrated: all rows for the residual, the independent ones for the bounds."""

    all_rows: Rows
    f: Pair
    decision: Rank
    rows: _Rows | None
    """None at rank 0: the projection is the identity."""
    redundancy: tuple[Pair, Pair] | None
    """Delta (k, n) and phi (1, k) of the dropped rows; None where there is none but zero rows."""
    f_uncertainty: float
    """2-norm of what is not known of f (least squares)."""

    def certify(self, x0: Tensor, x: Tensor, u: float, accuracy: float | None) -> _Figures:
        m, n = self.all_rows.shape
        finite = torch.isfinite(x).all(-1)
        x = torch.where(finite.unsqueeze(-1), x, x0)
        d = two_sum(x, -x0)
        residual = self._residual(x)
        size_x, size_x0 = _norm(x), _norm(x0)
        scale_ = self.all_rows.row_norms() * (size_x + size_x0).unsqueeze(-1) + self.f.high.abs()
        feasibility = (
            (residual.value().abs() / torch.where(scale_ == 0, 1.0, scale_)).amax(-1)
            if m
            else torch.zeros_like(size_x)
        )
        if self.rows is None:
            upper_t = lower_t = _norm(d.value())
            upper_q = lower_q = gap = spread = torch.zeros_like(size_x)
            point = x0
        else:
            kept = self.decision.kept
            q = Pair(residual.high[:, kept], residual.low[:, kept])
            q_error = Product(self.all_rows, False).error(exact(x), residual, U)
            q_error = q_error + self.f_uncertainty
            upper_t, lower_t, t, near_t = self.rows.null_part(d)
            upper_q, lower_q, z, near_z = self.rows.shift(q, q_error, 1e-2 * U * self.norm(x))
            gap = self._redundancy_gap(x0, self.norm(d.value()) + upper_q)
            point = (x - t) - z
            spread = near_t + near_z + gap + 4 * U * (self.norm(x) + upper_t + upper_q)
        upper = torch.hypot(upper_t, upper_q) * (1 + 1e-12) + gap
        lower = (torch.hypot(lower_t, lower_q) * (1 - 1e-12) - gap).clamp_min(0)
        long, long0 = self.norm(x), self.norm(x0)
        # ||x*|| lies within `upper` of ||x||, and within `spread` of the refined point's; where it
        # cannot be told from 0 it is judged on the scale of x0
        middle = self.norm(point)
        below = torch.maximum(middle - spread, long - upper)
        above = torch.minimum(middle + spread, long + upper)
        vanishing = ~(below > 0)
        below, above = torch.where(vanishing, long0, below), torch.where(vanishing, long0, above)
        upper, lower = _ratio(upper, below), _ratio(lower, above)
        total = long0 + self.norm(d.value()) + upper_q
        # From x0 = 0 and f = 0 nothing is rounded: x* = 0, and no other answer is right
        unmoved = (long0 == 0) & bool((self.f.value() == 0).all() and self.f_uncertainty == 0)
        total = torch.where(unmoved, 0.0, total)
        held = (
            torch.full_like(upper, accuracy)
            if accuracy is not None
            else (
                tolerance.dimension_factor(m, n)
                * u
                * self.decision.condition
                * _ratio(total, above)
            )
        )
        infinite = torch.full_like(upper, math.inf)
        if self.decision.ambiguous:
            upper, lower = infinite, torch.zeros_like(lower)
        return _Figures(
            torch.where(finite, feasibility, infinite),
            torch.where(finite, _ratio(upper_t, long + long0), infinite),
            torch.where(finite, upper, infinite),
            torch.where(finite, lower, infinite),
            held,
            self._why_not(bool(finite.all())),
        )

    def norm(self, v: Tensor) -> Tensor:
        """(k,) norms, in the metric where there is one."""
        return _norm(v) if self.rows is None else self.rows.norm(v)

    def _residual(self, x: Tensor) -> Pair:
        product = Product(self.all_rows, False)(exact(x))
        return add(product, negative(self.f))

    def _redundancy_gap(self, x0: Tensor, travelled: Tensor) -> Tensor:
        """How far the projection at numerical rank may be from that on the kept rows."""
        if self.redundancy is None or self.rows is None:
            return torch.zeros_like(travelled)
        sigma = self.rows.steering.sigma_min
        if sigma == 0:
            return torch.full_like(travelled, math.inf)
        delta, phi = self.redundancy
        size = float(torch.linalg.matrix_norm(delta.high)) * (1 + 1e-12)
        misfit = _norm((x0 @ delta.high.mT) - phi.high)
        if self.rows.metric is not None:
            L = self.rows.metric.L
            size = size / float(L.amin() if L.dim() == 1 else torch.linalg.svdvals(L)[-1])
        return 1.1 * (4 * size * travelled + misfit * (1 + 2 * size / sigma)) / sigma

    def _why_not(self, finite: bool) -> str:
        if not finite:
            return "x is not finite"
        if self.decision.ambiguous:
            return "the numerical rank is ambiguous: a cutoff ten times away would change it"
        if self.rows is not None and self.rows.steering.sigma_min == 0:
            return (
                f"condition number {self.decision.condition:.2g}: too near 1/u for a positive "
                "lower bound on the smallest singular value"
            )
        if self.redundancy is not None:
            return "redundant rows follow from the others only up to rounding"
        return "the bounds lie on both sides of the accuracy"


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a == 0, 0.0, a / b)


def _system(
    constraint: AffineConstraint,
    analysis: Analysis,
    i: int,
    weights: Tensor | None,
    least_squares: bool,
) -> _System:
    decision = analysis.decisions[i]
    E, f, _ = _element(constraint, analysis, i)
    uncertainty = 0.0
    if decision.rank == 0:
        return _System(E, exact(f), decision, None, None, 0.0)
    kept = E.select(decision.kept)
    rows = _Rows.of(kept, weights)
    right = exact(f)
    redundancy = None
    if decision.coefficients is not None:
        plain = rows if weights is None else _Rows.of(kept, None)
        dropped = E.select(decision.dropped).to_dense()
        delta, y = plain.follow(exact(dropped))
        if least_squares:
            f, uncertainty = _least_squares_right_side(constraint, analysis, i)
            right = exact(f)
        # phi = f_D - C f_K with C = -y
        kept_f = exact(f[decision.kept][None])
        combined = Product(DenseRows(y.high), False)(kept_f)
        phi = add(exact(f[decision.dropped][None]), add(combined, exact(kept_f.high @ y.low.mT)))
        redundancy = delta, phi
    return _System(E, right, decision, rows, redundancy, uncertainty)


def _element(
    constraint: AffineConstraint, analysis: Analysis, i: int
) -> tuple[Rows, Tensor, Tensor]:
    """E, f and the exponents of one element in float64; f before any rounding to A's dtype."""
    system = analysis.system.element(i)
    b = constraint.b if constraint.batch is None else constraint.b[i]
    return system.rows.to(torch.float64), equilibrated_side(b, system.exponent), system.exponent


def _least_squares_right_side(
    constraint: AffineConstraint, analysis: Analysis, i: int
) -> tuple[Tensor, float]:
    """D times the part of b in the range of A, and what is not known of it."""
    _, f, exponent = _element(constraint, analysis, i)
    basis = range_projection(exponent, analysis.decisions[i])
    if basis is None:
        return f, 0.0
    b = scale(f, -exponent)
    inside = basis @ (basis.mT @ b)
    largest = float(scale(torch.ones_like(f), exponent).max())
    error = tolerance.dimension_factor(len(b), len(b)) * U * float(_norm(b)) * largest
    return scale(inside, exponent), error


def _merged(found: list[_Figures], lead: torch.Size, batch: int | None) -> Certificate:
    """One certificate of all elements, the verdict that of the worst."""
    verdicts: list[tuple[Verdict, str]] = []
    for figures in found:
        for upper, lower, held in zip(
            figures.upper.tolist(), figures.lower.tolist(), figures.accuracy.tolist(), strict=True
        ):
            if upper <= held and math.isfinite(upper):
                verdicts.append(("certified", f"the bound {upper:.2g} is within {held:.2g}"))
            elif lower > held:
                verdicts.append(("failed", f"at least {lower:.2g} off, more than {held:.2g}"))
            elif figures.reason == "x is not finite":
                verdicts.append(("failed", figures.reason))
            else:
                verdicts.append(("uncertifiable", figures.reason))
    verdict, reason = _worst_verdict(verdicts) if verdicts else ("certified", "")

    def shaped(name: str) -> Any:
        stacked = torch.stack([getattr(figures, name) for figures in found])
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
