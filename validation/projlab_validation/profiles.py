"""How much a run measures: quick for every change, standard for a release, full for a night."""

from __future__ import annotations

import math
from dataclasses import dataclass

from projlab.engine.variants import get
from projlab_validation.problems.problem import DTYPES, Dtype
from projlab_validation.subjects import is_subject


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
    check_flops, subject_flops
        Variants, and subjects, get every check on systems up to this count, and on larger ones
        those of x₀ alone.
    drift_exponent, drift_long
        Drift is followed for 10 to the power of this many steps; on these problems for a million.
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
    check_flops: float = 1e6
    subject_flops: float = 1e8
    drift_exponent: int = 4
    drift_long: tuple[str, ...] = ()
    training: tuple[str, ...] | None = None
    training_dtypes: tuple[Dtype, ...] = DTYPES
    training_steps: int = 2000
    training_brief: bool = False
    network_steps: int = 1000
    noise_exponent: int = 6


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "quick",
            DTYPES,
            6e9,
            60.0,
            30.0,
            ("float64",),
            1.0,
            repeats=5,
            repeat_seconds=0.2,
            training=(
                "train_article_2",
                "train_mixture",
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
            check_flops=1e7,
            subject_flops=1e9,
            drift_exponent=5,
            drift_long=("drift_1e3_10x20",),
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
        ),
    )
}
"""By name, the cheapest first."""


def over_budget(profile: Profile, variant: str, m: int, n: int, *, overlap: bool) -> str | None:
    """Say why a profile does not run a variant on an m × n system; None where it does.

    Rows that overlap need a dense factorisation for their rank, whatever the variant. Rows that do
    not need one for variants that factor a dense matrix all the same: whose count reaches m² n.
    Subjects count as such.
    """
    flops = m * m * n
    dense = overlap or is_subject(variant) or get(variant).flops(m, n)[0] >= flops
    if flops <= profile.flops or not dense:
        return None
    taker = next(p.name for p in PROFILES.values() if flops <= p.flops)
    return (
        f"needs {flops / 1e9:.3g} GFlop of dense factorisation, the {profile.name} profile stops "
        f"at {profile.flops / 1e9:.3g}; `projlab validate --profile {taker}` runs it"
    )
