"""Names for the rows of equations over parameters, as they were written: "W0[3].sum() == 1".

A label takes an index, one text a dimension ("3", ":" for all of it, "2:5"), and names for the
parameters, and gives the text of that part of an expression.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Index = tuple[str, ...]
ALL = ":"


class ParameterNames:
    """A name for each parameter: the chosen one, else "W0" or "p1", numbered by appearance.

    Parameters
    ----------
    chosen
        The caller's names and the module's, by the parameter's identity.
    parameters
        In order of appearance.
    """

    def __init__(self, chosen: dict[int, str], parameters: Sequence[Tensor]) -> None:
        self._names: dict[int, str] = {}
        for parameter in parameters:
            if id(parameter) not in self._names:
                letter = "W" if parameter.dim() > 1 else "p"
                default = f"{letter}{len(self._names)}"
                self._names[id(parameter)] = chosen.get(id(parameter), default)

    def __getitem__(self, parameter: Tensor) -> str:
        return self._names[id(parameter)]


Label = Callable[[Index, ParameterNames], str]


def whole(dims: int) -> Index:
    """The index of everything."""
    return (ALL,) * dims


def subscript(text: str, index: Index) -> str:
    """text[index], without the last dimensions that are taken whole: w[3], not w[3, :]."""
    shown = list(index)
    while shown and shown[-1] == ALL:
        shown.pop()
    return f"{text}[{', '.join(shown)}]" if shown else text


def before_broadcast(index: Index, shape: Sequence[int]) -> Index:
    """The index, in an operand of this shape, of an entry of the broadcast result."""
    own = index[len(index) - len(shape) :]
    return tuple(
        "0" if size == 1 and text != ALL else text for text, size in zip(own, shape, strict=True)
    )


def of_parameter(parameter: Tensor) -> Label:
    """The parameter's name, with an index where it has more than one entry."""

    def label(index: Index, names: ParameterNames) -> str:
        name = names[parameter]
        return name if parameter.numel() == 1 else subscript(name, index)

    return label


def grouped(text: str) -> str:
    """In parentheses where it is a sum or a product."""
    closed = text[0] == "(" and text.find(")") == len(text) - 1
    return f"({text})" if " " in text.replace(", ", ",") and not closed else text


def of_sum(child: Label, dims: tuple[int, ...], keepdim: bool, method: str) -> Label:
    """child[...].sum()."""

    def label(index: Index, names: ParameterNames) -> str:
        rest = [text for d, text in enumerate(index) if not keepdim or d not in dims]
        total = len(rest) + len(dims)
        inside = tuple(ALL if d in dims else rest.pop(0) for d in range(total))
        return f"{grouped(child(inside, names))}.{method}()"

    return label


def of_scaled(child: Label, factor: float) -> Label:
    """factor * child."""

    def label(index: Index, names: ParameterNames) -> str:
        text = child(index, names)
        if factor == -1:
            return f"-{grouped(text)}"
        inner = f"({text})" if " + " in text or " - " in text or text[0] == "-" else text
        return f"{factor:g} * {inner}"

    return label


def of_pair(left: Label, right: Label, sign: str, dims: Sequence[Sequence[int]]) -> Label:
    """left + right, or left - right; `dims` are the shapes of left, right and the result."""

    def label(index: Index, names: ParameterNames) -> str:
        first = left(before_broadcast(index, dims[0]), names)
        second = right(before_broadcast(index, dims[1]), names)
        if sign == "-" and (" + " in second or " - " in second or second[0] == "-"):
            second = f"({second})"
        return f"{first} {sign} {second}"

    return label


def of_constant(value: Tensor) -> Label:
    """The number, or "c" for a tensor of several."""

    def label(index: Index, names: ParameterNames) -> str:  # noqa: ARG001  # a label's signature
        if value.numel() == 1:
            return f"{float(value):g}"
        shown = before_broadcast(index, value.shape)
        if all(text.isdigit() for text in shown):
            return f"{float(value[tuple(int(text) for text in shown)]):g}"
        return "c"

    return label


