"""One array in numpy's own format, and what its header must say before it is believed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from projlab.files.contents import Contents, Format, Unread
from projlab.files.refusal import believe, reading, wrong

WHAT = "npy without pickles"
WANTED = "a real array (m, n), and b by --b FILE"
MAGIC = b"\x93NUMPY"


def read(path: Path) -> Contents:
    """Read one array."""
    with reading(path, WHAT, WANTED), path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise wrong(path, "is no npy file", WANTED)
        file.seek(0)
        return Contents({"A": array(path, file, path.stat().st_size, WANTED)})


def array(path: Path, file: IO[bytes], size: int, wanted: str) -> NDArray[Any] | Unread:
    """The array of an open npy file, or member of an npz, that has `size` bytes.

    Stands inside `reading`: the header is numpy's to take apart.
    """
    major, minor = np.lib.format.read_magic(file)
    if (major, minor) == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:  # version 3.0 differs from 2.0 in the encoding of field names only
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    if dtype.hasobject:
        return Unread("an array of objects, which only a pickle holds")
    held, claimed = size - file.tell(), math.prod(shape) * dtype.itemsize
    believe(path, claimed)
    if held != claimed:
        raise wrong(path, f"claims to hold {claimed:,} bytes and holds {held:,}", wanted)
    file.seek(0)
    loaded: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return loaded


FORMAT = Format((".npy",), WHAT, WANTED, read)
