"""The simplex and its kin: the multiplier of a row with bounds, against exact arithmetic."""

import math
from fractions import Fraction

import pytest
import torch

from projlab import InconsistentError, projector, tolerance
from projlab.engine.polyhedra.threshold import DisjointRows, project
from tests.projlab import polyhedra

U = 2.0**-53
F64 = torch.float64


def exact_simplex(x0, total=1, weight=None):
    """The projection onto {w >= 0, a w = total}, a > 0, by sorting in rationals."""
    n = len(x0)
    a = [Fraction(1)] * n if weight is None else [Fraction(v) for v in weight]
    x = [Fraction(v) for v in x0]
    order = sorted(range(n), key=lambda j: x[j] / a[j], reverse=True)
    top, bottom, t = Fraction(-total), Fraction(0), Fraction(0)
    for j in order:
        if bottom and x[j] <= t * a[j]:
            break
        top, bottom = top + a[j] * x[j], bottom + a[j] ** 2
        t = top / bottom
    return [max(x[j] - t * a[j], Fraction(0)) for j in range(n)]


def relative(x, answer):
    off = sum((Fraction(v) - a) ** 2 for v, a in zip(x.tolist(), answer, strict=True))
    size = sum(a**2 for a in answer)
    return math.sqrt(off / size) if size else math.sqrt(off)


def points(n):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, generator=generator, dtype=F64)
    inside = x.abs() / x.abs().sum()
    return {
        "normal": x,
        "large": 1e8 * x,
        "tiny": 1e-8 * x,
        "ties": (3 * x).round() / 3,
        "equal": torch.full((n,), 0.7, dtype=F64),
        "inside": inside,
        "a vertex": torch.cat([torch.ones(1), torch.zeros(n - 1)]).double(),
        "far below": x - 1e6,
        "one far ahead": torch.cat([x[:1] + 100, x[1:]]),
        "sorted": x.sort().values,
    }


@pytest.mark.parametrize("kind", points(3))
@pytest.mark.parametrize("n", [1, 2, 3, 10, 257])
def test_the_simplex_is_exact_to_rounding(n, kind):
    x0 = points(n)[kind]
    P = projector(torch.ones(n, dtype=F64), 1, lb=0)
    assert P.variant == "disjoint_rows"
    x = P(x0)
    answer = exact_simplex(x0.tolist())
    bound = tolerance.dimension_factor(1, n) * U * polyhedra.amplification(x0, x)
    assert relative(x, answer) <= bound
    assert bool((x >= 0).all())
    assert abs(math.fsum(x.tolist()) - 1) <= 4 * U * max(1, float(x0.norm()))
    # one vector, and a batch, take different ways
    batch = P(torch.stack([x0, x0.flip(0)]))
    assert relative(batch[0], answer) <= bound
    assert relative(batch[1].flip(0), answer) <= bound
    assert P.certify(x0, x).verdict == "certified"


@pytest.mark.parametrize("kind", ["normal", "ties", "tiny", "inside"])
def test_a_million_entries(kind):
    n = 10**6
    x0 = points(n)[kind]
    x = projector(torch.ones(n, dtype=F64), 1, lb=0)(x0)
    assert abs(math.fsum(x.tolist()) - 1) <= 4 * U * max(1, float(x0.norm()))
    free = x > 0
    k = int(free.sum())
    t = Fraction(math.fsum([*x0[free].tolist(), -1.0])) / k  # correctly rounded once
    other = (x0 - float(t)).clamp_min(0)
    bound = tolerance.dimension_factor(1, n) * U * polyhedra.amplification(x0, x)
    assert float((x - other).norm() / x.norm()) <= bound


@pytest.mark.parametrize("seed", range(6))
def test_weights_of_any_sign_caps_and_inequalities(seed):
    generator = torch.Generator().manual_seed(seed)
    n = 7
    a = torch.randn(n, generator=generator, dtype=F64)
    a[seed % n] = 0.0
    lb = -torch.rand(n, generator=generator, dtype=F64)
    ub = torch.rand(n, generator=generator, dtype=F64)
    right = float(a @ (lb + ub) / 2)
    x0 = 3 * torch.randn(n, generator=generator, dtype=F64)
    for parts in ({"A": a, "b": right}, {"G": a, "h": right}, {"G": -a, "h": -right}):
        P = projector(**parts, lb=lb, ub=ub)
        assert P.variant == "disjoint_rows"
        x = P(x0)
        assert bool((x >= lb).all() & (x <= ub).all())
        general = projector(**parts, lb=lb, ub=ub, variant="active_set")(x0)
        torch.testing.assert_close(x, general, rtol=0, atol=1e3 * U * float(x0.norm()))
        assert P.certify(x0, x).verdict == "certified"


