"""What stands around a call and is nobody's argument: what a projection must bear, and not change.

The default dtype, the grad mode, threads, precision switches and the like belong to the program
that calls. A projection answers the same whatever they are, and leaves them as they stood.
"""

from __future__ import annotations

import contextlib
import os
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

GRAD_MODES = ("enable_grad", "no_grad", "inference_mode")
MOST_THREADS = 4
BY_IMPORTS = frozenset({"environment variables", "warning filters"})
"""What modules may change when they are first imported, which a first call may do."""


@dataclass(frozen=True)
class Surroundings:
    """What a call is made within.

    Attributes
    ----------
    default_dtype
        Of torch, by name.
    grad_mode
        One of `GRAD_MODES`.
    threads
        Of torch.
    """

    default_dtype: str
    grad_mode: str
    threads: int

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Surroundings:
        """Draw surroundings; the default dtype is another than it is."""
        import torch

        now = str(torch.get_default_dtype()).removeprefix("torch.")
        others = [d for d in ("float64", "float32", "float16", "bfloat16") if d != now]
        return cls(
            str(rng.choice(others)), str(rng.choice(GRAD_MODES)), int(rng.integers(2, MOST_THREADS))
        )

    def __str__(self) -> str:
        return f"default dtype {self.default_dtype}, {self.grad_mode}, {self.threads} threads"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let them stand around what is done inside."""
        import torch

        dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
        torch.set_default_dtype(getattr(torch, self.default_dtype))
        torch.set_num_threads(self.threads)
        try:
            with getattr(torch, self.grad_mode)():
                yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)


def state() -> dict[str, Any]:
    """Return what stands around a call now, by name."""
    import torch

    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "TF32": torch.backends.cuda.matmul.allow_tf32,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "denormals": _denormals_kept(),
        "numpy's error handling": np.geterr(),
        "working directory": os.getcwd(),  # noqa: PTH109  as the process has it
        "environment variables": dict(os.environ),
        "warning filters": list(warnings.filters),
    }


def mend(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name what is not what it was, and put it back."""
    import torch

    put_back: dict[str, Callable[[Any], object]] = {
        "default dtype": torch.set_default_dtype,
        # Without one torch asks nobody; with one it asks at every call.
        "default device": lambda d: torch.set_default_device(None if d.type == "cpu" else d),
        "grad mode": torch.set_grad_enabled,
        "threads": torch.set_num_threads,
        "float32 matmul precision": torch.set_float32_matmul_precision,
        "TF32": lambda _: torch.set_float32_matmul_precision(before["float32 matmul precision"]),
        "deterministic algorithms": torch.use_deterministic_algorithms,
        "denormals": lambda kept: torch.set_flush_denormal(not kept),
        "numpy's error handling": lambda handling: np.seterr(**handling),
        "working directory": os.chdir,
        "environment variables": _set_environment,
        "warning filters": _set_filters,
    }
    changed = [name for name, value in now.items() if value != before[name]]
    for name in changed:
        if name in put_back:
            put_back[name](before[name])
    return changed


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def _set_filters(filters: list[Any]) -> None:
    kept: Any = warnings.filters
    kept[:] = filters


def generators() -> tuple[torch.Tensor, bytes, bytes]:
    """Return where the global generators of torch, numpy and Python stand."""
    import torch

    numpys = np.random.get_state(legacy=False)  # noqa: NPY002  the global one is asked about
    return (
        torch.get_rng_state(),
        repr(numpys["state"]["pos"]).encode() + numpys["state"]["key"].tobytes(),
        repr(random.getstate()).encode(),
    )


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Leave the global generators as they stood, whatever is done inside."""
    import torch

    numpys, pythons = np.random.get_state(), random.getstate()  # noqa: NPY002  as above
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            np.random.set_state(numpys)  # noqa: NPY002  as above
            random.setstate(pythons)


def seed_generators(seed: int) -> None:
    """Let the global generators start from this seed."""
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  as above
    random.seed(seed)


def _denormals_kept() -> bool:
    import torch

    least = torch.full((), 5e-324, dtype=torch.float64, device="cpu")
    return bool((least * 1.0).item() != 0)
