"""The search for active sets by kernels against the same in torch's operators, its plain twin."""

import threading

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from projlab import InconsistentError, NotPolishedWarning, projector, tolerance
from projlab.engine.kernels import faces
from projlab.engine.polyhedra import interior, search, systems
from projlab_validation.problems.real import load
from tests.projlab import polyhedra
from tests.projlab.ways import needs_numba

# the first of them compiles
pytestmark = [needs_numba, pytest.mark.timeout(900)]

F64 = torch.float64
U = tolerance.unit_roundoff("float64")
CONDITION = 100.0
"""Of the free columns of up to eight rows of small integers, as in `test_general`."""


@pytest.fixture(autouse=True)
def asked_for(monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", "on")


@pytest.mark.parametrize("says", [None, "", "1", "on", "all", "0", "off"])
def test_the_default(says, monkeypatch):
    monkeypatch.delenv("PROJLAB_NATIVE")
    if says is not None:
        monkeypatch.setenv("PROJLAB_NATIVE", says)
    P = projector(**simplices(0)[0], variant="active_set")
    assert (P._system.faces is None) is (says in ("0", "off"))


def bound(P, x0, x):
    """What each of two backward-stable projections onto one face errs by."""
    rows = max(P.polyhedron.m + P.polyhedron.p, 1)
    factor = CONDITION * tolerance.dimension_factor(rows, P.polyhedron.n) * U
    return 2 * factor * (float(x0.norm()) + float((x0 - x).norm()))


def both(monkeypatch, parts, x0, **keywords):
    """A projector, its answer by kernels, and the answer and effort of one without."""
    monkeypatch.setenv("PROJLAB_NATIVE", "on")
    native = projector(**parts, variant="active_set", **keywords)
    assert native._system.faces is not None
    native.forget()
    found = native(x0)
    monkeypatch.setenv("PROJLAB_NATIVE", "0")
    plain = projector(**parts, variant="active_set", **keywords)
    assert plain._system.faces is None
    plain.forget()
    expected = plain(x0)
    monkeypatch.setenv("PROJLAB_NATIVE", "on")
    return native, found, plain, expected


def simplices(seed):
    """Weights that sum to one, with rows beside that share them."""
    generator = torch.Generator().manual_seed(seed)
    n = 5 + seed
    A = torch.cat([torch.ones(1, n), torch.randint(-2, 3, (2, n), generator=generator)]).double()
    inside = torch.zeros(n, dtype=F64)
    inside[: 1 + seed % 3] = 1 / (1 + seed % 3)
    return {"A": A, "b": A @ inside, "lb": 0}, torch.randn(n, generator=generator, dtype=F64)


def boxes(seed):
    """Bounds on both sides, some of them equal, and inequalities, one of them without a side."""
    generator = torch.Generator().manual_seed(100 + seed)
    n = 6 + seed
    G = torch.randint(-2, 3, (4, n), generator=generator).double()
    G[G.abs().sum(-1) == 0] = 1.0
    h = torch.tensor([0.5, 0.0, 1.0, torch.inf], dtype=F64)
    ub = torch.rand(n, generator=generator, dtype=F64)
    ub[0] = 0.0
    x0 = 3 * torch.randn(n, generator=generator, dtype=F64)
    return {"G": G, "h": h, "lb": torch.zeros(n, dtype=F64), "ub": ub}, x0


def ties(seed):
    """Entries that meet their bounds together."""
    n = 4 + seed
    A = torch.ones(2, n, dtype=F64)
    A[1, ::2] = -1.0
    return {"A": A, "b": [0.0, 0.0], "lb": -1, "ub": 1}, torch.full((n,), 2.0, dtype=F64)


FAMILIES = {
    "simplices": simplices,
    "boxes": boxes,
    "ties": ties,
    "general": lambda seed: polyhedra.random(seed, degenerate=False),
    "degenerate and redundant": lambda seed: polyhedra.random(seed, degenerate=True),
}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_and_torch_give_one_answer(family, seed, monkeypatch):
    parts, x0 = FAMILIES[family](seed)
    if not {"A", "G"} & set(parts):
        return  # bounds alone need no search
    native, found, plain, expected = both(monkeypatch, parts, x0)
    assert native.status == plain.status == "polished"
    assert float((found - expected).norm()) <= bound(native, x0, expected)
    assert native.certify(x0, found).verdict == plain.certify(x0, expected).verdict
    again = native(x0)
    assert native.effort.factorisations == 1
    assert native.effort.newton_steps == 0
    assert float((again - expected).norm()) <= bound(native, x0, expected)


def test_it_takes_the_steps_that_torch_takes(monkeypatch):
    for seed in range(6):
        native, _, plain, _ = both(monkeypatch, *simplices(seed))
        assert vars(native.effort) | {"polished": 0} == vars(plain.effort) | {"polished": 0}


def test_batches_and_sides_of_each_vector(monkeypatch):
    parts, _ = simplices(3)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(5, 8, generator=generator, dtype=F64)
    x0[2, 1] = torch.nan
    b = parts["b"] * torch.tensor([1.0, 2.0, 1.0, 0.5, 3.0], dtype=F64).unsqueeze(-1)
    answers = []
    for says in ("all", "0"):
        monkeypatch.setenv("PROJLAB_NATIVE", says)
        P = projector(**parts)
        answers += [(P(x0, b=b), P(x0), P(x0.flip(0)))]
    for one, other in zip(*answers, strict=True):
        good = ~other.isnan().any(-1)
        assert torch.equal(good, ~one.isnan().any(-1))
        assert int(good.sum()) == 4
        off = (one[good] - other[good]).norm(dim=-1)
        assert bool((off <= bound(P, 3 * x0[x0.isfinite()], 0 * x0[0, 0])).all())


@pytest.mark.parametrize("name", ["netlib_afiro", "netlib_brandy", "water_net3"])
def test_real_systems_sparse_and_dense(name, monkeypatch):
    A, _, _ = load(name)
    generator = torch.Generator().manual_seed(1)
    n = A.shape[1]
    inside = torch.randn(n, generator=generator, dtype=F64).clamp_min(0)
    x0 = torch.randn(n, generator=generator, dtype=F64)
    for small in (systems.SMALL, 0):
        monkeypatch.setattr(systems, "SMALL", small)
        parts = {"A": A, "b": A @ inside.numpy(), "lb": 0}
        native, found, plain, expected = both(monkeypatch, parts, x0)
        assert native.status == plain.status == "polished"
        proofs = [P.certify(x0, x, accuracy=1e-9) for P, x in ((native, found), (plain, expected))]
        assert [proof.verdict for proof in proofs] == ["certified"] * 2
        allowed = sum(float(proof.forward_error_bound) for proof in proofs)
        assert float((found - expected).norm() / expected.norm()) <= allowed


def test_an_interior_point_goes_on_where_newton_stops(monkeypatch):
    monkeypatch.setattr(search, "NEWTON_STEPS", 1)
    parts, x0 = simplices(6)
    native, found, plain, expected = both(monkeypatch, parts, x0)
    assert native.effort.interior_steps == plain.effort.interior_steps > 0
    assert native.status == plain.status == "polished"
    assert float((found - expected).norm()) <= bound(native, x0, expected)


def test_what_neither_settles_is_said(monkeypatch):
    parts, x0 = simplices(6)
    right = projector(**parts)(x0)
    monkeypatch.setattr(search, "NEWTON_STEPS", 1)
    monkeypatch.setattr(interior, "STEPS", 2)
    monkeypatch.setattr(search, "_EXACT", 0)
    P = projector(**parts)
    P.forget()
    with pytest.warns(NotPolishedWarning, match="within"):
        near = P(x0)
    assert P.status == "not polished"
    assert not torch.equal(near, right)


@pytest.mark.parametrize("says", ["all", "0"])
def test_an_empty_set_is_refused_at_the_same_place(says, monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", says)
    A, message = [[1.0, 1, 0], [0, 1, 1]], "asks for a sum = -4, while x"
    with pytest.raises(InconsistentError, match=message):
        projector(A, [1.0, 5.0], lb=0, ub=2)
    P = projector(A, [1.0, 2.0], lb=0, ub=2)
    with pytest.raises(InconsistentError, match=message):
        P(torch.zeros(3, dtype=F64), b=torch.tensor([1.0, 5.0]))


def test_multipliers_that_cancel_are_pulled_in_twice_the_precision(monkeypatch):
    # rows that differ by 2^-20: multipliers are a million times x
    e = 2.0**-20
    A = torch.tensor([[1.0, 1, 1, 0], [1.0, 1 + e, 1, 0]], dtype=F64)
    x0 = torch.tensor([1.0, 2.0, 3.0, -1.0], dtype=F64)
    parts = {"A": A, "b": [3.0, 3.0 + e], "lb": 0}
    native, found, _, expected = both(monkeypatch, parts, x0)
    answer = polyhedra.verified(native.polyhedron, x0, found)
    # right sides are the data: their rounding is magnified by one over e, of x nothing else is
    allowed = 8 * tolerance.dimension_factor(2, 4) * U * polyhedra.amplification(x0, found)
    assert polyhedra.error(found, answer) <= allowed + 4 * U / e
    assert polyhedra.error(expected, answer) <= allowed + 4 * U / e


def test_rows_that_blocks_multiply_faster_are_left_to_them(monkeypatch):
    P = projector(**simplices(2)[0])
    given = P._system.rows, 3
    assert faces.of(*given) is not None
    monkeypatch.setattr(faces, "BLOCKED", 1.0)
    assert faces.of(*given) is None
    wide = sp.random_array((300, 900), density=0.01, rng=np.random.default_rng(0))
    monkeypatch.setattr(faces, "PRODUCTS", 1.0)
    assert projector(wide, np.zeros(300), lb=0)._system.faces is None


def test_threads_share_a_projector():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(40, 200, generator=generator, dtype=F64)
    parts = {"A": A, "b": A @ torch.rand(200, generator=generator, dtype=F64), "lb": 0}
    P = projector(**parts)
    assert P._system.faces is not None
    x = torch.randn(4, 200, generator=generator, dtype=F64)
    fresh = [projector(**parts) for _ in x]
    expected = [one(row) for one, row in zip(fresh, x, strict=True)]
    allowed = [
        2 * float(one.certify(row, right).forward_error_bound * right.norm())
        for one, row, right in zip(fresh, x, expected, strict=True)
    ]
    wrong = []

    def project(i):
        for _ in range(100):
            off = float((P(x[i]) - expected[i]).norm())
            if off > 10 * allowed[i]:  # another face is off by a hundredth and more
                wrong.append(off)

    threads = [threading.Thread(target=project, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
