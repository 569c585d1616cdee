"""The ways to project onto orthonormal rows agree, and none costs what it need not."""

import sys
import threading

import pytest
import torch

import projlab
from benchmarks.memory import held_bytes
from projlab import tolerance
from projlab.engine.variants.orthonormal import OrthonormalRows
from projlab.numerics import tuning
from tests.projlab.systems import CASES, CHOICES, DISJOINT_VARIANTS, case
from tests.projlab.watching import HotPath
from tests.projlab.ways import (
    difference_allowed,
    every_way,
    needs_numba,
    solver_of,
    textbook,
    way_of,
)

F64 = torch.float64


@every_way
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_every_way_is_the_textbook_form_to_rounding(name, dtype, way, take):
    take(way)
    given = case(name, dtype)
    seen = set()
    for variant in CHOICES:
        if not given.able(variant) or given.may_refuse(variant):
            continue
        P = projlab.projector(given.A, given.b, variant)
        solver = solver_of(P)
        factor, c = solver.factor, solver.c
        if not isinstance(factor, OrthonormalRows):
            continue
        seen.add(way_of(P))
        for x in (given.x0, torch.stack([given.x0, -3 * given.x0, given.x0.flip(0)])):
            x = x if x.dim() == 1 or way != "native" else x.contiguous()
            allowed = difference_allowed(factor, x, c)
            expected = textbook(factor, x, c)
            projected = P(x)
            assert torch.linalg.vector_norm(projected - expected, dim=-1).max() <= allowed
            assert torch.equal(P.project_(x.clone()), projected)
            leaf = x.clone().requires_grad_()
            assert torch.equal(P(leaf), projected), "with a graph the bits are the same"
    if given.rank >= 3 and given.n >= 2 and given.overlapping:
        assert seen == {{"columns": "small", "R in parts": "small"}.get(way, way)}


@every_way
@pytest.mark.parametrize("lead", [(1,), (70,), (2, 3), (0,), (0, 3)])
@pytest.mark.parametrize("variant", ["qr", "single_row"])
def test_many_vectors(variant, lead, way, take):
    take(way)
    given = case("random 1 x 7" if variant in DISJOINT_VARIANTS else "random 5 x 12")
    P = projlab.projector(given.A, given.b, variant)
    x = torch.randn(*lead, given.n, dtype=F64)
    solver = solver_of(P)
    allowed = difference_allowed(solver.factor, x, solver.c) if x.numel() else 0
    expected = textbook(solver.factor, x, solver.c)
    strided = torch.randn(*lead, 2 * given.n, dtype=F64)[..., ::2].copy_(x)
    for found in (P(x), P.project_(x.clone()), P(strided), P.project_(strided)):
        assert found.shape == x.shape
        assert ((found - expected).abs() <= allowed).all()
    b = torch.randn(*lead, given.m, dtype=F64)
    residual = P(x, b) @ given.A.mT - b
    assert (residual.abs() <= 1e-12 * (1 + b.abs())).all()


@every_way
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("lead", [(), (1,), (3,), (70,)])
def test_a_system_for_each_vector(lead, m, way, take):
    take(way)
    A, b = torch.randn(4, m, 11, dtype=F64), torch.randn(4, m, dtype=F64)
    P = projlab.projector(A, b)
    factor = solver_of(P).factor
    assert isinstance(factor, OrthonormalRows)
    x = torch.randn(4, *lead, 11, dtype=F64)
    other = torch.randn(4, *lead, m, dtype=F64)
    expected = torch.stack([projlab.projector(A[i], b[i])(x[i]) for i in range(4)])
    moved = torch.stack([projlab.projector(A[i], b[i])(x[i], other[i]) for i in range(4)])
    scale = max(difference_allowed(factor, x, t) for t in (b, other))
    allowed = scale * float(torch.linalg.cond(A).max())
    assert (P(x) - expected).abs().max() <= allowed
    assert (P.project_(x.clone()) - expected).abs().max() <= allowed
    assert (P(x, other) - moved).abs().max() <= allowed


