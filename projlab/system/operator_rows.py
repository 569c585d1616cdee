"""A as an operator: its products with vectors, and no entries.

Reference for the norms of its rows from products with random vectors: Bekas, Kokiopoulou and Saad,
"An estimator for the diagonal of a matrix", Appl. Numer. Math. 57 (2007).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from projlab import tolerance
from projlab.errors import InputError
from projlab.numerics.double_double import Pair
from projlab.numerics.scaling import power_of_two
from projlab.system.inputs import require_finite
from projlab.system.rows import Rows

REMEDY = "give the entries of A as a scipy.sparse matrix, a tensor or an array"


@dataclass(frozen=True)
class LinearMap:
    """x (..., columns) to (..., rows) by a function of the caller's, of numpy arrays or tensors."""

    function: Callable[[Any], Any]
    """Takes one vector."""
    together: Callable[[Any], Any] | None
    """Takes the columns of an array (columns, k), where there is such a function."""
    name: str
    shape: tuple[int, int]
    """(rows, columns)."""
    numpy: bool
    dtypes: frozenset[torch.dtype]
    """What it takes and returns."""

    def __call__(self, x: Tensor) -> Tensor:
        """The products, in x's dtype."""
        dtype = x.dtype if x.dtype in self.dtypes else _widest(self.dtypes)
        flat = x.detach().resolve_neg().reshape(x.shape[:-1].numel(), self.shape[1]).to(dtype)
        if self.numpy and self.together is not None and len(flat) > 1:
            # a copy: what is returned may be the vectors themselves, or a buffer used again
            columns = self.together(flat.cpu().numpy().T)
            found = self._taken(columns, (self.shape[0], len(flat))).T.clone()
        else:
            # copies, as above: one buffer may be behind all of them
            vectors = [self._one(v).clone() for v in flat]
            found = torch.stack(vectors) if vectors else flat.new_zeros(0, self.shape[0])
        return found.to(x).reshape(*x.shape[:-1], self.shape[0])

    def _one(self, v: Tensor) -> Tensor:
        return self._taken(self.function(v.cpu().numpy() if self.numpy else v), (self.shape[0],))

    def _taken(self, found: Any, shape: tuple[int, ...]) -> Tensor:
        # it may return another kind than it did when it was tried
        if self.numpy:
            found = np.ascontiguousarray(found)
            real = found.dtype.kind in "biuf"
        else:
            real = isinstance(found, Tensor) and not found.is_complex()
        if not real:
            kind = getattr(found, "dtype", type(found).__name__)
            wanted = f"{'an array' if self.numpy else 'a tensor'} of real numbers"
            raise InputError(f"{self.name} returned {kind}; it must return {wanted}")
        product: Tensor = torch.from_numpy(found) if self.numpy else found.detach()
        if tuple(product.shape) != shape:
            raise InputError(
                f"{self.name} returned shape {tuple(product.shape)}; it must be {shape}"
            )
        return product


def _widest(dtypes: frozenset[torch.dtype]) -> torch.dtype:
    return max(dtypes, key=lambda dtype: dtype.itemsize)


