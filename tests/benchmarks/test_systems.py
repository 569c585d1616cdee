"""The exact systems that every benchmark judges its answers by."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from benchmarks import systems
from benchmarks.systems import exact

SHAPES = [
    {},
    {"points": 3},
    {"batch": 3},
    {"ill": True},
    {"batch": 3, "ill": True},
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_answers_are_exact(dtype, shape):
    """In rational arithmetic: A x* = b and x0 - A'y = x*; A z = 0 and g - A'w = z."""
    case = exact(5, 12, dtype, **shape)
    count = shape.get("batch") or shape.get("points") or 1

    def element(t, vector):
        t = t.double().numpy()
        one = t.ndim == (1 if vector else 2)
        return [t] * count if one else list(t)

    As, bs = element(case.A, False), element(case.b, True)
    vectors = zip(
        *(element(getattr(case, k), True) for k in ("x0", "x", "y", "g", "z", "w")), strict=True
    )
    for A, b, (x0, x, y, g, z, w) in zip(As, bs, vectors, strict=True):
        rows = [[Fraction(a) for a in row] for row in A]
        assert np.linalg.matrix_rank(A) == 5
        for vector, right, start, multipliers in ((x, b, x0, y), (z, 0 * b, g, w)):
            for row, r in zip(rows, right, strict=True):
                assert sum(a * Fraction(v) for a, v in zip(row, vector, strict=True)) == Fraction(r)
            for j, (v, s) in enumerate(zip(vector, start, strict=True)):
                rise = sum(rows[i][j] * Fraction(multipliers[i]) for i in range(5))
                assert Fraction(s) - rise == Fraction(v)


def test_ill_is_ill_and_well_is_well():
    def condition(**shape):
        A = exact(6, 40, **shape).A
        return float(torch.linalg.cond(A / A.norm(dim=-1, keepdim=True)))

    assert condition() < 10
    assert condition(ill=True) > 1e4


def test_what_does_not_fit_the_dtype_is_refused(monkeypatch):
    monkeypatch.setitem(systems.LIMIT, torch.float32, 2**12)
    with pytest.raises(ValueError, match=r"not exact in torch\.float32"):
        exact(4, 1000, torch.float32)
