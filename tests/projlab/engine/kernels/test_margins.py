"""The kernel of sums over both dimensions of a matrix, against exact sums."""

import math
from fractions import Fraction

import pytest
import torch

from projlab.engine.kernels import margins
from projlab.numerics import tuning
from tests.projlab.ways import needs_numba

pytestmark = needs_numba
U = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}
SHAPES = [
    (1, 1),
    (1, 7),
    (3, 5),
    (4, 4),
    (63, 9),
    (64, 9),
    (65, 9),
    (130, 33),
    (5, 1024),
    (7, 2100),
]


@pytest.fixture(autouse=True)
def on(monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", "on")


def exact(x, dim):
    return [sum(map(Fraction, line)) for line in (x if dim == 1 else x.T).tolist()]


def runs(length, piece):
    """Additions that one term may go through: within its piece, and of the pieces."""
    return min(length, piece) + math.ceil(length / piece)


@pytest.mark.parametrize("dtype", U)
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_sums_err_by_the_roundings_of_a_piece(m, n, dtype):
    x = torch.randn(m, n, dtype=dtype)
    down, across = torch.full((n,), math.nan, dtype=dtype), torch.full((m,), math.nan, dtype=dtype)
    assert margins.add_up(x, down, across)
    for found, dim, most in ((down, 0, runs(m, 64)), (across, 1, runs(n, 1024))):
        sizes = x.abs().double().sum(dim).tolist()
        for y, wanted, size in zip(found.tolist(), exact(x, dim), sizes, strict=True):
            assert abs(Fraction(y) - wanted) <= most * U[dtype] * size


@pytest.mark.parametrize("dtype", U)
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_differences_err_by_two_roundings(m, n, dtype):
    x, down, across = (torch.randn(s, dtype=dtype) for s in ((m, n), (n,), (m,)))
    before, version = x.tolist(), x._version
    assert margins.take_off(x, down, across)
    assert x._version == version + 1
    down, across = down.tolist(), across.tolist()
    for i, (row, old) in enumerate(zip(x.tolist(), before, strict=True)):
        for found, *terms in zip(row, old, down, strict=True):
            parts = [Fraction(t) for t in (*terms, across[i])]
            most = 2 * (1 + U[dtype]) * U[dtype] * float(sum(map(abs, parts)))
            assert abs(Fraction(found) - (parts[0] - parts[1] - parts[2])) <= most


def test_what_is_not_finite_stays_so():
    x = torch.randn(8, 8)
    x[2, 3], x[5, 6] = math.nan, math.inf
    down, across = torch.empty(8), torch.empty(8)
    assert margins.add_up(x, down, across)
    assert down.isnan().nonzero().flatten().tolist() == [3]
    assert across.isinf().nonzero().flatten().tolist() == [5]


def test_where_it_is_tried(monkeypatch):
    side = math.isqrt(tuning.MARGINS)
    assert margins.pay(torch.empty(side, side))
    for other in (
        torch.empty(side - 1, side),
        torch.empty(side, side, dtype=torch.bfloat16),
        torch.empty(side, side).T[1:],
        torch.empty(side, side, device="meta"),
        torch.empty(side, side, 1),
    ):
        assert not margins.pay(other)
    monkeypatch.setenv("PROJLAB_NATIVE", "0")
    assert not margins.pay(torch.empty(side, side))


def test_without_numba_torch_adds_up(monkeypatch):
    monkeypatch.setattr(margins, "kernel", lambda _: None)
    x = torch.randn(4, 4)
    assert not margins.add_up(x, torch.empty(4), torch.empty(4))
    assert not margins.take_off(x, torch.empty(4), torch.empty(4))
