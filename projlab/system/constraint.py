"""AffineConstraint: the equations A x = b, checked once, immutable."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.numerics.precision import outside_inference_mode, stated_precision
from projlab.system.inputs import (
    check_vector,
    refuse_elsewhere,
    refuse_watched,
    require_finite,
    to_tensor,
)
from projlab.system.operator_rows import OperatorRows, is_operator, operator_rows
from projlab.system.options import check_b_error
from projlab.system.rows import Rows, as_rows


class AffineConstraint:
    """The affine set {x : A x = b}.

    Parameters
    ----------
    A
        (m, n); (n,) for one row; (B, m, n) for B systems of one shape. Dense torch or numpy array,
        nested lists, scipy.sparse, or a torch sparse tensor, a batch of which is kept as one
        pattern, with zeros where a system does not store what another does. Integers and Python
        numbers are taken as float64. Copied. Or an operator: a
        `scipy.sparse.linalg.LinearOperator`, or any object with `shape`, `matvec` and `rmatvec`,
        of tensors or of numpy arrays; `matmat` and `rmatmat` are used where both stand beside them.
        It is kept, not copied, and must not change.
    b
        Scalar, (m,) or (B, m); a scalar holds for every row. None only where A is an
        AffineConstraint already.
    names
        m row names for messages and diagnoses; "row 0", "row 1", ... by default.
    b_error
        By how much each entry of b may be off, beyond its own rounding: absolute, in b's units, a
        scalar or of b's shape. Rows that contradict each other by no more are consistent; b that is
        the difference of large numbers carries an error that nobody else can know.

    Raises
    ------
    InputError
        Wrong shapes, complex or non-finite entries, different devices, or a tensor that requires
        grad: A and b are constants here, `projlab.project(x, A, b)` differentiates in them. An
        operator whose products with random vectors are not what they should be (see
        `projlab.system.operator_rows`).
    """

    b: Tensor
    """(m,) or (B, m)."""
    given_names: tuple[str, ...] | None
    rows: Rows
    """A as the engine uses it."""
    b_error: Tensor | None
    """Of b's shape, in float64; None where nothing was stated."""
    decided: dict[Any, Any]
    """Ranks and conflicts, once somebody asked (see `projlab.system.analysis`)."""

    def __init__(
        self,
        A: Any,
        b: Any = None,
        names: Sequence[str] | None = None,
        *,
        b_error: Any = 0.0,
    ) -> None:
        refuse_watched_parts(A, b)
        if b is None:
            raise InputError("b is missing: give a scalar or one value a row")
        with outside_inference_mode():
            operator = is_operator(A) and not isinstance(A, Rows)
            rows = operator_rows(A) if operator else as_rows(A)
            right = _right_side(b, rows)
            stated = None if _is_zero(b_error) else _stated(check_b_error(b_error), right)
        given = None if names is None else _names(names, rows.shape[0])
        # past the ban on assignment
        vars(self).update(rows=rows, b=right, given_names=given, b_error=stated, decided={})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"AffineConstraint is immutable; build a new one to change {name!r}")

    @cached_property
    def A(self) -> Tensor:  # noqa: N802  # the mathematics' own name
        """(m, n) or (B, m, n); a sparse COO tensor where A is sparse, (m, 0) of an operator."""
        with outside_inference_mode():
            return self.rows.as_tensor()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """One a row, as given or "row 0", "row 1", ...; made when first asked for."""
        return self.given_names or tuple(f"row {i}" for i in range(self.m))

    @property
    def operator(self) -> Any:
        """A as given, where it is an operator; None where it has entries."""
        return self.rows.operator if isinstance(self.rows, OperatorRows) else None

    @property
    def m(self) -> int:
        """Number of equations."""
        return self.rows.shape[0]

    @property
    def n(self) -> int:
        """Number of variables."""
        return self.rows.shape[1]

    @property
    def batch(self) -> int | None:
        """B for batched A, otherwise None."""
        return self.rows.batch

    @property
    def dtype(self) -> torch.dtype:
        """Of A, as given."""
        return self.rows.dtype

    @property
    def device(self) -> torch.device:
        """Of A and b."""
        return self.rows.device

    def like(self, A: Any, b: Any) -> "AffineConstraint":
        """Other numbers, with the names and the stated error of these; an operator stays."""
        error = 0.0 if self.b_error is None else self.b_error
        rows = A if self.operator is None else self.rows
        return AffineConstraint(rows, b, self.given_names, b_error=error)

    def stating(self, b_error: Any) -> "AffineConstraint":
        """The same equations, of which b may be off by `b_error`; themselves where that is zero."""
        if _is_zero(b_error):
            return self
        if self.b_error is not None:
            raise InputError("b_error is given twice: with the AffineConstraint, and beside it")
        return AffineConstraint(self.rows, self.b, self.given_names, b_error=b_error)

    def residual(self, x: Tensor) -> Tensor:
        """A x - b for x of shape (..., n), or (B, ..., n) where A is batched; shape (..., m)."""
        check_vector(x, self.n, self.batch, self.device)
        dtype = torch.promote_types(x.dtype, self.dtype)
        with stated_precision(self.device):
            product = self.rows.to(dtype).matvec(x.to(dtype))
        b = self.b.to(dtype)
        if self.batch is not None:
            b = b.reshape(b.shape[0], *[1] * (x.dim() - 2), b.shape[1])
        return product - b

    def __repr__(self) -> str:
        kind = "sparse " if self.rows.sparse else "" if self.operator is None else "operator, "
        batch = "" if self.batch is None else f"{self.batch} systems of "
        return (
            f"AffineConstraint({batch}{self.m} equations in {self.n} variables, "
            f"{kind}{str(self.dtype).removeprefix('torch.')}, {self.device})"
        )


