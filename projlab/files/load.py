"""`load`: one system from one file, and what of the file was taken as what."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from projlab.errors import InputError
from projlab.files.arrays import Matrix, Vector, require_fit, row_names, vector
from projlab.files.contents import (
    BOUNDS,
    KEYS,
    MATRICES,
    RIGHT_SIDES,
    Contents,
    Format,
    Parts,
    held_by,
    keys_with_matrices,
    listed,
    printable,
    under,
)
from projlab.files.find import companions, format_of
from projlab.files.matrices import PARTS_OF_SPARSE, from_parts, is_sparse_by_parts, matrix
from projlab.files.refusal import plain, shown, wrong

if TYPE_CHECKING:
    from projlab.system.polyhedron import Polyhedron

Source = str | os.PathLike[str] | float

ALIASES = {
    "b": ("b", "beq", "b_eq", "A"),
    "b_error": ("b_error", "b", "A"),
    "x0": ("x0", "x", "A"),
}
"""What a vector may be called in a file of its own."""


class _Equations(NamedTuple):
    A: Matrix
    b: Vector | None
    x0: Vector | None
    names: tuple[str, ...] | None
    notes: tuple[str, ...]


class LoadedSystem(_Equations):
    """What a file says: ``A, b, x0, names, notes`` as a tuple, and attributes beside it.

    Attributes
    ----------
    A
        (m, n): an array, or a `scipy.sparse.csr_array` where the file is sparse; float32 where it
        is stored in that or less, else float64. m is zero where a file holds inequalities alone.
    b, x0
        (m,) and (n,); None where neither the file nor the caller says.
    names
        Of the rows of A, where the file has them.
    notes
        What was taken as what where that was a choice, and what was left out, a sentence each.
    G, h
        Inequalities G x ≤ h, (p, n) and (p,); None where the file has none.
    lb, ub
        Bounds lb ≤ x ≤ ub, (n,) each, infinite where there is none; None where none is finite.
    inequality_names
        Of the rows of G, where the file has them.
    """

    G: Matrix | None = None
    h: Vector | None = None
    lb: Vector | None = None
    ub: Vector | None = None
    inequality_names: tuple[str, ...] | None = None

    @property
    def bounded(self) -> bool:
        """Whether there are inequalities or bounds beside the equations."""
        return not (self.G is self.lb is self.ub is None)

    @property
    def polyhedron(self) -> Polyhedron:
        """The set {x : A x = b, G x ≤ h, lb ≤ x ≤ ub}, which `projector` takes.

        Raises
        ------
        InputError
            There are rows and no right side.
        InconsistentError
            A lower bound is above an upper one.
        """
        from projlab.system.polyhedron import Polyhedron  # with torch, which no reader needs

        m, n = self.A.shape
        if m and self.b is None:
            raise InputError("there is A and no b; give load one: b=")
        p = 0 if self.h is None else len(self.h)
        named = self.names is not None or self.inequality_names is not None
        rows = self.names or tuple(f"row {i}" for i in range(m))
        names = (*rows, *(self.inequality_names or (f"inequality {i}" for i in range(p))))
        return Polyhedron(
            self.A if m else None,
            self.b if m else None,
            self.G,
            self.h,
            self.lb,
            self.ub,
            n=n,
            names=names if named and m + p else None,
        )

    def with_bounds(
        self,
        G: Matrix | None,
        h: Vector | None,
        lb: Vector | None,
        ub: Vector | None,
        inequality_names: tuple[str, ...] | None = None,
    ) -> LoadedSystem:
        """The same equations beside these inequalities and bounds."""
        made = LoadedSystem(*self)
        made.G, made.h, made.lb, made.ub = G, h, lb, ub
        made.inequality_names = inequality_names
        return made

    def _replace(self, **parts: Any) -> LoadedSystem:
        """The same with other members of the tuple, and what stands beside them."""
        return LoadedSystem._make(super()._replace(**parts)).with_bounds(
            self.G, self.h, self.lb, self.ub, self.inequality_names
        )


def load(
    path: str | os.PathLike[str],
    b: Source | None = None,
    x0: Source | None = None,
    *,
    key: str | None = None,
    dtype: Literal["float64", "float32"] | None = None,
) -> LoadedSystem:
    """Read a system A x = b from a file, and inequalities and bounds; nothing is ever executed.

    Parameters
    ----------
    path
        ``.npz``, ``.npy``, ``.mat`` (version 7 or older), ``.pt``, ``.pth``, ``.safetensors``, or
        ``.csv``, ``.tsv``, ``.mtx``, ``.mps``, these four also with ``.gz`` or ``.bz2``.
    b, x0
        A file with the right-hand side or the point, or one number for all of it; they replace what
        `path` holds. By default NAME_b.* and NAME_x0.* beside NAME.*, where it holds none.
    key
        Of a file whose parts have names: the one that holds A, b and the like, as ``model`` or
        ``state.equations``, or the one that is A, as ``model.S``; the others are then sought beside
        it.
    dtype
        Of what is returned; by default as stored.

    Returns
    -------
    LoadedSystem
        ``A, b, x0, names, notes``, which ``projector(A, b)`` and ``AffineConstraint(A, b, names)``
        take; with the attributes G, h, lb and ub, and ``projector(system.polyhedron)`` for all.

    Raises
    ------
    InputError
        A file cannot be read, or not as one system: the sentence names the file, the place in it,
        what stands there, and what is wanted.
    ImportError
        safetensors is not installed.
    """
    path = Path(path)
    format_ = format_of(path)
    contents = format_.read(path)
    notes = list(contents.notes)
    parts, named = _asked_for(path, format_, contents, key)
    system = _system(path, format_, parts, named, notes)
    m, n = system.A.shape
    right, point = system.b, system.x0
    if b is not None or right is None:
        right = _given(path, "b", b, m, notes, system.names)
    else:
        notes += _unused(path, "b")
    if x0 is not None or point is None:
        point = _given(path, "x0", x0, n, notes)
    else:
        notes += _unused(path, "x0")
    system = system._replace(b=right, x0=point, notes=tuple(dict.fromkeys(map(plain, notes))))
    return system if dtype is None else _rounded(path, system, dtype)


def _unused(path: Path, name: str) -> list[str]:
    """Sentences on the files beside the system's that its own vector makes idle."""
    own = f"{path.name} has its own {name}"
    return [f"{beside.name} is left out: {own}" for beside in companions(path, name)]


