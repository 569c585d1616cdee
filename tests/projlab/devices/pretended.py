"""A device that is pretended: its tensors say that they lie elsewhere, and the CPU computes.

Every operator passes through `Pretended.call`, which does on purpose what CUDA does: it refuses
operands of different devices (a tensor without dimensions, or an index, may be on the host), and it
notices what makes the host wait: values that are read, shapes that depend on values, copies between
devices, operators of torch.linalg that look at what they have found. It records operators and plays
them again, as a CUDA graph does. Nothing is said of speed, nor of the rounding of a GPU's kernels.

It is built on private parts of torch (`_make_wrapper_subclass`, the Python backend of PrivateUse1),
and on registering a device, which no process can take back: `pytest --device pretended`.
"""

import contextlib
import sys
from collections import Counter

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretended"

LOOKS = frozenset(
    {
        "_local_scalar_dense",
        "is_nonzero",
        "equal",
        "allclose",
        "nonzero",
        "masked_select",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "unique_dim_consecutive",
        "bincount",
        "histogram",
        "_coalesce",
        "_linalg_check_errors",
        "_linalg_svd",
        "_linalg_eigh",
        "linalg_eig",
        "linalg_lu",
        "linalg_lu_factor",
        "linalg_lstsq",
    }
)
"""Operators whose result, or its shape, depends on values that the host must see."""

INDEXED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})


class WaitsError(RuntimeError):
    """The host would wait for the device where it must not."""


class PretendedTensor(Tensor):
    """A tensor on the pretended device; `host` holds its values."""

    host: Tensor

    @staticmethod
    def __new__(cls, host):
        like = {"dtype": host.dtype, "layout": host.layout, "device": pretended().device}
        if host.layout == torch.strided:
            like |= {"strides": host.stride(), "storage_offset": host.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, host.size(), **like)
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return pretended().call(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self):
        return f"PretendedTensor({self.host!r})"

    def data_ptr(self):
        return self.host.data_ptr()

    def tolist(self):
        pretended().wait("tolist")
        return self.host.tolist()

    def numpy(self, *_, **__):
        raise TypeError(f"can't convert {NAME} device type tensor to numpy. Use Tensor.cpu()")

    def __array__(self, *_, **__):
        return self.numpy()

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = PretendedTensor(self.host.detach().clone())
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, self.requires_grad)
            memo[id(self)] = copied.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        return PretendedTensor, (self.host.detach(),)


class Pretended:
    """The device: what was called on it, and what would have made the host wait."""

    def __init__(self):
        class Module(backend_registration._DummyBackendModule):
            def get_amp_supported_dtype(self):
                return [torch.float16, torch.bfloat16]

        backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
        torch._C._set_only_lift_cpu_tensors(True)
        self.device = torch.device(NAME, 0)
        self.forget()

    def forget(self):
        """As if nothing had been called yet."""
        self.strict, self.tape = False, None
        self.waits, self.operators = Counter(), Counter()

    def wait(self, what):
        """The host waits here, or must not."""
        at = " < ".join(_lines(3))
        self.waits[what, at] += 1
        if self.strict:
            raise WaitsError(f"{what} makes the host wait, at {at or 'no line of projlab'}")

    def call(self, func, args, kwargs):
        """One operator, on the values that the host has."""
        name = func.overloadpacket.__name__
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        here = [t for t in tensors if isinstance(t, PretendedTensor)]
        target = kwargs.get("device")
        if not here and not self.is_here(target):
            return func(*args, **kwargs)
        stays = self._look(name, args, kwargs, tensors, target)
        a, k = tree_map(on_host, args), tree_map(on_host, kwargs)
        out = func(*a, **k)
        returns = func._schema.returns
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        if not view:
            self.operators[name] += 1
            if self.tape is not None:
                self.tape.append((func, a, k, out))
        if not stays:
            return args[0] if name == "copy_" else out
        return self._given_back(func, args, kwargs, here, out)

    def is_here(self, device):
        return device is not None and torch.device(device).type == NAME

    def _look(self, name, args, kwargs, tensors, target):
        """Refuse what CUDA refuses, notice what waits; whether the result is on the device."""
        on_device = isinstance(args[0] if args else None, PretendedTensor)
        if name == "copy_":
            off = isinstance(args[1], PretendedTensor) != on_device
            if off and not (kwargs.get("non_blocking") or any(args[2:])):
                self.wait("a copy to the device" if on_device else "a copy to the host")
            return on_device
        if name == "_to_copy":
            there = self.is_here(target) if target is not None else on_device
            if there != on_device and not kwargs.get("non_blocking"):
                self.wait("a copy to the device" if there else "a copy to the host")
            return there
        if name in INDEXED:
            self._look_at_index(args, on_device)
        else:
            mixed = [t for t in tensors if not isinstance(t, PretendedTensor) and t.dim() > 0]
            if mixed and any(isinstance(t, PretendedTensor) for t in tensors):
                raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        unsafe = name == "segment_reduce" and not kwargs.get("unsafe")
        if name in LOOKS or unsafe:
            self.wait(name)
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.wait(name)
        return True

    def _look_at_index(self, args, on_device):
        for i in [i for i in args[1] if isinstance(i, Tensor)]:
            if not on_device and isinstance(i, PretendedTensor):
                raise RuntimeError("indices should be on the device of the indexed tensor")
            if i.dtype in (torch.bool, torch.uint8):
                self.wait("a mask as an index")
            if not isinstance(i, PretendedTensor):
                self.wait("an index from the host")
        value = args[2] if len(args) > 2 and isinstance(args[2], Tensor) else None
        if (
            value is not None
            and value.dim() > 0
            and isinstance(value, PretendedTensor) != on_device
        ):
            raise RuntimeError("expected all tensors to be on the same device (values)")

    def _given_back(self, func, args, kwargs, here, out):
        """The results as tensors of the device: the same ones where an argument was written to."""
        if torch.Tag.inplace_view in func.tags:  # the shape of the wrapper follows
            with no_dispatch():
                before = torch._C._meta_in_tls_dispatch_include()
                torch._C._set_meta_in_tls_dispatch_include(True)
                try:
                    func(*args, **kwargs)
                finally:
                    torch._C._set_meta_in_tls_dispatch_include(before)
            return args[0]
        known = {id(t.host): t for t in here}

        def placed(t):
            if not isinstance(t, Tensor) or isinstance(t, PretendedTensor):
                return t
            return known[id(t)] if id(t) in known else PretendedTensor(t)

        return tree_map(placed, out)