def refuse_watched_parts(A: Any, b: Any) -> None:
    """Raise `InputError` for what autograd or a transform watches; seen outside `set_up` alone."""
    refuse_watched(A, "A", _CONSTANT)
    refuse_watched(b, "b", _CONSTANT)


_CONSTANT = (
    "a constraint is a constant; detach it, or call projlab.project(x, A, b), which differentiates "
    "in x, A and b"
)


def as_constraint(A: Any, b: Any) -> AffineConstraint:
    """A itself where it is an AffineConstraint (then no b), else one built from A and b."""
    if not isinstance(A, AffineConstraint):
        return AffineConstraint(A, b)
    if b is not None:
        raise InputError("A is an AffineConstraint and holds its own b; give no other")
    return A


def _is_zero(b_error: Any) -> bool:
    return isinstance(b_error, float) and b_error == 0


def _stated(error: float | Tensor, b: Tensor) -> Tensor | None:
    if not isinstance(error, Tensor):
        return None
    if error.shape not in {torch.Size(()), b.shape[-1:], b.shape}:
        of_batch = f" or {tuple(b.shape)}" if b.dim() == 2 else ""
        raise InputError(
            f"b_error has shape {tuple(error.shape)}; with this A it must be a scalar, "
            f"({b.shape[-1]},){of_batch}"
        )
    return error.to(b.device).expand(b.shape).contiguous()


def _right_side(b: Any, rows: Rows) -> Tensor:
    m, B = rows.shape[0], rows.batch
    shape = (m,) if B is None else (B, m)
    refuse_elsewhere(b, "b", "A", rows.device)
    tensor = to_tensor(b, "b")
    given = tuple(tensor.shape)
    if given not in (shape, (m,), ()):
        wanted = f"a scalar, ({m},)" + (f" or ({B}, {m})" if B is not None else "")
        raise InputError(f"b has shape {given}; with this A it must be {wanted}")
    require_finite(tensor, "b")
    if given != shape:
        tensor = tensor.expand(shape)
    # a right-hand side in a narrower dtype than A is taken as it is; a wider one keeps its digits
    return (tensor if tensor.device == rows.device else tensor.to(rows.device)).contiguous()


def _names(names: Sequence[str], m: int) -> tuple[str, ...]:
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not listed or len(names) != m or not all(isinstance(s, str) for s in names):
        raise InputError(f"names must be {m} strings, one a row of A; got {names!r}")
    return tuple(names)
