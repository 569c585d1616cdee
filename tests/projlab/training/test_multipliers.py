"""Shadow prices: `Handle.multipliers`, against dense algebra, known optima and differences."""

import copy
import weakref

import pytest
import scipy.sparse as sp
import torch

import projlab
from projlab import cat, constrain, expr
from projlab.numerics import tuning
from projlab.training.blocks.margins import MarginsBlock
from projlab.training.blocks.matrix import MatrixBlock
from projlab.training.blocks.solver import SolverBlock
from projlab.training.blocks.sparse import SparseBlock
from projlab.training.blocks.sums import SumsBlock
from projlab.training.blocks.ties import TiesBlock
from tests.projlab.sparse_systems import grid
from tests.projlab.training.helpers import F64, SETTINGS, U, parameter, vector
from tests.projlab.training.test_inequalities import PROBLEMS, faster, train


def constrained(optimizer, *relations, **keywords):
    """The handle, which does not keep its optimizer, with it."""
    handle = constrain(optimizer, *relations, **keywords)
    handle.optimizer = optimizer
    return handle


def rows_of(handle, parameters):
    """A (rows, entries) of a handle's relations, dense, from what the expressions say."""
    starts, total = {}, 0
    for p in parameters:
        starts[id(p)] = total
        total += p.numel()
    A = torch.zeros(sum(e.rows for e in handle.equations), total, dtype=F64)
    start = 0
    for e in handle.equations:
        for term in e.difference.terms:
            row, column, value = term.triplets()
            place = start + row, starts[id(term.parameter)] + column
            A.index_put_(place, value.double(), accumulate=True)
        start += e.rows
    return A


def flat(tensors):
    return torch.cat([t.detach().reshape(-1).double() for t in tensors])


def least(A, g):
    """The y of least norm in equilibrated rows with A'y = -Q g, and how far rounding moves it."""
    norms = torch.linalg.vector_norm(A, dim=1)
    # norms are not half way between powers of two in these systems, but where all are the same
    D = torch.where(norms > 0, torch.exp2(-(torch.log2(norms) - 1e-9).round()), 1.0)
    E = A * D.unsqueeze(-1)
    sigma = torch.linalg.svdvals(E)
    kept = sigma[sigma > 1e-10 * sigma[0]]
    y = -D * (torch.linalg.pinv(E.T, rtol=1e-10) @ g)
    return y, (kept[0] / kept[-1]) ** 2 * sum(E.shape) * torch.linalg.vector_norm(y)


def tied(p):
    return [expr(p) == expr(p).T]


def cycle(p):
    return [expr(p) == -2 * expr(p).roll(1) / -2]


def margins(W):
    return [
        expr(W).sum(dim=0) == 1,
        3 * expr(W).sum(dim=1) == 2.4,
        expr(W).mean() == 0.2,
    ]


def effects(T):
    sums = [expr(T).sum(dim=0) == 1, expr(T).sum(dim=1) == 4 / 3]
    return [*sums, 5 * expr(T).sum(dim=(0, 1)) == 20, expr(T).sum() == 12]


def dense(p, q):
    A = torch.randn(3, 10, dtype=F64)
    return [A @ cat(expr(p), expr(q).flatten()) == 0.25]


def repeated(p):
    A = torch.randn(3, 9, dtype=F64)
    A = torch.cat([A, 3 * A[:1], A[1:2] - A[2:], -A[:1]])
    return [A @ expr(p) == A @ torch.ones(9, dtype=F64)]


def stated_again(p):
    return [expr(p).sum() == 1, expr(p).sum() == 1, expr(p)[0] == 0.5, expr(p).sum() == 1]


def batched(W):
    A = torch.randn(2, 5, dtype=F64)
    return [A @ expr(W) == 0.25]


def coefficients(S):
    return torch.from_numpy(S.toarray()).to_sparse()


def flow(p):
    S = 3 * grid(4)
    return [coefficients(S) @ expr(p) == 0]


