"""Linear expressions over parameters; the equations and inequalities that `==`, `<=`, `>=` make.

An expression is sum_i A_i p_i + c, kept as maps of its parameters (the module `maps`): a sum over a
dimension is a strided view and a list of axes, whatever its size, and no matrix is made dense.
"""

import copy
import math
import operator
from collections.abc import Callable
from typing import Any, NoReturn, Self

import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import InputError
from projlab.training.expressions import labels, maps, operands
from projlab.training.expressions.labels import Label, ParameterNames
from projlab.training.expressions.maps import LinearMap
from projlab.training.expressions.views import Views


def expr(parameter: Tensor, name: str | None = None) -> "Expression":
    """A parameter as a linear expression, of its shape, to write equations over.

    `+ - *` and `/` by numbers, `*` by an array of constants, `A @ e` and `e @ A` for a dense or
    sparse matrix (torch, numpy, scipy.sparse), `.sum(dim)`, `.mean(dim)`, indexing, what moves
    entries (`.reshape`, `.permute`, `.diagonal()`, `.roll`, ...), and torch's functions of the same
    names, `torch.einsum`, `torch.cat` and `torch.stack`; then `==` gives an `Equation`:

        expr(p3) - 2 * expr(p4) == 0
        expr(W).sum(dim=1) == 1
        A @ cat(expr(p), expr(q)) == b

    Parameters
    ----------
    parameter
        A leaf tensor of any shape, float64, float32, float16 or bfloat16. Its values are read when
        the constraint is applied, not here.
    name
        For messages and row names; by default the module's name for it where a module is given to
        `constrain`, else "W0" (two dimensions or more) or "p0".

    Raises
    ------
    InputError
        No tensor, not floating-point, not a leaf, uninitialised, sparse or empty.
    """
    parameter = operands.require_parameter(parameter)
    if name is not None and not isinstance(name, str):
        raise InputError(f"name={name!r}; it must be a string")
    return Expression(
        torch.Size(parameter.shape),
        (maps.leaf(parameter),),
        None,
        labels.of_parameter(parameter),
        torch.float64,
        {} if name is None else {id(parameter): name},
    )


def cat(*expressions: "Expression") -> "Expression":
    """Expressions flattened row-major and joined into one vector: `A @ cat(expr(p), expr(q))`.

    Shape (n1 + n2 + ...,) for expressions of n1, n2, ... entries.

    Raises
    ------
    InputError
        No expression is given, or something else.
    """
    for i, e in enumerate(expressions):
        if not isinstance(e, Expression):
            raise InputError(f"cat takes expressions; argument {i} is a {type(e).__name__}")
    if not expressions:
        raise InputError("cat takes at least one expression")
    return _Joined(expressions)


