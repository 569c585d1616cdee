"""Reads a system A x = b from a file in one of the formats people keep one in.

Nothing in a file is ever executed: numpy reads without pickles, torch with ``weights_only``,
safetensors holds plain bytes. Whatever a file lacks or holds beyond what is wanted ends in one
`InputError` that names the file, what it holds and what is wanted.
"""

from __future__ import annotations

import csv
import gzip
import io
import pickle
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse as sp
from numpy.typing import NDArray

from projlab import InputError
from projlab_validation.problems.problem import Dtype, Problem, rounded
from projlab_validation.stdout import silent_stdout

Vector = NDArray[np.float64]
Contents = Mapping[str, Any]

DENSE_KEYS = "A, b and optionally x0 (or x) and names"
CSR_KEYS = "data, indices, indptr, shape, b and optionally x0 (or x) and names"
KEYS = f"the keys {DENSE_KEYS}; or {CSR_KEYS}"

SEED = 0
"""x₀ is `numpy.random.default_rng(SEED).standard_normal(n)` where neither file nor --x0 says."""

MAX_BYTES = 2**36
"""What the arrays of one file may take, unpacked: a header that claims more is not believed."""


@dataclass(frozen=True, eq=False)
class StoredSystem:
    """What a file says.

    Attributes
    ----------
    path
        The file.
    A, b, x0
        (m, n), (m,) and (n,) in float64; None where the file is silent.
    names
        Of the rows, where the file has them.
    dtype
        "float32" where A is stored in that or less, else "float64".
    note
        What of the file was left out.
    """

    path: Path
    A: NDArray[np.float64] | sp.csr_array
    b: Vector | None
    x0: Vector | None = None
    names: tuple[str, ...] | None = None
    dtype: Dtype = "float64"
    note: str = ""

    def problem(self, dtype: Dtype | None = None) -> Problem:
        """The problem of projecting x₀, with all entries rounded to `dtype` (default: as stored).

        Raises
        ------
        InputError
            There is no b, or an entry overflows in `dtype`.
        """
        dtype = dtype or self.dtype
        if self.b is None:
            raise _wrong(
                self.path, "holds A and no b", "--b FILE, or the file {stem}_b.* beside it"
            )
        m, n = self.A.shape
        x0 = np.random.default_rng(SEED).standard_normal(n) if self.x0 is None else self.x0
        with np.errstate(over="ignore"):
            if isinstance(self.A, sp.csr_array):
                data = rounded(np.asarray(self.A.data), dtype)
                A: Any = sp.csr_array((data, self.A.indices, self.A.indptr), shape=(m, n))
            else:
                A = data = rounded(np.asarray(self.A), dtype)
            b, x0 = rounded(self.b, dtype), rounded(np.asarray(x0), dtype)
        if not all(np.isfinite(part).all() for part in (data, b, x0)):
            raise _wrong(self.path, f"holds entries that overflow in {dtype}", "--dtype float64")
        return Problem(
            name=self.path.name,
            group="compare",
            A=A,
            b=b,
            x0=x0,
            dtype=dtype,
            seed=SEED,
            reference=str(self.path),
            row_names=self.names,
        )