def of_call(child: Label, dims: int, form: str) -> Label:
    """`form` with the whole child in it, indexed: (A @ w)[3]."""

    def label(index: Index, names: ParameterNames) -> str:
        return subscript(form.format(grouped(child(whole(dims), names))), index)

    return label


def of_view(child: Label, dims: Sequence[int]) -> Label:
    """The child with its dimensions in another order."""

    def label(index: Index, names: ParameterNames) -> str:
        inside = [ALL] * len(dims)
        for text, d in zip(index, dims, strict=True):
            inside[d] = text
        return child(tuple(inside), names)

    return label


def of_reshape(child: Label, before: Sequence[int], after: Sequence[int]) -> Label:
    """The child's own index of an entry of its reshape."""

    def label(index: Index, names: ParameterNames) -> str:
        if all(text == ALL for text in index):
            return child(whole(len(before)), names)
        if not all(text.isdigit() for text in index):
            shape = ", ".join(map(str, after))
            return subscript(f"{grouped(child(whole(len(before)), names))}.reshape({shape})", index)
        flat = 0
        for text, size in zip(index, after, strict=True):
            flat = flat * size + int(text)
        inside = []
        for size in reversed(before):
            inside.append(str(flat % size))
            flat //= size
        return child(tuple(reversed(inside)), names)

    return label


def of_index(child: Label, before: Sequence[int], key: tuple[Any, ...]) -> Label:
    """The child's own index of an entry of child[key]."""
    basic = all(isinstance(k, (int, slice)) or k is None or k is Ellipsis for k in key)

    if not basic:
        return of_change(child, before, lambda v: v[key], "[...]")

    def label(index: Index, names: ParameterNames) -> str:
        rest = list(index)
        inside: list[str] = []
        for k in _without_ellipsis(key, len(before)):
            if k is None:
                rest.pop(0)
            elif isinstance(k, int):
                inside.append(str(k % before[len(inside)]))
            else:
                inside.append(_through(k, before[len(inside)], rest.pop(0)))
        return child(tuple(inside), names)

    return label


def of_change(
    child: Label, before: Sequence[int], change: Callable[[Tensor], Tensor], form: str
) -> Label:
    """The child's own index of an entry that `change` moved; of more, `form` behind it."""

    @functools.cache
    def coordinates() -> list[Tensor]:
        """For each dimension of the child, where the entries of the result come from."""
        places = []
        for d, size in enumerate(before):
            shape = [size if k == d else 1 for k in range(len(before))]
            places.append(
                change(torch.arange(size, device="cpu").reshape(shape).expand(tuple(before)))
            )
        return places

    def label(index: Index, names: ParameterNames) -> str:
        if all(text.isdigit() for text in index):
            position = tuple(int(text) for text in index)
            return child(tuple(str(int(c[position])) for c in coordinates()), names)
        return subscript(f"{grouped(child(whole(len(before)), names))}{form}", index)

    return label


def _without_ellipsis(key: tuple[Any, ...], dims: int) -> list[Any]:
    """The key with full slices for an ellipsis, or for the dimensions behind it."""
    missing = dims - sum(k is not None and k is not Ellipsis for k in key)
    full: list[Any] = []
    for k in key if Ellipsis in key else (*key, Ellipsis):
        full += [slice(None)] * missing if k is Ellipsis else [k]
    return full


def _through(k: slice, size: int, text: str) -> str:
    """The index, in a dimension of this size, of an index of its slice k."""
    start, stop, step = k.indices(size)
    if text.isdigit():
        return str(start + step * int(text))
    if (start, stop, step) == (0, size, 1):
        return text
    return f"{start}:{stop}" + (f":{step}" if step != 1 else "")


def entry(position: int, shape: Sequence[int]) -> Index:
    """The index of a row-major position."""
    return tuple(str(position // math.prod(shape[d + 1 :]) % shape[d]) for d in range(len(shape)))
