"""b_error: contradictions that the caller knows b to be too coarse to mean."""

import math
from importlib.resources import files

import pytest
import torch

import projlab
from projlab import AffineConstraint, InconsistentError, InputError

F64 = torch.float64
DATA = files("projlab_validation.data")
A = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 2.0, 1.0]], dtype=F64)
B = torch.tensor([1.0, 2.0, 3.5], dtype=F64)
"""The last row is the sum of the others, 0.5 off."""


@pytest.mark.parametrize("error", [0.2, 0.5, [0.0, 0.0, 0.5], [0.25, 0.25, 0.0]])
def test_errors_of_all_rows_in_a_combination_add_up(error):
    P = projlab.projector(A, B, b_error=error)
    assert P.rank == 2
    assert "within b_error" in P.reason
    assert "0.5" in P.reason
    x = P(torch.zeros(3, dtype=F64))
    assert bool(((A @ x - B).abs() <= 0.5 + 1e-12).all())
    once = projlab.project(torch.zeros(3, dtype=F64), A, B, b_error=error)
    torch.testing.assert_close(once, x, rtol=0.0, atol=64 * torch.finfo(F64).eps)


@pytest.mark.parametrize("error", [0.1, [0.1, 0.1, 0.2], [0.0, 0.0, 0.49]])
def test_what_the_errors_do_not_explain_is_refused_as_ever(error):
    with pytest.raises(InconsistentError, match="row 2"):
        projlab.projector(A, B, b_error=error)
    with pytest.raises(InconsistentError, match="row 2"):
        projlab.project(torch.zeros(3, dtype=F64), A, B, b_error=error)


def test_the_refusal_names_the_keyword():
    with pytest.raises(InconsistentError, match="b_error="):
        projlab.projector(A, B)


def test_b_by_cancellation_is_projected_onto_once_its_error_is_stated():
    """A circulation on the karate graph, whose b = A f is rounding alone."""
    A = torch.from_numpy(projlab.load(DATA / "graph_karate.npz").A.toarray())
    basis = projlab.projector(A, 0.0).null_space()
    f = basis @ torch.randn(basis.shape[1], dtype=F64, generator=torch.Generator().manual_seed(0))
    b = A @ f
    assert 1e-16 < float(b.abs().max()) < 1e-14
    with pytest.raises(InconsistentError, match="row 33 = -row 0 - row 1"):
        projlab.projector(A, b)
    u = 2.0**-53
    error = A.abs().sum(dim=1) * u * (A.abs() @ f.abs())  # of sums of so many terms
    scalar = float(error.max())
    for stated in (error, scalar):
        P = projlab.projector(A, b, b_error=stated)
        assert P.rank == 33
        assert "1 redundant row misses its combination in b by" in P.reason
        # sigma_min of an incidence matrix is the root of the algebraic connectivity, here 0.468
        off = float(torch.as_tensor(stated).expand(34).norm()) / 0.468**0.5
        rounding = 34 * u * float(f.norm()) / 0.468**0.5
        for x in (P(f), projlab.project(f, A, b, b_error=stated)):
            assert float((x - f).norm()) <= off + rounding
            assert bool(((A @ x - b).abs() <= 34 * scalar).all())


@pytest.mark.parametrize("variant", ["auto", "qr", "pinv", "cholesky"])
def test_every_variant_takes_it(variant):
    assert projlab.projector(A, B, variant, b_error=0.5).rank == 2


def test_sparse_blocks_take_their_own_rows_errors():
    whole = torch.block_diag(A, A, A).to_sparse_coo()
    b = torch.cat([torch.tensor([1.0, 2.0, 3.0], dtype=F64), B, B])
    error = torch.zeros(9, dtype=F64)
    error[5] = error[8] = 0.5
    P = projlab.projector(whole, b, b_error=error)
    assert P.rank == 6
    error[8] = 0.0
    with pytest.raises(InconsistentError, match="row 8"):
        projlab.projector(whole, b, b_error=error)


