"""Cholesky of the Gram matrix: refused where its pivots are rounding, whichever comes last."""

import pytest
import torch

import projlab
from projlab import tolerance

F64 = torch.float64


def nearly_dependent(seed, distance):
    """Four random rows, and a combination of them moved off their span by `distance`."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(4, 9, dtype=F64, generator=generator)
    last = torch.rand(4, dtype=F64, generator=generator) @ rows
    off = torch.linalg.qr(rows.mT, mode="complete").Q[:, 4]
    A = torch.cat([rows, (last + distance * last.norm() * off)[None]])
    return A[torch.randperm(5, generator=generator)]


@pytest.mark.parametrize("seed", range(20))
def test_rows_dependent_up_to_rounding_are_refused_always(seed):
    """LAPACK's factorisation succeeds by chance in a third of such cases."""
    A = nearly_dependent(seed, 1e-13)
    for order in (slice(None), [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        with pytest.raises(projlab.RankDeficientError, match=r"Gram matrix.*variant=\"qr\""):
            projlab.projector(A[order], 0.0, "cholesky", rank="exact")


@pytest.mark.parametrize("seed", range(20))
def test_rows_well_apart_are_not(seed):
    """Where every pivot is sure to be above the threshold, it must do."""
    A = nearly_dependent(seed, 1e-4)
    kappa = projlab.diagnose(A, 0.0).condition
    assert not tolerance.gram_unsafe(5, kappa, 2.0**-53)
    assert projlab.projector(A, 0.0, "cholesky").variant == "cholesky"


def test_one_system_of_a_batch_is_enough():
    A = torch.stack([nearly_dependent(0, 1.0), nearly_dependent(1, 1e-13)])
    with pytest.raises(projlab.RankDeficientError, match="Gram matrix"):
        projlab.projector(A, 0.0, "cholesky", rank="exact")
