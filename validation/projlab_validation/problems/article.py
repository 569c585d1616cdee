"""The three examples of the article that projlab grew out of; A and b are exact in either dtype."""

from __future__ import annotations

import numpy as np

from projlab_validation.problems.problem import Dtype, Family, Problem, rounded, seed_of

_EXAMPLES: dict[str, tuple[list[list[float]], list[float], tuple[str, ...]]] = {
    "article_1": ([[1.0, 1.0]], [1.0], ("x1 + x2 = 1",)),
    "article_2": ([[1.0, -2.0]], [0.0], ("x1 = 2 x2",)),
    "article_3": (
        [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]],
        [1.0, 0.5],
        ("x1 + x2 = 1", "x2 + x3 = 1/2"),
    ),
}


def _names(_dtype: Dtype) -> tuple[str, ...]:
    return tuple(_EXAMPLES)


def _build(name: str, dtype: Dtype) -> Problem:
    A, b, row_names = _EXAMPLES[name]
    seed = seed_of(name)
    x0 = np.random.default_rng(seed).standard_normal(len(A[0]))
    return Problem(
        name=name,
        group="article",
        A=np.array(A),
        b=np.array(b),
        x0=rounded(x0, dtype),
        dtype=dtype,
        seed=seed,
        reference=f"the article's example {name[-1]}; x0 standard normal",
        row_names=row_names,
    )


FAMILY = Family("article", _names, _build)
