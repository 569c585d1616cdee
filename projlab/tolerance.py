"""The only home of numeric thresholds, each with its derivation.

u is the unit roundoff of the working precision, eps = 2u; condition is the 2-norm condition
number of the equilibrated rows E. References: Higham, "Accuracy and Stability of Numerical
Algorithms", 2nd ed. (ASNA); Higham and Mary, "A new approach to probabilistic rounding error
analysis", SIAM J. Sci. Comput. 41 (2019).
"""

import math
from functools import cache

import torch

AMBIGUITY = 10.0
"""The rank is ambiguous where a cutoff this many times smaller or larger would change it."""

PROVEN = 2 * AMBIGUITY
"""Full rank is proven, and not ambiguous, where the cutoff times this is below a lower bound on the
smallest singular value: the bound comes from a computed inverse of R, whose relative error is at
most about m u kappa (ASNA section 14.2), which is below 1/40 there; half is kept for it."""

ROUNDING_RANK = 2.0
"""Relative to sigma_max, in units of u: a smaller singular value of E cannot be told from the
rounding of the entries of A themselves, so it says nothing about ambiguity."""

LONGER = 1000.0
"""A long double is worth its time where its eps is this many times smaller than that of float64:
the noise, some u sigma_1, must fall well below a tenth of the cutoff. That of x86 has 2048."""

MEASURED = 1e-5
"""Relative residual at which an extreme eigenvalue of a Gram matrix, or of its inverse, is known:
the eigenvalue is that near, and nearer by the square over the distance to the next one; a singular
value by half of it."""

ROUGH = 1e-1
"""The same, for an eigenvalue of which half will be proven."""

DOUBTFUL_PIVOT = 1e-3
"""Of a Gram matrix with unit diagonal: a row with a smaller one, at a distance below 0.03 from the
span of those before it, is looked at again. A redundant row's pivot is what the shift makes of it,
s (1 + ||c||^2), c its combination of the rows before: below 1e-3 for 1e7 terms."""

COMBINATION_NOISE = 1e-9
"""Coefficients of a redundant row below this, relative to the largest, are rounding: they are
computed in float64 by solving with a well-conditioned block (entries of its inverse are O(1)), so
their error is a modest multiple of condition * u64, and the block's condition is modest."""

TIE = 1e-12
"""Relative: combinations whose contradictions differ by less are equally clear. Each is evaluated
in float64, from inner products that err by some tens of u."""

LARGEST_COEFFICIENT = 2.0
"""Of a dropped row on the kept ones, rows scaled to norm one. While one is larger, exchanging the
two rows multiplies the volume of the kept block by it; at the end sigma_min of the kept rows is
within a factor sqrt(1 + 4 r (m - r)) of sigma_r (Goreinov, Tyrtyshnikov and Zamarashkin 1997; Gu
and Eisenstat 1996, strong rank-revealing QR)."""

EXCHANGE_NOISE = 1e-13
"""A coefficient this small after an exchange, of rows scaled to norm one, is the rounding of those
that cancelled, which are at most a few units: to take it for zero keeps sparse ones sparse."""

EARLIER_ROW = 0.5
"""An exchange that keeps the earlier of two rows may cost this factor in volume, as long as
`LARGEST_COEFFICIENT` still holds after it: then the bound above does too."""


FLOAT32_ROUNDOFF = 2.0**-24
"""u of float32: data this coarse is analysed in float64, whose rounding is far below any cutoff."""


RESIDUAL_ROUNDINGS = 8.0
"""In units of u (sum_i |a_i x_i| + |b|): a row of a constraint on parameters holds up to rounding.
Rounding each x_i once costs 1; each of the two passes' residual is a blocked or pairwise sum of
products, at most 2 + log2(n) / 8 each for the blocks of 256 that torch and BLAS use (ASNA section
4.2), which the correction spreads back over the row; the evaluation that judges costs as much."""

