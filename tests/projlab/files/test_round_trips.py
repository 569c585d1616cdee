"""What is written by the usual writers is read back bit for bit, whatever the numbers."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from projlab import load

from .fuzz import SEEDS, batch, faults, rounds
from .written import dense, mat, npy, npz, pt, saved
from .written import st as safetensors

FINITE = st.floats(allow_nan=False, allow_infinity=False)
MATRICES = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=FINITE)
SPARSE = ("csr", "csc", "coo", "bsr", "dia")


def delimited(A, delimiter, titled):
    titles = [delimiter.join(f"x{j}" for j in range(A.shape[1]))] if titled else []
    lines = [delimiter.join(map(repr, row)) for row in A.tolist()]
    return "\n".join([*titles, *lines]).encode()


def market(A, fortran=False):
    lines = [f"%%MatrixMarket matrix array real general\n{A.shape[0]} {A.shape[1]}"]
    lines += [repr(value) for value in A.ravel(order="F").tolist()]
    text = "\n".join(lines)
    return (text[:41] + text[41:].replace("e", "D") if fortran else text).encode()


def linear_program(A):
    rows = "".join(f" E R{i}\n" for i in range(A.shape[0]))
    entries = "".join(
        f"  X{j} R{i} {float(A[i, j])!r}\n" for j in range(A.shape[1]) for i in range(A.shape[0])
    )
    return f"NAME\nROWS\n N COST\n{rows}COLUMNS\n{entries}RHS\nENDATA\n".encode()


def coordinates(A):
    buffer = io.BytesIO()
    scipy.io.mmwrite(buffer, sp.coo_array(A), precision=17)
    return buffer.getvalue()


WRITERS = {
    "npy": npy,
    "npz": lambda A: npz(A=A),
    **{
        f"{kind}.npz": lambda A, kind=kind: saved(sp.coo_array(A).asformat(kind)) for kind in SPARSE
    },
    "comma.csv": lambda A: delimited(A, ",", titled=True),
    "tab.tsv": lambda A: delimited(A, "\t", titled=True),
    "spaces.csv": lambda A: delimited(A, " ", titled=True),
    "semicolon.csv": lambda A: delimited(A, ";", titled=True),
    "untitled.csv": lambda A: delimited(A, ",", titled=False),
    "array.mtx": market,
    "fortran.mtx": lambda A: market(A, fortran=True),
    "coordinate.mtx": coordinates,
    "mps": linear_program,
    "mat": lambda A: mat(A=A),
    "sparse.mat": lambda A: mat(A=sp.csc_array(A)),
    "pt": lambda A: pt({"A": torch.from_numpy(A)}),
    "sparse.pt": lambda A: pt({"A": torch.from_numpy(A).to_sparse_coo()}),
    "safetensors": lambda A: safetensors(A=A),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_bit_comes_back(name):
    @given(MATRICES)
    def comes_back(A):
        with TemporaryDirectory() as folder:
            path = Path(folder) / (name if "." in name else f"s.{name}")
            path.write_bytes(WRITERS[name](A))
            read = load(path).A
        sparse = sp.issparse(read)
        wanted = A + 0.0 if sparse else A  # a sparse matrix keeps no sign of a zero
        np.testing.assert_array_equal(dense(read), A)
        assert read.shape == A.shape
        if not sparse:
            assert read.tobytes() == np.ascontiguousarray(wanted).tobytes()

    comes_back()


@pytest.mark.parametrize("suffix", SEEDS)
def test_a_mutated_file_is_read_or_refused_in_a_sentence(suffix, tmp_path):
    assert faults(batch((suffix, 0, 300, str(tmp_path)))) == {}


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(24 * 3600)
@pytest.mark.parametrize("suffix", SEEDS)
def test_a_hundred_thousand_mutated_files_are_read_or_refused(suffix, tmp_path):
    for seed in range(1, 101):
        assert faults(batch((suffix, seed, 1000, str(tmp_path)))) == {}


CORRUPTIBLE = ("npz", "csv.gz", "mtx.bz2")


@pytest.mark.parametrize("suffix", CORRUPTIBLE)
def test_what_carries_a_checksum_is_right_or_refused(suffix, tmp_path):
    """One byte changed anywhere: the numbers are those that were written, or none."""
    for content in SEEDS[suffix]:
        path = tmp_path / f"s.{suffix}"
        path.write_bytes(content)
        wanted = dense(load(path).A)
        rng = np.random.default_rng(0)
        for at in rng.permutation(len(content))[:60]:
            path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
            try:
                read = dense(load(path).A)
            except ValueError:
                continue
            np.testing.assert_array_equal(read, wanted)


def test_the_fuzzer_reads_every_batch_a_few_at_a_time():
    assert list(rounds([("csv", i, 1, "") for i in range(5)], 2)) == [
        [("csv", 0, 1, ""), ("csv", 1, 1, "")],
        [("csv", 2, 1, ""), ("csv", 3, 1, "")],
        [("csv", 4, 1, "")],
    ]
