"""Products by blocks of columns, against scipy's by compressed rows."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from projlab import projector, tolerance
from projlab.engine.variants.iterative import Products
from projlab.numerics import memory, tuning
from projlab.numerics.sparse_products import Compressed
from tests.projlab.ways import NUMBA

if not NUMBA:
    pytest.skip("numba, the extra `native`, is not installed", allow_module_level=True)

from projlab.engine.kernels.column_blocks import ColumnBlocks

DTYPES = [torch.float32, torch.float64]
COLUMNS = tuning.MANY_COLUMNS + 7
"""The last block is not full."""


def scattered(m, n=COLUMNS, each=6, dtype=torch.float64):
    """Entries anywhere, rows 0 and the last without any."""
    rng = np.random.default_rng(m)
    rows = np.repeat(np.arange(1, m - 1), each)
    columns = rng.integers(0, n, len(rows))
    columns[:2] = 0, n - 1
    A = sp.csr_array((rng.standard_normal(len(rows)), (rows, columns)), shape=(m, n))
    A.sum_duplicates()
    return A.astype(np.float32 if dtype is torch.float32 else np.float64)


def compressed(A):
    first, columns = (torch.from_numpy(part.astype(np.int32)) for part in (A.indptr, A.indices))
    return Compressed(first, columns, torch.from_numpy(A.data), A.shape)


def require_close(found, A, v):
    """A sum of k terms errs by at most k u times the sum of their sizes."""
    wide = A.astype(np.float64)
    expected, sizes = wide @ v.double().numpy(), abs(wide) @ v.double().abs().numpy()
    terms = max(np.diff(A.tocsr().indptr).max(), 1)
    allowed = 2 * terms * tolerance.unit_roundoff(v.dtype) * sizes
    assert (np.abs(found.double().numpy() - expected) <= allowed).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [3, 500, 40_000])
def test_both_products(m, dtype):
    A = scattered(m, dtype=dtype)
    blocks = ColumnBlocks.of(compressed(A))
    assert blocks is not None
    x, y = torch.randn(COLUMNS, dtype=dtype), torch.randn(1, m, dtype=dtype)
    require_close(blocks.times(x), A, x)
    turned = blocks.transposed_times(y)
    assert turned.shape == (1, COLUMNS)
    require_close(turned[0], A.T, y[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [0.0, 0.75])
def test_a_product_that_goes_on_from_a_vector(factor, dtype):
    A = scattered(500, dtype=dtype)
    blocks = ColumnBlocks.of(compressed(A))
    y, x = torch.randn(1, 500, dtype=dtype), torch.randn(1, COLUMNS, dtype=dtype)
    before = x.clone()
    found, size = blocks.continued(y, x, torch.tensor([[factor]], dtype=dtype))
    assert found.data_ptr() == x.data_ptr()
    assert size.shape == (1,)
    expected = blocks.transposed_times(y) - factor * before
    u = tolerance.unit_roundoff(dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=32 * u)
    # squares are summed in parts, of some thousand each
    torch.testing.assert_close(size, found.norm(dim=-1), rtol=COLUMNS**0.5 * u, atol=0)


def test_a_vector_that_is_a_view():
    A = scattered(50)
    blocks = ColumnBlocks.of(compressed(A))
    x = torch.randn(COLUMNS, 2, dtype=torch.float64)[:, 1]
    require_close(blocks.times(x), A, x)
    z = torch.view_as_complex(torch.randn(COLUMNS, 2, dtype=torch.float64)).conj().imag
    assert z.is_neg()
    require_close(blocks.times(z), A, z.resolve_neg())


def _banded():
    rows = np.repeat(np.arange(1000), 6)
    columns = rows * (COLUMNS // 1000) + np.tile(np.arange(6), 1000)
    return compressed(sp.csr_array((np.ones(6000), (rows, columns)), shape=(1000, COLUMNS)))


@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param(compressed(scattered(500, tuning.MANY_COLUMNS - 1)), id="few columns"),
        pytest.param(_banded(), id="entries of a row side by side"),
        pytest.param(
            Compressed(
                torch.zeros(4, dtype=torch.int32),
                torch.zeros(0, dtype=torch.int32),
                torch.zeros(0, dtype=torch.float64),
                (3, COLUMNS),
            ),
            id="no entries",
        ),
    ],
)
def test_compressed_rows_where_they_are_as_fast(matrix):
    assert ColumnBlocks.of(matrix) is None


def test_no_blocks_without_room_or_kernels(monkeypatch):
    matrix = compressed(scattered(500))
    wide = Compressed(matrix.first, matrix.columns.long(), matrix.values, matrix.size)
    assert ColumnBlocks.of(wide) is None  # indices that may need more than 32 bits
    with monkeypatch.context() as patch:
        patch.setattr(memory, "limit", lambda device: 1000)
        assert ColumnBlocks.of(matrix) is None
    monkeypatch.setenv("PROJLAB_NATIVE", "0")
    assert ColumnBlocks.of(matrix) is None


def test_iterations_take_them_for_one_vector(monkeypatch):
    A = scattered(300)
    b = A @ np.ones(COLUMNS)
    x = torch.randn(COLUMNS, dtype=torch.float64)
    taken = []
    times = ColumnBlocks.times
    monkeypatch.setattr(
        ColumnBlocks, "times", lambda self, x: taken.append(x.shape) or times(self, x)
    )
    P = projector(A, b, "iterative")
    assert taken
    found = P(x)
    taken.clear()
    both = P(torch.stack([x, -x]))
    assert not taken
    monkeypatch.setenv("PROJLAB_NATIVE", "0")
    plain = projector(A, b, "iterative")
    expected = plain(x)
    assert not taken
    # well-conditioned rows: both are within a small multiple of u
    allowed = tolerance.backward_stable_growth(100.0, tolerance.unit_roundoff(torch.float64))
    for other in (found, both[0]):
        assert (other - expected).norm() <= allowed * x.norm()


def test_a_factor_moves_without_its_blocks_being_lost():
    rows = scattered(300)
    products = Products(compressed(rows), None, None, ColumnBlocks.of(compressed(rows)))
    moved = products.to(torch.device("cpu"))
    assert moved.blocks is not None
