"""AffineConstraint: the equations A x = b, checked once, immutable."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projlab.errors import InputError
from projlab.numerics.precision import stated_precision
from projlab.system.rows import Dense, Matrix, Triplets, from_scipy, is_scipy_sparse, triplets

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_FLOATS_TEXT = "it must be float64, float32, float16 or bfloat16"


class AffineConstraint:
    """The affine set {x : A x = b}.

    Parameters
    ----------
    A
        (m, n); (n,) for one row; (B, m, n) for B systems of one shape. Dense torch or numpy array,
        nested lists, scipy.sparse, or a torch sparse tensor (two-dimensional). Integers and Python
        numbers are taken as float64. Copied.
    b
        Scalar, (m,) or (B, m); a scalar holds for every row. None only where A is an
        AffineConstraint already.
    names
        m row names for messages and diagnoses; "row 0", "row 1", ... by default.

    Raises
    ------
    InputError
        Wrong shapes, complex or non-finite entries, different devices, or a tensor that requires
        grad: A and b are constants here, `projlab.project(x, A, b)` differentiates in them.
    """

    A: Tensor
    """(m, n) or (B, m, n); a sparse COO tensor where A was given sparse."""
    b: Tensor
    """(m,) or (B, m)."""
    names: tuple[str, ...]
    matrix: Matrix
    """A as the engine uses it."""

    def __init__(self, A: Any, b: Any = None, names: Sequence[str] | None = None) -> None:
        for name, value in (("A", A), ("b", b)):
            if isinstance(value, Tensor) and value.requires_grad:
                raise InputError(
                    f"{name} requires grad, but a constraint is a constant; detach it, or call "
                    f"projlab.project(x, A, b), which differentiates in x, A and b"
                )
        if b is None:
            raise InputError("b is missing: give a scalar or one value a row")
        with torch.no_grad(), torch.inference_mode(False):
            matrix = _matrix(A)
            right = _right_side(b, matrix)
            self._set(
                matrix=matrix,
                A=matrix.entries if isinstance(matrix, Dense) else _coo(matrix),
                b=right,
                names=_names(names, matrix.shape[0]),
                _cache={},
            )

    def _set(self, **attributes: object) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"AffineConstraint is immutable; build a new one to change {name!r}")

    @property
    def m(self) -> int:
        """Number of equations."""
        return self.matrix.shape[0]

    @property
    def n(self) -> int:
        """Number of variables."""
        return self.matrix.shape[1]

    @property
    def batch(self) -> int | None:
        """B for batched A, otherwise None."""
        return self.A.shape[0] if self.A.dim() == 3 else None

    @property
    def dtype(self) -> torch.dtype:
        """Of A, as given."""
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        """Of A and b."""
        return self.matrix.device

    def residual(self, x: Tensor) -> Tensor:
        """A x - b for x of shape (..., n), or (B, ..., n) where A is batched; shape (..., m)."""
        check_vector(x, self.n, self.batch, self.device)
        dtype = torch.promote_types(x.dtype, self.dtype)
        with stated_precision(self.device):
            product = self.matrix.to(dtype).matvec(x.to(dtype))
        b = self.b.to(dtype)
        if self.batch is not None:
            b = b.reshape(b.shape[0], *[1] * (x.dim() - 2), b.shape[1])
        return product - b

    def __repr__(self) -> str:
        kind = "sparse " if isinstance(self.matrix, Triplets) else ""
        batch = "" if self.batch is None else f"{self.batch} systems of "
        return (
            f"AffineConstraint({batch}{self.m} equations in {self.n} variables, "
            f"{kind}{str(self.dtype).removeprefix('torch.')}, {self.device})"
        )


def to_tensor(value: Any, name: str) -> Tensor:
    """A new floating-point tensor from a dense tensor, an array, a number or nested lists."""
    if isinstance(value, Tensor):
        tensor = value.detach().clone()
    else:
        try:
            array = np.asarray(value)
        except (ValueError, TypeError) as error:
            raise InputError(f"{name} is not a rectangular array of numbers: {error}") from None
        if array.dtype.kind not in "biuf":
            raise InputError(
                f"{name} has dtype {array.dtype}; it must hold real numbers (float, int)"
            )
        if array.dtype.kind != "f" or array.dtype.itemsize > 8:
            array = array.astype(np.float64)
        tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    if tensor.is_complex():
        raise InputError(f"{name} has dtype {tensor.dtype}; projlab projects real vectors only")
    if tensor.is_floating_point() and tensor.dtype not in FLOATS:
        raise InputError(f"{name} has dtype {tensor.dtype}; {_FLOATS_TEXT}")
    return tensor if tensor.is_floating_point() else tensor.to(torch.float64)


def check_vector(
    x: object, n: int, batch: int | None, device: torch.device, name: str = "x"
) -> None:
    """Raise `InputError` unless x is a floating-point tensor (..., n) on the device."""
    if not isinstance(x, Tensor):
        raise InputError(f"{name} is a {type(x).__name__}; it must be a torch tensor")
    if not x.is_floating_point():
        raise InputError(
            f"{name} has dtype {x.dtype}; it must be a floating-point tensor: x.float()"
        )
    if x.dtype not in FLOATS:
        raise InputError(f"{name} has dtype {x.dtype}; {_FLOATS_TEXT}")
    if x.device != device:
        raise InputError(f"{name} is on {x.device}, A and b on {device}; move one of them")
    if batch is None:
        if x.dim() == 0 or x.shape[-1] != n:
            raise InputError(f"{name} has shape {tuple(x.shape)}; its last dimension must be {n}")
    elif x.dim() < 2 or x.shape[0] != batch or x.shape[-1] != n:
        raise InputError(
            f"{name} has shape {tuple(x.shape)}; with {batch} systems it must be "
            f"({batch}, {n}) or ({batch}, k, {n})"
        )


def require_finite(value: Tensor, name: str) -> None:
    """Raise `InputError` that says where the first NaN or infinity of `value` stands."""
    if value.numel():
        smallest, largest = torch.aminmax(value)  # NaN where there is one
        if bool(torch.isfinite(smallest) & torch.isfinite(largest)):
            return
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        where = (~finite).nonzero()
        index = "".join(f"[{int(i)}]" for i in where[0])
        raise InputError(
            f"{name}{index} is {float(value[tuple(where[0])])}; "
            f"{name} must be finite ({len(where)} entries are not)"
        )


def _matrix(A: Any) -> Matrix:
    if is_scipy_sparse(A):
        rows, cols, values, shape = from_scipy(A)
    elif isinstance(A, Tensor) and A.layout != torch.strided:
        if A.dim() != 2 or A.dense_dim() != 0:
            raise InputError(f"A is a sparse tensor of shape {tuple(A.shape)}; it must be (m, n)")
        coo = A.detach().to_sparse_coo().coalesce()
        (rows, cols), values = coo.indices(), coo.values()
        shape = (A.shape[0], A.shape[1])
    else:
        return _dense(A)
    _require_columns(shape)
    values = to_tensor(values, "A")
    require_finite(values, "A's stored values")
    return triplets(rows, cols, values, shape)


def _dense(A: Any) -> Dense:
    tensor = to_tensor(A, "A")
    if tensor.dim() == 1:
        tensor = tensor.unsqueeze(0)
    if tensor.dim() not in (2, 3):
        raise InputError(
            f"A has shape {tuple(tensor.shape)}; it must be (m, n), (n,) for one row, or (B, m, n)"
        )
    _require_columns(tensor.shape)
    require_finite(tensor, "A")
    return Dense(tensor.contiguous())


def _require_columns(shape: Sequence[int]) -> None:
    if shape[-1] == 0 or (len(shape) == 3 and shape[0] == 0):
        raise InputError(
            f"A has shape {tuple(shape)}; it must have at least one column, "
            "and a batch at least one system"
        )


def _right_side(b: Any, matrix: Matrix) -> Tensor:
    m = matrix.shape[0]
    batch = matrix.entries.shape[:-2] if isinstance(matrix, Dense) else ()
    if isinstance(b, Tensor) and b.dim() > 0 and b.device != matrix.device:
        raise InputError(f"b is on {b.device}, A on {matrix.device}; move one of them")
    tensor = to_tensor(b, "b")
    if tensor.dim() > 0 and tensor.shape not in {(m,), (*batch, m)}:
        wanted = f"a scalar, ({m},)" + (f" or ({batch[0]}, {m})" if batch else "")
        raise InputError(f"b has shape {tuple(tensor.shape)}; with this A it must be {wanted}")
    require_finite(tensor, "b")
    # a right-hand side in a narrower dtype than A is taken as it is; a wider one keeps its digits
    return tensor.to(matrix.device).expand(*batch, m).contiguous()


def _coo(matrix: Triplets) -> Tensor:
    indices = torch.stack([matrix.rows, matrix.cols])
    return torch.sparse_coo_tensor(
        indices, matrix.values, matrix.shape, is_coalesced=True, check_invariants=False
    )


def _names(names: Sequence[str] | None, m: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"row {i}" for i in range(m))
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not listed or len(names) != m or not all(isinstance(s, str) for s in names):
        raise InputError(f"names must be {m} strings, one a row of A; got {names!r}")
    return tuple(names)
