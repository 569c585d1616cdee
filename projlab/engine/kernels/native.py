"""CPU kernels: one pass over the rows, without the overhead of torch's operators.

Used where numba is installed (`pip install projlab[native]`; no compiler is needed), the kernel is
the faster way, and PROJLAB_NATIVE does not say "0" or "off" when a projector is set up. They give
the answers of the torch operators to rounding, in one thread each, so that nothing is
oversubscribed.

numba is imported when the first projector is set up that has a use for it: that takes a second, and
at the very first use on a machine four seconds more for each dtype, to compile. What was compiled
is kept on disk (see `numba_kernels`); processes that compile at the same time each do so for
themselves, and the last one's file, the same, replaces the others'. Where numba cannot be imported,
cannot compile, or finds no folder to keep its files in, one warning says so and torch projects.
"""

import importlib
import importlib.util
import os
import warnings
from array import array
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._C import _increment_version, _is_tracing, _len_torch_dispatch_stack
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version
from torch.compiler import is_compiling

from projlab.errors import InputError
from projlab.numerics import tuning

PLAIN = frozenset({Tensor, torch.nn.Parameter})
"""Types whose memory is what they seem to be."""

ON, OFF = ("", "1", "on", "all"), ("0", "off")
"""What PROJLAB_NATIVE may say; "on" is also what it says where it is not set."""

Kernel = Callable[[int, int, int], None]
"""`numba_kernels.float64` or `float32`."""


def recorded() -> bool:
    """Whether operators are compiled, traced or seen by a mode, which would miss what is no one."""
    return is_compiling() or _len_torch_dispatch_stack() > 0 or _is_tracing()


def wanted() -> bool:
    """Whether the environment leaves the kernels on.

    Raises
    ------
    InputError
        PROJLAB_NATIVE says none of what it may say.
    """
    asked = os.environ.get("PROJLAB_NATIVE", "")
    if asked.lower() not in ON + OFF:
        raise InputError(
            f"the environment variable PROJLAB_NATIVE is {asked!r}; it may be '0' or 'off' (no "
            "native kernels), or '1', 'on' or 'all' (where numba is installed, as if it were not "
            "set)"
        )
    return asked.lower() in ON


@cache
def kernel(dtype: torch.dtype) -> Kernel | None:
    """The kernel, compiled or loaded at the first call; None where numba is not there or fails."""
    nothing = plan(0, 0, 0, 0, 0, 0, 0)
    found: Kernel | None = loaded(
        "numba_kernels", dtype, lambda kernel: kernel(0, 0, nothing.buffer_info()[0])
    )
    return found


