"""How much a run measures: quick for every change, standard for a release, full for a night."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from projlab.engine.variants import get
from projlab_validation.problems.problem import DTYPES, Dtype
from projlab_validation.problems.sparse import GROUP, SMALLEST
from projlab_validation.subjects import is_subject, takes_sparse

if TYPE_CHECKING:
    from projlab_validation.problems import Problem


@dataclass(frozen=True)
class Profile:
    """The limits of one run.

    Attributes
    ----------
    name
        What `--profile` calls it.
    dtypes
        Names of the dtypes that it takes.
    flops
        Dense factorisations of more than this many floating-point operations, counted as m² n, are
        skipped.
    reference_seconds
        Time limit of x*; None for no limit.
    record_seconds
        Time limit of one record, which is what a variant or subject takes over one check of one
        problem, warm-up and repeats included; None for no limit.
    cvxpy_dtypes
        Problems that cvxpy is asked about: it works in float64 whatever their dtype.
    cvxpy_seconds
        Time limit of one cvxpy solve; None for no limit.
    repeats
        Timed repeats of set-up and of projection.
    repeat_seconds
        No further repeat is begun once the repeats of one measurement took this long.
    sparse, sparse_rows
        Systems of the group "sparse", None for all; how many rows variants that never make a matrix
        dense may get, whatever its factorisation would cost.
    check_flops, subject_flops
        Variants, and subjects, get every check on systems up to this count, and on larger ones
        those of x₀ alone.
    drift_exponent, drift_long
        Drift is followed for 10 to the power of this many steps; on these problems for a million.
    drift_iterated
        The same exponent of variants of which each step is an iteration.
    training, training_dtypes, training_steps, training_brief
        Training problems and networks, None for all; problems in which dtypes; how many steps a run
        takes; whether to leave weight decay and mode "metric" out.
    network_steps, noise_exponent
        Steps of a network; parameters are driven by noise for 10 to the power of this many steps.
    """

    name: str
    dtypes: tuple[Dtype, ...]
    flops: float
    reference_seconds: float | None
    record_seconds: float | None
    cvxpy_dtypes: tuple[Dtype, ...]
    cvxpy_seconds: float | None
    repeats: int
    repeat_seconds: float
    sparse: tuple[str, ...] | None = None
    sparse_rows: float = math.inf
    check_flops: float = 1e6
    subject_flops: float = 1e8
    drift_exponent: int = 4
    drift_long: tuple[str, ...] = ()
    drift_iterated: int = 2
    training: tuple[str, ...] | None = None
    training_dtypes: tuple[Dtype, ...] = DTYPES
    training_steps: int = 2000
    training_brief: bool = False
    network_steps: int = 1000
    noise_exponent: int = 6


SPARSE_ROWS = 300
"""A sparse system of this many rows costs no profile anything."""

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "quick",
            DTYPES,
            1e9,
            60.0,
            30.0,
            ("float64",),
            0.2,
            repeats=5,
            repeat_seconds=0.2,
            sparse=SMALLEST,
            sparse_rows=0,
            training=(
                "train_article_2",
                "train_mixture",
                "train_mixture_within",
                "network_digits",
                "network_balance",
                "network_noise",
            ),
            training_dtypes=("float64",),
            training_steps=1000,
            training_brief=True,
            network_steps=200,
            noise_exponent=3,
        ),
        Profile(
            "standard",
            DTYPES,
            4e10,
            300.0,
            600.0,
            ("float64",),
            5.0,
            repeats=20,
            repeat_seconds=2.0,
            sparse_rows=50_000,
            check_flops=1e7,
            subject_flops=1e9,
            drift_exponent=5,
            drift_long=("drift_1e3_10x20",),
            drift_iterated=3,
            training_dtypes=("float64",),
            noise_exponent=4,
        ),
        Profile(
            "full",
            DTYPES,
            math.inf,
            3600.0,
            3600.0,
            DTYPES,
            60.0,
            repeats=50,
            repeat_seconds=10.0,
            check_flops=1e9,
            subject_flops=math.inf,
            drift_exponent=6,
            drift_iterated=4,
        ),
    )
}
"""By name, the cheapest first."""


def within(problem: Problem, flops: float) -> bool:
    """Whether a dense factorisation takes at most so much, or the system is sparse and small."""
    small = problem.stays_sparse and problem.m <= SPARSE_ROWS
    return small or problem.m * problem.m * problem.n <= flops


def over_budget(profile: Profile, variant: str, problem: Problem) -> str | None:
    """Say why a profile does not run a variant or subject on a system; None where it does.

    A system that stays sparse is what variants are for that never make a matrix dense: others are
    asked about it where that costs no more than a further check. Elsewhere rows that overlap need
    a dense factorisation, and rows that do not need one for variants that factor a dense matrix
    all the same: whose count reaches m² n. Subjects count as such.
    """
    m, n = problem.m, problem.n
    flops = m * m * n
    keeps_sparse = not is_subject(variant) and get(variant).keeps_sparse
    if problem.stays_sparse:
        if problem.group == GROUP and profile.sparse and problem.name not in profile.sparse:
            return (
                f"the {profile.name} profile takes {len(profile.sparse)} sparse systems, and this "
                "is none of them; `projlab validate --profile standard` has all but the largest"
            )
        if m > max(profile.sparse_rows, SPARSE_ROWS):
            return (
                f"has {m} rows, and the {profile.name} profile stops at {profile.sparse_rows:g} of "
                "a sparse system; `projlab validate --profile full` runs it"
            )
        if keeps_sparse or flops <= profile.check_flops or takes_sparse(variant):
            return None
        return (
            f"makes a sparse system dense, {flops / 1e9:.3g} GFlop; on systems that stay sparse it "
            f"is asked up to {profile.check_flops / 1e9:.3g}, and in the other groups beyond"
        )
    if reason := _too_many_steps(profile, variant, m, n):
        return reason
    if flops <= profile.flops or (keeps_sparse and m <= profile.sparse_rows):
        return None
    if not is_subject(variant) and not problem.rows_overlap and get(variant).flops(m, n)[0] < flops:
        return None
    taker = next(p.name for p in PROFILES.values() if flops <= p.flops)
    return (
        f"needs {flops / 1e9:.3g} GFlop of dense factorisation, the {profile.name} profile stops "
        f"at {profile.flops / 1e9:.3g}; `projlab validate --profile {taker}` runs it"
    )


def _too_many_steps(profile: Profile, variant: str, m: int, n: int) -> str | None:
    """Say why an iteration is not asked; None where it is.

    It may take as many steps as there are rows, to set up and for each projection, of which there
    are at least two of each.
    """
    if is_subject(variant) or not get(variant).iterates:
        return None
    flops = 2 * sum(get(variant).flops(m, n))
    if flops <= profile.flops:
        return None
    taker = next(p.name for p in PROFILES.values() if flops <= p.flops)
    return (
        f"iterations of {m} steps may take {flops / 1e9:.3g} GFlop, the {profile.name} profile "
        f"stops at {profile.flops / 1e9:.3g}; `projlab validate --profile {taker}` runs it"
    )
