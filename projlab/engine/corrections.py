"""How many corrections with one factor bring a projection down to rounding: the two numbers.

x <- x - E' G^-1 (E x - f), with the true residual each time. Seeded random vectors, projected onto
the null space, have come down where a further correction would move them by rounding only, and
where what is left of E z is rounding on every row; and zero, projected onto E x = f, where E x - f
is. What is reached where they do not come down is told, for the error that says so.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from projlab import tolerance
from projlab.system.rows import Rows

PROBES = 4
"""Random vectors that a factor with a shift has to project to rounding."""


class Products(NamedTuple):
    """What corrections are made of, for vectors in the last dimension."""

    times: Callable[[Tensor], Tensor]
    """E x."""
    transposed_times: Callable[[Tensor], Tensor]
    """E' y."""
    solve: Callable[[Tensor], Tensor]
    """An approximate G^-1 r."""


class Corrected(NamedTuple):
    """What a number of corrections came to."""

    passes: int
    """Corrections made until a further one would be rounding, or as many as were allowed."""
    moved: float
    """By a further one, over the length of the random vector it corrects: the worst one's."""
    before: float
    """The same, of the last one made."""
    drift: float
    """As `moved`, of the projection of zero: what contradicts in f moves it on and on."""
    left: float
    """Of the random vectors' residual, row by row over sum_j |e_ij| |z_j|: the worst row's."""
    off: float
    """Of E x - f at the projection of zero, over ||e_i|| ||x|| + |f_i|: the worst row's."""
    worst: int
    """Which row that is."""
    ends: Tensor
    """(..., count, n) the random vectors, on the null space."""

    @property
    def at_rest(self) -> bool:
        """Whether the factor does: corrections move random vectors, and zero, by rounding only.

        That is of the residual, and so up to kappa times as much: where the residuals of random
        vectors are rounding and steps no longer shorten, all that a factor could do is done.
        """
        return self.left <= _LIMIT and _rest(self.moved, self.before)

    @property
    def answered(self) -> bool:
        """Whether that is all: A x = b holds to rounding too."""
        return self.at_rest and self.off <= _LIMIT


_LIMIT = tolerance.ANSWERED * tolerance.unit_roundoff(torch.float64)


def _rest(moved: float, before: float) -> bool:
    """Whether a correction is rounding, by its length and that of the one before."""
    return moved <= _LIMIT or before / 2 < moved <= tolerance.STALLED


def _hopeless(found: Corrected) -> bool:
    """Whether no correction is left, or those that are do not do at the present rate.

    It only gets worse: what contracts fast is gone first.
    """
    rest = tolerance.CORRECTIONS - found.passes
    rate = found.moved / max(found.before, TINY) if found.before < torch.inf else 0.0
    if rest == 0 or found.passes < 2:
        return rest == 0
    moves_on = not _rest(found.moved, found.before)
    slow = found.moved * rate**rest > tolerance.STALLED
    return slow or (moves_on and found.left * rate**rest > _LIMIT)


def probes(count: int, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(count, n) random vectors, the same every time, of entries with variance one.

    Uniform ones: an eighth of the time of normal ones.
    """
    z = np.random.default_rng(0).random((count, n))
    z -= 0.5
    z *= math.sqrt(12)
    return torch.from_numpy(z).to(device=device, dtype=dtype)


class Measured(NamedTuple):
    """What a further correction would do, and what it would do it for; see `Corrected`."""

    moved: float
    drift: float
    left: float
    off: float
    worst: int


class Vectors(Protocol):
    """Random vectors, and zero last, on their way to the null space and to the set."""

    @property
    def ends(self) -> Tensor:
        """(..., count, n) the random ones, as they are now."""

    def measured(self) -> Measured:
        """Of the next correction."""

    def correct(self) -> None:
        """Make it."""


def corrected(vectors: Vectors) -> Corrected:
    """Correct random vectors and zero until they have come down.

    In float64, as is what is looked for: a right side that moves slowly counts like the others.
    """
    done, before, drifted = 0, torch.inf, torch.inf
    while True:
        moved, drift, left, off, worst = vectors.measured()
        found = Corrected(done, moved, before, drift, left, off, worst, vectors.ends)
        # the first is made whatever it moves, and the last that moves nothing is not
        settled = found.at_rest and _rest(drift, drifted)
        if done and (settled or not moved < torch.inf or _hopeless(found)):
            return found
        vectors.correct()
        done, before, drifted = done + 1, moved, drift


class Probes:
    """`Vectors` by torch's operators: for rows E (m, n) or (B, m, n), and f (m,) or (B, m)."""

    def __init__(self, rows: Rows, f: Tensor, products: Products, count: int = PROBES) -> None:
        lead, n = () if rows.batch is None else (rows.batch,), rows.shape[1]
        z = probes(count, n, rows.dtype, rows.device).expand(*lead, -1, -1)
        self._f, self._products = f, products
        self._lengths = torch.linalg.vector_norm(z, dim=-1)
        self._sizes, self._norms = rows.abs().matvec(z.abs()), rows.row_norms()
        # the last vector starts from zero and ends on the point of the set that is nearest to it
        self._X = torch.cat([z, z.new_zeros(*lead, 1, n)], -2)
        self._step = torch.zeros_like(self._X)

    @property
    def ends(self) -> Tensor:
        """See `Vectors`."""
        return self._X[..., :-1, :]

    def measured(self) -> Measured:
        """See `Vectors`."""
        X, f, norm = self._X, self._f, torch.linalg.vector_norm
        R = self._products.times(X)
        R[..., -1, :] -= f
        self._step = step = self._products.transposed_times(self._products.solve(R))
        length = norm(X - step, dim=-1)
        scale = torch.cat([self._lengths, length[..., -1:]], -1)
        lengths_moved = norm(step, dim=-1) / scale.clamp_min(TINY)
        moved, drift = (float(t.max()) for t in lengths_moved.split([X.shape[-2] - 1, 1], dim=-1))
        left = float((R[..., :-1, :].abs() / self._sizes.clamp_min(TINY)).max())
        allowed = self._norms * norm(X[..., -1, :], dim=-1, keepdim=True) + f.abs()
        off = (R[..., -1, :].abs() / allowed.clamp_min(TINY)).flatten()
        worst = int(off.argmax())
        return Measured(moved, drift, left, float(off[worst]), worst)

    def correct(self) -> None:
        """See `Vectors`."""
        self._X = self._X - self._step


TINY = 1e-300
"""In the place of a zero that divides a zero."""
