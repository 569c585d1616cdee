"""Which kernels this projlab can project with, and how to make it use one.

A target that names a kernel is measured with that kernel, or reported as not measured.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


@contextmanager
def _native(asked: str) -> Iterator[None]:
    """Ask for the native kernels, or for none, of whatever is set up inside."""
    before = os.environ.get("PROJLAB_NATIVE")
    os.environ["PROJLAB_NATIVE"] = asked
    try:
        yield
    finally:
        if before is None:
            del os.environ["PROJLAB_NATIVE"]
        else:
            os.environ["PROJLAB_NATIVE"] = before


KERNELS: dict[str, Callable[[], AbstractContextManager[None]]] = {"torch": lambda: _native("0")}
"""Projectors made inside the context use the kernel."""
if importlib.util.find_spec("numba"):
    KERNELS["native"] = lambda: _native("1")


@contextmanager
def using(kernel: str | None) -> Iterator[None]:
    """Make projectors with this kernel; None leaves the choice to the engine.

    Raises
    ------
    NotImplementedError
        This projlab has no such kernel.
    """
    if kernel is not None and kernel not in KERNELS:
        raise NotImplementedError(f"this projlab has no {kernel} kernel")
    with nullcontext() if kernel is None else KERNELS[kernel]():
        yield
