"""pinv where LAPACK's singular value decomposition gives up."""

import sys

import pytest
import torch

import projlab
from tests.projlab import exact
from tests.projlab.systems import CASES, build, case, make_case


@pytest.fixture
def the_svd_gives_up(monkeypatch):
    """In `pinv`'s own decomposition, as LAPACK's does on a few matrices; counts."""
    svd, given_up = torch.linalg.svd, []

    def moody(E, full_matrices=True):
        if sys._getframe(1).f_code.co_name == "_left_vectors":
            given_up.append(E.shape)
            raise torch.linalg.LinAlgError("linalg.svd: the algorithm failed to converge")
        return svd(E, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", moody)
    return given_up


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_pinv_where_the_svd_gives_up(name, dtype, the_svd_gives_up):
    given = case(name, dtype)
    P = build(given, "pinv")
    assert the_svd_gives_up or P.rank == 0
    assert P.rank == given.rank
    assert exact.distance(P(given.x0), given.solution) <= given.allowed("pinv")


def test_pinv_of_a_batch_where_the_svd_gives_up(the_svd_gives_up):
    A = torch.tensor([[[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]], [[1.0, 0.0, 1.0], [2.0, 0.0, 2.0]]])
    b = torch.tensor([[9.0, 7.0], [2.0, 4.0]])
    x0 = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    x = projlab.projector(A, b, "pinv")(x0)
    assert the_svd_gives_up
    for i in range(2):
        given = make_case(f"system {i}", A[i], b[i], x0[i])
        assert exact.distance(x[i], given.solution) <= given.allowed("pinv")
