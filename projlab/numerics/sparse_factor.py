"""Factors of sparse symmetric matrices, positive definite or quasi-definite.

On the CPU SuperLU, which scipy brings: in symmetric mode, in an order of minimum degree, with the
pivots on the diagonal (Li, "An overview of SuperLU", ACM Trans. Math. Software 31 (2005)). A
quasi-definite matrix has such a factor in every order (Vanderbei, "Symmetric quasidefinite
matrices", SIAM J. Optim. 5 (1995)). On CUDA CHOLMOD and the triangular solves of cholespy, for
definite ones. On the CPU kernels may order and factor instead (`Elimination`). What a factor takes
is counted before it is made (`projlab.numerics.fill`).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from projlab import tolerance
from projlab.errors import InputError, MemoryLimitError
from projlab.numerics import memory
from projlab.numerics.fill import LARGEST_INDEX, Fill, count, elimination_order

CPU = torch.device("cpu")

_AT_ONCE = 128
"""Right-hand sides that cholespy takes in one call."""


class SparseFactor(ABC):
    """M = L D L' of a sparse symmetric M (m, m); solves in float64."""

    m: int
    fill: Fill
    device: torch.device
    order: Tensor
    """(m,) which row of M each row of the factor is."""

    @abstractmethod
    def solve_ordered(self, b: Tensor) -> Tensor:
        """`solve` for vectors whose entries are in the factor's order, in float64."""

    def solve(self, b: Tensor) -> Tensor:
        """M^-1 b for vectors b (..., m), in b's dtype; no graph, and NaN goes through."""
        found = torch.empty(b.shape, dtype=torch.float64, device=b.device)
        found[..., self.order] = self.solve_ordered(b.detach()[..., self.order].double())
        return found.to(b.dtype)


@dataclass(frozen=True)
class Prepared:
    """A symmetric matrix in the order of its elimination, and what its factor will take."""

    matrix: Any
    """Symmetric scipy CSC, permuted."""
    order: Any
    """(m,) which row of the given matrix each of its rows is."""
    fill: Fill

    def require_memory(self, what: str, device: torch.device) -> None:
        """Raise `MemoryLimitError` where the factor fits neither the memory nor 32 bits."""
        if self.fill.nonzeros > LARGEST_INDEX:
            raise MemoryLimitError(
                f"a sparse factor of {what} would hold {self.fill.nonzeros:,} nonzeros; SuperLU "
                f"and CHOLMOD count to {LARGEST_INDEX:,}. " + REMEDY
            )
        memory.require(
            self.fill.bytes,
            f"a sparse factor of {what}, with {self.fill.nonzeros:,} nonzeros,",
            device,
            REMEDY,
        )


REMEDY = "Split the constraint into independent blocks, or leave out the rows that couple them."


class Elimination(Protocol):
    """What orders, forms, counts and factors faster, where there is such a thing."""

    def transposed(self, E: Any) -> Any:
        """Compressed rows of E', of E's."""

    def gram_entries(self, E: Any, back: Any) -> int:
        """How many entries E E' has."""

    def gram(self, E: Any, back: Any, shift: float, entries: int) -> Any:
        """E E' + shift I, CSC, not sorted."""

    def order(self, matrix: Any) -> Any:
        """As `projlab.numerics.fill.elimination_order`."""

    def permuted(self, matrix: Any, order: Any) -> Any:
        """A square CSC matrix with rows and columns in another order."""

    def selected(self, E: Any, order: Any) -> Any:
        """Compressed rows of E in another order."""

    def count(self, matrix: Any) -> Fill | None:
        """As `projlab.numerics.fill.count`, or None."""

    def factor(self, ready: Prepared) -> SparseFactor | None:
        """As `SuperLU`, or None."""


def prepared(
    matrix: Any,
    what: str = "the matrix",
    order: Any = None,
    elimination: Elimination | None = None,
) -> Prepared:
    """Order a symmetric scipy matrix (duplicates summed) and count the fill of its factor.

    In the order given (m,), or one of minimum degree.

    Raises
    ------
    MemoryLimitError
        More rows or nonzeros than 32 bits can number.
    """
    from scipy.sparse import csc_array

    given = csc_array(matrix)
    m = given.shape[0]
    if m != given.shape[1]:
        raise InputError(f"{what} has shape {given.shape}; a factor is of a square matrix")
    if max(m, given.nnz) > LARGEST_INDEX:
        raise MemoryLimitError(
            f"{what} has {m:,} rows and {given.nnz:,} nonzeros; SuperLU and CHOLMOD number at most "
            f"{LARGEST_INDEX:,} of each. " + REMEDY
        )
    narrow = given
    if given.indices.dtype != np.int32 or given.indptr.dtype != np.int32:
        narrow = csc_array(
            (given.data, given.indices.astype(np.int32), given.indptr.astype(np.int32)),
            shape=given.shape,
        )
    if order is None:
        order = elimination_order(narrow) if elimination is None else elimination.order(narrow)
    if elimination is None:
        permuted = csc_array(narrow[order][:, order])
    else:
        permuted = elimination.permuted(narrow, order)
    counted = None if elimination is None else elimination.count(permuted)
    return Prepared(permuted, order, count(permuted) if counted is None else counted)