def test_weighted_simplex_against_rationals():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(40, generator=generator, dtype=F64) + 0.1
    x0 = torch.randn(40, generator=generator, dtype=F64)
    x = projector(a, 1, lb=0)(x0)
    answer = exact_simplex(x0.tolist(), weight=a.tolist())
    assert relative(x, answer) <= tolerance.dimension_factor(1, 40) * U * polyhedra.amplification(
        x0, x
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_the_l1_ball_by_signs_and_sizes(scale, weighted):
    """As docs/bounds.md has it."""
    n = 30
    generator = torch.Generator().manual_seed(n)
    a = torch.rand(n, generator=generator, dtype=F64) + 0.5 if weighted else torch.ones(n).double()
    x0 = (scale * torch.randn(n, generator=generator, dtype=F64)).requires_grad_()
    P = projector(G=a, h=1, lb=0)
    assert P.variant == "disjoint_rows"

    def ball(x):
        return x.sign() * P(x.abs())

    x = ball(x0).detach()
    weight, answer = a.tolist(), [Fraction(v) for v in x0.tolist()]
    outside = sum(Fraction(w) * abs(v) for w, v in zip(weight, answer, strict=True)) > 1
    assert outside == (scale > 0.01)
    if outside:
        sizes = exact_simplex([abs(v) for v in answer], weight=weight)
        answer = [r if v >= 0 else -r for r, v in zip(sizes, answer, strict=True)]
    bound = tolerance.dimension_factor(1, n) * U * polyhedra.amplification(x0.detach(), x)
    assert relative(x, answer) <= bound
    # slopes: of central differences through vectors that end on the same face
    assert torch.autograd.gradcheck(ball, (x0,), eps=1e-7 * scale, atol=1e-6)


def test_rows_that_share_no_column_are_projected_at_once():
    generator = torch.Generator().manual_seed(0)
    m, n = 30, 200
    segment = torch.randint(0, m + 1, (n,), generator=generator)
    A = torch.zeros(m, n, dtype=F64)
    for j in range(n):
        if segment[j] < m:
            A[segment[j], j] = 0.5 + torch.rand((), generator=generator, dtype=F64)
    A = A[(A != 0).any(1)]
    inside = torch.rand(n, generator=generator, dtype=F64)
    P = projector(A.to_sparse(), A @ inside, lb=0, ub=1)
    x0 = torch.randn(3, n, generator=generator, dtype=F64)
    x = P(x0)
    assert P.variant == "disjoint_rows"
    general = projector(A, A @ inside, lb=0, ub=1, variant="active_set")(x0)
    torch.testing.assert_close(x, general, rtol=0, atol=1e-14)
    assert bool((P.polyhedron.residual(x).abs() <= 8 * U * n).all())


def test_one_point_and_nearly_none():
    P = projector(torch.ones(5, dtype=F64), 0.5, lb=0.1)
    x = torch.arange(5, dtype=F64)
    torch.testing.assert_close(P(x), torch.full((5,), 0.1, dtype=F64), rtol=0, atol=4 * U)
    nearly = projector(torch.ones(5, dtype=F64), 0.5 + 1e-13, lb=0.1)
    assert abs(float(nearly(x).sum()) - 0.5 - 1e-13) <= 4 * U
    with pytest.raises(InconsistentError, match=r"x\[0\] >= 0.1"):
        projector(torch.ones(5, dtype=F64), 0.5 - 1e-13, lb=0.1)


def test_a_vector_that_never_needs_a_step_further_than_the_worst_case():
    """Capped in between: flat pieces, where Newton's step has no slope and halving goes on."""
    x0 = torch.cat([torch.zeros(50), torch.full((50,), 1e6)]).double()
    P = projector(torch.ones(100, dtype=F64), 50, lb=0, ub=1)
    expected = torch.cat([torch.zeros(50), torch.ones(50)]).double()
    assert torch.equal(P(x0), expected)
    assert torch.equal(P(torch.stack([x0, x0])), torch.stack([expected, expected]))
    powers = 2.0 ** torch.arange(-40, 40, dtype=F64)
    x = projector(torch.ones(80, dtype=F64), 1, lb=0, ub=powers)(powers.flip(0))
    assert abs(float(x.sum()) - 1) <= 4 * U * 2.0**40


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inequality", [True, False])
def test_a_right_side_out_of_reach_ends_nearest_to_it_at_once(inequality, dtype, monkeypatch):
    """Of several vectors, some of which it is within reach of, and of one alone."""
    looks = []
    moved = DisjointRows.moved
    monkeypatch.setattr(
        DisjointRows, "moved", lambda self, x, t: looks.append(t) or moved(self, x, t)
    )
    rows = DisjointRows(torch.ones(3), None, 1, torch.tensor([inequality]))
    rows = rows.to(dtype, torch.device("cpu"))
    x = torch.tensor([[0.0, 0, 0], [-0.1, -0.1, 0.2], [1, 2, 3], [0.5, 0.25, 0.5]], dtype=dtype)
    for some in ([0], [1], [2], [0, 1, 2, 3]):
        right = torch.tensor([[-2e-8], [-1.0], [-1e-3], [0.5]], dtype=dtype)[some]
        for lb, ub in ((0.0, math.inf), (0.0, 2.0)):
            looks.clear()
            found = project(rows, x[some], right, *torch.tensor([lb, ub], dtype=dtype)).x
            assert not found[: min(3, len(some))].any()
            assert len(looks) <= 12
    assert abs(float(found[3].sum()) - 0.5) <= 8 * tolerance.unit_roundoff(dtype)
    if not inequality:
        above = torch.tensor([[7.0]], dtype=dtype)
        found = project(rows, x[2:3], above, *torch.tensor([0.0, 2.0], dtype=dtype)).x
        assert torch.equal(found, torch.full((1, 3), 2.0, dtype=dtype))


def test_float32_stays_float32_and_sums_in_float64():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 5000, generator=generator)
    P = projector(torch.ones(5000), 1.0, lb=0)
    out = P(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, P(x.double()).float(), rtol=0, atol=2.0**-22)


