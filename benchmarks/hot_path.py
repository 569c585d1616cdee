"""The hot path against what the machine allows, and the measurements behind `projlab.tuning`.

    OMP_NUM_THREADS=1 python benchmarks/hot_path.py            # every regime, and every choice
    OMP_NUM_THREADS=1 PROJLAB_NATIVE=1 python benchmarks/hot_path.py regimes

Times are minima over interleaved repetitions in one process, on one thread; only their ratios mean
anything. Each timed answer is checked first.
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import projlab

Timed = dict[str, Callable[[], object]]


def minima(functions: Timed, seconds: float = 1.0) -> dict[str, float]:
    """The least time of one call of each, in microseconds, taken in turns."""
    once = {}
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        once[name] = max(time.perf_counter() - start, 1e-7)
    calls = {name: max(1, int(2e-3 / t)) for name, t in once.items()}
    best = dict.fromkeys(functions, float("inf"))
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 5 or time.perf_counter() < end:
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                function()
            best[name] = min(best[name], (time.perf_counter() - start) / calls[name] * 1e6)
        rounds += 1
    return best


def orthonormal(*shape: int, dtype: torch.dtype) -> Tensor:
    """Rows that are orthonormal but for rounding."""
    Q: Tensor = torch.linalg.qr(torch.randn(*shape[:-2], shape[-1], shape[-2])).Q
    return Q.mT.to(dtype).contiguous()


def check(found: Tensor, A: Tensor, b: Tensor) -> None:
    """A projection satisfies the equations."""
    residual = (found.unsqueeze(-2) @ A.mT).squeeze(-2) - b
    scale = torch.linalg.vector_norm(found, dim=-1).max() + b.abs().max()
    assert residual.abs().max() <= 1000 * torch.finfo(A.dtype).eps * scale


def one_vector(m: int, n: int, dtype: torch.dtype) -> str:
    """A vector onto m rows: against the operation that its regime is judged by."""
    A, b = orthonormal(m, n, dtype=dtype), torch.randn(m, dtype=dtype)
    P, x = projlab.projector(A, b), torch.randn(n, dtype=dtype)
    check(P.project_(x.clone()), A, b)
    check(P(x), A, b)
    out, r = torch.empty_like(x), torch.empty_like(b)
    timed: Timed = {"project_": lambda: P.project_(x), "P(x)": lambda: P(x)}
    if n <= 128:
        M = torch.randn(n, n, dtype=dtype)
        timed["n x n addmv(out=)"] = lambda: torch.addmv(x, M, x, out=out)
    elif m == 1:
        timed["x.mul_"] = lambda: x.mul_(1.0)
    else:
        timed["W.sum()"] = lambda: A.sum()
        timed["W.mv(x, out=)"] = lambda: torch.mv(A, x, out=r)
    return line(f"{m} x {n}", dtype, minima(timed, 1.5))


def many_vectors(k: int, m: int, n: int, dtype: torch.dtype) -> str:
    """Vectors onto the rows that they share."""
    A, b = orthonormal(m, n, dtype=dtype), torch.randn(m, dtype=dtype)
    P, x = projlab.projector(A, b), torch.randn(k, n, dtype=dtype)
    check(P.project_(x.clone()), A, b)

    def rows() -> None:
        x.addmm_(torch.addmm(b, x, A.mT), A, alpha=-1)

    def columns() -> None:
        x.mT.addmm_(A.mT, torch.addmm(b.unsqueeze(-1), A, x.mT), alpha=-1)

    timed: Timed = {"project_": lambda: P.project_(x), "rows": rows, "columns": columns}
    return line(f"{k} vectors, {m} x {n}", dtype, minima(timed))


def many_systems(B: int, m: int, n: int, dtype: torch.dtype) -> str:
    """A vector for each of B systems."""
    A, b = orthonormal(B, m, n, dtype=dtype), torch.randn(B, m, dtype=dtype)
    P, x = projlab.projector(A, b), torch.randn(B, n, dtype=dtype)
    check(P.project_(x.clone()), A, b)
    row, column, c = x.unsqueeze(1), x.unsqueeze(2), b.unsqueeze(1)

    def rows() -> None:
        row.baddbmm_(torch.baddbmm(c, row, A.mT), A, alpha=-1)

    def columns() -> None:
        column.baddbmm_(A.mT, torch.baddbmm(c.mT, A, column), alpha=-1)

    timed: Timed = {"project_": lambda: P.project_(x), "rows": rows, "columns": columns}
    return line(f"{B} systems, {m} x {n}", dtype, minima(timed))


def set_up(m: int, n: int, dtype: torch.dtype) -> str:
    """`projector` against LAPACK's QR of the same rows."""
    A, b = torch.randn(m, n, dtype=dtype), torch.randn(m, dtype=dtype)
    timed: Timed = {
        "projector": lambda: projlab.projector(A, b, "qr"),
        "linalg.qr": lambda: torch.linalg.qr(A.mT),
        "linalg.svdvals": lambda: torch.linalg.svdvals(A),
    }
    return line(f"set-up {m} x {n}", dtype, minima(timed))


