"""Sparse systems: scipy's factor with corrections, bare products, and solvers of sparse problems.

The peer factors the Gram matrix of the equilibrated rows, with a small shift, by `splu` in
symmetric mode, and corrects six times with true residuals: what one would write knowing what to
write.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

import projlab
from benchmarks.interleave import Times, interleaved
from benchmarks.structured import grid_flow
from projlab import tolerance
from projlab.engine.variants.sparse_cholesky import SparseCholeskyFactor

Array = NDArray[np.float64]

DATA = Path(__file__).parents[1] / "validation" / "projlab_validation" / "data"

CORRECTIONS = 6

NO_HONEST_RANK = ("rob_flex_flag",)
"""Singular values without a gap: no projection is the right one."""

NO_SOLUTION = ("pg_btheta_57_ieee", "survey_nhanes2")
"""Rows contradict each other as stored: a dispatch that does not balance, totals in thousands."""

SOLVED = ("netlib_cycle", "metab_yeast_gem", "gas_schutterwald", "mm_cont_050", "water_ky10")
"""Systems that the solvers are asked about: of full and of less than full rank."""

SOLVER_ERROR = 1e-3
"""What a solver's answer may be off by, relative to x0 and x: their tolerances are of residuals."""


@dataclass(frozen=True)
class Case:
    """A sparse system that has a solution, and a point."""

    A: sp.csr_array
    b: Array
    x0: Array

    @property
    def point(self) -> torch.Tensor:
        """A copy of x0."""
        return torch.from_numpy(self.x0.copy())

    def projector(self) -> projlab.Projector:
        """By default."""
        return projlab.projector(self.A, self.b)


def of_flow(A: sp.csr_array) -> Case:
    """Rows with a right side that a random vector has."""
    right, x0 = np.random.default_rng(0).standard_normal((2, A.shape[1]))
    return Case(A, np.asarray(A @ right), x0)


@cache
def real(name: str) -> Case:
    """A system of the validation suite."""
    with np.load(DATA / f"{name}.npz") as stored:
        parts = stored["data"], stored["indices"], stored["indptr"]
        A = sp.csr_array(parts, shape=tuple(stored["shape"]))
        x0 = np.random.default_rng(0).standard_normal(A.shape[1])
        return Case(A, stored["b"].astype(float), x0)


def names() -> tuple[str, ...]:
    """The real systems that have a solution, and a rank that is honest."""
    found = (path.stem for path in sorted(DATA.glob("*.npz")))
    return tuple(name for name in found if name not in NO_HONEST_RANK + NO_SOLUTION)


@cache
def grid(side: int) -> Case:
    """A flow, of which one balance follows from the others."""
    return of_flow(grid_flow(side))


@cache
def tree(nodes: int) -> Case:
    """Balances of all nodes but the root, on the edges of a random recursive tree."""
    child = np.arange(1, nodes)
    parent = (np.random.default_rng(0).random(nodes - 1) * child).astype(np.int64)
    edges, ones = np.arange(nodes - 1), np.ones(nodes - 1)
    where = np.concatenate([child, parent]), np.concatenate([edges, edges])
    whole = sp.csr_array((np.concatenate([ones, -ones]), where), shape=(nodes, nodes - 1))
    return of_flow(sp.csr_array(whole[1:]))


def chain(steps: int) -> Case:
    """Differences of neighbours."""
    A = sp.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(steps, steps + 1), format="csr")
    return of_flow(sp.csr_array(A))


def banded(m: int) -> Case:
    """Rows with a large entry each and two small ones, half as many as variables."""
    A = sp.diags_array([3.0, 1.0, -1.0], offsets=[0, 1, 7], shape=(m, 2 * m), format="csr")
    return of_flow(sp.csr_array(A))


