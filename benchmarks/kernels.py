"""Which kernels this projlab can project with, and how to make it use one.

A target that names a kernel is measured with that kernel, or reported as not measured.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

KERNELS: dict[str, Callable[[], AbstractContextManager[None]]] = {"torch": nullcontext}
"""Projectors made inside the context use the kernel. "torch" is the one there is so far."""


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