def test_empty_rows_may_miss_zero_by_their_error():
    E = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=F64)
    b = [1.0, 1e-3]
    with pytest.raises(InconsistentError):
        projlab.projector(E, b, b_error=1e-4)
    assert projlab.projector(E, b, b_error=[0.0, 1e-3]).rank == 1
    assert projlab.projector(E.to_sparse_coo(), b, b_error=[0.0, 1e-3]).rank == 1


@pytest.mark.parametrize("error", [0.5, [[0.0] * 3, [0.0, 0.0, 0.5]]])
def test_each_system_of_a_batch_has_its_own(error):
    batch, b = torch.stack([A, A]), torch.stack([torch.tensor([1.0, 2.0, 3.0], dtype=F64), B])
    assert projlab.projector(batch, b, b_error=error).rank.tolist() == [2, 2]
    with pytest.raises(InconsistentError, match="system 1"):
        projlab.projector(batch, b, b_error=[[0.0, 0.0, 0.5], [0.0] * 3])


@pytest.mark.parametrize("rank", ["exact", 1e-9])
def test_every_rule_of_the_rank_takes_it(rank):
    assert projlab.projector(A, B, rank=rank, b_error=0.5).rank == 2
    with pytest.raises(InconsistentError):
        projlab.projector(A, B, rank=rank, b_error=0.1)


def test_diagnose_tells_conflicts_within_it_apart():
    found = projlab.diagnose(A, B, b_error=0.5)
    assert found.consistent
    assert [c.name for c in found.tolerated] == ["row 2"]
    assert "1 row in conflict within b_error" in str(found)
    strict = projlab.diagnose(A, B)
    assert not strict.consistent
    assert strict.tolerated == ()


def test_certify_judges_the_same_set():
    x0 = torch.zeros(3, dtype=F64)
    x = projlab.project(x0, A, B, b_error=0.5)
    with pytest.raises(InconsistentError):
        projlab.certify(x0, x, A, B)
    assert projlab.certify(x0, x, A, B, b_error=0.5).verdict in ("certified", "uncertifiable")


def test_a_constraint_carries_it_through_changes_of_its_buffers(tmp_path):
    P = projlab.projector(AffineConstraint(A, B, b_error=0.5))
    P.b[2] = 3.25
    assert float(P(torch.zeros(3, dtype=F64)).norm()) > 0
    P.b[2] = 5.0
    with pytest.raises(InconsistentError):
        P(torch.zeros(3, dtype=F64))
    P.b[2] = 3.5
    state = P.state_dict()
    other = projlab.projector(A, [1.0, 2.0, 3.0], b_error=0.5)
    other.load_state_dict(state)
    assert torch.equal(other(torch.zeros(3, dtype=F64)), P(torch.zeros(3, dtype=F64)))
    assert P.float().dtype is torch.float32


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (-1e-9, "negative"),
        ([0.1, 0.2], r"shape \(2,\)"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        ("a", "b_error"),
        (None, "b_error"),
        (1j, "b_error"),
    ],
)
def test_what_is_no_error_of_b_is_refused_by_name(error, said):
    for call in (
        lambda: projlab.projector(A, B, b_error=error),
        lambda: projlab.project(torch.zeros(3, dtype=F64), A, B, b_error=error),
        lambda: AffineConstraint(A, B, b_error=error),
        lambda: projlab.diagnose(A, B, b_error=error),
    ):
        with pytest.raises(InputError, match=said):
            call()


def test_it_is_given_once():
    with pytest.raises(InputError, match="twice"):
        projlab.projector(AffineConstraint(A, B, b_error=0.5), b_error=0.5)


def test_the_layer_and_a_compiled_project_take_it():
    x = torch.randn(4, 3, dtype=F64)
    layer = projlab.nn.AffineProjection(A, B, b_error=0.5)
    assert torch.allclose(layer(x), projlab.project(x, A, B, b_error=0.5), atol=1e-12)
    compiled = torch.compile(lambda v: projlab.project(v, A, B, b_error=0.5), backend="eager")
    assert torch.equal(compiled(x), projlab.project(x, A, B, b_error=0.5))
