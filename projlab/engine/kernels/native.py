"""Optional CPU kernels: one pass over the rows, without the overhead of torch's operators.

Used where the environment says PROJLAB_NATIVE=1 when a projector is set up, numba is installed
(`pip install projlab[native]`; no compiler is needed) and the kernel is the faster way. They give
the answers of the torch operators to rounding. Off by default: importing numba takes half a second,
compiling takes a few at the very first use on a machine, and installing a package should change no
bits. One thread each, so that nothing is oversubscribed.
"""

import importlib.util
import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version

from projlab.numerics import tuning

PLAIN = frozenset({Tensor, torch.nn.Parameter})
"""Types whose memory is what they seem to be."""


def wanted() -> bool:
    """Whether the environment asks for the kernels and numba is there."""
    return os.environ.get("PROJLAB_NATIVE") == "1" and importlib.util.find_spec("numba") is not None


def rows(W: Tensor) -> "Rows | None":
    """The kernel for orthonormal rows W (r, n) or (B, r, n), or None where torch does it."""
    takes = W.device.type == "cpu" and W.dtype in (torch.float32, torch.float64)
    # a vector of one entry may be a view that only torch reads correctly
    if not takes or W.numel() == 0 or W.shape[-1] < 2 or not tuning.native_pays(W) or not wanted():
        return None
    return Rows(W)


class Rows:
    """x -= W'(W x + c) in place, for vectors that lie in memory one after the other."""

    __slots__ = ("_W", "_address", "_call", "_dtype", "_most", "_shape", "_zeros")

    def __init__(self, W: Tensor) -> None:
        from projlab.engine.kernels import numba_kernels

        self._W = W.contiguous()
        self._address = self._W.data_ptr()
        self._dtype = W.dtype
        self._shape = W.shape if W.dim() == 3 else (None, *W.shape)
        self._most = tuning.most_native_vectors(W)
        self._zeros = W.new_zeros(W.shape[-2])
        wide = W.dtype is torch.float64
        self._call: Callable[..., None] = numba_kernels.float64 if wide else numba_kernels.float32
        self._call(0, 0, 0, 0, 0, 0, 0, 0, 0)  # compiles, or loads what was compiled

    def for_vectors(self, c: Tensor) -> Callable[[Tensor], bool]:
        """`project_` of x (n,) or (k, n), for this c (r,): a third of its time, which is checks."""
        call, address, dtype, (_, m, n) = self._call, self._address, self._dtype, self._shape
        c, most = c.contiguous(), self._most
        right = c.data_ptr()

        def project_(
            x: Tensor,
            held: tuple[Tensor, Tensor] = (self._W, c),  # noqa: ARG001  # at the two addresses
        ) -> bool:
            if not (
                type(x) in PLAIN
                and x.dtype is dtype
                and 0 < x.ndim <= 2
                and x.shape[-1] == n
                and x.is_cpu
                and x.is_contiguous()
                and forward_ad._current_level < 0
            ):
                return False
            k = x.shape[0] if x.ndim == 2 else 1
            if k > most:
                return False
            try:
                at = x.data_ptr()
                if at == 0:
                    return False
                increment_version(x)
            except RuntimeError:
                return False
            call(at, address, right, 1, k, m, n, 0, 0)
            return True

        return project_

    def project_(self, x: Tensor, c: Tensor | None) -> bool:
        """Project x (..., n), or (B, ..., n), if the kernel takes it; whether it did.

        c is (r,) or has the leading dimensions of x; for B systems it is (B, 1, r) or (B, k, r).
        """
        if not (
            type(x) in PLAIN
            and x.dtype is self._dtype
            and x.is_cpu
            and x.is_contiguous()
            and forward_ad._current_level < 0
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
        c = self._zeros if c is None else c
        try:  # functorch's wrappers have no memory, or one at zero
            at, right = x.data_ptr(), c.data_ptr()
            if at == 0 or right == 0:
                return False
            increment_version(x)  # autograd's saved tensors see the change, as after any operator
        except RuntimeError:
            return False
        self._call(at, self._address, right, B, k, m, n, step, system)
        return True