ONE_CORRECTION = 16.0
"""One correction of a row by its residual r is enough where this many times what it moves is at
most sum_i |a_i x_i| + |b|. With k = 2 + log2(n) / 8 <= 5 for the residual's own sum, as in
`RESIDUAL_ROUNDINGS`, what is left is at most u ((k + 1) (sum_i |a_i x_i| + |b|) + (k + 3) |r|):
the residual's rounding, the corrected entries', and that of what is subtracted. With |r| a 16th of
the sum that is at most 6.5 u of it, within `RESIDUAL_ROUNDINGS`. Dense rows move by |r|, and by
rounding of the correction d, a sum of m terms and not along the row alone, by m ||a|| ||d||."""

HELD_ROUNDINGS = 4 * RESIDUAL_ROUNDINGS
"""A parameter without a gradient is moved only where a row is off by more: what rounding of the
other parameters can do to a row is `RESIDUAL_ROUNDINGS`, and rows that repeat each other up to
rounding add their own."""


REFINEMENT_GAIN = 0.5
"""A step of iterative refinement that leaves more than this of the residual has reached what the
precision of the residual allows: before that, a step with a float64 QR leaves about kappa u."""

REFINEMENT_STEPS = 40
"""At most. Only where kappa u is near one half do steps barely halve the residual, and then forty
leave 1e-12 of it; the bound is computed from whatever is left, so that it holds anyway."""

DIGITS_OF_A_PART = 1e-3
"""A part of an error is known well enough, for a bound on it, to three digits."""

NEGLIGIBLE_SHIFT = 1e-2
"""In units of u ||x||: the part of an error that A x - b tells need not be known closer, since
rounding x alone errs by a hundred times as much."""

NORM_ROUNDING = 1e-12
"""Relative: a 2-norm evaluated in float64, and the few operations that join two of them. torch adds
squares up in blocks, with a relative error of some tens of u (ASNA section 4.2); plain summation
of 2e4 squares would reach this."""

PROOF_ROUNDING = 1e-10
"""Relative: a lower bound on sigma_min evaluated in float64, from norms as in `NORM_ROUNDING`, of
which squares, quotients and a difference are taken."""

PRODUCT_ROUNDING = 1e-2
"""Relative: a bound sum_j |a_ij| |x_j| evaluated in float64, at most (n + 2) u off (ASNA section
3.1), for any n that fits into memory."""

LARGEST_SLACK = 1e-3
"""Relative uncertainty of norms in a metric from which nothing is proven of it."""

SECOND_ORDER = 1.1
"""What a first-order perturbation bound of a projection is multiplied by: what it leaves out is
smaller by ||Delta|| / sigma_min. Where the rank is unambiguous sigma_{r+1} is `AMBIGUITY`^2 below
sigma_r, and a tenth allows for ||Delta|| ten times sigma_{r+1}."""


@cache
def unit_roundoff(dtype: torch.dtype | str) -> float:
    """Unit roundoff u of a floating-point dtype, given as a torch dtype or as its name."""
    named: torch.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return float(torch.finfo(named).eps) / 2


def rank_cutoff(m: int, n: int, u: float) -> float:
    """Relative to sigma_max(E): singular values at or below it count as zero.

    An SVD in the precision of the data, and the rounding of the entries of A, move singular values
    by a modest multiple of max(m, n) * u * sigma_max (Golub and Van Loan, 4th ed., section 5.4.1).
    Data coarser than float64 is analysed in float64, where only the rounding of its entries counts:
    that changes E, and so each singular value (Weyl), by at most u ||E||_F, which is at most
    u sqrt(min(m, n)) sigma_max. `AMBIGUITY` times it: what rounding can do is clearly zero.
    """
    cutoff = max(m, n) * 2 * u
    return cutoff if u < FLOAT32_ROUNDOFF else min(cutoff, AMBIGUITY * u * math.sqrt(min(m, n)))


def proven_condition(m: int, n: int, u: float) -> float:
    """A bound on kappa up to this proves full rank, beyond doubt (`PROVEN`); u is of the data."""
    return 1 / (PROVEN * rank_cutoff(m, n, u))


