"""The hot path against what the machine allows, and what `projlab.numerics.tuning` rests on.

    OMP_NUM_THREADS=1 python -m benchmarks.hot_path            # regimes, choices and limits
    OMP_NUM_THREADS=1 PROJLAB_NATIVE=0 python -m benchmarks.hot_path regimes
    OMP_NUM_THREADS=1 PROJLAB_NATIVE=0 python -m benchmarks.hot_path limits

Times are minima over interleaved repetitions in one process, on one thread; only their ratios mean
anything. Each timed answer is checked first.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
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
    columns = torch.randn(*shape[:-2], shape[-1], shape[-2], dtype=torch.float64)
    Q: Tensor = torch.linalg.qr(columns).Q
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
    """What decides the sizes of `numerics.tuning`: each way by force, the best is to be taken."""
    from projlab.engine.kernels import native
    from projlab.engine.variants.qr import QRFactor
    from projlab.numerics import tuning

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


def limits() -> None:
    """What stands behind targets that are missed: the parts of the work, and other designs."""
    F64, F32 = torch.float64, torch.float32
    for m, n in ((3, 10), (10, 100)):
        print(call_parts(m, n), flush=True)
        print(set_up_parts(m, n), flush=True)
    print(set_up_parts(500, 2000), flush=True)
    for m, n in ((500, 2000), (1000, 5000), (4, 1_000_000), (10, 1_000_000)):
        print(reading(m, n, F64), flush=True)
    for dtype in (F64, F32):
        print(one_long_row(1_000_000, dtype), flush=True)
    print(another_right_side(500, 2000), flush=True)


def call_parts(m: int, n: int) -> str:
    """A small projection: the operators alone, one operator, a call that does nothing."""
    W, c = orthonormal(m, n, dtype=torch.float64), torch.randn(m, dtype=torch.float64)
    P, x, N = projlab.projector(W, c), torch.randn(n, dtype=torch.float64), (-W).mT
    dense = torch.eye(n, dtype=torch.float64) - W.mT @ W
    shift, out = W.mT @ c, torch.empty_like(x)

    def copied() -> None:
        x.copy_(torch.addmv(shift, dense, x, out=out))

    timed: Timed = {
        "project_": lambda: P.project_(x),
        "two addmv": lambda: x.addmv_(N, torch.addmv(c, W, x)),
        "dense addmv and copy": copied,
        "one addmv(out=)": lambda: torch.addmv(shift, dense, x, out=out),
        "empty call": lambda: None,
    }
    return line(f"call {m} x {n}", torch.float64, minima(timed))


def set_up_parts(m: int, n: int) -> str:
    """Set-up: the constraint's checks, equilibration, rank; LAPACK's QR and SVD."""
    from projlab.system.equilibration import equilibrate
    from projlab.system.rank import decide

    A, b = torch.randn(m, n, dtype=torch.float64), torch.randn(m, dtype=torch.float64)
    constraint = projlab.AffineConstraint(A, b)
    rows = equilibrate(constraint, torch.float64).rows
    columns, R = A.mT.contiguous(), torch.linalg.qr(A.mT).R
    timed: Timed = {
        "projector": lambda: projlab.projector(A, b),
        "AffineConstraint": lambda: projlab.AffineConstraint(A, b),
        "equilibrate": lambda: equilibrate(constraint, torch.float64),
        "rank, with half of QR": lambda: decide(rows, 2.0**-53, "numerical"),
        "linalg.qr": lambda: torch.linalg.qr(columns),
        "svdvals(R)": lambda: torch.linalg.svdvals(R),
        "empty nn.Module": torch.nn.Module,
    }
    return line(f"set-up {m} x {n}", torch.float64, minima(timed))


def reading(m: int, n: int, dtype: torch.dtype) -> str:
    """One vector onto rows beyond the first cache: one pass, two, tiles; and reading alone."""
    from projlab.engine.kernels import native

    W, c = orthonormal(m, n, dtype=dtype), torch.randn(m, dtype=dtype)
    x, r = torch.randn(n, dtype=dtype), torch.empty(m, dtype=dtype)
    wide = W.split(2**16, dim=1)
    kept, v = W.numpy(), x.numpy()
    timed: Timed = {
        "sum": W.sum,
        "sums of 512 KiB again and again": partial(
            _again, W.view(-1)[: 2**19 // W.itemsize], m * n
        ),
        "W x": lambda: torch.mv(W, x, out=r),
        "x + W'r": lambda: x.addmv_(W.mT, c),
        "two passes": lambda: x.addmv_(W.mT, torch.addmv(c, W, x), alpha=-1),
        "numpy, two passes": lambda: np.subtract(v, (kept @ v) @ kept, out=v),
    }
    for size in (2**19, 2**20, 2**22):
        rows = max(4, size // (n * W.itemsize))
        if rows < m:
            pairs = list(zip(W.split(rows), c.split(rows), strict=True))
            timed[f"blocks of {rows} rows"] = partial(_by_rows, x, pairs)
    if len(wide) > 1:
        timed["tiles of 65536 columns"] = partial(_by_columns, x, c, wide)
    kernel = native.rows(W)
    if kernel is not None:
        timed["native"] = partial(kernel.project_, x, c)
    return line(f"{m} x {n}", dtype, minima(timed, 3.0))


def _again(block: Tensor, entries: int) -> None:
    """As many entries as there are, from the second-level cache."""
    for _ in range(entries // block.numel()):
        block.sum()


def _by_rows(x: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> None:
    for W, c in pairs:
        x.addmv_(W.mT, torch.addmv(c, W, x), alpha=-1)


def _by_columns(x: Tensor, c: Tensor, wide: tuple[Tensor, ...]) -> None:
    r, parts = c.clone(), x.split(2**16)
    for W, part in zip(wide, parts, strict=True):
        r.addmv_(W, part)
    for W, part in zip(wide, parts, strict=True):
        part.addmv_(W.mT, r, alpha=-1)


def one_long_row(n: int, dtype: torch.dtype) -> str:
    """One row: its two halves, in pieces for float32's sake, and a row of equal entries."""
    x, y = torch.randn(n, dtype=dtype), torch.randn(n, dtype=dtype)
    a, zero = torch.linspace(0.5, 1, n, dtype=dtype), torch.zeros(1, dtype=dtype)
    general, equal = projlab.projector(a, 1.0), projlab.projector(torch.ones_like(a), 1.0)
    timed: Timed = {
        "x.mul_": lambda: y.mul_(1.0),
        "dot": lambda: a.dot(x),
        "addcmul_": lambda: x.addcmul_(zero, a, value=-1),
        "addmv_ of one column": lambda: x.addmv_(a.unsqueeze(-1), zero, alpha=-1),
        "project_": lambda: general.project_(x),
        "project_, equal entries": lambda: equal.project_(x),
    }
    return line(f"1 x {n}", dtype, minima(timed))


