"""Convex problems with linear constraints and a known optimum, for training.

min f(p) + λ/2 ‖p‖² subject to A p = b, and of some G p ≤ h, lb ≤ p ≤ ub as well, with λ an
optimizer's coupled weight decay. Losses are scaled so that their Hessian's largest eigenvalue is
near one: one learning rate suits all.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from flint import fmpq, fmpq_mat
from numpy.typing import NDArray
from torch import Tensor

from projlab_validation.problems import catalogue
from projlab_validation.problems.problem import seed_of
from projlab_validation.problems.sparse import flow as grid_flow

Vector = NDArray[np.float64]


class Loss(ABC):
    """A convex function of p (n,)."""

    @abstractmethod
    def of(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Return its value and its gradient (n,), in p's dtype.

        By formula: what is measured is the optimizer, and a backward pass would take as long.
        """

    @abstractmethod
    def hessian(self, p: Vector) -> Vector:
        """Return the (n, n) Hessian at p."""

    def gradient(self, p: Vector) -> Vector:
        """Return the gradient at p, in float64."""
        return np.asarray(self.of(torch.tensor(p, dtype=torch.float64))[1].numpy())

    @abstractmethod
    def minimise(self, A: Vector, b: Vector, decay: float) -> Vector:
        """Return argmin of loss + decay/2 ‖p‖² subject to A p = b."""


