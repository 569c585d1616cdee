"""Expressions in other shapes: each entry of the result is one of the expression's, as in torch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.training.expressions import indices, labels, maps
from projlab.training.expressions.labels import Label
from projlab.training.expressions.maps import LinearMap

Change = Callable[[Tensor], Tensor]
"""Takes entries of a tensor elsewhere; a view of a view, where torch can."""


class Views(ABC):
    """Methods of tensors that move entries, drop or repeat them, named as torch names them."""

    shape: torch.Size
    label: Label

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @abstractmethod
    def _derived(
        self,
        shape: torch.Size,
        term: Callable[[LinearMap], LinearMap],
        constant: Change,
        label: Label,
    ) -> Self:
        """The expression whose maps and constant are made from this one's."""

    @abstractmethod
    def sum(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Self:
        """The sum over one dimension, several or all."""

    def __getitem__(self, key: Any) -> Self:
        """Entries by position: slices and ints are views, anything else gathers entries."""
        key = indices.normalised(key)
        shape = self._shape_after(lambda v: v[key], f"index {key!r}", values=indices.gathers(key))
        return self._moved(shape, lambda v: v[key], labels.of_index(self.label, self.shape, key))

    def reshape(self, *shape: Any) -> Self:
        """The entries in row-major order, in another shape; one size may be -1."""
        sizes = _together(shape)
        return self._reshaped(lambda v: v.reshape(sizes), f"reshape{shape!r}")

    def view(self, *shape: Any) -> Self:
        """As `reshape`: strides are not an expression's matter."""
        sizes = _together(shape)
        return self._reshaped(lambda v: v.reshape(sizes), f"view{shape!r}")

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Self:
        """Some dimensions, all by default, as one, row-major."""
        return self._reshaped(
            lambda v: v.flatten(start_dim, end_dim), f"flatten({start_dim}, {end_dim})"
        )

    def unflatten(self, dim: int, sizes: Sequence[int]) -> Self:
        """One dimension as several."""
        return self._reshaped(lambda v: v.unflatten(dim, sizes), f"unflatten({dim}, {sizes})")

    def unsqueeze(self, dim: int) -> Self:
        """With another dimension of size one."""
        return self._reshaped(lambda v: v.unsqueeze(dim), f"unsqueeze({dim})")

    def squeeze(self, dim: int | tuple[int, ...] | None = None) -> Self:
        """Without dimensions of size one: all of them, or those of the ones named."""
        return self._reshaped(
            lambda v: v.squeeze() if dim is None else v.squeeze(dim), f"squeeze({dim})"
        )

    def permute(self, *dims: Any) -> Self:
        """The dimensions in another order."""
        order = _together(dims)
        return self._permuted(lambda v: v.permute(order), f"permute{dims!r}")

    def transpose(self, dim0: int, dim1: int) -> Self:
        """Two dimensions exchanged."""
        return self._permuted(lambda v: v.transpose(dim0, dim1), f"transpose({dim0}, {dim1})")

    def movedim(self, source: Any, destination: Any) -> Self:
        """Dimensions moved to other places."""
        return self._permuted(
            lambda v: v.movedim(source, destination), f"movedim({source}, {destination})"
        )

    @property
    def T(self) -> Self:  # noqa: N802  # as torch spells it
        """The transpose of an expression of two dimensions, or of one (itself)."""
        if self.ndim > 2:
            raise InputError(
                f".T is of two dimensions; the shape is {tuple(self.shape)}: use .mT or .permute"
            )
        return self if self.ndim < 2 else self.transpose(0, 1)

    @property
    def mT(self) -> Self:  # noqa: N802  # as torch spells it
        """The last two dimensions exchanged."""
        return self.transpose(-2, -1)

    def diagonal(self, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Self:
        """Entries with equal indices in two dimensions, in a last dimension."""
        return self._gathered(
            lambda v: v.diagonal(offset, dim1, dim2), f"diagonal({offset}, {dim1}, {dim2})"
        )

    def trace(self) -> Self:
        """The sum of the diagonal of an expression of two dimensions."""
        if self.ndim != 2:
            raise InputError(f"trace is of two dimensions; the shape is {tuple(self.shape)}")
        return self.diagonal().sum()

    def flip(self, *dims: Any) -> Self:
        """The other way round along some dimensions."""
        wanted = _together(dims)
        return self._gathered(lambda v: v.flip(wanted), f"flip{dims!r}")

    def roll(self, shifts: Any, dims: Any = None) -> Self:
        """Shifted along some dimensions, what leaves at the end entering at the beginning."""
        return self._gathered(
            lambda v: v.roll(shifts) if dims is None else v.roll(shifts, dims),
            f"roll({shifts}, {dims})",
        )

    def _reshaped(self, change: Change, call: str) -> Self:
        shape = self._shape_after(change, call)
        return self._moved(shape, change, labels.of_reshape(self.label, self.shape, shape))

    def _permuted(self, change: Change, call: str) -> Self:
        shape = self._shape_after(change, call)
        sizes = [d + 2 for d in range(self.ndim)]  # all different, and none of them one
        order = [
            s - 2 for s in change(torch.empty(sizes, device="meta", dtype=torch.float32)).shape
        ]
        return self._moved(shape, change, labels.of_view(self.label, order))

    def _gathered(self, change: Change, call: str) -> Self:
        shape = self._shape_after(change, call)
        label = labels.of_change(self.label, self.shape, change, f".{call}")
        return self._moved(shape, change, label)

    def _moved(self, shape: torch.Size, change: Change, label: Label) -> Self:
        return self._derived(shape, lambda t: maps.changed(t, change), change, label)

    def _shape_after(self, change: Change, call: str, *, values: bool = False) -> torch.Size:
        """The shape after a change; masks have one only where their `values` are known."""
        try:
            if values:
                return change(
                    torch.zeros((), dtype=torch.bool, device="cpu").expand(self.shape)
                ).shape
            return change(torch.empty(self.shape, device="meta", dtype=torch.float32)).shape
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{call} of shape {tuple(self.shape)}: {reason}") from None


def _together(given: tuple[Any, ...]) -> Any:
    """Integers given one by one, or as one sequence."""
    return given[0] if len(given) == 1 and not isinstance(given[0], int) else given
