"""Inequalities and bounds in training: constrained optima, faces, refusals."""

import copy
import warnings
from dataclasses import dataclass
from itertools import product

import pytest
import torch

import projlab
from projlab import cat, constrain, expr
from projlab.training.blocks.polyhedral import PolyhedralBlock
from tests.projlab.training.helpers import F64, SETTINGS, STEPS, U, network, vector


@dataclass
class Problem:
    """0.5 (x - t)' H (x - t) over parameters, with a known constrained optimum."""

    parameters: list
    relations: list
    H: torch.Tensor
    t: torch.Tensor
    optimum: torch.Tensor

    def x(self):
        return torch.cat([p.reshape(-1) for p in self.parameters])

    def loss(self):
        away = self.x() - self.t
        return 0.5 * away @ (self.H @ away)

    def distance(self):
        return float((self.x().detach() - self.optimum).abs().max())


def curvature(n, condition=10.0):
    """(n, n) with the largest eigenvalue one, whose axes are not those of the entries."""
    draw = torch.Generator().manual_seed(n)
    Q, _ = torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=draw))
    return (
        Q @ torch.diag(torch.logspace(0, -torch.log10(torch.tensor(condition)), n, dtype=F64)) @ Q.T
    )


def with_normal(optimum, normal):
    """H and t for which H (x* - t) is minus a vector of the normal cone: then x* is optimal."""
    H = curvature(len(optimum))
    return H, optimum + torch.linalg.solve(H, normal)


def simplex():
    """Half of the weights are zero; pushed there by multipliers of different sizes."""
    optimum = torch.tensor([0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0], dtype=F64)
    normal = 0.3 - torch.tensor([0, 0, 0, 0, 0.1, 0.5, 1.0, 2.0], dtype=F64)
    p = torch.nn.Parameter(torch.full((8,), 0.125, dtype=F64))
    return Problem([p], [expr(p).sum() == 1, expr(p) >= 0], *with_normal(optimum, normal), optimum)


def box():
    """Bounds of both sides, one of them absent here and there."""
    optimum = torch.tensor([0.0, 0.0, 1.0, 2.0, 0.3, 0.7], dtype=F64)
    normal = torch.tensor([-0.5, -0.1, 0.3, 1.0, 0.0, 0.0], dtype=F64)
    upper = torch.tensor([1.0, torch.inf, 1.0, 2.0, 1.0, torch.inf], dtype=F64)
    p = torch.nn.Parameter(torch.full((6,), 0.5, dtype=F64))
    return Problem([p], [expr(p) >= 0, expr(p) <= upper], *with_normal(optimum, normal), optimum)


def portfolio():
    """Two equations, two inequalities of which one is slack, bounds, and two parameters."""
    A = torch.tensor([[1.0] * 6, [0.8, 0.3, -0.5, -0.2, 0.1, 0.0]], dtype=F64)
    optimum = torch.tensor([0.25, 0.1, 0.4, 0.0, 0.05, 0.2], dtype=F64)
    G = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0.0, 0, 0, 1, 1, 0]], dtype=F64)
    normal = A.T @ torch.tensor([0.2, -0.4], dtype=F64) + 0.7 * G[0]
    normal = normal + torch.tensor([0, 0, 0.6, -0.3, 0, 0], dtype=F64)
    p = torch.nn.Parameter(torch.full((2,), 0.1, dtype=F64))
    q = torch.nn.Parameter(torch.full((4,), 0.2, dtype=F64))
    w = cat(expr(p), expr(q))
    relations = [A @ w == A @ optimum, G @ w <= torch.tensor([0.35, 0.5], dtype=F64)]
    relations += [e >= 0 for e in (expr(p), expr(q))] + [e <= 0.4 for e in (expr(p), expr(q))]
    return Problem([p, q], relations, *with_normal(optimum, normal), optimum)