@dataclass(frozen=True, eq=False)
class Quadratic(Loss):
    """½ (p − t)ᵀ H (p − t); its constrained optimum is rational."""

    H: Vector
    t: Vector

    def of(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Return its value and its gradient."""
        away = p - torch.as_tensor(self.t, dtype=p.dtype)
        gradient = torch.as_tensor(self.H, dtype=p.dtype) @ away
        return 0.5 * (away @ gradient), gradient

    def hessian(self, p: Vector) -> Vector:
        """Return H."""
        return self.H

    def minimise(self, A: Vector, b: Vector, decay: float) -> Vector:
        """Solve the KKT system in rational arithmetic; rows of A must be independent."""
        n, m = len(self.t), len(A)
        K = np.block([[self.H, A.T], [A, np.zeros((m, m))]])
        matrix = fmpq_mat(n + m, n + m, [_rational(v) for v in K.ravel()])
        for i in range(n):
            matrix[i, i] += _rational(decay)
        H = fmpq_mat(n, n, [_rational(v) for v in self.H.ravel()])
        target = H * fmpq_mat(n, 1, [_rational(v) for v in self.t])
        right = [target[i, 0] for i in range(n)] + [_rational(v) for v in b]
        solution = matrix.solve(fmpq_mat(n + m, 1, right))
        return np.array([int(v.p) / int(v.q) for v in (solution[i, 0] for i in range(n))])


@dataclass(frozen=True, eq=False)
class Regression(Loss):
    """Mean over samples of φ(xᵢᵀp, yᵢ), logistic or Huber, on rows xᵢ of X."""

    X: Vector
    y: Vector
    kind: str
    ridge: float = 0.05

    def of(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Return its value and its gradient."""
        X, y = (torch.as_tensor(v, dtype=p.dtype) for v in (self.X, self.y))
        fit = X @ p
        if self.kind == "logistic":
            value = torch.nn.functional.softplus(-y * fit).mean()
            slope = -y * torch.sigmoid(-y * fit)
        else:
            value = torch.nn.functional.huber_loss(fit, y)
            slope = (fit - y).clamp(-1, 1)
        gradient = slope @ X / len(y)
        return value + 0.5 * self.ridge * (p @ p), gradient + self.ridge * p

    def hessian(self, p: Vector) -> Vector:
        """Return the Hessian at p."""
        fit = self.X @ p
        if self.kind == "logistic":
            s = 1 / (1 + np.exp(-fit))
            curvature = s * (1 - s)
        else:
            curvature = (np.abs(fit - self.y) < 1).astype(np.float64)
        H = (self.X.T * curvature) @ self.X / len(self.y)
        return np.asarray(H + self.ridge * np.eye(len(p)))

    def minimise(self, A: Vector, b: Vector, decay: float) -> Vector:
        """Start from cvxpy's optimum and end with Newton's method on the KKT system."""
        import cvxpy as cp
        from cvxpy.atoms.affine.sum import sum as total
        from cvxpy.atoms.elementwise.huber import huber
        from cvxpy.atoms.elementwise.logistic import logistic
        from cvxpy.atoms.sum_squares import sum_squares

        unknown = cp.Variable(self.X.shape[1])
        fit = self.X @ unknown
        losses: Any = (
            logistic((-self.y[:, None] * self.X) @ unknown)
            if self.kind == "logistic"
            else 0.5 * huber(fit - self.y)
        )
        objective = total(losses) / len(self.y) + 0.5 * (self.ridge + decay) * sum_squares(unknown)
        problem: Any = cp.Problem(cp.Minimize(objective), [A @ unknown == b])
        problem.solve(solver=cp.CLARABEL)
        p = np.asarray(unknown.value)
        m, n = A.shape
        for _ in range(20):
            K = np.block([[self.hessian(p) + decay * np.eye(n), A.T], [A, np.zeros((m, m))]])
            right = np.concatenate([-(self.gradient(p) + decay * p), b - A @ p])
            step = np.linalg.solve(K, right)[:n]
            p = p + step
            if np.linalg.norm(step) <= 1e-14 * np.linalg.norm(p):
                break
        return np.asarray(p)


@dataclass(frozen=True, eq=False)
class Sides:
    """G p ≤ h and lb ≤ p ≤ ub, (k, n), (k,), (n,) and (n,)."""

    G: Vector
    h: Vector
    lb: Vector
    ub: Vector

    @property
    def rows(self) -> tuple[Vector, Vector]:
        """All of them as rows ≤ right sides, of bounds that are there at all."""
        eye = np.eye(len(self.lb))
        parts = [(self.G, self.h), (-eye, -self.lb), (eye, self.ub)]
        kept = [part for part in parts if np.isfinite(part[1]).any()]
        return np.concatenate([rows for rows, _ in kept]), np.concatenate([h for _, h in kept])

    def stated(self, expression: Any) -> list[Any]:
        """Return them over the expression of all entries, in the order of `rows`."""
        found = [self.G @ expression <= self.h] if len(self.h) else []
        found += [expression >= self.lb] if np.isfinite(self.lb).any() else []
        return found + ([expression <= self.ub] if np.isfinite(self.ub).any() else [])


def _rational(value: float) -> fmpq:
    return fmpq(*float(value).as_integer_ratio())


@dataclass(frozen=True, eq=False)
class TrainingProblem:
    """Minimise a loss over parameters that satisfy A p = b.

    Attributes
    ----------
    name
        How it is asked for.
    A, b
        (m, n), (m,): the equations, over the parameters' entries one after the other.
    loss
        Of p (n,).
    shapes
        Of the parameters, whose entries one after the other are p.
    reference
        Where it comes from.
    stated
        The same equations as they are written over expressions of the parameters, where that is
        not A p = b: then A keeps independent rows of them; beside sides, all of them in order.
    sides
        Inequalities beside them, where there are any.
    """

    name: str
    A: Vector
    b: Vector
    loss: Loss
    shapes: tuple[tuple[int, ...], ...]
    reference: str
    stated: Callable[[list[Any]], list[Any]] | None = None
    sides: Sides | None = None

    def equations(self, parameters: list[torch.nn.Parameter]) -> list[Any]:
        """Return the equations over parameters, as `projlab.constrain` takes them."""
        from projlab import cat, expr

        expressions = [expr(p) for p in parameters]
        if self.stated is not None:
            return self.stated(expressions)
        p = cat(*expressions)
        return [self.A @ p == self.b, *(self.sides.stated(p) if self.sides else [])]

    @property
    def start(self) -> Vector:
        """(n,): feasible or not, standard normal."""
        rng = np.random.default_rng(seed_of(self.name))
        return np.asarray(rng.standard_normal(self.A.shape[1]))

    def optimum(self, decay: float) -> Vector:
        """(n,): the constrained optimum with λ/2 ‖p‖² added to the loss."""
        if self.sides is None:
            return self.loss.minimise(self.A, self.b, decay)
        return self._within(self.sides, decay)

    def _within(self, sides: Sides, decay: float) -> Vector:
        """Return the optimum of the face that a solver ends on, its multipliers' signs checked."""
        import cvxpy as cp
        from cvxpy.atoms.affine.wraps import psd_wrap
        from cvxpy.atoms.quad_form import quad_form

        H = self.loss.hessian(self.b) + decay * np.eye(self.A.shape[1])
        linear = self.loss.gradient(np.zeros(len(H)))
        rows, right = sides.rows
        rows, right = rows[np.isfinite(right)], right[np.isfinite(right)]
        unknown = cp.Variable(len(H))
        objective: Any = 0.5 * quad_form(unknown, psd_wrap(H)) + linear @ unknown
        held: list[Any] = [self.A @ unknown == self.b, rows @ unknown <= right]
        problem: Any = cp.Problem(cp.Minimize(objective), held)
        problem.solve(solver=cp.CLARABEL)
        active = np.asarray(held[1].dual_value) > CLEAR
        face = np.concatenate([self.A, rows[active]])
        p = self.loss.minimise(face, np.concatenate([self.b, right[active]]), decay)
        multipliers = np.linalg.lstsq(-face.T, H @ p + linear)[0][len(self.A) :]
        if multipliers.min(initial=CLEAR) < CLEAR or (rows @ p - right)[~active].max() > -CLEAR:
            raise ArithmeticError(f"{self.name}: which inequalities are active is not clear")
        return p

    def curvature(self, optimum: Vector, decay: float) -> tuple[float, float]:
        """Smallest and largest eigenvalue of the Hessian on the null space of A, at the optimum."""
        _, sigma, Vh = np.linalg.svd(self.A)
        Z = Vh[int((sigma > 1e-12 * sigma[0]).sum()) :].T
        values = np.linalg.eigvalsh(Z.T @ self.loss.hessian(optimum) @ Z) + decay
        return float(values[0]), float(values[-1])


CLEAR = 1e-3
"""Multipliers of active inequalities, and room of the others, are larger than this."""


def article_1() -> TrainingProblem:
    """The article's first example: x1 + x2 = 1, weighted squares."""
    loss = Quadratic(np.diag([1.0, 0.5]), np.array([2.0, 1.0]))
    return _problem(article_1, [[1.0, 1.0]], [1.0], loss, ((2,),))


def article_2() -> TrainingProblem:
    """The article's second example: p3 = 2 p4, (p3 − 1)² + (p4 − 2)²; the optimum is (1.6, 0.8)."""
    loss = Quadratic(np.eye(2), np.array([1.0, 2.0]))
    return _problem(article_2, [[1.0, -2.0]], [0.0], loss, ((1,), (1,)))


def article_3() -> TrainingProblem:
    """The article's third example: x1 + x2 = 1, x2 + x3 = 1/2; the optimum is (1.5, −0.5, 1)."""
    loss = Quadratic(np.eye(3), np.array([2.0, 0.5, 1.5]))
    return _problem(article_3, [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]], [1.0, 0.5], loss, ((2,), (1,)))


