"""torch's functions of expressions: those that are linear, by their names in torch.

What is not here is refused: a function that is not linear makes no equation, and one that is has a
method to write it with.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.training.expressions import operands
from projlab.training.expressions.expression import Equation, Expression, cat


def applied(func: Any, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """What torch hands over: a function of it, one of whose arguments is an expression.

    Raises
    ------
    TypeError
        A function that expressions do not have, by name; keywords that it does not take.
    """
    name = func.__name__
    if name in _METHODS and args and isinstance(args[0], Expression):
        return getattr(args[0], _METHODS[name])(*args[1:], **keywords)
    if name in _FUNCTIONS:
        return _FUNCTIONS[name](*args, **{k: v for k, v in keywords.items() if k != "out"})
    raise TypeError(
        f"torch's {name} of an expression: it is not linear, or not one of those that expressions "
        f"have: {', '.join(sorted({*_METHODS, *_FUNCTIONS}))}"
    )


_OWN = (
    "sum",
    "mean",
    "reshape",
    "view",
    "flatten",
    "unflatten",
    "permute",
    "transpose",
    "movedim",
    "squeeze",
    "unsqueeze",
    "diagonal",
    "trace",
    "flip",
    "roll",
)
_METHODS = {name: name for name in _OWN} | {
    "neg": "__neg__",
    "negative": "__neg__",
    "positive": "__pos__",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "moveaxis": "movedim",
}
"""Functions whose first argument is the expression, with their methods."""


def _sum_of(a: Any, b: Any, *, alpha: float = 1.0) -> Any:
    return a.__add__(_times(b, alpha)) if isinstance(a, Expression) else _times(b, alpha) + a


def _difference(a: Any, b: Any, *, alpha: float = 1.0) -> Any:
    if isinstance(a, Expression):
        return a - _times(b, alpha)
    return (-_times(b, alpha)).__add__(a)


def _times(value: Any, factor: float) -> Any:
    return value if factor == 1 else value * factor


def _product(a: Any, b: Any) -> Any:
    return a * b if isinstance(a, Expression) else b * a


def _quotient(a: Any, b: Any) -> Any:
    if isinstance(a, Expression):
        return a / b
    raise TypeError("a quotient by an expression is not linear")


def _matmul(a: Any, b: Any) -> Any:
    return a @ b if isinstance(a, Expression) else b.__rmatmul__(a)


def _equation(a: Any, b: Any) -> Equation:
    return a.__eq__(b) if isinstance(a, Expression) else Expression.__eq__(b, a)


def _at_most(a: Any, b: Any) -> Equation:
    return a <= b if isinstance(a, Expression) else Expression.__ge__(b, a)


def _at_least(a: Any, b: Any) -> Equation:
    return a >= b if isinstance(a, Expression) else Expression.__le__(b, a)


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    # a compressed tensor has no .T
    transposed = weight.t() if isinstance(weight, Tensor) else weight.T
    product = _matmul(x, transposed)
    return product if bias is None else product + bias


def _as_expressions(parts: Any, name: str) -> list[Expression]:
    """Expressions, of which some may be constants."""
    some = next(part for part in parts if isinstance(part, Expression))
    found = [part if isinstance(part, Expression) else some._like(part) for part in parts]
    if not found:
        raise InputError(f"{name} takes at least one expression")
    return found


def _cat(tensors: Any, dim: int = 0) -> Expression:
    parts = _as_expressions(tensors, "torch.cat")
    if all(part.ndim == 1 for part in parts) and dim in (0, -1):
        return cat(*parts)
    return _gathered(parts, lambda ts: torch.cat(ts, dim), f"torch.cat(..., {dim})")


def _stack(tensors: Any, dim: int = 0) -> Expression:
    parts = _as_expressions(tensors, "torch.stack")
    return _gathered(parts, lambda ts: torch.stack(ts, dim), f"torch.stack(..., {dim})")


def _gathered(
    parts: Sequence[Expression], join: Callable[[list[Tensor]], Tensor], call: str
) -> Expression:
    """The parts joined: where each entry comes from is what `join` makes of their numbers."""
    numbers, start = [], 0
    for part in parts:
        size = math.prod(part.shape)
        numbers.append(torch.arange(start, start + size, device="cpu").reshape(part.shape))
        start += size
    try:
        source = join(numbers)
    except (RuntimeError, IndexError) as error:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise InputError(f"{call} of shapes {shapes}: {error}") from None
    return cat(*parts)[source]


def _einsum(equation: str, *given: Any) -> Expression:
    """One expression and constants: contractions as products, what is left as views and sums."""
    inputs, output = _read(equation, given)
    which = [i for i, operand in enumerate(given) if isinstance(operand, Expression)]
    if len(which) > 1:
        raise InputError("the product of two expressions is not linear")
    e, own = _unrepeated(given[which[0]], inputs[which[0]])
    others = [i for i in range(len(given)) if i != which[0]]
    if not others:
        e, own = _summed(e, own, output)
        return e if own == output else e.permute([own.index(c) for c in output])
    constants = [operands.constant(given[i], f"operand {i}")[0] for i in others]
    names = "".join(dict.fromkeys("".join(inputs[i] for i in others)))
    kept = "".join(c for c in names if c in own or c in output)
    form = ",".join(inputs[i] for i in others) + "->" + kept
    C: Tensor = torch.einsum(form, *constants)
    e, own = _summed(e, own, output + kept)
    shared = "".join(c for c in kept if c in own)
    new = "".join(c for c in kept if c not in own)
    summed = "".join(c for c in shared if c not in output)
    if summed == shared and shared:  # nothing stays along: a matrix product
        rest = "".join(c for c in own if c not in summed)
        columns = e.permute([own.index(c) for c in summed + rest])
        free = columns.shape[len(summed) :]
        M = C.permute([kept.index(c) for c in new + summed])
        k = math.prod(M.shape[: len(new)])
        product = M.reshape(k, -1) @ columns.reshape(M.numel() // max(k, 1), -1)
        e, own = product.reshape((*M.shape[: len(new)], *free)), new + rest
    else:
        together = own + new
        weights = C.permute([kept.index(c) for c in together if c in kept])
        sizes = iter(weights.shape)
        weights = weights.reshape([next(sizes) if c in kept else 1 for c in together])
        e = e.reshape((*e.shape, *[1] * len(new))) * weights
        e, own = _summed(e, together, output)
    return e if own == output else e.permute([own.index(c) for c in output])


def _read(equation: Any, given: Sequence[Any]) -> tuple[list[str], str]:
    """The subscripts of the operands and of the result."""
    if not isinstance(equation, str) or "." in equation:
        raise InputError(f"einsum takes subscripts without an ellipsis; got {equation!r}")
    left, arrow, output = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    letters = "".join(inputs)
    if not arrow:
        output = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    shapes = [
        tuple(g.shape)
        if isinstance(g, Expression)
        else tuple(operands.constant(g, "an operand")[0].shape)
        for g in given
    ]
    try:
        torch.einsum(
            equation, *[torch.empty(shape, device="meta", dtype=torch.float32) for shape in shapes]
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"einsum({equation!r}) of shapes {shapes}: {error}") from None
    return inputs, output


def _unrepeated(e: Expression, own: str) -> tuple[Expression, str]:
    """Diagonals in the place of subscripts that stand twice."""
    for c in own:
        while own.count(c) > 1:
            first, second = own.index(c), own.rindex(c)
            e = e.diagonal(0, first, second)
            own = "".join(s for d, s in enumerate(own) if d not in (first, second)) + c
    return e, own


def _summed(e: Expression, own: str, wanted: str) -> tuple[Expression, str]:
    """Sums over the subscripts that are not wanted."""
    dims = tuple(d for d, c in enumerate(own) if c not in wanted)
    if not dims:
        return e, own
    return e.sum(dims), "".join(c for c in own if c in wanted)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": _sum_of,
    "sub": _difference,
    "subtract": _difference,
    "mul": _product,
    "multiply": _product,
    "div": _quotient,
    "divide": _quotient,
    "true_divide": _quotient,
    "matmul": _matmul,
    "mm": _matmul,
    "mv": _matmul,
    "dot": _matmul,
    "eq": _equation,
    "le": _at_most,
    "less_equal": _at_most,
    "ge": _at_least,
    "greater_equal": _at_least,
    "t": lambda e: e.T,
    "linear": _linear,
    "cat": _cat,
    "concat": _cat,
    "concatenate": _cat,
    "stack": _stack,
    "einsum": _einsum,
}
