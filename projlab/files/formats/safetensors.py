"""Tensors in safetensors, plain bytes with a header in JSON."""

from __future__ import annotations

import json
from pathlib import Path

from projlab.files.contents import KEYS, Contents, Format, repeated
from projlab.files.refusal import believe, reading, shown, wrong

WHAT = "safetensors"


def read(path: Path) -> Contents:
    """Read every tensor by its name.

    Raises
    ------
    ImportError
        safetensors is not installed.
    """
    try:
        from safetensors import safe_open
    except ImportError as missing:
        raise ImportError(
            f"{path}: reading it needs safetensors; install it by `pip install projlab[suite]`"
        ) from missing
    believe(path, path.stat().st_size)
    with reading(path, WHAT, KEYS):
        _require_each_once(path)
        with safe_open(str(path), framework="pt") as file:
            return Contents({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118  no mapping


def _require_each_once(path: Path) -> None:
    """Refuse a header with one name twice, of which the reader would keep the last."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, path.stat().st_size))

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if twice := repeated(name for name, _ in pairs):
            raise wrong(path, f"holds {shown(twice)} twice", "each key once")
        return dict(pairs)

    json.loads(header, object_pairs_hook=once)


FORMAT = Format((".safetensors",), WHAT, KEYS, read, keyed=True)
