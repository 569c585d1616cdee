"""What is decided of a constraint is decided once, and kept with it."""

import pytest
import torch

from projlab import AffineConstraint
from projlab.errors import InconsistentError
from projlab.system import analysis
from projlab.system.analysis import analyse, combinations, raise_inconsistent, range_projection

F64, F32 = torch.float64, torch.float32
ROWS = torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 1.0, 1.0]], dtype=F64)


def redundant(b=(1.0, 2.0, 3.0)):
    return AffineConstraint(ROWS, torch.tensor(b, dtype=F64))


def test_a_decision_is_kept_with_the_constraint(monkeypatch):
    c = redundant()
    first = analyse(c, F64, "numerical", F64)
    monkeypatch.setattr(analysis, "decide", lambda *_: pytest.fail("decided twice"))
    again = analyse(c, F64, "numerical", F64, measured=True)
    assert first.decisions[0].rank == again.decisions[0].rank == 2
    with pytest.raises(pytest.fail.Exception, match="twice"):
        analyse(c, F64, "exact", F64)


def test_what_is_as_large_as_the_rows_is_not_kept():
    A = torch.randn(40, 60, dtype=F64, generator=torch.Generator().manual_seed(0))
    c = AffineConstraint(A, 0.0)
    assert analyse(c, F64, "numerical", F64).reflectors is not None
    assert analyse(c, F64, "numerical", F64).reflectors is None


def test_singular_values_are_computed_when_they_are_asked_for():
    A = torch.randn(40, 60, dtype=F64, generator=torch.Generator().manual_seed(0))
    c = AffineConstraint(A, 0.0)
    (bounded,) = analyse(c, F64, "numerical", F64).decisions
    (measured,) = analyse(c, F64, "numerical", F64, measured=True).decisions
    assert not bounded.measured
    assert measured.measured
    assert measured.condition <= bounded.condition


def test_conflicts_are_named_by_element():
    A = torch.stack([ROWS, ROWS, ROWS])
    b = torch.tensor([[1.0, 2.0, 3.0], [1.0, 5.0, 3.0], [1.0, 2.0, 0.0]], dtype=F64)
    c = AffineConstraint(A, b, names=["p", "q", "r"])
    found = analyse(c, F64, "numerical", F64)
    assert list(found.conflicts) == [1]
    (conflict,) = found.conflicts[1]
    assert (str(conflict), conflict.left, conflict.right) == ("q = 2 * p", 5.0, 2.0)
    with pytest.raises(InconsistentError, match="system 1 of the batch has no solution: q = 2"):
        raise_inconsistent(c, found)
    (first,) = combinations(c, found, 0, [0])
    assert (str(first), first.right) == ("q = 2 * p", 2.0)


def test_the_range_of_the_rows_as_given():
    c = redundant()
    found = analyse(c, F64, "numerical", F64)
    basis = range_projection(found.system.exponent, found.decisions[0]).to_dense()
    assert torch.allclose(basis @ basis.mT @ ROWS, ROWS, atol=1e-14)
    full = AffineConstraint(ROWS[1:], 0.0)
    found = analyse(full, F64, "numerical", F64)
    assert range_projection(found.system.exponent, found.decisions[0]) is None
