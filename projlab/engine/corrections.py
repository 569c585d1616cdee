"""How many corrections with one factor bring a projection down to rounding: the two numbers.

x <- x - E' G^-1 (E x - f), with the true residual each time. Seeded random vectors, projected onto
the null space, have come down where a further correction would move them by rounding only, and
where what is left of E z is rounding on every row; and zero, projected onto E x = f, where E x - f
is. What is reached where they do not come down is told, for the error that says so.
"""

from collections.abc import Callable
from typing import NamedTuple

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
    rate = found.moved / max(found.before, _TINY) if found.before < torch.inf else 0.0
    return rest == 0 or (found.passes > 1 and found.moved * rate**rest > tolerance.STALLED)


def probes(count: int, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(count, n) random vectors, the same every time."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn((count, n), generator=generator, dtype=dtype, device="cpu").to(device)


def corrected(rows: Rows, f: Tensor, products: Products, count: int = PROBES) -> Corrected:
    """Correct `count` random vectors and zero, f (m,) or (B, m), until they have come down.

    In float64, as is what is looked for: a right side that moves slowly counts like the others.
    """
    lead = () if rows.batch is None else (rows.batch,)
    z = probes(count, rows.shape[1], rows.dtype, rows.device).expand(*lead, -1, -1)
    # the last vector starts from zero and ends on the point of the set that is nearest to it
    X = torch.cat([z, z.new_zeros(*lead, 1, rows.shape[1])], -2)
    norm = torch.linalg.vector_norm
    lengths, sizes = norm(z, dim=-1), rows.abs().matvec(z.abs())
    R = _residual(products, X, f)
    norms = rows.row_norms()
    done, before, drifted = 0, torch.inf, torch.inf
    while True:
        step = products.transposed_times(products.solve(R))
        length = norm(X - step, dim=-1)
        scale = torch.cat([lengths, length[..., -1:]], -1)
        lengths_moved = norm(step, dim=-1) / scale.clamp_min(_TINY)
        moved, drift = (float(t.max()) for t in lengths_moved.split([count, 1], dim=-1))
        left = float((R[..., :-1, :].abs() / sizes.clamp_min(_TINY)).max())
        allowed = norms * norm(X[..., -1, :], dim=-1, keepdim=True) + f.abs()
        off = (R[..., -1, :].abs() / allowed.clamp_min(_TINY)).flatten()
        worst = int(off.argmax())
        ends, most = X[..., :-1, :], float(off[worst])
        found = Corrected(done, moved, before, drift, left, most, worst, ends)
        # the first is made whatever it moves, and the last that moves nothing is not
        settled = found.at_rest and _rest(drift, drifted)
        if done and (settled or not moved < torch.inf or _hopeless(found)):
            return found
        X, done, before, drifted = X - step, done + 1, moved, drift
        R = _residual(products, X, f)


_TINY = 1e-300
"""In the place of a zero that divides a zero."""


def _residual(products: Products, X: Tensor, f: Tensor) -> Tensor:
    """E x of the random vectors, and E x - f of the last."""
    R = products.times(X)
    R[..., -1, :] -= f
    return R