def loaded(module: str, dtype: torch.dtype, tried: Callable[[Any], object] | None = None) -> Any:
    """A module's kernel for a dtype, tried out; None where numba is not there, or fails."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        kernels = importlib.import_module(f"projlab.engine.kernels.{module}")
        found = getattr(kernels, str(dtype).removeprefix("torch."))
        if tried is not None:
            tried(found)
    except Exception as error:  # whatever is wrong with numba, torch can project
        warnings.warn(
            f"numba is installed but its kernels cannot be used ({type(error).__name__}: {error}); "
            "torch's operators project instead. PROJLAB_NATIVE=0 chooses them without this "
            "warning; NUMBA_CACHE_DIR names a folder for compiled code where none is writable.",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
    return found


def plan(*numbers: int) -> "array[int]":
    """Two addresses and five sizes: W, c, B, m, n, step, system.

    The part of c for vector j of system i begins at i * system + j * step.
    """
    return array("q", numbers)


def rows(W: Tensor) -> "NativeRows | None":
    """The kernel for orthonormal rows W (r, n) or (B, r, n), or None where torch does it."""
    takes = W.device.type == "cpu" and W.dtype in (torch.float32, torch.float64)
    # a vector of one entry may be a view that only torch reads correctly
    if not takes or W.numel() == 0 or W.shape[-1] < 2 or not tuning.native_pays(W) or not wanted():
        return None
    compiled = kernel(W.dtype)
    return None if compiled is None else NativeRows(W, compiled)


def in_place(
    kernel: Kernel, dtype: torch.dtype, n: int, most: int, made: "array[int]", held: tuple[Any, ...]
) -> Callable[[Tensor], bool]:
    """x (n,) or (k, n) of a dtype, k at most `most`, projected where it lies; False where not.

    By the kernel, to which `made` is told; `held` owns the memory at the addresses in it.
    """
    vector, address = torch.Size((n,)), made.buffer_info()[0]

    def project_(
        x: Tensor,
        held: tuple[object, ...] = (*held, made),  # noqa: ARG001  # at the addresses
    ) -> bool:
        if not (
            type(x) in PLAIN
            and x.dtype is dtype
            and x.is_cpu
            and x.is_contiguous()
            and not x.is_neg()  # numbers that are minus what lies in memory
            and forward_ad._current_level < 0
            and not _len_torch_dispatch_stack()
            and not _is_tracing()
        ):
            return False
        k, shape = 1, x.shape
        if shape != vector:
            k = shape[0] if len(shape) == 2 and shape[1] == n else 0
            if not 0 < k <= most:
                return False
        try:
            at = x.data_ptr()
            if at == 0:
                return False
            _increment_version((x,))  # what torch.autograd.graph takes 0.1 us to call
        except RuntimeError:
            return False
        kernel(at, k, address)
        return True

    return project_


class NativeRows:
    """x -= W'(W x + c) in place, for vectors that lie in memory one after the other."""

    __slots__ = ("_W", "_address", "_dtype", "_kernel", "_most", "_shape", "_zeros")

    def __init__(self, W: Tensor, kernel: Kernel) -> None:
        self._W = W.contiguous()
        self._address = self._W.data_ptr()
        self._dtype = W.dtype
        self._shape = W.shape if W.dim() == 3 else (None, *W.shape)
        self._most = tuning.most_native_vectors(W)
        self._zeros: Tensor | None = None
        self._kernel = kernel

    def for_vectors(self, c: Tensor) -> Callable[[Tensor], bool]:
        """`project_` of x (n,) or (k, n) for this c (r,).

        Checks of x are most of a small projection's time: `project_` for any x takes 0.3 us more.
        """
        c, (_, m, n) = c.contiguous(), self._shape
        made = plan(self._address, c.data_ptr(), 1, m, n, 0, 0)
        return in_place(self._kernel, self._dtype, n, self._most, made, (self._W, c))

    def project_(self, x: Tensor, c: Tensor | None) -> bool:
        """Project x (..., n), or (B, ..., n), if the kernel takes it; whether it did.

        c is (r,) or has the leading dimensions of x; for B systems it is (B, 1, r) or (B, k, r).
        """
        if not (
            type(x) in PLAIN
            and x.dtype is self._dtype
            and x.is_cpu
            and x.is_contiguous()
            and not x.is_neg()  # numbers that are minus what lies in memory
            and forward_ad._current_level < 0
            # what records operators, to run or to count them, would miss a change behind its back
            and not _len_torch_dispatch_stack()
            and not _is_tracing()
        ):
            return False
        B, m, n = self._shape
        k = x.numel() // n
        if k == 0 or k > self._most * (B or 1) or x.shape[-1] != n:
            return False
        step = system = 0
        if B is None:
            B = 1
            if c is not None and c.dim() > 1:
                c, step = c.expand(*x.shape[:-1], m).contiguous(), m
        else:
            if x.ndim < 2 or x.shape[0] != B:
                return False
            k //= B
            if c is not None:
                step = 0 if c.shape[1] == 1 else m
                c, system = c.contiguous(), m * c.shape[1]
        if c is None:
            if self._zeros is None:
                self._zeros = self._W.new_zeros(m)
            c = self._zeros
        try:  # functorch's wrappers have no memory, or one at zero
            at, right = x.data_ptr(), c.data_ptr()
            if at == 0 or right == 0:
                return False
            increment_version(x)  # autograd's saved tensors see the change, as after any operator
        except RuntimeError:
            return False
        made = plan(self._address, right, B, m, n, step, system)
        self._kernel(at, k, made.buffer_info()[0])
        return True