class Expression(Views):
    """sum_i A_i p_i + c over parameters p_i; made by `expr` and `cat`, immutable."""

    __array_ufunc__ = None  # arrays on the left leave the operation to us
    __array_priority__ = 1000.0
    __pandas_priority__ = 5000  # above that of a DataFrame
    __hash__ = None  # type: ignore[assignment]  # == is an equation, not a comparison

    def __init__(
        self,
        shape: torch.Size,
        terms: tuple[LinearMap, ...],
        constant: Tensor | None,
        label: Label,
        data: torch.dtype,
        names: dict[int, str],
    ) -> None:
        self.shape = shape
        self._terms = terms
        self.constant = constant
        """c, float64 on the CPU, broadcastable to the shape; None for zero."""
        self.label = label
        self.data = data
        """The narrowest dtype in which coefficients were given: it decides rank."""
        self.names = names

    @property
    def terms(self) -> tuple[LinearMap, ...]:
        """The maps A_i, each with its parameter."""
        return self._terms

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters p_i, in order of appearance, some of them perhaps more than once."""
        return [t.parameter for t in self.terms]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Expression":
        """Over copies of the parameters, which have the names that were chosen for them."""
        copied = memo[id(self)] = type(self).__new__(type(self))
        copies = {id(p): id(copy.deepcopy(p, memo)) for p in self.parameters}
        for name, value in vars(self).items():
            vars(copied)[name] = copy.deepcopy(value, memo)
        copied.label = labels.of_copied(self.label, copies)
        copied.names = {copies[p]: name for p, name in self.names.items()}
        return copied

    def __copy__(self) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an expression cannot be pickled: it is of the parameters of one process. Write it "
            "again, with projlab.expr over those that are loaded"
        )

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """`torch.sum(e)`, `tensor * e` and the like: see the module `functions`."""
        from projlab.training.expressions import functions  # which makes expressions

        return functions.applied(func, args, kwargs or {})

    def _derived(
        self,
        shape: torch.Size,
        term: Callable[[LinearMap], LinearMap],
        constant: Callable[[Tensor], Tensor],
        label: Label,
    ) -> "Expression":
        c = None if self.constant is None else constant(self.constant.expand(self.shape))
        terms = tuple(term(t) for t in self.terms)
        return Expression(shape, terms, c, label, self.data, self.names)

    def __neg__(self) -> "Expression":
        return self._scaled(-1.0)

    def __pos__(self) -> "Expression":
        return self

    def __mul__(self, other: Any) -> "Expression":
        if isinstance(other, Expression):
            raise InputError("the product of two expressions is not linear")
        factor, data = operands.constant(other, "the factor")
        if factor.dim() == 0:
            return self._scaled(float(factor))
        shape = operands.broadcast(self.shape, factor.shape, "the factor")
        wide, weights = self._expanded(shape), factor.expand(shape)
        e = wide._derived(
            shape,
            lambda t: maps.weighted(t, weights),
            lambda c: c * weights,
            labels.of_call(wide.label, len(shape), "(c * {})"),
        )
        e.data = operands.narrower(self.data, data)
        return e

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Expression":
        if isinstance(other, Expression):
            raise InputError("the quotient of two expressions is not linear")
        divisor, _ = operands.constant(other, "the divisor")
        if bool((divisor == 0).any()):
            raise InputError("division of an expression by zero")
        return self * (1 / divisor if divisor.dim() else 1 / float(divisor))

    def _scaled(self, factor: float) -> "Expression":
        return self._derived(
            self.shape,
            lambda t: maps.scaled(t, factor),
            lambda c: c * factor,
            labels.of_scaled(self.label, factor),
        )

    def __add__(self, other: Any) -> "Expression":
        return self._plus(other, "+")

    def __sub__(self, other: Any) -> "Expression":
        return self._plus(other, "-")

    def __radd__(self, other: Any) -> "Expression":
        return self._like(other)._plus(self, "+")

    def __rsub__(self, other: Any) -> "Expression":
        return self._like(other)._plus(self, "-")

    def _like(self, other: Any, *, infinite: bool = False) -> "Expression":
        """A constant as an expression without terms; a side of an inequality may be infinite."""
        c, data = operands.constant(other, "the constant", infinite=infinite)
        label = labels.of_constant(c, self.ndim)
        return Expression(torch.Size(c.shape), (), c, label, data, {})

    def _plus(self, other: Any, sign: str) -> "Expression":
        right = other if isinstance(other, Expression) else self._like(other)
        shape = operands.broadcast(self.shape, right.shape, "the other operand")
        a, b = self._expanded(shape), right._expanded(shape)
        terms = a.terms + tuple(maps.scaled(t, -1.0 if sign == "-" else 1.0) for t in b.terms)
        constant = a.constant
        if b.constant is not None:
            c = -b.constant if sign == "-" else b.constant
            constant = c if constant is None else constant + c
        return Expression(
            shape,
            terms,
            constant,
            labels.of_pair(self.label, right.label, sign, (self.shape, right.shape, shape)),
            operands.narrower(self.data, right.data),
            {**right.names, **self.names},
        )

    def _expanded(self, shape: torch.Size) -> "Expression":
        if shape == self.shape:
            return self
        return self._derived(
            shape,
            lambda t: maps.changed(t, lambda v: v.expand(shape)),
            lambda c: c.expand(shape),
            labels.of_broadcast(self.label, self.shape),
        )

    def __rmatmul__(self, A: Any) -> "Expression":
        matrix, data = operands.matrix(A)
        if matrix.dim() == 1:
            product = self._times(matrix.unsqueeze(0), data)[0]
            product.label = labels.of_call(self.label, self.ndim, "(A @ {})")
            return product
        return self._times(matrix, data)

    def __matmul__(self, A: Any) -> "Expression":
        if isinstance(A, Expression):
            raise InputError("the product of two expressions is not linear")
        matrix, data = operands.matrix(A)
        rows = matrix.unsqueeze(0) if matrix.dim() == 1 else operands.transposed(matrix)
        if self.ndim == 2:
            product = self.T._times(rows, data).T
            product = product[:, 0] if matrix.dim() == 1 else product
        else:
            product = self._times(rows, data)
            product = product[0] if matrix.dim() == 1 else product
        product.label = labels.of_call(self.label, self.ndim, "({} @ A)")
        return product

    def _times(self, A: Tensor, data: torch.dtype) -> "Expression":
        """A @ self for A (k, n)."""
        if self.ndim not in (1, 2):
            raise InputError(
                f"@ takes expressions of one or two dimensions, this one has shape "
                f"{tuple(self.shape)}; use .flatten() or .reshape"
            )
        if A.shape[1] != self.shape[0]:
            raise InputError(
                f"A has {A.shape[1]} columns, but the expression beside it has shape "
                f"{tuple(self.shape)}"
            )
        shape = torch.Size((A.shape[0], *self.shape[1:]))
        count = A._nnz() if A.layout != torch.strided else int(torch.count_nonzero(A))
        terms = self._multiplied(A, count)
        c = None
        if self.constant is not None:
            c = A.cpu().double() @ self.constant.expand(self.shape).contiguous()
        return Expression(
            shape,
            terms,
            c,
            labels.of_call(self.label, self.ndim, "(A @ {})"),
            operands.narrower(self.data, data),
            self.names,
        )

    def _multiplied(self, A: Tensor, count: int) -> tuple[LinearMap, ...]:
        return tuple(maps.multiplied(A, t, count) for t in self.terms)

    def sum(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> "Expression":
        """The sum over one dimension, several or all."""
        dims = self._dims(dim)
        return self._reduced(dims, keepdim, "sum")

    def mean(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> "Expression":
        """The mean over one dimension, several or all."""
        dims = self._dims(dim)
        count = math.prod(self.shape[d] for d in dims)
        if not count:
            raise InputError(
                f"the mean of no entries: the expression has shape {tuple(self.shape)}"
            )
        total = self._reduced(dims, keepdim, "mean")
        mean = total._scaled(1.0 / count)
        mean.label = total.label
        return mean

    def _dims(self, dim: int | tuple[int, ...] | None) -> tuple[int, ...]:
        if dim is None:
            return tuple(range(self.ndim))
        try:
            wanted = [
                operator.index(d) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))
            ]
        except TypeError:
            wanted = [self.ndim]
        if not all(-self.ndim <= d < self.ndim for d in wanted):
            raise InputError(f"dim={dim!r}; the expression has shape {tuple(self.shape)}")
        dims = tuple(sorted(d % self.ndim for d in wanted))
        if len(set(dims)) < len(dims):
            raise InputError(f"dim={dim!r} names a dimension twice")
        return dims or tuple(range(self.ndim))

    def _reduced(self, dims: tuple[int, ...], keepdim: bool, method: str) -> "Expression":
        shape = torch.Size(size for d, size in enumerate(self.shape) if d not in dims)
        e = self._derived(
            shape,
            lambda t: t.summed(dims),
            lambda c: c.sum(dims) if dims else c,
            labels.of_sum(self.label, dims, False, method) if dims else self.label,
        )
        if not keepdim:
            return e
        kept = torch.Size(1 if d in dims else size for d, size in enumerate(self.shape))
        label = labels.of_sum(self.label, dims, True, method)
        return e._derived(
            kept,
            lambda t: maps.changed(t, lambda v: v.reshape(kept)),
            lambda c: c.reshape(kept),
            label,
        )

    def __iter__(self) -> NoReturn:
        raise TypeError("an expression is not iterable; index it")

    def __bool__(self) -> NoReturn:
        raise TypeError("an expression has no truth value; it has values when it is constrained")

    def __eq__(self, other: object) -> "Equation":  # type: ignore[override]
        return Equation(self, self._right(other, "=="))

    def __le__(self, other: object) -> "Inequality":
        return Inequality(self, self._right(other, "<="), "<=")

    def __ge__(self, other: object) -> "Inequality":
        return Inequality(self, self._right(other, ">="), ">=")

    def _right(self, other: object, relation: str) -> "Expression":
        """The right side of a relation, which has the expression's shape."""
        if isinstance(other, Expression):
            return other
        right = self._like(other, infinite=relation != "==")
        what = f"the right side of {relation}"
        if operands.broadcast(self.shape, right.shape, what) != self.shape:
            raise InputError(
                f"{what} has shape {tuple(right.shape)}, which does not broadcast "
                f"to the expression's {tuple(self.shape)}"
            )
        return right

    def __ne__(self, other: object) -> NoReturn:
        raise TypeError("expressions make relations with ==, <= and >=, and none with !=")

    def __lt__(self, other: object) -> NoReturn:
        raise TypeError("sets are closed here: inequalities are made by <= and >=, not < and >")

    __gt__ = __lt__

    def __repr__(self) -> str:
        names = ParameterNames(self.names, self.parameters)
        text = self.label(labels.whole(self.ndim), names)
        return f"Expression({text}, shape={tuple(self.shape)})"


