"""The registry of variants: adding one is a file and a line here."""

from projlab.errors import InputError
from projlab.variants.base import Factor, Variant
from projlab.variants.cholesky import Cholesky
from projlab.variants.pinv import Pinv
from projlab.variants.qr import QR
from projlab.variants.single_row import SingleRow

__all__ = ["REGISTRY", "Factor", "Variant", "get", "variants"]

REGISTRY: tuple[Variant, ...] = (SingleRow(), Cholesky(), QR(), Pinv())


def variants() -> tuple[str, ...]:
    """Names of the variants that `projector` and `project` take, besides "auto"."""
    return tuple(variant.name for variant in REGISTRY)


def get(name: object) -> Variant:
    """The variant of that name, or `InputError` with the names there are."""
    for variant in REGISTRY:
        if variant.name == name:
            return variant
    known = ", ".join(f'"{known}"' for known in ("auto", *variants()))
    raise InputError(f"variant={name!r} is unknown; it must be one of {known}")