def _asked_for(
    path: Path, format_: Format, contents: Contents, key: str | None
) -> tuple[Parts, str | None]:
    if key is None:
        return contents.parts, None
    if not format_.keyed:
        raise wrong(path, f"is {format_.what}, whose parts have no names", f"no key {shown(key)}")
    return under(path, contents.parts, key)


def _system(
    path: Path, format_: Format, parts: Parts, named: str | None, notes: list[str]
) -> LoadedSystem:
    """Check what a file holds and put it into the form that everything else takes."""
    held = held_by(parts)
    name = named or _matrix_name(path, format_, parts, held)
    parts, taken = _inequalities(name, parts, notes)
    G = matrix(path, "G", parts["G"], notes) if "G" in parts else None
    if name is None and G is not None and not is_sparse_by_parts(parts):
        A: Matrix = np.zeros((0, G.shape[1]), dtype=G.dtype)
        used: set[str] = set()
    elif name is None:
        A = from_parts(path, parts, notes)
        used = {*PARTS_OF_SPARSE, "format", "_is_array"}
    else:
        A, used = matrix(path, name, parts[name], notes), {name}
    m, n = A.shape
    if not (n and (m or G is not None or "lb" in parts or "ub" in parts)):
        raise wrong(path, f"holds A of shape {(m, n)}", "at least one row and one column")
    if "x" in parts and "x0" in parts:
        raise wrong(path, "holds both x and x0", "one of them")
    right = RIGHT_SIDES.get(name or "A", "b")
    point = "x0" if "x0" in parts else "x"
    used |= {right, point, "names", *BOUNDS, *taken}
    left_out = [key for key in parts if key not in used]
    if left_out:
        notes.append(f"left out: {listed(list(map(printable, left_out)))}")
    if name in ("Aeq", "A_eq"):
        notes.append(f"the equations are {name} and {right}")
    b = vector(path, right, parts[right], m, name or "A", notes) if right in parts else None
    system = LoadedSystem(
        A,
        np.zeros(0, dtype=np.float64) if b is None and not m else b,
        vector(path, point, parts[point], n, name or "A", notes) if point in parts else None,
        row_names(path, parts["names"], m) if "names" in parts else None,
        (),
    )
    return _bounded(path, system, G, parts, notes)


def _inequalities(
    name: str | None, parts: Parts, notes: list[str]
) -> tuple[Parts, tuple[str, ...]]:
    """The parts with G and h, and what these are called: MATLAB has A beside Aeq, scipy A_ub."""
    if name not in ("Aeq", "A_eq") or "G" in parts or "h" in parts:
        return parts, ()
    for matrix_, right in (("A", "b"), ("A_ub", "b_ub")):
        if matrix_ in parts and right in parts:
            notes.append(f"the inequalities are {matrix_} and {right}")
            return {**parts, "G": parts[matrix_], "h": parts[right]}, (matrix_, right)
    return parts, ()


def _bounded(
    path: Path, system: LoadedSystem, G: Matrix | None, parts: Parts, notes: list[str]
) -> LoadedSystem:
    """The system with what a file says of inequalities and bounds."""
    n = system.A.shape[1]
    if ("h" in parts) != (G is not None):
        has, lacks = ("h", "G") if G is None else ("G", "h")
        raise wrong(path, f"holds {has} and no {lacks}", "both, for G x ≤ h")
    p = 0
    if G is not None:
        p = G.shape[0]
        if G.shape[1] != n:
            raise wrong(path, f"holds G of shape {(p, G.shape[1])}", f"(p, {n}), to fit A")
    found = {
        name: vector(path, name, parts[name], length, of, notes, infinite=True)
        for name, length, of in (("h", p, "G"), ("lb", n, "A"), ("ub", n, "A"))
        if name in parts
    }
    for name, never in (("h", -np.inf), ("lb", np.inf), ("ub", -np.inf)):
        if name in found and (found[name] == never).any():
            at = int((found[name] == never).argmax())
            raise wrong(path, f"holds {name}[{at}] = {never}", "a number that some x satisfies")
    lb, ub = (_some(found.get(name)) for name in ("lb", "ub"))
    names = parts.get("inequality_names")
    return system.with_bounds(
        G, found.get("h"), lb, ub, None if names is None else row_names(path, names, p)
    )


