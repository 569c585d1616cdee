"""Every format is read to the last bit; whatever is wrong with a file ends in one clear line."""

import gzip
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch

from projlab import InputError
from projlab.cli import main
from projlab_validation import formats

safetensors = pytest.importorskip("safetensors.torch")

A = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 1 / 3]])
B = np.array([4.0, 0.1])
X0 = np.array([1.0, -2.0, 1e-300])
NAMES = ("balance", "total")
CSR = sp.csr_array(A)
PARTS = {"data": CSR.data, "indices": CSR.indices, "indptr": CSR.indptr, "shape": CSR.shape}

MPS = """NAME          TEST
ROWS
 N  COST
 E  balance
 L  limit
 E  total
COLUMNS
    X1        COST      1.0   balance   1.0
    X1        limit     1.0
    X2        COST      1.0   total     3.0
    X3        balance   2.0   total     0.5
RHS
    RHS       balance   4.0   total     0.1
    RHS       limit     4.0
ENDATA
"""


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def mtx(array):
    buffer = io.BytesIO()
    scipy.io.mmwrite(buffer, array, precision=17)
    return buffer.getvalue()


def pt(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def tensors(**arrays):
    return {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}


def st(**arrays):
    return safetensors.save(tensors(**arrays))


def csv(*lines):
    return ("\n".join(lines) + "\n").encode()


class Touch:
    """A pickle of it writes a file when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


GOOD = {
    "dense.npz": npz(A=A, b=B, x=X0, names=NAMES),
    "csr.npz": npz(**PARTS, b=B, x0=X0, names=NAMES),
    "named.csv": csv("name,u,v,w,b", "balance,1,0,2,4", f"total,0,3,{1 / 3!r},0.1"),
    "dense.pt": pt(tensors(A=A, b=B, x0=X0)),
    "csr.pt": pt({**tensors(**PARTS, b=B), "x": torch.from_numpy(X0)}),
    "sparse.pt": pt({"A": torch.from_numpy(A).to_sparse_coo(), "b": torch.from_numpy(B)}),
    "dense.safetensors": st(A=A, b=B, x0=X0),
    "csr.safetensors": st(**PARTS, b=B, x=X0),
}
WITHOUT_B = {
    "A.npy": npy(A),
    "A.csv": csv("1,0,2", f"0,3,{1 / 3!r}"),
    "A.mtx": mtx(A),
    "coordinates.mtx": mtx(CSR),
    "A.mtx.gz": gzip.compress(mtx(CSR)),
    "A.pt": pt(torch.from_numpy(A)),
}


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def dense(stored):
    return stored.A.toarray() if sp.issparse(stored.A) else stored.A


@pytest.mark.parametrize("name", GOOD)
def test_a_whole_system_is_read_to_the_last_bit(name, tmp_path):
    stored = formats.read(written(tmp_path, name, GOOD[name]))
    np.testing.assert_array_equal(dense(stored), A)
    np.testing.assert_array_equal(stored.b, B)
    if stored.x0 is not None:
        np.testing.assert_array_equal(stored.x0, X0)
    assert (stored.x0 is None) == (name in ("named.csv", "sparse.pt"))
    assert stored.names == (NAMES if "npz" in name or "csv" in name else None)
    assert stored.dtype == "float64"


@pytest.mark.parametrize("name", WITHOUT_B)
@pytest.mark.parametrize("right", ["b.npy", "b.csv", "b.mtx", "b.npz", "b.pt", "b.safetensors"])
def test_a_lone_matrix_takes_its_right_hand_side_from_another_file(name, right, tmp_path):
    content = {
        "b.npy": npy(B),
        "b.csv": csv("4", "0.1"),
        "b.mtx": mtx(B[:, None]),
        "b.npz": npz(b=B, A=A),
        "b.pt": pt(torch.from_numpy(B)),
        "b.safetensors": st(b=B),
    }[right]
    stored = formats.read(
        written(tmp_path, name, WITHOUT_B[name]), b=written(tmp_path, right, content)
    )
    np.testing.assert_array_equal(dense(stored), A)
    np.testing.assert_array_equal(stored.b, B)


@pytest.mark.parametrize("name", ["system.mps", "system.mps.gz"])
def test_the_equations_of_an_mps_are_read_by_their_names(name, tmp_path, capfd):
    content = gzip.compress(MPS.encode()) if name.endswith("gz") else MPS.encode()
    stored = formats.read(written(tmp_path, name, content))
    np.testing.assert_array_equal(dense(stored), [[1, 0, 2], [0, 3, 0.5]])
    np.testing.assert_array_equal(stored.b, [4, 0.1])
    assert stored.names == NAMES
    assert stored.note == "1 of 3 rows are inequalities and left out"
    assert capfd.readouterr().out == ""


def test_files_beside_the_matrix_are_its_right_hand_side_and_its_point(tmp_path):
    written(tmp_path, "well.mtx", mtx(CSR))
    written(tmp_path, "well_b.mtx", mtx(B[:, None]))
    written(tmp_path, "well_x0.npy", npy(X0))
    (file,) = formats.find([tmp_path])
    stored = formats.read(file)
    np.testing.assert_array_equal(stored.b, B)
    np.testing.assert_array_equal(stored.x0, X0)


def test_without_a_point_it_is_standard_normal_from_a_seed_that_is_stated(tmp_path):
    problem = formats.read(written(tmp_path, "s.npz", npz(A=A, b=B))).problem()
    np.testing.assert_array_equal(problem.x0, np.random.default_rng(0).standard_normal(3))


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_a_narrow_matrix_is_compared_in_float32(kind, tmp_path):
    stored = formats.read(written(tmp_path, "s.npz", npz(A=A.astype(kind), b=B)))
    problem = stored.problem()
    assert problem.dtype == "float32"
    np.testing.assert_array_equal(problem.b, B.astype(np.float32))


def test_a_bfloat16_tensor_is_compared_in_float32(tmp_path):
    content = {"A": torch.from_numpy(A).bfloat16(), "b": torch.from_numpy(B)}
    assert formats.read(written(tmp_path, "s.pt", pt(content))).problem().dtype == "float32"


def test_entries_that_float32_cannot_hold_are_refused(tmp_path):
    stored = formats.read(written(tmp_path, "s.npz", npz(A=1e300 * A, b=B)))
    with pytest.raises(InputError, match="overflow in float32"):
        stored.problem("float32")


NAN, INF = A.copy(), A.copy()
NAN[1, 2], INF[0, 0] = np.nan, np.inf
OBJECTS = np.array([[1, None, 2]], dtype=object)
PICKLE = pickle.dumps(Touch())
RAGGED = {**PARTS, "indptr": np.array([0, 9, 4])}
FAR = {**PARTS, "indices": np.array([0, 7, 1, 2])}
LONG = {**PARTS, "shape": np.array([3, 3])}

BAD = {
    # what it is called, what it holds, what the line says
    "npz, truncated": ("s.npz", GOOD["dense.npz"][:-60], "no zip archive"),
    "npz, damaged": ("s.npz", GOOD["dense.npz"].replace(B.tobytes(), X0.tobytes()[:16]), "CRC"),
    "npz, wrong keys": ("s.npz", npz(matrix=A, rhs=B), "holds matrix, rhs; want the keys A, b"),
    "npz, half of CSR": ("s.npz", npz(data=CSR.data, b=B), "holds data, b; want"),
    "npz, CSR without b": ("s.npz", npz(**PARTS), "indptr, shape; want"),
    "npz, two kinds": ("s.npz", npz(A=A, b=B, data=B), "both a dense A and CSR"),
    "npz, two points": ("s.npz", npz(A=A, b=B, x=X0, x0=X0), "both x and x0"),
    "npz, nothing": ("s.npz", npz(), "holds nothing"),
    "npz, objects": ("s.npz", npz(A=OBJECTS, b=B), "Object arrays cannot be loaded"),
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
    "npy, truncated": ("s.npy", npy(A)[:-9], "cannot be read as npy"),
    "npy, objects": ("s.npy", npy(OBJECTS), "Object arrays cannot be loaded"),
    "npy, NaN": ("s.npy", npy(NAN), "A[1, 2] = nan"),
    "npy, a pickle": ("s.npy", PICKLE, "no npy file"),
    "npy, a number": ("s.npy", npy(np.array(3.0)), "A of shape ()"),
    "npy, no b": ("s.npy", npy(A), "holds A and no b; want --b FILE, or the file s_b.*"),
    "npy, an npz": ("s.npy", GOOD["dense.npz"], "no npy file"),
    "csv, truncated": ("s.csv", csv("u,v,b", "1,0,2", "0,3"), "2 cells in line 3, not 3"),
    "csv, words": ("s.csv", csv("u,v,b", "1,zero,2"), "'zero' where a number belongs"),
    "csv, NaN": ("s.csv", csv("u,v,b", "1,nan,2"), "A[0, 1] = nan"),
    "csv, infinite": ("s.csv", csv("u,v,b", "1,2,-inf"), "b[0] = -inf"),
    "csv, empty cell": ("s.csv", csv("u,v,b", "1,,2"), "'' where a number belongs"),
    "csv, empty": ("s.csv", b"", "is empty"),
    "csv, header only": ("s.csv", csv("u,v,b"), "A of shape (0, 2)"),
    "csv, b alone": ("s.csv", csv("b", "1"), "A of shape (1, 0)"),
    "csv, a pickle": ("s.csv", PICKLE, "cannot be read as comma-separated numbers"),
    "mtx, truncated": ("s.mtx", mtx(CSR)[:-45], "cannot be read as Matrix Market"),
    "mtx, words": ("s.mtx", mtx(CSR).replace(b"real", b"text"), "cannot be read as Matrix Market"),
    "mtx, complex": ("s.mtx", mtx(1j * CSR), "dtype complex128"),
    "mtx, NaN": ("s.mtx", mtx(sp.csr_array(NAN)), "= nan"),
    "mtx, a pickle": ("s.mtx", PICKLE, "no %%MatrixMarket header"),
    "mtx, outside": ("s.mtx", mtx(CSR).replace(b"2 3 4\n", b"1 3 4\n"), "cannot be read as Matrix"),
    "mtx.gz, truncated": ("s.mtx.gz", gzip.compress(mtx(CSR))[:-12], "cannot be read as gzipped"),
    "mtx.gz, a pickle": ("s.mtx.gz", PICKLE, "cannot be read as gzipped Matrix Market"),
    "mps, truncated": ("s.mps", MPS[:200].encode(), "no number at the end of line 11"),
    "mps, without end": ("s.mps", MPS.replace("ENDATA", "").encode(), "has no ENDATA"),
    "mps, NaN": ("s.mps", MPS.replace("3.0", "nan").encode(), "A[1, 1] = nan; want finite"),
    "mps, words": (
        "s.mps",
        MPS.replace("3.0", "three").encode(),
        "no number at the end of line 10",
    ),
    "mps, an unknown row": (
        "s.mps",
        MPS.replace("total     3", "none      3").encode(),
        "the row 'none' in",
    ),
    "mps, inequalities": ("s.mps", MPS.replace(" E ", " G ").encode(), "3 rows, none an equation"),
    "mps, a pickle": ("s.mps", PICKLE, "has no ENDATA"),
    "mps.gz, truncated": (
        "s.mps.gz",
        gzip.compress(MPS.encode())[:-60],
        "cannot be read as gzipped",
    ),
    "mps.gz, a pickle": ("s.mps.gz", PICKLE, "cannot be read as gzipped MPS"),
    "pt, truncated": ("s.pt", GOOD["dense.pt"][:-200], "cannot be read as tensors"),
    "pt, wrong keys": ("s.pt", pt(tensors(matrix=A)), "holds matrix; want"),
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
    "unknown": ("s.mat", b"", "no format known here (.mat); want any of .npz, .npy"),
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


def test_a_header_that_claims_too_much_is_not_believed(tmp_path):
    huge = {**PARTS, "shape": np.array([2, 2**50])}
    with pytest.raises(InputError, match="claims to hold"):
        formats.read(written(tmp_path, "s.npz", npz(**huge, b=B)))
