"""Problems for the oracles, and what their answers are held against."""

import mpmath
import numpy as np

from projlab_validation.oracles import ball
from projlab_validation.oracles.system import equations, factor
from projlab_validation.problems import catalogue
from projlab_validation.problems.problem import Problem

EPS = 2.0**-52


def make(A, b, x0=None, *, dtype="float64", seed=0):
    A = np.atleast_2d(np.array(A, dtype=float))
    if x0 is None:
        x0 = np.random.default_rng(seed).standard_normal(A.shape[1])
    b = np.atleast_1d(np.array(b, dtype=float))
    return Problem("made", "test", A, b, np.array(x0, dtype=float), dtype, seed, "")


def named(name, dtype="float64"):
    (problem,) = catalogue(names=[name], dtypes=[dtype])
    return problem


def system_of(problem):
    E, f = equations(problem, equilibrate=True)
    return factor(E, f, problem.x0, float(np.finfo(problem.dtype).eps))


def enclosed(problem):
    return ball.enclose(system_of(problem), np.inf)


def distance(one, other):
    """‖x* − x*‖ of two references, relative; exact to two words."""
    difference = (one.x_high - other.x_high) + (one.x_low - other.x_low)
    return np.linalg.norm(difference) / np.linalg.norm(other.x_high)


def mp_vector(reference):
    return mpmath.matrix(reference.x_high.tolist()) + mpmath.matrix(reference.x_low.tolist())


def mp_projection(problem, rank, *, equilibrate=True):
    """x₀ − E_r⁺ (E x₀ − f) by mpmath's SVD with sixty digits, and all singular values."""
    A, b = mpmath.matrix(problem.A.tolist()), mpmath.matrix(problem.b.tolist())
    x0 = mpmath.matrix(problem.x0.tolist())
    if equilibrate:
        for i in range(A.rows):
            scale = mpmath.mpf(2) ** -mpmath.nint(mpmath.log(mpmath.norm(A[i, :]), 2))
            A[i, :] *= scale
            b[i] *= scale
    U, S, V = mpmath.svd_r(A)
    coordinates = (U.T * (A * x0 - b))[:rank]
    return x0 - V[:rank, :].T * mpmath.matrix(
        [c / s for c, s in zip(coordinates, S, strict=False)]
    ), S


def backward_stable(problem, truth):
    """Forward error of a backward-stable least-squares method, c(m, n) = 4 √(m n).

    κu (‖x₀‖ + ‖x₀ − x*‖ + κ‖A x* − b‖/‖A‖)/‖x*‖: Wedin's theorem, ASNA section 20.1.
    """
    A, norm = problem.dense(), np.linalg.norm
    scale = norm(problem.x0) + norm(problem.x0 - truth.x_high)
    if not truth.consistent:
        scale += truth.condition * norm(A @ truth.x_high - problem.b) / norm(A, 2)
    factor = 4 * np.sqrt(problem.m * problem.n) * EPS / 2
    return factor * truth.condition * scale / norm(truth.x_high)


def random_rows(m, n, seed, condition=1.0):
    rng = np.random.default_rng(seed)
    U, _ = np.linalg.qr(rng.standard_normal((m, m)))
    V, _ = np.linalg.qr(rng.standard_normal((n, m)))
    return (U * np.geomspace(1, 1 / condition, m)) @ V.T


def with_duplicates(A, b):
    """Three rows more: a copy, a scaled copy and a sum, exactly."""
    grid = 2.0**20
    A, b = np.round(A * grid) / grid, np.round(b * grid) / grid
    return np.vstack([A, A[0], -4 * A[1], A[0] + 2 * A[1]]), np.append(
        b, [b[0], -4 * b[1], b[0] + 2 * b[1]]
    )


def nearly_redundant(seed, dtype="float64", noise=0.0):
    """Two rows of six that depend on the others but for a rounding, and b off by `noise`."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((4, 12)).astype(dtype)
    weights = rng.standard_normal((2, 4)).astype(dtype)
    A = np.vstack([A, weights @ A]).astype(float)
    b = np.append(A[:4] @ np.ones(12), weights @ (A[:4] @ np.ones(12)))
    b = b.astype(dtype).astype(float)
    b[5] += noise
    return make(A, b, rng.standard_normal(12).astype(dtype), dtype=dtype)
