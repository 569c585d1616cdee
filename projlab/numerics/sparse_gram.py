"""E E' + s I of a sparse E, factored, and the products that go with it.

A column of E with c entries makes a full c x c block of E E'. A few long ones are kept apart: with
S the other columns and D these, (S S' + D D' + s I) y = r is the first part of

    [ S S' + s I   D ] [y]   [r]
    [     D'      -I ] [t] = [0],

which is quasi-definite and sparse (Andersen, "A modified Schur-complement method for handling dense
columns in interior-point methods for linear programming", ACM Trans. Math. Software 22 (1996);
Vanderbei, SIAM J. Optim. 5 (1995)). A long row of E makes one long row of E E', which is eliminated
last and fills nothing else.
"""

from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projlab.errors import RankDeficientError
from projlab.numerics.fill import Fill
from projlab.numerics.gram import gram_matrix, require_gram
from projlab.numerics.sparse_factor import (
    REMEDY,
    Cholespy,
    Elimination,
    Prepared,
    SparseFactor,
    SuperLU,
    no_factor,
    prepared,
)
from projlab.numerics.sparse_matrix import SparseMatrix, host_rows

LONG_COLUMN = 10.0
"""A column may be kept apart that has more than sqrt(m) times as many entries, and that many times
more than the average: the rule of interior-point codes (Andersen 1996, section 5)."""

_STARTS, _STEPS = 2, 6
"""Vectors and steps of the inverse iteration of `SparseGram.independent`."""


