"""The registry of variants: adding one is a file and a line here."""

from projlab import tolerance
from projlab.engine.variants.base import Factor, Variant
from projlab.engine.variants.cholesky import Cholesky
from projlab.engine.variants.iterative import Iterative
from projlab.engine.variants.pinv import Pinv
from projlab.engine.variants.qr import QR
from projlab.engine.variants.single_row import SingleRow
from projlab.engine.variants.sparse_cholesky import SparseCholesky
from projlab.errors import InputError

__all__ = ["REGISTRY", "Factor", "Variant", "drift_bound", "forward_error_bound", "get", "variants"]

REGISTRY: tuple[Variant, ...] = (
    SingleRow(),
    Cholesky(),
    SparseCholesky(),
    QR(),
    Pinv(),
    Iterative(),
)


def variants() -> tuple[str, ...]:
    """Names of the variants that `projector` and `project` take, besides "auto"."""
    return tuple(variant.name for variant in REGISTRY)


def get(name: object) -> Variant:
    """The variant of that name, or `InputError` with the names there are."""
    for variant in REGISTRY:
        if isinstance(name, str) and variant.name == name:
            return variant
    known = ", ".join(f'"{known}"' for known in ("auto", *variants()))
    raise InputError(f"variant={name!r} is unknown; it must be one of {known}")


def forward_error_bound(
    variant: str, *, u: float, m: int, n: int, condition: float, amplification: float
) -> float:
    """`tolerance.forward_error_bound` by the law of the variant of that name."""
    growth = get(variant).error_growth(condition, u)
    return tolerance.forward_error_bound(growth, m=m, n=n, amplification=amplification)


def drift_bound(
    variant: str,
    *,
    u: float,
    m: int,
    n: int,
    condition: float,
    amplification: float,
    steps: float,
) -> float:
    """`tolerance.drift_bound` by the law of the variant of that name."""
    growth = get(variant).error_growth(condition, u)
    return tolerance.drift_bound(growth, u=u, m=m, n=n, amplification=amplification, steps=steps)