def factored(
    matrix: Any, what: str = "the matrix", device: torch.device = CPU, *, definite: bool = True
) -> SparseFactor:
    """Factor a symmetric scipy matrix, positive definite or quasi-definite, for vectors on device.

    Raises
    ------
    MemoryLimitError
        The factor, counted before it is made, does not fit.
    numpy.linalg.LinAlgError
        A pivot is zero: the matrix is singular.
    InputError
        No sparse factor on this device: cholespy is missing, or the matrix is not definite.
    """
    ready = prepared(matrix, what)
    ready.require_memory(what, device)
    if device.type == "cpu":
        return SuperLU(ready)
    if device.type != "cuda" or not definite:
        raise no_factor(what, device, definite=definite)
    return Cholespy(ready, device)


def no_factor(what: str, device: torch.device, *, definite: bool) -> InputError:
    """The error where a device has no sparse factor of such a matrix."""
    kind = "" if definite else "quasi-definite "
    return InputError(
        f"{what}: there is no sparse {kind}factor on {device}; move the system to the CPU"
    )


def from_entries(
    rows: Tensor, cols: Tensor, values: Tensor, m: int, what: str = "the matrix"
) -> SparseFactor:
    """As `factored`, of entries (k,) on the device of the values; duplicates are summed."""
    from scipy.sparse import coo_array

    i, j, v = (t.detach().cpu().numpy() for t in (rows, cols, values.double()))
    return factored(coo_array((v, (i, j)), shape=(m, m)).tocsc(), what, values.device)


class SuperLU(SparseFactor):
    """By scipy's `splu`."""

    def __init__(self, ready: Prepared) -> None:
        from scipy.sparse.linalg import splu

        self.m, self.fill, self.device = ready.matrix.shape[0], ready.fill, CPU
        self.order = torch.from_numpy(ready.order).long()
        try:
            self._lu = splu(
                ready.matrix,
                permc_spec="NATURAL",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
        except RuntimeError as error:  # "Factor is exactly singular"
            raise np.linalg.LinAlgError(str(error)) from error

    def solve_ordered(self, b: Tensor) -> Tensor:
        """See `SparseFactor.solve_ordered`."""
        flat = b.detach().resolve_neg().reshape(-1, self.m).contiguous().numpy()
        # (m, k) in columns, as SuperLU takes and gives it
        found = self._lu.solve(flat[0]) if len(flat) == 1 else self._lu.solve(flat.T).T
        return torch.from_numpy(found).reshape(b.shape)

    def pivots(self) -> NDArray[np.float64]:
        """(m,) the pivot D of each row of M."""
        found = np.empty(self.m)
        found[self.order.numpy()] = self._lu.U.diagonal()[self._lu.perm_c]
        return found

    def misfit(self) -> float:
        """Upper bound on ||L D L' - M||_2, rounding included; infinite where a pivot moved.

        |L U - M| <= gamma_k |L| |U|, k the entries of a row of L (ASNA, theorem 9.3, whatever the
        order of the sums), and U is D L' to within what is computed. ||X||_2^2 <= ||X||_1 ||X||_inf
        needs two products with vectors of ones.
        """
        lu = self._lu
        if not np.array_equal(lu.perm_r, lu.perm_c):
            return math.inf
        L, U = lu.L.tocsr(), lu.U.tocsr()
        u = tolerance.unit_roundoff("float64")
        k = int(np.diff(L.indptr).max(initial=0)) + 2
        skew = abs(U - L.T.multiply(U.diagonal()[:, None]).tocsr())
        L, U = abs(L), abs(U)
        ones = np.ones(self.m)
        worst = _norm_bound(L, U, ones) * 2 * k * u / (1 - k * u) + _norm_bound(L, skew, ones)
        return worst * (1 + tolerance.PRODUCT_ROUNDING)


def _norm_bound(L: Any, U: Any, ones: NDArray[np.float64]) -> float:
    """Of ||L U||_2 of matrices without negative entries."""
    rows, columns = L @ (U @ ones), U.T @ (L.T @ ones)
    return math.sqrt(float(rows.max(initial=0.0)) * float(columns.max(initial=0.0)))


class Cholespy(SparseFactor):
    """By cholespy, on a CUDA device."""

    def __init__(self, ready: Prepared, device: torch.device) -> None:
        try:
            from cholespy import CholeskySolverD, MatrixType
        except ImportError as error:
            raise InputError(
                f"a sparse factor on {device} needs cholespy: pip install 'projlab[sparse]', or "
                "move the system to the CPU"
            ) from error
        self.m, self.fill, self.device = ready.matrix.shape[0], ready.fill, device
        self.order = torch.from_numpy(ready.order).long().to(device)
        coo = ready.matrix.tocoo()
        i, j = (torch.from_numpy(t.astype(np.int32)).to(device) for t in (coo.row, coo.col))
        values = torch.from_numpy(coo.data.astype(np.float64)).to(device)
        self._solver = CholeskySolverD(self.m, i, j, values, MatrixType.COO)

    def solve_ordered(self, b: Tensor) -> Tensor:
        """See `SparseFactor.solve_ordered`."""
        columns = b.detach().reshape(-1, self.m).mT
        solved = [self._solved(part.contiguous()) for part in columns.split(_AT_ONCE, dim=1)]
        return torch.cat(solved, 1).mT.reshape(b.shape)

    def _solved(self, b: Tensor) -> Tensor:
        x = torch.empty_like(b)
        self._solver.solve(b, x)
        return x