class SparseGram:
    """E (m, n) by its products, and the matrix E E' + s I, ready to be factored.

    Rows are taken in the order in which they are eliminated: entries of E x and of y with E'y are.
    """

    order: Tensor
    """(m,) which row of the given ones each row is."""

    def __init__(
        self,
        rows: Tensor,
        cols: Tensor,
        values: Tensor,
        shape: tuple[int, int],
        shift: float,
        order: Tensor | None = None,
        elimination: Elimination | None = None,
    ) -> None:
        self.shape, self.shift, self.device = shape, shift, values.device
        self._elimination = elimination
        self.entries = rows, cols, values.double()
        self.what = f"the Gram matrix of {shape[0]} x {shape[1]} rows"
        entries = rows.cpu(), cols.cpu(), values.cpu()
        host = (
            SparseMatrix(*entries, shape)
            if elimination is None
            else SparseMatrix.on_host(host_rows(*entries, shape), elimination.transposed)
        )
        matrix, self.apart = self._formed(host)
        known = None if order is None else order.cpu().numpy()
        self.ready: Prepared = prepared(matrix, self.what, known, elimination)
        m, all_of_it = shape[0], torch.from_numpy(self.ready.order).long()
        self.elimination = all_of_it.to(self.device)
        own = all_of_it < m
        self._own = own.nonzero().flatten().to(self.device) if self.apart else None
        self.order = all_of_it[own].to(self.device)
        if elimination is None:
            self.E = SparseMatrix(*self.ordered_entries(), shape)
        else:
            ordered = elimination.selected(host.forward, self.order.numpy())
            self.E = SparseMatrix.on_host(ordered, elimination.transposed)
        self.made: SparseFactor | None = None

    def ordered_entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns and values of E with its rows in `order`, as products give them."""
        rows, cols, values = self.entries
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(len(self.order), device=self.device)
        return _sorted(place[rows], cols, values)

    @property
    def fill(self) -> Fill:
        """What the factor takes."""
        return self.ready.fill

    def _formed(self, E: SparseMatrix) -> tuple[Any, int]:
        """The matrix to factor, and how many columns are kept apart in it."""
        from scipy.sparse import block_array, csc_array, eye_array

        m = self.shape[0]
        long = _long(np.diff(E.back.indptr), m)
        if self._elimination is not None and not long.any():
            entries = self._elimination.gram_entries(E.forward, E.back)
            require_gram(m, self.shape[1], entries, REMEDY)
            return self._elimination.gram(E.forward, E.back, self.shift, entries), 0
        S = E.forward[:, ~long] if long.any() else E.forward
        G = gram_matrix(S, REMEDY) + self.shift * eye_array(m, format="csc")
        if not long.any():
            return csc_array(G), 0
        D, k = csc_array(E.forward[:, long]), int(long.sum())
        return block_array([[G, D], [D.T, -eye_array(k)]], format="csc"), k

    def reshifted(self, shift: float) -> "SparseGram":
        """The same rows with another shift, not yet factored."""
        from scipy.sparse import csc_array

        matrix, order = self.ready.matrix, self.ready.order
        column = np.repeat(np.arange(len(order)), np.diff(matrix.indptr))
        # the diagonal is stored: the shift is part of it, or -1 of a column kept apart
        shifted = (matrix.indices == column) & (order[column] < self.shape[0])
        values = matrix.data + np.where(shifted, shift - self.shift, 0.0)
        other = copy(self)
        moved = csc_array((values, matrix.indices, matrix.indptr), shape=matrix.shape)
        other.ready = replace(self.ready, matrix=moved)
        other.shift, other.made = shift, None
        return other

    def factor(self) -> None:
        """Factor; see `projlab.numerics.sparse_factor.factored` for what is refused."""
        self.ready.require_memory(self.what, self.device)
        if self.device.type == "cpu":
            try:
                by = self._elimination
                self.made = (by and by.factor(self.ready)) or SuperLU(self.ready)
            except np.linalg.LinAlgError as error:
                raise RankDeficientError(
                    f'{self.what} is singular: {error}. Use variant="qr" or "pinv"'
                ) from error
        elif self.device.type == "cuda" and not self.apart:
            self.made = Cholespy(self.ready, self.device)
        else:
            raise no_factor(self.what, self.device, definite=not self.apart)

    def times(self, x: Tensor) -> Tensor:
        """E x for vectors (..., n) of float64."""
        return self.E.times(x)

    def transposed_times(self, y: Tensor) -> Tensor:
        """E' y for vectors (..., m) of float64."""
        return self.E.transposed_times(y)

    def independent(self, cutoff: float, far: float) -> bool:
        """Whether every singular value of E is above `cutoff` times the largest, and by far.

        Inverse iteration on random vectors, the same every time, finds the smallest eigenvalue of
        E E' + s I from above. It must exceed `far` times the shift, and `far` times the square of
        the cutoff. That the true one is as small as a `far`-th of what is found after k steps has a
        probability of at most sqrt(m) far^(1/2 - k) (Kuczynski and Wozniakowski, SIAM J. Matrix
        Anal. Appl. 13 (1992), theorem 4.1).
        """
        generator = torch.Generator("cpu").manual_seed(0)
        shape = _STARTS, self.shape[0]
        v = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        v = v.to(self.device)
        for _ in range(_STEPS):
            v = self._solved(v / torch.linalg.vector_norm(v, dim=-1, keepdim=True))
        smallest = 1 / float(torch.linalg.vector_norm(v, dim=-1).max())
        return smallest > far * max(self.shift, cutoff**2 * self.largest())

    def largest(self) -> float:
        """At least the square of the largest singular value of E: ||E||_1 ||E||_inf."""
        down = torch.zeros(self.shape[1], dtype=torch.float64, device=self.device)
        across = torch.zeros(self.shape[0], dtype=torch.float64, device=self.device)
        rows, cols, values = self.entries
        down.index_add_(0, cols, values.abs())
        across.index_add_(0, rows, values.abs())
        return float(down.max() * across.max())

    def solve(self, r: Tensor, steps: int = 0) -> Tensor:
        """(E E' + s I)^-1 r for vectors (..., m), or nearly (E E')^+ r by that many steps.

        Of conjugate gradients with the factor as preconditioner (Golub and Van Loan, 4th ed.,
        algorithm 11.5.1): a part of r outside the range of E is left alone but for rounding.
        """
        z = self._solved(r)
        if not steps:
            return z
        y, p, r = torch.zeros_like(r), z, r.clone()
        along = (r * z).sum(-1, keepdim=True)
        for _ in range(steps):
            q = self.times(self.transposed_times(p))
            length = _quotient(along, (p * q).sum(-1, keepdim=True))
            y, r = y + length * p, r - length * q
            z = self._solved(r)
            before, along = along, (r * z).sum(-1, keepdim=True)
            p = z + _quotient(along, before) * p
        return y

    def _solved(self, r: Tensor) -> Tensor:
        if self.made is None:
            self.factor()
        assert self.made is not None
        if self._own is None:
            return self.made.solve_ordered(r)
        whole = r.new_zeros(*r.shape[:-1], self.made.m)
        whole[..., self._own] = r
        return self.made.solve_ordered(whole)[..., self._own]


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and zero where there is nothing left to go along; NaN goes through."""
    return torch.where((b <= 0) | (a <= 0), 0.0, a / b)


def _sorted(rows: Tensor, cols: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    order = torch.argsort(rows, stable=True)
    return rows[order], cols[order], values[order]


def _long(counts: Any, m: int) -> Any:
    """(n,) which columns are kept apart: those with most of the terms that E E' is summed from."""
    none = np.zeros(len(counts), dtype=bool)
    longest = LONG_COLUMN * max(np.sqrt(m), counts.sum() / max(np.count_nonzero(counts), 1))
    long = counts > longest
    squares = counts.astype(float) ** 2
    return long if squares[long].sum() > squares[~long].sum() else none
