"""Writes the files of a page."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path


def write(folder: Path, contents: Mapping[str, str]) -> tuple[Path, ...]:
    """Write files whole, all or none of them, into a folder that is made; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".projlab-", dir=folder) as temporary:
        for name, text in contents.items():
            # A file's name may hold bytes that are no text.
            whole = text.encode("utf-8", "backslashreplace")
            (Path(temporary) / name).write_bytes(whole)
        return tuple((Path(temporary) / name).replace(folder / name) for name in contents)