def _matrix_name(path: Path, format_: Format, parts: Parts, held: str) -> str | None:
    """The part that is the matrix; None where several are, of a sparse one.

    Aeq goes before A: where a file has both, A holds inequalities (MATLAB's linprog, scipy's).
    """
    found = [name for name in MATRICES if name in parts]
    if found and PARTS_OF_SPARSE & set(parts):
        raise wrong(path, f"holds both a dense A and CSR parts ({held})", KEYS)
    if not found and (is_sparse_by_parts(parts) or "G" in parts):
        return None
    if "Aeq" in found and "A_eq" in found:
        raise wrong(path, "holds both Aeq and A_eq", "one of them, or a key that names one")
    if found:
        return found[-1]
    keys = keys_with_matrices(parts)
    if keys:
        raise wrong(path, f"holds {held}", f"a key: {listed(keys)} (load(key=…), --key)")
    extra = ", or a key that names the matrix" if format_.keyed and parts else ""
    raise wrong(path, f"holds {held}", format_.wanted + extra)


def _given(
    path: Path,
    name: str,
    source: Source | None,
    length: int,
    notes: list[str],
    rows: tuple[str, ...] | None = None,
) -> Any:
    """b or x0 from a number, from a file, or from the file beside the system's."""
    if isinstance(source, bool | np.bool_) or not isinstance(
        source, str | os.PathLike | int | float | np.integer | np.floating | None
    ):
        raise InputError(f"{name} is a {type(source).__name__}; it must be a file or a number")
    if isinstance(source, str | os.PathLike):
        return _vector_file(Path(source), name, length, path, notes, rows)
    if source is not None:
        if not math.isfinite(source):
            raise InputError(f"{name} is {source}; it must be finite")
        return np.full(length, float(source))
    beside = companions(path, name)
    if not beside:
        return None
    if len(beside) > 1:
        said = f"stands beside {' and '.join(file.name for file in beside)}"
        raise wrong(path, said, f"one of them, or {name}= (--{name})")
    notes.append(f"{name} is read from {beside[0].name}")
    return _vector_file(beside[0], name, length, path, notes, rows)


def read_vector(
    path: Path,
    name: str,
    source: Source,
    length: int,
    notes: list[str],
    rows: tuple[str, ...] | None = None,
) -> Vector:
    """A vector of `length` that goes with the system in `path`, from a file or one number."""
    given: Vector = _given(path, name, source, length, notes, rows)
    return given


def _vector_file(
    path: Path,
    name: str,
    length: int,
    of: Path,
    notes: list[str],
    rows: tuple[str, ...] | None,
) -> Vector:
    """A vector from a file that holds nothing else, or holds it by this name.

    Where the file names its entries, and the system its `rows`, these must be the same.
    """
    contents = format_of(path).read(path)
    parts: Mapping[str, Any] = contents.parts
    notes += [f"{path.name}: {note}" for note in contents.notes]
    aliases = ALIASES[name]
    known = [alias for alias in aliases if alias in parts]
    if not known and len(parts) == 1:
        known = list(parts)
    if known:
        value = parts[known[0]]
    elif is_sparse_by_parts(parts):
        value = from_parts(path, parts, notes)
    else:
        raise wrong(path, f"holds {held_by(parts)}", f"one vector, or one named {name}")
    read = vector(path, name, value, length, of.name, notes)
    if rows is not None and "names" in parts:
        named = row_names(path, parts["names"], length)
        for i, (here, there) in enumerate(zip(named, rows, strict=True)):
            if here != there:
                said = (
                    f"names entry {i} of {name} {shown(here)}, and {of.name} its row {shown(there)}"
                )
                raise wrong(path, said, "the same names in the same order")
    return read


def _rounded(path: Path, system: LoadedSystem, dtype: str) -> LoadedSystem:
    if dtype not in ("float64", "float32"):
        raise InputError(f'dtype is {dtype!r}; it must be "float64" or "float32"')
    rows: list[Any] = [system.A, system.b, system.G, system.h]
    points: list[Any] = [system.x0, system.lb, system.ub]
    require_fit(path, [part for part in rows if part is not None], dtype)
    require_fit(path, [part for part in points if part is not None], dtype, small=True)
    with np.errstate(over="ignore"):
        A, b, G, h, x0, lb, ub = (
            None if part is None else part.astype(dtype) for part in (*rows, *points)
        )
    return system._replace(A=A, b=b, x0=x0).with_bounds(G, h, lb, ub, system.inequality_names)


def _some(bound: Vector | None) -> Vector | None:
    """A bound that holds anywhere."""
    return bound if bound is not None and np.isfinite(bound).any() else None
