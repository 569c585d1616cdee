"""One small system as files of every format, and the bytes they are made of."""

import bz2
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch

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


def mat(**variables):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


def saved(matrix):
    """What `scipy.sparse.save_npz` writes."""
    buffer = io.BytesIO()
    sp.save_npz(buffer, matrix)
    return buffer.getvalue()


GOOD |= {
    "Aeq.npz": npz(Aeq=A, beq=B, x0=X0),
    "A_eq.npz": npz(A_eq=A, b_eq=B, x0=X0),
    "tabs.tsv": csv("name\tu\tv\tw\tb", "balance\t1\t0\t2\t4", f"total\t0\t3\t{1 / 3!r}\t0.1"),
    "semicolons.csv": csv("name;u;v;w;b", "balance;1;0;2;4", f"total;0;3;{1 / 3!r};0.1"),
    "spaces.csv": csv("name u v w b", "balance  1 0 2 4", f"total 0 3 {1 / 3!r} 0.1"),
    "bom.csv": b"\xef\xbb\xbf" + csv("name,u,v,w,b", "balance,1,0,2,4", f"total,0,3,{1 / 3!r},0.1"),
    "named.csv.gz": gzip.compress(GOOD["named.csv"]),
    "named.csv.bz2": bz2.compress(GOOD["named.csv"]),
    "dense.mat": mat(A=A, b=B[:, None], x0=X0, names=np.array(NAMES, dtype=object)),
    "sparse.mat": mat(A=sp.csc_array(A), b=B[:, None], x=X0),
    "Aeq.mat": mat(Aeq=A, beq=B),
    "state.pth": pt(tensors(A=A, b=B, x0=X0)),
}
WITHOUT_B |= {
    "A.mtx.bz2": bz2.compress(mtx(CSR)),
    **{
        f"{kind}.npz": saved(sp.coo_array(A).asformat(kind))
        for kind in ("csr", "csc", "coo", "bsr", "dia")
    },
    "matrix.npz": saved(sp.csc_matrix(A)),
}


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def dense(A):
    return A.toarray() if sp.issparse(A) else A