def test_nan_goes_through_and_harms_nobody_else():
    P = projector(torch.ones(4, dtype=F64), 1, lb=0)
    x = torch.randn(3, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    spoiled = x.clone()
    spoiled[1, 2] = torch.nan
    assert bool(P(spoiled)[1].isnan().any())
    torch.testing.assert_close(P(spoiled)[[0, 2]], P(x)[[0, 2]], rtol=0, atol=0)
    assert bool(P(spoiled[1]).isnan().any())


def test_derivatives_of_the_simplex_twice():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, generator=generator, dtype=F64).requires_grad_()
    b = torch.tensor([[1.0], [0.5], [2.0]], dtype=F64, requires_grad=True)
    P = projector(torch.ones(6, dtype=F64), 1, lb=0)
    assert torch.autograd.gradcheck(lambda x, b: P(x, b=b), (x, b))
    assert torch.autograd.gradgradcheck(lambda x, b: P(x, b=b), (x, b))


def test_the_search_alone_keeps_to_rows_it_is_given():
    rows = DisjointRows(torch.ones(3, dtype=F64), None, 1, torch.tensor([True]))
    inside = torch.tensor([[0.1, 0.2, 0.3]], dtype=F64)
    inf = torch.tensor(torch.inf, dtype=F64)
    found = project(rows, inside, torch.ones(1, 1, dtype=F64), -inf, inf)
    assert torch.equal(found.x, inside)
    assert float(found.multipliers) == 0


def test_the_kernel_and_torch_agree(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 33, generator=generator, dtype=F64)
    a = torch.randn(33, generator=generator, dtype=F64)
    lb, ub = -torch.rand(33, generator=generator, dtype=F64), torch.rand(50, 33, dtype=F64)
    cases = [
        projector(torch.ones(33, dtype=F64), 1, lb=0),
        projector(a, 0.2, lb=lb, ub=1.0),
        projector(G=a, h=-0.1, lb=lb),
    ]
    for P in cases:
        monkeypatch.setenv("PROJLAB_NATIVE", "1")
        given = {"ub": ub + 0.5} if P.polyhedron.p else {}
        native = P(x, **given), P.multipliers(x, **given)
        monkeypatch.setenv("PROJLAB_NATIVE", "0")
        plain = P(x, **given), P.multipliers(x, **given)
        torch.testing.assert_close(native[0], plain[0], rtol=0, atol=64 * U * float(x.abs().max()))
        for one, other in zip(native[1], plain[1], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e3 * U * float(x.abs().max()))
        assert native[0].dtype == P(x.float(), **given).double().dtype
