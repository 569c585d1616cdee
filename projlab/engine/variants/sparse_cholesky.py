"""Sparse factor of the Gram matrix E E' + s I, and corrections that take the shift s out again.

x <- x - E'(E E' + s I)^-1 (E x - f) with the true residual, as often as random vectors need to come
down to rounding (`projlab.engine.corrections`). Redundant rows need no decision: along a singular
value sigma a correction leaves s / (sigma^2 + s), so that what counts as zero stays where it is.
Where a small sigma makes that slow, each correction is some steps of conjugate gradients with the
factor as preconditioner.

Where random vectors, projected, show a null space of few dimensions (rows of a chain, of a tree's
edges, of almost as many rows as variables), a basis Z of it projects for a fixed right side:
x <- p + Z'Z (x - p), with the point p that is nearest to zero.

Reference: Golub and Van Loan, "Matrix Computations", 4th ed., sections 5.3.2 and 11.5.2; Riley,
MTAC 9 (1955) (the shift, and iterations that remove it); George and Liu, "Computer Solution of
Large Sparse Positive Definite Systems" (1981). The order and the factor: see
`projlab.numerics.sparse_factor`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from typing import NamedTuple, Self
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.compiler import is_exporting

from projlab import tolerance
from projlab.engine.corrections import Corrected, Probes, Products, Vectors, corrected
from projlab.engine.kernels import elimination
from projlab.engine.variants.base import Bound, Factor, Variant
from projlab.errors import InputError, RankDeficientError
from projlab.numerics.sparse_gram import SparseGram
from projlab.system.rows import Rows, SparseBatch, SparseRows

_grams: WeakValueDictionary[int, SparseGram] = WeakValueDictionary()
"""The factors in use, for compiled programs, which hold tensors and numbers alone."""

_numbers = count()


@dataclass(frozen=True)
class SparseCholeskyFactor(Factor):
    """Entries of E, from which all else is made again where it is not there.

    Works in float64 whatever dtype vectors have. The entries of B systems are those of one that is
    block diagonal.
    """

    rows: Tensor
    cols: Tensor
    values: Tensor
    order: Tensor
    """In which the rows, and columns kept apart, are eliminated."""
    shape: tuple[int, int]
    """Of one system."""
    batch: int | None
    shift: float
    passes: int
    inner: int
    null: Tensor | None = None
    """Orthonormal rows (k, n) that span the null space, where k is small; a row of zeros for 0."""
    _number: int = field(init=False, repr=False, compare=False)
    """Of this factor's `gram`, among those in use."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_number", next(_numbers))

    @cached_property
    def gram(self) -> SparseGram:
        """Products and factor, made at first use."""
        found = _grams.get(self._number)
        if found is None:
            (m, n), systems = self.shape, self.batch or 1
            whole = systems * m, systems * n
            found = SparseGram(
                self.rows,
                self.cols,
                self.values,
                whole,
                self.shift,
                self.order,
                elimination.available(self.values.device),
            )
            found.factor()
            _grams[self._number] = found
        return found

    def with_gram(self, gram: SparseGram) -> Self:
        """Itself, with what was made already."""
        self.__dict__["gram"] = _grams[self._number] = gram
        return self

    @cached_property
    def _fused(self) -> elimination.Projection | None:
        """All corrections in one call, where kernels do that."""
        gram = self.gram
        if self.inner or self.batch is not None:
            return None
        return elimination.Projection.of(gram, self.passes)

    def bound(self, c: Tensor) -> Bound:
        if self.null is not None:
            return _Near(self, c, self.null).bound()
        fused = None if c.dtype is not torch.float64 else self._fused
        native = None if fused is None else fused.for_vectors(c)
        return super().bound(c)._replace(native=native)

    def right_side(self, f: Tensor) -> Tensor:
        return -(f if self.batch is not None else f[..., self.gram.order])

    def project(self, x: Tensor, c: Tensor | None) -> Tensor:
        if self.null is not None and c is None and not is_exporting():
            return ((x.double() @ self.null.mT) @ self.null).to(x.dtype)
        if self._fused is not None and not is_legacy_batchedtensor(x) and not is_exporting():
            return self._fused.project(x.double(), self._right(x, c))[0].to(x.dtype)
        return self._solved(x, c)[0]

    def project_(self, x: Tensor, c: Tensor | None) -> None:
        if self.batch is not None or x.dtype is not torch.float64 or self._fused is not None:
            x.copy_(self.project(x, c))
            return
        right = self._right(x, c)
        for _ in range(self.passes):
            x.sub_(self._step(x, right)[0])

    def multipliers(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self._solved(x, c)[1]

    def _solved(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """The projection and its multipliers."""
        if is_legacy_batchedtensor(x):
            self.gram  # noqa: B018  # made where the operator finds it
            systems = 0 if self.batch is None else self.batch
            lanes: tuple[Tensor, Tensor] = _lanes(
                x, c, self._number, self.passes, self.inner, systems
            )
            return lanes
        work, right = self._flat(x).double(), self._right(x, c)
        if self._fused is not None and not is_exporting():
            moved, y = self._fused.project(work, right)
            return moved.to(x.dtype), self._given_order(y).to(x.dtype)
        total: Tensor | None = None
        for _ in range(self.passes):
            moved, y = self._step(work, right)
            work = work - moved
            total = y if total is None else total + y
        assert total is not None
        y = self._given_order(total)
        return self._shaped(work, x).to(x.dtype), self._shaped(y, x).to(x.dtype)

    def _given_order(self, total: Tensor) -> Tensor:
        y = torch.empty_like(total)
        y[..., self.gram.order] = total
        return y

    def to(self, device: torch.device) -> Self:
        moved = super().to(device)
        if device != self.values.device:
            moved.gram.factor()  # what the device cannot do is said now
        return moved

    def independent(self, cutoff: float) -> bool:
        return self.gram.independent(tolerance.PROVEN * cutoff, tolerance.FAR_ABOVE)

    def _step(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """E'y and y of one correction."""
        if is_exporting():
            raise InputError(
                "torch.export cannot hold a sparse factor, which is no torch operator; export a "
                'projector with variant="qr"'
            )
        r = self.gram.times(x)
        y = self.gram.solve(r if c is None else r.add_(c), self.inner)
        return self.gram.transposed_times(y), y

    def _flat(self, x: Tensor) -> Tensor:
        """(B, k, n) as (k, B n)."""
        if self.batch is None:
            return x
        return x.transpose(0, 1).reshape(x.shape[1], len(x) * x.shape[2])

    def _shaped(self, flat: Tensor, x: Tensor) -> Tensor:
        """(k, B r) as (B, k, r)."""
        if self.batch is None:
            return flat
        width = flat.shape[-1] // len(x)
        return flat.reshape(x.shape[1], len(x), width).transpose(0, 1)

    def _right(self, x: Tensor, c: Tensor | None) -> Tensor | None:
        if c is None or self.batch is None:
            return None if c is None else c.double()
        # (B, k, r), or (B, 1, r) or (B, r) for one right side for all vectors
        c = (c.unsqueeze(1) if c.dim() == 2 else c).double()
        return self._flat(c.expand(-1, x.shape[1], -1))[..., self.gram.order]


class _Near:
    """p + Z'Z (x - p) for one right side; p is made at the first projection."""

    def __init__(self, factor: SparseCholeskyFactor, c: Tensor, null: Tensor) -> None:
        self._factor, self._c, self._null = factor, c, null

    @cached_property
    def _nearest(self) -> Tensor:
        zero = self._null.new_zeros(self._null.shape[1])
        return self._factor.project(zero, self._c)

    def bound(self) -> Bound:
        return Bound(None, self._project, self._project_)

    def _project(self, x: Tensor) -> Tensor:
        if is_exporting():
            return self._factor.project(x, self._c)  # which refuses
        return self._moved(x - self._nearest, None).to(x.dtype)  # in float64, as p is

    def _project_(self, x: Tensor) -> None:
        if x.dtype is torch.float64 and not is_legacy_batchedtensor(x):
            self._moved(x.sub_(self._nearest), x)
        else:
            x.copy_(self._project(x))

    def _moved(self, apart: Tensor, out: Tensor | None) -> Tensor:
        Z = self._null
        if apart.dim() == 1:
            return torch.addmv(self._nearest, Z.mT, Z @ apart, out=out)
        return torch.addmm(self._nearest, apart @ Z.mT, Z, out=out)


@torch.library.custom_op("projlab::sparse_cholesky", mutates_args=())
def _lanes(
    x: Tensor, c: Tensor | None, number: int, passes: int, inner: int, systems: int
) -> tuple[Tensor, Tensor]:
    """`SparseCholeskyFactor._solved` for `is_grads_batched`, which calls operators lane by lane."""
    gram = _grams[number]
    batch = systems or None
    shape = gram.shape[0] // (batch or 1), gram.shape[1] // (batch or 1)
    factor = SparseCholeskyFactor(
        *gram.entries, gram.elimination, shape, batch, gram.shift, passes, inner
    )
    projected, y = factor.with_gram(gram)._solved(x, c)
    return projected.clone(), y.clone()


def gram_of(
    rows: Tensor, cols: Tensor, values: Tensor, shape: tuple[int, int], batch: int | None = None
) -> SparseGram:
    """The Gram matrix of sorted entries, shifted, not yet factored; of a batch, block diagonal."""
    (m, n), systems = shape, batch or 1
    if batch is not None:
        system = torch.arange(batch, device=rows.device).unsqueeze(1)
        rows, cols = (rows + m * system).flatten(), (cols + n * system).flatten()
    shape = systems * m, systems * n
    return SparseGram(
        rows,
        cols,
        values.flatten(),
        shape,
        tolerance.gram_shift(m),
        elimination=elimination.available(values.device),
    )


class Judged(NamedTuple):
    """A factor of the shifted Gram matrix, and what corrections with it came to."""

    gram: SparseGram
    inner: int
    """Steps of conjugate gradients in each correction."""
    found: Corrected

    def factor(self, shape: tuple[int, int], batch: int | None = None) -> SparseCholeskyFactor:
        """As a factor of systems of this shape."""
        made = SparseCholeskyFactor(
            *self.gram.entries,
            self.gram.elimination,
            shape,
            batch,
            self.gram.shift,
            self.found.passes,
            self.inner,
            self._null_space() if batch is None else None,
        )
        return made.with_gram(self.gram)

    def _null_space(self) -> Tensor | None:
        """`SparseCholeskyFactor.null`, of what is left of the random vectors; None where too many.

        Beyond the dimension that is rounding. What is neither that nor long decides nothing.
        """
        ends = self.found.ends
        count, n = ends.shape
        if not self.found.at_rest or n - self.gram.shape[0] >= count or n == 0:
            return None
        Z, rest = _orthonormal(ends, tolerance.NULL_SPACE * n**0.5)
        if len(Z) == count or rest > tolerance.STALLED * n**0.5:
            return None
        if len(Z) == 0:  # a row of zeros: nothing moves, and NaN goes through
            return torch.zeros_like(ends[:1])
        # what was rounding counts, now that lengths are one
        fused = None if self.inner else elimination.Projection.of(self.gram, self.found.passes)
        if fused is not None:
            return _orthonormal(fused.project(Z, None)[0], 0.0)[0]
        for _ in range(self.found.passes):
            r = self.gram.times(Z)
            Z = Z - self.gram.transposed_times(self.gram.solve(r, self.inner))
        return _orthonormal(Z, 0.0)[0]


def _orthonormal(rows: Tensor, negligible: float) -> tuple[Tensor, float]:
    """A basis of the rows, and the length of the longest that is left, at most `negligible`.

    By Gram and Schmidt, the longest first and each twice (Golub and Van Loan, 4th ed., section
    5.2): of a few long rows, which a QR would copy.
    """
    basis, left = rows[:0], rows
    while True:
        lengths = torch.linalg.vector_norm(left, dim=-1)
        longest, size = int(lengths.argmax()), float(lengths.max())
        if len(basis) == len(rows) or not size > negligible:
            return basis, size
        one = left[longest] / size
        for _ in range(2):
            one = one - (basis @ one) @ basis
            one = one / torch.linalg.vector_norm(one)
        basis = torch.cat([basis, one.unsqueeze(0)])
        for _ in range(2):
            left = left - (left @ one).unsqueeze(-1) * one


def judged(
    gram: SparseGram, rows: Rows, f: Tensor, steps: Sequence[int] = tolerance.INNER_STEPS
) -> Judged:
    """The first way that does: this shift or a smaller one, or steps within each correction."""
    if rows.batch is None:
        f = f[gram.order]
    best = _tried(gram, 0, rows, f)
    if not best.found.at_rest:
        smaller = gram.reshifted(gram.shift * tolerance.SMALLER_SHIFT)
        ways = ((smaller, 0), *((gram, inner) for inner in steps if inner))
        for other, inner in ways:
            best = _tried(other, inner, rows, f)
            if best.found.at_rest:
                break
    return best


def judged_alone(gram: SparseGram, rows: Rows) -> Judged:
    """`judged` of rows without a right side, factored now.

    Raises
    ------
    MemoryLimitError
        The factor does not fit.
    RankDeficientError
        Corrections with it are too slow.
    """
    gram.factor()
    whole = rows if rows.batch is not None else SparseRows(*gram.entries, gram.shape)
    lead = () if rows.batch is None else (rows.batch,)
    f = torch.zeros(*lead, rows.shape[0], dtype=torch.float64, device=rows.device)
    best = judged(gram, whole, f)
    if not best.found.at_rest:
        raise RankDeficientError(too_slow(*rows.shape, best.found))
    return best


def _tried(gram: SparseGram, inner: int, rows: Rows, f: Tensor) -> Judged:
    """One way; f (m,) in the order of the factor, of a batch (B, m) in that of the rows."""
    solve: Callable[[Tensor], Tensor] = partial(gram.solve, steps=inner)
    if rows.batch is not None:  # each system by its own norms: rows (B, m, n) and f (B, m)
        systems = SparseBatch(*rows.to(torch.float64).triplets(), rows.shape)
        products = _of_systems(gram, solve, rows.batch)
        return Judged(gram, inner, corrected(Probes(systems, f, products)))
    vectors: Vectors | None = None if inner else elimination.Probes.of(gram, f)
    if vectors is None:
        ordered = SparseRows(*gram.E.entries(), gram.shape)
        products = Products(gram.times, gram.transposed_times, solve)
        vectors = Probes(ordered, f, products)
    found = corrected(vectors)
    return Judged(gram, inner, found._replace(worst=int(gram.order[found.worst])))


def _of_systems(gram: SparseGram, solve: Callable[[Tensor], Tensor], batch: int) -> Products:
    """Products with vectors (B, k, n) and (B, k, m) of systems that the factor holds as one."""

    def whole(v: Tensor) -> Tensor:
        return v.transpose(0, 1).flatten(1)

    def apart(v: Tensor) -> Tensor:
        return v.reshape(len(v), batch, -1).transpose(0, 1)

    def given_order(y: Tensor) -> Tensor:
        given = torch.empty_like(y)
        given[:, gram.order] = y
        return apart(given)

    return Products(
        lambda x: given_order(gram.times(whole(x))),
        lambda y: apart(gram.transposed_times(whole(y)[:, gram.order])),
        lambda r: given_order(solve(whole(r)[:, gram.order])),
    )


class SparseCholesky(Variant):
    name = "sparse_cholesky"
    keeps_sparse = True
    summary = "sparse factor of the Gram matrix, corrected; errs like kappa u; never made dense"
    finds_out = True

    def factor(self, rows: Rows, u: float) -> SparseCholeskyFactor:
        i, j, values = rows.triplets()
        gram = gram_of(i, j, values, rows.shape, rows.batch)
        return judged_alone(gram, rows).factor(rows.shape, rows.batch)

    def error_growth(self, condition: float, u: float) -> float:
        return tolerance.backward_stable_growth(condition, u)

    def flops(self, m: int, n: int) -> tuple[float, float]:
        # of a dense matrix, which others do faster: see `projlab.engine.sparse` for sparse ones
        return 2.0 * m * m * n + m**3, tolerance.CORRECTIONS * (4.0 * m * n + 4.0 * m * m)

    def limitation(self, *, m: int, n: int, condition: float, u: float) -> str | None:
        if not tolerance.shift_unsafe(m, condition):
            return None
        return (
            f"kappa = {condition:.2g} is squared in the Gram matrix, to which a shift of "
            f"{tolerance.gram_shift(m):.1g} is added: corrections may be too slow to take it out"
        )


def too_slow(m: int, n: int, found: Corrected) -> str:
    """What was reached, and what to do about it."""
    return (
        f"sparse_cholesky: {found.passes} corrections left {found.left:.2g} of the residual of a "
        f"random vector in {m} rows of {n} variables, and a further one moved it by "
        f"{found.moved:.2g} of its length, where rounding is "
        f"{tolerance.ANSWERED * tolerance.unit_roundoff(torch.float64):.2g}: rows nearly follow "
        'from others. Use variant="qr" or "pinv", which decide the rank on A itself where a dense '
        "matrix fits, or leave such rows out."
    )