def find(paths: Sequence[Path]) -> list[Path]:
    """Return the files, and of folders every file in a format that `read` takes.

    Beside NAME.mtx, NAME_b.mtx and NAME_x0.mtx are its right-hand side and its point, whatever the
    format, and no systems.

    Raises
    ------
    InputError
        Something does not exist, or a folder holds no such file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.is_file() and _suffix(p)]
            stems = {_stem(p) for p in inside}
            systems = [p for p in inside if not _is_companion(p, stems)]
            if not systems:
                raise _wrong(path, "is a folder without a system", f"a file {_ANY}")
            files += systems
        elif not path.exists():
            raise InputError(f"{path}: there is no such file or folder")
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def read(path: Path, b: Path | None = None, x0: Path | None = None) -> StoredSystem:
    """Read one system; `b` and `x0` name files that replace what it holds of these.

    Raises
    ------
    InputError
        Any of the files cannot be read, or they do not fit together.
    """
    stored = _system(path, _contents(path))
    if b is None and stored.b is None:
        b = _companion(path, "b")
    if x0 is None and stored.x0 is None:
        x0 = _companion(path, "x0")
    m, n = stored.A.shape
    if b is not None:
        stored = replace(stored, b=_vector_file(b, "b", m, path))
    if x0 is not None:
        stored = replace(stored, x0=_vector_file(x0, "x0", n, path))
    return stored


def _stem(path: Path) -> str:
    return path.name[: -len(_suffix(path))]


def _suffix(path: Path) -> str:
    """The suffix that decides the format; "" where it is none that is known."""
    return next((s for s in READERS if path.name.lower().endswith(s)), "")


def _is_companion(path: Path, stems: set[str]) -> bool:
    stem = _stem(path)
    return any(stem.endswith(end) and stem.removesuffix(end) in stems for end in ("_b", "_x0"))


def _companion(path: Path, what: str) -> Path | None:
    """The file beside `path` that holds its b or x0."""
    for suffix in READERS:
        beside = path.with_name(f"{_stem(path)}_{what}{suffix}")
        if beside.is_file():
            return beside
    return None


def _wrong(path: Path, holds: str, wanted: str) -> InputError:
    wanted = wanted.format(stem=_stem(path))
    return InputError(f"{path}: {holds}; want {wanted}")


def _contents(path: Path) -> Contents:
    """What the file holds by name; a lone matrix is "A"."""
    suffix = _suffix(path)
    if not suffix:
        raise _wrong(path, f"is no format known here ({path.suffix or 'no suffix'})", _ANY)
    if path.is_dir() or not path.exists():
        raise InputError(f"{path}: there is no such file")
    reader, what = READERS[suffix]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return reader(path)
    except InputError:
        raise
    except _UNREADABLE as fault:
        raise _wrong(path, f"cannot be read as {what} ({_line(fault)})", _WANTED[suffix]) from fault


_UNREADABLE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    csv.Error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the readers raise for files that are not what their suffix says."""


def _line(fault: BaseException) -> str:
    """The first line of an exception's text, or its type."""
    text = str(fault).strip().splitlines()
    return text[0][:120] if text else type(fault).__name__


def _npz(path: Path) -> Contents:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise _wrong(path, "is no zip archive, so no npz", KEYS)
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            _believe(path, sum(member.file_size for member in archive.infolist()))
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            wanted = {"A", "b", "x", "x0", "names", "data", "indices", "indptr", "shape"}
            contents = {key: arrays[key] for key in arrays.files if key in wanted}
            return contents or dict.fromkeys(arrays.files)


def _npy(path: Path) -> Contents:
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise _wrong(path, "is no npy file", _WANTED[".npy"])
        file.seek(0)
        array = np.load(file, allow_pickle=False)
    return {"A": array}