@every_way
def test_nan_and_infinity_go_through(way, take):
    take(way)
    given = case("random 5 x 12")
    P = projlab.projector(given.A, given.b)
    for value in (torch.nan, torch.inf):
        x = given.x0.clone()
        x[3] = value
        assert not P(x).isfinite().any()
        assert not P.project_(x).isfinite().any()


# --- what it costs -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_vector_takes_two_operators(dtype, take):
    take("small")
    given = case("random 5 x 12", dtype)
    P = projlab.projector(given.A, given.b)
    for act in (P, P.project_):
        with HotPath() as hot:
            act(given.x0.clone())
        assert hot.calls == 1 + 2  # the clone, and the two products


def largest_allocation(act):
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        act()
    return max((event.cpu_memory_usage for event in profile.function_events), default=0)


N = 200_000
LARGE = {
    "one row": lambda: torch.ones(1, N, dtype=F64),
    "five rows": lambda: torch.randn(5, N, dtype=F64),
    "forty rows": lambda: torch.randn(40, N // 10, dtype=F64),
}


@pytest.mark.parametrize("rows", LARGE)
@pytest.mark.parametrize("way", ["two passes", "blocks", pytest.param("native", marks=needs_numba)])
def test_nothing_of_the_size_of_x_is_allocated(rows, way, take):
    take(way)
    A = LARGE[rows]()
    P = projlab.projector(A, 1.0, "qr" if len(A) > 1 else "auto")
    x = torch.randn(A.shape[1], dtype=F64)
    leaf = x.clone().requires_grad_()
    assert largest_allocation(lambda: P(x)) >= x.nbytes, "the measurement would see it"
    assert largest_allocation(lambda: P.project_(x)) <= x.nbytes // 100
    with torch.no_grad():
        assert largest_allocation(lambda: P.project_(leaf)) <= x.nbytes // 100


@pytest.mark.parametrize("way", ["small", pytest.param("native", marks=needs_numba)])
def test_a_second_copy_of_the_rows_is_small(way, take):
    """Set-up keeps W once: what is added is bounded whatever the size, and for torch alone."""
    take(way)
    for m, n in ((3, 10), (64, 128), (64, 200)):
        solver = solver_of(projlab.projector(torch.randn(m, n, dtype=F64), 0.0, "qr"))
        factor = solver.factor
        factor.bound(solver.c)
        kept = way == "small" and factor.W.nbytes <= tuning.SMALL
        copy = factor.W.nbytes if kept else 0
        assert held_bytes(factor) == factor.W.nbytes + factor.R.nbytes + copy


# --- threads -----------------------------------------------------------------------------------


@every_way
def test_threads_share_a_projector(way, take):
    take(way)
    given = case("random 30 x 100")
    P = projlab.projector(given.A, given.b)
    points = torch.randn(8, 100, dtype=F64)
    expected = [P(x) for x in points]
    wrong = []

    def work(i):
        for _ in range(300):
            found = P.project_(points[i].clone())
            if not (torch.equal(found, expected[i]) and torch.equal(P(points[i]), expected[i])):
                wrong.append(i)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


@pytest.mark.parametrize("variant", ["qr", "pinv"])
def test_long_float32_rows_are_orthonormal_to_rounding(variant):
    """A float32 Householder QR of 1e6 columns is off by 1e-4."""
    A = torch.ones(2, 1_000_000)
    A[1] = torch.arange(1_000_000) / 1_000_000
    W = solver_of(projlab.projector(A, 0.0, variant)).factor.W.double()
    u = tolerance.unit_roundoff(torch.float32)
    # each entry is rounded once: (W + D)(W + D)' is off by at most 2 u to first order
    assert float((W @ W.mT - torch.eye(2)).abs().max()) <= 2.1 * u
