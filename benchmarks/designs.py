"""Designs of the hot path that were tried and are not in use, beside the one that is.

    OMP_NUM_THREADS=1 python -m benchmarks.designs            # all of them
    OMP_NUM_THREADS=1 python -m benchmarks.designs kernels rows sums vectors float32

Times and what they mean are as in `benchmarks.hot_path`; each answer is checked first.
"""

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from textwrap import indent
from typing import Any

import torch
from torch import Tensor

from benchmarks.hot_path import Timed, check, line, minima, orthonormal

F32, F64 = torch.float32, torch.float64


# --- one vector: kernels -----------------------------------------------------------------------


def kernels() -> None:
    """One pass over W by groups of rows, in the shapes that a loop can take."""
    if importlib.util.find_spec("numba") is None:
        print("kernels: not measured, numba is not installed")
        return
    for m, n in ((504, 2000), (1000, 5000)):
        W, c, x = orthonormal(m, n, dtype=F64), torch.randn(m, dtype=F64), torch.randn(n, dtype=F64)
        arrays = x.numpy(), W.numpy(), c.numpy()
        timed: Timed = {"sum": W.sum, "in use": _kernel(W, x, c)}
        for group in (1, 2, 4, 8):
            timed[f"groups of {group}"] = partial(compiled(group, "apart"), *arrays)
            timed[f"groups of {group}, last first"] = partial(compiled(group, "back"), *arrays)
        timed["groups of 8, one dot at a time"] = partial(compiled(8, "single"), *arrays)
        timed["two passes, 8 rows at a time"] = partial(compiled(8, "passes"), *arrays)
        for name, design in timed.items():
            if name != "sum":
                x.normal_()
                design()
                check(x, W, -c)
        print(line(f"{m} x {n}", F64, minima(timed, 3.0)), flush=True)


def _kernel(W: Tensor, x: Tensor, c: Tensor) -> Callable[[], object]:
    """The kernel in use, whatever size it is taken for."""
    from projlab.engine.kernels import native

    found = native.kernel(W.dtype)
    assert found is not None
    return partial(native.NativeRows(W, found).project_, x, c)


def compiled(group: int, shape: str) -> Callable[..., None]:
    """x -= W'(W x + c) with `group` rows unrolled, which divides their number."""
    from numba import njit

    from projlab.engine.kernels.numba_kernels import OPTIONS

    each = range(group)
    rows = "; ".join(f"w{k} = W[i + {k}]" for k in each)
    zeros = "; ".join(f"a{k} = c[i + {k}]" for k in each)
    dots = "; ".join(f"a{k} += w{k}[j] * xj" for k in each)
    update = "x[j] -= " + " + ".join(f"a{k} * w{k}[j]" for k in each)
    together = f"for j in range(n):\n    xj = x[j]; {dots}"
    one_by_one = "\n".join(f"for j in range(n):\n    a{k} += w{k}[j] * x[j]" for k in each)
    change = f"for j in range(n):\n    {update}"
    pieces = "; ".join(f"u{k} = w{k}[start:end]" for k in each)
    used = " + ".join(f"a{k} * u{k}[j]" for k in each)
    back = (
        "end = n\nwhile end > 0:\n    start = max(end - 1024, 0)\n    y = x[start:end]; "
        f"{pieces}\n    for j in range(end - start):\n        y[j] -= {used}\n    end = start"
    )
    loop = f"for i in range(0, m, {group}):\n"
    body = {
        "apart": loop + indent(f"{rows}; {zeros}\n{together}\n{change}", "    "),
        "back": loop + indent(f"{rows}; {zeros}\n{together}\n{back}", "    "),
        "single": loop + indent(f"{rows}; {zeros}\n{one_by_one}\n{change}", "    "),
        "passes": "r = c.copy()\n"
        + loop
        + indent(
            f"{rows}; {zeros}\n{together}\n" + "; ".join(f"r[i + {k}] = a{k}" for k in each), "    "
        )
        + "\n"
        + loop
        + indent(f"{rows}; {zeros.replace('c[', 'r[')}\n{change}", "    "),
    }[shape]
    scope: dict[str, Any] = {}
    source = "def project(x, W, c):\n" + indent("m, n = W.shape\n" + body, "    ")
    exec(source, scope)  # noqa: S102  # unrolled here rather than written out eight times
    kernel: Callable[..., None] = njit(**{**OPTIONS, "cache": False})(scope["project"])
    return kernel


# --- one vector: torch -------------------------------------------------------------------------


def rows() -> None:
    """Few rows of many entries: two passes, and columns in tiles that stay in a cache."""
    for m in (4, 10):
        n = 1_000_000
        W, c, x = orthonormal(m, n, dtype=F64), torch.randn(m, dtype=F64), torch.randn(n, dtype=F64)
        timed: Timed = {"two passes": partial(_twice, x, c, W)}
        for size in (2**12, 2**14, 2**16):
            timed[f"tiles of {size} columns"] = partial(_tiled, x, c, W.split(size, 1), size)
        if importlib.util.find_spec("numba"):
            timed["kernel"] = _kernel(W, x, c)
        for design in timed.values():
            x.normal_()
            design()
            check(x, W, -c)
        print(line(f"{m} x {n}", F64, minima(timed, 3.0)), flush=True)


def _twice(x: Tensor, c: Tensor, W: Tensor) -> None:
    x.addmv_(W.mT, torch.addmv(c, W, x), alpha=-1)


def _tiled(x: Tensor, c: Tensor, tiles: tuple[Tensor, ...], size: int) -> None:
    r, parts = c.clone(), x.split(size)
    for W, part in zip(tiles, parts, strict=True):
        r.addmv_(W, part)
    for W, part in zip(tiles, parts, strict=True):
        part.addmv_(W.mT, r, alpha=-1)