def mixtures():
    """A matrix whose rows are mixtures: what Muon can take."""
    optimum = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.25, 0.75], [0.1, 0.2, 0.3, 0.4]], dtype=F64)
    normal = torch.where(optimum == 0, -0.5, 0.0) + torch.tensor([[0.2], [-0.1], [0.0]], dtype=F64)
    W = torch.nn.Parameter(torch.full((3, 4), 0.25, dtype=F64))
    H, t = with_normal(optimum.flatten(), normal.flatten())
    return Problem([W], [expr(W).sum(dim=1) == 1, expr(W) >= 0], H, t, optimum.flatten())


def budgets():
    """Rows that sum to one at most, of which some do, and entries within bounds of their own."""
    optimum = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.1], [0.6, 0.0, 0.1]], dtype=F64)
    normal = torch.tensor([[0.4, 0.4, -0.2], [0, 0, 0], [0.3, -0.1, 0]], dtype=F64)
    upper = torch.full((3, 3), torch.inf, dtype=F64)
    upper[2, 0] = 0.6
    W = torch.nn.Parameter(torch.full((3, 3), 0.2, dtype=F64))
    H, t = with_normal(optimum.flatten(), normal.flatten())
    relations = [expr(W).sum(dim=1) <= 1, expr(W) >= 0, expr(W) <= upper]
    return Problem([W], relations, H, t, optimum.flatten())


PROBLEMS = {
    "simplex": simplex,
    "box": box,
    "portfolio": portfolio,
    "mixtures": mixtures,
    "budgets": budgets,
}
FEW = ("SGD, momentum", "Adam", "RMSprop, centered")
"""Optimizers that are tried on every problem; the others on the one that has all kinds of rows."""
SAME_STEPS = ("SGD, foreach", "SGD, fused", "Adam, foreach")
"""Those of others, computed otherwise."""
INSTANCES = [
    (problem, name)
    for problem in PROBLEMS
    for name in SETTINGS
    if name != "LBFGS" and (name in FEW or (problem == "budgets" and name not in SAME_STEPS))
]
REACH = 10.0
"""Curvatures are a tenth of those that `Setting.reach` was stated for."""


def train(problem, make, steps=STEPS, watch=None, **keywords):
    optimizer = make(problem.parameters)
    handle = constrain(optimizer, *problem.relations, **keywords)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 - k / STEPS) ** 2)
    for _ in range(steps):
        optimizer.zero_grad()
        problem.loss().backward()
        optimizer.step()
        schedule.step()
        if watch is not None:
            watch(handle)
    return handle


@pytest.mark.parametrize(("problem", "name"), INSTANCES)
def test_every_optimizer_ends_at_the_constrained_optimum(problem, name):
    instance, setting = PROBLEMS[problem](), SETTINGS[name]
    # linear rates: 1 - lr * 0.1 a step over 500 effective ones leaves e^-25 of the start for
    # lr = 0.05 / (1 - 0.9), e^-5 for plain steps of 0.1, which take the rate that is stable
    make = setting.make
    if name in ("SGD", "SGD, foreach", "SGD, fused", "ASGD"):
        make = faster(make)
    handle = train(instance, make)
    assert instance.distance() <= max(REACH * setting.reach, 1e-6)
    assert handle.residual().abs().max() <= 8 * U[F64] * 4
    assert handle.certify().verdict == "certified"


def faster(make):
    def made(parameters):
        optimizer = make(parameters)
        for group in optimizer.param_groups:
            group["lr"] = 1.0
        return optimizer

    return made


# ---- faces


def descending(hold):
    """The slope of the loss along one step of badly scaled descent on a simplex."""
    p = torch.nn.Parameter(torch.tensor([0.0, 0.3, 0.7], dtype=F64))
    optimizer = torch.optim.Adagrad([p], lr=1e-6)
    handle = constrain(optimizer, expr(p).sum() == 1, expr(p) >= 0)
    g = torch.tensor([10.0, 1.0, -1.0], dtype=F64)
    # the third entry has seen large gradients: the second moves and the third hardly does
    optimizer.state[p]["sum"].copy_(torch.tensor([1.0, 1.0, 1e8]))
    p.grad = g.clone()
    before = p.detach().clone()
    (block,) = handle._hooks.system.blocks
    if not hold:
        drop(block)
    optimizer.step()
    return float(g @ (p.detach() - before))


