"""Any polyhedron: held against active sets that are verified in rational arithmetic."""

import warnings

import pytest
import scipy.sparse as sp
import torch

from projlab import (
    InconsistentError,
    InputError,
    NotPolishedWarning,
    PolyhedralProjector,
    Polyhedron,
    project,
    projector,
    tolerance,
)
from projlab.engine.polyhedra import interior, search, systems
from projlab.engine.polyhedra.infeasible import proof
from projlab.engine.polyhedra.systems import system_of
from projlab_validation.problems.real import load
from tests.projlab import exact, polyhedra
from tests.projlab.ways import needs_numba

U = 2.0**-53


@pytest.fixture(autouse=True, params=[pytest.param("on", marks=needs_numba), "off"])
def kernels(request, monkeypatch):
    """By kernels and by torch's operators."""
    monkeypatch.setenv("PROJLAB_NATIVE", request.param)


def bound(P, x0, x):
    """What a backward-stable projection onto the face errs by: integer rows have modest kappa."""
    m = P.polyhedron.m + P.polyhedron.p
    factor = tolerance.dimension_factor(max(m, 1), P.polyhedron.n)
    return CONDITION * factor * U * polyhedra.amplification(x0, x)


CONDITION = 100.0
"""Of the free columns of rows of up to eight small integers."""


@pytest.mark.parametrize("degenerate", [False, True], ids=["general", "degenerate"])
@pytest.mark.parametrize("seed", range(40))
def test_the_active_set_is_the_exact_one(seed, degenerate):
    parts, x0 = polyhedra.random(seed, degenerate=degenerate)
    P = projector(**parts)
    x = P(x0)
    assert P.status == "polished"
    answer = polyhedra.verified(P.polyhedron, x0, x)
    assert polyhedra.error(x, answer) <= bound(P, x0, x)
    assert P.polyhedron.violation(x) <= 8 * U * (1 + float(x0.norm()))
    M = P.multipliers(x0)
    A = 0 if P.A is None else M.equations @ P.A
    G = 0 if P.G is None else M.inequalities @ P.G
    pull = A + G - M.lower + M.upper
    scale = 1 + float(x0.norm()) + float(M.equations.norm()) + float(M.inequalities.norm())
    torch.testing.assert_close(x0 - pull, x, rtol=0, atol=1e3 * U * scale)
    assert bool((M.inequalities >= 0).all() & (M.lower >= 0).all() & (M.upper >= 0).all())


@pytest.mark.parametrize("seed", range(12))
def test_sparse_batched_and_general_give_the_same(seed, monkeypatch):
    parts, x0 = polyhedra.random(seed, degenerate=False)
    x = torch.stack([x0, -x0, x0 / 3])
    P = projector(**parts)
    together = P(x)
    for row, expected in zip(together, x, strict=True):
        torch.testing.assert_close(row, P(expected), rtol=0, atol=1e3 * U * (1 + expected.norm()))
    if not P.polyhedron.m + P.polyhedron.p:
        return
    monkeypatch.setattr(systems, "SMALL", 0)
    sparse = {k: sp.csr_array(v.numpy()) if k in "AG" else v for k, v in parts.items()}
    torch.testing.assert_close(projector(**sparse)(x), together, rtol=0, atol=1e-12)
    searched = projector(**parts, variant="active_set")
    torch.testing.assert_close(searched(x), together, rtol=0, atol=1e-12)


def test_a_start_from_the_last_call_costs_one_factorisation():
    parts, x0 = polyhedra.random(3, degenerate=False)
    P = projector(**parts, variant="active_set")
    cold = P(x0)
    assert P.effort.factorisations > 1
    moved = P(x0 + 1e-9)
    assert P.effort.factorisations == 1
    assert P.effort.newton_steps == 0
    torch.testing.assert_close(moved, cold, rtol=0, atol=1e-7)
    torch.testing.assert_close(P(x0), cold, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["netlib_afiro", "netlib_adlittle", "netlib_brandy", "mm_stcqp1"])
def test_real_systems_with_bounds(name):
    A, _, _ = load(name)
    generator = torch.Generator().manual_seed(1)
    n = A.shape[1]
    inside = torch.randn(n, generator=generator, dtype=torch.float64).clamp_min(0)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    P = projector(A, A @ inside.numpy(), lb=0)
    projected = P(x)
    assert P.status == "polished"
    certificate = P.certify(x, projected, accuracy=1e-9)
    assert certificate.verdict == "certified"
    assert certificate.feasibility <= tolerance.feasibility_bound(u=U, m=A.shape[0], n=n)
    assert bool((projected >= 0).all())