def another_right_side(m: int, n: int) -> str:
    """c of another b: with R kept, with its halves packed, and with R made again from W and A."""
    A, b = torch.randn(m, n, dtype=torch.float64), torch.randn(m, 1, dtype=torch.float64)
    Q, R = torch.linalg.qr(A.mT)
    W, k = Q.mT.contiguous(), m // 2
    L, corner = R.mT.contiguous(), R[:k, k:].mT.contiguous()
    first, second = L[:k, :k].contiguous(), L[k:, k:].contiguous()

    def solve(T: Tensor, f: Tensor) -> Tensor:
        found: Tensor = torch.linalg.solve_triangular(T, f, upper=False)
        return found

    def halves() -> Tensor:
        upper = solve(first, b[:k])
        return torch.cat([upper, solve(second, b[k:] - corner @ upper)])

    assert torch.allclose(halves(), solve(L, b))
    timed: Timed = {
        "R kept": lambda: solve(L, b),
        "halves": halves,
        "R from A W'": lambda: solve(A @ W.mT, b),
    }
    return line(f"another b, {m} x {n}", torch.float64, minima(timed))


def line(what: str, dtype: torch.dtype, times: dict[str, float]) -> str:
    """One row of the table: microseconds, and the ratio of the first to each."""
    first = next(iter(times.values()))
    cells = [f"{name} {t:.3g} ({first / t:.2f})" for name, t in times.items()]
    return f"{what:>24} {str(dtype).removeprefix('torch.'):>8}  " + ", ".join(cells)


def main(parts: list[str]) -> None:
    """Run the parts named, by default all."""
    from projlab.engine.kernels import native

    torch.set_num_threads(1)
    in_use = "on" if native.wanted() and native.kernel(torch.float64) else "off"
    print(f"torch {torch.__version__}, native kernels {in_use}; us (ratio of the first to this)")
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
    if not parts or "limits" in parts:
        limits()


if __name__ == "__main__":
    main(sys.argv[1:])