def drop(block):
    """A fault: nothing is held after the gradient."""
    tangent = block.tangent

    def then(gs, shift):
        tangent(gs, shift)
        block._face = None

    block.tangent = then


def test_a_scaled_step_descends_where_what_the_gradient_pushes_against_is_held():
    # d = (0, -1, 1): the scaled step is (0, -0.7, 7e-5) lr, of which the plain projection gives a
    # third back to each entry, the first one too: there the loss rises by 10 for each that it falls
    assert descending(hold=True) < 0
    assert descending(hold=False) > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.99),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.99, 0.999)),
    ],
)
def test_momenta_let_a_variable_leave_its_bound_at_once(make):
    p = vector(0.5, 0.5)
    optimizer = make([p])
    constrain(optimizer, expr(p) >= 0)
    for _ in range(300):
        p.grad = torch.tensor([1.0, 0.0], dtype=F64)
        optimizer.step()
        if p[0] == 0:
            break
    assert p[0] == 0
    p.grad = torch.tensor([-1.0, 0.0], dtype=F64)
    optimizer.step()
    assert p[0] > 0


def test_momenta_lie_on_the_face():
    p = vector(*[0.125] * 8)
    optimizer = torch.optim.SGD([p], lr=0.3, momentum=0.9)
    constrain(optimizer, expr(p).sum() == 1, expr(p) >= 0)
    for k in range(40):
        held = p.detach() == 0
        p.grad = torch.linspace(-1, 1, 8, dtype=F64).roll(k // 10)
        optimizer.step()
        m = optimizer.state[p]["momentum_buffer"]
        assert abs(m.sum()) < 1e-13 * m.abs().max().clamp_min(1)
        assert (m[held] <= 0).all()


def test_gradients_are_minus_directions_of_the_tangent_cone():
    p = vector(0.0, 0.0, 0.4, 0.6)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 1, expr(p) >= 0)
    p.grad = torch.tensor([3.0, -3.0, 1.0, 0.0], dtype=F64)
    optimizer.step()
    # free: all but the first, whose multiplier is 3 + 2/3
    torch.testing.assert_close(
        p.grad, torch.tensor([0.0, -7 / 3, 5 / 3, 2 / 3], dtype=F64), rtol=1e-15, atol=1e-15
    )
    assert handle.residual().abs().max() < 1e-15


@pytest.mark.parametrize("native", ["1", "0"])
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
def test_steps_are_feasible_to_rounding(monkeypatch, native, dtype):
    monkeypatch.setenv("PROJLAB_NATIVE", native)
    torch.manual_seed(0)
    W = torch.nn.Parameter(torch.rand(4, 500).to(dtype))
    v = torch.nn.Parameter(torch.rand(300).to(dtype))
    optimizer = torch.optim.Adam([W, v], lr=0.01)
    upper = torch.rand(300, dtype=F64) * 0.02 + 0.01
    constrain(
        optimizer,
        expr(W).sum(dim=1) == 1,
        expr(W) >= 0,
        expr(v).sum() == 1,
        expr(v) >= -0.01,
        expr(v) <= upper,
    )
    for _ in range(20):
        W.grad, v.grad = torch.randn_like(W), torch.randn_like(v)
        optimizer.step()
        x, y = W.detach().double(), v.detach().double()
        assert (x >= 0).all()
        assert (y >= torch.tensor(-0.01, dtype=F64).to(dtype)).all()
        assert (y <= upper.to(dtype)).all()
        size = 8 * U[dtype]
        assert ((x.sum(1) - 1).abs() <= size * (x.sum(1) + 1)).all()
        assert abs(y.sum() - 1) <= size * (y.abs().sum() + 1)