def choices() -> None:
    """What decides the sizes of `projlab.tuning`: each way by force, the best is to be taken."""
    from projlab import native, tuning
    from projlab.variants.qr import QRFactor

    kept = {name: getattr(tuning, name) for name in ("SMALL", "CACHE", "BLOCK")}
    for m, n in ((3, 10), (64, 128), (500, 2000), (1000, 5000), (100, 100_000)):
        for dtype in (torch.float64, torch.float32):
            W, c = orthonormal(m, n, dtype=dtype), torch.randn(m, dtype=dtype)
            x = torch.randn(n, dtype=dtype)
            timed: Timed = {}
            ways = {"two passes": {"SMALL": 0, "CACHE": 2**62}}
            ways |= {"small": {"SMALL": 2**62}} if W.nbytes <= 2**20 else {}
            if W.nbytes > 2**22:
                sizes = (2**18, 2**19, 2**20, 2**22)
                ways |= {f"{s >> 10} KiB": {"SMALL": 0, "CACHE": 0, "BLOCK": s} for s in sizes}
            for name, sizes_of_way in ways.items():
                for key, value in (kept | sizes_of_way).items():
                    setattr(tuning, key, value)
                factor = QRFactor(W, torch.eye(m, dtype=dtype))
                timed[name] = partial(factor.project_, x, c)
            kernel = native.rows(W)
            if kernel is not None:
                timed["native"] = partial(kernel.project_, x, c)
            print(line(f"{m} x {n}", dtype, minima(timed)), flush=True)
    for key, value in kept.items():
        setattr(tuning, key, value)


def line(what: str, dtype: torch.dtype, times: dict[str, float]) -> str:
    """One row of the table: microseconds, and the ratio of the first to each."""
    first = next(iter(times.values()))
    cells = [f"{name} {t:.3g} ({first / t:.2f})" for name, t in times.items()]
    return f"{what:>24} {str(dtype).removeprefix('torch.'):>8}  " + ", ".join(cells)


def main(parts: list[str]) -> None:
    """Run the parts named, by default both."""
    torch.set_num_threads(1)
    native = "on" if os.environ.get("PROJLAB_NATIVE") == "1" else "off"
    print(f"torch {torch.__version__}, native kernels {native}; us (ratio of the first to this)")
    if not parts or "regimes" in parts:
        for dtype in (torch.float64, torch.float32):
            for m, n in ((1, 10), (3, 10), (10, 100), (64, 128)):
                print(one_vector(m, n, dtype), flush=True)
            for m, n in ((10, 10_000), (100, 1000), (500, 2000), (1000, 5000), (100, 100_000)):
                print(one_vector(m, n, dtype), flush=True)
            for m, n in ((8, 1_000_000), (1, 100_000), (1, 1_000_000), (1, 10_000_000)):
                print(one_vector(m, n, dtype), flush=True)
            for k, m, n in ((4, 3, 10), (4096, 3, 10), (16, 10, 100), (256, 10, 100)):
                print(many_vectors(k, m, n, dtype), flush=True)
            for k, m, n in ((4, 100, 1000), (64, 100, 1000), (16, 500, 2000)):
                print(many_vectors(k, m, n, dtype), flush=True)
            for B, m, n in ((8, 3, 10), (1024, 3, 10), (1024, 10, 100), (32, 100, 1000)):
                print(many_systems(B, m, n, dtype), flush=True)
            print(many_systems(1024, 1, 100, dtype), flush=True)
            for m, n in ((10, 100), (100, 1000), (500, 2000)):
                print(set_up(m, n, dtype), flush=True)
    if not parts or "choices" in parts:
        choices()


if __name__ == "__main__":
    main(sys.argv[1:])