@dataclass(frozen=True)
class OperatorRows(Rows):
    """Rows known by products alone; what needs their entries is refused by name."""

    operator: Any
    """As given."""
    forward: LinearMap
    adjoint: LinearMap
    working: torch.dtype
    place: torch.device
    exponent: Tensor | None = None
    """(m,) powers of two that the rows are scaled by."""
    sparse = False

    @property
    def shape(self) -> tuple[int, int]:
        return self.forward.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.working

    @property
    def device(self) -> torch.device:
        return self.place

    @property
    def nnz(self) -> int:
        self._refuse("counting the nonzero entries")

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> "OperatorRows":
        if device is not None and device != self.place:
            raise InputError(
                f"A is an operator on {self.place}, and projlab cannot move it to {device}: build "
                "it there, and the constraint or projector anew"
            )
        if dtype is None or dtype == self.working:
            return self
        if dtype.itemsize > _widest(self.forward.dtypes).itemsize:
            raise InputError(
                f"A is an operator that takes no {dtype} vectors, which the precision asked for "
                f"needs: let its matvec and rmatvec take them, or give x in {self.working}"
            )
        return replace(self, working=dtype)

    def matvec(self, x: Tensor) -> Tensor:
        return self._scaled(self.forward(x))

    def rmatvec(self, y: Tensor) -> Tensor:
        return self.adjoint(self._scaled(y))

    def _scaled(self, y: Tensor) -> Tensor:
        if self._powers is None:
            return y
        first, second = self._powers
        return y * first * second

    @cached_property
    def _powers(self) -> tuple[Tensor, Tensor] | None:
        return None if self.exponent is None else power_of_two(self.exponent, self.working)

    def scale_rows(self, exponent: Tensor) -> "OperatorRows":
        total = exponent if self.exponent is None else self.exponent + exponent
        return replace(self, exponent=total)

    def multiply_rows(self, factor: Tensor) -> "OperatorRows":
        return self.scale_rows(torch.frexp(factor).exponent - 1)

    def row_norms(self) -> Tensor:
        """Estimates, the same every time: the root mean square of products with random vectors."""
        return self._products().square().mean(0).sqrt()

    def row_max(self) -> Tensor:
        """The largest products with the same random vectors, which are as large as the rows."""
        return self._products().abs().amax(0)

    def _products(self) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(0)
        found = []
        for _ in range(tolerance.NORM_PROBES):  # one at a time: they may be long
            z = torch.randn(self.shape[1], generator=generator, dtype=torch.float64, device="cpu")
            found.append(self.matvec(z.to(device=self.place, dtype=self.working)))
        return torch.stack(found)

    def as_tensor(self) -> Tensor:
        """No entries: (m, 0), which stands for them where a tensor must be."""
        return torch.empty(self.shape[0], 0, dtype=self.working, device=self.place)

    def to_dense(self) -> Tensor:
        self._refuse("a dense factorisation")

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        self._refuse("a look at single entries")

    def matvec_pair(self, x: Pair) -> Pair:
        self._refuse("a product in twice the precision of float64")

    def rmatvec_pair(self, y: Pair) -> Pair:
        self._refuse("a product in twice the precision of float64")

    def abs(self) -> "OperatorRows":
        self._refuse("a bound on rounding by |A|")

    def divide_columns(self, d: Tensor) -> "OperatorRows":
        self._refuse("a change of variables")

    def select(self, keep: Tensor) -> "OperatorRows":
        self._refuse("a selection of rows")

    def overlap(self) -> tuple[int, int, int] | None:
        self._refuse("a look at which variables its rows share")

    def _refuse(self, what: str) -> NoReturn:
        raise InputError(f"A is an operator, and {what} needs its entries: {REMEDY}")


def is_operator(A: Any) -> bool:
    """Whether A is meant as an operator: it has `matvec`, as scipy's LinearOperator has."""
    return not isinstance(A, Tensor) and hasattr(A, "matvec")


def operator_rows(A: Any) -> OperatorRows:
    """Rows of an operator, whose products are tried once with random vectors.

    Raises
    ------
    InputError
        No shape (m, n), no rmatvec, complex, a product of the wrong shape or dtype or that is not
        finite, or an rmatvec that is not the adjoint of matvec.
    """
    m, n = _shape(A)
    device = _device(A)
    _refuse_complex(getattr(A, "dtype", None))
    forward = linear_map(A.matvec, "A.matvec", (m, n), device, getattr(A, "matmat", None))
    adjoint = linear_map(A.rmatvec, "A.rmatvec", (n, m), device, getattr(A, "rmatmat", None))
    common = forward.dtypes & adjoint.dtypes
    if not common:
        raise InputError(
            f"A.matvec takes {_listed(forward.dtypes)} vectors, A.rmatvec "
            f"{_listed(adjoint.dtypes)}: they must take the same"
        )
    dtype = _widest(common)
    rows = OperatorRows(
        A, replace(forward, dtypes=common), replace(adjoint, dtypes=common), dtype, device
    )
    _require_adjoint(rows)
    return rows


def _shape(A: Any) -> tuple[int, int]:
    shape = getattr(A, "shape", None)
    try:
        m, n = (int(size) for size in shape)  # type: ignore[union-attr]  # caught below
    except (TypeError, ValueError):
        raise InputError(f"A is an operator of shape {shape!r}; it must be (m, n)") from None
    if n < 1 or m < 0:
        raise InputError(f"A is an operator of shape ({m}, {n}); it must have at least one column")
    if not callable(getattr(A, "rmatvec", None)):
        raise InputError(
            "A is an operator without rmatvec, the product with its transpose, which a projection "
            f"needs: define it, or {REMEDY}"
        )
    return m, n


def _device(A: Any) -> torch.device:
    named = getattr(A, "device", "cpu")
    return torch.device(named) if isinstance(named, (str, torch.device)) else torch.device("cpu")