def test_the_kernel_and_torch_take_the_same_steps(monkeypatch):
    ends = []
    for native in "10":
        monkeypatch.setenv("PROJLAB_NATIVE", native)
        instance = mixtures()
        train(instance, lambda p: torch.optim.Adam(p, lr=0.05), steps=60)
        ends.append(instance.x().detach())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


def test_decay_and_ascent_are_taken_into_account():
    optimum = torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0], dtype=F64)
    normal = torch.tensor([0.1, 0.1, 0.1, -0.2, -0.9], dtype=F64)
    decay = 0.1
    t = optimum + normal + decay * optimum  # (x - t) + decay x = -normal at the optimum
    # from within, and from a face whose entries on their bound must leave it, and others come
    for sign, start in product((1, -1), ([0.2] * 5, [0.0, 0.0, 0.0, 0.5, 0.5])):
        p = vector(*start)
        optimizer = torch.optim.SGD(
            [p], lr=0.1, momentum=0.5, weight_decay=decay, maximize=sign < 0
        )
        constrain(optimizer, expr(p).sum() == 1, expr(p) >= 0)
        for _ in range(200):
            optimizer.zero_grad()
            (sign * 0.5 * (p - t).square().sum()).backward()
            optimizer.step()
        assert (p.detach() - optimum).abs().max() < 1e-12


def test_gradients_that_are_not_finite_are_left_to_the_scaler():
    p = vector(0.0, 0.5, 0.5)
    optimizer = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    constrain(optimizer, expr(p).sum() == 1, expr(p) >= 0)
    p.grad = torch.tensor([1.0, 0.1, 0.2], dtype=F64)
    optimizer.step()
    before = p.detach().clone()
    p.grad = torch.tensor([torch.inf, 0.1, torch.nan], dtype=F64)
    optimizer.found_inf = torch.ones(1)
    optimizer._step_supports_amp_scaling = True
    hooks = optimizer._projlab_hooks
    hooks._before(optimizer, (optimizer,), {})
    hooks._after(optimizer)
    assert torch.equal(p.detach(), before)
    assert torch.isfinite(optimizer.state[p]["momentum_buffer"]).all()


# ---- what `constrain` and its handle do


def test_what_is_said_of_inequalities():
    w, W = vector(0.3, 0.3, 0.4), torch.nn.Parameter(torch.rand(2, 2, dtype=F64))
    optimizer = torch.optim.SGD([w, W], lr=0.1)
    handle = constrain(
        optimizer, expr(w).sum() == 1, expr(w) >= 0, expr(W).sum(dim=1) <= 3, 2 * expr(W) >= -1
    )
    text = repr(handle)
    for part in ("p0[0] >= 0, ... (3 rows)", "W1[0].sum() <= 3, ... (2 rows)"):
        assert part in text
    assert {line.split(": ")[1] for line in handle.blocks} == {"disjoint_rows"}
    with torch.no_grad():
        w.copy_(torch.tensor([-0.25, 0.5, 0.5], dtype=F64))
        W[1, 1] = 5.0
    off = handle.residual()
    assert off.shape == (1 + 3 + 2 + 4,)
    torch.testing.assert_close(off[:4], torch.tensor([-0.25, 0.25, 0, 0], dtype=F64))
    assert off[5] > 2
    assert off[6:].abs().max() == 0
    assert handle.certify().verdict == "failed"
    w.grad, W.grad = torch.zeros_like(w), torch.zeros_like(W)
    with pytest.warns(UserWarning, match=r"p0\[0\] >= 0.*no longer hold"):
        optimizer.step()
    assert handle.residual().abs().max() < 1e-14
    assert handle.certify().verdict == "certified"


def test_bounds_of_entries_in_rows_and_alone():
    p, q = vector(0.5, 0.5, 0.5, 0.5), vector(2.0)
    optimizer = torch.optim.SGD([p, q], lr=1.0)
    handle = constrain(optimizer, expr(p)[:2].sum() == 1, expr(p) <= 0.75, expr(q) >= 1)
    assert len(handle.blocks) == 3
    p.grad, q.grad = torch.tensor([-1.0, 0, -1, 1], dtype=F64), vector(5.0).detach()
    optimizer.step()
    assert torch.cat([p, q]).tolist() == [0.75, 0.25, 0.75, -0.5, 1.0]


