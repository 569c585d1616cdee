"""Inner products: short ones as torch computes them, long float32 ones in pieces."""

import pytest
import torch

from projlab.numerics import dots, tuning


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(9,), (1, 9), (3, 9)])
def test_a_short_product_is_torchs_own(dtype, shape):
    M, x = torch.randn(*shape, dtype=dtype), torch.randn(9, dtype=dtype)
    assert torch.equal(dots.times(M, x), M @ x)


@pytest.mark.parametrize("rows", [None, 1, 3])
def test_terms_of_one_sign_keep_their_digits(rows):
    """In pieces 1e-7 of the sum is lost here; in one float32 product 1e-6 (dot) to 7e-6 (mv)."""
    n = 2**22 + 5
    M = torch.rand(n) if rows is None else torch.rand(rows, n)
    product = dots.times(M, torch.ones(n))
    assert product.shape == M.shape[:-1]
    exact = M.double().sum(-1)
    assert (product - exact).abs().max() <= 1e-6 * exact.max()


@pytest.mark.parametrize("over", [0, 5])
@pytest.mark.parametrize("rows", [None, 1, 3])
def test_pieces_in_one_product_keep_them_too(rows, over):
    """As it is done where every operator is a launch."""
    n = 2**22 + over
    M = torch.rand(n) if rows is None else torch.rand(rows, n)
    product = dots.together(M, torch.ones(n, 2)[:, 0])
    assert product.shape == M.shape[:-1]
    exact = M.double().sum(-1)
    assert (product - exact).abs().max() <= 1e-6 * exact.max()


def test_pieces_are_views_that_cover_both():
    M, x = torch.randn(2, 3 * tuning.SUMMED + 1), torch.randn(1, 3 * tuning.SUMMED + 1)
    parts = list(dots.pieces(M, x))
    assert [part.shape[-1] for part, _ in parts] == [*3 * [tuning.SUMMED], 1]
    assert torch.equal(torch.cat([part for part, _ in parts], -1), M)
    assert torch.equal(torch.cat([piece for _, piece in parts], -1), x)
