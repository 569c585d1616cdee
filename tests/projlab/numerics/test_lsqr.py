"""LSQR for many right-hand sides: steps, estimates, least squares, columns that stand still."""

import numpy as np
import pytest
import torch

from projlab.numerics import lsqr

F64 = torch.float64


def system(singular, n, seed=0):
    rng = np.random.default_rng(seed)
    m = len(singular)
    U = np.linalg.qr(rng.standard_normal((m, m)))[0]
    V = np.linalg.qr(rng.standard_normal((n, m)))[0]
    return torch.from_numpy((U * singular) @ V.T), rng


def run(E, r, goal=0.0, limit=200, **options):
    settings = {"negligible": 1e-13, "orthogonal": True, "check": 1} | options
    return lsqr.solve(
        lambda x: x @ E.T,
        lambda y: y @ E,
        settings.pop("precondition", None),
        r,
        goal=lambda at: torch.full_like(at.left, goal),
        limit=limit,
        **settings,
    )


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("preconditioned", [True, False])
def test_solves_each_right_side(orthogonal, preconditioned):
    E, _ = system(np.geomspace(1, 1e-2, 12), 30)
    r = torch.randn(3, 2, 12, dtype=F64) @ E @ E.T
    r[1, 0] = 0
    M = torch.linalg.inv(E @ E.T + 0.1 * torch.eye(12, dtype=F64)) if preconditioned else None
    precondition = None if M is None else (lambda u: u @ M)
    y, at = run(E, r, 1e-14, orthogonal=orthogonal, precondition=precondition)
    assert torch.linalg.vector_norm(y @ E @ E.T - r) <= 1e-12 * torch.linalg.vector_norm(r)
    assert torch.equal(y[1, 0], torch.zeros(12, dtype=F64))
    assert not at.active.any()


def test_orthogonal_left_vectors_end_within_as_many_steps_as_rows():
    E, _ = system(np.geomspace(1, 1e-7, 40), 90)
    r = torch.randn(90, dtype=F64) @ E.T
    _, with_them = run(E, r, 1e-13)
    _, without = run(E, r, 1e-13, orthogonal=False, limit=400)
    assert with_them.taken <= 40 + 1
    assert without.taken > 2 * with_them.taken


def test_extremes_are_singular_values_to_their_digits():
    singular = np.geomspace(3, 3e-9, 20)
    E, _ = system(singular, 50)
    found = lsqr.Coefficients()
    run(E, torch.randn(2, 50, dtype=F64) @ E.T, coefficients=found, limit=20)
    smallest, largest = found.extremes()
    assert smallest.shape == (2,)
    assert torch.allclose(smallest, torch.tensor(3e-9, dtype=F64), rtol=0.05)
    assert torch.allclose(largest, torch.tensor(3.0, dtype=F64), rtol=1e-6)


def test_nothing_moved_has_extremes_of_one():
    found = lsqr.Coefficients()
    run(torch.zeros(2, 3, dtype=F64), torch.ones(2, dtype=F64), coefficients=found, limit=1)
    found.diagonal.append(torch.zeros((), dtype=F64))
    found.above.append(torch.zeros((), dtype=F64))
    assert [float(t) for t in found.extremes()] == [1.0, 1.0]


def test_where_no_x_solves_it_ends_at_the_least_squares_residual():
    E, _ = system(np.geomspace(1, 1e-2, 6), 20)
    E = torch.cat([E, E[:2] + E[2:4]])
    r = torch.randn(8, dtype=F64)
    y, at = run(E, r)
    left = r - y @ E @ E.T
    assert torch.linalg.vector_norm(left @ E) <= 100 * 2**-53 * 1e4  # c u kappa^2 ||r||
    best = torch.linalg.lstsq(E, r.unsqueeze(-1)).solution.squeeze(-1)
    assert float(at.left) == pytest.approx(float(torch.linalg.vector_norm(r - E @ best)), rel=1e-8)


def test_a_nan_stays_in_its_own_column():
    E, _ = system(np.ones(4), 9)
    r = torch.randn(2, 4, dtype=F64)
    r[0, 1] = torch.nan
    y, _ = run(E, r, 1e-13)
    assert torch.allclose(y[1] @ E @ E.T, r[1])


def test_watch_ends_it_and_check_spares_looks():
    E, _ = system(np.geomspace(1, 1e-2, 30), 60)
    looks = []
    r = torch.randn(60, dtype=F64) @ E.T
    _, at = run(E, r, check=4, watch=lambda at: bool(looks.append(at.taken)) or at.taken >= 8)
    assert looks == [0, 4, 8]
    assert at.taken == 8