INFEASIBLE = {
    "a sum below its bounds": {"A": [[1.0, 1, 1]], "b": 1, "lb": 0.5},
    "rows that contradict": {"G": [[1.0, 1], [-1, -1]], "h": [1.0, -2.0]},
    "rows and bounds": {"A": [[1.0, 1, 0], [0, 1, 1]], "b": [1.0, 5.0], "lb": 0, "ub": 2},
    "equations alone": {"A": [[1.0, 1], [2, 2]], "b": [1.0, 3.0], "lb": 0},
    "an inequality and an equation": {"A": [[1.0, 2]], "b": 4, "G": [[1.0, 2]], "h": 3},
}


@pytest.mark.parametrize("name", INFEASIBLE)
def test_an_empty_set_is_proven_so(name):
    parts = INFEASIBLE[name]
    with pytest.raises(InconsistentError, match="no x satisfies"):
        projector(**parts)
    # the proof holds in rational arithmetic
    P = Polyhedron(**parts)
    system = system_of(P)
    sides = ([] if P.equations is None else P.equations.b.tolist()) + P.h.tolist()
    right = system.scaled(torch.tensor(sides, dtype=torch.float64))
    n = P.n
    lb, ub = (t.double().expand(n) for t in (P.lb, P.ub))
    v = exact.vector(proof(system, right, lb, ub))
    assert all(value >= 0 for value in v[P.m :])
    c = exact.times(exact.matrix(system.rows.to_dense()).transpose(), v)
    least = sum(
        value * exact.rational((lb if value > 0 else ub)[j])
        for j, value in enumerate(c)
        if value != 0
    )
    assert least > sum(a * b for a, b in zip(v, exact.vector(right), strict=True))


def test_the_rows_and_bounds_of_a_proof_are_named():
    message = r"-1 \* budget \+ 1 \* mix asks for a sum = -3, while x\[0\] <= 1 keep it at -1"
    with pytest.raises(InconsistentError, match=message):
        PolyhedralProjector(
            Polyhedron([[1.0, 1], [0, 1]], [4.0, 1.0], ub=[1, torch.inf], names=["budget", "mix"])
        )


def test_right_sides_and_bounds_of_each_vector():
    A = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, -1]], dtype=torch.float64)
    G = torch.tensor([[1.0, 1, 0, 0]], dtype=torch.float64)
    P = projector(A, [1.0, 0.0], G=G, h=1.0, lb=0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    b = torch.stack([torch.linspace(1, 2, 5), torch.zeros(5)], -1).double()
    h, ub = torch.linspace(0.5, 1, 5).double().unsqueeze(-1), torch.full((5, 4), 0.9).double()
    together = P(x, b=b, h=h, ub=ub)
    for i in range(5):
        alone = projector(A, b[i], G=G, h=h[i], lb=0, ub=ub[i])(x[i])
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-14)
    with pytest.raises(InconsistentError, match="no x satisfies"):
        P(x, b=b * 100, ub=ub)
    with pytest.raises(InconsistentError, match=r"x\[2\] >= 0 and x\[2\] <= -1"):
        P(x, ub=torch.tensor([1.0, 1, -1, 1]))
    with pytest.raises(InputError, match=r"h has shape \(4, 1\)"):
        P(x, h=torch.zeros(4, 1))
    with pytest.raises(InputError, match=r"b\[0\] is nan"):
        P(x, b=torch.tensor([torch.nan, 0.0]))


