"""Scaling by powers of two: exact over the whole range of exponents, subnormals included."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given as draw
from hypothesis import strategies as st

from projlab.numerics.scaling import power_of_two, scale, widened

F64 = torch.float64
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def ldexp(value, exponent):
    """value * 2**exponent rounded once, infinite beyond the range."""
    return float(np.ldexp(np.float64(value), exponent))


@pytest.mark.parametrize("e", [*range(-2044, 2045, 73), -1075, -1074, -1022, 1023, 1024, 2044])
def test_the_two_factors_multiply_to_the_power(e):
    first, second = power_of_two(torch.tensor([e]), F64)
    assert Fraction(first.item()) * Fraction(second.item()) == Fraction(2) ** e


@draw(st.lists(st.tuples(FLOATS, st.integers(-2044, 2044)), min_size=1, max_size=5))
def test_float64_is_rounded_once_at_most(pairs):
    values, exponents = zip(*pairs, strict=True)
    with np.errstate(over="ignore", under="ignore"):
        expected = [ldexp(v, e) for v, e in pairs]
    found = scale(torch.tensor(values, dtype=F64), torch.tensor(exponents))
    assert found.tolist() == expected


@draw(st.lists(st.tuples(st.floats(width=32), st.integers(-252, 252)), min_size=1, max_size=5))
def test_float32_is_rounded_once_at_most(pairs):
    values, exponents = zip(*pairs, strict=True)
    with np.errstate(over="ignore", under="ignore"):
        expected = np.array([np.float32(ldexp(v, e)) for v, e in pairs])
    found = scale(torch.tensor(values), torch.tensor(exponents))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), expected)


def test_from_the_smallest_subnormal_far_up_and_back():
    smallest = 2.0**-1074
    up = scale(torch.tensor([smallest], dtype=F64), torch.tensor([2044]))
    assert up.item() == 2.0**970
    assert scale(up, torch.tensor([-2044])).item() == smallest
    assert scale(up, torch.tensor([54])).item() == math.inf
    assert scale(torch.tensor([-0.0], dtype=F64), torch.tensor([9])).signbit().item()


def test_an_exponent_for_each_row():
    values = torch.tensor([[1.5, -3.0], [0.0, 7.0]], dtype=F64)
    found = scale(values, torch.tensor([[-1], [2000]]))
    assert found.tolist() == [[0.75, -1.5], [0.0, math.inf]]
    assert scale(torch.zeros(0, dtype=F64), torch.zeros(0, dtype=torch.int32)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64])
def test_widening_changes_no_value(dtype):
    info = torch.finfo(dtype)
    values = torch.tensor([info.smallest_normal, info.max, -1.5, 0.0], dtype=dtype)
    assert widened(values).dtype == F64
    assert widened(values).tolist() == values.tolist()