def consistency_factor(cutoff: float) -> float:
    """A row of the least-squares residual may reach this times ||a_i|| ||xhat|| + |b_i|.

    `cutoff` is that of the rank, 2 max(m, n) u unless the caller gave a tolerance, which says how
    accurate the data is and so counts here too.

    The entries of row i and b_i carry one rounding each, u (||a_i|| ||xhat|| + |b_i|); a row that
    is a combination of others inherits theirs, at most max(m, n) of them; the backward-stable xhat
    and the inner product that evaluates the residual add as much again each (ASNA sections 3.1 and
    20.3). 8 max(m, n) u, four cutoffs, covers these four terms at twice their first-order size.
    """
    return 4 * cutoff


ROUNDED_ONCE = 4.0
"""In units of u, of data coarser than float64: a redundant row, and those that it follows from with
coefficients c_j, contradict each other where their right sides differ by more than this times
sum_j |c_j| (||a_j|| ||xhat|| + |b_j|), its own included. Rounding of every entry of [A b] once, to
the data's precision, moves a row by u (||a_j|| ||xhat|| + |b_j|); the coefficients, found from the
rounded rows, differ by as much again in what they make of x (and their remainder by the same);
float64 adds nothing that counts. A factor 2 for the second order and for data rounded twice."""


def repeated_factor(u: float) -> float:
    """What is summed twice contradicts itself where |b_1 - b_2| exceeds this times |b_1| + |b_2|.

    As two rows do of which one repeats the other: ||a|| ||xhat|| is |b| there. u is that of the
    data.
    """
    if u < FLOAT32_ROUNDOFF:
        return consistency_factor(rank_cutoff(2, 2, u))
    return 2 * ROUNDED_ONCE * u


def dimension_factor(m: int, n: int) -> float:
    """The modest function c(m, n) in front of every forward error bound.

    m orthogonal transformations of length n accumulate a backward error proportional to
    sqrt(m n) u with probability close to one (Connolly and Higham, "Probabilistic rounding error
    analysis of Householder QR factorization", SIAM J. Matrix Anal. Appl. 44 (2023)); 8 covers the
    few operations (subtract, divide, scale) that a projection does besides, which dominate for
    tiny systems.
    """
    return math.sqrt(m * n) + 8


def backward_stable_growth(condition: float, u: float) -> float:
    """kappa u: the projection is exact for rows perturbed by u (ASNA theorem 21.4)."""
    return condition * u


def normal_equations_growth(condition: float, u: float) -> float:
    """kappa u + (kappa^2 u)^2, for two passes through the Gram matrix.

    One pass errs by kappa^2 u relative to the correction it makes (ASNA section 21.3); the second
    corrects what the first left.
    """
    return condition * u + (condition**2 * u) ** 2


def gram_pivot_threshold(m: int, u: float) -> float:
    """Relative to the largest diagonal entry: a last Cholesky pivot at or below it is rounding.

    The backward error of a Cholesky factor is at most (m + 1) u / (1 - (m + 1) u) times the
    diagonal entries, which are in [1/2, 2] after equilibration (ASNA theorem 10.3): a factor 4
    for that range, 2 for the rounding of the Gram matrix itself.
    """
    return 8 * m * u


CORRECTIONS = 8
"""Passes through one factor at most."""


def gram_contraction(m: int, n: int, condition2: float, u: float) -> float:
    """What one pass through the Gram matrix leaves of the distance to the set, at most.

    The Gram matrix of equilibrated rows is rounded by n u entry by entry, its Cholesky factor and
    the inverse of that by m u (ASNA sections 3.5, 10.1 and 14.2), which probably add up to the
    square root of their number; kappa^2, `condition2`, is what an inverse makes of it.
    """
    return dimension_factor(m, n) * condition2 * u


def gram_condition2_limit(m: int, n: int, *, data: float, work: float) -> float:
    """kappa^2 up to which the Gram matrix alone will do.

    `CORRECTIONS` passes then leave no more than u of the working precision, and kappa is far enough
    from the cutoff of the rank of the data for full rank to be beyond doubt (`PROVEN`).
    """
    contracting: float = work ** (1 / CORRECTIONS) / gram_contraction(m, n, 1.0, work)
    return min(contracting, (PROVEN * rank_cutoff(m, n, data)) ** -2)


