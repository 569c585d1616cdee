"""QR kept in parts: R without the quarter of it that is zero."""

import copy

import pytest
import torch

import projlab
from tests.projlab.systems import case
from tests.projlab.ways import solver_of

F64 = torch.float64


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_multipliers_and_another_b_by_parts_of_R(lead, take):
    given = case("random 5 x 12")
    whole = projlab.projector(given.A, given.b, "qr")
    take("R in parts")
    P = projlab.projector(given.A, given.b, "qr")
    assert solver_of(P).factor.last.shape == (3, 3)
    x, b = torch.randn(*lead, 12, dtype=F64), torch.randn(*lead, 5, dtype=F64)
    # two backward-stable solves with one matrix (ASNA theorem 8.5)
    bound = {"rtol": 0, "atol": 1e3 * 2.0**-53 * whole.condition**2}
    torch.testing.assert_close(P.multipliers(x, b), whole.multipliers(x, b), **bound)
    torch.testing.assert_close(P(x, b), whole(x, b), **bound)
    assert torch.equal(copy.deepcopy(P).multipliers(x), P.multipliers(x))