class _Joined(Expression):
    """What `cat` makes: its parts are kept, so that A @ cat(p, q) is A_p @ p + A_q @ q."""

    def __init__(self, given: tuple[Expression, ...]) -> None:
        self.parts = parts = tuple(e.flatten() for e in given)
        constant = None
        if any(p.constant is not None for p in parts):
            zero = torch.zeros((), dtype=torch.float64, device="cpu")
            constant = torch.cat(
                [(zero if p.constant is None else p.constant).expand(p.shape) for p in parts]
            )
        data = torch.float64
        names: dict[int, str] = {}
        for part in parts:
            data, names = operands.narrower(data, part.data), {**part.names, **names}
        total = sum(p.shape[0] for p in parts)
        super().__init__(torch.Size((total,)), (), constant, _joined(given, parts), data, names)

    @property
    def terms(self) -> tuple[LinearMap, ...]:
        """Each part's maps, placed at its rows."""
        if not self._terms:
            placed, start = [], 0
            for part in self.parts:
                for term in part.terms:
                    rows, cols, values = term.triplets()
                    placed.append(
                        maps.SparseMap(term.parameter, self.shape, rows + start, cols, values)
                    )
                start += part.shape[0]
            self._terms = tuple(placed)
        return self._terms

    @property
    def parameters(self) -> list[Tensor]:
        """Each part's, without placing its maps."""
        return [p for part in self.parts for p in part.parameters]

    def _multiplied(self, A: Tensor, count: int) -> tuple[LinearMap, ...]:
        terms: list[LinearMap] = []
        start = 0
        sparse = A.layout != torch.strided
        for part in self.parts:
            stop = start + part.shape[0]
            block = operands.columns(A, start, stop) if sparse else A[:, start:stop]
            nonzero = block._nnz() if sparse else int(torch.count_nonzero(block))
            terms += part._multiplied(block, nonzero)
            start = stop
        return tuple(terms)

    def _reduced(self, dims: tuple[int, ...], keepdim: bool, method: str) -> Expression:
        if not dims or keepdim:
            return super()._reduced(dims, keepdim, method)
        total = self.parts[0].sum()
        for part in self.parts[1:]:
            total = total + part.sum()
        total.label = labels.of_sum(self.label, dims, False, method)
        return total