def test_what_is_not_polished_says_so_with_a_bound(monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", "off")  # whose attempts are taken away below
    parts, x0 = polyhedra.random(3, degenerate=False)
    right = projector(**parts, variant="active_set")(x0)
    monkeypatch.setattr(search, "NEWTON_STEPS", 0)
    monkeypatch.setattr(interior, "STEPS", 4)
    monkeypatch.setattr(search, "_EXACT", 0)
    monkeypatch.setattr(search.Search, "attempt", lambda self, due, *a, **k: due & False)
    P = projector(**parts, variant="active_set")
    with pytest.warns(NotPolishedWarning, match="within"):
        near = P(x0)
    assert P.status == "not polished"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        certificate = P.certify(x0, near, accuracy=1e-15)
    assert certificate.verdict != "certified"
    assert float((near - right).norm() / near.norm()) <= certificate.forward_error_bound + 1e-12


def nearly_redundant(seed):
    """Two independent rows in float32, two that follow from them to its rounding, and b alike."""
    draw = torch.Generator().manual_seed(seed)
    A, b = torch.randn(4, 9, generator=draw), torch.randn(4, generator=draw)
    for row, (one, other) in ((2, (1, 1)), (3, (1, -2))):
        A[row], b[row] = one * A[0] + other * A[1], one * b[0] + other * b[1]
    return A, b, torch.randn(2, 9, generator=draw, dtype=torch.float64)


BESIDE = {
    "far bounds": {"lb": -100.0},
    "bounds": {"lb": -1.0},
    "an inequality": {"G": torch.ones(1, 9), "h": 0.1},
}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("beside", BESIDE)
def test_equations_that_follow_from_others_to_their_rounding_are_left_out(beside, sparse):
    """As they are without bounds; taken literally, four rows leave another, much smaller set."""
    for seed in range(10):
        A, b, x = nearly_redundant(seed)
        P = projector(A.to_sparse() if sparse else A, b, **BESIDE[beside])
        Q = projector(A[:2].double(), b[:2].double(), **BESIDE[beside])
        kept = P.multipliers(x).equations != 0
        assert kept[0].sum() == 2
        # any two of the rows, whose float32 rounding the condition of two random ones amplifies
        kappa = float(torch.linalg.cond(A[kept[0]].double()))
        assert (P(x) - Q(x)).abs().max() <= 32 * kappa * 2.0**-24 * float(x.norm() + b.norm())
        assert P.status == "polished"
        assert P.certify(x, P(x)).verdict == "certified"
        assert (P(x, 2 * b) - Q(x, 2 * b[:2])).abs().max() <= 1e-3
        right = b.double().requires_grad_()
        (g,) = torch.autograd.grad(P(x, right).sum(), right)
        assert not g[~kept[0]].any()
    b[2] += 0.1
    with pytest.raises(InconsistentError, match="row 2"):
        projector(A, b, **BESIDE[beside])


def test_float32_is_rounded_once():
    parts, x0 = polyhedra.random(5, degenerate=False)
    P = projector(**parts)
    narrow = x0.float()
    torch.testing.assert_close(P(narrow), P(narrow.double()).float(), rtol=0, atol=0)


def test_buffers_are_what_is_used():
    P = projector([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]], [1.0, 1.0], lb=0)
    x = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    before = P(x)
    P.b.fill_(2.0)
    assert not torch.allclose(P(x), before)
    torch.testing.assert_close(P(x)[0] + P(x)[1], torch.tensor(2.0, dtype=torch.float64))
    other = projector([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]], [1.0, 1.0], lb=0)
    other.load_state_dict(P.state_dict())
    torch.testing.assert_close(other(x), P(x), rtol=0, atol=0)


def test_a_buffer_that_is_watched_later_has_its_derivative():
    P = projector([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]], [1.0, 1.0], lb=0)
    x = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    other = P.b.clone().requires_grad_()
    P(x, b=other).square().sum().backward()
    P(x)
    P.b.requires_grad_()
    P(x).square().sum().backward()
    torch.testing.assert_close(P.b.grad, other.grad)


def test_derivatives_in_everything_twice():
    generator = torch.Generator().manual_seed(0)
    A = torch.ones(1, 4, dtype=torch.float64)
    G = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.float64)
    x = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    given = [
        x,
        A,
        torch.tensor([0.9], dtype=torch.float64),
        G,
        torch.tensor([0.5, 0.3], dtype=torch.float64),
        torch.full((4,), -0.1, dtype=torch.float64),
        torch.full((5, 4), 0.9, dtype=torch.float64),
    ]
    given = [t.clone().requires_grad_() for t in given]

    def function(x, A, b, G, h, lb, ub):
        return project(x, A, b, G=G, h=h, lb=lb, ub=ub)

    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


# forward mode goes through tables of torch's own that still use torch.jit.script
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_transforms_give_the_same_derivatives():
    P = projector([[1.0, 1, 1, 1]], 1.0, G=[[1.0, 1, 0, 0], [0, 1, 1, 0]], h=[0.5, 0.3], lb=0)
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    alone = torch.stack([torch.autograd.functional.jacobian(P, v) for v in x])
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(torch.func.vmap(transform(P))(x), alone, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.func.vmap(P)(x), P(x), rtol=0, atol=1e-15)


def test_at_a_kink_the_derivative_is_that_of_the_face_that_was_found():
    P = projector(lb=[0.0, 0.0], ub=1.0)
    x = torch.tensor([0.0, -1.0], dtype=torch.float64)
    J = torch.autograd.functional.jacobian(P, x)
    assert J.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"metric": [1.0, 1.0]}, "metric goes with equations alone"),
        ({"rank": "exact"}, "rank goes with equations alone"),
        ({"variant": "qr"}, "with inequalities or bounds it must be"),
        ({"variant": "box"}, "takes bounds alone"),
    ],
)
def test_keywords_that_do_not_apply_are_refused(keywords, message):
    with pytest.raises(InputError, match=message):
        projector([[1.0, 1.0]], 1.0, lb=0, **keywords)
    with pytest.raises(InputError, match=message):
        project(torch.zeros(2), [[1.0, 1.0]], 1.0, lb=0, **keywords)
