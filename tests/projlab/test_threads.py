"""Threads, processes, and torch's deterministic mode: the same bits as one call alone."""

import multiprocessing
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import projlab
from projlab import constrain, expr
from projlab.nn import AffineProjection

F64 = torch.float64
THREADS, ROUNDS = 8, 40


def system(dtype=F64):
    """Six rows in twelve variables, two of them redundant, and a point for each thread."""
    generator = torch.Generator().manual_seed(1)
    A = torch.randn(4, 12, dtype=dtype, generator=generator)
    A = torch.cat([A, A[:1] + A[1:2], A[2:3] * 2])
    b = A @ torch.ones(12, dtype=dtype)
    return A, b, torch.randn(THREADS, 12, dtype=dtype, generator=generator)


def disjoint():
    return torch.block_diag(*torch.ones(3, 1, 4, dtype=F64).unbind()), torch.ones(3, dtype=F64)


def at_once(work):
    """The result of work(i) in each of several threads that begin together."""
    barrier = Barrier(THREADS)

    def begun(i):
        barrier.wait()
        return work(i)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begun, range(THREADS)))


VARIANTS = [
    pytest.param(v, marks=pytest.mark.filterwarnings("ignore:Sparse CS[RC]"))
    for v in ("auto", *projlab.variants())
]


