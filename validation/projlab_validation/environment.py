"""What a measurement depends on besides the problem: versions, processor, threads, code.

The identity of an environment is a hash of its description, less what is for the reader only. A
resumed run measures again whatever was measured in another environment.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from projlab_validation.subjects import PeerSubject
from projlab_validation.subjects import source_digest as source_digest_of

PACKAGES = (
    "projlab",
    "torch",
    "numpy",
    "scipy",
    "cvxpy",
    "clarabel",
    "osqp",
    "highspy",
    "python-flint",
)
THREADS_PER_WORKER = 1
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Each makes one library or another start with so many threads."""

WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""What is asked for within more threads than a worker has shares processors with other workers:
threads that spin while they wait take those of what they wait for."""

READER_ONLY = frozenset({"commit", "cluster"})
"""A commit that changes no measuring code, say a text, is no reason to measure again,
nor is another number of equal machines.
"""

NOT_MEASURING = frozenset({"cli", "judge.py"})
"""Files, and the room of the command line, that act on records already measured: another rule is no
reason to measure again."""


def describe(
    device: str = "cpu", subject: str | None = None, peers: Sequence[PeerSubject] = ()
) -> dict[str, str]:
    """Describe the environment that workers of this interpreter measure in, on this device.

    A subject is described by its spec and a hash of its source: a changed one is measured again.
    Peers are described by the versions of what they call.
    """
    theirs = {"subject": f"{subject} ({source_digest_of(subject)})"} if subject else {}
    for peer in peers:
        theirs[f"peer {peer.name}"] = f"{peer.distribution} {version(peer.distribution)}"
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": str(os.cpu_count()),
        "device": device_name(device),
        "threads per worker": str(THREADS_PER_WORKER),
        "BLAS of numpy": blas(),
        **float32_precision(),
        **{package: version(package) for package in PACKAGES},
        "source": source_digest(),
        "commit": commit(),
        **theirs,
    }


def identity(description: Mapping[str, str]) -> str:
    """Hash a description to 12 hexadecimal digits."""
    counted = {key: value for key, value in description.items() if key not in READER_ONLY}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:12]


def cpu_model() -> str:
    """Return the processor's model name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def device_name(device: str) -> str:
    """Return the device with the model that carries it: "cpu", or "cuda:0 (NVIDIA H100)"."""
    if not device.startswith("cuda"):
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"


def blas() -> str:
    """Return name and version of the BLAS that numpy was built with."""
    import numpy as np

    library = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{library.get('name', 'unknown')} {library.get('version', '')}".strip()


def float32_precision() -> dict[str, str]:
    """Return whether torch may shorten float32 products: TF32 on a GPU, bfloat16 on some CPUs."""
    import torch

    return {
        "TF32": "on" if torch.backends.cuda.matmul.allow_tf32 else "off",
        "float32 matmul precision": torch.get_float32_matmul_precision(),
    }


def version(package: str) -> str:
    """Return the installed version of a distribution, or "none"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def source_digest() -> str:
    """Hash the source files that a measurement runs through."""
    digest = hashlib.sha256()
    for path in _measuring_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _measuring_files() -> Iterator[Path]:
    for package in ("projlab", "projlab_validation"):
        root = _package_folder(package)
        for path in sorted(root.rglob("*.py")):
            if NOT_MEASURING.isdisjoint(path.relative_to(root).parts):
                yield path


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} has no source files here", name=package)
    return Path(spec.origin).parent


def commit() -> str:
    """Return git's description of the checkout that projlab is imported from, or "none"."""
    folder = _package_folder("projlab")
    try:
        # A wheel may lie inside somebody else's checkout: only a file that git tracks tells ours.
        subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py"],
            check=True,
            capture_output=True,
        )
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return described.stdout.strip()