class Splu:
    """The peer's factor."""

    def __init__(self, case: Case) -> None:
        A, m = case.A, case.A.shape[0]
        norms = np.sqrt(np.asarray(A.multiply(A).sum(axis=1)).ravel())
        scale = np.exp2(-np.rint(np.log2(np.where(norms > 0, norms, 1.0))))
        self.E = sp.csr_array(sp.diags_array(scale) @ A)
        self.transposed, self.f = sp.csr_array(self.E.T), scale * case.b
        shift = tolerance.gram_shift(m) * sp.eye_array(m)
        self.factor: Any = splu(
            sp.csc_array(self.E @ self.transposed + shift),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def projected(self, x: Array, corrections: int = CORRECTIONS) -> Array:
        """A point, corrected that many times."""
        for _ in range(corrections):
            x = x - self.transposed @ self.factor.solve(self.E @ x - self.f)
        return x


def off_by(case: Case, x: Array) -> float:
    """How far the worst row is off, relative to what its terms are made of."""
    A = case.A
    norms = np.sqrt(np.asarray(A.multiply(A).sum(axis=1)).ravel())
    size = norms * (np.linalg.norm(x) + np.linalg.norm(case.x0)) + abs(case.b)
    return float((abs(A @ x - case.b) / np.where(size > 0, size, 1.0)).max())


def rounding(case: Case) -> float:
    """What it may be by rounding."""
    return tolerance.dimension_factor(*case.A.shape) * tolerance.unit_roundoff("float64")


def peer_holds(case: Case) -> bool:
    """Whether six corrections bring the peer's rows near rounding at all."""
    return off_by(case, Splu(case).projected(case.x0)) <= tolerance.FAR_ABOVE * rounding(case)


def require_projected(case: Case, P: projlab.Projector, x: torch.Tensor) -> None:
    """Rows hold to rounding, and x - x0 is orthogonal to a vector of the null space."""
    n, allowed, off = case.A.shape[1], rounding(case), off_by(case, x.numpy())
    v = torch.from_numpy(np.random.default_rng(1).standard_normal(n))
    moved = x - case.point
    along = abs(float(moved @ P.tangent(v))) / float(moved.norm() * v.norm() + 1e-300)
    if not (off <= allowed and along <= allowed * tolerance.FAR_ABOVE):
        raise AssertionError(
            f"rows are off by {off:.2g}, or x - x0 leaves their span by {along:.2g}"
        )


def set_up(case: Case, budget: float) -> Times:
    """Set-up and one projection, ours and the peer's."""
    P = case.projector()
    require_projected(case, P, P(case.point))
    return interleaved(
        {
            "projlab": lambda: case.projector()(case.point),
            "splu": lambda: Splu(case).projected(case.x0),
        },
        budget=budget,
    )


def factored(case: Case, budget: float) -> Times:
    """Set-up alone, ours and the peer's."""
    return interleaved({"projlab": case.projector, "splu": lambda: Splu(case)}, budget=budget)


def weighed(case: Case, budget: float) -> Times:
    """Set-up in a diagonal metric and without; in the metric, the rows hold to rounding."""
    W = np.exp(np.random.default_rng(2).uniform(0.0, 5.0, case.A.shape[1]))
    P = projlab.projector(case.A, case.b, metric=W)
    x, u = P(case.point).numpy(), tolerance.unit_roundoff("float64")
    off = abs(case.A @ x - case.b).max()
    size = abs(case.A) @ abs(x) + abs(case.b)
    if not off <= tolerance.dimension_factor(*case.A.shape) * u * size.max():
        raise AssertionError(f"rows are off by {off:.2g}")
    return interleaved(
        {
            "metric": lambda: projlab.projector(case.A, case.b, metric=W),
            "plain": case.projector,
        },
        budget=budget,
    )


def stacked(case: Case, systems: int, budget: float) -> Times:
    """A batch of systems in one pattern, each with other values, and each by itself: a first x."""
    rng = np.random.default_rng(3)
    coo = case.A.tocoo()
    indices = torch.from_numpy(np.stack(coo.coords).astype(np.int64))
    values = torch.from_numpy(coo.data * rng.uniform(0.5, 2.0, (systems, coo.nnz)))
    each = [
        torch.sparse_coo_tensor(indices, v, coo.shape, check_invariants=True).coalesce()
        for v in values
    ]
    A, x = torch.stack(each), case.point.expand(systems, -1).clone()
    b = torch.from_numpy(np.stack([rng.standard_normal(coo.shape[0]) for _ in each]))

    def batch() -> torch.Tensor:
        return projlab.projector(A, b, "sparse_cholesky")(x)

    def one_by_one() -> torch.Tensor:
        ways = zip(each, b, x, strict=True)
        return torch.stack([projlab.projector(M, c, "sparse_cholesky")(z) for M, c, z in ways])

    u, apart = tolerance.unit_roundoff("float64"), (batch() - one_by_one()).abs().max()
    if not apart <= tolerance.dimension_factor(*coo.shape) * u * 1e3:
        raise AssertionError(f"answers differ by {apart:.2g}")
    return interleaved({"batch": batch, "each": one_by_one}, budget=budget)


def factor_of(P: projlab.Projector) -> SparseCholeskyFactor | None:
    """The sparse factor; None where the variant is another."""
    factor = getattr(P._solver, "factor", None)
    return factor if isinstance(factor, SparseCholeskyFactor) else None


def passes(P: projlab.Projector) -> int:
    """Solves in one projection; none where the variant is another."""
    factor = factor_of(P)
    return 0 if factor is None else factor.passes * (1 + factor.inner)


def projections(case: Case, budget: float) -> tuple[Times, int]:
    """A projection in place, and what one correction of the peer's takes; how many ours makes."""
    P, x, peer = case.projector(), case.point, Splu(case)
    require_projected(case, P, P(x))
    solves = passes(P)

    def products() -> object:
        return peer.E @ case.x0, peer.transposed @ peer.f

    calls = {
        "projlab": lambda: P.project_(x),
        "correction": lambda: (peer.factor.solve(peer.f), products()),
        "products": products,
    }
    return interleaved(calls, budget=budget), solves


def clarabel(case: Case) -> Callable[[], Array]:
    """Set up anew each time: it keeps no factor for another x0."""
    module = importlib.import_module("clarabel")
    m, n = case.A.shape
    settings = module.DefaultSettings()
    settings.verbose = False
    P, A = sp.eye_array(n, format="csc"), sp.csc_array(case.A)

    def solve() -> Array:
        cones = [module.ZeroConeT(m)]
        return np.array(
            module.DefaultSolver(
                sp.csc_matrix(P), -case.x0, sp.csc_matrix(A), case.b, cones, settings
            )
            .solve()
            .x
        )

    return solve


def osqp(case: Case) -> Callable[[], Callable[[], Array]]:
    """A set-up that returns a further projection."""
    module = importlib.import_module("osqp")

    def make() -> Callable[[], Array]:
        solver = module.OSQP()
        eye = sp.csc_matrix(sp.eye_array(case.A.shape[1]))
        solver.setup(
            P=eye, q=-case.x0, A=sp.csc_matrix(case.A), l=case.b, u=case.b, verbose=False,
            eps_abs=1e-6, eps_rel=1e-6, warm_starting=False,
        )  # fmt: skip

        def further() -> Array:
            solver.update(q=-case.x0)
            return np.array(solver.solve(raise_error=False).x)

        return further

    return make


def piqp(case: Case) -> Callable[[], Callable[[], Array]]:
    """A set-up that returns a further projection."""
    module = importlib.import_module("piqp")

    def make() -> Callable[[], Array]:
        solver = module.SparseSolver()
        solver.settings.verbose = False
        eye = sp.csc_matrix(sp.eye_array(case.A.shape[1]))
        solver.setup(eye, -case.x0, sp.csc_matrix(case.A), case.b)

        def further() -> Array:
            solver.update(c=-case.x0)
            solver.solve()
            return np.array(solver.result.x)

        return further

    return make


def cvxpy(case: Case) -> Callable[[], Callable[[], Array]]:
    """A parametrised problem, solved by Clarabel."""
    cp = importlib.import_module("cvxpy")

    def make() -> Callable[[], Array]:
        n = case.A.shape[1]
        x, point = cp.Variable(n), cp.Parameter(n, value=case.x0)
        distance = cp.sum_squares(x) / 2 - point @ x
        problem = cp.Problem(cp.Minimize(distance), [case.A @ x == case.b])

        def further() -> Array:
            point.value = case.x0
            problem.solve(solver="CLARABEL", warm_start=False)
            return np.array(x.value)

        return further

    return make


SOLVERS: dict[str, Callable[[Case], Callable[[], Callable[[], Array]]]] = {
    "clarabel": lambda case: lambda: clarabel(case),
    "osqp": osqp,
    "piqp": piqp,
    "cvxpy": cvxpy,
}


def against(case: Case, solver: str, budget: float) -> tuple[float, float] | None:
    """How many times as long a solver takes: to a first answer, and to each further one.

    None where its answer is off by more than `SOLVER_ERROR`, or is none.
    """
    make = SOLVERS[solver](case)
    P = case.projector()
    want = P(case.point)
    require_projected(case, P, want)
    theirs = make()
    found = theirs()
    error = np.linalg.norm(found - want.numpy()) if found.shape == want.shape else np.inf
    if not error <= SOLVER_ERROR * (np.linalg.norm(case.x0) + float(want.norm())):
        return None
    x = case.point
    first = interleaved(
        {"projlab": lambda: case.projector()(x), "peer": lambda: make()()}, budget=budget
    )
    further = interleaved({"projlab": lambda: P.project_(x), "peer": theirs}, budget=budget)
    return first.ratio("peer", "projlab"), further.ratio("peer", "projlab")
