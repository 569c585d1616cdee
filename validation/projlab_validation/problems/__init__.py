"""Problems: systems A x = b with a point x0 to project, addressable by group and by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from projlab_validation.problems import (
    article,
    classical,
    deficient,
    drift,
    real,
    scaling,
    shapes,
    sparse,
    spectra,
    starts,
)
from projlab_validation.problems.problem import DTYPES, Dtype, Problem

__all__ = ["GROUPS", "Problem", "catalogue"]

_FAMILIES = (
    article.FAMILY,
    spectra.FAMILY,
    classical.FAMILY,
    scaling.FAMILY,
    deficient.FAMILY,
    shapes.FAMILY,
    starts.FAMILY,
    drift.FAMILY,
    real.FAMILY,
    sparse.FAMILY,
)
GROUPS = tuple(family.group for family in _FAMILIES)


def catalogue(
    groups: Iterable[str] | None = None,
    names: Iterable[str] | None = None,
    dtypes: Sequence[Dtype] = DTYPES,
) -> Iterator[Problem]:
    """The problems of these groups and names (all by default), each built when it is reached.

    A name comes once in each of the dtypes that it is offered in: all in float64, fewer in float32.

    Raises
    ------
    ValueError
        For a group, name or dtype that does not exist.
    """
    known = {name: family for family in _FAMILIES for name in family.names("float64")}
    wanted_groups = _checked("groups", groups, GROUPS)
    wanted_names = _checked("names", names, tuple(known))
    wanted_dtypes = _checked("dtypes", dtypes, DTYPES)
    return (
        family.build(name, dtype)
        for name, family in known.items()
        if family.group in wanted_groups and name in wanted_names
        for dtype in dtypes
        if dtype in wanted_dtypes and name in family.names(dtype)
    )


def _checked(argument: str, wanted: Iterable[str] | None, known: Sequence[str]) -> set[str]:
    chosen = set(known if wanted is None else wanted)
    if unknown := sorted(chosen - set(known)):
        raise ValueError(f"{argument}: got {', '.join(unknown)}; want any of {', '.join(known)}")
    return chosen