# --- many vectors ------------------------------------------------------------------------------


def vectors() -> None:
    """256 vectors: as rows or columns of the products, all at once and a few at a time."""
    for m, n in ((500, 2000), (10, 10_000)):
        for dtype in (F64, F32):
            W, c = orthonormal(m, n, dtype=dtype), torch.randn(m, dtype=dtype)
            X, columns = torch.randn(256, n, dtype=dtype), W.mT.contiguous().mT
            timed: Timed = {
                "x' as rows": partial(_as_rows, X, W, c),
                "x' as columns": partial(_as_columns, X, W, c),
                "rows, W by columns": partial(_as_rows, X, columns, c),
            }
            for size in (16, 64):
                timed[f"rows, {size} at a time"] = partial(_in_blocks, X, W, c, size)
            for design in timed.values():
                X.normal_()
                design()
                check(X, W, -c)
            print(line(f"256 on {m} x {n}", dtype, minima(timed)), flush=True)


def _as_rows(X: Tensor, W: Tensor, c: Tensor) -> None:
    X.addmm_(torch.addmm(c, X, W.mT), W, alpha=-1)


def _as_columns(X: Tensor, W: Tensor, c: Tensor) -> None:
    X.mT.addmm_(W.mT, torch.addmm(c.unsqueeze(-1), W, X.mT), alpha=-1)


def _in_blocks(X: Tensor, W: Tensor, c: Tensor, size: int) -> None:
    for block in X.split(size):
        _as_rows(block, W, c)


# --- training: sums ----------------------------------------------------------------------------


def sums() -> None:
    """Sums over the columns of a weight, float32, and how far the worst is off in u."""
    for k, n in ((128, 784), (2048, 784), (2048, 2048)):
        W = torch.randn(k, n)
        ones = torch.ones(k)
        exact = W.double().sum(0)
        scale = torch.finfo(F32).eps / 2 * W.double().abs().sum(0)
        timed: Timed = {
            "torch.sum": partial(torch.sum, W, 0),
            "one product with ones": partial(torch.matmul, ones, W),
            "products of 64 rows": partial(_by_products, W),
            "pieces of 64 columns": partial(_by_columns, W),
        }
        off = {
            name: float(((found().double() - exact).abs() / scale).max())  # type: ignore[attr-defined]
            for name, found in timed.items()
        }
        shown = ", ".join(f"{name} {u:.2g} u" for name, u in off.items())
        print(line(f"sums of {k} x {n}", F32, minima(timed)), f"; off by {shown}", flush=True)


def _by_products(W: Tensor) -> Tensor:
    pieces = W.unflatten(0, (-1, 64))
    return torch.bmm(W.new_ones(1, 1, 64).expand(len(pieces), -1, -1), pieces).sum(0)[0]


def _by_columns(W: Tensor) -> Tensor:
    return torch.cat([piece.sum(0) for piece in W.split(64, 1)])


# --- float32 -----------------------------------------------------------------------------------


def float32() -> None:
    """Factors of float32 rows: LAPACK's in float32, and in float64 and rounded."""
    for m, n in ((500, 2000), (2, 1_000_000)):
        A = torch.rand(m, n)
        single = torch.linalg.qr(A.mT).Q.mT
        double = torch.linalg.qr(A.double().mT).Q.mT.float()
        timed: Timed = {
            "QR in float32": partial(torch.linalg.qr, A.mT),
            "in float64, rounded": partial(_rounded_qr, A),
            "svdvals in float64": partial(torch.linalg.svdvals, A.double()),
        }
        u = torch.finfo(F32).eps / 2
        eye = torch.eye(m, dtype=F64)
        off = [float((W.double() @ W.double().mT - eye).abs().max()) / u for W in (single, double)]
        found = f"; W W' - I is {off[0]:.2g} u in float32, {off[1]:.2g} u rounded"
        print(line(f"{m} x {n}", F32, minima(timed)), found, flush=True)
    n = 10 * 2**20
    a, x = torch.rand(n), torch.rand(n)
    exact = float(a.double() @ x.double())
    timed = {
        "one dot": lambda: a.dot(x),
        "dots of 2^17": partial(_in_pieces, a, x),
        "vecdot of 2^10": partial(torch.linalg.vecdot, a.view(-1, 2**10), x.view(-1, 2**10)),
    }
    off_by = abs(float(a.dot(x)) / exact - 1)
    print(line(f"a'x, {n} entries", F32, minima(timed)), f"; one dot is off by {off_by:.1g}")


def _rounded_qr(A: Tensor) -> Tensor:
    Q: Tensor = torch.linalg.qr(A.double().mT).Q
    return Q.float()


def _in_pieces(a: Tensor, x: Tensor) -> Tensor:
    pieces = zip(a.split(2**17), x.split(2**17), strict=True)
    return torch.stack([p.dot(q) for p, q in pieces]).sum()


DESIGNS: dict[str, Callable[[], None]] = {
    "kernels": kernels,
    "rows": rows,
    "vectors": vectors,
    "sums": sums,
    "float32": float32,
}


def main(parts: list[str]) -> None:
    """Run the parts named, by default all."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if unknown := set(parts) - set(DESIGNS):
        sys.exit(f"no part is called {', '.join(sorted(unknown))}; it takes {', '.join(DESIGNS)}")
    print(f"torch {torch.__version__}; us (ratio of the first to this)")
    for name, part in DESIGNS.items():
        if not parts or name in parts:
            part()


if __name__ == "__main__":
    main(sys.argv[1:])
