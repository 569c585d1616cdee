"""LSQR on the equilibrated rows, repeated on the true residual: no factorisation.

Each cycle solves E E' y = E x - f by LSQR and takes E' y from x; the next starts from
the residual that is left, evaluated afresh, until that is rounding. How far x is from the set is at
most ||E x - f|| / sigma_min; sigma_min is estimated from the Lanczos coefficients of a random
vector. x - x0 is in the row space by construction.

Reference: Bjorck, "Numerical Methods for Least Squares Problems", sections 7.4.1 and 7.4.2; Golub
and Van Loan, "Matrix Computations", 4th ed., sections 11.3 and 11.4.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.kernels.column_blocks import ColumnBlocks
from projlab.engine.variants.base import Factor, Variant
from projlab.errors import AccuracyError, InputError
from projlab.numerics import lsqr, memory
from projlab.numerics.scaling import scale
from projlab.numerics.sparse_products import Compressed, both, compressed
from projlab.system.equilibration import safe_norms
from projlab.system.inputs import broadcast_shape
from projlab.system.operator_rows import OperatorRows
from projlab.system.rows import Rows, SparseRows

log = logging.getLogger("projlab.iterative")

LOOK = 16
"""Steps between looks at the numbers, which wait for the device; on a CPU there is none to wait."""

LOOK_AGAIN = 1.1
"""Times the steps taken, an estimate of the smallest singular value is made anew: it costs one pass
over all coefficients."""

SAY = 5.0
"""Seconds between lines of progress."""

Preconditioner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Products:
    """E x and E' y."""

    forward: Compressed | None
    adjoint: Compressed | None
    """None on the CPU, where `forward` does both."""
    rows: Rows | None
    """In the place of both, where the rows are not sparse."""
    blocks: ColumnBlocks | None = None
    """What `forward` does for one vector, where that is faster."""

    @classmethod
    def of(cls, rows: Rows) -> "Products":
        """Those of any rows."""
        if isinstance(rows, SparseRows):
            return cls._by(rows.triplets(), rows.shape)
        return cls(None, None, rows)

    @classmethod
    def _by(cls, entries: tuple[Tensor, Tensor, Tensor], shape: tuple[int, int]) -> "Products":
        if entries[2].device.type == "cpu":
            forward = compressed(*entries, shape)
            return cls(forward, None, None, ColumnBlocks.of(forward))
        return cls(*both(*entries, shape), None)

    def matvec(self, x: Tensor) -> Tensor:
        if self.forward is None:
            assert self.rows is not None
            return self.rows.matvec(x)
        if self.blocks is not None and x.numel() == x.shape[-1]:
            return self.blocks.times(x)
        return self.forward.times_on_host(x) if self.adjoint is None else self.forward(x)

    def rmatvec(self, y: Tensor) -> Tensor:
        if self.forward is None:
            assert self.rows is not None
            return self.rows.rmatvec(y)
        if self.blocks is not None and y.numel() == y.shape[-1]:
            return self.blocks.transposed_times(y)
        if self.adjoint is None:
            return self.forward.times_on_host(y, transposed=True)
        return self.adjoint(y)

    def continued(self, r: Tensor) -> lsqr.Continued | None:
        """For right sides of the shape of r, what `lsqr.solve` may be given; None for nothing."""
        if self.blocks is None or r.numel() != r.shape[-1]:
            return None
        return self.blocks.continued

    def to(self, device: torch.device) -> "Products":
        """The same on another device."""
        if self.forward is None:
            assert self.rows is not None
            return replace(self, rows=self.rows.to(device=device))
        moved = self.forward.to(device)
        return self._by(moved.entries(), moved.size)


