"""Mutated files: an error of projlab's own, or a system; no crash, no hang, little memory, no code.

Each file is written before it is read, so that the last one stands there if the process ends.

Run as a program it mutates as many files as it is told and prints what came of them:

    python -m tests.projlab.files.fuzz --files 100000 --seed 0 mtx csv mps
"""

import argparse
import bz2
import collections
import contextlib
import gzip
import io
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

from projlab import InputError, load

# ruff: noqa: E501  a format a line
from .written import CSR, GOOD, MPS, A, B, csv, mat, mtx, npy, pt, saved

SEEDS = {
    "npz": [GOOD["dense.npz"], GOOD["csr.npz"], *(saved(sp.coo_array(A).asformat(k)) for k in ("csc", "bsr", "dia", "coo"))],
    "npy": [npy(A), npy(A.astype(np.float32).T), npy(B)],
    "csv": [GOOD["named.csv"], GOOD["spaces.csv"], csv("1,2,3", "4.5,6e-3,7"), csv('"a";"b"', "1;2")],
    "mtx": [mtx(CSR), mtx(A), mtx(sp.coo_array(A @ A.T))],
    "mps": [MPS.encode(), MPS.replace("ENDATA", "RANGES\n R limit 1\nBOUNDS\n UP B X1 4\nENDATA").encode()],
    "mat": [mat(A=A, b=B), mat(A=sp.csc_array(A), b=B), mat(model={"A": A, "b": B})],
    "pt": [GOOD["dense.pt"], GOOD["sparse.pt"], pt(torch.from_numpy(A)), pt({"m": {"A": torch.ones(2, 3)}})],
    "safetensors": [GOOD["dense.safetensors"], GOOD["csr.safetensors"]],
    "csv.gz": [gzip.compress(GOOD["named.csv"])],
    "mtx.bz2": [bz2.compress(mtx(CSR))],
}  # fmt: skip
"""By suffix: whole files to mutate."""

TOKENS = [
    b"1e999", b"-1", b"nan", b"1,5", b"9999999999", b"1_0", b"\n", b" ", b"\t", b",", b";", b'"',
    b"%", b"0", b"2", b"\x00", b"\xff", b"D+03", b"b", b"ENDATA", b"RHS", b"general", b"symmetric",
    b"\x80\x02", b"(", b")", b"{", b"csc", b"<f8", b"|O", b"1099511627776", b"A", b"cos\nsystem\n",
]  # fmt: skip
Task = tuple[str, int, int, str]
"""Suffix, seed, number of files and the folder that they lie in."""

BATCHES = 10
"""Of a thousand files that one process reads."""

SECONDS = 5.0
MEMORY = 2**30
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.remove", "os.rename", "socket.connect")  # fmt: skip


def mutated(content: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    """The same with a few bytes, tokens or pieces changed."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(data) + 1))
        match rng.integers(0, 7):
            case 0 if data:
                data[at % len(data)] ^= 1 << int(rng.integers(0, 8))
            case 1 if data:
                data[at % len(data)] = int(rng.integers(0, 256))
            case 2:
                del data[at : at + int(rng.integers(1, 9))]
            case 3:
                data[at:at] = TOKENS[rng.integers(len(TOKENS))]
            case 4:
                token = TOKENS[rng.integers(len(TOKENS))]
                data[at : at + len(token)] = token
            case 5:
                other = others[rng.integers(len(others))]
                start = int(rng.integers(0, len(other)))
                data[at : at + 16] = other[start : start + int(rng.integers(1, 64))]
            case _ if rng.random() < 0.2:
                del data[at:]
    return bytes(data)


def outcome(path: Path) -> str:
    """ "read", or "refused" by a sentence of one line; whatever else is a fault, in words."""
    start = time.perf_counter()
    try:
        loaded = load(path)
    except InputError as refusal:
        text = str(refusal)
        whole = text.startswith(f"{path}: ") and "; want " in text and text.isprintable()
        result = "refused" if whole else f"no sentence: {text!r}"
    except Exception as fault:
        result = f"crash: {type(fault).__name__}: {fault}"
    else:
        values = loaded.A.data if sp.issparse(loaded.A) else loaded.A
        result = "read" if np.isfinite(values).all() else "read: not finite"
    if (seconds := time.perf_counter() - start) > SECONDS:
        result = f"hang: {seconds:.1f} s"
    return result


def watch(executed: list[str]) -> None:
    """Note whatever a file makes Python do that no reader has to."""

    def hook(event: str, arguments: object) -> None:
        if event.startswith(FORBIDDEN):
            executed.append(event)

    sys.addaudithook(hook)


def batch(task: Task) -> collections.Counter[str]:
    """Mutate and load files of one format in this process, which reports what came of them."""
    suffix, seed, count, folder = task
    torch.set_num_threads(1)
    executed: list[str] = []
    watch(executed)
    rng = np.random.default_rng([seed, *suffix.encode()])
    seeds = SEEDS[suffix]
    path = Path(folder) / f"mutated-{seed}.{suffix}"
    counts: collections.Counter[str] = collections.Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        content = mutated(seeds[rng.integers(len(seeds))], rng, seeds)
        path.write_bytes(content)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            result = outcome(path)
        if printed.getvalue():
            result = "printed"
        counts[result] += 1
        if result not in ("read", "refused"):
            (Path(folder) / f"fault-{seed}-{len(counts)}.{suffix}").write_bytes(content)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if grown > MEMORY:
        counts[f"memory: {grown:,} bytes"] += 1
    for event in executed:
        counts[f"executed: {event}"] += 1
    return counts


def faults(counts: collections.Counter[str]) -> dict[str, int]:
    """What may not be."""
    return {what: n for what, n in counts.items() if what not in ("read", "refused")}


def rounds(tasks: list[Task], size: int) -> Iterator[list[Task]]:
    """Some at a time, so that no process lives longer than they take."""
    for start in range(0, len(tasks), size):
        yield tasks[start : start + size]


def main() -> int:
    """Mutate files of the formats named, a thousand in each process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="*", default=sorted(SEEDS))
    parser.add_argument("--files", type=int, default=100_000, help="of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", default=None, help="folder for files at fault")
    options = parser.parse_args()
    folder = options.keep or tempfile.mkdtemp()
    ended = 0
    for suffix in options.formats:
        size = min(1000, options.files)
        tasks = [(suffix, options.seed + i, size, folder) for i in range(options.files // size)]
        start = time.perf_counter()
        total: collections.Counter[str] = collections.Counter()
        context = multiprocessing.get_context("spawn")
        # An executor that replaces its processes by itself stops doing so (CPython issue 115634).
        for round_ in rounds(tasks, BATCHES * options.jobs):
            try:
                with ProcessPoolExecutor(options.jobs, context) as pool:
                    for counts in pool.map(batch, round_):
                        total += counts
            except BrokenProcessPool:
                total["crash of the process"] += 1
        done = len(tasks) * size
        print(
            f"{suffix}: {done:,} files, {time.perf_counter() - start:.0f} s, {dict(total)}",
            flush=True,
        )
        ended |= bool(faults(total)) or sum(total.values()) < done
    return ended


if __name__ == "__main__":
    sys.exit(main())
