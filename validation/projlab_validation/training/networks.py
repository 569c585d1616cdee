"""Networks under a constraint: rows that hold at every step, and what that costs in loss.

- digits: an MLP on scikit-learn's digits (Alpaydin and Kaynak 1998, UCI) with `projlab.constrain`;
  every column of the output layer sums to zero, every row of the hidden one to one.
- balance: an MLP that predicts compositions of the 53 species of GRI-Mech 3.0 after a while of
  reactions, with `projlab.nn.AffineProjection` onto the five element totals of its input; beside
  it the same network without the layer, and one with a penalty on the totals in its place.
- noise: parameters that many steps of SGD and Adam move by gradients of noise, with dense rows: the
  residual must be the same after a million steps as after one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from projlab_validation.problems import catalogue
from projlab_validation.problems.problem import DTYPES, Dtype
from projlab_validation.training.problems import Vector
from projlab_validation.training.train import NAN, TrainingRecord, Way, feasibility

if TYPE_CHECKING:
    from projlab_validation.profiles import Profile

SEEDS = 5
"""Runs of each network: the spread of their losses is the noise."""

RATE, BATCH = 3e-3, 64

PENALTY = 1e-3
"""On the mean squared error of the element totals, beside that of the composition."""

CHUNK = 1000
"""Steps whose gradients are drawn, and whose rows are evaluated, at once."""

Once = Callable[[Way, int], tuple[float, float]]
"""Trains with a seed; returns the loss and the largest scaled residual, of any step where the rows
are to hold, at the end elsewhere."""


def digits(profile: Profile, dtype: Dtype, environment: str) -> list[TrainingRecord]:
    """The MLP on digits; a skip where scikit-learn is not installed."""
    record = partial(
        TrainingRecord,
        problem="network_digits",
        optimizer="Adam",
        weight_decay=0.0,
        dtype=dtype,
        environment=environment,
        m=64,
        n=32 * 64 + 10 * 32,
        steps=profile.network_steps,
    )
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        reason = "its data set comes with scikit-learn, which is not installed"
        return [record(mode="tangent", status="skip", reason=reason)]
    data = load_digits()
    X = torch.tensor(data.data / 16, dtype=getattr(torch, dtype))
    once = partial(_digits_once, X, torch.tensor(data.target), profile.network_steps)
    return list(_compared(record, ("tangent", "unconstrained"), once))


def _digits_once(X: Tensor, y: Tensor, steps: int, mode: Way, seed: int) -> tuple[float, float]:
    from projlab import constrain, expr

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden, output = (nn.Linear(*shape, dtype=X.dtype) for shape in ((64, 32), (32, 10)))
    net = nn.Sequential(hidden, nn.Tanh(), output)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    columns, rows = expr(output.weight).sum(0) == 0, expr(hidden.weight).sum(1) == 1
    if mode == "tangent":
        constrain(optimizer, columns, rows)

    def off() -> float:
        sums = feasibility(np.ones((1, 10)), np.zeros(1), _array(output.weight.T))
        return max(sums, feasibility(np.ones((1, 64)), np.ones(1), _array(hidden.weight)))

    worst = 0.0
    for batch in _batches(len(y), steps, seed):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X[batch]), y[batch]).backward()
        optimizer.step()
        if mode == "tangent":
            worst = max(worst, off())
    with torch.no_grad():
        return float(nn.functional.cross_entropy(net(X), y)), max(worst, off())


def balance(profile: Profile, dtype: Dtype, environment: str) -> list[TrainingRecord]:
    """The network that predicts compositions."""
    E, *_ = states()
    record = partial(
        TrainingRecord,
        problem="network_balance",
        optimizer="Adam",
        weight_decay=0.0,
        dtype=dtype,
        environment=environment,
        m=E.shape[0],
        n=E.shape[1],
        steps=profile.network_steps,
    )
    once = partial(_balance_once, profile.network_steps, getattr(torch, dtype))
    return list(_compared(record, ("layer", "penalty", "unconstrained"), once))


class Balanced(nn.Module):
    """From a composition x (k, n) and its element totals (k, m) to a composition (k, n)."""

    def __init__(self, E: Tensor, *, projects: bool) -> None:
        from projlab.nn import AffineProjection

        super().__init__()
        m, n = E.shape
        widths = ((n, 64), (64, n))
        into, out = (nn.Linear(*width, dtype=E.dtype) for width in widths)
        self.net = nn.Sequential(into, nn.Tanh(), out)
        self.layer = AffineProjection(E, E.new_zeros(m)) if projects else None

    def forward(self, x: Tensor, totals: Tensor) -> Tensor:
        """The prediction."""
        y: Tensor = self.net(x)
        return y if self.layer is None else self.layer(y, totals)


@cache
def states() -> tuple[Vector, Vector, Vector, Vector]:
    """E (5, 53): atoms of each element in each species; states X, their totals E X and states Y.

    Y = X + S r(X) with S the stoichiometry of 325 reactions, E S = 0, and extents r (325,) that
    are a smooth function of X, of the order of a tenth of it together.
    """
    E, S = (
        next(iter(catalogue(names=[name], dtypes=("float64",)))).dense()
        for name in ("chem_elem_gri30", "chem_stoich_gri30")
    )
    rng = np.random.default_rng(53)
    X = rng.uniform(0.05, 1.0, (1024, E.shape[1]))
    weights = rng.standard_normal((E.shape[1], S.shape[1])) / E.shape[1] ** 0.5
    Y = X + 0.02 * np.tanh(X @ weights) @ S.T
    return E, X, X @ E.T, Y


def _balance_once(steps: int, dtype: torch.dtype, mode: Way, seed: int) -> tuple[float, float]:
    E, X, totals, Y = (torch.tensor(v, dtype=dtype) for v in states())
    held_out = slice(0, 256)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Balanced(E, projects=mode == "layer")
        again = Balanced(E, projects=mode == "layer")
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)

    def off(y: Tensor, b: Tensor) -> float:
        return feasibility(_array(E), _array(b), _array(y))

    worst = 0.0
    for batch in _batches(len(X) - held_out.stop, steps, seed):
        x, b, t = (v[held_out.stop :][batch] for v in (X, totals, Y))
        optimizer.zero_grad()
        y = model(x, b)
        loss = nn.functional.mse_loss(y, t)
        if mode == "penalty":
            loss = loss + PENALTY * nn.functional.mse_loss(y @ E.T, b)
        loss.backward()
        optimizer.step()
        if mode == "layer":
            worst = max(worst, off(y, b))
    with torch.no_grad():
        x, b, t = (v[held_out] for v in (X, totals, Y))
        y = model(x, b)
        again.load_state_dict(model.state_dict())
        if not torch.equal(again(x, b), y):
            raise ValueError("a model that took over the state dict answers with other bits")
        return float(nn.functional.mse_loss(y, t)), max(worst, off(y, b))


def _compared(record: Any, modes: Sequence[Way], once: Once) -> Iterator[TrainingRecord]:
    """Yield a record a mode: the mean loss over seeds, beside that of the unconstrained network."""
    runs: dict[Way, list[tuple[float, float]]] = {}
    seconds: dict[Way, float] = {}
    for mode in modes:
        start = time.perf_counter()
        runs[mode] = [once(mode, seed) for seed in range(SEEDS)]
        seconds[mode] = time.perf_counter() - start
    free = [loss for loss, _ in runs["unconstrained"]]
    for mode in modes:
        yield record(
            mode=mode,
            status="ok",
            loss=statistics.fmean(loss for loss, _ in runs[mode]),
            free_loss=statistics.fmean(free),
            noise=statistics.stdev(free),
            feasibility=float(np.max([residual for _, residual in runs[mode]])),
            seconds=seconds[mode],
        )


def noise(profile: Profile, dtype: Dtype, environment: str) -> list[TrainingRecord]:
    """A record a power of ten of steps, each with the largest residual since the one before."""
    return [
        TrainingRecord(
            problem="network_noise",
            optimizer=cls.__name__,
            mode="tangent",
            weight_decay=0.0,
            dtype=dtype,
            environment=environment,
            m=5,
            n=60,
            steps=steps,
            status="ok",
            feasibility=worst,
            seconds=seconds,
        )
        for cls in (torch.optim.SGD, torch.optim.Adam)
        for steps, worst, seconds in _driven(cls, profile.noise_exponent, dtype)
    ]


def _driven(cls: Any, exponent: int, dtype: Dtype) -> Iterator[tuple[int, float, float]]:
    from projlab import cat, constrain, expr

    rng = np.random.default_rng(5)
    A, b, p = (
        torch.tensor(rng.standard_normal(shape), dtype=getattr(torch, dtype))
        for shape in ((5, 60), (5,), (60,))
    )
    weight, bias = nn.Parameter(p[:50].reshape(5, 10).clone()), nn.Parameter(p[50:].clone())
    entries = [weight.detach().flatten(), bias.detach()]
    optimizer = cls([weight, bias], lr=1e-2)
    handle = constrain(optimizer, A @ cat(expr(weight), expr(bias)) == b)
    generator = torch.Generator().manual_seed(5)
    done, worst, start = 0, 0.0, time.perf_counter()
    for stop in [10**k for k in range(exponent + 1)]:
        while done < stop:
            count = min(CHUNK, stop - done)
            gradients = torch.randn(count, 60, dtype=p.dtype, generator=generator)
            points = torch.empty_like(gradients)
            for gradient, point in zip(gradients, points, strict=True):
                weight.grad, bias.grad = gradient[:50].view(5, 10), gradient[50:]
                optimizer.step()
                torch.cat(entries, out=point)
            worst = max(worst, feasibility(_array(A), _array(b), _array(points)))
            done += count
        if handle.steps != done:
            raise ValueError(f"the constraint was applied at {handle.steps} of {done} steps")
        yield done, worst, time.perf_counter() - start
        worst = 0.0


def _batches(size: int, steps: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield torch.randint(size, (BATCH,), generator=generator)


def _array(values: Tensor) -> Any:
    return values.detach().double().numpy()


Train = Callable[["Profile", "Dtype", str], list[TrainingRecord]]

NETWORKS: dict[str, tuple[Train, tuple[Dtype, ...]]] = {
    "network_digits": (digits, ("float32",)),
    "network_balance": (balance, ("float32",)),
    "network_noise": (noise, DTYPES),
}
"""By name: what trains it, and in which dtypes."""


def measure(name: str, profile: Profile, dtype: Dtype, environment: str) -> list[TrainingRecord]:
    """Train one network in one dtype; what goes wrong is a finding, not an exception."""
    try:
        return NETWORKS[name][0](profile, dtype, environment)
    except Exception as fault:  # the other runs go on
        return [
            TrainingRecord(
                problem=name,
                optimizer="",
                mode="tangent",
                weight_decay=NAN,
                dtype=dtype,
                environment=environment,
                m=0,
                n=0,
                steps=0,
                status="error",
                reason=f"{type(fault).__name__}: {fault}",
            )
        ]
