"""What the tests of training share: problems with known constrained optima, torch's optimizers."""

import warnings
from dataclasses import dataclass, field

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import projlab
from projlab import cat, constrain, expr

F64 = torch.float64
U = {F64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
STEPS = 1500


def vector(*values, dtype=F64):
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def parameter(*shape):
    return torch.nn.Parameter(torch.randn(*shape, dtype=F64))


def blocks_of(parameters, *equations, **keywords):
    """The blocks of equations that are kept from here on."""
    handle = constrain(torch.optim.SGD(parameters, lr=0.1), *equations, **keywords)
    system = handle._hooks.system
    assert handle.residual().abs().max() < 1e-13
    return system.blocks


def network(dtype=torch.float32):
    return torch.nn.Sequential(
        torch.nn.Linear(12, 16, dtype=dtype), torch.nn.Tanh(), torch.nn.Linear(16, 5, dtype=dtype)
    )


def backward(net):
    net.zero_grad()
    x = torch.randn(8, 12, dtype=net[0].weight.dtype)
    (net(x) ** 2).sum().backward()


class Fresh(TorchDispatchMode):
    """Sizes of the tensors that operations allocate."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.layout is torch.strided:
            known = {
                t.untyped_storage().data_ptr()
                for t in tree_leaves((args, kwargs))
                if isinstance(t, torch.Tensor) and t.layout is torch.strided
            }
            if out.untyped_storage().data_ptr() not in known:
                self.sizes.append(out.numel())
        return out


# ---- problems with known constrained optima


@dataclass
class Example:
    """0.5 ||x - target||^2 over parameters x, equations, and the constrained optimum."""

    parameters: list
    target: torch.Tensor
    equations: list
    optimum: torch.Tensor

    def loss(self):
        x = torch.cat([p.reshape(-1) for p in self.parameters])
        return 0.5 * (x - self.target).square().sum()

    def distance(self):
        x = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        return float((x - self.optimum).abs().max())


def article_1():
    p1, p2 = vector(0.0), vector(0.0)
    return Example(
        [p1, p2],
        torch.tensor([2.0, 1.5], dtype=F64),
        [expr(p1) + expr(p2) == 1],
        torch.tensor([0.75, 0.25], dtype=F64),
    )


def article_2():
    p3, p4 = vector(0.0), vector(0.0)
    return Example(
        [p3, p4],
        torch.tensor([1.0, 2.0], dtype=F64),
        [expr(p3) - 2 * expr(p4) == 0],
        torch.tensor([1.6, 0.8], dtype=F64),
    )


def article_3():
    p5, p6, p7 = vector(0.0), vector(0.0), vector(0.0)
    A = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]], dtype=F64)
    return Example(
        [p5, p6, p7],
        torch.tensor([2.0, 0.0, 1.0], dtype=F64),
        [A @ cat(expr(p5), expr(p6), expr(p7)) == torch.tensor([1.0, 0.5], dtype=F64)],
        torch.tensor([1.5, -0.5, 1.0], dtype=F64),
    )


def matrix():
    """Rows of a matrix sum to one, its first column to zero: what Muon can take."""
    W = torch.nn.Parameter(torch.zeros(3, 4, dtype=F64))
    target = torch.linspace(-1, 2, 12, dtype=F64).reshape(3, 4)
    rows = torch.zeros(4, 12, dtype=F64)
    for i in range(3):
        rows[i, 4 * i : 4 * i + 4] = 1
    rows[3, [0, 4, 8]] = 1
    b = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=F64)
    return Example(
        [W],
        target.flatten(),
        [expr(W).sum(1) == 1, expr(W)[:, 0].sum() == 0],
        projlab.projector(rows, b, "pinv")(target.flatten()),
    )


EXAMPLES = {"article 1": article_1, "article 2": article_2, "article 3": article_3}


# ---- optimizers


@dataclass
class Setting:
    """An optimizer, and what its learning-rate schedule lets it reach.

    The rate falls as (1 - k / STEPS)^2. Whatever the optimizer, the last steps are of the size of
    the rate, and their sum over the last tenth is STEPS / 10 * rate * 0.1^2 / 3: an optimizer that
    moves by the rate whatever the gradient, as the sign-like ones do, is within the largest step
    it still takes where it stops oscillating, which `reach` bounds.
    """

    make: object
    reach: float
    examples: tuple = ("article 1", "article 2", "article 3")
    closure: bool = False
    post: bool = False
    """Whether projecting after the step alone ends at the optimum too."""
    metric: bool = False
    keywords: dict = field(default_factory=dict)


optim = torch.optim
LINEAR = 1e-9  # contraction by 1 - lr * curvature a step, 500 effective steps
SIGN = 2e-2  # the bound that sign-like methods are held to
SETTINGS = {
    "SGD": Setting(lambda p: optim.SGD(p, lr=0.1), LINEAR, post=True, metric=True),
    "SGD, momentum": Setting(
        lambda p: optim.SGD(p, lr=0.05, momentum=0.9), LINEAR, post=True, metric=True
    ),
    "SGD, Nesterov": Setting(
        lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True), LINEAR, post=True, metric=True
    ),
    "SGD, foreach": Setting(lambda p: optim.SGD(p, lr=0.1, foreach=True), LINEAR, post=True),
    "SGD, fused": Setting(lambda p: optim.SGD(p, lr=0.1, fused=True), LINEAR, post=True),
    "Adam": Setting(lambda p: optim.Adam(p, lr=0.1), 1e-4, metric=True),
    "Adam, amsgrad": Setting(lambda p: optim.Adam(p, lr=0.1, amsgrad=True), 1e-4, metric=True),
    "Adam, foreach": Setting(lambda p: optim.Adam(p, lr=0.1, foreach=True), 1e-4),
    "Adam, fused": Setting(lambda p: optim.Adam(p, lr=0.1, fused=True), 1e-4, metric=True),
    "AdamW": Setting(lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.0), 1e-4, metric=True),
    "Adamax": Setting(lambda p: optim.Adamax(p, lr=0.1), 1e-4, metric=True),
    "NAdam": Setting(lambda p: optim.NAdam(p, lr=0.1), 1e-4, metric=True),
    "RAdam": Setting(lambda p: optim.RAdam(p, lr=0.1), 1e-4),
    "RMSprop": Setting(lambda p: optim.RMSprop(p, lr=0.05), SIGN, metric=True),
    "RMSprop, centered": Setting(
        lambda p: optim.RMSprop(p, lr=0.02, centered=True, momentum=0.5), SIGN
    ),
    "Adagrad": Setting(lambda p: optim.Adagrad(p, lr=0.5), 1e-4, metric=True),
    "Adadelta": Setting(lambda p: optim.Adadelta(p, lr=100.0), SIGN),
    "ASGD": Setting(lambda p: optim.ASGD(p, lr=0.1, lambd=0.0), LINEAR, post=True),
    "Rprop": Setting(lambda p: optim.Rprop(p, lr=0.05), 1e-4),
    "Adafactor": Setting(lambda p: optim.Adafactor(p, lr=0.1), SIGN),
    "LBFGS": Setting(lambda p: optim.LBFGS(p, max_iter=5), LINEAR, closure=True),
}
if hasattr(optim, "Muon"):  # younger than the oldest torch that projlab takes
    SETTINGS["Muon"] = Setting(
        lambda p: optim.Muon(p, lr=0.05, weight_decay=0.0), SIGN, examples=("matrix",)
    )
ALL_EXAMPLES = {**EXAMPLES, "matrix": matrix}


def train(example, setting, mode, steps=STEPS, watch=None):
    """The handle after training with a falling rate; `watch` is called after every step."""
    optimizer = setting.make(example.parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handle = projlab.constrain(optimizer, *example.equations, mode=mode)
    schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 - k / STEPS) ** 2)

    def closure():
        optimizer.zero_grad()
        loss = example.loss()
        loss.backward()
        return loss

    for _ in range(20 if setting.closure else steps):
        if setting.closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        if watch is not None:
            watch(handle)
        if not setting.closure:
            schedule.step()
    return handle
