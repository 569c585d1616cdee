"""Bytes that an object holds in tensors."""

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from projlab import AffineConstraint


def held_bytes(owner: Any, besides: Iterable[Tensor] = ()) -> int:
    """Bytes of the distinct storages reachable from an object, less those of `besides`."""
    excluded = {t.untyped_storage().data_ptr() for t in besides}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _walk(owner)}
    return sum(size for address, size in storages.items() if address not in excluded)


def _walk(owner: Any) -> Iterator[Tensor]:
    seen: set[int] = set()
    waiting = [owner]
    while waiting:
        this = waiting.pop()
        if id(this) in seen:
            continue
        seen.add(id(this))
        if isinstance(this, Tensor):
            yield this
        elif isinstance(this, nn.Module):
            waiting += vars(this).values()
        elif is_dataclass(this) and not isinstance(this, type):
            waiting += [getattr(this, field.name) for field in fields(this)]
        elif isinstance(this, AffineConstraint):  # what it remembers of its rank is held too
            waiting += vars(this).values()
        elif isinstance(this, dict):
            waiting += this.values()
        elif isinstance(this, (list, tuple, set, frozenset)):
            waiting += this
