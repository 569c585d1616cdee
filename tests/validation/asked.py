"""Subjects of `faults` as the tests ask them, and what about."""

from dataclasses import replace

from projlab_validation.judge import judge
from projlab_validation.measure import measure
from projlab_validation.problems import catalogue
from projlab_validation.profiles import PROFILES
from projlab_validation.record import table

BRIEF = replace(PROFILES["quick"], cvxpy_dtypes=())
"""Of the quick profile, all but the oracle that no verdict on a subject depends on."""

PROBLEMS = (
    *(p for p in catalogue(groups=["scaling", "deficient", "shapes", "starts"]) if p.consistent),
    *catalogue(groups=["article"], dtypes=["float64"]),
    *catalogue(
        names=["spectra_1e3_10x20", "spectra_1e6_10x20", "spectra_1e9_10x100", "spectra_1_150x400"],
        dtypes=["float64"],
    ),
)


def judged(name, problem):
    return judge(table(measure(problem, [f"faults:{name}"], BRIEF)).to_pandas())
