"""What makes a map the orthogonal projection onto an affine set, on drawn systems and layouts.

Each identity is exact of the exact projection, so that what is left is at most the sum of the
forward errors of what is compared; each of these is held to the bound of its variant, with the
vector's own size, ||v|| + ||v - P v||. The same drawn points are held against exact rationals.
"""

import math

import numpy as np
import torch
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st

import projlab
from tests.projlab import exact
from tests.projlab.systems import CHOICES, DISJOINT_VARIANTS, make_case

LAYOUTS = {
    "contiguous": lambda t: t.clone(),
    "transposed": lambda t: t.mT.contiguous().mT,
    "every second": lambda t: torch.stack([t, torch.full_like(t, math.nan)], -1).flatten(-2)[
        ..., ::2
    ],
    "within a larger one": lambda t: torch.nn.functional.pad(t, (2, 1), value=math.nan)[..., 2:-1],
    "rows of a larger one": lambda t: torch.stack([t, torch.full_like(t, math.nan)], -2)[..., 0, :],
}
layouts = st.sampled_from(sorted(LAYOUTS))


def drawn(seed, dtype):
    """A consistent system of integers times powers of two: exact in either dtype, of any rank."""
    rng = np.random.default_rng(seed)
    r, extra, n = rng.integers(1, 6), rng.integers(0, 4), rng.integers(2, 11)
    rows = rng.integers(-5, 6, (r, n)) * (rng.random((r, n)) < rng.choice([0.4, 1.0]))
    A = np.concatenate([rows, rng.integers(-2, 3, (extra, r)) @ rows]).astype(float)
    scales = 2.0 ** rng.integers(-20, 21, (len(A), 1))
    unit = 10.0 ** rng.integers(-4, 5)
    x0 = unit * rng.standard_normal(n)
    b = A @ np.round(rng.integers(-4, 5, n))
    return make_case(
        f"seed {seed}",
        *(torch.tensor(t, dtype=getattr(torch, dtype)) for t in (A * scales, b * scales[:, 0], x0)),
    ), rng


def norm(t):
    return float(torch.linalg.vector_norm(t.double()))


@draw(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(CHOICES),
    layouts,
    layouts,
    st.integers(1, 4),
)
@settings(max_examples=150)
def test_the_algebra_of_a_projection(seed, dtype, variant, layout, points, count):
    given, rng = drawn(seed, dtype)
    if given.may_refuse(variant) or variant in DISJOINT_VARIANTS:
        variant = "auto"
    P = projlab.projector(LAYOUTS[layout](given.A), given.b, variant)
    relative = given.allowed(P.variant) / given.size if given.size else given.u
    dense = torch.tensor(rng.standard_normal((count, given.n)), dtype=given.A.dtype)
    dense = torch.cat([dense * float(2.0 ** rng.integers(-10, 11)), given.x0[None]])
    x = LAYOUTS[points](dense)
    assert torch.equal(x, dense)
    before = dense.clone()
    Px, Tx = P(x), P.tangent(x)
    assert torch.equal(x, before)
    assert Px.dtype == Tx.dtype == x.dtype
    zero = exact.norm(exact.vector(P(torch.zeros_like(given.x0))))
    M, b = exact.matrix(given.A), exact.vector(given.b)
    for v, Pv, Tv in zip(x, Px, Tx, strict=True):
        size = norm(v) + norm(v - Pv)
        allowed = relative * (size + zero)
        # the answer itself
        assert exact.distance(Pv, exact.projection(M, b, exact.vector(v))) <= allowed
        # alone and among others, in place and not
        for other in (P(v), P.project_(v.clone()), projlab.project(v, P.A, given.b, P.variant)):
            assert norm(other - Pv) <= 2 * allowed
        # idempotent
        assert norm(P(Pv) - Pv) <= 2 * relative * (2 * norm(Pv) + zero + size)
        # T v = P v - P 0, T T v = T v, T v is orthogonal to what is taken away, A T v = 0
        assert norm(Tv - (Pv - P(torch.zeros_like(v)))) <= 3 * allowed
        assert norm(P.tangent(Tv) - Tv) <= 2 * relative * norm(v)
        assert abs(float(Tv.double() @ (v - Tv).double())) <= 4 * relative * norm(v) ** 2
        assert exact.distance(P.tangent(v - Tv), exact.vector(torch.zeros_like(v))) <= (
            3 * relative * norm(v)
        )
        # v - P v = A' y
        y = P.multipliers(v).double()
        assert norm(v.double() - given.A.double().mT @ y - Pv.double()) <= 3 * allowed
    # affine, and self-adjoint
    v, w = x[0], x[-1]
    scale = norm(v) + norm(w) + zero + norm(v - Px[0]) + norm(w - Px[-1])
    middle = P((v + w) / 2)
    assert norm(middle - (Px[0] + Px[-1]) / 2) <= 3 * relative * scale
    left, right = Tx[0].double() @ w.double(), v.double() @ Tx[-1].double()
    assert abs(float(left - right)) <= 2 * relative * norm(v) * norm(w)
    # in place, wherever the memory lies, and nowhere else
    P.project_(x)
    for v, Pv, v0 in zip(x, Px, dense, strict=True):
        assert norm(v - Pv) <= 2 * relative * (norm(v0) + norm(v0 - Pv) + zero)
    base = x._base
    if base is not None and base.numel() > x.numel():
        assert int(base.isnan().sum()) == base.numel() - x.numel()
    # a basis of the null space
    N = P.null_space().double()
    assert N.shape == (given.n, given.n - given.rank)
    assert norm(N.mT @ N - torch.eye(N.shape[1], dtype=N.dtype)) <= 4 * relative * given.n
    assert norm(dense.double() @ N @ N.mT - Tx.double()) <= 4 * relative * given.n * norm(dense)
