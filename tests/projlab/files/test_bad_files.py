"""Whatever is wrong with a file ends in one clear line, exit code 2, and nothing written."""

import bz2
import gzip
import io
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from projlab.cli import main

from .written import (
    CSR,
    GOOD,
    MPS,
    PARTS,
    X0,
    A,
    B,
    Touch,
    csv,
    mat,
    mtx,
    npy,
    npz,
    pt,
    st,
    tensors,
    written,
)

NAN, INF = A.copy(), A.copy()
NAN[1, 2], INF[0, 0] = np.nan, np.inf
OBJECTS = np.array([[1, None, 2]], dtype=object)
PICKLE = pickle.dumps(Touch())
RAGGED = {**PARTS, "indptr": np.array([0, 9, 4])}
FAR = {**PARTS, "indices": np.array([0, 7, 1, 2])}
LONG = {**PARTS, "shape": np.array([3, 3])}

COO = {
    "data": CSR.data,
    "row": np.array([0, 2, 1, 1]),
    "col": np.array([0, 1, 1, 2]),
    "shape": np.array([2, 3]),
    "format": b"coo",
}
BLOCKS = {
    "data": np.ones((1, 2, 2)),
    "indices": np.array([0]),
    "indptr": np.array([0, 1]),
    "shape": np.array([2, 3]),
    "format": b"bsr",
}
DIAGONALS = {
    "data": np.ones((2, 3)),
    "offsets": np.array([0, 0]),
    "shape": np.array([2, 3]),
    "format": b"dia",
}


with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants(enable=False):
    warnings.simplefilter("ignore")  # torch says that CSR is new and quantization old
    OUTSIDE = torch.sparse_csr_tensor([0, 1, 1], [10**9], [1.0], (2, 3), dtype=torch.float64)
    QUANTIZED = torch.quantize_per_tensor(torch.ones(2, 3), 1.0, 0, torch.qint8)


def twice(archive):
    """The same with its first member written again."""
    buffer = io.BytesIO(archive)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("A.npy", npy(X0))
    return buffer.getvalue()


def forged(content):
    """The same with a shape in the header that is larger than the data, and its checksum."""
    if content.startswith(b"\x93NUMPY"):
        return content.replace(b"(2, 3)", b"(2,99)")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("A.npy", forged(npy(A)))
        file.writestr("b.npy", npy(B))
    return buffer.getvalue()


def damaged(packed):
    """The same with another checksum."""
    return packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]