@dataclass(frozen=True)
class IterativeFactor(Factor):
    """What an iteration goes by: products, and what was learned from a random vector."""

    opaque = True
    products: Products
    inverse_norm2: Tensor | None
    """(r,), or (B, 1, r): Jacobi's preconditioner; None for an operator."""
    preconditioner: Preconditioner | None
    smallest: Tensor
    """Singular value that is counted on, (), or (B, 1) for a batch."""
    largest: Tensor
    rough: Tensor
    """What rounding of x is, over u ||x||, as `measure` sees it."""
    left: Tensor
    """Of E x - f, where zero is projected: what redundant rows disagree by."""
    taken: int
    """Steps that a random vector took."""
    limit: int
    """Steps of a projection."""
    accuracy: float | None
    size: tuple[int, int]
    data: float
    """Unit roundoff of the data: what redundant rows may be off by, relative."""

    def right_side(self, f: Tensor) -> Tensor:
        return -f

    def project(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self._parts(x, c)[0]

    def project_(self, x: Tensor, c: Tensor | None) -> None:
        x.copy_(self.project(x, c))

    def multipliers(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self._parts(x, c)[1]

    def to(self, device: torch.device) -> Self:
        moved = super().to(device)
        return replace(moved, products=self.products.to(device))

    def precondition(self, r: Tensor) -> Tensor:
        """M r, with M about (E E')^-1."""
        if self.preconditioner is not None:
            return self.preconditioner(r)
        return r if self.inverse_norm2 is None else r * self.inverse_norm2

    def _parts(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Projection and multipliers, as many vectors at once as there is memory for."""
        if torch._C._functorch.is_legacy_batchedtensor(x):
            return self._in_lanes(x, c)
        many = x.shape[-2] if x.dim() > 1 else 1
        m, n = self.size
        systems = x.shape[0] if self.smallest.dim() else 1
        each = vector_bytes(m, n, x.dtype) * max(systems, 1)
        together = max(1, memory.limit(x.device) // each)
        if many <= together:
            return self.solved(x, c)[:2]
        spread = c is not None and c.dim() > 1 and c.shape[-2] > 1
        sides = c.split(together, -2) if spread and c is not None else None
        parts = [
            self.solved(part, c if sides is None else sides[i])[:2]
            for i, part in enumerate(x.split(together, -2))
        ]
        return torch.cat([p for p, _ in parts], -2), torch.cat([y for _, y in parts], -2)

    def _in_lanes(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """`_parts` of what `torch.autograd.grad(..., is_grads_batched=True)` hands in.

        Its lanes are wrapped in tensors that tell no values, and no function can give a rule.
        """
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        systems = self.smallest.dim() > 0

        def opened(t: Tensor) -> Tensor:
            lanes: Tensor = torch._remove_batch_dim(t, level, 1, 0)
            return lanes.movedim(0, 1).flatten(1, 2) if systems else lanes

        wide = opened(x)
        lanes = wide.numel() // x.numel()
        if c is not None and torch._C._functorch.is_legacy_batchedtensor(c):
            c = opened(c)
        elif c is not None and systems and c.shape[1] > 1:
            c = c.repeat(1, lanes, 1)

        def closed(t: Tensor) -> Tensor:
            apart = t.unflatten(1, (lanes, -1)).movedim(1, 0) if systems else t
            wrapped: Tensor = torch._add_batch_dim(apart, 0, level)
            return wrapped

        projected, y = self._parts(wide, c)
        return closed(projected), closed(y)

    def solved(self, x0: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, int]:
        """Projection, multipliers, and the steps of all cycles.

        Raises `AccuracyError` where a vector did not come as close as it should.
        """
        end = self.iterated(x0, c)
        self._require(end)
        return end.x, end.y, end.steps

    def iterated(self, x0: Tensor, c: Tensor | None) -> "End":
        """Cycles for as long as they help, of what has squares: else times powers of two."""
        size: Tensor = torch.linalg.vector_norm(x0, torch.inf, dim=-1)
        if c is not None:
            size = torch.maximum(size, torch.linalg.vector_norm(c, torch.inf, dim=-1))
        least, most = safe_norms(x0.dtype)
        outside = (size > 0) & ~((least < size) & (size < most / x0.shape[-1])) & size.isfinite()
        if not bool(outside.any()):
            return self._cycles(x0, c)
        power = torch.where(outside, -torch.frexp(size).exponent, 0).unsqueeze(-1)
        end = self._cycles(scale(x0, power), None if c is None else scale(c, power))
        x, y, r = (scale(t, -power) for t in (end.x, end.y, end.r))
        return end._replace(x=x, y=y, r=r, off=scale(end.off.unsqueeze(-1), -power).squeeze(-1))

    def _cycles(self, x0: Tensor, c: Tensor | None) -> "End":
        x = x0 if c is None else x0.expand(*broadcast_shape(x0.shape[:-1], c.shape[:-1]), -1)
        start = torch.linalg.vector_norm(x, dim=-1)
        y, total, before = torch.zeros_like(x[..., :1]), 0, None
        again = torch.zeros_like(start, dtype=torch.bool)
        """Whether the last cycle gained nothing, by which a second is judged: near rounding one may
        fail by chance."""
        while True:
            r = self.products.matvec(x)
            r = r if c is None else r + c
            off = self.measure(r)
            scale = torch.maximum(start, torch.linalg.vector_norm(x, dim=-1))
            wanted, allowed = self._limits(scale, x.dtype)
            stalled = torch.zeros_like(off, dtype=torch.bool)
            if before is not None:
                stalled = off > tolerance.REFINEMENT_GAIN * before
            lost = ~off.isfinite()  # for good: no step comes of it, and none would end it
            reached = lost | (off <= wanted) | (stalled & (off <= allowed))
            if bool((reached | (stalled & again)).all()) or total >= self.limit:
                break
            again = stalled
            step, done = self._cycle(r, start, wanted, reached, self.limit - total)
            total, y, before = total + done, y + step, off
            x = x - self.products.rmatvec(step)
        if bool(lost.any()):
            _require_lost_as_given(lost, start if c is None else start + c.sum(-1))
        nan = lost.unsqueeze(-1)
        y = y.expand(r.shape).masked_fill(nan, math.nan)
        error = off / (self.smallest * scale)
        return End(x.masked_fill(nan, math.nan), y, r, off, error, reached, total)

    def require_reachable(self, u: float) -> None:
        """Raise `AccuracyError` for an accuracy that rounding alone is known to spoil."""
        condition = float((self.largest / self.smallest).max())
        least = 2 * tolerance.backward_stable_growth(condition, u)
        if self.accuracy is not None and self.accuracy < least:
            raise AccuracyError(
                f"accuracy={self.accuracy:.2g}: iterative reaches about {least:.2g} at condition "
                f"number {condition:.2g} (estimated) in this precision"
            )

    def measure(self, r: Tensor) -> Tensor:
        """The norm of M^(1/2) r."""
        size2: Tensor = torch.linalg.vecdot(r, self.precondition(r))
        return size2.clamp_min(0).sqrt()

    def _limits(self, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What the residual should come down to, and what is accepted where it does not."""
        u = tolerance.unit_roundoff(dtype)
        floor = tolerance.iterated_floor(u) * self.rough * scale
        if self.accuracy is None:
            coarse = tolerance.iterated_most(self.size[1], max(u, self.data))
            most = coarse * self.rough * scale + 2 * self.left
            return floor, most
        wanted = self.accuracy * self.smallest * scale
        return wanted, wanted

    def _cycle(
        self, r: Tensor, start: Tensor, wanted: Tensor, ended: Tensor, limit: int
    ) -> tuple[Tensor, int]:
        """y of one run of LSQR from the residual r, and its steps."""
        u = tolerance.unit_roundoff(r.dtype)
        r = r.masked_fill(ended.unsqueeze(-1), 0)
        first = self.measure(r)
        least = tolerance.CYCLE_DROP * u * first
        relative = self._limits(torch.ones_like(start), r.dtype)[0]

        def goal(at: lsqr.Steps) -> Tensor:
            # ||r - E E' y||^2 = ||r||^2 - ||E E' y||^2, and x is at least ||E' y|| - ||x0|| long
            moved = (first.square() - at.left.square()).clamp_min(0).sqrt() / self.largest
            grown = relative * (moved - start)
            return torch.maximum(torch.maximum(wanted, grown) * tolerance.CYCLE_AIM, least)

        y, at = self.run(r, goal, limit, watch=Progress(limit))
        return y, at.taken

    def run(
        self,
        r: Tensor,
        goal: Callable[[lsqr.Steps], Tensor],
        limit: int,
        watch: Callable[[lsqr.Steps], bool],
        coefficients: lsqr.Coefficients | None = None,
    ) -> tuple[Tensor, lsqr.Steps]:
        """One run of LSQR: see `projlab.numerics.lsqr.solve`."""
        m, n = self.size
        plain = self.preconditioner is None and self.inverse_norm2 is None
        return lsqr.solve(
            self.products.matvec,
            self.products.rmatvec,
            None if plain else self.precondition,
            r,
            goal=goal,
            limit=limit,
            negligible=tolerance.rank_cutoff(
                m, n, max(self.data, tolerance.unit_roundoff(r.dtype))
            ),
            orthogonal=m <= tolerance.ORTHOGONAL,
            # m steps end it but for rounding, and what is taken in vain counts towards the limit
            check=1 if r.device.type == "cpu" else max(1, min(LOOK, m)),
            watch=watch,
            coefficients=coefficients,
            continued=self.products.continued(r),
        )

    def _require(self, end: "End") -> None:
        """Raise `AccuracyError` for vectors that did not come as close as they should."""
        if bool(end.reached.all()):
            return
        wanted = "what a backward-stable method reaches"
        if self.accuracy is not None:
            wanted = f"accuracy={self.accuracy:.2g}"
        raise AccuracyError(
            f"iterative: {int((~end.reached).sum())} of {end.reached.numel()} vectors did not "
            f"reach {wanted} in {end.steps} steps; the estimated forward error reached is "
            f"{float(end.error.masked_fill(end.reached, 0).max()):.2g}. Ask for less, give "
            "preconditioner=, or take a variant that factors A; a right-hand side that no x "
            "satisfies ends so too"
        )


def _require_lost_as_given(lost: Tensor, given: Tensor) -> None:
    """Raise `InputError` where residuals are lost of what was `given` finite: by the products."""
    found = int((lost & given.isfinite()).sum())
    if found:
        raise InputError(
            f"iterative: the residuals of {found} of {lost.numel()} finite vectors are not finite: "
            "A.matvec, A.rmatvec or preconditioner returned NaN, infinity, or what has no square"
        )


class End(NamedTuple):
    """Where an iteration ended; the last four have one entry a vector, but for the steps."""

    x: Tensor
    y: Tensor
    """Multipliers."""
    r: Tensor
    """E x - f, evaluated at the end."""
    off: Tensor
    """Its norm, as `IterativeFactor.measure` has it."""
    error: Tensor
    """Estimated forward error."""
    reached: Tensor
    steps: int


@dataclass
class Progress:
    """Says how far a long iteration is, by a logger, every few seconds."""

    limit: int
    began: float = 0.0
    said: float = 0.0

    def __call__(self, at: lsqr.Steps) -> bool:
        now = time.monotonic()
        if not self.began:
            self.began = self.said = now
        elif now - self.said >= SAY:
            self.said = now
            log.info(
                "step %d of at most %d after %.0f s: the residual is %.2g",
                at.taken,
                self.limit,
                now - self.began,
                float(at.left.max()),
            )
        return False


def vector_bytes(m: int, n: int, dtype: torch.dtype) -> int:
    """Memory of one vector's iteration: five of length n, eight of length m, left vectors."""
    before = 2 * m * m if m <= tolerance.ORTHOGONAL else 0
    return dtype.itemsize * (5 * n + 8 * m + before)


class Iterative(Variant):
    name = "iterative"
    keeps_sparse = True
    iterates = True
    finds_out = True
    summary = "LSQR with corrections, nothing factored; for operators and what fits no factor"

    def factor(self, rows: Rows, u: float) -> IterativeFactor:
        return prepared(rows, u)

    def error_growth(self, condition: float, u: float) -> float:
        return tolerance.backward_stable_growth(condition, u)

    def flops(self, m: int, n: int) -> tuple[float, float]:
        # as many steps as rows, in two cycles, for a random vector and then for each
        return 8.0 * m * m * n, 8.0 * m * m * n

    def limitation(self, *, m: int, n: int, condition: float, u: float) -> str | None:
        limit = tolerance.iterated_condition_limit(m, n, u)
        if condition > limit:
            return (
                f"kappa = {condition:.2g} is above {limit:.2g}, from where on a cycle of LSQR need "
                "not bring the residual down, and none is accepted that has not come down to "
                "rounding"
            )
        steps = tolerance.iterated_steps(m, condition, u)
        if steps <= tolerance.STEPS:
            return None
        return (
            f"kappa = {condition:.2g} may take LSQR {steps:.2g} steps, more than "
            f"the {tolerance.STEPS} that an iteration may take"
        )


def prepared(
    rows: Rows,
    data: float,
    accuracy: float | None = None,
    preconditioner: Preconditioner | None = None,
) -> IterativeFactor:
    """What iterations with these rows go by, learned from a random vector.

    Raises
    ------
    AccuracyError
        The vector is not projected to `accuracy`, or to rounding, within the steps there are.
    InputError
        The preconditioner is not positive definite, or nearly so.
    MemoryLimitError
        The vectors of one iteration do not fit.
    """
    (m, n), batch = rows.shape, rows.batch
    systems = batch or 1
    memory.require(
        systems * vector_bytes(m, n, rows.dtype),
        f"the vectors of one iteration with {m} rows in {n} variables",
        rows.device,
    )
    inverse = None
    if preconditioner is None and not isinstance(rows, OperatorRows):
        norms = rows.row_norms()
        inverse = torch.where(norms > 0, norms.square().reciprocal(), 1)
        inverse = inverse if batch is None else inverse.unsqueeze(1)
    one = torch.ones((), dtype=rows.dtype, device=rows.device)
    one = one if batch is None else one.expand(batch, 1).clone()
    limit = tolerance.STEPS
    if m <= tolerance.ORTHOGONAL:
        limit = tolerance.FINITE_STEPS * m + LOOK
    rough = zero = torch.zeros_like(one)
    if preconditioner is not None:
        # rounding has no reason to lie where M is small: as a random vector, by the trace of M
        g = torch.randn(
            m, generator=torch.Generator("cpu").manual_seed(5), dtype=rows.dtype, device="cpu"
        )
        g = g.to(rows.device)
        rough = torch.linalg.vecdot(g, preconditioner(g)).sqrt()
    products = Products.of(rows)
    blank = IterativeFactor(
        products,
        inverse,
        preconditioner,
        one,
        one,
        rough,
        zero,
        0,
        limit,
        accuracy,
        (m, n),
        data,
    )
    generator = torch.Generator("cpu").manual_seed(0)
    lead = () if batch is None else (batch, 1)
    z = torch.randn(*lead, n, generator=generator, dtype=rows.dtype, device="cpu").to(rows.device)
    learned, left = _learned(blank, z)
    if preconditioner is not None:
        _require_seen(left, rows, z, accuracy)
    return learned


def _require_seen(left: Tensor, rows: Rows, z: Tensor, accuracy: float | None) -> None:
    """Raise `InputError` where rows are off that the norm of the preconditioner does not see.

    `left` is E x of the projection x of a random vector z, which is rounding by that norm.
    """
    size = rows.row_norms() * torch.linalg.vector_norm(z)
    off = left.abs() / size.clamp_min(torch.finfo(z.dtype).tiny)
    allowed = max(tolerance.unit_roundoff(z.dtype) ** 0.5, accuracy or 0.0)
    if not float(off.max()) <= allowed:
        raise InputError(
            "preconditioner is not positive definite, or nearly so: where a random vector is "
            f"projected to rounding by its norm, row {int(off.argmax())} is off by "
            f"{float(off.max()):.2g} of its size"
        )


def _learned(blank: IterativeFactor, z: Tensor) -> tuple[IterativeFactor, Tensor]:
    """The factor, with what projecting random vectors z onto the null space shows, and E x then."""
    u = tolerance.unit_roundoff(z.dtype)
    start = torch.linalg.vector_norm(z, dim=-1)
    coefficients = lsqr.Coefficients()

    def goal(at: lsqr.Steps) -> Tensor:
        rough = torch.maximum(blank.rough, at.largest)
        floor: Tensor = tolerance.CYCLE_AIM * tolerance.iterated_floor(u) * start * rough
        return floor

    watch = _Enough(blank.accuracy, start, coefficients, Progress(blank.limit))
    y, at = blank.run(blank.products.matvec(z), goal, blank.limit, watch, coefficients)
    smallest, largest = coefficients.extremes() if at.taken else (blank.smallest, blank.largest)
    learned = replace(
        blank,
        smallest=tolerance.UNSEEN * smallest,
        largest=largest,
        rough=torch.maximum(blank.rough, largest),
    )
    learned.require_reachable(u)
    end = learned.iterated(z - blank.products.rmatvec(y), None)
    learned._require(end)
    taken = at.taken + end.steps
    limit = min(tolerance.AGAIN * taken + LOOK, blank.limit)
    return replace(learned, taken=taken, limit=limit), end.r


@dataclass
class _Enough:
    """Ends a first run once it is likely to be as accurate as asked for."""

    accuracy: float | None
    start: Tensor
    coefficients: lsqr.Coefficients
    progress: Progress
    look: float = 8.0

    def __call__(self, at: lsqr.Steps) -> bool:
        self.progress(at)
        if self.accuracy is None or at.taken < self.look:
            return False
        self.look = at.taken * LOOK_AGAIN
        smallest, _ = self.coefficients.extremes()
        error: Tensor = at.left / (tolerance.UNSEEN * smallest * self.start)
        return bool((error <= self.accuracy / 2).all())
