"""What a variant is: a way to factor the equilibrated rows, and the law its errors follow."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from projlab.numerics.transfer import sent
from projlab.numerics.triangular import Reflectors
from projlab.system.rows import Rows

InPlace = Callable[[Tensor], bool]
"""Projects x where it lies, or says False of an x that it does not take."""


class Bound(NamedTuple):
    """One projection of vectors that are known to fit, as functions of x alone."""

    native: InPlace | None
    """By a kernel, which checks x itself."""
    project: Callable[[Tensor], Tensor]
    project_: Callable[[Tensor], object]


@dataclass(frozen=True)
class Factor(ABC):
    """Factored rows E (r, n), or (B, r, n): every field is a tensor or None, but where `opaque`.

    Vectors x are (..., n), for batched rows (B, k, n); right-hand sides are (..., r). A copy is
    made from the fields, and derives the rest again.
    """

    opaque: ClassVar[bool] = False
    """Whether a projection looks at its own numbers, or calls what a compiler cannot trace."""

    @abstractmethod
    def right_side(self, f: Tensor) -> Tensor:
        """-f in the coordinates the factor works in: what is added to those of E x."""

    @abstractmethod
    def project(self, x: Tensor, c: Tensor | None) -> Tensor:
        """x - E^+ (E x - f), where c is `right_side(f)`, or None for f = 0."""

    @abstractmethod
    def project_(self, x: Tensor, c: Tensor | None) -> None:
        """`project` in place, to the same bits."""

    def bound(self, c: Tensor) -> "Bound":
        """`project` and `project_` of x (n,) or (k, n) for this c, with what they need at hand.

        Many projections are to follow: kernels are compiled, and used by `project` too from now on.
        """
        return Bound(None, lambda x: self.project(x, c), lambda x: self.project_(x, c))

    @abstractmethod
    def multipliers(self, x: Tensor, c: Tensor | None) -> Tensor:
        """y with x - E' y the projection of x."""

    def independent(self, cutoff: float) -> bool:
        """Whether the factor tells cheaply that the rank is full, by far, at this cutoff."""
        return False

    def to(self, device: torch.device) -> Self:
        """The same factor on another device."""
        return replace(
            self,
            **{
                name: sent(value, device) if isinstance(value, Tensor) else value
                for name, value in self._given().items()
            },
        )

    def _given(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self._given().values())


class Variant(ABC):
    """One way to project: a stateless object in the registry."""

    name: str
    summary: str
    """One line for people who choose."""
    needs_disjoint_rows: bool = False
    finds_out: bool = False
    """Whether it tries where theory expects it to be unable, and refuses only what it could not."""
    keeps_sparse: bool = False
    """Whether sparse rows are never made dense."""
    iterates: bool = False
    """Whether each projection is an iteration of its own, of many products with A."""

    @abstractmethod
    def factor(self, rows: Rows, u: float) -> Factor:
        """Factor equilibrated, linearly independent rows; rows of zeros may pad a batch."""

    def factor_from(self, reflectors: Reflectors, rows: Rows, u: float) -> Factor:
        """`factor`, where the rank decision left its Householder QR of the rows' transpose."""
        return self.factor(rows, u)

    @abstractmethod
    def error_growth(self, condition: float, u: float) -> float:
        """Forward error up to a modest function of the dimensions."""

    @abstractmethod
    def flops(self, m: int, n: int) -> tuple[float, float]:
        """Floating-point operations of factoring, and of one projection."""

    def limitation(self, *, m: int, n: int, condition: float, u: float) -> str | None:
        """Why theory expects the variant to refuse or lose digits here; None where it does not."""
        return None