def portfolio() -> TrainingProblem:
    """Weights that sum to one, a factor-model covariance (Markowitz 1952, without bounds)."""
    rng = _rng(portfolio)
    loadings = rng.standard_normal((12, 3)) / 3
    H = loadings @ loadings.T + np.diag(rng.uniform(0.2, 0.5, 12))
    H = np.array(H / np.linalg.norm(H, 2), dtype=np.float64)
    t = np.array(np.linalg.solve(H, 0.1 * rng.standard_normal(12)), dtype=np.float64)
    return _problem(portfolio, [np.ones(12)], [1.0], Quadratic(H, t), ((12,),))


def mixture() -> TrainingProblem:
    """Mixture weights: each row of a 4 × 6 matrix sums to one (stacked regressions, Breiman 1996).

    A matrix, so that Muon, which takes nothing else, has something to do.
    """
    rng = _rng(mixture)
    H = np.diag(rng.uniform(0.25, 1.0, 24))
    A = np.kron(np.eye(4), np.ones(6))
    return _problem(mixture, A, np.ones(4), Quadratic(H, rng.standard_normal(24)), ((4, 6),))


def portfolio_within() -> TrainingProblem:
    """The same portfolio without short sales, at most 0.3 in one asset, 0.1 in the first three."""
    free = portfolio()
    sides = Sides(
        np.array([[1.0] * 3 + [0.0] * 9]), np.array([0.1]), np.zeros(12), np.full(12, 0.3)
    )
    problem = _problem(portfolio_within, free.A, free.b, free.loss, free.shapes)
    return replace(problem, sides=sides)


def mixture_within() -> TrainingProblem:
    """Mixture weights that are not negative, row by row on the simplex (Breiman 1996)."""
    free = mixture()
    sides = Sides(np.zeros((0, 24)), np.zeros(0), np.zeros(24), np.full(24, np.inf))
    problem = _problem(mixture_within, free.A, free.b, free.loss, free.shapes)

    def stated(e: list[Any]) -> list[Any]:
        return [e[0].sum(dim=1) == 1, e[0] >= 0]

    return replace(problem, stated=stated, sides=sides)


