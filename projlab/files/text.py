"""The bytes of a text file, unpacked where it is compressed, never more than memory holds."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import IO

from projlab.files.refusal import believe, reading

_CHUNK = 2**20


def unpacked(path: Path, what: str, wanted: str) -> bytes:
    """Everything in the file."""
    parts, size = [], 0
    with reading(path, what, wanted), _opened(path) as file:
        while chunk := file.read(_CHUNK):
            parts.append(chunk)
            size += len(chunk)
            believe(path, size)
    return b"".join(parts)


def _opened(path: Path) -> IO[bytes] | gzip.GzipFile:
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path, "rb")
        case ".bz2":
            return bz2.open(path, "rb")
    return path.open("rb")