def gram_shift(m: int) -> float:
    """What is added to the unit diagonal of a float64 Gram matrix whose rows may be redundant.

    The rounding of the matrix and of its factor, probably about (sqrt(n) + sqrt(m)) u in norm for
    equilibrated rows, must not make it indefinite; each correction leaves s / (sigma^2 + s) of a
    component, so that singular values from 1e-4 on are right after three. Measured on 87 systems
    up to 8455 x 12971: 1e-13 sqrt(m), about 2^10 u sqrt(m), never failed to factor.
    """
    return 2.0**-43 * math.sqrt(m)


def far_below_shift(m: int) -> float:
    """Singular values up to this stay as they are, beside `gram_shift`, whatever is corrected.

    A correction leaves s / (sigma^2 + s) of a component: of a tenth of the root of the shift, 0.99.
    """
    return math.sqrt(gram_shift(m)) / 10


ANSWERED = 30.0
"""In units of u: what may be left of the residual of a random vector, row by row over
sum_j |a_ij| |z_j|, of a further correction over the vector's length, and of A x - b at the
projection of zero over ||a_i|| ||x|| + |b_i|, for corrections to have done all there is to do. A
residual's own rounding is a few units (`RESIDUAL_ROUNDINGS`). On 90 right sides of 87 real systems
the three were at most 20, 20 and 12 where the answer was right (but for one, sent the careful way),
and at least 1600, 4e5 and 1000 where it was not."""


FAR_ABOVE = 100.0
"""An eigenvalue found from above by a few steps of inverse iteration is taken to be beyond a bound
where it is this many times larger: up to 1e6 rows and after six steps, the true one is as small as
that with a probability below 1e-8 (Kuczynski and Wozniakowski, SIAM J. Matrix Anal. Appl. 13
(1992))."""

SMALLER_SHIFT = 2.0**-7
"""Of `gram_shift`, where that one is too slow to take out: about 2^3 u sqrt(m), as much as rounding
puts into the Gram matrix and its factor anyway. With redundant rows such a factor may be wrong by
as much as it holds, which corrections with true residuals show; without, kappa may be larger."""

INNER_STEPS = (0, 8, 24)
"""Steps of preconditioned conjugate gradients within a correction, tried in turn."""


def shift_unsafe(m: int, condition: float) -> bool:
    """Whether `CORRECTIONS` of `INNER_STEPS` may not take the shift of a Gram matrix out.

    Preconditioned by a factor of G + s I, eigenvalues lie between 1 / (1 + s / sigma_min^2) and 1,
    and sigma_min^2 is at least 1 / (2 kappa^2) (`gram_unsafe`). With q their quotient, k steps
    leave 2 ((sqrt(q) - 1) / (sqrt(q) + 1))^k (Golub and Van Loan, 4th ed., theorem 11.3.3), which
    must be u after all corrections.
    """
    root = math.sqrt(1 + 2 * gram_shift(m) * condition**2)
    left: float = 2 * ((root - 1) / (root + 1)) ** INNER_STEPS[-1]
    enough: float = unit_roundoff(torch.float64) ** (1 / CORRECTIONS)
    return left > enough


STALLED = 2.0**-26
"""Over a vector's length: a correction of this size may be rounding. It solves for a residual that
is rounding, and so moves by up to kappa u; kappa 2^-27 of a float64 is as far as a shift lets a
factor of the Gram matrix go. Slow convergence shows in the residual of random vectors before."""

NULL_SPACE = 2.0**-18
"""Over sqrt(n), the length of a random vector: of four such vectors, projected, what is longer than
this is along the null space, and no rounding, which is at most `STALLED` of that length. The least
singular value of a k x 4 Gaussian matrix, k < 4, is below 1e-2 with a probability of about 1e-4
(Edelman, SIAM J. Matrix Anal. Appl. 9 (1988), for k = 3): in question from n = 7e6 on, where what
is neither decides nothing."""


def square_range(dtype: torch.dtype) -> tuple[float, float]:
    """Squares of norms between which multipliers are in range wherever vectors are.

    y is about x / ||a||: an eighth of the exponents there are for ||a|| leaves the others to x.
    """
    info = torch.finfo(dtype)
    return info.tiny**0.25, info.max**0.25


