"""Right sides that stand for none, rows without coefficients, and numbers near the largest one."""

import math
import warnings

import pytest
import torch

from projlab import AffineConstraint, InconsistentError, InputError, project, projector
from tests.projlab.ways import needs_numba

F32, F64 = torch.float32, torch.float64


@pytest.fixture(autouse=True, params=[pytest.param("on", marks=needs_numba), "off"])
def kernels(request, monkeypatch):
    monkeypatch.setenv("PROJLAB_NATIVE", request.param)


def vector(*values, dtype=F64):
    return torch.tensor(values, dtype=dtype)


FAR = [1e3, 1e9, 1e12, 1e15, 1e20, 1e30, 1e100, 1e300, math.inf]


@pytest.mark.parametrize("far", FAR)
def test_sides_that_no_point_nearby_meets_change_nothing(far):
    eye = torch.eye(4, dtype=F64)
    P = projector(torch.ones(1, 4, dtype=F64), 1.0, G=eye, h=vector(0.3, far, far, 0.2), lb=0.0)
    x = P(vector(3, -1, 0.4, 0.7))
    assert P.status == "polished"
    torch.testing.assert_close(x, vector(0.3, 0, 0.5, 0.2), rtol=0, atol=1e-15)


@pytest.mark.parametrize("far", FAR)
def test_a_vertex_beside_a_far_side(far):
    G = [[1.0], [-1.0], [1.0], [1.0]]
    P = projector([[-2.0], [0.0]], [0.0, 0.0], G=G, h=[1.0, 0.0, 0.0, far])
    assert abs(P(vector(-1)).item()) <= 1e-30
    assert P.status == "polished"


def test_a_far_side_that_is_met_after_all():
    """x has to go as far as 1e9 from 0, so that the side of 9e8 counts."""
    P = projector(
        [[1.0, 1.0, 1.0]],
        [0.0],
        G=[[-1.0, 0, 0], [0, 1.0, 0]],
        h=[-1e9, -9e8],
        variant="active_set",
    )
    x = P(vector(1, 1, 1))
    assert P.status == "polished"
    torch.testing.assert_close(x, vector(1e9, -9e8, -1e8), rtol=1e-14, atol=0)
    Q = projector(
        [[1.0, 1e-9]],
        [1.0],
        G=[[0.0, 1.0]],
        h=[2e7],
        variant="active_set",
        ub=vector(0.5, math.inf),
    )
    x = Q(vector(0, 0), ub=vector(0.99, math.inf))
    torch.testing.assert_close(x, vector(0.99, 1e7), rtol=1e-7, atol=0)


@pytest.mark.parametrize("value", [1e-300, 1e-15, 1e-3, 1e20, -1e-15])
def test_rows_without_coefficients(value):
    rows, side = [[1.0, 1.0], [0.0, 0.0]], [1.0, value]
    with pytest.raises(InconsistentError, match="row 1 has no coefficients, and reads 0 = "):
        projector(rows, side, lb=0.0)
    with pytest.raises(InconsistentError, match="row 1 has no coefficients"):
        project(vector(1, 2), rows, side, lb=0.0)
    P = projector(rows, [1.0, 0.0], lb=0.0)
    assert P(vector(1, 2)).tolist() == pytest.approx([0, 1])
    with pytest.raises(InconsistentError, match="row 1 has no coefficients"):
        P(vector(1, 2), b=vector(1, value))
    if value < 0:
        with pytest.raises(InconsistentError, match=r"inequality 1 has no coefficients.* 0 <= -"):
            projector(G=rows, h=side, lb=0.0)
    else:
        assert projector(G=rows, h=side, lb=0.0)(vector(1, 2)).tolist() == pytest.approx([0, 1])


def test_equations_of_a_one_off_projection_keep_their_names_and_their_error_is_refused():
    x, A = vector(1, 2, 3), [[1.0, 1, 1], [1, 1, 1]]
    named = AffineConstraint(A, [1.0, 2.0], names=("sales", "costs"))
    with pytest.raises(InconsistentError, match=r"sales.*costs"):
        project(x, named, lb=0)
    stated = AffineConstraint(A, [1.0, 1.000001], b_error=1e-5)
    for refused in (lambda: project(x, stated, lb=0), lambda: projector(stated, lb=0)):
        with pytest.raises(InputError, match="b_error, which sets with inequalities or bounds do"):
            refused()


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize(
    "x",
    [
        vector(2e38, -2e38, 1e38, dtype=F32),
        vector(3e38, 3e38, -3e38, dtype=F32),
        vector(9e307, -9e307, 1e307),
        vector(9e307, -9e307, 4.5e307),
        vector(1.7e308, 1.6e308, -1.7e308),
    ],
)
def test_entries_near_the_largest_number(x, k):
    P = projector(torch.ones(3, dtype=x.dtype), 1.0, lb=0.0)
    found = P(x if k is None else x.expand(k, 3))
    expected = vector(1, 0, 0, dtype=x.dtype)
    if float(x[0]) == float(x[1]):
        expected = vector(0.5, 0.5, 0, dtype=x.dtype)
    assert torch.equal(found, expected.expand_as(found))


def test_a_sum_near_the_largest_number_within_bounds():
    w = torch.full((4,), 1e38)
    found = projector(torch.ones(4), 2e38, lb=0.0)(w)
    torch.testing.assert_close(found, torch.full((4,), 5e37))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.isnan(projector(torch.ones(2), 1.0, lb=0.0)(vector(math.nan, 1))).any()