def test_a_constant_parameter_may_be_a_bound():
    p, floor = vector(1.0, 1.0), torch.tensor([0.0, 0.5], dtype=F64)
    optimizer = torch.optim.SGD([p], lr=1.0)
    constrain(optimizer, expr(p) >= expr(floor))
    p.grad = torch.tensor([3.0, 3.0], dtype=F64)
    optimizer.step()
    assert p.tolist() == [0.0, 0.5]
    floor.fill_(0.25)
    p.grad = torch.tensor([3.0, 3.0], dtype=F64)
    optimizer.step()
    assert p.tolist() == [0.25, 0.25]


def test_frozen_and_sleeping_parameters_are_constants():
    p, q = vector(0.5, 0.25), vector(0.25)
    optimizer = torch.optim.SGD([p, q], lr=1.0)
    handle = constrain(optimizer, expr(p).sum() + expr(q).sum() == 1, expr(p) >= 0, expr(q) >= 0)
    p.grad = torch.tensor([3.0, 0.0], dtype=F64)
    optimizer.step()
    assert q.tolist() == [0.25]
    assert p.tolist() == [0.0, 0.75]
    q.requires_grad_(False)
    p.grad = torch.tensor([0.0, 3.0], dtype=F64)
    optimizer.step()
    assert p.tolist() == [0.75, 0.0]
    assert handle.residual().abs().max() < 1e-15


def test_right_sides_change_and_constraints_go():
    p = vector(0.25, 0.25, 0.5)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 1, expr(p) >= 0)
    bounded = constrain(optimizer, expr(p) <= 0.5)
    bounded.set_right_side(torch.tensor([0.1, 0.5, 0.5], dtype=F64))
    assert p[0] == 0.1
    torch.testing.assert_close(p.sum(), torch.tensor(1.0, dtype=F64))
    with pytest.raises(
        projlab.InconsistentError, match=r"left side of p0\.sum\(\) == 1 is at most"
    ):
        bounded.set_right_side(0.25)
    assert p[0] == 0.1
    bounded.remove()
    p.grad = torch.tensor([-5.0, 0.0, 0.0], dtype=F64)
    optimizer.step()
    assert p[0] > 0.3
    handle.remove()
    assert "_projlab_hooks" not in vars(optimizer)


