"""The result has x's dtype; work is done in the wider of x's and A's, half precision in float32."""

import itertools

import pytest
import torch

import projlab
from projlab import tolerance
from tests.projlab import exact
from tests.projlab.systems import CHOICES, DISJOINT_VARIANTS, OVERLAPPING_VARIANTS, case, make_case

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WORK = {
    frozenset(pair): (torch.float64 if torch.float64 in pair else torch.float32)
    for pair in itertools.product(DTYPES, DTYPES)
}


@pytest.fixture
def other_defaults():
    """A default dtype and device that would show in any tensor made without saying which."""
    torch.set_default_dtype(torch.float16)
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def small(variant, dtype):
    """Entries that every dtype here represents, so that only x's own rounding differs."""
    A = torch.tensor([[1.0, 2.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.5, 0.0, 3.0]])
    if variant not in DISJOINT_VARIANTS:
        A[0, 2] = 1.5
    x0 = torch.tensor([0.3, -1.7, 2.9, 0.7, -0.1])
    return A.to(dtype), torch.tensor([1.25, -0.5]).to(dtype), x0


@pytest.mark.parametrize("variant", CHOICES)
@pytest.mark.parametrize("A_dtype", DTYPES)
@pytest.mark.parametrize("x_dtype", DTYPES)
def test_every_pair_of_dtypes(x_dtype, A_dtype, variant):
    A, b, x = small(variant, A_dtype)
    x = x.to(x_dtype)
    given = make_case("small", A, b, x)
    P = projlab.projector(A, b, variant)
    u = tolerance.unit_roundoff(WORK[frozenset((x_dtype, A_dtype))])
    # one rounding to x's dtype at the end
    rounding = tolerance.unit_roundoff(x_dtype) * exact.norm(given.solution)
    one_off = projlab.project(x, A, b, variant)
    for result, name in (
        (P(x), P.variant),
        (P.project_(x.clone()), P.variant),
        (P(x, b), P.variant),
        (one_off, "pinv"),
    ):
        assert result.dtype == x_dtype
        assert result.device == x.device
        assert exact.distance(result, given.solution) <= given.allowed(name, u) + 2 * rounding
    assert P.multipliers(x).dtype == P.tangent(x).dtype == x_dtype


@pytest.mark.parametrize("x_dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("A_dtype", DTYPES)
def test_half_precision_rounds_once(x_dtype, A_dtype):
    """The result is the rounding of what float32 or float64 gives, bit for bit."""
    A, b, x = small("qr", A_dtype)
    x = x.to(x_dtype)
    P = projlab.projector(A, b)
    wide = x.to(WORK[frozenset((x_dtype, A_dtype))])
    assert torch.equal(P(x), P(wide).to(x_dtype))
    assert torch.equal(P.tangent(x), P.tangent(wide).to(x_dtype))
    assert torch.equal(P.multipliers(x), P.multipliers(wide).to(x_dtype))
    assert torch.equal(P.project_(x.clone()), P(wide).to(x_dtype))


@pytest.mark.parametrize("variant", OVERLAPPING_VARIANTS)
def test_wide_x_is_worked_in_its_own_precision(variant):
    """float32 A is exact in float64: x in float64 gets float64's accuracy, not float32's."""
    given = case("random 5 x 12", "float32")
    P = projlab.projector(given.A, given.b, variant)
    x = P(given.x0.double())
    assert x.dtype == torch.float64
    assert exact.distance(x, given.solution) <= given.allowed(variant, 2**-53)
    assert exact.distance(P.project_(given.x0.double()), given.solution) <= given.allowed(
        variant, 2**-53
    )
    # float32 vectors are served by the same factors as before
    assert torch.equal(P(given.x0), projlab.projector(given.A, given.b, variant)(given.x0))


def test_wide_x_does_not_make_a_consistent_system_inconsistent():
    """float32 rows that are redundant up to a float32 rounding are so for float64 x as well."""
    rows = torch.tensor([[0.1, 0.2, 0.7], [0.3, -0.4, 0.9]])
    A = torch.cat([rows, (rows[:1] * 0.1 + rows[1:] * 0.7)])
    solution = torch.tensor([1.0, 2.0, 3.0])
    P = projlab.projector(A, A @ solution)
    assert P.rank == 2
    x = P(torch.zeros(3, dtype=torch.float64))
    narrow = P(torch.zeros(3))
    assert torch.allclose(x.float(), narrow, rtol=1e-5)


@pytest.mark.parametrize("given", ["float16", "bfloat16", "float32", "float64"])
def test_numpy_and_torch_keep_their_dtype(given):
    A = torch.eye(1, 2, dtype=getattr(torch, given))
    assert projlab.AffineConstraint(A, 1.0).A.dtype == A.dtype
    if given != "bfloat16":
        assert projlab.AffineConstraint(A.numpy(), 1.0).A.dtype == A.dtype


@pytest.mark.parametrize("A", [[[1, 2]], torch.tensor([[1, 2]]), torch.tensor([[True, False]])])
def test_integers_are_taken_as_float64(A):
    assert projlab.AffineConstraint(A, 1).A.dtype == torch.float64
    assert projlab.AffineConstraint(A, 1).b.dtype == torch.float64


def test_b_keeps_the_digits_that_A_has_not():
    """b = 0.1 in float64 beside float32 A, for float64 x."""
    P = projlab.projector(torch.eye(1, 2), torch.tensor([0.1], dtype=torch.float64))
    assert P(torch.zeros(2, dtype=torch.float64))[0].item() == 0.1
    assert P(torch.zeros(2))[0].item() == torch.tensor(0.1).item()


@pytest.mark.parametrize("variant", CHOICES)
def test_defaults_of_torch_do_not_show(variant, other_defaults):
    A, b, x = [[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]], [1.0, 2.0], [1.0, 1.0, 1.0]
    zeros = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    x = torch.tensor(x, dtype=torch.float64, device="cpu")
    P = projlab.projector(A, b, variant)
    results = {
        "P(x)": P(x),
        "P(x, b)": P(x, b),
        "multipliers": P.multipliers(x),
        "tangent": P.tangent(x),
        "null_space": P.null_space(),
        "project": projlab.project(x, A, b, variant),
        "residual": P.constraint.residual(x),
        "batched": projlab.projector([A, A], b, variant)(x.expand(2, 3)),
        "metric": projlab.projector(A, b, variant, metric=[1.0, 2.0, 3.0])(x),
        "least squares": projlab.projector(
            [[1.0, 1.0, 1.0]] * 2, b, on_inconsistent="least_squares"
        )(x),
    }
    for name, result in results.items():
        assert result.dtype == torch.float64, name
        assert result.device.type == "cpu", name
    assert P.double().A.device.type == "cpu"
    assert projlab.diagnose(A, b).rank == P.rank == 2
    assert [str(c) for c in projlab.diagnose(zeros, 0.0).redundant] == ["row 0 = 0"]
    with pytest.raises(projlab.InconsistentError, match="row 0 reads 0 = 1"):
        projlab.projector(zeros, 1.0, variant)
    P.load_state_dict(P.state_dict())
    assert projlab.project(x.float(), A, b, variant).dtype == torch.float32


def test_defaults_change_no_bit(request):
    given = case("random 5 x 12")
    before = projlab.projector(given.A, given.b)(given.x0)
    request.getfixturevalue("other_defaults")
    assert torch.equal(projlab.projector(given.A, given.b)(given.x0), before)