def margins() -> TrainingProblem:
    """A table of known row and column totals, by weighted least squares (Deming and Stephan 1940).

    The last column follows from the others; all are stated.
    """
    rng = _rng(margins)
    table = rng.integers(1, 8, (4, 5)) / 8
    A = np.concatenate([np.kron(np.eye(4), np.ones(5)), np.kron(np.ones(4), np.eye(5))[:-1]])
    rows, columns = table.sum(1), table.sum(0)
    loss = Quadratic(np.diag(rng.uniform(0.25, 1.0, 20)), rng.standard_normal(20))
    b = np.concatenate([rows, columns[:-1]])
    problem = _problem(margins, A, b, loss, ((4, 5),))
    return replace(problem, stated=lambda e: [e[0].sum(dim=1) == rows, e[0].sum(dim=0) == columns])


def reconciliation() -> TrainingProblem:
    """Forecasts that add up, by weighted least squares (Hyndman et al. 2011).

    Seven series: a total, two regions, four districts; each level is the sum of the next.
    """
    rng = _rng(reconciliation)
    A = np.array(
        [
            [1.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 1.0, 0.0, -1.0, -1.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0, 0.0, -1.0, -1.0],
        ]
    )
    base = rng.uniform(1.0, 4.0, 7)
    loss = Quadratic(np.diag(1 / np.array([4.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0])), base)
    return _problem(reconciliation, A, np.zeros(3), loss, ((1,), (2,), (4,)))


def logistic() -> TrainingProblem:
    """Logistic regression on contrasts: coefficients that sum to zero (Aitchison 1986, ch. 12)."""
    rng = _rng(logistic)
    X = rng.standard_normal((60, 8))
    y = np.sign(X @ rng.standard_normal(8) + 0.5 * rng.standard_normal(60))
    return _problem(logistic, [np.ones(8)], [0.0], Regression(X, y, "logistic"), ((8,),))


def huber() -> TrainingProblem:
    """Huber regression with two linear restrictions on the coefficients (Huber 1964)."""
    rng = _rng(huber)
    X = rng.standard_normal((60, 6))
    y = X @ rng.standard_normal(6) + rng.standard_t(2, 60)
    A = rng.standard_normal((2, 6))
    return _problem(huber, A, np.ones(2), Regression(X, y, "huber"), ((2,), (4,)))


def real(name: str) -> TrainingProblem:
    """Weighted least squares on the equations of a real system, rows scaled to norm one."""
    source = next(iter(catalogue(names=[name], dtypes=("float64",))))
    A = source.dense()
    norms = np.linalg.norm(A, axis=1)
    A, b = A / norms[:, None], source.b / norms
    scale = float(np.max(np.abs(np.linalg.lstsq(A, b)[0]), initial=0.0)) or 1.0
    rng = np.random.default_rng(seed_of(f"train_{name}"))
    n = A.shape[1]
    loss = Quadratic(np.diag(rng.uniform(0.25, 1.0, n)), rng.standard_normal(n))
    return TrainingProblem(f"train_{name}", A, b / scale, loss, ((n,),), source.reference)


def flow() -> TrainingProblem:
    """Flow in a 4 × 4 grid, all balances but one, whose A stays sparse (Kirchhoff 1847)."""
    rng = _rng(flow)
    built = grid_flow(rng, 4)
    A, b = built.A.toarray()[1:], built.b[1:] / 8.0
    n = int(A.shape[1])
    loss = Quadratic(np.diag(rng.uniform(0.25, 1.0, (n,))), rng.standard_normal((n,)))

    def stated(expressions: list[Any]) -> list[Any]:
        from projlab import cat

        sparse = torch.tensor(A, dtype=torch.float64).to_sparse_coo()
        return [sparse @ cat(*expressions) == b]

    return replace(_problem(flow, A, b, loss, ((n,),)), stated=stated)


REAL = ("chem_elem_gri30", "netlib_afiro", "port_sp20_factor_neutral")
"""Real systems of independent rows, small enough for a rational optimum."""

BUILDERS: dict[str, Callable[[], TrainingProblem]] = {
    f"train_{build.__name__}": build
    for build in (
        article_1,
        article_2,
        article_3,
        portfolio,
        portfolio_within,
        mixture,
        mixture_within,
        margins,
        flow,
        reconciliation,
        logistic,
        huber,
    )
} | {f"train_{name}": functools.partial(real, name) for name in REAL}
"""By name; each builds one problem."""


def _rng(build: Callable[[], TrainingProblem]) -> np.random.Generator:
    return np.random.default_rng(seed_of(f"train_{build.__name__}"))


def _problem(
    build: Callable[[], TrainingProblem],
    A: Any,
    b: Any,
    loss: Loss,
    shapes: tuple[tuple[int, ...], ...],
) -> TrainingProblem:
    reference = " ".join((build.__doc__ or "").split())
    rows, right = np.array(A, dtype=np.float64), np.array(b, dtype=np.float64)
    return TrainingProblem(f"train_{build.__name__}", rows, right, loss, shapes, reference)
