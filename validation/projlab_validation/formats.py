"""A system from a file as a problem of the suite; `projlab.load` reads the file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from projlab.files.arrays import require_fit
from projlab.files.load import LoadedSystem, load, read_vector
from projlab.files.refusal import wrong
from projlab.system.options import check_b_error
from projlab_validation.problems.problem import Dtype, Matrix, Problem, Vector, rounded

SEED = 0
"""x₀ is `numpy.random.default_rng(SEED).standard_normal(n)` where neither file nor --x0 says."""


@dataclass(frozen=True, eq=False)
class StoredSystem:
    """One system, and how it was asked for.

    Attributes
    ----------
    path, b, x0, key
        As `projlab.load` takes them.
    loaded
        What it returned.
    b_error
        By how much b may be off: a file or a number; None where it may not.
    errors
        The same, (m,).
    """

    path: Path
    loaded: LoadedSystem
    b: Path | float | None = None
    x0: Path | float | None = None
    key: str | None = None
    b_error: Path | float | None = None
    errors: Vector | None = None

    @property
    def dtype(self) -> Dtype:
        """The file's own: "float32" where A is stored in that or less."""
        return "float32" if self.loaded.A.dtype == np.float32 else "float64"

    @property
    def note(self) -> str:
        """What of the file was taken as what, and what was left out."""
        return "; ".join(self.loaded.notes)

    def problem(self, dtype: Dtype | None = None) -> Problem:
        """The problem of projecting x₀, with all entries rounded to `dtype` (default: as stored).

        Raises
        ------
        InputError
            There is no b, or an entry overflows in `dtype` or falls below its normal numbers.
        """
        dtype = dtype or self.dtype
        A, _, x0, names, _ = self.loaded
        b = self.right_side()
        m, n = A.shape
        if not m:
            raise wrong(self.path, "holds no equation", "equations, or no --equations")
        point = np.random.default_rng(SEED).standard_normal(n) if x0 is None else x0
        require_fit(self.path, [A, b], dtype)
        require_fit(self.path, [_wide(point)], dtype, small=True)
        data = rounded(_wide(A.data if isinstance(A, sp.csr_array) else A), dtype)
        b, point = (rounded(_wide(part), dtype) for part in (b, point))
        kept: Matrix = data
        if isinstance(A, sp.csr_array):
            kept = sp.csr_array((data, A.indices, A.indptr), shape=A.shape)
        return Problem(
            name=self.path.name,
            group="compare",
            A=kept,
            b=b,
            x0=point,
            dtype=dtype,
            seed=SEED,
            reference=str(self.path),
            row_names=names,
        )

    def right_side(self) -> Vector:
        """Return b, or refuse a system without it."""
        if self.loaded.b is None:
            beside = f"{self.path.name.partition('.')[0]}_b.*"
            wanted = f"--b FILE or a number, or the file {beside} beside it"
            raise wrong(self.path, "holds A and no b", wanted)
        return _wide(self.loaded.b)

    @property
    def point(self) -> str:
        """Where x₀ comes from."""
        if self.loaded.x0 is not None:
            return "x0 as given"
        return f"x0 standard normal, numpy.random.default_rng({SEED})"

    def equations_alone(self) -> StoredSystem:
        """The same without inequalities and bounds, which is said."""
        if not self.loaded.bounded:
            return self
        A, b, x0, names, notes = self.loaded
        notes = (*notes, "inequalities and bounds are left out, as --equations says")
        return replace(self, loaded=LoadedSystem(A, b, x0, names, notes))

    def code(self, dtype: Dtype) -> str:
        """The line that loads just what was compared."""
        return f"A, b, x0, names, notes = {self.load_call(dtype)}"

    def load_call(self, dtype: Dtype) -> str:
        """The call that loads just what was compared."""
        arguments: dict[str, Any] = {"b": self.b, "x0": self.x0, "key": self.key}
        if dtype != self.dtype:
            arguments["dtype"] = dtype
        given = [
            f"{name}={quoted(value) if isinstance(value, Path | str) else repr(value)}"
            for name, value in arguments.items()
            if value is not None
        ]
        return f"load({', '.join([quoted(self.path), *given])})"

    @property
    def b_error_code(self) -> str:
        """What `projector` takes as its b_error; "" where none was given."""
        if self.b_error is None:
            return ""
        if isinstance(self.b_error, Path):
            return f"load({quoted(self.path)}, b={quoted(self.b_error)}).b"
        return repr(self.b_error)


def _wide(values: Any) -> Vector:
    return np.asarray(values, dtype=np.float64)


def quoted(path: Path | str) -> str:
    """Some text as Python text."""
    text = str(path)
    plain = text.isprintable() and not set('"\\') & set(text)
    return f'"{text}"' if plain else repr(text)


def read(
    path: Path,
    b: Path | float | None = None,
    x0: Path | float | None = None,
    key: str | None = None,
    b_error: Path | float | None = None,
) -> StoredSystem:
    """Read one system; `b` and `x0` replace what it holds of these.

    Raises
    ------
    InputError
        Any of the files cannot be read, or they do not fit together; an error that is negative.
    """
    loaded = load(path, b, x0, key=key)
    if b_error is None:
        return StoredSystem(path, loaded, b, x0, key)
    notes: list[str] = []
    errors = _wide(read_vector(path, "b_error", b_error, loaded.A.shape[0], notes, loaded.names))
    check_b_error(errors)
    loaded = loaded._replace(notes=(*loaded.notes, *notes))
    return StoredSystem(path, loaded, b, x0, key, b_error, errors)
