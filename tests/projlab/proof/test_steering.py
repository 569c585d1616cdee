"""The lower bound on sigma_min that a proof divides by."""

import mpmath
import pytest
import torch

from projlab.proof.rounding import frobenius, norms
from projlab.proof.steering import BlockSteering, DisjointSteering, Steering, steering_of
from projlab.system.rows import as_rows
from tests.projlab.blocks import block_system
from tests.projlab.systems import prescribed_spectrum

F64 = torch.float64


def smallest(F):
    """sigma_min to 40 digits."""
    with mpmath.workdps(40):
        return min(mpmath.svd_r(mpmath.matrix(F.tolist()), compute_uv=False))


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e8, 1e12])
def test_it_is_below_sigma_min_and_near_it(condition):
    F = torch.from_numpy(prescribed_spectrum(5, 9, condition))
    proven, true = Steering.of(F, 0.0).sigma_min, smallest(F)
    assert proven <= true
    # ||X||_F is at most sqrt(5) times the 2-norm, and what is subtracted some m n u ||F||
    assert proven >= float(true) / 5**0.5 * 0.99 - 500 * 2**-53


def test_nothing_is_proven_of_dependent_rows():
    assert Steering.of(torch.ones(2, 3, dtype=F64), 0.0).sigma_min == 0.0
    assert Steering.of(torch.zeros(2, 3, dtype=F64), 0.0).sigma_min == 0.0


def test_what_is_not_known_of_the_rows_is_subtracted():
    F = torch.eye(3, 5, dtype=F64)
    known = Steering.of(F, 0.0).sigma_min
    assert Steering.of(F, 0.25).sigma_min == pytest.approx(known - 0.25, abs=1e-9)
    assert Steering.of(F, 2.0).sigma_min == 0.0


def test_it_steers():
    F = torch.from_numpy(prescribed_spectrum(4, 9, 100.0))
    steering = Steering.of(F, 0.0)
    y, q = torch.randn(3, 4, dtype=F64), torch.randn(3, 4, dtype=F64)
    # backward stable: relative to kappa u, with some roundings for each of the 9 entries
    assert torch.allclose(steering.into_rows(y @ F), y, rtol=0, atol=1e-11)
    assert torch.allclose(steering.shortest(q) @ F.mT, q, rtol=0, atol=1e-11)
    assert torch.all(steering.image(y @ F) >= norms(y @ F @ F.mT))
    assert torch.allclose(steering.row_part(y @ F), norms(y @ F))


def test_norms_neither_overflow_nor_underflow():
    v = torch.tensor([[3.0, 4.0], [3e200, 4e200], [3e-200, 4e-200], [0.0, 0.0]], dtype=F64)
    expected = torch.tensor([5.0, 5e200, 5e-200, 0.0], dtype=F64)
    assert torch.allclose(norms(v), expected, rtol=1e-15, atol=0)
    assert torch.isinf(norms(torch.tensor([[torch.inf, 1.0]], dtype=F64))).all()
    assert frobenius(torch.tensor([[3.0, 0.0], [0.0, 4.0]])) == 5.0


# --- blocks, and rows that share no column -------------------------------------------------------

KINDS = {"disjoint": DisjointSteering, "full": BlockSteering}


def structured(kind, scales=None):
    """Independent rows F of that structure, dense, and how they are steered."""
    F = block_system(kind)[0]
    F = F[F.abs().amax(-1) > 0]
    if scales is not None:
        F = F * scales
    steering = steering_of(as_rows(F.to_sparse_coo()), 0.0)
    assert type(steering) is KINDS[kind]
    return F, steering


@pytest.mark.parametrize(
    ("kind", "scale"),
    [(kind, 10.0**k) for kind, most in (("disjoint", 160), ("full", 60)) for k in (-most, 0, most)],
)
def test_the_least_of_the_blocks_is_below_sigma_min_and_near_it(kind, scale):
    F, steering = structured(kind, scale)
    true = smallest(F)
    assert steering.sigma_min <= true
    assert steering.sigma_min >= 0.99 * float(true) / (1.0 if kind == "disjoint" else 3**0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_steer_as_the_whole(kind):
    F, steering = structured(kind)
    whole = Steering.of(F, 0.0)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(3, len(F), dtype=F64, generator=generator)
    v = torch.randn(3, F.shape[1], dtype=F64, generator=generator)
    assert torch.allclose(steering.into_rows(v), whole.into_rows(v), rtol=0, atol=1e-12)
    assert torch.allclose(steering.into_rows(y @ F), y, rtol=0, atol=1e-12)
    assert torch.allclose(steering.shortest(y), whole.shortest(y), rtol=0, atol=1e-12)
    assert torch.allclose(steering.shortest(y) @ F.mT, y, rtol=0, atol=1e-12)
    assert torch.allclose(steering.row_part(v), whole.row_part(v))
    image = norms(v @ F.mT)
    assert torch.all(steering.image(v) >= image)
    assert torch.all(steering.image(v) <= image * (1 + 1e-9))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_known_of_structured_rows_is_subtracted(kind):
    rows = as_rows(structured(kind)[0].to_sparse_coo())
    known = steering_of(rows, 0.0).sigma_min
    assert steering_of(rows, 0.25).sigma_min == pytest.approx(known - 0.25, abs=1e-8)
    assert steering_of(rows, 1e3).sigma_min == 0.0


def test_nothing_is_proven_where_one_block_is_dependent():
    F = torch.block_diag(*[torch.eye(2, 3, dtype=F64)] * 4, torch.ones(2, 3, dtype=F64))
    F[0, 1] = 1.0
    assert steering_of(as_rows(F.to_sparse_coo()), 0.0).sigma_min == 0.0


def test_dense_rows_that_share_no_column_are_seen_to():
    F = torch.block_diag(*[torch.ones(1, 3, dtype=F64)] * 4)
    steering = steering_of(as_rows(F), 0.0)
    assert type(steering) is DisjointSteering
    assert steering.sigma_min == pytest.approx(3**0.5)