def gram_unsafe(m: int, condition: float, u: float) -> bool:
    """Whether a pivot of the Gram matrix may fall to `gram_pivot_threshold`.

    In every order of the rows a pivot is at least sigma_min^2 = sigma_max^2 / kappa^2, and
    sigma_max^2 is at least half of the largest diagonal entry.
    """
    return condition**2 * 2 * gram_pivot_threshold(m, u) >= 1


def diagonal_whitening_error(u: float) -> float:
    """Relative, of norms in a diagonal metric: a root and a quotient, at twice their rounding."""
    return 4 * u


def whitening_error(n: int, condition: float, u: float) -> float:
    """Relative, of norms in a metric W = L L' of n variables, `condition` that of L.

    The Cholesky factor is that of W perturbed by at most (n + 1) u ||W|| (ASNA theorem 10.3), which
    moves a norm by half of that times cond(W) = cond(L)^2; a triangular solve with it is exact for
    L perturbed by n u |L| (theorem 8.5), which adds n u cond(L). 8 covers their sum five times.
    """
    return 8 * n * u * condition**2


def symmetry_bound(n: int, dtype: torch.dtype) -> float:
    """Relative to the largest entry: how far rounding takes a product M M' from symmetry.

    Two evaluations of one inner product of length n differ by at most 2 n u (ASNA section 3.1).
    """
    return 2 * n * unit_roundoff(dtype)


def svd_noise(u: float) -> float:
    """Relative to sigma_max: what an SVD cannot tell from zero in any system (one rounding)."""
    return u


def forward_error_bound(growth: float, *, m: int, n: int, amplification: float) -> float:
    """Bound on ||x - x*|| / ||x*|| for one projection of an m x n system.

    Parameters
    ----------
    growth
        The law of the variant's error at this condition number and precision.
    amplification
        (||x0|| + ||x0 - x*||) / ||x*||: the projection subtracts a correction from x0, and their
        roundings are relative to them, not to the difference. For x* = 0 divide by ||x0||.
    """
    return dimension_factor(m, n) * growth * amplification


def drift_bound(
    growth: float, *, u: float, m: int, n: int, amplification: float, steps: float
) -> float:
    """Bound on the distance to the exact trajectory after perturbed projections, over ||x*||.

    The computed projection is one onto a slightly tilted set: its forward error, which a condition
    number enters, is made once, for the point that x0 and the perturbations add up to, but not
    again for x at every step. So `amplification` is that of a projection of that point. Each step
    besides rounds x: independent roundings add up to the square root of their number (Higham and
    Mary 2019), so `steps` is that root. Where they go the same way each time it is the number
    itself, and `amplification` counts every perturbation's norm: the worst case.
    """
    shot = forward_error_bound(growth, m=m, n=n, amplification=amplification)
    return shot + steps * dimension_factor(m, n) * u


def predicted_accuracy(growth: float, m: int, n: int) -> float:
    """Forward error relative to max(||x0||, ||x*||), whatever x0 is.

    ||x0|| + ||x0 - x*|| is at most three times that maximum.
    """
    return 3 * dimension_factor(m, n) * growth


def feasibility_bound(*, u: float, m: int, n: int) -> float:
    """Bound on max_i |A x - b|_i / (||a_i|| (||x|| + ||x0||) + |b_i|).

    Rounding x moves row i by u ||a_i|| ||x||; subtracting the correction from x0 by u ||a_i||
    (||x0|| + ||x||); the correction itself solves a triangular system backward stably. The
    condition number does not enter for any of the variants.
    """
    return dimension_factor(m, n) * u


def sum_rounding(n: int, u: float) -> float:
    """Relative to the sum of magnitudes: what rounding makes of a sum of n terms.

    Blocked or pairwise sums err by at most (2 + log2(n) / 8) u in blocks of 256 (ASNA section 4.2),
    their terms, products, by u each; twice that covers a bound that is evaluated the same way.
    """
    return 2 * (3 + math.log2(max(n, 2)) / 8) * u


STEP_ROUNDINGS = 8.0
"""In units of u: a Newton step for a row's multiplier t that moves it by no more than this times
|t| + max |x_j / a_j| is rounding. The entries x_j - t a_j carry 2u (|x_j| + |t a_j|), their sum
over the free ones as much again, and it is divided by the sum of a_j^2 over the same."""

