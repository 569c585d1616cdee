"""Which variant, and why, in a sentence."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch

from projlab import tolerance
from projlab.engine.variants import REGISTRY, Variant, get
from projlab.errors import AccuracyError
from projlab.system.options import Options, check_options

MANY = 1000
"""Projections that a kept factorisation is expected to serve; `project` serves one."""


class Traits(NamedTuple):
    """What the choice depends on: the kept rows and the working precision."""

    m: int
    n: int
    disjoint: bool
    diagonal_metric: bool
    condition: float
    """Condition number, or an upper bound on it (see `measured`)."""
    measured: bool
    dtype: torch.dtype

    @property
    def u(self) -> float:
        return tolerance.unit_roundoff(self.dtype)


class Reason(NamedTuple):
    """Why a variant is taken; `str` makes the sentence, which a small set-up has no time for."""

    variant: Variant
    ruled_out: tuple[str, ...]
    """Cheaper ones that would not be accurate enough."""
    system: Traits
    accuracy: float | None
    applications: int

    def __str__(self) -> str:
        name, system, accuracy = self.variant.name, self.system, self.accuracy
        if self.variant.needs_disjoint_rows:
            rows = "one row" if system.m == 1 else f"no two of the {system.m} rows share a column"
            return f"{name}: {rows}, so that a projection costs O(nnz) and needs no matrix"
        asked = "what a backward-stable method reaches" if accuracy is None else f"{accuracy:.2g}"
        use = "one projection" if self.applications == 1 else "many projections"
        cheaper = (
            f"{' and '.join(self.ruled_out)} would be cheaper but loses digits there"
            if self.ruled_out
            else f"the cheapest for {use} of {system.m} rows in {system.n} variables"
        )
        return (
            f"{name}: predicted to reach {asked} at condition number "
            f"{'' if system.measured else 'at most '}{system.condition:.2g}, and {cheaper}"
        )


def check_variant(variant: object) -> str:
    """The `variant` argument: "auto" or the name of a variant, or `InputError`."""
    return "auto" if isinstance(variant, str) and variant == "auto" else get(variant).name


def asked(n: int, variant: object, keywords: Mapping[str, object], *, applications: int) -> Options:
    """The arguments of whatever projects vectors of length n, checked: see `check_options`."""
    return check_options(n, keywords, variant=check_variant(variant), applications=applications)


def choose(
    name: str, system: Traits, accuracy: float | None, applications: int
) -> tuple[Variant, str | Reason]:
    """The variant named, or for "auto" the cheapest that reaches the accuracy; with the reason.

    Raises
    ------
    InputError
        Unknown name.
    AccuracyError
        No variant, or not the one named, is predicted to reach `accuracy`.
    """
    if name != "auto":
        variant = get(name)
        if accuracy is not None and _predicted(variant, system) > accuracy:
            raise AccuracyError(_unreachable(accuracy, system, f'variant "{name}"', variant))
        return variant, f"{name}: asked for by name"
    target = _target(system, accuracy)
    able = _by_cost(system, applications)
    for i, variant in enumerate(able):
        if _predicted(variant, system) <= target:
            ruled_out = tuple(v.name for v in able[:i])
            return variant, Reason(variant, ruled_out, system, accuracy, applications)
    best = min(able, key=lambda v: _predicted(v, system))
    raise AccuracyError(_unreachable(target, system, "no variant", best))


def settled(
    name: str, system: Traits, accuracy: float | None, applications: int
) -> tuple[Variant, str | Reason] | None:
    """`choose`, or None where a condition number below the bound could change it.

    Or could refuse less.
    """
    if name != "auto":
        missed = accuracy is not None and _predicted(get(name), system) > accuracy
        return None if missed else choose(name, system, accuracy, applications)
    cheapest = _by_cost(system, applications)[0]
    if _predicted(cheapest, system) > _target(system, accuracy):
        return None
    return cheapest, Reason(cheapest, (), system, accuracy, applications)


def _by_cost(system: Traits, applications: int) -> tuple[Variant, ...]:
    """Those that take such rows, the cheapest first."""
    disjoint = system.disjoint and system.diagonal_metric
    return _ordered(system.m, system.n, disjoint, applications)


@lru_cache(maxsize=256)  # what it takes to ask each would be a tenth of a small system's set-up
def _ordered(m: int, n: int, disjoint: bool, applications: int) -> tuple[Variant, ...]:
    def cost(variant: Variant) -> float:
        setup, apply = variant.flops(m, n)
        return setup + applications * apply

    able = [v for v in REGISTRY if disjoint or not v.needs_disjoint_rows]
    return tuple(sorted(able, key=cost))


def _target(system: Traits, accuracy: float | None) -> float:
    if accuracy is not None:
        return accuracy
    growth = tolerance.backward_stable_growth(system.condition, system.u)
    return 2 * tolerance.predicted_accuracy(growth, system.m, system.n)


def _predicted(variant: Variant, system: Traits) -> float:
    limited = variant.limitation(m=system.m, n=system.n, condition=system.condition, u=system.u)
    if limited:
        return math.inf
    growth = variant.error_growth(system.condition, system.u)
    return tolerance.predicted_accuracy(growth, system.m, system.n)


def _unreachable(accuracy: float, system: Traits, who: str, best: Variant) -> str:
    dtype = str(system.dtype).removeprefix("torch.")
    reach = _predicted(best, system)
    reachable = (
        f"{reach:.2g} is what {best.name} is predicted to reach"
        if math.isfinite(reach)
        else f"{best.name} is expected to fail"
    )
    wider = "" if system.dtype is torch.float64 else "; float64 A reaches further"
    return (
        f"accuracy={accuracy:.2g}: {who} is predicted to reach it in {dtype} at condition number "
        f"{system.condition:.2g}; {reachable}{wider}"
    )
