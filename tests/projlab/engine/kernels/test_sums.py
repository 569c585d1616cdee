"""The kernel of rows that are sums, against exact sums."""

import math
from fractions import Fraction

import pytest
import torch

from projlab import tolerance
from projlab.engine.kernels import native, sums
from projlab.numerics import tuning
from tests.projlab.ways import needs_numba

pytestmark = needs_numba
U = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}
ONE = tolerance.ONE_CORRECTION
# rows and height: every remainder of four, one piece and several, few columns and many
SIZES = [(1, 1), (1, 257), (3, 4), (5, 7), (64, 33), (7, 300), (1100, 3), (70, 600), (1, 20000)]


@pytest.fixture(autouse=True)
def on(monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", "on")


def blocks(rows, heights, *, columns, count=1, scales=None):
    """Each term of each block in a tensor of its own, behind three entries of something else."""
    scales = scales or [1.0] * len(heights)
    norm2 = sum(s * s * h for s, h in zip(scales, heights, strict=True))
    numbers = iter(range(count * len(heights)))
    pieces = [[sums.Piece(next(numbers), 3, h) for h in heights] for _ in range(count)]
    return sums.Blocks(rows, columns, pieces, scales, [s / norm2 for s in scales])


def tensors(given, dtype, shift=0.0):
    return [
        torch.randn(3 + given.rows * piece.height, dtype=dtype) + shift
        for block in given.pieces
        for piece in block
    ]


def lines(given, ts):
    """For each block and row, the entries of each term."""
    for block in given.pieces:
        views = []
        for piece in block:
            entries = ts[piece.tensor][3:]
            shape = (piece.height, given.rows) if given.columns else (given.rows, piece.height)
            views.append(entries.view(shape).T if given.columns else entries.view(shape))
        for k in range(given.rows):
            yield [view[k] for view in views]


def residuals(given, ts, b):
    """Exact ones, and the sizes that their rounding is judged on."""
    for terms, right in zip(lines(given, ts), b.flatten().tolist(), strict=True):
        r, size = -Fraction(right), abs(right)
        for term, scale in zip(terms, given.scales, strict=True):
            r += Fraction(scale) * sum(map(Fraction, term.tolist()))
            size += abs(scale) * float(term.double().abs().sum())
        yield r, size


def require_met(given, ts, b, found):
    dtype, worst = ts[0].dtype, 0.0
    for r, size in residuals(given, ts, b):
        assert abs(r) <= tolerance.RESIDUAL_ROUNDINGS * U[dtype] * size
        worst = max(worst, size)
    assert 0 <= found <= tolerance.RESIDUAL_ROUNDINGS * U[dtype] * worst


@pytest.mark.parametrize("dtype", U)
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize(("rows", "height"), SIZES)
def test_rows_hold_to_rounding_and_are_projected_onto(rows, height, columns, dtype):
    given = blocks(rows, [height], columns=columns)
    ts, b = tensors(given, dtype), torch.randn(rows, dtype=dtype)
    before, versions = [t.clone() for t in ts], [t._version for t in ts]
    found = sums.of(given, dtype).meet(ts, b, ONE, 2)
    require_met(given, ts, b, found)
    assert all(t._version > v for t, v in zip(ts, versions, strict=True))
    for t, was in zip(ts, before, strict=True):
        assert torch.equal(t[:3], was[:3])
    # the same amount off every entry of a row: its residual over how many there are
    for now, was, right in zip(lines(given, ts), lines(given, before), b.tolist(), strict=True):
        r = float(sum(map(Fraction, was[0].tolist())) - Fraction(right))
        moved = was[0].double() - now[0].double()
        size = was[0].abs().max() + abs(r / height)
        assert (moved - r / height).abs().max() <= 4 * tolerance.dimension_factor(1, height) * U[
            dtype
        ] * float(size)


@pytest.mark.parametrize("dtype", U)
@pytest.mark.parametrize("columns", [False, True])
def test_several_blocks_of_several_terms_with_factors(columns, dtype):
    given = blocks(9, [5, 130, 1], columns=columns, count=3, scales=[2.0, -0.5, 3.0])
    ts, b = tensors(given, dtype), torch.randn(3, 9, dtype=dtype)
    before = [t.clone() for t in ts]
    found = sums.of(given, dtype).meet(ts, b, ONE, 2)
    require_met(given, ts, b, found)
    for now, was in zip(lines(given, ts), lines(given, before), strict=True):
        steps = [
            (w.double() - n.double()) / s for n, w, s in zip(now, was, given.scales, strict=True)
        ]
        most = max(float(t.abs().max()) for t in was) + float(steps[0].abs().max())
        for step in steps:  # along the row: one number for all entries, by the factors
            assert (step - steps[0][0]).abs().max() <= 16 * U[dtype] * most * 2


@pytest.mark.parametrize("dtype", U)
@pytest.mark.parametrize("columns", [False, True])
def test_gradients_end_in_the_null_space(columns, dtype):
    given = blocks(40, [37], columns=columns)
    ts, zero = tensors(given, dtype, shift=2.0), torch.zeros(40, dtype=dtype)
    sizes = [size for _, size in residuals(given, ts, zero)]
    assert sums.of(given, dtype).meet(ts, None, 0.0, 0) is not None
    for (r, _), size in zip(residuals(given, ts, zero), sizes, strict=True):
        assert abs(r) <= tolerance.RESIDUAL_ROUNDINGS * U[dtype] * size


@pytest.mark.parametrize("columns", [False, True])
def test_a_residual_that_is_large_is_corrected_twice(columns):
    given = blocks(6, [50], columns=columns)
    b = torch.zeros(6)
    once, twice = tensors(given, torch.float32, shift=0.1), None
    for t in once:
        t[3:] += 0.01
    once[0][3:] *= 1e-3
    once[0][3 + 7] = 1e6  # what one correction takes off rounds to more than all that is left
    twice = [t.clone() for t in once]
    kernel = sums.of(given, torch.float32)
    left = kernel.meet(once, b, ONE, 1)
    assert kernel.meet(twice, b, ONE, 2) < left
    require_met(given, twice, b, 0.0)


@pytest.mark.parametrize("columns", [False, True])
def test_a_sum_of_one_sign_has_no_long_run_of_roundings(columns):
    n = 2_000_003
    given = blocks(1, [n], columns=columns)
    ts = [torch.rand(n + 3)]
    size = float(ts[0].double().sum())
    b = torch.tensor([size], dtype=torch.float32)
    found = sums.of(given, torch.float32).meet(ts, b, ONE, 2)
    assert found <= tolerance.RESIDUAL_ROUNDINGS * U[torch.float32] * 2 * size
    r = math.fsum(ts[0][3:].tolist()) - float(b)
    assert abs(r) <= tolerance.RESIDUAL_ROUNDINGS * U[torch.float32] * 2 * size


@pytest.mark.parametrize("columns", [False, True])
def test_a_row_that_is_nan_is_told_and_spoils_no_other(columns):
    given = blocks(5, [8], columns=columns)
    ts = tensors(given, torch.float64)
    ts[0][3 + (2 if columns else 2 * 8)] = math.nan
    found = sums.of(given, torch.float64).meet(ts, torch.zeros(5, dtype=torch.float64), ONE, 2)
    assert math.isnan(found)
    spoiled = [bool(terms[0].isnan().any()) for terms in lines(given, ts)]
    assert spoiled == [False, False, True, False, False]


def test_what_is_no_plain_memory_is_left_as_it_is():
    class Own(torch.Tensor):
        pass

    given = blocks(3, [4], columns=True)
    kernel = sums.of(given, torch.float32)
    plain, b = tensors(given, torch.float32), torch.zeros(3)
    for t in (
        plain[0].double(),
        plain[0].as_subclass(Own),
        torch.frombuffer(bytearray(65), dtype=torch.float32, offset=1, count=15),
    ):
        before = t.clone()
        assert kernel.meet([t], b, ONE, 2) is None
        assert torch.equal(t, before)
    before = plain[0].clone()
    assert kernel.meet(plain, b.double(), ONE, 2) is None
    assert kernel.meet(plain, torch.zeros(6)[::2], ONE, 2) is None
    assert torch.equal(plain[0], before)
    assert sums.of(given, torch.float16) is None


def test_when_it_is_wanted(monkeypatch):
    cpu = torch.device("cpu")
    assert sums.wanted(tuning.SUMS, cpu)
    assert not sums.wanted(tuning.SUMS - 1, cpu)
    assert not sums.wanted(tuning.SUMS, torch.device("meta"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert sums.pay(tuning.MANY_SUMS)
    assert not sums.pay(tuning.MANY_SUMS + 1)
    monkeypatch.setenv("PROJLAB_NATIVE", "off")
    assert not sums.wanted(tuning.SUMS, cpu)
    monkeypatch.setattr(native, "loaded", lambda *_: None)
    sums.kernel.cache_clear()
    assert sums.of(blocks(1, [1], columns=False), torch.float32) is None
    sums.kernel.cache_clear()
