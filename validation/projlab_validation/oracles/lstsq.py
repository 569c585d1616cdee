"""The minimum-norm correction by LAPACK's least squares: x₀ + lstsq(A, b − A x₀)."""

from __future__ import annotations

import time

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from projlab_validation.oracles.answer import Answer
from projlab_validation.oracles.system import equations
from projlab_validation.problems import Problem

Array = NDArray[np.float64]


def answers(problem: Problem) -> list[Answer]:
    """By SVD (gelsd) and pivoted QR (gelsy) of the rows as given, and by SVD of equilibrated rows.

    All in float64, with the cutoff that defines the numerical rank in the problem's dtype. Scaling
    is worth up to five digits on badly scaled rows, and changes the answer of an inconsistent
    system.
    """
    as_given = (problem.dense(), problem.b)
    E, f = equations(problem, equilibrate=True)
    return [
        _answer("lstsq_gelsd", problem, *as_given),
        _answer("lstsq_gelsy", problem, *as_given),
        _answer("lstsq_gelsd_scaled", problem, E.toarray(), f),
    ]


def _answer(oracle: str, problem: Problem, A: Array, b: Array) -> Answer:
    start = time.perf_counter()
    try:
        correction = scipy.linalg.lstsq(
            A,
            b - A @ problem.x0,
            cond=max(A.shape) * float(np.finfo(problem.dtype).eps),
            lapack_driver="gelsy" if "gelsy" in oracle else "gelsd",
            check_finite=False,
        )[0]
        status, x = "ok", problem.x0 + correction
    except scipy.linalg.LinAlgError as fault:
        status, x = f"{type(fault).__name__}: {fault}", None
    return Answer(oracle, status, x, time.perf_counter() - start)