def scaled_flow(p):
    S = sp.diags_array([2.0**k for k in range(-8, 8)]) @ (3 * grid(4))
    return [coefficients(S) @ expr(p) == 0]


KINDS = {
    "row sums": ([(4, 5)], lambda W: [2 * expr(W).sum(dim=1) == 1], "auto", SumsBlock),
    "equal sums": (
        [(4, 5), (4, 5)],
        lambda V, W: [expr(V).sum(dim=0) == 1, expr(W).sum(dim=0) == 2],
        "auto",
        SumsBlock,
    ),
    "sums of two": ([(6,), (6,)], lambda p, q: [expr(p) == 2 * expr(q)], "auto", SumsBlock),
    "rows and columns": ([(5, 4)], margins, "auto", MarginsBlock),
    "three axes": ([(3, 4, 3)], effects, "auto", MarginsBlock),
    "symmetric": ([(5, 5)], tied, "auto", TiesBlock),
    "cycle": ([(7,)], cycle, "auto", TiesBlock),
    "dense": ([(4,), (2, 3)], dense, "auto", MatrixBlock),
    "dense, dependent": ([(9,)], repeated, "auto", MatrixBlock),
    "batched": ([(5, 6)], batched, "auto", MatrixBlock),
    "stated again": ([(6,)], stated_again, "auto", MatrixBlock),
    "cholesky": ([(4,), (2, 3)], dense, "cholesky", SolverBlock),
    "cholesky, dependent": ([(9,)], repeated, "cholesky", SolverBlock),
    "sparse, dependent": ([(24,)], flow, "sparse_cholesky", SparseBlock),
    "sparse, scaled": ([(24,)], scaled_flow, "sparse_cholesky", SparseBlock),
}


@pytest.mark.parametrize("kind", KINDS)
def test_multipliers_are_those_of_dense_algebra(kind):
    shapes, equations_of, variant, block = KINDS[kind]
    torch.manual_seed(0)
    ps = [parameter(*shape) for shape in shapes]
    optimizer = torch.optim.SGD(ps, lr=0.1, weight_decay=0.5)
    handle = constrain(optimizer, *equations_of(*ps), variant=variant)
    assert block in {type(b) for b in handle._hooks.system.blocks}
    for p in ps:
        p.grad = torch.randn_like(p)
    before = flat(ps), flat(p.grad for p in ps)
    found = handle.multipliers()
    assert torch.equal(torch.cat([flat(ps), flat(p.grad for p in ps)]), torch.cat(before))
    assert [y.shape for y in found] == [e.shape for e in handle.equations]
    assert {y.dtype for y in found} == {F64}
    # coupled decay is a part of the objective
    g = before[1] + 0.5 * before[0]
    A, y = rows_of(handle, ps), flat(found)
    expected, rounding = least(A, g)
    assert (y - expected).abs().max() <= 8 * U[F64] * rounding
    # what is left of the gradient is what the step takes
    optimizer.step()
    left = g + A.T @ y - 0.5 * before[0]
    bound = 8 * U[F64] * rounding * torch.linalg.matrix_norm(A)
    assert (left - flat(p.grad for p in ps)).abs().max() <= bound


def test_narrow_parameters_and_dtype():
    W = torch.nn.Parameter(torch.randn(4, 5, dtype=torch.bfloat16))
    v = torch.nn.Parameter(torch.randn(3))
    handle = constrained(torch.optim.SGD([W, v], lr=0.1), expr(W).sum(1) == 1, expr(v).sum() == 1)
    W.grad, v.grad = torch.ones_like(W), 3 * torch.ones_like(v)
    one, other = handle.multipliers()
    assert one.tolist() == [-1.0] * 4
    assert other.dtype is torch.float32
    assert float(other) == -3