def test_training_resumes_where_it_was():
    def run(instance, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            instance.loss().backward()
            optimizer.step()

    def made(instance):
        optimizer = torch.optim.Adam(instance.parameters, lr=0.05)
        constrain(optimizer, *instance.relations)
        return optimizer

    whole, resumed = mixtures(), mixtures()
    run(whole, made(whole), 30)
    first = made(resumed)
    run(resumed, first, 15)
    saved = copy.deepcopy(first.state_dict())
    first._projlab_hooks.detach()
    second = made(resumed)
    second.load_state_dict(saved)
    run(resumed, second, 15)
    # but for momenta, which the first step after it projects once more
    torch.testing.assert_close(resumed.x(), whole.x(), rtol=0, atol=1e-14)


def test_averages_are_projected():
    net = network(F64)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    handle = constrain(
        optimizer, expr(net[2].weight).sum(1) == 1, expr(net[2].weight) >= 0, module=net
    )
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin[2].weight.add_(torch.randn_like(twin[2].weight))
    handle.project(twin)
    assert (twin[2].weight >= 0).all()
    torch.testing.assert_close(twin[2].weight.sum(1), torch.ones(5, dtype=F64))


REFUSED = {
    "crossed": (
        lambda p: [expr(p) >= 1, expr(p)[1] <= 0],
        projlab.InconsistentError,
        r"p0\[1\] >= 1 and p0\[1\] <= 0",
    ),
    "row": (
        lambda p: [expr(p).sum() == 5, expr(p) <= 1],
        projlab.InconsistentError,
        r"left side of p0\.sum\(\) == 5 is at most 3",
    ),
    "rows": (
        lambda p: [
            torch.tensor([[1.0, 1, 0], [0, 1, 1]]) @ expr(p) == torch.tensor([1.0, 5.0]),
            expr(p) >= 0,
            expr(p) <= 2,
        ],
        projlab.InconsistentError,
        r"\(A @ p0\)\[1\] == 5",
    ),
    "nothing": (
        lambda p: [0 * expr(p) >= 1, expr(p) >= 0],
        projlab.InconsistentError,
        "holds no parameter that varies",
    ),
    "infinite": (lambda p: [expr(p) >= torch.inf], projlab.InputError, "no number reaches"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_point_is_refused_by_name_before_anything_moves(case):
    relations, error, match = REFUSED[case]
    p = vector(3.0, 3.0, 3.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    with pytest.raises(error, match=match):
        constrain(optimizer, *relations(p))
    assert p.tolist() == [3.0] * 3
    assert not optimizer._optimizer_step_pre_hooks


def test_what_cannot_be_right_is_refused():
    p = vector(3.0, -3.0)
    with pytest.raises(projlab.InputError, match="LBFGS with inequalities"):
        constrain(torch.optim.LBFGS([p]), expr(p) >= 0)
    optimizer = torch.optim.Adam([p])
    with pytest.raises(projlab.InputError, match='mode="metric" takes equations alone'):
        constrain(optimizer, expr(p) >= 0, mode="metric")
    with pytest.raises(projlab.InputError, match='variant="qr" is one of equations'):
        constrain(optimizer, expr(p) >= 0, variant="qr")
    with pytest.raises(TypeError, match=r"no truth value.*give two"):
        constrain(optimizer, 0 <= expr(p) <= 1)
    with pytest.raises(TypeError, match="closed"):
        expr(p) < 1  # noqa: B015  the comparison is the test
    assert p.tolist() == [3.0, -3.0]


def test_many_rows_of_many_lengths_are_one_block():
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.rand(k + 2, dtype=F64)) for k in range(30)]
    a = [torch.rand(k + 2, dtype=F64) + 0.5 for k in range(30)]
    relations = [
        (a[k] @ expr(p) == 1 if k % 2 else a[k] @ expr(p) <= 1) for k, p in enumerate(parameters)
    ]
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    handle = constrain(optimizer, *relations, *(expr(p) >= 0 for p in parameters))
    assert len(handle.blocks) == 1
    for _ in range(200):
        for p in parameters:
            p.grad = p.detach() - torch.linspace(-1, 1, len(p), dtype=F64)
        optimizer.step()
    for k, p in enumerate(parameters):
        t = torch.linspace(-1, 1, len(p), dtype=F64)
        side = {"A": a[k], "b": 1.0} if k % 2 else {"G": a[k][None], "h": 1.0}
        torch.testing.assert_close(
            p.detach(),
            projlab.projector(**{"A": None, "b": None, **side}, lb=0)(t),
            rtol=0,
            atol=1e-12,
        )
    assert handle.certify().verdict == "certified"


def test_equations_apart_from_inequalities_keep_their_blocks():
    p, W = vector(0.5, 0.5), torch.nn.Parameter(torch.rand(3, 3, dtype=F64))
    optimizer = torch.optim.SGD([p, W], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(1) == 1, expr(W).sum(0) == 1, expr(p) >= 0)
    kinds = [type(block) for block in handle._hooks.system.blocks]
    assert kinds.count(PolyhedralBlock) == 1
    assert len(kinds) == 2


def test_the_textbook_mode_keeps_inequalities():
    p = vector(0.5, 0.5)
    optimizer = torch.optim.Adam([p], lr=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        handle = constrain(optimizer, expr(p).sum() == 1, expr(p) >= 0, mode="post")
    for _ in range(5):
        p.grad = torch.tensor([1.0, -1.0], dtype=F64)
        optimizer.step()
    assert p.tolist() == [0.0, 1.0]
    assert handle.residual().abs().max() == 0