BAD = {
    # what it is called, what it holds, what the line says
    "npz, truncated": ("s.npz", GOOD["dense.npz"][:-60], "no zip archive"),
    "npz, damaged": ("s.npz", GOOD["dense.npz"].replace(B.tobytes(), X0.tobytes()[:16]), "CRC"),
    "npz, wrong keys": ("s.npz", npz(matrix=A, rhs=B), "holds matrix, rhs; want the keys A (or"),
    "npz, half of CSR": ("s.npz", npz(data=CSR.data, b=B), "holds data, b; want"),
    "npz, CSR without b": ("s.npz", npz(**PARTS), "holds A and no b; want --b FILE or a number"),
    "npz, two kinds": ("s.npz", npz(A=A, b=B, data=B), "both a dense A and CSR"),
    "npz, two points": ("s.npz", npz(A=A, b=B, x=X0, x0=X0), "both x and x0"),
    "npz, nothing": ("s.npz", npz(), "holds nothing"),
    "npz, objects": (
        "s.npz",
        npz(A=OBJECTS, b=B),
        "holds A as an array of objects, which only a pickle",
    ),
    "npz, strings": ("s.npz", npz(A=np.array([["a"]]), b=B), "A of dtype <U1; want real numbers"),
    "npz, complex": ("s.npz", npz(A=1j * A, b=B), "A of dtype complex128"),
    "npz, NaN": ("s.npz", npz(A=NAN, b=B), "A[1, 2] = nan; want finite numbers"),
    "npz, NaN in b": ("s.npz", npz(A=A, b=NAN[1, 1:]), "b[1] = nan"),
    "npz, infinite": ("s.npz", npz(A=INF, b=B), "A[0, 0] = inf"),
    "npz, b too long": ("s.npz", npz(A=A, b=X0), "b of shape (3,); want (2,)"),
    "npz, x0 too short": ("s.npz", npz(A=A, b=B, x0=B), "x0 of shape (2,); want (3,)"),
    "npz, names too few": ("s.npz", npz(A=A, b=B, names=["one"]), "want 2 strings"),
    "npz, a batch": ("s.npz", npz(A=A[None], b=B), "A of shape (1, 2, 3)"),
    "npz, no rows": ("s.npz", npz(A=A[:0], b=B[:0]), "at least one row"),
    "npz, no row pointer": ("s.npz", npz(**RAGGED, b=B), "no row pointer"),
    "npz, columns outside": ("s.npz", npz(**FAR, b=B), "column indices outside 0 … 2"),
    "npz, another shape": ("s.npz", npz(**LONG, b=B), "indptr (4,)"),
    "npz, float indices": (
        "s.npz",
        npz(**{**PARTS, "indices": CSR.data}, b=B),
        "indices of dtype float64; want integers",
    ),
    "npz, NaN in CSR": ("s.npz", npz(**{**PARTS, "data": CSR.data * np.nan}, b=B), "data[0] = nan"),
    "npz, a pickle": ("s.npz", PICKLE, "no zip archive"),
    "npy, truncated": ("s.npy", npy(A)[:-9], "claims to hold 48 bytes and holds 39"),
    "npy, longer": ("s.npy", npy(A) + b"x", "claims to hold 48 bytes and holds 49"),
    "npy, objects": ("s.npy", npy(OBJECTS), "holds A as an array of objects, which only a pickle"),
    "npy, NaN": ("s.npy", npy(NAN), "A[1, 2] = nan"),
    "npy, a pickle": ("s.npy", PICKLE, "no npy file"),
    "npy, a number": ("s.npy", npy(np.array(3.0)), "A of shape ()"),
    "npy, no b": (
        "s.npy",
        npy(A),
        "holds A and no b; want --b FILE or a number, or the file s_b.*",
    ),
    "npy, an npz": ("s.npy", GOOD["dense.npz"], "no npy file"),
    "csv, truncated": ("s.csv", csv("u,v,b", "1,0,2", "0,3"), "2 cells in line 3, not 3"),
    "csv, words": ("s.csv", csv("u,v,b", "1,zero,2"), "'zero' where a number belongs"),
    "csv, NaN": ("s.csv", csv("u,v,b", "1,nan,2"), "A[0, 1] = nan"),
    "csv, infinite": ("s.csv", csv("u,v,b", "1,2,-inf"), "b[0] = -inf in line 2, column 3"),
    "csv, empty cell": ("s.csv", csv("u,v,b", "1,,2"), "'' where a number belongs"),
    "csv, empty": ("s.csv", b"", "is empty"),
    "csv, header only": ("s.csv", csv("u,v,b"), "A of shape (0, 2)"),
    "csv, b alone": ("s.csv", csv("b", "1"), "A of shape (1, 0)"),
    "csv, a pickle": ("s.csv", PICKLE, "cannot be read as comma-separated numbers"),
    "mtx, truncated": ("s.mtx", mtx(CSR)[:-45], "holds 3 entries, and says 4 in line 3"),
    "mtx, words": ("s.mtx", mtx(CSR).replace(b"real", b"text"), "'text' as word 4 of line 1"),
    "mtx, complex": ("s.mtx", mtx(1j * CSR), "'complex' as word 4 of line 1"),
    "mtx, NaN": ("s.mtx", mtx(sp.csr_array(NAN)), "holds nan in line 7, column 5"),
    "mtx, a pickle": ("s.mtx", PICKLE, "no %%MatrixMarket header"),
    "mtx, outside": (
        "s.mtx",
        mtx(CSR).replace(b"2 3 4\n", b"1 3 4\n"),
        "at 2 2 in line 6, outside 1 × 3",
    ),
    "mtx.gz, truncated": (
        "s.mtx.gz",
        gzip.compress(mtx(CSR))[:-12],
        "Compressed file ended before",
    ),
    "mtx.gz, a pickle": ("s.mtx.gz", PICKLE, "Not a gzipped file"),
    "mps, truncated": (
        "s.mps",
        MPS[:200].encode(),
        "no number at the end of one or two pairs in line 11",
    ),
    "mps, without end": ("s.mps", MPS.replace("ENDATA", "").encode(), "has no ENDATA"),
    "mps, NaN": (
        "s.mps",
        MPS.replace("3.0", "nan").encode(),
        "holds 'nan' in line 10, column 41; want finite",
    ),
    "mps, words": (
        "s.mps",
        MPS.replace("3.0", "three").encode(),
        "'three' where a number belongs, in line 10",
    ),
    "mps, an unknown row": (
        "s.mps",
        MPS.replace("total     3", "none      3").encode(),
        "the row 'none', which is none, in line 10",
    ),
    "mps, no rows": (
        "s.mps",
        b"NAME\nROWS\n N COST\nCOLUMNS\n X COST 1\nENDATA\n",
        "holds 0 rows and 1 variable; want at least one row of type E, L or G",
    ),
    "mps, a pickle": ("s.mps", PICKLE, "unknown here"),
    "mps.gz, truncated": (
        "s.mps.gz",
        gzip.compress(MPS.encode())[:-60],
        "Compressed file ended before",
    ),
    "mps.gz, a pickle": ("s.mps.gz", PICKLE, "Not a gzipped file"),
    "pt, truncated": ("s.pt", GOOD["dense.pt"][:-200], "cannot be read as tensors"),
    "pt, wrong keys": ("s.pt", pt(tensors(matrix=A)), "or a key that names the matrix"),
    "pt, objects": ("s.pt", pt({"A": Touch()}), "cannot be read as tensors"),
    "pt, a list": ("s.pt", pt([1.0]), "holds a list"),
    "pt, text": ("s.pt", pt({"A": "text", "b": "text"}), "holds A as a str"),
    "pt, NaN": ("s.pt", pt(tensors(A=NAN, b=B)), "A[1, 2] = nan"),
    "pt, shapes": ("s.pt", pt(tensors(A=A, b=X0)), "b of shape (3,); want (2,)"),
    "pt, complex": ("s.pt", pt(tensors(A=1j * A, b=B)), "A of dtype complex128"),
    "pt, a pickle": ("s.pt", PICKLE, "cannot be read as tensors"),
    "safetensors, truncated": ("s.safetensors", st(A=A, b=B)[:-8], "cannot be read as safetensors"),
    "safetensors, wrong keys": ("s.safetensors", st(matrix=A), "holds matrix; want the keys"),
    "safetensors, NaN": ("s.safetensors", st(A=NAN, b=B), "A[1, 2] = nan"),
    "safetensors, shapes": ("s.safetensors", st(A=A, b=X0), "b of shape (3,); want (2,)"),
    "safetensors, a pickle": ("s.safetensors", PICKLE, "cannot be read as safetensors"),
    "npz, an unknown format": (
        "s.npz",
        npz(**PARTS, format="lil", b=B),
        "format = 'lil'; want one of csr",
    ),
    "npz, a number as format": (
        "s.npz",
        npz(**PARTS, format=3, b=B),
        "format = a int; want one of csr",
    ),
    "npz, csc of another shape": ("s.npz", npz(**PARTS, format="csc", b=B), "and indptr (4,)"),
    "npz, coo without places": (
        "s.npz",
        npz(**PARTS, format="coo", b=B),
        "is coo without row, col",
    ),
    "npz, coo outside": ("s.npz", npz(**COO, b=B), "row indices outside 0 … 1"),
    "npz, blocks that do not fit": ("s.npz", npz(**BLOCKS, b=B), "blocks that divide it"),
    "npz, a diagonal twice": ("s.npz", npz(**DIAGONALS, b=B), "one offset twice"),
    "npz, two kinds of points": ("s.npz", npz(Aeq=A, A_eq=A, beq=B), "both Aeq and A_eq"),
    "npz, a member twice": ("s.npz", twice(npz(A=A, b=B)), "holds 'A' twice; want each key once"),
    "npz, a size that is forged": ("s.npz", forged(npz(A=A, b=B)), "claims to hold"),
    "npy, a size that is forged": ("s.npy", forged(npy(A)), "claims to hold"),
    "mat, version 7.3": (
        "s.mat",
        b"MATLAB 7.3 MAT-file, Platform: GLNXA64",
        "is of version 7.3, which is HDF5",
    ),
    "mat, truncated": ("s.mat", mat(A=A, b=B)[:-40], "cannot be read as MATLAB's file"),
    "mat, empty": ("s.mat", b"", "cannot be read as MATLAB's file"),
    "mat, a cell": (
        "s.mat",
        mat(A=np.array([[1, "two"]], dtype=object), b=B),
        "holds A as a cell array",
    ),
    "mat, wrong names": ("s.mat", mat(S=A, rhs=B), "holds S, rhs; want variables"),
    "mat, NaN": ("s.mat", mat(A=NAN, b=B), "A[1, 2] = nan"),
    "mat, complex": (
        "s.mat",
        mat(A=1j * A, b=B),
        "holds A as complex numbers",
    ),
    "mat, a sparse one with NaN": ("s.mat", mat(A=sp.csc_array(NAN), b=B), "A[1, 2] = nan"),
    "pt, sparse indices outside": (
        "s.pt",
        pt({"A": OUTSIDE, "b": torch.zeros(2)}),
        "cannot be read as tensors",
    ),
    "pt, expanded": ("s.pt", pt({"A": torch.ones(1, 1).expand(2**22, 2**22)}), "claims to hold"),
    "pt, quantized": ("s.pt", pt({"A": QUANTIZED, "b": torch.zeros(2)}), "tensor of qint8"),
    "pt, damaged": (
        "s.pt",
        GOOD["dense.pt"].replace(A.tobytes(), A[::-1].tobytes()),
        "wrong checksum",
    ),
    "safetensors, a name twice": (
        "s.safetensors",
        st(A=A, b=B).replace(b'"b"', b'"A"'),
        "holds 'A' twice",
    ),
    "csv.bz2, truncated": (
        "s.csv.bz2",
        bz2.compress(GOOD["named.csv"])[:-9],
        "ended before the end",
    ),
    "csv.bz2, the second stream damaged": (
        "s.csv.bz2",
        bz2.compress(b"1,2\n") + b"?" + bz2.compress(b"3,4\n")[1:],
        "Invalid data stream",
    ),
    "pt, a name twice": (
        "s.pt",
        pt({"A": torch.ones(1), 1: torch.ones(1), "1": torch.ones(1)}),
        "holds '1' twice, of two types",
    ),
    "csv.gz, damaged": ("s.csv.gz", damaged(gzip.compress(GOOD["named.csv"])), "CRC check failed"),
    "every suffix, empty npz": ("s.npz", b"", "no zip archive"),
    "every suffix, empty npy": ("s.npy", b"", "no npy file"),
    "every suffix, empty pt": ("s.pt", b"", "cannot be read as tensors"),
    "every suffix, empty safetensors": ("s.safetensors", b"", "cannot be read as safetensors"),
    "every suffix, empty mps": ("s.mps", b"", "has no ENDATA"),
    "every suffix, empty gz": ("s.csv.gz", b"", "is empty"),
    "unknown": ("s.xlsx", b"", "no format known here (.xlsx); want any of .npz, .npy"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_2_and_one_line_and_nothing_is_written(
    case, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    name, content, says = BAD[case]
    written(tmp_path, name, content)
    assert main(["compare", name, "--out", "out"]) == 2
    out, error = capfd.readouterr()
    assert out == ""
    assert error.startswith(f"projlab: {name}: ")
    assert error.count("\n") == 1
    assert says in error
    assert "; want " in error
    assert [path.name for path in tmp_path.iterdir()] == [name]