def test_a_system_too_small_for_its_variant_is_not_asked(monkeypatch):
    """Sparse rows that the automatic choice keeps sparse answer as well."""
    for name in ("SET_UP", "ROW", "PREPARED", "FILL", "FACTORED", "STEP", "ENTRY"):
        monkeypatch.setattr(tuning, f"SPARSE_{name}", 0)
    monkeypatch.setattr(tuning, "SMALL_SET_UP", 0)
    p = parameter(24)
    handle = constrained(torch.optim.SGD([p], lr=0.1), *flow(p))
    assert isinstance(handle._hooks.system.blocks[0], SparseBlock)
    p.grad = torch.randn_like(p)
    expected, rounding = least(rows_of(handle, [p]), p.grad)
    assert (flat(handle.multipliers()) - expected).abs().max() <= 8 * U[F64] * rounding


# ---- what they mean


def optimum(H, t, A, b):
    """min 0.5 (x - t)' H (x - t) subject to A x = b, and the loss there."""
    m, n = A.shape
    K = torch.cat([torch.cat([H, A.T], 1), torch.cat([A, A.new_zeros(m, m)], 1)])
    x = torch.linalg.solve(K, torch.cat([H @ t, b]))[:n]
    return x, 0.5 * (x - t) @ H @ (x - t)


def test_one_more_unit_of_b_changes_the_loss_by_minus_y():
    torch.manual_seed(1)
    n, m, h = 6, 2, 1e-4
    root = torch.randn(n, n, dtype=F64)
    H, t = root @ root.T + torch.eye(n, dtype=F64), torch.randn(n, dtype=F64)
    A, b = torch.randn(m, n, dtype=F64), torch.randn(m, dtype=F64)
    p = torch.nn.Parameter(optimum(H, t, A, b)[0])
    handle = constrained(torch.optim.Adam([p], lr=0.1), A @ expr(p) == b)
    (0.5 * (p - t) @ H @ (p - t)).backward()
    (y,) = handle.multipliers()
    for i in range(m):
        step = h * torch.eye(m, dtype=F64)[i]
        # central differences of a quadratic are exact but for rounding, here about 1e-16 / h
        slope = (optimum(H, t, A, b + step)[1] - optimum(H, t, A, b - step)[1]) / (2 * h)
        assert abs(float(slope + y[i])) < 1e-9


@pytest.mark.parametrize("name", PROBLEMS)
def test_prices_at_the_optimum_hold_the_gradient(name):
    """y of the known normal: grad f + A'y = 0, signs kept, and slack rows worth nothing."""
    problem = PROBLEMS[name]()
    with torch.no_grad():
        start = 0
        for p in problem.parameters:
            p.copy_(problem.optimum[start : start + p.numel()].view(p.shape))
            start += p.numel()
    handle = constrained(torch.optim.Adam(problem.parameters, lr=0.1), *problem.relations)
    problem.loss().backward()
    prices = handle.multipliers()
    A, y = rows_of(handle, problem.parameters), flat(prices)
    g = flat(p.grad for p in problem.parameters)
    # everything is of size one; degrees of degeneracy are zero in these problems but for ties
    assert (g + A.T @ y).abs().max() < 1e-13
    for e, price in zip(handle.equations, prices, strict=True):
        if isinstance(e, projlab.training.expressions.expression.Inequality):
            assert (price >= 0).all()
            room = e.right_side() - rows_of_one(e, problem.parameters) @ problem.optimum
            assert (price.flatten()[room > 1e-12] == 0).all()
    assert bool((y != 0).any())


def rows_of_one(e, parameters):
    class One:
        equations = (e,)

    return rows_of(One, parameters)


def least_loss(problem, relations):
    """What a solver says of the problem with other right sides: the loss, and its multipliers."""
    cvxpy = pytest.importorskip("cvxpy")
    x = cvxpy.Variable(len(problem.optimum))
    constraints = []
    for kind, A, b in relations:
        finite = torch.isfinite(b)
        left = A[finite].numpy() @ x
        constraints.append(left == b.numpy() if kind == "==" else left <= b[finite].numpy())
    away = x - problem.t.numpy()
    found = cvxpy.Problem(
        cvxpy.Minimize(0.5 * cvxpy.quad_form(away, cvxpy.psd_wrap(problem.H.numpy()))), constraints
    )
    value = found.solve(solver="CLARABEL", tol_gap_abs=1e-13, tol_gap_rel=1e-13, tol_feas=1e-13)
    return value, [torch.from_numpy(c.dual_value).reshape(-1) for c in constraints]


