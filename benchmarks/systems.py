"""Systems whose every answer is known exactly, by construction, at any size.

A = [N | l I] with integer N has full row rank, and integers are exact in floating point. From
integer x*, y and v,

    b = A x*,  x0 = x* + A'y            has the projection x* and the multipliers y;
    g = z + A'w, z = (l v, -N v)        has the tangent projection z, since A z = 0,

without anything being solved; in the end all of it is divided by powers of two. `ill` adds a
multiple of a row to the next: the rows come close to parallel, the affine set, x* and z stay.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = {torch.float64: 2**12, torch.float32: 2**5}
"""l, the largest entry. The fewer values there are, the more often a sum meets the same rounding,
and roundings that agree add up as no bound for independent ones allows."""

MULTIPLE = {torch.float64: 2.0**16, torch.float32: 2.0**5}
"""What `ill` adds: kappa grows by about as much, and the integers stay exact in the dtype."""


@dataclass(frozen=True)
class Exact:
    """A system with its exact answers; vectors are (n,), (k, n) or, for B systems, (B, n)."""

    A: Tensor
    b: Tensor
    x0: Tensor
    x: Tensor
    """The projection of x0."""
    y: Tensor
    """The multipliers: x0 - A'y is x."""
    g: Tensor
    z: Tensor
    """The projection of g onto the null space of A."""
    w: Tensor
    """The multipliers of g: g - A'w is z."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.A.shape[-2], self.A.shape[-1]


def exact(
    m: int,
    n: int,
    dtype: torch.dtype = torch.float64,
    *,
    points: int | None = None,
    batch: int | None = None,
    ill: bool = False,
    seed: int = 0,
) -> Exact:
    """Build a system of m rows in n > m variables on the CPU.

    `points` vectors share one A and b; a `batch` of systems has an A, a b and a vector each.

    Raises
    ------
    ValueError
        An integer does not fit into the dtype: the answers would not be exact.
    """
    if batch is not None and points is not None:
        raise ValueError("a batch of systems has one point each")
    draw = torch.Generator().manual_seed(seed)

    def integers(limit: int, *shape: int) -> Tensor:
        return torch.randint(-limit, limit + 1, shape, generator=draw).double()

    systems = () if batch is None else (batch,)
    vectors = systems if points is None else (points,)
    limit = LIMIT[dtype]
    N = integers(limit, *systems, m, n - m)
    A = torch.cat([N, limit * torch.eye(m, dtype=N.dtype).expand(*systems, m, m)], -1)
    x, y, w = integers(limit, *systems, n), integers(2, *vectors, m), integers(2, *vectors, m)
    v = integers(2, *vectors, n - m)
    z = torch.cat([limit * v, -_apply(N, v)], -1)
    if points is not None:
        x = x + z  # one b for all: they differ by null vectors
    rise, tilt = _combine(A, y), _combine(A, w)
    if ill:
        first, second = slice(0, m // 2 * 2, 2), slice(1, m, 2)
        A[..., second, :] += MULTIPLE[dtype] * A[..., first, :]
        for multipliers in (y, w):  # so that A'y and A'w stay as they are
            multipliers[..., first] -= MULTIPLE[dtype] * multipliers[..., second]
    b = _apply(A, x if points is None else x[0])
    # entries at most one, for peers that stop at an absolute tolerance; powers of two are exact
    A, x, rise, z, tilt = (t / limit for t in (A, x, rise, z, tilt))
    b = b / limit**2
    return Exact(*(_rounded(t, dtype) for t in (A, b, x + rise, x, y, z + tilt, z, w)))


def on(case: Exact, device: str) -> Exact:
    """The same system on a device."""
    return Exact(**{name: tensor.to(device) for name, tensor in vars(case).items()})


def _apply(A: Tensor, x: Tensor) -> Tensor:
    """A x for every x."""
    return (A @ x.unsqueeze(-1)).squeeze(-1) if A.dim() == 3 else x @ A.mT


def _combine(A: Tensor, y: Tensor) -> Tensor:
    """A'y for every y."""
    return (y.unsqueeze(-2) @ A).squeeze(-2) if A.dim() == 3 else y @ A


def _rounded(t: Tensor, dtype: torch.dtype) -> Tensor:
    rounded = t.to(dtype)
    # that float64 itself was exact on the way shows in the size of the integers
    if float(t.abs().max()) * LIMIT[dtype] ** 2 > 2.0**53 or not torch.equal(rounded.double(), t):
        raise ValueError(f"an entry of {float(t.abs().max()):.3g} is not exact in {dtype}")
    return rounded