def _believe(path: Path, size: int) -> None:
    """Refuse a file that claims to hold more than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise _wrong(path, f"claims to hold {size:,} bytes", f"{MAX_BYTES:,} at most")


def _csv(path: Path) -> Contents:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [cells for cells in csv.reader(file, strict=True) if cells]
    if not lines:
        raise _wrong(path, "is empty", _WANTED[".csv"])
    header = None if all(map(_is_number, lines[0])) else [cell.strip() for cell in lines.pop(0)]
    width = len(header or lines[0])
    for i, cells in enumerate(lines):
        if len(cells) != width:
            line = i + (1 if header is None else 2)
            raise _wrong(path, f"has {len(cells)} cells in line {line}, not {width}", "equal lines")
    columns = dict(enumerate(header or [""] * width))
    names = next((i for i, title in columns.items() if title == "name"), None)
    right = next((i for i, title in columns.items() if title == "b"), None)
    body = [i for i in columns if i not in (names, right)]
    contents = {"A": np.array([[_number(path, cells[i]) for i in body] for cells in lines])}
    contents["A"] = contents["A"].reshape(len(lines), len(body))
    if right is not None:
        contents["b"] = np.array([_number(path, cells[right]) for cells in lines])
    if names is not None:
        contents["names"] = np.array([cells[names] for cells in lines])
    return contents


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(path: Path, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise _wrong(path, f"holds {cell[:40]!r} where a number belongs", _WANTED[".csv"]) from None


def _mtx(path: Path) -> Contents:
    text = io.BytesIO()
    with _opened(path) as file:
        # Unpacked here: scipy's reader ends the process where reading from a stream fails.
        while chunk := file.read(2**20):
            text.write(chunk)
            _believe(path, text.tell())
    if not text.getvalue().startswith(b"%%MatrixMarket"):
        raise _wrong(path, "has no %%MatrixMarket header", _WANTED[".mtx"])
    text.seek(0)
    return {"A": scipy.io.mmread(text, spmatrix=False)}


def _opened(path: Path) -> Any:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _mps(path: Path) -> Contents:
    _require_whole_mps(path)
    with silent_stdout():
        import highspy

        model: Any = highspy.Highs()  # type: ignore[no-untyped-call]
        model.silent()
        # Entries below HiGHS's own threshold are left out when it reads; this is the least it takes
        model.setOptionValue("small_matrix_value", 1e-12)
        status = model.readModel(str(path))
    if status == highspy.HighsStatus.kError:
        raise _wrong(path, "is no MPS file that HiGHS can read", _WANTED[".mps"])
    program = model.getLp()
    lower, upper = np.array(program.row_lower_), np.array(program.row_upper_)
    equal = np.flatnonzero((lower == upper) & np.isfinite(lower))
    if not len(equal):
        raise _wrong(
            path, f"holds {len(lower)} rows, none an equation", "at least one row of type E"
        )
    parts = program.a_matrix_
    start, index, value = (np.array(part) for part in (parts.start_, parts.index_, parts.value_))
    shape = (program.num_row_, program.num_col_)
    by_column = parts.format_ == highspy.MatrixFormat.kColwise
    A = (sp.csc_array if by_column else sp.csr_array)((value, index, start), shape=shape)
    names = list(program.row_names_) or [f"row {i}" for i in range(shape[0])]
    left_out = shape[0] - len(equal)
    note = f"{left_out} of {shape[0]} rows are inequalities and left out" if left_out else ""
    if status == highspy.HighsStatus.kWarning:
        note += (
            "; " if note else ""
        ) + "HiGHS read it with a warning: entries below 1e-12 are lost"
    return {
        "A": sp.csr_array(A)[equal],
        "b": lower[equal],
        "names": np.array([names[i] for i in equal]),
        "note": note,
    }


def _require_whole_mps(path: Path) -> None:
    """Look for what HiGHS reads over without a word: no end, words for numbers, unknown rows."""
    section, rows, wanted = "", set[str](), _WANTED[".mps"]
    spaces = False  # the fixed format has them in names, which words then do not tell apart
    with _opened(path) as file:
        for number, line in enumerate(
            io.TextIOWrapper(file, encoding="utf-8", errors="replace"), 1
        ):
            words = line.split()
            if not words or line.startswith("*"):
                continue
            if not line[0].isspace():
                section = words[0].upper()
            elif section == "ROWS":
                rows.add(words[-1])
                spaces = spaces or len(words) > 2
            elif section in _MPS_NUMBERS and "'MARKER'" not in words:
                if len(words) < _MPS_NUMBERS[section] or not _is_number(words[-1]):
                    said = f"has no number at the end of line {number} ({line.strip()[:40]!r})"
                    raise _wrong(path, said, wanted)
                if not spaces and words[-2] not in rows:
                    said = f"names the row {words[-2][:40]!r} in line {number}, which is none"
                    raise _wrong(path, said, wanted)
    if section != "ENDATA":
        raise _wrong(path, "has no ENDATA at its end", wanted)


_MPS_NUMBERS = {"COLUMNS": 3, "RHS": 2, "RANGES": 2}
"""Sections whose lines end in a number, and the words that one has at least."""


def _pt(path: Path) -> Contents:
    import torch

    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, torch.Tensor):
        return {"A": loaded}
    if not isinstance(loaded, Mapping):
        raise _wrong(path, f"holds a {type(loaded).__name__}", _WANTED[".pt"])
    return {str(key): value for key, value in loaded.items()}


def _safetensors(path: Path) -> Contents:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping
    except SafetensorError as fault:
        raise ValueError(str(fault)) from fault


READERS: Mapping[str, tuple[Callable[[Path], Contents], str]] = {
    ".npz": (_npz, "npz without pickles"),
    ".npy": (_npy, "npy without pickles"),
    ".csv": (_csv, "comma-separated numbers"),
    ".mtx": (_mtx, "Matrix Market"),
    ".mtx.gz": (_mtx, "gzipped Matrix Market"),
    ".mps": (_mps, "MPS"),
    ".mps.gz": (_mps, "gzipped MPS"),
    ".pt": (_pt, "tensors that torch loads with weights_only"),
    ".safetensors": (_safetensors, "safetensors"),
}
"""By suffix: how a file is read, and what as."""

_ANY = f"any of {', '.join(READERS)}"
_MTX = "a real matrix (m, n), and b by --b FILE"
_MPS = "a whole MPS file with rows of type E"
_WANTED = {
    ".npz": KEYS,
    ".npy": "a real array (m, n), and b by --b FILE",
    ".csv": "numbers, a line a row; with a header line, a column b, and a column name if wanted",
    ".mtx": _MTX,
    ".mtx.gz": _MTX,
    ".mps": _MPS,
    ".mps.gz": _MPS,
    ".pt": f"a dict of tensors with {KEYS}",
    ".safetensors": KEYS,
}


def _system(path: Path, contents: Contents) -> StoredSystem:
    """Check what a file holds and put it into the form that everything else takes."""
    held = ", ".join(map(str, contents)) or "nothing"
    csr = {"data", "indices", "indptr", "shape"}
    if "A" in contents and csr & set(contents):
        raise _wrong(path, f"holds both a dense A and CSR parts ({held})", KEYS)
    if "x" in contents and "x0" in contents:
        raise _wrong(path, "holds both x and x0", "one of them")
    if "A" in contents:
        A, dtype = _matrix(path, contents["A"])
    elif csr <= set(contents):
        A, dtype = _from_csr(path, contents)
    else:
        raise _wrong(path, f"holds {held}", _WANTED[_suffix(path)])
    m, n = A.shape
    if not (m and n):
        raise _wrong(path, f"holds A of shape {(m, n)}", "at least one row and one column")
    point = contents.get("x0", contents.get("x"))
    b = contents.get("b")
    if b is None and csr & set(contents):
        raise _wrong(path, f"holds {held}", f"the keys {CSR_KEYS}")
    return StoredSystem(
        path,
        A,
        None if b is None else _vector(path, "b", b, m),
        None if point is None else _vector(path, "x0", point, n),
        _names(path, contents["names"], m) if "names" in contents else None,
        dtype,
        str(contents.get("note", "")),
    )


def _matrix(path: Path, A: Any) -> tuple[NDArray[np.float64] | sp.csr_array, Dtype]:
    if _is_scipy_sparse(A):
        dtype = _dtype(A.dtype)
        coo = sp.coo_array(A)
        values = _numbers(path, "A", coo.data, coo.coords)
        return sp.csr_array((values, coo.coords), shape=coo.shape), dtype
    if _is_torch_sparse(A):
        coo = A.detach().to_sparse_coo().coalesce()
        values = _numbers(path, "A", coo.values())
        rows, columns = coo.indices().numpy()
        return sp.csr_array((values, (rows, columns)), shape=tuple(A.shape)), _dtype_of(A)
    dense = _numbers(path, "A", A)
    dtype = _dtype_of(A)
    dense = dense[None] if dense.ndim == 1 else dense
    if dense.ndim != 2:
        raise _wrong(path, f"holds A of shape {dense.shape}", "(m, n), or (n,) for one row")
    return dense, dtype


def _is_scipy_sparse(value: Any) -> bool:
    return bool(sp.issparse(value))


def _is_torch_sparse(A: Any) -> bool:
    return hasattr(A, "is_sparse") and (A.is_sparse or A.layout != sys.modules["torch"].strided)


def _from_csr(path: Path, contents: Contents) -> tuple[sp.csr_array, Dtype]:
    data = _numbers(path, "data", contents["data"])
    indices, indptr, shape = (
        _integers(path, key, contents[key]) for key in ("indices", "indptr", "shape")
    )
    if shape.shape != (2,) or (shape < 0).any():
        raise _wrong(path, f"holds shape = {shape.tolist()!s:.60}", "two sizes, [m, n]")
    m, n = map(int, shape)
    if indptr.shape != (m + 1,) or indices.shape != data.shape or data.ndim != 1:
        raise _wrong(
            path,
            f"holds data {data.shape}, indices {indices.shape} and indptr {indptr.shape} for a "
            f"shape of [{m}, {n}]",
            f"data and indices of one length, and indptr ({m + 1},)",
        )
    if indptr[0] != 0 or indptr[-1] != len(data) or (np.diff(indptr) < 0).any():
        raise _wrong(
            path, "holds an indptr that is no row pointer", f"values rising from 0 to {len(data)}"
        )
    if len(indices) and (indices.min() < 0 or indices.max() >= n):
        raise _wrong(path, f"holds column indices outside 0 … {n - 1}", "indices below shape[1]")
    _believe(path, 8 * (m + n))
    A = sp.csr_array((data, indices, indptr), shape=(m, n))
    A.sum_duplicates()
    return A, _dtype_of(contents["data"])


def _numbers(
    path: Path, name: str, value: Any, places: Sequence[NDArray[Any]] | None = None
) -> NDArray[np.float64]:
    """Real finite numbers as float64; `places` are where the values of a sparse matrix stand."""
    array = _array(path, name, value)
    if array.dtype.kind not in "biuf":
        raise _wrong(path, f"holds {name} of dtype {array.dtype}", "real numbers")
    with np.errstate(over="ignore"):
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        entry = array[tuple(where)]
        if places is not None:
            where = [int(axis[where[0]]) for axis in places]
        place = f"[{', '.join(map(str, where))}]" if where else ""
        raise _wrong(path, f"holds {name}{place} = {entry}", "finite numbers")
    return array


def _integers(path: Path, name: str, value: Any) -> NDArray[np.int64]:
    array = _array(path, name, value)
    if array.dtype.kind not in "iu":
        raise _wrong(path, f"holds {name} of dtype {array.dtype}", "integers")
    return array.astype(np.int64)


def _array(path: Path, name: str, value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if _is_torch_sparse(value):
            raise _wrong(path, f"holds {name} as a sparse tensor", "a dense one")
        kept = value.detach()
        kept = kept.double() if kept.is_floating_point() else kept
        return np.asarray(kept.resolve_conj().resolve_neg().numpy())
    if isinstance(value, (int, float, list, tuple)):
        return np.array(value)
    raise _wrong(path, f"holds {name} as a {type(value).__name__}", "an array of numbers")


def _dtype_of(value: Any) -> Dtype:
    if not hasattr(value, "dtype"):
        return "float64"
    return _dtype(np.dtype(str(value.dtype).removeprefix("torch.").replace("bfloat16", "float16")))


def _dtype(dtype: np.dtype[Any]) -> Dtype:
    return "float32" if dtype.kind == "f" and dtype.itemsize <= 4 else "float64"


def _vector(path: Path, name: str, value: Any, length: int) -> Vector:
    array = _numbers(path, name, value)
    if array.ndim == 2 and 1 in array.shape:
        array = array.ravel()
    if array.ndim == 0:
        array = np.full(length, float(array)) if name == "b" else array
    if array.shape != (length,):
        raise _wrong(path, f"holds {name} of shape {array.shape}", f"({length},), to fit A")
    return array


def _names(path: Path, value: Any, m: int) -> tuple[str, ...]:
    names = np.asarray(value)
    if names.dtype.kind != "U" or names.shape != (m,):
        raise _wrong(
            path, f"holds names of dtype {names.dtype} and shape {names.shape}", f"{m} strings"
        )
    return tuple(map(str, names))


def _vector_file(path: Path, name: str, length: int, of: Path) -> Vector:
    """A vector from a file that holds nothing else, or holds it by this name."""
    contents = _contents(path)
    known = [key for key in (name, "A") if key in contents]
    if len(contents) == 1:
        known = list(contents)
    if not known:
        held = ", ".join(map(str, contents)) or "nothing"
        raise _wrong(path, f"holds {held}", f"one vector, or one named {name}")
    value = contents[known[0]]
    value = value.toarray() if _is_scipy_sparse(value) else value
    array = _numbers(path, name, value)
    if array.ndim == 2 and 1 in array.shape:
        array = array.ravel()
    if array.shape != (length,):
        raise _wrong(path, f"holds {name} of shape {array.shape}", f"({length},), to fit {of.name}")
    return array
