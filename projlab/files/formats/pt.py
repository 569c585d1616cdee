"""Tensors saved by torch, loaded with ``weights_only``: no code of the file's is run."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from projlab.files.contents import KEYS, SEARCHED, Contents, Format, repeated
from projlab.files.refusal import believe, reading, shown, wrong

WHAT = "tensors that torch loads with weights_only"
WANTED = f"a dict of tensors with {KEYS}"


def read(path: Path) -> Contents:
    """Read a tensor, or a dict of tensors, which may hold others."""
    import torch

    with reading(path, WHAT, WANTED):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                believe(path, sum(member.file_size for member in archive.infolist()))
                if damaged := archive.testzip():  # torch does not look at the sums
                    raise wrong(path, f"holds {damaged} with a wrong checksum", "a whole file")
        # Indices of a sparse tensor are believed otherwise, wherever in memory they point.
        with torch.sparse.check_sparse_tensor_invariants():
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, torch.Tensor):
        return Contents({"A": loaded})
    if not isinstance(loaded, Mapping):
        raise wrong(path, f"holds a {type(loaded).__name__}", WANTED)
    return Contents(_named(path, loaded))


def _named(path: Path, mapping: Mapping[Any, Any], depth: int = SEARCHED) -> dict[str, Any]:
    """The same with names that are text, in mappings inside as well; one may hold itself."""
    if twice := repeated(map(str, mapping)):
        raise wrong(path, f"holds {shown(twice)} twice, of two types", "each key once")
    return {
        str(key): _named(path, value, depth - 1) if isinstance(value, Mapping) and depth else value
        for key, value in mapping.items()
    }


FORMAT = Format((".pt", ".pth"), WHAT, WANTED, read, keyed=True)