def _refuse_complex(dtype: Any) -> None:
    kind = dtype.is_complex if isinstance(dtype, torch.dtype) else False
    if isinstance(dtype, np.dtype):
        kind = dtype.kind == "c"
    if kind:
        raise InputError(f"A is an operator of dtype {dtype}; projlab projects real vectors only")


def linear_map(
    function: Callable[[Any], Any],
    name: str,
    shape: tuple[int, int],
    device: torch.device,
    together: Callable[[Any], Any] | None = None,
) -> LinearMap:
    """A function of vectors, tried with a random one as a tensor and, failing that, as an array."""
    generator = torch.Generator("cpu").manual_seed(1)
    v = torch.randn(shape[1], generator=generator, dtype=torch.float64, device="cpu").to(device)
    scipy_own = any(c.__module__.startswith("scipy.") for c in type(_owner(function)).__mro__)
    troubles = []
    for numpy in (True,) if scipy_own else (False, True) if device.type == "cpu" else (False,):
        dtypes = set()
        for dtype in (torch.float64, torch.float32):
            trouble = _tried(function, v.to(dtype), name, shape[0], numpy=numpy)
            if trouble is None:
                dtypes.add(dtype)
            else:
                troubles.append(trouble)
        if dtypes:
            return LinearMap(function, together, name, shape, numpy, frozenset(dtypes))
    error = troubles[-1] if scipy_own or len(troubles) == 1 else _clearest(troubles)
    raise InputError(str(error)) from error.__cause__


def _owner(function: Any) -> Any:
    return getattr(function, "__self__", function)


def _clearest(troubles: list[InputError]) -> InputError:
    """What was said of a product, rather than of a function that did not take the vector."""
    return next((t for t in troubles if t.__cause__ is None), troubles[0])


def _tried(
    function: Callable[[Any], Any], v: Tensor, name: str, length: int, *, numpy: bool
) -> InputError | None:
    """What is wrong with the product of a vector; None where nothing is."""
    given: Any = v.cpu().numpy().copy() if numpy else v.clone()
    what = "a numpy array" if numpy else "a tensor"
    dtype = str(v.dtype).removeprefix("torch.")
    try:
        found = function(given)
    except Exception as error:  # the caller's code may raise anything
        trouble = InputError(
            f"{name} failed on {what} {dtype} of shape ({len(v)},): {type(error).__name__}: {error}"
        )
        trouble.__cause__ = error
        return trouble
    if not isinstance(found, np.ndarray if numpy else Tensor):
        return InputError(f"{name} of {what} returned a {type(found).__name__}; it must be {what}")
    _refuse_complex(found.dtype)
    if tuple(found.shape) != (length,):
        return InputError(f"{name} returned shape {tuple(found.shape)}; it must be ({length},)")
    if str(found.dtype).removeprefix("torch.") != dtype:
        return InputError(
            f"{name} returned dtype {found.dtype} for {what} of {dtype}; it must be the same"
        )
    product = found if isinstance(found, Tensor) else torch.from_numpy(found.copy())
    if not numpy and product.device != v.device:
        return InputError(f"{name} returned a tensor on {product.device}, for one on {v.device}")
    require_finite(product, f"{name}'s result")
    if not torch.equal(torch.from_numpy(given) if numpy else given, v.cpu() if numpy else v):
        return InputError(f"{name} changed the vector that it was given; it must leave it alone")
    return None


def _listed(dtypes: frozenset[torch.dtype]) -> str:
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _require_adjoint(rows: OperatorRows) -> None:
    """Raise where <A x, y> and <x, A' y> of random vectors differ by more than rounding."""
    m, n = rows.shape
    generator = torch.Generator("cpu").manual_seed(2)
    for _ in range(2):
        x, y = (
            torch.randn(size, generator=generator, dtype=torch.float64, device="cpu").to(
                device=rows.device, dtype=rows.dtype
            )
            for size in (n, m)
        )
        Ax, Aty = rows.matvec(x).double(), rows.rmatvec(y).double()
        left, right = float(Ax @ y.double()), float(x.double() @ Aty)
        size = float(Ax.norm() * y.double().norm() + x.double().norm() * Aty.norm())
        allowed = tolerance.adjoint_bound(m, n, tolerance.unit_roundoff(rows.dtype)) * size
        if not abs(left - right) <= allowed:
            raise InputError(
                f"A.rmatvec is not the adjoint of A.matvec: for random x and y, <A x, y> = "
                f"{left:.17g} and <x, A' y> = {right:.17g}, which differ by more than rounding"
            )
