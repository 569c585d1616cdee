"""Several arrays by name in a zip archive, `scipy.sparse.save_npz`'s among them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from projlab.files.contents import KEYS, Contents, Format, Unread, repeated
from projlab.files.formats import npy
from projlab.files.refusal import believe, reading, shown, wrong

WHAT = "npz without pickles"


def read(path: Path) -> Contents:
    """Read every array; members that are none, or hold objects, are named and not read."""
    with reading(path, WHAT, KEYS), path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise wrong(path, "is no zip archive, so no npz", KEYS)
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            return Contents(_members(path, archive))


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    members = archive.infolist()
    names = [member.filename.removesuffix(".npy") for member in members]
    if twice := repeated(names):
        raise wrong(path, f"holds {shown(twice)} twice", "each key once")
    believe(path, sum(member.file_size for member in members))
    parts: dict[str, Any] = {}
    for name, member in zip(names, members, strict=True):
        with archive.open(member) as file:
            if file.read(len(npy.MAGIC)) != npy.MAGIC:
                parts[name] = Unread("a file that is no npy")
                continue
            file.seek(0)
            parts[name] = npy.array(path, file, member.file_size, KEYS)
            file.read()  # to the end, where zip compares the checksum
    return parts


FORMAT = Format((".npz",), WHAT, KEYS, read, keyed=True)
