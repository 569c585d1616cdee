"""The general set: what it takes, what it refuses by name, and what it measures."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import Bounds, LinearConstraint
from scipy.sparse.linalg import aslinearoperator

from projlab import AffineConstraint, InconsistentError, InputError
from projlab.system.polyhedron import Polyhedron


def test_parts_may_be_left_out_and_scalars_hold_for_all():
    box = Polyhedron(lb=0, ub=[1.0, 2.0, torch.inf])
    assert (box.n, box.m, box.p) == (3, 0, 0)
    assert box.violation(torch.tensor([-1.0, 2.5, 9.0])) == 1
    assert box.violation(torch.tensor([0.5, 2.0, 9.0])) == 0
    half = Polyhedron(G=[1.0, 2.0], h=3)
    assert half.slack(torch.tensor([[1.0, 1.0], [2.0, 1.0]])).tolist() == [[0], [-1]]
    assert half.violation(torch.tensor([[1.0, 1.0], [2.0, 1.0]])).tolist() == [0, 1]


@pytest.mark.parametrize(
    "form", [torch.tensor, sp.csr_array, lambda a: torch.tensor(a).to_sparse()]
)
def test_dense_and_sparse_measure_alike(form):
    A, G = [[1.0, 1.0, 0.0]], [[0.0, 1.0, -1.0], [1.0, 0.0, 0.0]]
    P = Polyhedron(form(A), [1.0], form(G), [0.5, torch.inf], lb=0)
    x = torch.tensor([0.25, 0.5, -0.125], dtype=torch.float64)
    assert P.residual(x).tolist() == [-0.25]
    assert P.slack(x).tolist() == [-0.125, torch.inf]
    assert P.violation(x) == 0.25
    assert P.names == ("row 0", "inequality 0", "inequality 1")


def test_scipy_says_the_same_set():
    rows = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    given = LinearConstraint(rows, [1.0, 0.0, -np.inf, -np.inf], [1.0, 2.0, 3.0, np.inf])
    P = Polyhedron.of(given, Bounds(0, [1.0, 1.0, np.inf]), Polyhedron(lb=[-1.0, 0.25, -1.0]))
    assert (P.m, P.p) == (1, 3)
    assert P.lb.tolist() == [0, 0.25, 0]
    assert P.ub.tolist() == [1, 1, torch.inf]
    x = torch.tensor([0.0, 0.5, 4.0], dtype=torch.float64)
    assert P.residual(x).tolist() == [-0.5]
    assert P.slack(x).tolist() == [2 - 4.5, 3 - 4, 4.5 - 0]


def test_an_affine_constraint_is_taken_with_its_names():
    A = AffineConstraint([[1.0, 1.0]], 1.0, names=["budget"])
    assert Polyhedron(A, lb=0).names == ("budget",)
    assert Polyhedron(A, G=[[1.0, 0.0]], h=1, names=["a", "b"]).names == ("a", "b")


REFUSED = [
    ({"b": 1.0}, "b is given without A"),
    ({"h": 1.0}, "h is given without G"),
    ({"G": [[1.0]]}, "h is missing"),
    ({"A": [[1.0]]}, "b is missing"),
    ({"lb": 0.0}, "how many variables"),
    ({"lb": [0.0], "ub": [1.0, 2.0]}, "lb has 1 variables, ub has 2"),
    ({"lb": [torch.nan]}, r"lb\[0\] is nan"),
    ({"lb": [torch.inf]}, "lb holds inf"),
    ({"ub": [-torch.inf]}, "ub holds -inf"),
    ({"G": [[1.0]], "h": -torch.inf}, "h holds -inf"),
    ({"G": [[1.0]], "h": [1.0, 2.0]}, r"h has shape \(2,\)"),
    ({"G": [[torch.nan]], "h": 1.0}, r"G\[0\]\[0\] is nan"),
    ({"G": [[[1.0]]], "h": 1.0}, r"G has shape"),
    ({"A": torch.ones(2, 1, 3), "b": 1.0, "lb": 0.0}, "a batch of 2 systems"),
    ({"lb": [[0.0]]}, r"lb has shape \(1, 1\)"),
    ({"lb": torch.zeros(2, requires_grad=True)}, "lb requires grad"),
    ({"lb": [0.0], "names": ["a"]}, "names must be 0 strings"),
    ({"lb": [1j]}, "lb has dtype complex"),
    ({"A": aslinearoperator(np.eye(2)), "b": 1.0, "lb": 0}, "A is an operator"),
    ({"G": aslinearoperator(np.eye(2)), "h": 1.0}, "G is an operator"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_is_refused_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        Polyhedron(**arguments)


def test_crossed_bounds_are_empty_by_name():
    with pytest.raises(InconsistentError, match=r"x\[1\] >= 2 and x\[1\] <= 1"):
        Polyhedron(lb=[0.0, 2.0], ub=1)
    with pytest.raises(InconsistentError, match="row 0 of the LinearConstraint"):
        Polyhedron.of(LinearConstraint(np.ones((1, 2)), 1, 0))
    with pytest.raises(InputError, match="a part of a polyhedron is a int"):
        Polyhedron.of(3)


def test_it_is_immutable():
    with pytest.raises(AttributeError, match="immutable"):
        Polyhedron(lb=[0.0]).lb = 1