CONTRACTING = 0.9
"""Corrections of a face go on while each leaves less than this of the residual: one that leaves
more met a component below the square root of the shift, or rows that contradict each other."""


LARGE_MULTIPLIERS = 4.0
"""Times max |x0| + max |x|: |M|'|y| beyond it means that terms of M'y cancel, and then rounding of
x0 - M'y would be more than a few units of x0 and x themselves."""


NORM_PROBES = 16
"""Random vectors from which the norms of an operator's rows are estimated: the mean of 16 squares
of normal variables is within a factor 2 of its expectation with probability 0.97, and the norms,
which are rounded to powers of two, so within sqrt(2)."""


def adjoint_bound(m: int, n: int, u: float) -> float:
    """|<A x, y> - <x, A' y>| over ||A x|| ||y|| + ||x|| ||A' y||, for random x and y.

    An inner product of length k errs by probably sqrt(k) u of the norms (Higham and Mary 2019), the
    products with A and A' are made of such, of entries that may cancel: 8 covers these three.
    """
    return 8 * math.sqrt(max(m, n, 1)) * u


ORTHOGONAL = 2048
"""Rows up to which an iteration keeps its left vectors orthogonal to all before them: m^2 numbers
of 64 bits twice are 64 MB a vector at this many, and no more than m steps are needed."""

STEPS = 2**15
"""Steps of an iteration at most: LSQR, like conjugate gradients with A A', takes at most
kappa ln(2 / u) / 2 to come down to rounding (Golub and Van Loan, 4th ed., section 11.3.3), which is
this many at kappa = 1700."""

AGAIN = 4
"""A projection may take this many times the steps that a random vector took when it was set up: the
bound on them, by the spectrum, is the same for all; a vector that has its whole weight on the worst
part of it, and roundings, may take more."""

FINITE_STEPS = 3
"""Times m steps at most where left vectors are kept orthogonal: m do in exact arithmetic."""

UNSEEN = 0.5
"""Of the smallest singular value that an iteration has met: what is counted on, since the smallest
there is may be smaller."""

INDEPENDENT = 1e-6
"""Of E x - g for a random g of unit normal entries and equilibrated rows: rows are independent
where the least-squares residual is smaller. If they are not, it is at least a normal variable's
magnitude, which is smaller than this with probability 1e-6."""

CYCLE_DROP = 2.0
"""In units of u: what a recurred residual may fall to, relative to where it began, before the true
one is computed again; it says nothing below."""


CYCLE_AIM = 0.9
"""Of what the true residual should come down to: the recurred one, which it need not agree with to
more than a tenth."""


def iterated_floor(u: float) -> float:
    """Of ||E x - f|| over sigma_1 max(||x0||, ||x||): what is wanted unless an accuracy is.

    Rounding x moves E x by u sigma_1 ||x||. At most `iterated_most` is accepted where no more can
    be had. Divided by sigma_min it is kappa u: backward stable.
    """
    return u


def iterated_most(n: int, u: float) -> float:
    """As `iterated_floor`, what is accepted where cycles gain nothing more.

    Products with long rows err by more than rounding of x does: an inner product of n terms by
    about sqrt(n) u of the norms (Higham and Mary, SIAM J. Sci. Comput. 41 (2019)), in E x and in
    the E' y that was subtracted. How they are added up, in order or in parts, is the library's.
    """
    return max(ANSWERED, 2 * math.sqrt(n)) * u


def iterated_condition_limit(m: int, n: int, u: float) -> float:
    """kappa up to which cycles of an iteration contract, and so corrections reach rounding.

    A run of LSQR errs like a backward-stable method (Bjorck, Elfving and Strakos 1998, section 5):
    it leaves c kappa u of the distance to the set, and the `FINITE_STEPS` runs there are steps for
    must leave u.
    """
    contraction: float = u ** (1 / FINITE_STEPS)
    return contraction / (dimension_factor(m, n) * u)


def iterated_steps(m: int, condition: float, u: float) -> float:
    """Steps that LSQR takes to come down to u, at most."""
    return min(condition * math.log(2 / u) / 2, m if m <= ORTHOGONAL else math.inf)
