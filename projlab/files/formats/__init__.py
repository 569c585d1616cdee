"""The formats: one module each, all of them listed in `FORMATS`."""

from __future__ import annotations

from projlab.files.formats import csv, mat, mps, mtx, npy, npz, pt, safetensors

FORMATS = (
    npz.FORMAT,
    npy.FORMAT,
    csv.FORMAT,
    mtx.FORMAT,
    mps.FORMAT,
    mat.FORMAT,
    pt.FORMAT,
    safetensors.FORMAT,
)
SUFFIXES = {suffix: format for format in FORMATS for suffix in format.suffixes}
"""By suffix, in the order in which files beside a file are looked for."""

ANY = f"any of {', '.join(SUFFIXES)}"
