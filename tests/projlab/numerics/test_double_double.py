"""Pairs of float64 against rational arithmetic: what is called exact is, the rest within bounds."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given as draw
from hypothesis import settings
from hypothesis import strategies as st

from projlab.numerics import double_double
from projlab.numerics.double_double import (
    Pair,
    add,
    added,
    dense_product,
    exact,
    negative,
    sum_into,
    sum_last,
    take,
    terms,
    two_prod,
    two_sum,
)

F64 = torch.float64
U = 2.0**-53

# products, and the errors of products, of these are normal numbers
MODERATE = st.floats(2.0**-400, 2.0**400) | st.floats(-(2.0**400), -(2.0**-400)) | st.just(0.0)


def tensor(*values):
    return torch.tensor(values, dtype=F64)


def values(pair):
    """The numbers that a pair stands for, exactly."""
    high, low = pair.high.flatten().tolist(), pair.low.flatten().tolist()
    return [Fraction(h) + Fraction(lo) for h, lo in zip(high, low, strict=True)]


def normalised(pair):
    """|low| is at most half an ulp of high."""
    return torch.equal(pair.high + pair.low, pair.high)


@draw(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300))
def test_two_sum_is_exact(a, b):
    found = two_sum(tensor(a), tensor(b))
    assert values(found) == [Fraction(a) + Fraction(b)]
    assert found.high.item() == a + b
    assert normalised(found)


@draw(MODERATE, MODERATE)
def test_two_prod_is_exact(a, b):
    found = two_prod(tensor(a), tensor(b))
    assert values(found) == [Fraction(a) * Fraction(b)]
    assert found.high.item() == a * b


@draw(MODERATE, MODERATE, MODERATE, MODERATE)
def test_add_errs_by_three_squared_roundings(a, b, c, d):
    p, q = two_sum(tensor(a), tensor(b * 2.0**-60)), two_sum(tensor(c), tensor(d * 2.0**-60))
    found = add(p, q)
    (left,), (right,), (total,) = values(p), values(q), values(found)
    assert abs(total - (left + right)) <= 3 * Fraction(U) ** 2 * abs(left + right)
    assert normalised(found)


def test_what_cancels_leaves_the_low_words():
    p = Pair(tensor(1.0), tensor(2.0**-60))
    q = Pair(tensor(-1.0), tensor(2.0**-90))
    assert values(add(p, q)) == [Fraction(2) ** -60 + Fraction(2) ** -90]


def test_pairs_are_negated_taken_and_rounded():
    p = Pair(tensor(1.0, 2.0).unsqueeze(1), tensor(2.0**-60, -(2.0**-54)).unsqueeze(1))
    assert values(negative(p)) == [-v for v in values(p)]
    assert values(take(p, torch.tensor([1, 0]))) == values(p)[::-1]
    assert values(take(p, torch.tensor([False, True]))) == values(p)[1:]
    assert values(exact(p.high)) == [1, 2]
    assert p.value().flatten().tolist() == [1.0, 2.0]


def ragged(seed, *shape):
    """Terms of either sign and of very different sizes, most of which cancel."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randn(*shape, dtype=F64, generator=generator)
    t = t * 2.0 ** torch.randint(-40, 41, shape, generator=generator)
    half = shape[-1] // 2
    t[..., half : 2 * half] = -t[..., :half] * (
        1 + U * torch.randint(0, 9, (half,), generator=generator)
    )
    return t


def allowed(parts):
    """The bound that `projlab.proof.products` states, for these terms."""
    total = sum(map(Fraction, parts))
    return 4 * Fraction(U) ** 2 * (sum(abs(Fraction(t)) for t in parts) + abs(total))


@draw(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 60))
@settings(max_examples=60)
def test_sums_over_the_last_dimension(seed, rows, columns):
    parts = ragged(seed, rows, columns)
    for found, row in zip(
        values(added(sum_last(parts.clone(), torch.empty_like(parts)))), parts, strict=True
    ):
        assert abs(found - sum(map(Fraction, row.tolist()))) <= allowed(row.tolist())


@draw(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 9))
@settings(max_examples=60)
def test_sums_into_places(seed, count, length):
    """Places that no term goes to are zero."""
    parts = ragged(seed, 3, count)
    target = torch.randint(length, (count,), generator=torch.Generator().manual_seed(seed))
    for i, found in enumerate(values(sum_into(parts, target, length))):
        mine = parts[:, target == i].flatten().tolist()
        assert abs(found - sum(map(Fraction, mine))) <= allowed(mine)


def test_sums_do_not_depend_on_the_order_of_their_terms():
    """High parts are multiples of one power of two: they add up exactly."""
    parts = ragged(0, 3, 50)
    order = torch.randperm(50)
    room = torch.empty_like(parts)
    one, other = sum_last(parts.clone(), room), sum_last(parts[:, order], room)
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left, right)
    target = torch.arange(50) % 7
    left, right = sum_into(parts, target, 7), sum_into(parts[:, order], target[order], 7)
    assert torch.equal(left.high, right.high)
    assert torch.equal(left.low, right.low)


def test_no_terms():
    nothing = sum_into(torch.zeros(3, 0, dtype=F64), torch.zeros(0, dtype=torch.long), 2)
    assert values(nothing) == [0, 0]


@pytest.mark.parametrize("low", [0.0, 2.0**-55])
def test_terms_of_a_product(low):
    a, x = tensor(1 + 2.0**-50, -3.0), Pair(tensor(1 - 2.0**-50, 0.1), tensor(low, -low))
    found = [sum(map(Fraction, column)) for column in terms(a, *x).T.tolist()]
    expected = [Fraction(v) * w for v, w in zip(a.tolist(), values(x), strict=True)]
    for f, e, v in zip(found, expected, a.tolist(), strict=True):
        assert abs(f - e) <= Fraction(U) * abs(Fraction(v) * Fraction(low))


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("chunk", [1, 2 * 7, 5 * 7, 2 * 5 * 7, 2**15])
def test_products_with_vectors_whatever_is_held_at_a_time(lead, chunk, monkeypatch):
    """Of a matrix that lies row by row, and of one that lies column by column."""
    monkeypatch.setattr(double_double, "_CHUNK", chunk)
    A = ragged(1, 5, 7)
    high = ragged(2, *lead, 7)
    x = Pair(high, high * 2.0**-54 * torch.rand(*lead, 7, dtype=F64))
    for matrix in (A, A.mT.contiguous().mT):
        found = dense_product(matrix, x)
        assert found.high.shape == found.low.shape == (*lead, 5)
        vectors = [values(Pair(*v)) for v in zip(*(p.reshape(-1, 7) for p in x), strict=True)]
        found = [values(Pair(*v)) for v in zip(*(p.reshape(-1, 5) for p in found), strict=True)]
        for mine, vector in zip(found, vectors, strict=True):
            for y, row in zip(mine, A.tolist(), strict=True):
                parts = [Fraction(a) * v for a, v in zip(row, vector, strict=True)]
                assert abs(y - sum(parts)) <= allowed(parts)
