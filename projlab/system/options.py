"""The keywords of `projector`, `project`, `certify` and `diagnose`: listed and checked here.

A signature says `**keywords: Unpack[...]` of one of the lists below, which type checkers read;
`listed` spells them out for `help()`; `check_options` is the one check; `Options` is what it gives,
with the defaults.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Real
from typing import Any, Literal, TypedDict, TypeVar, get_args, get_type_hints

from torch import Tensor

from projlab.errors import InputError
from projlab.system.inputs import require_finite, require_values, to_tensor
from projlab.system.metric import metric_weights
from projlab.system.rank import RankRule

OnRedundant = Literal["drop", "raise"]
OnInconsistent = Literal["raise", "least_squares"]
F = TypeVar("F", bound=Callable[..., Any])


class ProblemKeywords(TypedDict, total=False):
    """Keywords that say which projection is meant."""

    rank: RankRule
    metric: Any
    on_inconsistent: OnInconsistent
    b_error: Any


class ProjectorKeywords(ProblemKeywords, total=False):
    """Keywords of whatever projects."""

    accuracy: float | None
    on_redundant: OnRedundant
    preconditioner: Any


class LayerKeywords(ProjectorKeywords, total=False):
    """Keywords of a layer, which takes the variant by name only."""

    variant: str


@dataclass(frozen=True, eq=False)
class Options:
    """Checked keywords and their defaults; `projlab.projector` says what each means."""

    variant: str = "auto"
    accuracy: float | None = None
    rank: RankRule = "numerical"
    metric: Tensor | None = None
    """(n,) or (n, n)."""
    on_redundant: OnRedundant = "drop"
    on_inconsistent: OnInconsistent = "raise"
    preconditioner: Callable[[Any], Any] | None = None
    """Of vectors (m,): about (A A')^-1."""
    b_error: float | Tensor = 0.0
    """A tensor where it is more than zero: of any shape (), (m,) or (B, m)."""
    applications: int = 1
    """How many projections the factorisation is expected to serve."""


DEFAULTS: Mapping[str, Any] = {
    field.name: field.default
    for field in fields(Options)
    if field.name in get_type_hints(ProjectorKeywords)
}
"""Of `ProjectorKeywords`."""


def check_options(
    n: int, keywords: Mapping[str, object], *, variant: str = "auto", applications: int = 1
) -> Options:
    """Options for vectors of length n; the names of variants are the engine's to check.

    Raises
    ------
    TypeError
        A keyword that is none of `ProjectorKeywords`, by name.
    InputError
        A value that its keyword does not take.
    """
    if not keywords:
        return _without_keywords(variant, applications)
    refuse_unknown(keywords, ProjectorKeywords)
    checks: dict[str, Callable[[object], Any]] = {
        "accuracy": check_accuracy,
        "rank": check_rank,
        "metric": lambda value: None if value is None else metric_weights(value, n),
        "on_redundant": lambda value: _one_of("on_redundant", value, get_args(OnRedundant)),
        "on_inconsistent": lambda value: _one_of(
            "on_inconsistent", value, get_args(OnInconsistent)
        ),
        "preconditioner": lambda value: check_preconditioner(value, variant),
        "b_error": check_b_error,
    }
    checked = {name: checks[name](value) for name, value in keywords.items()}
    return Options(variant=variant, applications=applications, **checked)


@cache  # of few names, and immutable
def _without_keywords(variant: str, applications: int) -> Options:
    return Options(variant=variant, applications=applications)


def refuse_unknown(keywords: Mapping[str, object], known: type) -> None:
    """Raise `TypeError`, as Python does, for a keyword that the list `known` does not have."""
    names = _names(known)
    for name in keywords:
        if name not in names:
            raise TypeError(f"unexpected keyword argument {name!r}; there are {', '.join(names)}")


def refuse_keywords(keywords: Mapping[str, object]) -> None:
    """Raise for keywords that go with equations alone, beside inequalities or bounds."""
    refuse_unknown(keywords, ProjectorKeywords)
    for name, value in keywords.items():
        default = DEFAULTS[name]
        if value is not default and not (isinstance(value, str | float) and value == default):
            raise InputError(
                f"{name} goes with equations alone; beside G, h, lb or ub it must be left out"
            )


@cache
def _names(keywords: type) -> tuple[str, ...]:
    """The names of a list of keywords, in the order of `Options`."""
    hints = get_type_hints(keywords)
    return tuple(field.name for field in fields(Options) if field.name in hints)


def check_accuracy(value: object) -> float | None:
    """The `accuracy` argument, or `InputError`."""
    if value is None:
        return None
    number = _number(value)
    if not 0 < number < math.inf:
        raise InputError(
            f"accuracy={value!r}; it must be a positive relative forward error, as 1e-8"
        )
    return number


def check_rank(value: object) -> RankRule:
    """The `rank` argument, or `InputError`."""
    if isinstance(value, str) and value in ("numerical", "exact"):
        return value  # type: ignore[return-value]  # mypy does not narrow by `in`
    number = _number(value)
    if not 0 < number < 1:
        raise InputError(
            f'rank={value!r}; it must be "numerical", "exact", or a tolerance between 0 and 1 '
            "relative to the largest singular value"
        )
    return number


def check_preconditioner(value: object, variant: str) -> Callable[[Any], Any] | None:
    """The `preconditioner` argument as a function of one vector, or `InputError`."""
    if value is None:
        return None
    if variant not in ("auto", "iterative"):
        raise InputError(
            f'preconditioner is for variant="iterative", which "auto" takes with it; {variant!r} '
            "has no use for one"
        )
    function = getattr(value, "matvec", value)
    if not callable(function):
        raise InputError(
            f"preconditioner is a {type(value).__name__}; it must be a function of vectors (m,), "
            "or a scipy.sparse.linalg.LinearOperator, that is about (A A')^-1"
        )
    return function


def check_b_error(value: object) -> float | Tensor:
    """The `b_error` argument: 0.0, or a float64 tensor with entries that are not all zero."""
    if value is None:
        raise InputError("b_error is None; it must be a number or one a row, 0.0 for none")
    require_values(value, "b_error")
    error = to_tensor(value, "b_error").double()
    require_finite(error, "b_error")
    if bool((error < 0).any()):
        raise InputError(
            f"b_error has the entry {float(error.min()):.3g}; it must say by how much b may be "
            "off, so no entry may be negative"
        )
    return error if bool((error > 0).any()) else 0.0


def _number(value: object) -> float:
    """A real number as a float; NaN for anything else, and where no float is that large."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    raise InputError(f"{name}={value!r}; it must be " + " or ".join(f'"{c}"' for c in choices))


def listed(function: F) -> F:
    """Decorator: `help()` shows the keywords of `**keywords: Unpack[...]` one by one.

    What is called stays the function itself.
    """
    signature = inspect.signature(function)
    *named, packed = signature.parameters.values()
    (keywords,) = get_args(packed.annotation)
    kinds = get_type_hints(keywords)
    spelled = [
        packed.replace(
            name=name,
            kind=packed.KEYWORD_ONLY,
            default=getattr(Options, name),
            annotation=kinds[name],
        )
        for name in _names(keywords)
    ]
    function.__signature__ = signature.replace(parameters=[*named, *spelled])  # type: ignore[attr-defined]  # read by inspect
    return function
