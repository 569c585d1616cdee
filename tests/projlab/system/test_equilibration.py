"""Equilibration: norms near one by powers of two, exactly, over the whole range of floats."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given as draw
from hypothesis import strategies as st

import projlab
from projlab import AffineConstraint
from projlab.system.equilibration import equilibrate
from tests.projlab import exact

F64 = torch.float64
FORMS = {"dense": lambda A: A, "sparse": lambda A: A.to_sparse_coo()}

# rows from the ends of the range, subnormal numbers among them
ROWS = torch.tensor(
    [
        [3.0, -4.0, 0.0],
        [0.0, 0.0, 0.0],
        [5e-324, 0.0, -5e-324],
        [1.5e308, 1.5e308, -1.5e308],
        [1e-200, 1e-170, 0.0],
        [0.0, 2.0**-1030, 2.0**-1022],
    ],
    dtype=F64,
)


def check(A, b, system):
    """E = D A and f = D b with D powers of two, the rows of E of norm in [sqrt(1/2), sqrt(2))."""
    E, f = system.rows.to_dense(), system.f
    for i, e in enumerate(system.exponent.tolist()):
        D = Fraction(2) ** e
        for before, after in zip(A[i].tolist(), E[i].tolist(), strict=True):
            assert Fraction(after) == D * Fraction(before)
        assert Fraction(f[i].item()) == D * Fraction(b[i].item())
        norm = exact.norm(exact.vector(E[i]))
        rounded = 1 + 4 * 2.0**-53  # torch's square root of 2 may be the float below
        assert norm == 0 or math.sqrt(0.5) / rounded <= norm <= math.sqrt(2) * rounded


@pytest.mark.parametrize("form", FORMS)
def test_rows_at_the_ends_of_the_range(form):
    b = ROWS.amax(1)
    check(ROWS, b, equilibrate(AffineConstraint(FORMS[form](ROWS), b), F64))


@pytest.mark.parametrize("form", FORMS)
@draw(exponents=st.lists(st.integers(-900, 900), min_size=3, max_size=3))
def test_a_power_of_two_in_a_row_changes_no_bit(form, exponents):
    A = torch.randn(3, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    b = A.sum(1)
    D = torch.tensor([math.ldexp(1.0, e) for e in exponents], dtype=F64)
    plain = equilibrate(AffineConstraint(FORMS[form](A), b), F64)
    scaled = equilibrate(AffineConstraint(FORMS[form](A * D[:, None]), b * D), F64)
    assert torch.equal(scaled.rows.to_dense(), plain.rows.to_dense())
    assert torch.equal(scaled.f, plain.f)
    assert (scaled.exponent + torch.tensor(exponents)).tolist() == plain.exponent.tolist()


def test_each_system_of_a_batch_is_equilibrated_on_its_own():
    A = torch.randn(2, 3, 4, dtype=F64) * torch.tensor([1e-150, 1e150], dtype=F64)[:, None, None]
    system = equilibrate(AffineConstraint(A, A.sum(-1)), F64)
    for i in range(2):
        alone = equilibrate(AffineConstraint(A[i], A[i].sum(-1)), F64)
        assert torch.equal(system.rows.to_dense()[i], alone.rows.to_dense())
        assert torch.equal(system.f[i], alone.f)
        assert system.exponent[i].tolist() == alone.exponent.tolist()


def test_scaled_before_it_is_rounded():
    """Entries far outside the range of float32 keep their digits in it."""
    A = torch.tensor([[1e-60, 3e-60], [1e60, -1e60]], dtype=F64)
    system = equilibrate(AffineConstraint(A, torch.tensor([2e-60, 0.0])), torch.float32)
    E = system.rows.to_dense()
    assert E.dtype == system.f.dtype == torch.float32
    scaled = A * 2.0 ** system.exponent[:, None].double()
    assert torch.equal(E, scaled.float())
    assert ((math.sqrt(0.5) <= E.norm(dim=1)) & (E.norm(dim=1) < math.sqrt(2))).all()


def test_no_rows():
    system = equilibrate(AffineConstraint(torch.zeros(0, 4), 0.0), F64)
    assert system.rows.shape == (0, 4)
    assert system.f.shape == system.exponent.shape == (0,)


@pytest.mark.parametrize(("dtype", "b"), [(F64, 1e300), (torch.float32, 1e30)])
def test_a_right_hand_side_beyond_the_range_is_refused(dtype, b):
    A = torch.tensor([[1.0, 0.0], [0.0, 1e-20]], dtype=F64)
    constraint = AffineConstraint(A, [1.0, b], names=["mass", "charge"])
    with pytest.raises(projlab.InputError, match=r"b of charge .* overflows in torch.float"):
        equilibrate(constraint, dtype)
