"""Names for the rows of equations over parameters, as they were written: "W0[3].sum() == 1".

A label takes an index, one text a dimension ("3", ":" for all of it, "2:5"), and names for the
parameters, and gives the text of that part of an expression: read as code it has a dimension for
each text that is no number, or is broadcast to it.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
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
        return self.of(id(parameter))

    def of(self, identity: int) -> str:
        """The name of the parameter of this identity."""
        return self._names[identity]

    def for_originals(self, copies: Mapping[int, int]) -> "ParameterNames":
        """The names of copied parameters, for those that they were copied from, by identity."""
        names = ParameterNames({}, [])
        names._names = {original: self.of(copied) for original, copied in copies.items()}
        return names


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
        text if size != 1 else "0" if text.isdigit() else ALL
        for text, size in zip(own, shape, strict=True)
    )


def taken(index: Index) -> bool:
    """Whether the index is of one entry."""
    return all(text.isdigit() for text in index)


def of_parameter(parameter: Tensor) -> Label:
    """The parameter's name, with an index where it has more than one entry."""
    identity, single = id(parameter), parameter.numel() == 1

    def label(index: Index, names: ParameterNames) -> str:
        name = names.of(identity)
        return name if single and taken(index) else subscript(name, index)

    return label


def of_copied(child: Label, copies: Mapping[int, int]) -> Label:
    """The child over copies of its parameters, which it knows by their own identity."""

    def label(index: Index, names: ParameterNames) -> str:
        return child(index, names.for_originals(copies))

    return label


def of_broadcast(child: Label, before: Sequence[int]) -> Label:
    """The child, of this shape, in more dimensions or larger ones."""

    def label(index: Index, names: ParameterNames) -> str:
        return child(before_broadcast(index, before), names)

    return label


def grouped(text: str) -> str:
    """In parentheses where it is a sum or a product."""
    depth = 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == " " and not depth:
            return f"({text})"
    return text


def of_sum(child: Label, dims: tuple[int, ...], keepdim: bool, method: str) -> Label:
    """child[...].sum(), with its dimensions where others are left."""

    def label(index: Index, names: ParameterNames) -> str:
        rest = [text for d, text in enumerate(index) if not keepdim or d not in dims]
        total = len(rest) + len(dims)
        inside = tuple(ALL if d in dims else rest.pop(0) for d in range(total))
        text = f"{grouped(child(inside, names))}.{method}"
        left = [d for d, place in enumerate(inside) if not place.isdigit()]
        kept = keepdim and not taken(tuple(index[d] for d in dims))
        if len(left) == len(dims) and not kept:
            return f"{text}()"
        summed = [left.index(d) for d in dims]
        shown = summed[0] if len(summed) == 1 else tuple(summed)
        if not kept:
            return f"{text}({shown})"
        places = tuple(index[d] if d in dims else ALL for d in left)
        return subscript(f"{text}({shown}, keepdim=True)", places)

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


def of_constant(value: Tensor, beside: int) -> Label:
    """The number, or "c" for a tensor of several; `beside` are the dimensions of what it meets."""

    def label(index: Index, names: ParameterNames) -> str:  # noqa: ARG001  # a label's signature
        shown = before_broadcast(index, value.shape)
        if taken(shown):
            return f"{float(value[tuple(int(text) for text in shown)]):g}"
        if value.numel() == 1 and value.dim() <= beside:
            return f"{float(value):g}"
        return subscript("c", shown)

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
        shown = child(tuple(inside), names)
        left = [d for text, d in zip(index, dims, strict=True) if not text.isdigit()]
        order = [sorted(left).index(d) for d in left]
        if order == sorted(order):
            return shown
        if len(order) == 2:
            return f"{grouped(shown)}.T"
        return f"{grouped(shown)}.permute({', '.join(map(str, order))})"

    return label


def of_reshape(child: Label, before: Sequence[int], after: Sequence[int]) -> Label:
    """The child's own index of an entry of its reshape."""

    def label(index: Index, names: ParameterNames) -> str:
        if tuple(before) == tuple(after):
            return child(index, names)
        if not taken(index):
            shape = ", ".join(map(str, after))
            return subscript(f"{grouped(child(whole(len(before)), names))}.reshape({shape})", index)
        flat = 0
        for text, size in zip(index, after, strict=True):
            flat = flat * size + int(text)
        return child(entry(flat, before), names)

    return label


def of_index(child: Label, before: Sequence[int], key: tuple[Any, ...]) -> Label:
    """The child's own index of an entry of child[key]."""
    basic = all(isinstance(k, (int, slice)) or k is None or k is Ellipsis for k in key)

    if not basic:
        return of_change(child, before, lambda v: v[key], "[...]")

    def label(index: Index, names: ParameterNames) -> str:
        rest = list(index)
        inside: list[str] = []
        left: list[str] = []
        for k in _without_ellipsis(key, len(before)):
            if isinstance(k, int):
                inside.append(str(k % before[len(inside)]))
                continue
            text = rest.pop(0)
            if k is not None:
                inside.append(_through(k, before[len(inside)], text))
            if not text.isdigit():
                left.append(ALL if k is not None else "None")
        shown = child(tuple(inside), names)
        return subscript(grouped(shown), tuple(left)) if "None" in left else shown

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
        if taken(index):
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
    places = range(size)[k]
    if text.isdigit():
        return str(places[int(text)])
    if text != ALL:
        places = places[slice(*map(int, text.split(":")))]
    if places == range(size):
        return ALL
    step = f":{places.step}" if places.step != 1 else ""
    return f"{places.start}:{places.stop}{step}"


def entry(position: int, shape: Sequence[int]) -> Index:
    """The index of a row-major position."""
    return tuple(str(position // math.prod(shape[d + 1 :]) % shape[d]) for d in range(len(shape)))
