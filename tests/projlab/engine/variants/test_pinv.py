"""pinv where LAPACK's singular value decomposition gives up."""

import pytest
import torch

import projlab
from projlab.engine.variants.pinv import Pinv
from tests.projlab import exact
from tests.projlab.systems import CASES, case, make_case


@pytest.fixture
def the_svd_gives_up(monkeypatch):
    """In `pinv`'s own decomposition, as LAPACK's does on a few matrices; the shapes it was of.

    The rank is decided before, with a decomposition that works.
    """
    factor, shapes = Pinv.factor, []

    def give_up(E, full_matrices=True):
        shapes.append(E.shape)
        raise torch.linalg.LinAlgError("linalg.svd: the algorithm failed to converge")

    def factor_without(self, rows, u):
        with monkeypatch.context() as patch:
            patch.setattr(torch.linalg, "svd", give_up)
            return factor(self, rows, u)

    monkeypatch.setattr(Pinv, "factor", factor_without)
    return shapes


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_pinv_where_the_svd_gives_up(name, dtype, the_svd_gives_up):
    given = case(name, dtype)
    P = projlab.projector(given.A, given.b, "pinv")
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