@pytest.mark.parametrize("name", PROBLEMS)
def test_prices_are_a_solvers_duals_and_slopes_of_the_least_loss(name):
    problem = PROBLEMS[name]()
    optimizer = faster(lambda p: torch.optim.SGD(p, lr=1.0))(problem.parameters)
    handle = constrain(optimizer, *problem.relations, multipliers=True)
    for _ in range(250):
        optimizer.zero_grad()
        problem.loss().backward()
        optimizer.step()
    prices = handle.multipliers()
    relations = [
        (
            "==" if e.relation == "==" else "<=",
            rows_of_one(e, problem.parameters),
            e.right_side(),
        )
        for e in handle.equations
    ]
    _, duals = least_loss(problem, relations)
    for e, price, dual in zip(handle.equations, prices, duals, strict=True):
        assert (price.flatten()[torch.isfinite(e.right_side())] - dual).abs().max() < 1e-6
    # of each relation the row with the largest price, one side after the other
    for k, price in enumerate(prices):
        i, h = int(price.abs().argmax()), 1e-4
        losses = []
        for sign in (1, -1):
            moved = list(relations)
            kind, A, b = relations[k]
            moved[k] = kind, A, b + sign * h * torch.eye(len(b), dtype=F64)[i]
            losses.append(least_loss(problem, moved)[0])
        slope = (losses[0] - losses[1]) / (2 * h)
        assert slope == pytest.approx(-float(price.flatten()[i]), abs=1e-5)


def test_bounds_that_hold_an_entry_alike_share_its_price():
    p = vector(0.0, 1.0)
    handle = constrained(
        torch.optim.SGD([p], lr=0.1), expr(p) >= 0, 3 * expr(p)[0] >= 0, expr(p) >= -1, expr(p) <= 1
    )
    p.grad = torch.tensor([6.0, -2.0], dtype=F64)
    both, tripled, loose, upper = handle.multipliers()
    assert (loose == 0).all()
    assert upper.tolist() == [0.0, 2.0]
    assert both[1] == 0
    # 6 = y + 3 z, of least norm in rows of norms 1 and 3 / 4: (y, z) along (1, 9 / 16 / 3)
    torch.testing.assert_close(both[0] + 3 * tripled, torch.tensor(6.0, dtype=F64))
    torch.testing.assert_close(tripled / both[0], torch.tensor(3 / 16, dtype=F64))


def test_an_entry_that_is_free_to_leave_its_bound_has_no_price():
    p = vector(0.0, 0.0, 0.4, 0.6)
    handle = constrained(torch.optim.SGD([p], lr=0.1), expr(p).sum() == 1, expr(p) >= 0)
    p.grad = torch.tensor([3.0, -3.0, 1.0, 0.0], dtype=F64)
    total, lower = handle.multipliers()
    torch.testing.assert_close(total, torch.tensor(2 / 3, dtype=F64))
    torch.testing.assert_close(lower, torch.tensor([11 / 3, 0, 0, 0], dtype=F64))


# ---- what an optimizer does beside


def test_decoupled_decay_is_no_part_of_the_objective():
    p = vector(1.0, 3.0)
    handle = constrained(torch.optim.AdamW([p], lr=0.1, weight_decay=0.5), expr(p).sum() == 4)
    p.grad = torch.tensor([1.0, 2.0], dtype=F64)
    assert float(*handle.multipliers()) == -1.5


@pytest.mark.parametrize("sided", [False, True])
def test_ascent_prices_minus_the_objective(sided):
    def priced(g, maximize):
        p = vector(0.0, 1.0)
        relations = [expr(p).sum() == 1] + ([expr(p) >= 0] if sided else [])
        optimizer = torch.optim.SGD([p], lr=0.1, weight_decay=0.5, maximize=maximize)
        handle = constrain(optimizer, *relations)
        p.grad = g
        return flat(handle.multipliers())

    g = torch.tensor([2.0, 1.0], dtype=F64)
    assert torch.equal(priced(g, False), priced(-g, True))


