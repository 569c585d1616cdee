"""Products with pairs against rational arithmetic, and the bound that is stated of them."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st

from projlab import AffineConstraint
from projlab.numerics.double_double import Pair
from projlab.proof.products import Product

F64 = torch.float64
U = 2.0**-53
FORMS = {"dense": lambda A: A, "sparse": lambda A: A.to_sparse_coo()}


def fractions(pair):
    return [
        [Fraction(h) + Fraction(lo) for h, lo in zip(*vectors, strict=True)]
        for vectors in zip(pair.high.tolist(), pair.low.tolist(), strict=True)
    ]


def draw_system(seed):
    """Rows of very different sizes, and pairs on which their products cancel."""
    generator = torch.Generator().manual_seed(seed)
    m, n, k = (int(v) for v in torch.randint(1, 8, (3,), generator=generator))

    def wide(*shape):
        t = torch.randn(*shape, dtype=F64, generator=generator)
        return t * 2.0 ** torch.randint(-30, 31, shape, generator=generator)

    A = wide(m, n)
    A = torch.cat([A, -A * (1 + 2 * U)], 1)
    x = wide(k, n)
    return A, torch.cat([x, x], 1), wide(k, m)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("form", FORMS)
@draw(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_a_product_is_within_the_bound_that_is_stated(form, transposed, seed):
    A, x, y = draw_system(seed)
    high = y if transposed else x
    pair = Pair(high, high * U * 0.5)
    product = Product(AffineConstraint(FORMS[form](A), 0.0).rows, transposed)
    found = product(pair)
    bounds = product.error(pair, found, U).tolist()
    M = [[Fraction(a) for a in row] for row in (A.mT if transposed else A).tolist()]
    for computed, vector, bound in zip(fractions(found), fractions(pair), bounds, strict=True):
        square = Fraction(0)
        for row, c in zip(M, computed, strict=True):
            terms = [a * v for a, v in zip(row, vector, strict=True)]
            size = sum(map(abs, terms)) + abs(sum(terms))
            assert abs(c - sum(terms)) <= 4 * Fraction(U) ** 2 * size
            square += (c - sum(terms)) ** 2
        assert square <= Fraction(bound) ** 2
    # and it is a bound on roundings of the second word: nothing is given away
    size = A.abs().sum() * pair.high.abs().max()
    assert max(bounds) <= 16 * U * U * float(size)
