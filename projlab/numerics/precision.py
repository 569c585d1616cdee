"""Keeps the caller's precision switches out of projlab's arithmetic, and leaves them as they stood.

Autocast, `torch.set_float32_matmul_precision` and TF32 all lower the precision of a matrix product
behind the back of the code that asks for it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack


def _legacy_matmul_precision() -> str | None:
    """None where the caller uses `torch.backends.*.fp32_precision`: the old getter refuses it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def lowered(dtype: torch.dtype, device_type: str) -> bool:
    """Whether a switch of the caller's would lower the precision of products in `dtype`."""
    if dtype is torch.float64:  # autocast leaves it alone, as the other switches do
        return False
    if _inside:  # set by another thread for a while, and any moment as they stood
        return True
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # the caller uses torch.backends.*.fp32_precision
        return True
    return precision != "highest" or torch.is_autocast_enabled(device_type)


def outside_inference_mode() -> AbstractContextManager[object]:
    """Inside, tensors are made that can be used anywhere."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()


@contextmanager
def set_up() -> Iterator[None]:
    """Inside, constants are computed: without graph, transforms and inference mode."""
    with temporarily_clear_interpreter_stack(), torch.no_grad(), torch.inference_mode(False):
        yield


@contextmanager
def stated_precision(device: torch.device) -> Iterator[None]:
    """Inside, products are computed in the dtype of their operands."""
    with torch.autocast(device.type, enabled=False), _full_matmul_precision():
        yield


_lock = Lock()

_inside = 0
"""Threads, and calls within calls, that count on the switches: the last to leave puts them back."""

_put_back: Callable[[], None] | None = None


@contextmanager
def _full_matmul_precision() -> Iterator[None]:
    """The switches are the process's: threads that overlap would read and restore each other's."""
    global _inside, _put_back
    with _lock:
        if _inside == 0:
            _put_back = _raised()
        counted = _put_back is not None
        _inside += counted
    try:
        yield
    finally:
        if counted:
            with _lock:
                _inside -= 1
                if _inside == 0 and _put_back is not None:
                    _put_back()
                    _put_back = None


def _raised() -> Callable[[], None] | None:
    """Set the switches to full precision: what puts them back; None where they stand there."""
    legacy, switches = _legacy_matmul_precision(), _switches()
    stood = [switch.fp32_precision for switch in switches]
    if legacy == "highest" and not any(value in _NARROW for value in stood):
        return None
    # a switch that merely inherits the generic one must go on inheriting it
    generic = torch.backends.fp32_precision if switches else None  # type: ignore[attr-defined]
    restore = ["none" if value == generic else value for value in stood]

    def put_back() -> None:
        # the old switch first: it sets the new ones too, which may have been set after it
        if legacy is not None:
            torch.set_float32_matmul_precision(legacy)
        for switch, value in zip(switches, restore, strict=True):
            switch.fp32_precision = value

    if legacy is not None:
        torch.set_float32_matmul_precision("highest")
    for switch in switches:
        switch.fp32_precision = "ieee"
    return put_back


_NARROW = ("tf32", "bf16")


def _switches() -> tuple[Any, ...]:
    """Those of products, one a backend; none where torch is older than they are."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return ()
    return backends.cuda.matmul, backends.mkldnn.matmul
