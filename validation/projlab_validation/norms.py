"""The Euclidean norm at every size: an error below 1e-162 must not vanish when it is squared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def norm(v: NDArray[Any]) -> float:
    """‖v‖₂, scaled by a power of two so that squares neither overflow nor underflow."""
    v = np.asarray(v, dtype=np.float64)
    largest = float(np.max(np.abs(v), initial=0.0))
    if not 0.0 < largest < np.inf:  # nothing to scale: 0, infinite or NaN
        return largest
    exponent = int(np.frexp(largest)[1])
    return float(np.ldexp(np.linalg.norm(np.ldexp(v, -exponent)), exponent))
