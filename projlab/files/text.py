"""The bytes of a text file, unpacked where it is compressed, never more than memory holds."""

from __future__ import annotations

import bz2
import codecs
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from projlab.files.refusal import believe, reading

_CHUNK = 2**20


def unpacked(path: Path, what: str, wanted: str) -> bytes:
    """Everything in the file but a mark that it is UTF-8."""
    parts, size = [], 0
    with reading(path, what, wanted), _opened(path) as file:
        packed = path.suffix.lower() == ".bz2"
        for chunk in _streams(file) if packed else iter(lambda: file.read(_CHUNK), b""):
            parts.append(chunk)
            size += len(chunk)
            believe(path, size)
    return b"".join(parts).removeprefix(codecs.BOM_UTF8)


def _opened(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _streams(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """One stream of bzip2 after the other: `bz2.open` leaves out, unsaid, what follows damage."""
    unpacker, packed = bz2.BZ2Decompressor(), file.read(_CHUNK)
    while True:
        yield unpacker.decompress(packed, _CHUNK)
        packed = b""
        if unpacker.eof:
            packed = unpacker.unused_data or file.read(_CHUNK)
            if not packed:
                return
            unpacker = bz2.BZ2Decompressor()
        elif unpacker.needs_input:
            packed = file.read(_CHUNK)
            if not packed:
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