def test_gradients_of_a_scaled_loss_have_its_scale_until_it_is_taken_out():
    p = vector(1.0, 3.0, dtype=torch.float32)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 4, multipliers=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(2 * p.sum()).backward()
    assert float(*handle.multipliers()) == -16
    scaler.unscale_(optimizer)
    assert float(*handle.multipliers()) == -2
    scaler.step(optimizer)
    assert float(*handle.multipliers()) == -2


def test_a_fused_step_that_unscales_by_itself_keeps_prices_of_the_loss():
    p = vector(1.0, 3.0, dtype=torch.float32)
    optimizer = torch.optim.SGD([p], lr=0.1, fused=True)
    handle = constrain(optimizer, expr(p).sum() == 4, multipliers=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(2 * p.sum()).backward()
    scaler.step(optimizer)
    assert float(*handle.multipliers()) == -2


@pytest.mark.parametrize("mode", ["post", "metric"])
def test_modes_that_leave_gradients_alone_are_asked_at_any_time(mode):
    p = vector(1.0, 3.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 4, mode=mode)
    p.grad = torch.tensor([1.0, 2.0], dtype=F64)
    for _ in range(2):
        assert float(*handle.multipliers()) == -1.5
        optimizer.step()


def test_several_optimizers_and_handles():
    p, q, r = vector(1.0), vector(2.0), vector(1.0, 0.0)
    optimizers = [torch.optim.SGD([p, r], lr=0.1), torch.optim.Adam([q], lr=0.1)]
    joint = constrain(optimizers, expr(p) + 2 * expr(q) == 5, multipliers=True)
    own = constrain(optimizers, expr(r).sum() == 1, multipliers=True)
    p.grad, q.grad = torch.tensor([1.0], dtype=F64), torch.tensor([3.0], dtype=F64)
    r.grad = torch.tensor([1.0, 2.0], dtype=F64)
    for _ in range(2):
        assert float(*joint.multipliers()) == pytest.approx(-7 / 5)
        assert float(*own.multipliers()) == -1.5
        if _ == 0:
            optimizers[0].step()
            assert float(*joint.multipliers()) == pytest.approx(-7 / 5)
            optimizers[1].step()


def test_parameters_without_a_gradient_are_constants():
    p, q = vector(1.0, 3.0), vector(1.0, 2.0)
    frozen = torch.nn.Parameter(torch.ones(2, dtype=F64), requires_grad=False)
    optimizer = torch.optim.SGD([p, q, frozen], lr=0.1)
    handle = constrain(
        optimizer,
        expr(p).sum() + expr(q)[0] == 5,
        expr(q)[1] == 2,
        expr(p)[0] - expr(frozen)[0] == 0,
        multipliers=True,
    )
    p.grad = torch.tensor([1.0, 2.0], dtype=F64)
    for _ in range(2):
        one, asleep, other = handle.multipliers()
        # y + z = -1, y = -2
        assert float(asleep) == 0
        assert float(one) == pytest.approx(-2)
        assert float(other) == pytest.approx(1)
        optimizer.step()


# ---- when they can be asked for


def test_before_any_gradient_and_after_a_step_is_refused():
    p = vector(1.0, 3.0)
    optimizer = torch.optim.Adam([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 4)
    with pytest.raises(projlab.ProjlabError, match="no constrained parameter has a gradient"):
        handle.multipliers()
    p.grad = torch.tensor([1.0, 2.0], dtype=F64)
    assert float(*handle.multipliers()) == -1.5
    optimizer.step()
    with pytest.raises(projlab.ProjlabError, match=r"projected by a step.*before step\(\)"):
        handle.multipliers()
    p.grad = None
    with pytest.raises(projlab.ProjlabError, match="no constrained parameter has a gradient"):
        handle.multipliers()
    (p * torch.tensor([3.0, 4.0], dtype=F64)).sum().backward()
    assert float(*handle.multipliers()) == -3.5
    handle.remove()
    with pytest.raises(projlab.ProjlabError, match="was removed"):
        handle.multipliers()


def test_gradients_that_are_written_over_in_place_are_asked_again():
    p = vector(1.0, 3.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 4)
    p.grad = torch.tensor([1.0, 2.0], dtype=F64)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    (p * torch.tensor([3.0, 4.0], dtype=F64)).sum().backward()
    assert float(*handle.multipliers()) == -3.5


def test_a_switch_keeps_those_of_the_last_step():
    p = vector(1.0, 3.0)
    optimizer = torch.optim.LBFGS([p], lr=0.1, max_iter=1)
    handle = constrain(optimizer, expr(p).sum() == 4, multipliers=True)
    with pytest.raises(projlab.ProjlabError, match="no constrained parameter has a gradient"):
        handle.multipliers()

    def closure():
        optimizer.zero_grad()
        loss = (p * torch.tensor([1.0, 2.0], dtype=F64)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(*handle.multipliers()) == -1.5
    p.grad = None
    assert float(*handle.multipliers()) == -1.5
    handle.set_right_side(8)
    with pytest.raises(projlab.ProjlabError, match="no constrained parameter"):
        handle.multipliers()  # those were of another right side
    more = constrain(optimizer, expr(p)[0] == 1, multipliers=True)
    with pytest.raises(projlab.ProjlabError, match="no constrained parameter"):
        more.multipliers()
    with pytest.raises(projlab.InputError, match="multipliers=True; all its"):
        constrain(optimizer, expr(p)[1] == 7)


def test_a_switch_that_is_none_is_refused():
    p = vector(1.0, 3.0)
    with pytest.raises(projlab.InputError, match="multipliers=1; it must be True or False"):
        constrain(torch.optim.SGD([p], lr=0.1), expr(p).sum() == 4, multipliers=1)


def test_a_step_of_nobody_who_asks_keeps_no_gradient():
    p = vector(1.0, 3.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 4)
    p.grad = torch.tensor([1.0, 2.0], dtype=F64)
    optimizer.step()
    seen = weakref.ref(p.grad)
    p.grad = None
    assert seen() is None
    assert handle._hooks._prices == []


def test_a_copied_optimizer_has_prices_of_its_own():
    p = vector(1.0, 3.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 4, multipliers=True)
    p.grad = torch.tensor([1.0, 2.0], dtype=F64)
    optimizer.step()
    kept = optimizer.state_dict()
    twin, twin_handle = copy.deepcopy((optimizer, handle))
    (q,) = twin.param_groups[0]["params"]
    q.grad = None
    with pytest.raises(projlab.ProjlabError, match="no constrained parameter has a gradient"):
        twin_handle.multipliers()
    q.grad = torch.tensor([3.0, 4.0], dtype=F64)
    assert float(*twin_handle.multipliers()) == -3.5
    assert float(*handle.multipliers()) == -1.5
    assert kept.keys() == {"state", "param_groups"}
    optimizer.load_state_dict(kept)
    assert float(*handle.multipliers()) == -1.5


@pytest.mark.parametrize("name", ["Adam", "Muon"])
def test_prices_settle_as_training_does(name):
    if name not in SETTINGS:
        pytest.skip("this torch has no such optimizer")
    problem, made = PROBLEMS["mixtures"](), []

    def make(parameters):
        made.append(SETTINGS[name].make(parameters))
        return made[0]

    handle = train(problem, make, multipliers=True)
    A, y = rows_of(handle, problem.parameters), flat(handle.multipliers())
    H, away = problem.H, problem.optimum - problem.t
    # the gradient is off by the curvature, one at most, times the distance
    distance = problem.distance() * len(away) ** 0.5
    assert (H @ away + A.T @ y).abs().max() <= 2 * distance + 1e-12