def _joined(given: tuple[Expression, ...], parts: tuple[Expression, ...]) -> Label:
    pieces = [(part.label, part.shape[0]) for part in parts]
    all_of_each = [(e.label, labels.whole(e.ndim)) for e in given]

    def label(index: labels.Index, names: ParameterNames) -> str:
        if index[0].isdigit():
            position = int(index[0])
            for piece, size in pieces:
                if position < size:
                    return piece((str(position),), names)
                position -= size
        whole = f"cat({', '.join(each(places, names) for each, places in all_of_each)})"
        return labels.subscript(whole, index)

    return label


class Equation:
    """left == right, one row for each entry; what `constrain` takes. It has no truth value."""

    relation = "=="
    b_error: Tensor | None = None
    """By how much each b may be off, (rows,), float64 on the CPU, as `constrain` was told."""

    def __init__(self, left: Expression, right: Expression) -> None:
        self.left, self.right = left, right
        self.difference = self._difference()
        """A x - b, of which `==` says that it is zero, and `<=` that it is no larger."""
        self.shape = self.difference.shape
        if not self.difference.terms:
            raise InputError(f"the {self._kind} holds no parameter")
        if self.rows == 0:
            raise InputError(f"the {self._kind} has shape {tuple(self.shape)}: it has no rows")

    _kind = "equation"

    def _difference(self) -> Expression:
        return self.left - self.right

    @property
    def rows(self) -> int:
        """Number of scalar relations."""
        return math.prod(self.shape)

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters, each once, in order of appearance."""
        return list({id(p): p for p in self.difference.parameters}.values())

    def right_side(self) -> Tensor:
        """b of A x = b, (rows,), float64 on the CPU."""
        c = self.difference.constant
        if c is None:
            return torch.zeros(self.rows, dtype=torch.float64, device="cpu")
        return -c.expand(self.shape).reshape(-1)

    @property
    def rounding(self) -> Tensor | None:
        """Of b, (rows,), where constants on both sides make it; None where one of them has any."""
        sides = [side.constant for side in (self.left, self.right) if side.constant is not None]
        if len(sides) < 2:
            return None
        size = sum(torch.where(torch.isinf(c), 0, c).abs().expand(self.shape) for c in sides)
        assert isinstance(size, Tensor)
        return tolerance.unit_roundoff("float64") * size.reshape(-1)

    def stating(self, b_error: Tensor | None) -> Self:
        """The same, of which b, (rows,), may be off by so much."""
        stated = copy.copy(self)
        stated.b_error = b_error
        return stated

    def again(self, right: Any) -> "Equation":
        """The same with another right side."""
        fresh: Equation = self.left == right
        return fresh.stating(self.b_error)

    def row_name(self, row: int, names: ParameterNames) -> str:
        """As in "W0[3].sum() == 1"."""
        return self._text(labels.entry(row, self.shape), names)

    def describe(self, names: ParameterNames) -> str:
        """The first row, and how many there are."""
        first = self.row_name(0, names)
        return first if self.rows == 1 else f"{first}, ... ({self.rows} rows)"

    def _text(self, index: labels.Index, names: ParameterNames) -> str:
        left, right = (
            side.label(labels.before_broadcast(index, side.shape), names)
            for side in (self.left, self.right)
        )
        return f"{left} {self.relation} {right}"

    def __bool__(self) -> NoReturn:
        chained = "" if self.relation == "==" else "; of two sides, lb <= e <= ub, give two"
        raise TypeError(
            f"an {self._kind} has no truth value: {self.relation} between expressions states a "
            f"constraint, give it to projlab.constrain(optimizer, {self._kind}){chained}"
        )

    def __repr__(self) -> str:
        names = ParameterNames(self.difference.names, self.parameters)
        return f"{type(self).__name__}({self.describe(names)})"


class Inequality(Equation):
    """left <= right or left >= right, one row for each entry. It has no truth value.

    Rows are kept as A x <= b, whichever way they were written; b may be infinite, for no bound.
    """

    _kind = "inequality"

    def __init__(self, left: Expression, right: Expression, relation: str) -> None:
        self.relation = relation
        super().__init__(left, right)
        if bool((self.right_side() == -torch.inf).any()):
            raise InputError(
                f"the inequality asks for {self.relation} an infinity that no number reaches; "
                "an infinite side of the other sign is no bound"
            )

    def _difference(self) -> Expression:
        return self.left - self.right if self.relation == "<=" else self.right - self.left

    def again(self, right: Any) -> "Inequality":
        """The same with another right side."""
        fresh: Inequality = self.left <= right if self.relation == "<=" else self.left >= right
        return fresh
