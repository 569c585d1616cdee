"""Modes of torch that watch every operation: what it costs, and what it must not do."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    """Records the names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor) and t.layout == torch.strided:
                self.numel = max(self.numel, t.numel())
        return out


SYNCHRONISES = (
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "nonzero",
    "equal",
    "masked_select",
    "unique",
    "_unique2",
    "bincount",
    "_to_cpu",
)


FACTORS = ("linalg_", "_linalg_", "cholesky", "geqrf", "svd", "qr", "lu_", "triangular_inverse")


SOLVES = ("cholesky_solve", "linalg_solve_triangular", "linalg_vector_norm")


class HotPath(TorchDispatchMode):
    """Fails on an operation that copies a value to the host, or that factors a matrix."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.calls += 1
        assert name not in SYNCHRONISES, f"{name} waits for the device"
        assert name in SOLVES or not name.startswith(FACTORS), f"{name} factors a matrix"
        return func(*args, **(kwargs or {}))
