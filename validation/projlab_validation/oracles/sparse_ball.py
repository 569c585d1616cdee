"""The enclosure of `projlab_validation.oracles.ball` through sparse factors: nothing is dense.

Bounds and iterations are the same, and so is the proof. What differs is how they are evaluated:

- (E_K E_Kᵀ)⁻¹ is applied by the sparse factor of the Gram matrix, so that refinement converges like
  κ²u instead of κu;
- W is sparse. Columns of it for which N is exactly zero are settled as they are; the few others,
  rows that depend on others by thirds or but for a rounding, are refined as dense columns;
- σ_min(E_K) is bounded by `sparse_sigma_min`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from flint import arb, ctx
from numpy.typing import NDArray

from projlab_validation.oracles import ball as dense
from projlab_validation.oracles.answer import Reference
from projlab_validation.oracles.arrays import (
    Balls,
    SparseBalls,
    ball,
    middle,
    nearest,
    nonzero,
    norm,
    product,
)
from projlab_validation.oracles.sparse_system import SparseSystem, Undecided, candidates

LIVE = 2e5
"""Entries of the dense columns of N, n a row that depends on others inexactly."""

TERMS = 3e6
"""Products of an entry of W with an entry of E that N may take."""


@dataclass(frozen=True, eq=False)
class Coefficients:
    """W (r, k) in balls: `settled` columns sparse, the `live` ones dense (r, l)."""

    settled: SparseBalls
    live: NDArray[np.intp]
    columns: Balls

    def __matmul__(self, v: Balls) -> Balls:
        """W v for v (k,) or (k, l)."""
        return self.settled @ v + product(self.columns, v[self.live])

    def adjoint(self, v: Balls) -> Balls:
        """Wᵀ v for v (r,)."""
        out = self.settled.adjoint(v)
        out[self.live] = out[self.live] + self.columns.T @ v
        return out


@dataclass(frozen=True, eq=False)
class Decided:
    """A system whose numerical rank is decided, and how its rows depend on each other."""

    system: SparseSystem
    W: Coefficients
    dependence: dense.Dependence

    @property
    def gap(self) -> float:
        """A lower bound on σ_r/σ_{r+1}; inf where no row is left over, or all follow exactly."""
        left = float(self.dependence.N)
        return self.system.smallest / left if left else np.inf


def decide(
    E: sp.csr_array, f: NDArray[np.float64], x0: NDArray[np.float64], eps: float, deadline: float
) -> Decided:
    """The numerical rank of equilibrated E, by whichever guess at independent rows proves it.

    Raises
    ------
    Undecided
        Where none does.
    TimeoutError
        As `ball.enclose`.
    """
    why = "no choice of independent rows stands above the cutoff"
    for system in candidates(E, f, x0, eps):
        try:
            decided = _separated(system, deadline)
        except Undecided as reason:
            why = str(reason)
            continue
        if float(decided.dependence.N) <= system.cutoff:
            return decided
        why = f"σ_(r+1) may be {float(decided.dependence.N):.1e} at r = {system.rank}"
    raise Undecided(why)


def enclose(decided: Decided, deadline: float) -> Reference:
    """x* in two words; as `ball.enclose`.

    Raises
    ------
    TimeoutError, ArithmeticError
        As there.
    """
    system = decided.system
    with ctx.workprec(dense.PRECISION):
        E, x0, f = SparseBalls(system.E), ball(system.x0), ball(system.f)
        s = system.proven or system.smallest_kept
        x, rho = project(system, E, decided.W, x0, f, s, deadline)
        return dense.reference_of(
            system, x, rho, x0, decided.dependence, system.proven, system.smallest_kept
        )


def enclose_as_given(
    decided: Decided, A: sp.csr_array, b: NDArray[np.float64], deadline: float
) -> Reference:
    """The same at the rank decided, for the rows as given."""
    return enclose(_separated(decided.system.rows_as_given(A, b), deadline), deadline)


def _separated(system: SparseSystem, deadline: float) -> Decided:
    with ctx.workprec(dense.PRECISION):
        s = system.proven or system.smallest_kept
        W, dependence = separate(system, SparseBalls(system.E), ball(system.f), s, deadline)
    return Decided(system, W, dependence)


def separate(
    system: SparseSystem, E: SparseBalls, f: Balls, s: float, deadline: float
) -> tuple[Coefficients, dense.Dependence]:
    """W, its live columns refined until their error cannot be seen in x* or no longer shrinks."""
    r, k = system.W.shape
    live = unsettled(system)
    if len(live) * system.E.shape[1] > LIVE:
        raise Undecided(f"{len(live)} rows depend on others inexactly")
    kept = sp.lil_array(system.W)
    kept[:, live] = 0
    columns = ball(system.gram_inverse((system.E[:r] @ system.E[r:][live].T).toarray()))
    W = Coefficients(SparseBalls(sp.csr_array(kept)), live, columns.reshape(r, len(live)))
    step = system.E[:r].T @ system.gram_inverse(system.E[:r] @ system.x0 - system.f[:r])
    step_size, size = arb(float(np.linalg.norm(step))), arb(float(np.linalg.norm(system.x0 - step)))
    chosen = np.zeros((k, len(live)))
    chosen[live, np.arange(len(live))] = 1.0
    now = dense.Dependence(arb.pos_inf(), arb.pos_inf(), arb.pos_inf())
    while True:
        N = E.adjoint(np.vstack([-W.columns, ball(chosen)]))
        EN = E @ N
        before = now
        FN = EN[:r] + W @ EN[r:]
        now = dense.Dependence(norm(N), norm(FN), norm(f[r:] - W.adjoint(f[:r])))
        settled = now.error(s, size, step_size) < dense.TARGET * size
        if not len(live) or settled or not now.FN < before.FN / 2:
            return W, now
        dense.check(deadline)
        N64 = nearest(N)
        assert system.cross is not None
        NN = system.cross.solve(chosen) @ (N64.T @ N64)
        change = system.gram_inverse(nearest(EN[:r]) + system.W @ NN)
        W = Coefficients(W.settled, live, middle(W.columns + ball(change)))


def unsettled(system: SparseSystem) -> NDArray[np.intp]:
    """The columns of W for which N = E_Dᵀ − E_Kᵀ W is not zero exactly."""
    r, W = system.rank, sp.csr_array(system.W)
    k = W.shape[1]
    if not k:
        return np.arange(0)
    kept, others = system.E[:r], system.E[r:]
    lengths = np.diff(kept.indptr)
    owner = np.repeat(np.arange(r), np.diff(W.indptr))
    times = lengths[owner]
    if times.sum() > TERMS:
        raise Undecided(f"expressing {k} rows by others takes {times.sum():.1e} products")
    entry = np.repeat(np.arange(W.nnz), times)
    place = np.arange(len(entry)) - np.repeat(np.cumsum(times) - times, times)
    source = kept.indptr[owner[entry]] + place
    n = kept.shape[1]
    keys = W.indices[entry].astype(np.int64) * n + kept.indices[source]
    terms = -ball(W.data)[entry] * ball(kept.data)[source]
    row = np.repeat(np.arange(k), np.diff(others.indptr)).astype(np.int64)
    keys = np.concatenate([keys, row * n + others.indices])
    terms = np.concatenate([terms, ball(others.data)])
    unique, group = np.unique(keys, return_inverse=True)
    sums = np.full(len(unique), arb(0), dtype=object)
    np.add.at(sums, group, terms)
    return np.unique(unique[nonzero(sums)] // n).astype(np.intp)


def project(
    system: SparseSystem,
    E: SparseBalls,
    W: Coefficients,
    x0: Balls,
    f: Balls,
    s: float,
    deadline: float,
) -> tuple[Balls, arb]:
    """x = x₀ − Fᵀt and ‖ρ‖, refined until ‖ρ‖/s < TARGET ‖x‖ or no longer shrinking."""
    r = system.rank
    t, now = ball(np.zeros(r)), arb.pos_inf()
    while True:
        x = x0 - E.adjoint(np.concatenate([t, W.adjoint(t)]))
        residual = E @ x - f
        rho = residual[:r] + W @ residual[r:]
        before, now = now, norm(rho)
        if now < dense.TARGET * s * norm(x) or not now < before / 2:
            return x, now
        dense.check(deadline)
        change = system.blend_inverse(system.gram_inverse(system.blend_inverse(nearest(rho))))
        t = middle(t + ball(change))