def _lines(most):
    """The innermost lines of projlab that are being run."""
    lines, frame = [], sys._getframe(1)
    while frame is not None and len(lines) < most:
        _, within, name = frame.f_code.co_filename.rpartition("/projlab/")
        if within and "/tests/" not in frame.f_code.co_filename:
            lines.append(f"{name}:{frame.f_lineno}")
        frame = frame.f_back
    return lines


def on_host(value):
    """What the CPU computes with in the place of an argument."""
    if isinstance(value, PretendedTensor):
        return value.host
    here = isinstance(value, torch.device) and value.type == NAME
    return torch.device("cpu") if here else value


class _Factories(TorchDispatchMode):
    """Operators without operands on the device pass through it, too: those that make tensors."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return pretended().call(func, args, kwargs or {})


class Graph:
    """Operators that were recorded, to be played again on the same memory."""

    def __init__(self, tape):
        self.tape = tape

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, out in self.tape:
                again = func(*args, **kwargs)
                if func._schema.is_mutable:
                    continue
                for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old is not new:
                        old.copy_(new)


_devices = []


def pretended():
    """The one device of this process; made when it is first asked for."""
    if not _devices:
        _devices.append(Pretended())
    return _devices[0]


def unavailable():
    """Why this torch has no such device, or None."""
    try:
        device = pretended()
        with _Factories():
            x = torch.ones(2, device=device.device)
            held = float((x + 1).sum()) == 4 and device.operators["add"] == 1
    except Exception as changed:  # whatever private parts raise where they changed
        return f"torch {torch.__version__} has no pretended device: {changed}"
    device.forget()
    return None if held else f"torch {torch.__version__} does not compute through it"


class OnPretended:
    """What tests ask of a device: see `tests.projlab.devices.device`."""

    def __init__(self):
        self.pretended = pretended()
        self.type, self.device = NAME, self.pretended.device

    @contextlib.contextmanager
    def in_use(self):
        """Inside, tensors can be made on the device."""
        self.pretended.forget()
        # strides and versions of parameters stand where a module's tensors are exchanged
        swapped = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            with _Factories():
                yield self
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swapped)

    @contextlib.contextmanager
    def no_waits(self):
        """Inside, what makes the host wait is an error."""
        self.pretended.strict = True
        try:
            yield
        finally:
            self.pretended.strict = False

    def captured(self, step):
        """The operators of a call, to be replayed; it must not wait."""
        tape = self.pretended.tape = []
        try:
            with self.no_waits():
                step()
        finally:
            self.pretended.tape = None
        return Graph(tape)

    def operators(self, call):
        """How many kernels a call launches."""
        self.pretended.operators.clear()
        call()
        return self.pretended.operators.total()