def projector_of(variant, dtype=F64):
    A, b, _ = system(dtype)
    if variant == "single_row":
        A, b = (t.to(dtype) for t in disjoint())
    return projlab.projector(A, b, variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_projector_serves_many_threads(variant):
    P, (_, _, points) = projector_of(variant), system()
    alone = [
        (P(x), P.tangent(x), P.multipliers(x), P.project_(x.clone()), P(x.repeat(3, 1)))
        for x in points
    ]

    def work(i):
        x = points[i]
        for _ in range(ROUNDS if variant != "iterative" else 2):
            found = P(x), P.tangent(x), P.multipliers(x), P.project_(x.clone()), P(x.repeat(3, 1))
            assert all(map(torch.equal, found, alone[i]))

    at_once(work)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_what_is_decided_when_asked_is_decided_once_by_whoever_asks(dtype):
    A, b, points = system(dtype)
    for _ in range(10):
        P = projlab.projector(A, b)
        found = at_once(lambda i, P=P: (P(points[i]), int(P.rank), float(P.condition), P.variant))
        again = projlab.projector(A, b)
        for i, (x, *facts) in enumerate(found):
            assert torch.equal(x, again(points[i]))
            assert facts == [int(again.rank), float(again.condition), again.variant]


@pytest.mark.parametrize("variant", ["sparse_cholesky", "iterative"])
def test_whether_rows_are_independent_is_asked_by_many_at_once(variant):
    """A factor that tells is let go by whoever asks first."""
    rng = np.random.default_rng(0)
    switching = sys.getswitchinterval()
    for _ in range(20):
        rows = sp.random_array((12, 30), density=0.15, rng=rng).tocsr()
        P = projlab.projector(rows, 0.0, variant)

        def work(_, P=P):
            sys.setswitchinterval(1e-6)  # once all have begun
            return P.multipliers(torch.zeros(30, dtype=F64))

        try:
            assert not any(y.any() for y in at_once(work))
        finally:
            sys.setswitchinterval(switching)


def test_setting_up_and_differentiating_in_threads():
    A, b, points = system()
    layer = AffineProjection(A, b)

    def work(i):
        x = points[i].clone().requires_grad_()
        for _ in range(5):
            y = projlab.project(x, A, b) + layer(x) + projlab.projector(A, b, "qr")(x)
        (g,) = torch.autograd.grad(y.square().sum(), x)
        return y.detach(), g

    alone = [work(i) for i in range(THREADS)]
    for one, many in zip(alone, at_once(work), strict=True):
        assert all(map(torch.equal, one, many))


def test_networks_that_train_in_threads_are_kept_apart():
    def work(i):
        generator = torch.Generator().manual_seed(i)
        W = torch.nn.Parameter(torch.randn(5, 4, dtype=F64, generator=generator))
        optimizer = torch.optim.Adam([W], lr=0.1)
        handle = constrain(optimizer, expr(W).sum(1) == 1, expr(W)[0, :2].sum() == i)
        for _ in range(ROUNDS):
            W.grad = torch.randn(5, 4, dtype=F64, generator=generator)
            optimizer.step()
        return W.detach(), handle.residual().abs().max()

    alone = [work(i) for i in range(THREADS)]
    for (W, _), (other, off) in zip(alone, at_once(work), strict=True):
        assert torch.equal(W, other)
        assert float(off) < 1e-14


# ---- processes


def answer(P, x, connection):
    """Of a child: what it was given, and a projector of its own."""
    again = projlab.projector(P.A, P.b, P.variant)
    connection.send_bytes(pickle.dumps([t.tolist() for t in (P(x), again(x), P.multipliers(x))]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_answer_as_their_parent_does(method):
    """Forked after use, kernels loaded and threads started; spawned with a copy by pickle."""
    P, x = projector_of("auto"), system()[2][0]
    mine = [t.tolist() for t in (P(x), P(x), P.multipliers(x))]
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=answer, args=(P, x, sender))
    child.start()
    assert receiver.poll(120), "the child hangs"
    found = pickle.loads(receiver.recv_bytes())  # noqa: S301  our own bytes
    child.join(60)
    assert child.exitcode == 0
    if method == "fork":
        assert found == mine
    else:  # kernels are there or not as its own start decides, and round otherwise
        for its, own in zip(found, mine, strict=True):
            close = {"rtol": 0.0, "atol": 64 * torch.finfo(torch.float64).eps}
            its, own = (torch.tensor(t, dtype=F64) for t in (its, own))
            torch.testing.assert_close(its, own, **close)


class Projected(torch.utils.data.Dataset):
    def __init__(self, P, points):
        self.P, self.points = P, points

    def __len__(self):
        return len(self.points)

    def __getitem__(self, i):
        return self.P(self.points[i])


def test_workers_of_a_data_loader():
    P, (_, _, points) = projector_of("auto"), system()
    loader = torch.utils.data.DataLoader(
        Projected(P, points), num_workers=2, batch_size=4, multiprocessing_context="fork"
    )
    assert torch.equal(torch.cat(list(loader)), torch.stack([P(x) for x in points]))


# ---- torch.use_deterministic_algorithms


@pytest.fixture
def deterministic():
    """What has no deterministic form raises then, and memory that nobody wrote holds NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_projections_in_deterministic_mode(variant, deterministic):
    P, (_, _, points) = projector_of(variant), system()
    found = P(points), P.tangent(points), P.multipliers(points), P.null_space()
    torch.use_deterministic_algorithms(False)
    P = projector_of(variant)
    again = P(points), P.tangent(points), P.multipliers(points), P.null_space()
    assert all(map(torch.equal, found, again))


def test_derivatives_in_deterministic_mode(deterministic):
    A, b, points = system()
    inputs = [t.clone().requires_grad_() for t in (A[:4], b[:4], points[0])]
    for variant in ("qr", "cholesky", "pinv"):
        assert torch.autograd.gradcheck(
            lambda A, b, x, v=variant: projlab.project(x, A, b, v), inputs
        )


def trained():
    torch.manual_seed(0)
    W = torch.nn.Parameter(torch.randn(6, 5, dtype=F64))
    v = torch.nn.Parameter(torch.randn(40, dtype=F64))
    optimizer = torch.optim.Adam([W, v], lr=0.1)
    ties = [expr(v)[i] - expr(v)[j] == 0.5 for i, j in ((0, 1), (1, 2), (5, 4), (7, 9), (9, 8))]
    handle = constrain(
        optimizer,
        expr(W).sum(1) == 1,
        expr(W).sum(0) == 1.2,
        torch.randn(3, 20, dtype=F64) @ expr(v)[20:] == 1,
        *ties,
    )
    for _ in range(5):
        optimizer.zero_grad()
        (W.square().sum() + (v - 1).square().sum()).backward()
        optimizer.step()
    return W.detach(), v.detach(), handle.residual()


def test_training_in_deterministic_mode(deterministic):
    found = trained()
    torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, found, trained()))
